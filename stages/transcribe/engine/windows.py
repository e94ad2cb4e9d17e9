"""How long a window each model may be given.

Whisper was trained on windows of 30 s. A shorter one costs less (the encoder's attention grows with the square of it),
but in a window that ends soon behind the speech a decoder does not stop: it goes on as if more were to come. It stops
where it finds silence behind the speech, and that need not be encoded anew for each row. So a short window is encoded
alone, and what the encoder makes of pure silence, once, is put behind it for the decoder to see.

Each model has to be qualified: word errors on synthetic telephone speech against longer windows.
"""

from typing import Final

import msgspec

SAMPLE_RATE_HZ: Final = 16_000
FULL_WINDOW_S: Final = 30
MAX_TOKENS: Final = 220
"""The most text tokens of one window: Whisper's decoder has 448 positions, of which it uses half for text."""

_TOKENS_PER_S: Final = 16
"""About four times fast English speech; languages that the tokenizer splits finely need up to three times as many."""


class Window(msgspec.Struct, frozen=True):
    """`length_s` of audio is encoded; `silence_s` of silence follows in the encoder's output."""

    length_s: int
    silence_s: int = 0


class Windows(msgspec.Struct, frozen=True):
    """Window lengths that a model is qualified for, rising, and how much of each must be padding behind the speech.

    `short_s` are those with `silence_s` behind them, `lengths_s` those that stand alone.
    """

    lengths_s: tuple[int, ...]
    padding_s: float
    reason: str
    short_s: tuple[int, ...] = ()
    silence_s: int = 0

    def of(self, n_samples: int) -> list[Window]:
        """The windows to decode `n_samples` at 16 kHz in, one after the other until the decoder does not loop.

        They depend on nothing else, so a replay decodes the same way. Raises ValueError for audio longer than 30 s.
        """
        audio_s = n_samples / SAMPLE_RATE_HZ
        if audio_s > FULL_WINDOW_S:
            raise ValueError(f"an utterance of {audio_s:.1f} s does not fit Whisper's window of {FULL_WINDOW_S} s")
        needed_s = audio_s + self.padding_s
        short = [Window(length, self.silence_s) for length in self.short_s if needed_s <= length]
        alone = [Window(length) for length in self.lengths_s if needed_s <= length]
        full = Window(FULL_WINDOW_S)
        return [*short[:1], *(window for window in alone[:1] if window != full), full]

    def without_silence(self) -> "Windows":
        """For where putting silence behind a window would cost more than it saves."""
        return msgspec.structs.replace(self, short_s=(), silence_s=0)


_FULL: Final = Windows((FULL_WINDOW_S,), 0.0, "not qualified for shorter windows")
_QUALIFIED: Final = {
    "base": Windows(
        (10, 15, 20, 25, FULL_WINDOW_S),
        1.0,
        "30 s: 1.3 % word errors, 10 s: 1.4 %; on calls with noise 10 s: 7.7 %, 4 s and 5 s of silence: 7.6 %",
        short_s=(4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
        silence_s=5,
    ),
    "tiny.en": Windows((15, 20, 25, FULL_WINDOW_S), 2.0, "15 s: 2.7 % word errors, 30 s: 2.1 %; 10 s: 11.9 %"),
}


def windows_of(model: str) -> Windows:
    """The windows that `model` is qualified for; the full one for a model that nobody measured."""
    return _QUALIFIED.get(model, _FULL)


def max_tokens(window_s: int) -> int:
    """How many text tokens a window of `window_s` may give before it counts as a decoder that does not stop."""
    return min(MAX_TOKENS, _TOKENS_PER_S * window_s)

"""How long a window each model may be given.

Whisper was trained on windows of 30 s. A shorter one costs less, almost in proportion, but a model may then fail to
stop or lose words, so each model has to be qualified: word errors on synthetic telephone speech against
the full window.
"""

from typing import Final

import msgspec

SAMPLE_RATE_HZ: Final = 16_000
FULL_WINDOW_S: Final = 30
MAX_TOKENS: Final = 220
"""The most text tokens of one window: Whisper's decoder has 448 positions, of which it uses half for text."""

_TOKENS_PER_S: Final = 16
"""About four times fast English speech; languages that the tokenizer splits finely need up to three times as many."""


class Windows(msgspec.Struct, frozen=True):
    """Window lengths that a model is qualified for, rising, and the silence that must follow the speech in them."""

    lengths_s: tuple[int, ...]
    padding_s: float
    reason: str

    def length_s(self, n_samples: int) -> int:
        """The window for `n_samples` at 16 kHz. Depends on nothing else, so a replay decodes the same way.

        Raises ValueError for audio longer than 30 s.
        """
        audio_s = n_samples / SAMPLE_RATE_HZ
        if audio_s > FULL_WINDOW_S:
            raise ValueError(f"an utterance of {audio_s:.1f} s does not fit Whisper's window of {FULL_WINDOW_S} s")
        return next((length for length in self.lengths_s if audio_s + self.padding_s <= length), FULL_WINDOW_S)


_FULL: Final = Windows((FULL_WINDOW_S,), 0.0, "not qualified for shorter windows")
_QUALIFIED: Final = {
    "base": Windows((10, 15, 20, 25, FULL_WINDOW_S), 1.0, "10 s with 1 s: 1.4 % word errors, 30 s: 1.3 %"),
    "tiny.en": Windows((15, 20, 25, FULL_WINDOW_S), 2.0, "15 s: 2.7 % word errors, 30 s: 2.1 %; 10 s: 11.9 %"),
}


def windows_of(model: str) -> Windows:
    """The windows that `model` is qualified for; the full one for a model that nobody measured."""
    return _QUALIFIED.get(model, _FULL)


def max_tokens(window_s: int) -> int:
    """How many text tokens a window of `window_s` may give before it counts as a decoder that does not stop."""
    return min(MAX_TOKENS, _TOKENS_PER_S * window_s)

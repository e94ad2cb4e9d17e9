"""Lengths of Whisper's window: how much audio is encoded for a row, by model.

Whisper was trained on windows of 30 s. A shorter one costs less (the encoder's attention grows with its square), but in
a window that ends soon after the speech the decoder does not stop: it continues as if more speech followed. It stops
where it finds silence after the speech, and that silence need not be encoded again for each row. So a short window is
encoded alone, and the encoder's output for pure silence, computed once, is appended for the decoder.

After little speech that silence is not enough: the decoder writes a single word twice or three times, or hardly
believes it. Then the silence has to be encoded with the speech.

Each model has to be qualified: by its word errors on synthetic telephone speech, compared with longer windows. That
belongs to its weights and not to their shape: tiny.en needs 15 s where base needs 10, and a fine-tuned model may have
learned to stop elsewhere. So the name has to be that of known weights, which `pipeline.wiring.weights` gives by their
hash or their place on the hub, and never by the name of a folder.
"""

from typing import Final

import msgspec

SAMPLE_RATE_HZ: Final = 16_000
FULL_WINDOW_S: Final = 30
MAX_TOKENS: Final = 220
"""The most text tokens of one window: Whisper's decoder has 448 positions, of which it uses half for text."""

_TOKENS_PER_S: Final = 16
"""About four times fast English speech; languages that the tokenizer splits finely need up to three times as many."""


class WhisperWindow(msgspec.Struct, frozen=True):
    """`length_s` of audio is encoded; `silence_s` of silence follows in the encoder's output."""

    length_s: int
    silence_s: int = 0


class ModelWindows(msgspec.Struct, frozen=True):
    """The window lengths that a model is qualified for, in rising order.

    - `lengths_s`: windows without appended silence.
    - `padding_s`: how much of a window must remain after the speech.
    - `reason`: the measured word errors.
    - `short_s`: windows with `silence_s` of silence appended, for rows with at least `short_voiced_s` of speech.
    """

    lengths_s: tuple[int, ...]
    padding_s: float
    reason: str
    short_s: tuple[int, ...] = ()
    silence_s: int = 0
    short_voiced_s: float = 0.0

    def of(self, n_samples: int, *, voiced_s: float = FULL_WINDOW_S) -> list[WhisperWindow]:
        """Return the windows for `n_samples` at 16 kHz with `voiced_s` of speech. The last one is the full one.

        Each is tried after the text from the one before it was in doubt. They depend on nothing else, so a replay
        decodes the same way. Raises ValueError for audio longer than 30 s.
        """
        audio_s = n_samples / SAMPLE_RATE_HZ
        if audio_s > FULL_WINDOW_S:
            raise ValueError(f"an utterance of {audio_s:.1f} s does not fit Whisper's window of {FULL_WINDOW_S} s")
        needed_s = audio_s + self.padding_s
        lengths_s = self.short_s if voiced_s >= self.short_voiced_s else ()
        short = [WhisperWindow(length, self.silence_s) for length in lengths_s if needed_s <= length]
        alone = [WhisperWindow(length) for length in self.lengths_s if needed_s <= length]
        full = WhisperWindow(FULL_WINDOW_S)
        return [*short[:1], *(window for window in alone[:1] if window != full), full]

    def without_silence(self) -> "ModelWindows":
        """Return the windows for a device on which appending silence costs more than it saves."""
        return msgspec.structs.replace(self, short_s=(), silence_s=0)


_FULL: Final = ModelWindows((FULL_WINDOW_S,), 0.0, "not qualified for shorter windows")
_QUALIFIED: Final = {
    "base": ModelWindows(
        (10, 15, 20, 25, FULL_WINDOW_S),
        1.0,
        "30 s: 1.3 % word errors, 10 s: 1.4 %; on calls with noise 10 s: 7.7 %, 4 s and 5 s of silence: 7.6 %",
        short_s=(4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
        silence_s=5,
        short_voiced_s=1.5,
    ),
    "tiny.en": ModelWindows((15, 20, 25, FULL_WINDOW_S), 2.0, "15 s: 2.7 % word errors, 30 s: 2.1 %; 10 s: 11.9 %"),
}


def windows_of(model: str) -> ModelWindows:
    """Return the windows that `model` is qualified for: only the full one for a model that was not measured."""
    return _QUALIFIED.get(model, _FULL)


def max_tokens(window_s: int) -> int:
    """Return how many text tokens a window of `window_s` may give before its decoder counts as looping."""
    return min(MAX_TOKENS, _TOKENS_PER_S * window_s)

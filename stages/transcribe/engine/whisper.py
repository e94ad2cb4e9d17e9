"""The WhisperX engine: rows of audio from any calls in, text with word times out.

It uses WhisperX's features and the model that WhisperX wraps (faster-whisper's), but not its `transcribe()`, which pads
every window to 30 s, detects speech a second time, and keeps per-call state on the shared model object. Here a row's
window depends on its own length alone, nothing is kept between calls, and one encoder output gives the text, the
language and the word times.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from schemas.segments import Word
from stages.adapters.torch_loading import torch_imports
from stages.transcribe.engine.devices import CPU, Device, fitting_batch
from stages.transcribe.engine.doubts import in_doubt, settled
from stages.transcribe.engine.loading import THREADS_PER_WORKER, load_weights
from stages.transcribe.engine.protocol import HOTWORD_TOKENS, EngineError, Row, Transcription
from stages.transcribe.engine.repetitions import repeated
from stages.transcribe.engine.sweep import SWEEP
from stages.transcribe.engine.windows import FULL_WINDOW_S, SAMPLE_RATE_HZ, WhisperWindow, max_tokens, windows_of
from stages.transcribe.engine.words import UNSPACED, MeasuredWord, timed_words
from stages.transcribe.guards import repeats

_FRAMES_PER_S: Final = 50
"""Frames of the encoder's output. Its input has twice as many."""
_EARLY_S: Final = 0.07
"""Cross-attention turns to the next word before it begins: of 1,982 words of synthetic telephone calls the starts were
0.08 s early and the ends 0.06 s (medians); on a real call the ends of the last words before 33 pauses 0.11 s."""
_SILENT_FEATURE: Final = -1.5
"""The value of Whisper's log mel spectrogram for digital silence."""


class Engine:
    """Whisper on CTranslate2 by way of WhisperX, on one device."""

    def __init__(
        self,
        path: Path,
        *,
        name: str,
        device: Device = CPU,
        compute_type: str = "auto",
        workers: int = 2,
        beam_size: int = 5,
    ) -> None:
        """Load the weights and check that they work. Takes seconds: call it from a thread. Raises EngineError.

        Args:
            path: the folder with the weights.
            name: the model's name. It decides the windows, if the weights have the shape of that model.
            compute_type: one of CTranslate2's, or `auto`: int8 on a CPU, float16 on a GPU.
            workers: how many threads may be inside `transcribe_batch` at once.
        """
        self._library = _Library()
        # The features are computed in the calling worker's thread; more threads there only compete for the cores.
        self._library.torch.set_num_threads(THREADS_PER_WORKER)
        loaded = load_weights(
            self._library.WhisperModel,
            path,
            device=device,
            compute_type=compute_type,
            workers=workers,
        )
        self._model, architecture = loaded.model, loaded.architecture
        self.model_name = name
        self.languages = architecture.languages
        # A GPU encodes a window of 10 s in no time; to append silence its output would go to the host and back.
        windows = windows_of(name if name == architecture.shape else "")
        self._windows = windows if device.kind == "cpu" else windows.without_silence()
        self._n_mels = architecture.n_mels
        self._beam_size = beam_size
        self._silence: NDArray[np.float32] | None = None
        self._check(device)
        self.max_batch = fitting_batch(device, row_bytes=architecture.row_bytes(beam_size), workers=workers)

    def close(self) -> None:
        """Free the memory of the weights. Only `window_s` may be called afterwards."""
        # CTranslate2's own `unload_model` does nothing while a batch counts as active, which is longer than it runs.
        del self._model

    def window_s(self, row: Row) -> int:
        return self._window(row).length_s

    def _window(self, row: Row) -> WhisperWindow:
        """Return the first window that is tried for a row."""
        return self._windows_of(row)[0]

    def _windows_of(self, row: Row) -> list[WhisperWindow]:
        voiced_s = sum(end - start for start, end in row.voiced)
        windows = self._windows.of(len(row.audio), voiced_s=voiced_s)
        return windows[-1:] if row.full_window else windows

    def transcribe_batch(self, rows: Sequence[Row]) -> list[Transcription]:
        """See `SpeechEngine`. Rows with the same window, language, hotwords and effort are batched.

        Rows whose language has to be detected are encoded in one batch, and decoded in one if it is the same.
        """
        batches: dict[tuple[WhisperWindow, str | None, tuple[str, ...], bool], list[int]] = {}
        for index, row in enumerate(rows):
            language = row.language if isinstance(row.language, str) else None
            batches.setdefault((self._window(row), language, row.hotwords, row.interim), []).append(index)
        done: dict[int, Transcription] = {}
        for (window, *_), indices in batches.items():
            done.update(zip(indices, self._transcribe([rows[index] for index in indices], window), strict=True))
        return [done[index] for index in range(len(rows))]

    def _transcribe(self, rows: Sequence[Row], window: WhisperWindow) -> list[Transcription]:
        """Decode rows of one window. All of them name a language, or none does."""
        encoded = self._encode(rows, window)
        chosen = self._languages(rows, encoded)
        if len(set(chosen)) == 1:
            return self._decode(rows, window, encoded, chosen[0])
        done: dict[int, Transcription] = {}
        for language in dict.fromkeys(chosen):
            indices = [index for index, one in enumerate(chosen) if one == language]
            spoken = [rows[index] for index in indices]
            done.update(zip(indices, self._decode(spoken, window, self._encode(spoken, window), language), strict=True))
        return [done[index] for index in range(len(rows))]

    def _languages(self, rows: Sequence[Row], encoded: Any) -> list[str]:
        """Return the language of each row: the one that it names, or its choice from the detected ones."""
        named = [row.language for row in rows if isinstance(row.language, str)]
        if len(named) == len(rows):
            return named
        detected: Sequence[Sequence[tuple[str, float]]] = [()] * len(rows)
        if self._model.model.is_multilingual:
            detected = self._model.model.detect_language(encoded)
        return [
            row.language
            if isinstance(row.language, str)
            else row.language({token.strip("<|>"): probability for token, probability in found})
            for row, found in zip(rows, detected, strict=True)
        ]

    def _decode(self, rows: Sequence[Row], window: WhisperWindow, encoded: Any, language: str) -> list[Transcription]:
        """Decode rows of one language. A row whose text is in doubt is decoded again in the next of its windows.

        That is a text in a loop, one with copies of words that the audio may not hold (`repetitions`), and one that a
        guard would drop: a guard drops nothing but what the full window gave.
        """
        tokenizer = self._tokenizer(language)
        limit = max_tokens(window.length_s)
        prefixes = [_prefix_tokens(tokenizer, row.prefix) for row in rows]
        interim = rows[0].interim
        results = self._generate(
            encoded,
            tokenizer,
            prefixes,
            limit,
            beam_size=1 if interim else self._beam_size,
            before=_hotword_tokens(tokenizer, rows[0].hotwords),
        )
        tokens = [[token for token in result.sequences_ids[0] if token < tokenizer.eot] for result in results]
        texts = [tokenizer.decode(row_tokens).strip() for row_tokens in tokens]
        looping = [len(row) >= limit or repeats(text) for row, text in zip(tokens, texts, strict=True)]
        following = [self._next_window(row, window) for row in rows]
        spaced = language not in UNSPACED
        need_times = any(
            bool(repeated(text, spaced=spaced)) if interim else not loops or next_window is None
            for text, loops, next_window in zip(texts, looping, following, strict=True)
        )
        words = self._words(rows, encoded, tokenizer, tokens) if need_times else [[] for _ in rows]
        transcriptions = [
            Transcription(
                text=text,
                words=row_words,
                language=language,
                average_logprob=round(result.scores[0] * len(row_tokens) / (len(row_tokens) - len(prefix) + 1), 4),
                no_speech_probability=round(result.no_speech_prob, 4),
                repeats=loops,
            )
            for text, row_words, result, row_tokens, prefix, loops in zip(
                texts, words, results, tokens, prefixes, looping, strict=True
            )
        ]
        for index, (row, next_window) in enumerate(zip(rows, following, strict=True)):
            if next_window is None:
                transcriptions[index] = settled(transcriptions[index], row)
            elif in_doubt(transcriptions[index], row):
                known = msgspec.structs.replace(row, language=language)
                transcriptions[index] = self._transcribe([known], next_window)[0]
            if interim:
                transcriptions[index] = msgspec.structs.replace(transcriptions[index], words=[])
        return transcriptions

    def _next_window(self, row: Row, window: WhisperWindow) -> WhisperWindow | None:
        """Return the window that is tried after this one; None after the full one."""
        windows = self._windows_of(row)
        return next(iter(windows[windows.index(window) + 1 :]), None)

    def _encode(self, rows: Sequence[Row], window: WhisperWindow) -> Any:
        samples = window.length_s * SAMPLE_RATE_HZ
        features = [
            self._library.log_mel_spectrogram(row.audio, self._n_mels, padding=samples - len(row.audio)) for row in rows
        ]
        encoded = self._model.encode(self._library.torch.stack(features).numpy())
        if not window.silence_s:
            return encoded
        first = window.length_s * _FRAMES_PER_S
        silence = self._silent()[:, first : first + window.silence_s * _FRAMES_PER_S]
        with_silence = np.concatenate([np.asarray(encoded), np.repeat(silence, len(rows), axis=0)], axis=1)
        return self._library.StorageView.from_array(with_silence)

    def _silent(self) -> NDArray[np.float32]:
        """Return the encoder's output for a full window of silence, shape (1, 1500, width)."""
        if self._silence is None:
            shape = (1, self._n_mels, FULL_WINDOW_S * 2 * _FRAMES_PER_S)
            silent = np.full(shape, _SILENT_FEATURE, np.float32)
            self._silence = np.array(self._model.encode(silent))
        return self._silence

    def _tokenizer(self, language: str) -> Any:
        multilingual = self._model.model.is_multilingual
        return self._library.Tokenizer(
            self._model.hf_tokenizer, multilingual, task="transcribe", language=language if multilingual else None
        )

    def _generate(
        self,
        encoded: Any,
        tokenizer: Any,
        prefixes: Sequence[list[int]],
        limit: int,
        *,
        beam_size: int,
        before: Sequence[int] = (),
    ) -> Any:
        """Decode rows. CTranslate2 returns a row's prefix with its text, and counts it as certain in the score.

        `before`: tokens of text before the audio, which the decoder sees and does not repeat.
        """
        prompt = [*tokenizer.sot_sequence, tokenizer.no_timestamps]
        return self._model.model.generate(
            encoded,
            [[*before, *prompt, *prefix] for prefix in prefixes],
            beam_size=beam_size,
            max_length=2 * (limit + len(prompt)),  # CTranslate2 stops at half of it, to allow for the prompt
            suppress_blank=True,
            suppress_tokens=[-1],
            return_scores=True,
            return_no_speech_prob=True,
        )

    def _words(self, rows: Sequence[Row], encoded: Any, tokenizer: Any, tokens: list[list[int]]) -> list[list[Word]]:
        frames = [len(row.audio) * 100 // SAMPLE_RATE_HZ for row in rows]
        alignments = self._model.find_alignment(tokenizer, tokens, encoded, frames)
        return [
            timed_words(
                [
                    MeasuredWord(
                        text=word["word"],
                        start_s=float(word["start"]) + (_EARLY_S if index else 0.0),
                        end_s=float(word["end"]) + _EARLY_S,
                        probability=float(word["probability"]),
                    )
                    for index, word in enumerate(alignment)
                    if word["tokens"][0] < tokenizer.eot
                ],
                row.voiced,
                len(row.audio) / SAMPLE_RATE_HZ,
                spaced=tokenizer.language_code not in UNSPACED,
            )
            for row, alignment in zip(rows, alignments, strict=True)
        ]

    def _check(self, device: Device) -> None:
        """Decode a second of a sweep: some pairs of driver and CTranslate2 return empty text without an error.

        Blank output is suppressed at the first position, so a working model returns some text for any sound.
        """
        try:
            encoded = self._encode([SWEEP], self._window(SWEEP))
            result = self._generate(encoded, self._tokenizer("en"), [[]], 8, beam_size=self._beam_size)[0]
        except RuntimeError as error:
            raise EngineError(f"the model {self.model_name} fails on {device}: {error}") from error
        if not result.sequences_ids[0] or not math.isfinite(result.scores[0]):
            raise EngineError(
                f"the model {self.model_name} gives no text on {device}: a known fault of some driver and CTranslate2 "
                "versions; use another driver or the cpu"
            )


def _prefix_tokens(tokenizer: Any, prefix: str) -> list[int]:
    """Return the tokens of a prefix. Whisper writes a space before each word, the first included, unless unspaced."""
    if not prefix:
        return []
    tokens: list[int] = tokenizer.encode(prefix if tokenizer.language_code in UNSPACED else f" {prefix}")
    return tokens


def _hotword_tokens(tokenizer: Any, hotwords: Sequence[str]) -> list[int]:
    """Return the tokens of the first words that fit, as a sentence before the audio."""
    tokens: list[int] = []
    for index, word in enumerate(hotwords):
        more = tokenizer.encode(f"{',' if index else ''} {word}")
        if len(tokens) + len(more) > HOTWORD_TOKENS:
            break
        tokens += more
    return [tokenizer.sot_prev, *tokens] if tokens else []


class _Library:
    """The libraries of an engine. They are imported when one is made, because that takes seconds and imports torch.

    `whisperx.asr` is left out: its model differs only in what is not used here, and it imports transformers and
    pyannote, which takes twice as long as all the rest, at every start after a crash.
    """

    def __init__(self) -> None:
        with torch_imports():
            import torch
            from ctranslate2 import StorageView
            from faster_whisper import WhisperModel
            from faster_whisper.tokenizer import Tokenizer
            from whisperx.audio import log_mel_spectrogram
        self.torch: Any = torch
        self.StorageView: Any = StorageView
        self.Tokenizer: Any = Tokenizer
        self.WhisperModel: Any = WhisperModel
        self.log_mel_spectrogram: Any = log_mel_spectrogram

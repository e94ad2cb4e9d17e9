"""WhisperX's own batched pipeline as an engine: the reference that ours is held against.

Each row is one segment of `FasterWhisperPipeline.transcribe()`, which computes its features, pads them to 30 s and
decodes the batch without timestamps. Our utterances take the place of its voice activity detector, whose segments would
depend on all the rows of a batch. It has no short windows, no second attempt after a loop, no probability of "no
speech" and no word times: words are spread over the detected speech, unless an alignment model times them
(`AligningEngine`).
"""

import itertools
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from stages.adapters.torch_loading import torch_imports
from stages.transcribe.engine.devices import CPU, Device, fitting_batch
from stages.transcribe.engine.loading import THREADS_PER_WORKER, load_weights
from stages.transcribe.engine.protocol import Audio, EngineError, Row, Transcription
from stages.transcribe.engine.sweep import SWEEP
from stages.transcribe.engine.windows import FULL_WINDOW_S, SAMPLE_RATE_HZ
from stages.transcribe.engine.words import UNSPACED, spread_words
from stages.transcribe.guards import repeats


class WhisperXEngine:
    """A SpeechEngine of `whisperx.load_model`, on one device.

    The pipeline keeps the language and the options of a call to it, so each thread has a pipeline of its own. All share
    the weights.
    """

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

        See `whisper.Engine` for the arguments.
        """
        with torch_imports():
            import torch
            import whisperx.asr
            from whisperx.vads import Vad
        torch.set_num_threads(THREADS_PER_WORKER)
        self._library = whisperx.asr
        self._detector_class = _detector_class(Vad)
        self._device = device
        self._beam_size = beam_size
        loaded = load_weights(
            whisperx.asr.WhisperModel,
            path,
            device=device,
            compute_type=compute_type,
            workers=workers,
        )
        self._model, architecture = loaded.model, loaded.architecture
        self.model_name = name
        self.languages = architecture.languages
        self._n_mels = architecture.n_mels
        self._pipelines = threading.local()
        try:
            self.transcribe_batch([SWEEP])
        except RuntimeError as error:
            raise EngineError(f"the model {name} fails on {device}: {error}") from error
        self.max_batch = fitting_batch(device, row_bytes=architecture.row_bytes(beam_size), workers=workers)

    def close(self) -> None:
        """Free the memory of the weights. Only `window_s` may be called afterwards."""
        self._pipelines = threading.local()
        del self._model

    def window_s(self, row: Row) -> int:
        audio_s = len(row.audio) / SAMPLE_RATE_HZ
        if audio_s > FULL_WINDOW_S:
            raise ValueError(f"an utterance of {audio_s:.1f} s does not fit Whisper's window of {FULL_WINDOW_S} s")
        return FULL_WINDOW_S

    def transcribe_batch(self, rows: Sequence[Row]) -> list[Transcription]:
        """See `SpeechEngine`. Rows with the same language, prefix and hotwords are batched."""
        batches: dict[tuple[str, str, tuple[str, ...]], list[int]] = {}
        for index, row in enumerate(rows):
            batches.setdefault((self._language(row), row.prefix, row.hotwords), []).append(index)
        done: dict[int, Transcription] = {}
        for (language, prefix, hotwords), indices in batches.items():
            texts = self._transcribe([rows[index].audio for index in indices], language, prefix, hotwords)
            for index, (text, logprob) in zip(indices, texts, strict=True):
                done[index] = _transcription(rows[index], text, language, logprob)
        return [done[index] for index in range(len(rows))]

    def _language(self, row: Row) -> str:
        if isinstance(row.language, str):
            return row.language
        if not self._model.model.is_multilingual:
            return row.language({})
        features = self._library.log_mel_spectrogram(
            row.audio,
            n_mels=self._n_mels,
            padding=FULL_WINDOW_S * SAMPLE_RATE_HZ - len(row.audio),
        )
        (detected,) = self._model.model.detect_language(self._model.encode(features))
        return row.language({token.strip("<|>"): probability for token, probability in detected})

    def _transcribe(
        self, audios: Sequence[Audio], language: str, prefix: str, hotwords: Sequence[str]
    ) -> list[tuple[str, float]]:
        """Return text and mean log probability of each row."""
        pipeline = self._pipeline()
        pipeline.options = replace(
            pipeline.options,
            prefix=f" {prefix}" if prefix and language not in UNSPACED else prefix or None,
            hotwords=", ".join(hotwords) or None,
        )
        pipeline.vad_model = self._detector_class([len(audio) for audio in audios])
        # More than one row at a time: of single ones the pipeline returns another form.
        made = pipeline.transcribe(np.concatenate(audios), batch_size=max(2, len(audios)), language=language)
        return [(segment["text"].strip(), float(segment["avg_logprob"])) for segment in made["segments"]]

    def _pipeline(self) -> Any:
        made = getattr(self._pipelines, "pipeline", None)
        if made is None:
            made = self._library.load_model(
                self.model_name,
                device=self._device.kind,
                device_index=self._device.index,
                model=self._model,
                asr_options={"beam_size": self._beam_size},
                vad_model=self._detector_class([]),
                language="en",  # each call names its own: without one the pipeline detects it in the first row
            )
            self._pipelines.pipeline = made
        return made


def _detector_class(base: type) -> Any:
    """Return a voice activity detector for WhisperX, a subclass of its `Vad`, that finds the rows."""

    class Rows(base):  # type: ignore[misc]  # the base is imported when an engine is made
        def __init__(self, lengths: Sequence[int]) -> None:
            ends = np.cumsum(lengths).tolist()
            # The pipeline cuts at int(seconds * rate): half a sample more, so that no sample is lost to rounding.
            edges_s = [(at + 0.5) / SAMPLE_RATE_HZ for at in (0, *ends)]
            self._segments = [
                {"start": start_s, "end": end_s, "segments": [(start_s, end_s)]}
                for start_s, end_s in itertools.pairwise(edges_s)
            ]

        def __call__(self, _audio: Any) -> Any:
            return self._segments

        @staticmethod
        def preprocess_audio(audio: Any) -> Any:
            return audio

        @staticmethod
        def merge_chunks(segments: Any, *_: Any, **__: Any) -> Any:
            return segments

    return Rows


def _transcription(row: Row, text: str, language: str, logprob: float) -> Transcription:
    audio_s = len(row.audio) / SAMPLE_RATE_HZ
    return Transcription(
        text=text,
        words=spread_words(text, row.voiced, audio_s, spaced=language not in UNSPACED) if text else [],
        language=language,
        average_logprob=round(logprob, 4),
        no_speech_probability=0.0,
        repeats=repeats(text),
    )

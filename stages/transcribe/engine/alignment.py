"""Word times by forced alignment: a wav2vec2 model gives the probability of each letter in each frame.

The models are those that WhisperX aligns with. Its `align()` is not used: it takes one utterance at a time, loads a
sentence splitter from the network, and replaces Whisper's probability of a word by a score of its own. Here rows are
processed in batches, `torchaudio.functional.forced_align` aligns their text, and only the words' times change.

Characters that the model has no letter for (digits, symbols) are wildcards, which match any sound. A word of wildcards
alone takes the time between its neighbours and is marked `interpolated`.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import structlog

from schemas.segments import Word
from stages.adapters.torch_loading import torch_device, torch_imports
from stages.transcribe.engine.model_cache import CacheObserver, ModelCache
from stages.transcribe.engine.out_of_memory import is_out_of_memory
from stages.transcribe.engine.protocol import Audio, EngineError, Row, SpeechEngine, Transcription
from stages.transcribe.engine.windows import SAMPLE_RATE_HZ
from stages.transcribe.engine.words import UNSPACED, MeasuredWord, timed_words

_MIN_SAMPLES: Final = 400
"""The first frame of wav2vec2 covers 25 ms."""

_FRAME_SAMPLES: Final = 320
"""From one frame of wav2vec2 to the next: 20 ms."""

_SEPARATOR: Final = "|"
_SILENT: Final = frozenset("\"'“”‘’¿([{-.。,，!！?？:：;)]}、…–—")
"""Punctuation: nobody speaks it, so it is no wildcard."""

_WILDCARD: Final = -1


class Aligner:
    """One wav2vec2 model with a CTC head. May be used from several threads at once."""

    def __init__(self, name: str, language: str, *, device: str = "cpu", cache: Path | None = None) -> None:
        """Load the weights and check that they work. Raises EngineError.

        Args:
            name: a directory in Hugging Face's format, a repository of the hub, a bundle of torchaudio, or empty for
                the model that WhisperX uses for `language`.
            cache: where repositories and bundles are looked for first.
        """
        with torch_imports():
            import torch

        self._torch = torch
        self._device = torch_device(device)
        self._spaced = language not in UNSPACED
        try:
            self.name = name or _default_name(language)
            loaded = _load(self.name, cache)
            self._model = loaded.model.to(self._device).eval()
        except EngineError:
            raise
        except Exception as error:  # the libraries raise any error for missing or damaged files
            reason = f"{type(error).__name__}: {error}"
            raise EngineError(f"the alignment model {name!r} ({language}) cannot be loaded: {reason}") from error
        self._letters = {
            letter.lower(): index
            for letter, index in loaded.letters.items()
            if len(letter) == 1 and index != loaded.blank
        }
        self._blank = loaded.blank
        self._normalized = loaded.normalized
        self._padded = loaded.padded
        self._check()

    @property
    def size_bytes(self) -> int:
        weights = (*self._model.parameters(), *self._model.buffers())
        return sum(weight.nelement() * weight.element_size() for weight in weights)

    def close(self) -> None:
        """Free the memory of the weights. Nothing can be aligned afterwards."""
        del self._model
        if self._device != "cpu":
            self._torch.cuda.empty_cache()

    def align(self, rows: Sequence[tuple[Audio, Sequence[Word]]]) -> list[list[MeasuredWord] | None]:
        """Return the rows' words with their times in the audio; None for a row with more letters than frames.

        Audio is float32, shape (n_samples,), 16 kHz. A row's times do not depend on the other rows.
        """
        emissions = self._emissions([audio for audio, _ in rows])
        return [self._aligned(emission, words) for emission, (_, words) in zip(emissions, rows, strict=True)]

    def _emissions(self, audios: Sequence[Audio]) -> list[Any]:
        """Return the log probability of each letter for each row, float32, shape (n_frames, n_letters), on the CPU.

        Rows are padded to one batch if the model masks the padding. In models that normalize over time (the base ones)
        padding would change the result, so rows are processed one by one.
        """
        torch = self._torch
        rows = [torch.from_numpy(self._prepared(audio)) for audio in audios]
        with torch.inference_mode():
            if self._padded:
                lengths = torch.tensor([len(row) for row in rows])
                batch = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
                mask = (torch.arange(batch.shape[1]) < lengths[:, None]).long()
                logits = self._model(batch.to(self._device), attention_mask=mask.to(self._device)).logits
                frames = self._model._get_feat_extract_output_lengths(lengths).tolist()
                unpadded = [row[:n_frames] for row, n_frames in zip(logits, frames, strict=True)]
            else:
                unpadded = [self._model(row[None].to(self._device))[0][0] for row in rows]
            return [torch.log_softmax(row.float(), dim=-1).cpu() for row in unpadded]

    def _prepared(self, audio: Audio) -> Audio:
        if len(audio) < _MIN_SAMPLES:
            audio = np.pad(audio, (0, _MIN_SAMPLES - len(audio)))
        if self._normalized:
            audio = (audio - audio.mean()) / np.sqrt(audio.var() + 1e-7)
        return np.ascontiguousarray(audio, dtype=np.float32)

    def _aligned(self, emission: Any, words: Sequence[Word]) -> list[MeasuredWord] | None:
        letters = [self._spelled(word.text) for word in words]
        separator = [self._letters[_SEPARATOR]] if self._spaced and _SEPARATOR in self._letters else []
        targets: list[int] = []
        letter_spans: list[tuple[int, int]] = []
        for spelled in letters:
            if spelled and targets:
                targets += separator
            letter_spans.append((len(targets), len(targets) + len(spelled)))
            targets += spelled
        spans = self._path(emission, targets) if targets else []
        if spans is None:
            return None
        frame_s = _FRAME_SAMPLES / SAMPLE_RATE_HZ
        end_s = 0.0
        measured: list[MeasuredWord] = []
        for word, spelled, (first, last) in zip(words, letters, letter_spans, strict=True):
            start_s, end_s = (spans[first][0] * frame_s, spans[last - 1][1] * frame_s) if spelled else (end_s, end_s)
            measured.append(
                MeasuredWord(
                    text=f" {word.text}" if self._spaced else word.text,
                    start_s=start_s,
                    end_s=end_s,
                    probability=word.probability,
                    interpolated=set(spelled) <= {_WILDCARD},
                )
            )
        return measured

    def _spelled(self, text: str) -> list[int]:
        """Return the model's numbers for a word's letters. Neighbouring wildcards are one, which may last any time."""
        spelled: list[int] = []
        for letter in text.lower():
            index = self._letters.get(letter, _WILDCARD) if letter != _SEPARATOR else _WILDCARD
            silent = letter in _SILENT or letter.isspace()
            if index != _WILDCARD or (not silent and spelled[-1:] != [_WILDCARD]):
                spelled.append(index)
        return spelled

    def _path(self, emission: Any, targets: Sequence[int]) -> list[tuple[int, int]] | None:
        """Return the frames (first, end) of each target on the most probable path; None if there are too few frames."""
        torch = self._torch
        # The wildcard is as probable as the most probable letter, so it neither gains nor loses frames to neighbours.
        wildcard = emission.shape[1]
        emission = torch.cat([emission, emission.max(dim=1, keepdim=True).values], dim=1)
        numbers = torch.tensor([[wildcard if target == _WILDCARD else target for target in targets]], dtype=torch.int32)
        repeated = int((numbers[0, 1:] == numbers[0, :-1]).sum())
        if len(emission) < len(targets) + repeated:
            return None
        with warnings.catch_warnings():
            # torchaudio 2.8 announces a removal that a later version revoked.
            warnings.filterwarnings("ignore", message=".*forced_align has been deprecated", category=UserWarning)
            from torchaudio.functional import forced_align, merge_tokens

            path, scores = forced_align(emission[None], numbers, blank=self._blank)
        return [(span.start, span.end) for span in merge_tokens(path[0], scores[0], blank=self._blank)]

    def _check(self) -> None:
        [emission] = self._emissions([np.zeros(SAMPLE_RATE_HZ, np.float32)])
        n_letters = max(self._letters.values(), default=-1) + 1
        if not n_letters or emission.shape[1] < n_letters or not bool(self._torch.isfinite(emission).all()):
            raise EngineError(
                f"the alignment model {self.name!r} is unusable: {n_letters} letters, {emission.shape[1]} outputs"
            )


class Aligners:
    """The aligners by language, loaded within a memory budget. See `ModelCache`."""

    def __init__(
        self,
        models: Mapping[str, str],
        *,
        others: bool = False,
        device: str = "cpu",
        cache: Path | None = None,
        budget_bytes: int | None = None,
        observer: CacheObserver | None = None,
    ) -> None:
        """Args:
        models: names for `Aligner`, by language. They are loaded at once, and raise EngineError.
        others: for other languages the model that WhisperX uses is loaded when it is first needed. If that fails,
            which is logged once, the language has no alignment.
        device, cache: see `Aligner`.
        budget_bytes: the memory for all weights together.
        """
        self._models = dict(models)
        self._others = others
        self._device = device
        self._cache = cache
        self._absent: set[str] = set()
        self._log = structlog.get_logger("callstream.alignment")
        self._loaded = ModelCache(self._load, budget_bytes=budget_bytes, observer=observer or CacheObserver())
        for language in models:
            with self._loaded.use(language):
                pass

    @contextmanager
    def use(self, language: str) -> Iterator[Aligner | None]:
        """Yield the language's aligner, or None if it has none. It is not evicted inside the context."""
        with ExitStack() as stack:
            yield self._enter(language, stack)

    def _enter(self, language: str, stack: ExitStack) -> Aligner | None:
        if language in self._absent or not (self._others or language in self._models):
            return None
        try:
            return stack.enter_context(self._loaded.use(language))
        except EngineError as error:
            self._absent.add(language)
            self._log.warning("alignment unavailable", language=language, word_times="attention", error=str(error))
            return None

    def _load(self, language: str) -> Aligner:
        aligner = Aligner(self._models.get(language, ""), language, device=self._device, cache=self._cache)
        self._log.info("alignment model loaded", language=language, model=aligner.name)
        return aligner


class AligningEngine:
    """An engine whose words are timed by alignment if their language has an aligner. See `SpeechEngine`."""

    def __init__(self, engine: SpeechEngine, aligners: Aligners) -> None:
        self._engine = engine
        self._aligners = aligners
        self.model_name = engine.model_name
        self.languages = engine.languages

    @property
    def max_batch(self) -> int:
        return self._engine.max_batch

    def window_s(self, row: Row) -> int:
        return self._engine.window_s(row)

    def transcribe_batch(self, rows: Sequence[Row]) -> list[Transcription]:
        done = self._engine.transcribe_batch(rows)
        by_language: dict[str, list[int]] = {}
        for index, transcription in enumerate(done):
            if transcription.words:
                by_language.setdefault(transcription.language, []).append(index)
        for language, indices in by_language.items():
            with self._aligners.use(language) as aligner:
                if aligner is None:
                    continue
                aligned = _aligned(aligner, [(rows[index].audio, done[index].words) for index in indices])
            for index, measured in zip(indices, aligned, strict=True):
                if measured is not None:
                    done[index] = _retimed(done[index], measured, rows[index])
        return done


def _aligned(aligner: Aligner, rows: Sequence[tuple[Audio, Sequence[Word]]]) -> Sequence[Sequence[MeasuredWord] | None]:
    """Align rows, in halves if they run out of memory. A row that does not fit even alone keeps its times."""
    try:
        return aligner.align(rows)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        if len(rows) == 1:
            log = structlog.get_logger("callstream.alignment")
            log.warning("alignment out of memory", word_times="attention", error=repr(error))
            return [None]
    half = len(rows) // 2
    return [*_aligned(aligner, rows[:half]), *_aligned(aligner, rows[half:])]


def _retimed(done: Transcription, measured: Sequence[MeasuredWord], row: Row) -> Transcription:
    audio_s = len(row.audio) / SAMPLE_RATE_HZ
    words = timed_words(measured, row.voiced, audio_s, spaced=done.language not in UNSPACED)
    return msgspec.structs.replace(done, words=words, word_source="alignment")


class _Loaded(msgspec.Struct, frozen=True):
    """`normalized`: the model wants audio of mean 0 and variance 1. `padded`: its batches may be padded."""

    model: Any
    letters: Mapping[str, int]
    blank: int
    normalized: bool
    padded: bool


def _default_name(language: str) -> str:
    with torch_imports():
        from whisperx.alignment import DEFAULT_ALIGN_MODELS_HF, DEFAULT_ALIGN_MODELS_TORCH

    name = DEFAULT_ALIGN_MODELS_TORCH.get(language) or DEFAULT_ALIGN_MODELS_HF.get(language)
    if name is None:
        raise EngineError(f"WhisperX has no alignment model for the language {language!r}")
    return str(name)


def _load(name: str, cache: Path | None) -> _Loaded:
    with torch_imports():
        import torchaudio
        from transformers import Wav2Vec2ForCTC, Wav2Vec2Processor

    if name in torchaudio.pipelines.__all__:
        bundle = getattr(torchaudio.pipelines, name)
        model = bundle.get_model(dl_kwargs={"model_dir": str(cache)} if cache else None)
        letters = {letter: index for index, letter in enumerate(bundle.get_labels())}
        return _Loaded(model, letters, blank=0, normalized=False, padded=False)
    folder = Path(name).expanduser()
    if folder.is_dir() or name.startswith((".", "/", "~")):
        if not (folder / "config.json").is_file():
            raise EngineError(f"the alignment model directory {folder} has no config.json")
        name, in_cache = str(folder), True
    else:
        in_cache = _is_cached(name, cache)
    options = {"cache_dir": str(cache) if cache else None, "local_files_only": in_cache}
    processor = Wav2Vec2Processor.from_pretrained(name, **options)
    model = Wav2Vec2ForCTC.from_pretrained(name, **options)
    return _Loaded(
        model,
        processor.tokenizer.get_vocab(),
        blank=processor.tokenizer.pad_token_id,
        normalized=bool(processor.feature_extractor.do_normalize),
        padded=model.config.feat_extract_norm == "layer",
    )


def _is_cached(name: str, cache: Path | None) -> bool:
    """Return whether the repository was downloaded before: then the hub is not asked again."""
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(name, "config.json", cache_dir=cache), str)

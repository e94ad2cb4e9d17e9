"""Load a folder of Whisper weights into faster-whisper's model, by what the weights are.

faster-whisper and CTranslate2 believe the small files of the folder. Without `preprocessor_config.json` they compute 80
mel bands for a model that takes 128; with the tokenizer of another model they write other words; with alignment heads
that the decoder lacks they end the process. Here the weights and the vocabulary decide, and what does not fit is put
right or refused.
"""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog

from stages.transcribe.engine.architecture import CONFIG, TOKENIZER, Architecture, WeightsError, read_architecture
from stages.transcribe.engine.devices import Device
from stages.transcribe.engine.protocol import EngineError

THREADS_PER_WORKER: Final = 1
"""A CPU gains more from batches side by side than from threads of one."""


class Loaded(msgspec.Struct, frozen=True):
    """`model` is of the class that loaded it."""

    model: Any
    architecture: Architecture


def load_weights(model_class: Any, path: Path, *, device: Device, compute_type: str, workers: int) -> Loaded:
    """Return the model of `path`. Raises WeightsError for unusable weights and EngineError for an unusable device.

    Args:
        model_class: faster-whisper's `WhisperModel`, or a class derived from it.
        compute_type: one of CTranslate2's, or `auto` for the device's own.
        workers: the batches at a time, each on `THREADS_PER_WORKER`.
    """
    architecture = read_architecture(path)
    if compute_type == "auto":
        compute_type = device.compute_type
    try:
        with _completed(path, architecture) as folder:
            model = model_class(
                str(folder),
                device=device.kind,
                device_index=device.index,
                compute_type=compute_type,
                cpu_threads=THREADS_PER_WORKER,
                num_workers=workers,
            )
    except Exception as error:
        if isinstance(error, OSError) and not (path / TOKENIZER).is_file():
            raise WeightsError(
                f"the weights in {path} have no {TOKENIZER}, and the hub gave none: copy that of the original model"
            ) from error
        if isinstance(error, RuntimeError | ValueError | OSError):
            raise EngineError(f"{path} cannot be loaded on {device} as {compute_type}: {error}") from error
        # The tokenizers raise a plain Exception for a file that they cannot read.
        raise WeightsError(f"the weights in {path} cannot be used: its {TOKENIZER} is damaged: {error}") from error
    _check_tokenizer(model.hf_tokenizer, architecture, path)
    model.feat_kwargs = {**model.feat_kwargs, "feature_size": architecture.n_mels}
    log = structlog.get_logger("callstream.weights")
    if architecture.heads_doubt:
        log.warning(
            "words are timed less exactly",
            path=str(path),
            reason=architecture.heads_doubt,
            used="all heads of the decoder's second half",
        )
    log.info(
        "weights recognised",
        path=str(path),
        shape=architecture.shape,
        parameters=architecture.n_parameters,
        languages=len(architecture.languages),
        mel_bands=architecture.n_mels,
    )
    return Loaded(model, architecture)


@contextmanager
def _completed(path: Path, architecture: Architecture) -> Iterator[Path]:
    """Yield a folder with these weights and a `config.json` that fits them: `path` itself if its own does.

    The other one is a folder of links, which is needed only while the weights are loaded.
    """
    config = json.loads((path / CONFIG).read_text(encoding="utf-8"))
    languages = config.get("lang_ids")
    fits = isinstance(languages, list) and languages and set(languages) <= set(architecture.language_ids)
    if not architecture.heads_doubt and (fits or not architecture.multilingual):
        yield path
        return
    config["alignment_heads"] = architecture.alignment_heads
    if not fits:
        config["lang_ids"] = list(architecture.language_ids)
    with tempfile.TemporaryDirectory(prefix="callstream-weights-") as name:
        for file in path.iterdir():
            if file.name != CONFIG:
                Path(name, file.name).symlink_to(file.resolve())
        Path(name, CONFIG).write_text(json.dumps(config), encoding="utf-8")
        yield Path(name)


def _check_tokenizer(tokenizer: Any, architecture: Architecture, path: Path) -> None:
    """Raise WeightsError unless the tokenizer numbers Whisper's own tokens as the vocabulary does."""
    tokens = architecture.tokens
    own = range(tokens.index("<|endoftext|>"), tokens.index("<|notimestamps|>") + 1)
    for index in own if architecture.multilingual else (own[0], own[1], own[-1]):
        number = tokenizer.token_to_id(tokens[index])
        if number not in (index, None) or (number is None and index in (own[0], own[1], own[-1])):
            has = "tokenizer.json is" if (path / TOKENIZER).is_file() else "no tokenizer.json, and the hub's is"
            raise WeightsError(
                f"the weights in {path} cannot be used: {has} of another model ({tokens[index]} is {number}, not "
                f"{index}): copy that of the original model"
            )

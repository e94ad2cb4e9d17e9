"""What a folder of Whisper weights says about itself, read without loading it.

CTranslate2's `model.bin` names each matrix with its size, which gives layers, width, mel bands and vocabulary. The
vocabulary gives the languages. `config.json` adds the cross-attention heads that word times are read from.

The folder's name says nothing: a fine-tuned or distilled model lies in a folder of any name.
"""

import json
import math
import os
import re
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final

import msgspec

from stages.transcribe.engine.protocol import EngineError

WEIGHTS: Final = "model.bin"
CONFIG: Final = "config.json"
TOKENIZER: Final = "tokenizer.json"

_FORMAT_VERSIONS: Final = range(4, 7)
_SPEC: Final = "WhisperSpec"
_POINTER: Final = b"version https://git-lfs"
_N_MELS: Final = (80, 128)
_POSITIONS: Final = {"encoder": 1500, "decoder": 448}
"""Windows of 30 s, and half of the decoder's positions for their text."""

_SIZES: Final = {(384, 4): "tiny", (512, 6): "base", (768, 12): "small", (1024, 24): "medium", (1280, 32): "large"}
_TURBO_LAYERS: Final = 4
_SPECIAL: Final = ("<|startoftranscript|>", "<|endoftext|>", "<|notimestamps|>")
_REQUIRED: Final = ("suppress_ids", "suppress_ids_begin")
"""Of `config.json`: CTranslate2 fails on each row without them."""
_LAYER: Final = re.compile(r"^(encoder|decoder)/layer_(\d+)/")

Heads = tuple[tuple[int, int], ...]
"""Pairs of a decoder layer and one of its heads."""


class WeightsError(EngineError):
    """The folder does not hold usable Whisper weights: the operator replaces it. The message names folder and cause."""


class Architecture(msgspec.Struct, frozen=True, kw_only=True):
    """The shape of a Whisper model.

    - `width`: of the encoder's output. `heads`: of each attention of the decoder.
    - `tokens`: the vocabulary; a token's id is its index.
    - `language_ids`: the ids of the tokens for languages.
    - `alignment_heads`: the heads whose attention follows the words. `heads_doubt` says why they are not those of
      `config.json`, but all of the decoder's second half, which OpenAI takes for models of its own that it has not
      tuned. Empty: they are the configured ones.
    """

    encoder_layers: int
    decoder_layers: int
    width: int
    heads: int
    n_mels: int
    n_parameters: int
    tokens: Sequence[str]
    language_ids: Sequence[int]
    alignment_heads: Heads
    heads_doubt: str = ""

    @property
    def multilingual(self) -> bool:
        """OpenAI's English models have one token of text less, which moves all others."""
        return self.tokens.index("<|endoftext|>") >= 50_257

    @property
    def languages(self) -> frozenset[str]:
        """ISO 639-1 codes of the languages that it can be told to write, with `haw` and `yue`, which have none."""
        if not self.multilingual:
            return frozenset({"en"})
        return frozenset(self.tokens[index].strip("<|>") for index in self.language_ids)

    @property
    def shape(self) -> str:
        """The published model of this shape, such as `large-v3-turbo`; else its layers and width.

        Weights of a shape need not be that model's: fine-tuning keeps the shape, and large-v1 has that of large-v2.
        """
        size = _SIZES.get((self.width, self.encoder_layers))
        if size is None or self.decoder_layers > self.encoder_layers:
            return f"{self.encoder_layers}+{self.decoder_layers} layers of {self.width}"
        if size == "large":
            size = "large-v3" if self.n_mels == 128 else "large-v2"
        language = "" if self.multilingual else ".en"
        if self.decoder_layers == self.encoder_layers:
            return f"{size}{language}"
        if size == "large-v3" and self.decoder_layers == _TURBO_LAYERS:
            return "large-v3-turbo"
        return f"distil-{size}{language}"

    def row_bytes(self, beam_size: int, *, value_bytes: int = 2) -> int:
        """Return the device memory that a row takes while it is decoded in a window of 30 s, an estimate.

        It is the larger of the attention scores of an encoder layer, and the decoder's keys and values for the
        encoder's output and for 128 positions of text in each beam. For large-v2 at beam 5 that is 0.35 GB;
        faster-whisper's published 6,090 MB with 8 rows and 4,525 with one (float16, RTX 3070 Ti) give 0.22.
        """
        positions = _POSITIONS["encoder"]
        scores = 2 * self.heads * positions**2
        caches = 2 * self.decoder_layers * self.width * (positions + 128 * beam_size)
        return value_bytes * max(scores, caches)


def read_architecture(folder: Path) -> Architecture:
    """Return the shape of the weights in `folder`. Raises WeightsError.

    Takes milliseconds: of `model.bin` the names and sizes alone are read, whatever it weighs.
    """
    if not (folder / WEIGHTS).is_file():
        raise WeightsError(f"{folder} has no {WEIGHTS}: give a folder of Whisper weights in CTranslate2's format")
    try:
        with (folder / WEIGHTS).open("rb") as file:
            sizes, values = _matrices(file, folder / WEIGHTS)
        config = _config(folder / CONFIG)
        tokens = _vocabulary(folder)
        return _architecture(sizes, values, config, tokens)
    except WeightsError as error:
        raise WeightsError(f"the weights in {folder} cannot be used: {error}") from error
    except OSError as error:
        raise WeightsError(f"the weights in {folder} cannot be read: {error}") from error


def _architecture(
    sizes: Mapping[str, Sequence[int]], values: Mapping[str, int], config: Mapping[str, Any], tokens: Sequence[str]
) -> Architecture:
    try:
        width, n_mels, _ = sizes["encoder/conv1/weight"]
        n_tokens, _ = sizes["decoder/embeddings/weight"]
        positions = {side: sizes[f"{side}/position_encodings/encodings"][0] for side in _POSITIONS}
        heads = values["decoder/num_heads"]
    except (KeyError, ValueError, IndexError) as error:
        raise WeightsError(f"{WEIGHTS} lacks a part of Whisper ({error})") from error
    if n_mels not in _N_MELS:
        raise WeightsError(f"it takes {n_mels} mel bands, Whisper 80 or 128")
    if positions != _POSITIONS:
        raise WeightsError(f"it has {positions['encoder']} + {positions['decoder']} positions, Whisper 1500 + 448")
    if len(tokens) != n_tokens:
        raise WeightsError(f"its vocabulary has {len(tokens)} tokens, its weights {n_tokens}")
    missing = [token for token in _SPECIAL if token not in tokens]
    if missing:
        raise WeightsError(f"its vocabulary has no {missing[0]}")
    layers = {"encoder": 0, "decoder": 0}
    for name in sizes:
        if match := _LAYER.match(name):
            side, index = match.groups()
            layers[side] = max(layers[side], int(index) + 1)
    alignment_heads, doubt = _alignment_heads(config, layers["decoder"], heads)
    return Architecture(
        encoder_layers=layers["encoder"],
        decoder_layers=layers["decoder"],
        width=width,
        heads=heads,
        n_mels=n_mels,
        n_parameters=sum(math.prod(size) for name, size in sizes.items() if size and not name.endswith("_scale")),
        tokens=tokens,
        language_ids=_language_ids(tokens),
        alignment_heads=alignment_heads,
        heads_doubt=doubt,
    )


def _language_ids(tokens: Sequence[str]) -> Sequence[int]:
    """Return the ids between the start of a transcript and the first task, where Whisper keeps its languages."""
    first = tokens.index("<|startoftranscript|>") + 1
    last = tokens.index("<|translate|>") if "<|translate|>" in tokens else first
    return range(first, last)


def _alignment_heads(config: Mapping[str, Any], n_layers: int, n_heads: int) -> tuple[Heads, str]:
    """Return the configured heads, or those of the decoder's second half with the reason.

    CTranslate2 does not check them: a head that the decoder lacks, as in distilled models that were converted with the
    heads of their teacher, ends the process. Without any it fails each time that words are aligned.
    """
    upper_half = tuple((layer, head) for layer in range(n_layers // 2, n_layers) for head in range(n_heads))
    try:
        heads = msgspec.convert(config.get("alignment_heads") or (), Heads)
    except msgspec.ValidationError:
        return upper_half, f"the alignment_heads of {CONFIG} are no list of pairs"
    if not heads:
        return upper_half, f"{CONFIG} names no alignment_heads"
    if not all(0 <= layer < n_layers and 0 <= head < n_heads for layer, head in heads):
        return upper_half, f"{CONFIG} names alignment_heads beyond the decoder's {n_layers} layers of {n_heads} heads"
    return heads, ""


def _vocabulary(folder: Path) -> Sequence[str]:
    path = next((folder / name for name in ("vocabulary.json", "vocabulary.txt") if (folder / name).is_file()), None)
    if path is None:
        raise WeightsError("it has no vocabulary.json")
    try:
        text = path.read_text(encoding="utf-8")
        return msgspec.json.decode(text, type=list[str]) if path.suffix == ".json" else text.rstrip("\n").split("\n")
    except (ValueError, msgspec.MsgspecError) as error:
        raise WeightsError(f"its {path.name} is damaged: {error}") from error


def _config(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise WeightsError(f"it has no {CONFIG}") from None
    except ValueError as error:
        raise WeightsError(f"its {CONFIG} is damaged: {error}") from error
    missing = [name for name in _REQUIRED if not isinstance(found, dict) or name not in found]
    if missing:
        raise WeightsError(f"its {CONFIG} has no {missing[0]}: it is not that of CTranslate2's converter")
    return dict(found)


def _matrices(file: BinaryIO, path: Path) -> tuple[dict[str, tuple[int, ...]], dict[str, int]]:
    """Return the size of each matrix in a `model.bin`, and the values of its 16-bit numbers.

    The format: version, model, revision and number of matrices; of each its name, size, type and content. Numbers are
    little-endian; a text is its length with the final zero, and its bytes.
    """
    file_bytes = path.stat().st_size
    if file.read(len(_POINTER)) == _POINTER:
        raise WeightsError(f"{WEIGHTS} is a pointer of Git LFS, not the weights: fetch them with 'git lfs pull'")
    file.seek(0)
    reader = _Reader(file)
    try:
        version = reader.number("<I")
        if version not in _FORMAT_VERSIONS:
            raise WeightsError(f"{WEIGHTS} is not in CTranslate2's format")
        if (spec := reader.text()) != _SPEC:
            raise WeightsError(f"{WEIGHTS} is a {spec!r}, no Whisper model")
        reader.number("<I")
        sizes: dict[str, tuple[int, ...]] = {}
        values: dict[str, int] = {}
        for _ in range(reader.number("<I")):
            name = reader.text()
            sizes[name] = tuple(reader.number("<I") for _ in range(reader.number("<B")))
            reader.number("<B")
            content_bytes = reader.number("<I")
            if not sizes[name] and content_bytes == 2:
                values[name] = reader.number("<h")
            else:
                file.seek(content_bytes, os.SEEK_CUR)
    except (EOFError, UnicodeDecodeError):
        cut = True
    else:
        cut = file.tell() > file_bytes
    if cut:
        raise WeightsError(f"{WEIGHTS} is cut short ({file_bytes:,} bytes): copy it again")
    return sizes, values


class _Reader:
    """Reads the numbers and texts of a binary file. Raises EOFError at its end."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def number(self, form: str) -> int:
        return int(struct.unpack(form, self._exactly(struct.calcsize(form)))[0])

    def text(self) -> str:
        return self._exactly(self.number("<H")).rstrip(b"\0").decode()

    def _exactly(self, n_bytes: int) -> bytes:
        read = self._file.read(n_bytes)
        if len(read) < n_bytes:
            raise EOFError
        return read

"""Whisper models of any shape in CTranslate2's format, with random weights: they load and decode, and say nothing.

The tokenizer is made from that of Whisper base, as OpenAI's differ: those of the English models have one token of text
less, and large-v3's has one language more (`yue`), which moves the tokens after it.
"""

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

_TEXT_TOKENS = 50_257
_FIRST_LANGUAGE = 50_259
_TIMESTAMPS = 1_501


class Shape(msgspec.Struct, frozen=True):
    """`languages`: 1, 99, or 100. A head is 64 wide, as in all of OpenAI's models."""

    width: int
    encoder_layers: int
    decoder_layers: int
    languages: int = 99
    n_mels: int = 80

    @property
    def heads(self) -> int:
        return max(1, self.width // 64)


SHAPES = {
    "tiny": Shape(384, 4, 4),
    "tiny.en": Shape(384, 4, 4, languages=1),
    "base": Shape(512, 6, 6),
    "small": Shape(768, 12, 12),
    "distil-small.en": Shape(768, 12, 4, languages=1),
    "medium": Shape(1024, 24, 24),
    "distil-medium.en": Shape(1024, 24, 2, languages=1),
    "large-v2": Shape(1280, 32, 32),
    "large-v3": Shape(1280, 32, 32, languages=100, n_mels=128),
    "large-v3-turbo": Shape(1280, 32, 4, languages=100, n_mels=128),
    "distil-large-v3": Shape(1280, 32, 2, languages=100, n_mels=128),
}
"""The shapes of the published models."""


def write_whisper(folder: Path, shape: Shape, *, base: Path, seed: int = 0) -> Path:
    """Write a model to `folder`, as float16 like the hub's. `base`: the folder of Whisper base, for its tokenizer."""
    from ctranslate2.specs import WhisperSpec

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer(json.loads((base / "tokenizer.json").read_text()), shape.languages)
    tokens = _tokens(tokenizer)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False))
    (folder / "preprocessor_config.json").write_text(json.dumps({"feature_size": shape.n_mels}))
    spec = WhisperSpec(shape.encoder_layers, shape.heads, shape.decoder_layers, shape.heads)
    _fill(spec, shape, len(tokens), np.random.default_rng(seed))
    spec.register_vocabulary(tokens)
    known = json.loads((base / "config.json").read_text())
    spec.config.suppress_ids = [one for one in known["suppress_ids"] if one < _TEXT_TOKENS - 1]
    spec.config.suppress_ids_begin = [220, tokens.index("<|endoftext|>")]
    first = tokens.index("<|startoftranscript|>") + 1
    spec.config.lang_ids = list(range(first, first + max(99, shape.languages)))
    spec.config.alignment_heads = [
        (layer, head) for layer in range(shape.decoder_layers // 2, shape.decoder_layers) for head in range(shape.heads)
    ]
    spec.validate()
    spec.decoder.projection.weight = "decoder/embeddings/weight"  # one matrix under two names
    spec.save(str(folder))
    return folder


def _tokenizer(tokenizer: dict[str, Any], languages: int) -> dict[str, Any]:
    added = tokenizer["added_tokens"]
    if languages == 1:
        vocabulary = tokenizer["model"]["vocab"]
        last = max(vocabulary, key=vocabulary.__getitem__)
        del vocabulary[last]
        tokenizer["model"]["merges"] = [
            pair
            for pair in tokenizer["model"]["merges"]
            if "".join(pair if isinstance(pair, list) else pair.split()) != last
        ]
        for token in added:
            token["id"] -= 1
    elif languages == 100:
        at = _FIRST_LANGUAGE + 99
        for token in added:
            token["id"] += token["id"] >= at
        cantonese = added[0] | {"id": at, "content": "<|yue|>"}
        added.insert(next(index for index, token in enumerate(added) if token["id"] > at), cantonese)
    ids = {token["content"]: token["id"] for token in added}
    for name, special in tokenizer["post_processor"]["special_tokens"].items():
        special["ids"] = [ids[name]]
    return tokenizer


def _tokens(tokenizer: dict[str, Any]) -> list[str]:
    ids: dict[str, int] = dict(tokenizer["model"]["vocab"])
    ids |= {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    return sorted(ids, key=ids.__getitem__)


def _fill(spec: Any, shape: Shape, n_tokens: int, random: np.random.Generator) -> None:
    width = shape.width

    def made(*size: int) -> np.ndarray[Any, np.dtype[np.float16]]:
        values = random.standard_normal(size, dtype=np.float32)
        return (values * 0.02).astype(np.float16)

    def linear(layer: Any, n_out: int, n_in: int) -> None:
        layer.weight, layer.bias = made(n_out, n_in), np.zeros(n_out, np.float16)

    def norm(layer: Any) -> None:
        layer.gamma, layer.beta = np.ones(width, np.float16), np.zeros(width, np.float16)

    def block(layer: Any) -> None:
        norm(layer.self_attention.layer_norm)
        linear(layer.self_attention.linear[0], 3 * width, width)
        linear(layer.self_attention.linear[1], width, width)
        norm(layer.ffn.layer_norm)
        linear(layer.ffn.linear_0, 4 * width, width)
        linear(layer.ffn.linear_1, width, 4 * width)

    encoder, decoder = spec.encoder, spec.decoder
    encoder.conv1.weight, encoder.conv1.bias = made(width, shape.n_mels, 3), np.zeros(width, np.float16)
    encoder.conv2.weight, encoder.conv2.bias = made(width, width, 3), np.zeros(width, np.float16)
    encoder.position_encodings.encodings = made(1500, width)
    norm(encoder.layer_norm)
    for layer in encoder.layer:
        block(layer)
    decoder.embeddings.weight = made(n_tokens, width)
    decoder.position_encodings.encodings = made(448, width)
    norm(decoder.layer_norm)
    decoder.projection.weight = decoder.embeddings.weight
    for layer in decoder.layer:
        block(layer)
        norm(layer.attention.layer_norm)
        linear(layer.attention.linear[0], width, width)
        linear(layer.attention.linear[1], 2 * width, width)
        linear(layer.attention.linear[2], width, width)

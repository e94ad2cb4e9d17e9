"""A wav2vec2 model of tones with known emissions: weights set by hand, in the files of a real model.

Each letter is a tone of its own frequency. The one convolution holds a cosine and a sine of each, in both signs, over
the model's usual frame (400 samples every 320). The later layers keep the loudest letter; silence is the blank.
"""

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stages.transcribe.engine.windows import SAMPLE_RATE_HZ

LETTERS = "|abcdefghijklmnopqrstuvwxyz'"
FRAME_S = 0.02
LETTER_S = 0.06
_FIRST_HZ, _STEP_HZ = 200, 120


def write_model(folder: Path, *, norm: str = "layer") -> Path:
    """Write the model to `folder` in the format of Hugging Face.

    `norm`: `layer`, or `group` as in the base models. With `group` the emissions are less clean: it amplifies channels
    that no tone excites.
    """
    import torch
    from transformers import Wav2Vec2Config, Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC

    n_letters = len(LETTERS)
    vocabulary = {"<pad>": 0, **{letter: index for index, letter in enumerate(LETTERS, start=1)}}
    vocabulary |= {name: len(vocabulary) + index for index, name in enumerate(("<unk>", "<s>", "</s>"))}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    Wav2Vec2CTCTokenizer(str(folder / "vocab.json"), word_delimiter_token="|").save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=False, return_attention_mask=norm == "layer").save_pretrained(folder)
    size = 4 * n_letters
    config = Wav2Vec2Config(
        vocab_size=len(vocabulary),
        pad_token_id=0,
        hidden_size=size,
        intermediate_size=4,
        num_hidden_layers=1,
        num_attention_heads=1,
        conv_dim=(size,),
        conv_kernel=(400,),
        conv_stride=(320,),
        num_feat_extract_layers=1,
        num_conv_pos_embeddings=2,
        num_conv_pos_embedding_groups=1,
        feat_extract_norm=norm,
        conv_bias=True,
    )
    model = Wav2Vec2ForCTC(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            is_direction = name.endswith("original1")  # of a weight-normalized convolution; its magnitude is zeroed
            if not is_direction and (name.endswith("bias") or "layer_norm" not in name):
                weight.zero_()
        seconds = torch.arange(400) / SAMPLE_RATE_HZ
        angles = 2 * torch.pi * torch.tensor([hz(letter) for letter in LETTERS])[:, None] * seconds
        waves = torch.cat([angles.cos(), angles.sin(), -angles.cos(), -angles.sin()])
        encoder = model.wav2vec2.feature_extractor.conv_layers[0]
        encoder.conv.weight.copy_(waves[:, None, :])
        model.wav2vec2.feature_projection.projection.weight.copy_(torch.eye(size))
        model.lm_head.weight[1 : n_letters + 1] = 10.0 * torch.eye(n_letters).repeat(1, 4)
        model.lm_head.bias[0] = 20.0
    model.save_pretrained(folder)
    return folder


def hz(letter: str) -> float:
    return float(_FIRST_HZ + _STEP_HZ * LETTERS.index(letter))


def spoken(
    text: str, *, before_s: float = 0.4, pause_s: float = 0.24
) -> tuple[NDArray[np.float32], list[tuple[float, float]]]:
    """Return the words as tones, float32, 16 kHz, and the span of each word in seconds.

    A letter lasts `LETTER_S`; between words there is silence with the separator's tone in its middle.
    """
    silence = np.zeros(int((pause_s - 2 * FRAME_S) / 2 * SAMPLE_RATE_HZ))
    pieces = [np.zeros(int(before_s * SAMPLE_RATE_HZ))]
    spans: list[tuple[float, float]] = []
    at_s = before_s
    for word in text.split():
        spans.append((at_s, at_s + LETTER_S * len(word)))
        pieces += [_tone(letter, LETTER_S) for letter in word]
        pieces += [silence, _tone("|", 2 * FRAME_S), silence]
        at_s = spans[-1][1] + pause_s
    return np.concatenate(pieces).astype(np.float32), spans


def _tone(letter: str, seconds: float) -> NDArray[np.float64]:
    return 0.3 * np.sin(2 * np.pi * hz(letter) * np.arange(round(seconds * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ)

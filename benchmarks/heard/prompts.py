"""Prompts of telephone systems as clips of one or few words: real voices, with their texts, in five languages.

From Debian's `asterisk-core-sounds-LANGUAGE` (the texts) and `…-wav` (8 kHz, 16 bit); CC-BY-SA-3.0, the Russian ones
CC-BY-3.0. One voice for each language: Allison Smith speaks English and Spanish, June Wallack Canadian French, Carlo
Flora Italian, ivrvoice.ru Russian.
"""

import gzip
import random
import re
import wave
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.heard.clips import Clip, trimmed
from benchmarks.heard.debian import unpacked
from benchmarks.speech.telephone import RATE_HZ

FOLDER: Final = Path("~/.cache/callstream/prompts").expanduser()
LANGUAGES: Final = ("en", "es", "fr", "it", "ru")
MOST_WORDS: Final = 3
OF_EACH: Final = 110
"""Prompts of each language in the standard selection; some 62 are digits, letters and the phonetic alphabet."""
SEED: Final = 1

KINDS: Final = ("digit", "letter", "phonetic", "word")


def prompts(
    folder: Path = FOLDER, *, languages: Sequence[str] = LANGUAGES, of_each: int | None = OF_EACH, seed: int = SEED
) -> list[Clip]:
    """Return prompts of at most three words; the packages are downloaded if they are missing.

    Of each language: all digits 0 to 9, letters and words of the phonetic alphabet, then other prompts drawn by `seed`
    up to `of_each`; None: all.
    """
    packages = [f"asterisk-core-sounds-{language}{part}" for language in languages for part in ("", "-wav")]
    tree = unpacked(packages, folder)
    found: list[Clip] = []
    for language in languages:
        clips = _of(tree, language)
        if of_each is not None:
            first = [clip for clip in clips if clip.kind != "word"]
            others = [clip for clip in clips if clip.kind == "word"]
            drawn = random.Random(f"{seed} {language}").sample(others, min(len(others), max(0, of_each - len(first))))
            clips = first + sorted(drawn, key=lambda clip: clip.clip_id)
        found += clips
    return found


def texts(lines: str) -> dict[str, str]:
    """Return the texts by prompt. Of two texts for one prompt the first counts; remarks in brackets are no text."""
    found: dict[str, str] = {}
    for line in lines.lstrip("\ufeff").splitlines():
        name, colon, text = line.partition(":")
        said = re.sub(r"\[[^]]*\]|\([^)]*\)|<[^>]*>|\.\.+", " ", text)
        if colon and not name.startswith(";") and re.search(r"\w", said):
            found.setdefault(name.strip(), " ".join(said.split()))
    return found


def kind_of(name: str) -> str:
    if re.fullmatch(r"digits/\d", name):
        return "digit"
    if re.fullmatch(r"letters/[a-z]", name):
        return "letter"
    return "phonetic" if re.fullmatch(r"phonetic/[a-z]_p", name) else "word"


def _of(tree: Path, language: str) -> list[Clip]:
    [document] = (tree / "usr/share/doc" / f"asterisk-core-sounds-{language}").glob(f"core-sounds-{language}.txt*")
    [sounds] = (tree / "usr/share/asterisk/sounds").glob(f"{language}_*")
    clips = []
    for name, text in sorted(texts(_read(document)).items()):
        path = sounds / f"{name}.wav"
        if len(text.split()) <= MOST_WORDS and path.exists():
            with wave.open(str(path), "rb") as file:
                assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (RATE_HZ, 1, 2), path
                samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.int16)
            clips.append(
                Clip(
                    clip_id=f"{language}/{name}",
                    language=language,
                    samples=trimmed(samples),
                    text=text,
                    kind=kind_of(name),
                    speaker=sounds.name,
                )
            )
    return clips


def _read(document: Path) -> str:
    data = document.read_bytes()
    return (gzip.decompress(data) if document.suffix == ".gz" else data).decode("utf-8", "replace")

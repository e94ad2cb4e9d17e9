"""Speech of people with published transcripts: what `human.toml` lists, as clips, and as dry two-leg calls.

    clips = people(clones=None)      # reads the cache, fetches what is missing
    calls = human_calls()            # pairs of speakers who talk in turns

No word times are known; a line's times are those of its sound. About 6,000 words.
"""

import contextlib
import random
import re
import tomllib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from benchmarks.heard.clips import Clip, Samples, trimmed
from benchmarks.heard.repositories import checked_out
from benchmarks.speech.corpus import Call, Corpus, TruthLine, TruthWord, keep
from benchmarks.speech.telephone import RATE_HZ, telephone_voice
from stages.separate.files import open_audio_file

LIST: Final = Path(__file__).with_name("human.toml")
FOLDER: Final = Path("~/.cache/callstream/human").expanduser()
SEED: Final = 5
GAP_S: Final = (0.35, 1.6)
"""Between two lines of a call."""

_FORM: Final = 1


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """An entry of the list: see its head."""

    name: str
    by: str
    repository: str
    commit: str
    licence: str
    audio: str
    reference: str
    transcripts: str | None = None
    texts: dict[str, str] = {}
    speaker: str = ""
    of_each: int | None = None
    speakers: int | None = None
    takes: int | None = None
    language: str = "en"


def sources(kind: str = "source") -> list[Source]:
    return msgspec.convert(tomllib.loads(LIST.read_text(encoding="utf-8"))[kind], list[Source])


def people(folder: Path = FOLDER, *, clones: Path | None = None, seed: int = SEED) -> list[Clip]:
    """Return the clips of all sources, those of one speaker together."""
    return [clip for source in sources() for clip in _clips(source, folder, clones, seed)]


def spoken_digits(folder: Path = FOLDER, *, clones: Path | None = None) -> list[Clip]:
    """Return single digits of several people, of kind `digit SPEAKER TAKE`, so that ten of one person go together."""
    found = []
    for source in sources("digits"):
        tree = checked_out(source.repository, source.commit, [source.audio], folder, clones)
        for path in sorted(tree.glob(source.audio), key=lambda path: (*path.stem.split("_")[1:], path.stem)):
            digit, speaker, take = path.stem.split("_")
            if int(take) < (source.takes or 1):
                found.append(
                    Clip(
                        clip_id=f"{source.name}/{path.stem}",
                        language="en",
                        samples=trimmed(_telephone(path)),
                        text=_DIGITS[int(digit)],
                        kind=f"digit {speaker} {take}",
                        speaker=speaker,
                    )
                )
    return sorted(found, key=lambda clip: (clip.kind, clip.clip_id))


def human_calls(
    folder: Path = FOLDER,
    *,
    clones: Path | None = None,
    n_calls: int | None = None,
    seed: int = SEED,
    on_progress: Callable[[str], None] = lambda _name: None,
) -> Corpus:
    """Return dry calls of two people who talk in turns; two speakers of one source make a call."""
    made = folder / f"calls-{_FORM}-{seed}"
    made.mkdir(parents=True, exist_ok=True)
    marker = made / "names.json"
    if not marker.exists():
        names = []
        for name, legs in _pairs(people(folder, clones=clones, seed=seed)):
            on_progress(name)
            _assemble(made / f"{name}.json", legs, random.Random(f"{seed} {name}"))
            names.append(name)
        marker.write_bytes(msgspec.json.encode(names))
    names = msgspec.json.decode(marker.read_bytes(), type=list[str])
    calls = [msgspec.json.decode((made / f"{name}.json").read_bytes(), type=Call) for name in names[:n_calls]]
    return Corpus(made, calls)


def sphinx_texts(lines: str) -> dict[str, str]:
    """Return texts by file name of lines as `<s> YES </s> (an251-fash-b)`."""
    found = {}
    for line in lines.splitlines():
        match = re.fullmatch(r"(.*?)\s*\((\S+)\)\s*", line)
        if match:
            found[match[2]] = " ".join(re.sub(r"</?s>", " ", match[1]).split())
    return found


def drawn(clips: Sequence[Clip], of_each: int | None, speakers: int | None, seed: int) -> list[Clip]:
    """Return of each speaker clips with at most `of_each` words, drawn by `seed`, in their own order."""
    groups: dict[str, list[Clip]] = {}
    for clip in clips:
        groups.setdefault(clip.speaker, []).append(clip)
    rng = random.Random(seed)
    names = sorted(groups)
    if speakers is not None:
        names = sorted(rng.sample(names, min(speakers, len(names))))
    kept: list[Clip] = []
    for name in names:
        words, chosen = 0, []
        for clip in rng.sample(groups[name], len(groups[name])):
            n_words = len(clip.text.split())
            if of_each is None or words + n_words <= of_each:
                words += n_words
                chosen.append(clip)
        kept += sorted(chosen, key=lambda clip: clip.clip_id)
    return kept


_DIGITS: Final = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_NOTHING: Final = np.zeros(0, np.int16)


def _clips(source: Source, folder: Path, clones: Path | None, seed: int) -> list[Clip]:
    """Return a source's chosen clips. Only their files are decoded."""
    paths = [source.audio, *([source.transcripts] if source.transcripts else [])]
    if source.reference == "librispeech":
        paths.append(f"{Path(source.audio).parent}/*.trans.txt")
    tree = checked_out(source.repository, source.commit, paths, folder, clones)
    found = []
    for path in sorted(tree.glob(source.audio)):
        relative = str(path.relative_to(tree))
        text = _text(source, tree, path)
        speaker = re.search(source.speaker, relative) if source.speaker else None
        if text:
            found.append(
                Clip(
                    clip_id=relative,
                    language=source.language,
                    samples=_NOTHING,
                    text=text,
                    kind=source.name,
                    speaker=f"{source.name} {speaker[1]}" if speaker else source.name,
                )
            )
    chosen = drawn(found, source.of_each, source.speakers, seed)
    return [msgspec.structs.replace(clip, samples=_telephone(tree / clip.clip_id)) for clip in chosen]


def _text(source: Source, tree: Path, path: Path) -> str | None:
    if source.reference == "given":
        return source.texts.get(str(path.relative_to(tree)))
    if source.reference == "librispeech":
        speaker, chapter, _ = path.stem.split("-")
        return dict(_pairs_of(path.with_name(f"{speaker}-{chapter}.trans.txt"), " ")).get(path.stem)
    assert source.transcripts is not None
    listed = tree / source.transcripts
    if source.reference == "sphinx":
        return sphinx_texts(listed.read_text(encoding="utf-8")).get(path.stem)
    return dict(_pairs_of(listed, "|")).get(path.stem, "").split("|")[0] or None


def _pairs_of(path: Path, separator: str) -> Iterator[tuple[str, str]]:
    for line in path.read_text(encoding="utf-8").splitlines():
        name, _, text = line.partition(separator)
        yield name, text


def _telephone(path: Path) -> Samples:
    """Return a file as int16 in the telephone's band and at its level, mono, 8 kHz."""
    audio = open_audio_file(path)
    with contextlib.closing(audio):
        frames = np.frombuffer(b"".join(audio), "<i2").reshape(-1, audio.channels)
    rate_hz = audio.sample_rate_hz
    voice = telephone_voice(frames[:, 0].astype(np.float32) / np.float32(32768), rate_hz, 1.0)
    return np.clip(np.round(voice * 32767), -32768, 32767).astype(np.int16)


def _pairs(clips: Sequence[Clip]) -> Iterator[tuple[str, tuple[list[Clip], list[Clip]]]]:
    """Yield the two legs of each call: speakers of one source in their order; the rest make the last calls."""
    groups: dict[str, list[Clip]] = {}
    for clip in clips:
        groups.setdefault(clip.speaker, []).append(clip)
    by_source: dict[str, list[list[Clip]]] = {}
    for group in groups.values():
        by_source.setdefault(group[0].kind, []).append(group)
    single: list[list[Clip]] = []
    for source, speakers in by_source.items():
        for index in range(0, len(speakers) - 1, 2):
            yield f"{source}-{index // 2:02}", (speakers[index], speakers[index + 1])
        if len(speakers) % 2:
            single.append(speakers[-1])
    for index in range(0, len(single), 2):
        yield f"others-{index // 2:02}", (single[index], single[index + 1] if index + 1 < len(single) else [])


def _assemble(truth: Path, legs: tuple[list[Clip], list[Clip]], rng: random.Random) -> None:
    order = [(leg, clip) for pair in _interleaved(*legs) for leg, clip in pair]
    at = int(0.8 * RATE_HZ)
    placed: list[tuple[int, int, Clip]] = []
    lines = []
    for leg, clip in order:
        start_s, end_s = at / RATE_HZ, (at + len(clip.samples)) / RATE_HZ
        words = [TruthWord(word, None, None) for word in clip.text.split()]
        lines.append(TruthLine(leg, round(start_s, 4), round(end_s, 4), clip.text, words))
        placed.append((leg, at, clip))
        at += len(clip.samples) + int(rng.uniform(*GAP_S) * RATE_HZ)
    pcm = np.zeros((at + RATE_HZ, 2), np.int16)
    for leg, first, clip in placed:
        pcm[first : first + len(clip.samples), leg] = clip.samples
    voices = [leg[0].speaker if leg else "" for leg in legs]
    keep(truth, pcm, lines, "clean", language=order[0][1].language, voices=voices)


def _interleaved(one: list[Clip], other: list[Clip]) -> Iterator[list[tuple[int, Clip]]]:
    for index in range(max(len(one), len(other))):
        yield [(leg, clips[index]) for leg, clips in enumerate((one, other)) if index < len(clips)]

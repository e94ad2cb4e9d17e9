"""Calls spoken by Kokoro's voices, whose every word is known: legs that differ as people do.

The legs are kept dry: voices alone in the telephone's band, before noise, echo and coding
(`benchmarks.heard.conditions` adds them). Sets of calls:

- `english`: sentences of `benchmarks.speech.scripts` by nine pairs of American and British voices, legs that differ in
  level by up to 12 dB, in every third call speakers who interrupt each other, and in each call a line that the customer
  shouts or laughs out.
- `es`, `fr`, `it`, `pt`, `hi`: two calls each, from `scripts`.
- `mixed`: calls that begin in English and go on in another language.
"""

import random
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from benchmarks.heard.kokoro import Kokoro, accent_of
from benchmarks.speech.corpus import Call, Corpus, TruthWord, Variant, keep, laid_out, said
from benchmarks.speech.script import AGENT, CUSTOMER, SETTINGS, ScriptLine, ScriptWriter, drawn_key
from benchmarks.speech.telephone import Float

FOLDER: Final = Path("~/.cache/callstream/heard").expanduser()
SCRIPTS: Final = Path(__file__).parent / "scripts"
SEED: Final = 11
LANGUAGES: Final = ("es", "fr", "it", "pt", "hi")
SETS: Final = ("english", *LANGUAGES, "mixed")
WORDS_PER_CALL: Final = 110
SHOUT_DB: Final = 9.0
SHOUT_SPEED: Final = 1.15
SHOUT_PITCH: Final = 1.08
LEVEL_DB: Final = 6.0
"""Most by which a leg is louder or softer than usual."""

_FORM: Final = 1
"""To be increased when this module makes other calls from the same sentences."""

Shares = dict[str, float]
Pair = tuple[Shares, Shares]

PAIRS: Final[tuple[Pair, ...]] = tuple(
    ({agent: 1.0}, {customer: 1.0})
    for agent, customer in (
        ("af_heart", "am_michael"),
        ("bm_george", "bf_emma"),
        ("am_adam", "bf_isabella"),
        ("af_bella", "bm_lewis"),
        ("bf_alice", "am_fenrir"),
        ("am_eric", "af_sarah"),
        ("af_nova", "bm_daniel"),
        ("bm_fable", "af_kore"),
        ("am_puck", "bf_lily"),
    )
)
OF_LANGUAGE: Final[dict[str, Pair]] = {
    "es": ({"ef_dora": 1.0}, {"em_alex": 1.0}),
    "fr": ({"ff_siwis": 1.0}, {"ff_siwis": 0.4, "am_michael": 0.6}),
    "it": ({"if_sara": 1.0}, {"im_nicola": 1.0}),
    "pt": ({"pf_dora": 1.0}, {"pm_alex": 1.0}),
    "hi": ({"hf_alpha": 1.0}, {"hm_omega": 1.0}),
}
"""French has one voice; its second is blended."""


class Planned(msgspec.Struct, frozen=True, kw_only=True):
    """A call to be spoken. `languages`: of each line; `shouted`: its lines that are."""

    name: str
    language: str
    script: list[ScriptLine]
    languages: list[str]
    voices: Pair
    variant: Variant = "clean"
    shouted: frozenset[int] = frozenset()


def voiced(
    which: str,
    folder: Path = FOLDER,
    *,
    n_calls: int | None = None,
    seed: int = SEED,
    on_progress: Callable[[str], None],
) -> Corpus:
    """Return the calls of one of `SETS`, at most `n_calls`. Missing ones are made, about a CPU minute each.

    `on_progress` is called with the name of each call before it is made.
    """
    made = folder / f"{which}-{drawn_key(_FORM, seed, WORDS_PER_CALL, *map(_digest, sorted(SCRIPTS.glob('*.toml'))))}"
    made.mkdir(parents=True, exist_ok=True)
    calls = []
    for number, planned in enumerate(list(plans(which, seed))[:n_calls]):
        truth = made / f"{planned.name}.json"
        if not truth.exists():
            on_progress(planned.name)
            with Kokoro() as kokoro:
                _make(truth, planned, kokoro, seed * 1000 + number)
        calls.append(msgspec.json.decode(truth.read_bytes(), type=Call))
    return Corpus(made, calls)


def plans(which: str, seed: int) -> Iterator[Planned]:
    """Yield the calls of a set."""
    if which == "english":
        yield from _english(seed)
    elif which == "mixed":
        first = next(_english(seed + 1))
        opening = first.script[:6]
        for language in ("es", "fr", "it"):
            [other, *_] = _written(language)
            yield Planned(
                name=f"en-{language}",
                language="en",
                script=[*opening, *other],
                languages=["en"] * len(opening) + [language] * len(other),
                voices=OF_LANGUAGE[language],
            )
    else:
        for number, script in enumerate(_written(which)):
            yield Planned(
                name=f"{which}-{number}",
                language=which,
                script=script,
                languages=[which] * len(script),
                voices=OF_LANGUAGE[which],
            )


def _english(seed: int) -> Iterator[Planned]:
    writer, rng = ScriptWriter(seed), random.Random(seed)
    shouts = rng.sample(_load("excited")["lines"], len(_load("excited")["lines"]))
    for number, voices in enumerate(PAIRS):
        variant: Variant = "overlap" if number % 3 == 2 else "clean"
        setting = SETTINGS[number % len(SETTINGS)]
        script = writer.write(setting, WORDS_PER_CALL, backchannels=variant == "overlap")
        at = rng.randrange(len(script) // 2, len(script) - 2)
        script.insert(at, ScriptLine(CUSTOMER, shouts[number % len(shouts)]))
        yield Planned(
            name=f"{number}-{setting}-{variant}",
            language="en",
            script=script,
            languages=["en"] * len(script),
            voices=voices,
            variant=variant,
            shouted=frozenset([at]),
        )


def _written(language: str) -> list[list[ScriptLine]]:
    return [
        [
            ScriptLine(channel, said)
            for exchange in call
            for channel, said in zip((AGENT, CUSTOMER), exchange.split(" | "), strict=True)
        ]
        for call in _load(language)["calls"]
    ]


def _make(truth: Path, planned: Planned, kokoro: Kokoro, seed: int) -> None:
    rng = random.Random(seed)
    gains = [10 ** (rng.uniform(-LEVEL_DB, LEVEL_DB) / 20) for _ in planned.voices]
    number = iter(range(len(planned.script)))

    def say(line: ScriptLine) -> tuple[Float, list[TruthWord]]:
        index = next(number)
        shouted, voice = index in planned.shouted, planned.voices[line.channel]
        pitch = SHOUT_PITCH if shouted else 1.0
        speed = SHOUT_SPEED / pitch if shouted else 1.0
        accent = None if planned.languages[index] == "en" and _is_english(voice) else _accent(planned.languages[index])
        audio, words = said(kokoro.say(line.text, voice, accent=accent, speed=speed), kokoro.rate_hz, pitch, rng)
        return audio * gains[line.channel] * (10 ** (SHOUT_DB / 20) if shouted else 1.0), words

    legs, lines = laid_out(planned.script, say, planned.variant, rng)
    keep(
        truth,
        np.clip(np.round(np.stack(legs, axis=1) * 32767), -32768, 32767).astype(np.int16),
        lines,
        planned.variant,
        language=planned.language,
        languages=planned.languages if len(set(planned.languages)) > 1 else [],
        voices=["+".join(shares) for shares in planned.voices],
    )


def _is_english(shares: Shares) -> bool:
    return accent_of(next(iter(shares))) in ("american", "british")


def _accent(language: str) -> str:
    return "american" if language == "en" else language


def _load(name: str) -> dict[str, Any]:
    return tomllib.loads((SCRIPTS / f"{name}.toml").read_text(encoding="utf-8"))


def _digest(path: Path) -> str:
    return path.read_text(encoding="utf-8")

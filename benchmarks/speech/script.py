"""Scripts of calls: our own sentences, put together by a seeded draw.

The sentences are in `scripts/`: a file for each kind of call and `shared.toml` for all calls. Words in braces are slots
for names, numbers, dates and spelled letters. Everything is written as it is spoken, so that a voice says exactly these
words. Sentences are drawn from a shuffled deck: none repeats before all have been drawn.
"""

import hashlib
import random
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

SCRIPTS: Final = Path(__file__).parent / "scripts"
SETTINGS: Final = ("bank", "hospital", "service")
AGENT: Final = 0
CUSTOMER: Final = 1
ROLES: Final = ("agent", "customer")

Manner = Literal["turn", "backchannel"]


class ScriptLine(msgspec.Struct, frozen=True):
    """A line of one speaker. A `backchannel` is spoken during the line before it."""

    channel: int
    text: str
    manner: Manner = "turn"


class _Deck:
    """Draws without repetition until all have been drawn."""

    def __init__(self, rng: random.Random, cards: Sequence[str]) -> None:
        self._rng = rng
        self._cards = list(cards)
        self._left: list[str] = []

    def draw(self) -> str:
        if not self._left:
            self._left = self._rng.sample(self._cards, len(self._cards))
        return self._left.pop()


class ScriptWriter:
    """Writes scripts of calls. The same seed gives the same scripts in the same order."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        shared = _load("shared")
        self._slots: dict[str, list[str]] = shared.pop("slots")
        self._decks = {("shared", part): _Deck(self._rng, lines) for part, lines in shared.items()}
        for setting in SETTINGS:
            for part, lines in _load(setting).items():
                self._decks[setting, part] = _Deck(self._rng, lines)

    def write(self, setting: str, n_words: int, *, backchannels: bool) -> list[ScriptLine]:
        """Write a call of at least `n_words`; with `backchannels` the listener says "yes" during monologues."""
        kept: dict[str, str] = {}

        def drawn(part: str, of: str = setting) -> list[str]:
            return [self._filled(said, kept) for said in self._decks[of, part].draw().split(" | ")]

        lines = _exchange(drawn("openings"))
        lines.append(ScriptLine(CUSTOMER, drawn("problems")[0]))
        monologues = [(AGENT, "explanations", setting), (CUSTOMER, "stories", "shared")]
        self._rng.shuffle(monologues)
        while sum(len(line.text.split()) for line in lines) < n_words:
            for _ in range(self._rng.randint(3, 6)):
                lines += _exchange(drawn("exchanges"))
            if monologues:
                channel, part, of = monologues.pop()
                lines.append(ScriptLine(channel, drawn(part, of)[0]))
                if backchannels:
                    lines.append(ScriptLine(1 - channel, drawn("backchannels", "shared")[0], "backchannel"))
            lines.append(ScriptLine(CUSTOMER, drawn("reactions", "shared")[0]))
        return [*lines, *_exchange(drawn("closings")), *_exchange(drawn("closings"))]

    def monologue(self) -> str:
        """Write a caller's story or an agent's explanation, some sentences long."""
        setting, part = self._rng.choice([("shared", "stories"), *((setting, "explanations") for setting in SETTINGS)])
        return self._filled(self._decks[setting, part].draw(), {})

    def _filled(self, text: str, kept: dict[str, str]) -> str:
        """Fill all slots. Names of agent and company stay the same within a call."""

        def fill(match: re.Match[str]) -> str:
            slot = match[1]
            if slot == "spelled":
                return ", ".join(self._rng.choice(self._slots["last"]).upper())
            value = kept.get(slot) or self._filled(self._rng.choice(self._slots[slot]), kept)
            if slot in ("agent", "bank", "hospital", "company", "daytime"):
                kept[slot] = value
            return value

        filled = re.sub(r"\{(\w+)\}", fill, text)
        return filled[0].upper() + filled[1:]


def drawn_key(form: int, seed: int, *parameters: object) -> str:
    """Return a name for what is made from the sentences: another one when they, `form` or `parameters` change."""
    digest = hashlib.sha256(" ".join(map(str, (form, seed, *parameters))).encode())
    for path in sorted(SCRIPTS.glob("*.toml")):
        digest.update(path.read_bytes())
    return f"{digest.hexdigest()[:12]}-{seed}"


def _exchange(said: Sequence[str]) -> list[ScriptLine]:
    return [ScriptLine(AGENT, said[0]), ScriptLine(CUSTOMER, said[1])]


def _load(name: str) -> dict[str, Any]:
    return tomllib.loads((SCRIPTS / f"{name}.toml").read_text(encoding="utf-8"))

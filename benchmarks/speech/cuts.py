"""The cost of cuts in the middle of speech: word errors beside them and elsewhere."""

from collections.abc import Sequence
from typing import Any, Final

import jiwer
import msgspec

from benchmarks.speech.corpus import Call
from schemas.segments import Segment
from schemas.utterances import Utterance
from tests.calls.wording import comparable

BESIDE_S: Final = 1.0
INSIDE_S: Final = 0.03
"""A cut at least this far inside a word divides it. Word times are no more exact than that."""


class PlaceErrors(msgspec.Struct, frozen=True):
    """Word errors beside cuts, or elsewhere. `words` counts the words said; `inserted` those written and not said."""

    words: int = 0
    changed: int = 0
    lost: int = 0
    inserted: int = 0

    def __add__(self, other: "PlaceErrors") -> "PlaceErrors":
        return PlaceErrors(
            self.words + other.words,
            self.changed + other.changed,
            self.lost + other.lost,
            self.inserted + other.inserted,
        )

    @property
    def percent(self) -> float:
        return 100 * (self.changed + self.lost + self.inserted) / self.words if self.words else 0.0

    def described(self) -> dict[str, Any]:
        return {"percent": round(self.percent, 3), **msgspec.structs.asdict(self)}


class CutErrors(msgspec.Struct, frozen=True):
    """Errors of some monologues. `inside` counts the cuts that divide a word."""

    cuts: int = 0
    inside: int = 0
    beside: PlaceErrors = PlaceErrors()
    elsewhere: PlaceErrors = PlaceErrors()
    examples: tuple[str, ...] = ()

    def __add__(self, other: "CutErrors") -> "CutErrors":
        return CutErrors(
            self.cuts + other.cuts,
            self.inside + other.inside,
            self.beside + other.beside,
            self.elsewhere + other.elsewhere,
            self.examples + other.examples,
        )

    def described(self) -> dict[str, Any]:
        return {
            "cuts": self.cuts,
            "inside_a_word": self.inside,
            "beside": self.beside.described(),
            "elsewhere": self.elsewhere.described(),
            "examples": list(self.examples),
        }


def cut_errors(call: Call, utterances: Sequence[Utterance], segments: Sequence[Segment]) -> CutErrors:
    """Return the errors of a monologue, whose words must each stay one word in `comparable` (see `monologues`)."""
    cuts = [utterance.end_s for utterance in utterances if utterance.cut == "hard"]
    said = [comparable(word.text) for line in call.lines for word in line.words]
    times = [at_s for _, at_s in call.word_times()]
    written = comparable(" ".join(segment.text for segment in sorted(segments, key=lambda one: one.start_s)))
    is_beside = [any(abs(at_s - cut) <= BESIDE_S for cut in cuts) for at_s in times]
    counts = {place: [is_beside.count(place), 0, 0, 0] for place in (True, False)}
    examples = []
    outcome = jiwer.process_words(" ".join(said), written)
    given = outcome.hypotheses[0]
    for chunk in outcome.alignments[0]:
        if chunk.type == "equal":
            continue
        first, last = chunk.ref_start_idx, chunk.ref_end_idx
        kind = {"substitute": 1, "delete": 2, "insert": 3}[chunk.type]
        n_inserted = chunk.hyp_end_idx - chunk.hyp_start_idx
        for index in range(first, last) if kind < 3 else [min(first, len(said) - 1)] * n_inserted:
            counts[is_beside[index]][kind] += 1
        if any(is_beside[index] for index in range(first, max(last, min(first + 1, len(said))))):
            heard = " ".join(given[chunk.hyp_start_idx : chunk.hyp_end_idx])
            before = " ".join(said[max(0, first - 3) : first])
            examples.append(
                f"{call.name} {times[min(first, len(times) - 1)]:.1f} s: … {before} "
                f"[{' '.join(said[first:last]) or '–'}: {heard or '–'}]"
            )
    spans = [(word.start_s, word.end_s) for line in call.lines for word in line.words]
    inside = sum(
        any(s is not None and e is not None and s + INSIDE_S < cut < e - INSIDE_S for s, e in spans) for cut in cuts
    )
    return CutErrors(len(cuts), inside, PlaceErrors(*counts[True]), PlaceErrors(*counts[False]), tuple(examples))

"""Labelled claims about calls, and how well a check judges them."""

import time
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from stages.adapters.embedding import Embedder
from stages.summarize.check.support import Support, SupportCheck
from stages.summarize.claims import Claim

CLAIMS: Final = Path(__file__).parent / "claims"
SPLITS: Final = ("dev", "test", "fresh", "all")
SUPPORTED: Final = "supported"
KINDS: Final = ("altered number", "swapped speaker", "invented", "negated")
"""Labels of the other claims: what is wrong with them."""


class Line(msgspec.Struct, frozen=True):
    """A turn of a call as the check sees it. Its one segment id is its number, from 1."""

    speaker: str
    text: str
    segment_ids: list[str]


class LabelledCall(msgspec.Struct, frozen=True):
    name: str
    split: str
    lines: list[Line]
    claims: list[tuple[str, Claim]]
    """Pairs of label and claim."""


class Judged(msgspec.Struct, frozen=True):
    call: str
    label: str
    text: str
    support: Support

    @property
    def right(self) -> bool:
        return self.support.supported == (self.label == SUPPORTED)


def labelled_calls(split: str = "all") -> list[LabelledCall]:
    """Return the calls of `claims/`, sorted by name. Raises ValueError for an unknown label or line."""
    calls = [_call(path) for path in sorted(CLAIMS.glob("*.toml"))]
    return [call for call in calls if split in ("all", call.split)]


def _call(path: Path) -> LabelledCall:
    data = tomllib.loads(path.read_text(encoding="utf-8"))
    lines = [Line(speaker, text, [str(number)]) for number, (speaker, text) in enumerate(data["lines"], start=1)]
    for label, cited, text in data["claims"]:
        if label not in (SUPPORTED, *KINDS) or not cited or not all(1 <= number <= len(lines) for number in cited):
            raise ValueError(f"{path.name}: {label} {cited} {text}")
    claims = [(label, Claim(text, [str(number) for number in cited])) for label, cited, text in data["claims"]]
    return LabelledCall(path.stem, data["split"], lines, claims)


def measured(calls: Sequence[LabelledCall], embedders: dict[str, Embedder | None]) -> dict[str, Any]:
    figures = {}
    for name, embedder in embedders.items():
        check = SupportCheck(embedder)
        judge(check, calls[0])  # loads what is loaded once
        started, started_cpu = time.perf_counter(), time.process_time()
        judged = [one for call in calls for one in judge(check, call)]
        elapsed_s, cpu_s = time.perf_counter() - started, time.process_time() - started_cpu
        figures[name] = rates(judged) | {
            "ms_per_claim": round(1000 * elapsed_s / len(judged), 1),
            "cpu_ms_per_claim": round(1000 * cpu_s / len(judged), 1),
            "misjudged": [msgspec.to_builtins(one) for one in judged if not one.right],
        }
    return figures


def judge(check: SupportCheck, call: LabelledCall) -> list[Judged]:
    """Judge all claims of a call at once, as those of one summary are."""
    answers = check.judge([claim for _, claim in call.claims], call.lines)
    return [
        Judged(call.name, label, claim.text, answer)
        for (label, claim), answer in zip(call.claims, answers, strict=True)
    ]


def rates(judged: Sequence[Judged]) -> dict[str, Any]:
    """Return precision, recall and F1 of both answers, and for each label how many claims were judged right."""
    labels = {label: [one for one in judged if one.label == label] for label in (SUPPORTED, *KINDS)}
    return {
        "claims": len(judged),
        "supported": _rates([(one.label == SUPPORTED, one.support.supported) for one in judged]),
        "unsupported": _rates([(one.label != SUPPORTED, not one.support.supported) for one in judged]),
        "right": {label: [sum(one.right for one in of), len(of)] for label, of in labels.items()},
    }


def _rates(pairs: Sequence[tuple[bool, bool]]) -> dict[str, float]:
    """Compute rates from pairs (true, judged true). If nothing is judged true, precision is 0."""
    both = sum(true and said for true, said in pairs)
    precision = both / max(sum(said for _, said in pairs), 1)
    recall = both / max(sum(true for true, _ in pairs), 1)
    f1 = 2 * precision * recall / (precision + recall) if both else 0.0
    return {"precision": round(precision, 3), "recall": round(recall, 3), "f1": round(f1, 3)}

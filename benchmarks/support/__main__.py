"""The check of summaries on claims whose truth is known: what it passes and what it stops.

    python -m benchmarks.support [--split test] [--show] [--json FILE]

`claims/` holds calls and claims that a summary might make about them. Each claim cites lines and has a label:
supported, or what is wrong with it. The split `dev` was for tuning the check. `test` and then `fresh` were held out
until they had been measured once; bugs that they showed were fixed afterwards. Only the first figures are of unseen
claims: precision and recall of supported 0.887 and 0.902 (test), 0.931 and 0.900 (fresh), of unsupported 0.906 and
0.892, 0.914 and 0.941. The table has both answers, with sentence embeddings and without, on one core.

What it does not show: claims that a language model wrote. Claims, labels, calls and the check are by the same authors,
and a model errs in other ways and less often.
"""

import argparse
import sys
from typing import Any

import torch

from benchmarks.harness.command import add_outputs, benchmark_parser
from benchmarks.harness.report import write_report
from benchmarks.support.labelled import SPLITS, labelled_calls, measured
from pipeline.settings import DEFAULT_EMBEDDING_MODEL
from pipeline.wiring.weights import embedding_weights
from stages.adapters.embedding import SentenceEmbedder


def parser() -> argparse.ArgumentParser:
    made = benchmark_parser("support", __doc__)
    made.add_argument("--split", choices=SPLITS, default="test", help="which claims (test)")
    made.add_argument("--show", action="store_true", help="list the misjudged claims")
    add_outputs(made)
    return made


def main() -> int:
    given = parser().parse_args()
    torch.set_num_threads(1)
    embedder = SentenceEmbedder(embedding_weights(DEFAULT_EMBEDDING_MODEL), name=DEFAULT_EMBEDDING_MODEL)
    figures = measured(labelled_calls(given.split), {DEFAULT_EMBEDDING_MODEL: embedder, "without embeddings": None})
    show(figures, misjudged=given.show)
    claims = {"split": given.split, "claims": next(iter(figures.values()))["claims"]}
    write_report("support", {"checks": figures}, given.json, given=claims, runs=1)
    return 0


def show(figures: dict[str, Any], *, misjudged: bool) -> None:
    print("| check | answer | precision | recall | F1 |\n|---|---|---|---|---|")
    for name, one in figures.items():
        for answer in ("supported", "unsupported"):
            rate = one[answer]
            print(f"| {name} | {answer} | {rate['precision']:.3f} | {rate['recall']:.3f} | {rate['f1']:.3f} |")
    for name, one in figures.items():
        right = ", ".join(f"{label} {n} of {of}" for label, (n, of) in one["right"].items())
        took = f"{one['ms_per_claim']} ms a claim, {one['cpu_ms_per_claim']} of CPU"
        print(f"{name}: judged right of {one['claims']}: {right}; {took}")
        for wrong in one["misjudged"] if misjudged else []:
            support = wrong["support"]
            why = f"{support['reason']}, {support['detail']}" if support["reason"] else f"passed, {support['score']}"
            print(f"  {wrong['call']}, {wrong['label']}: {wrong['text']} ({why})")


if __name__ == "__main__":
    sys.exit(main())

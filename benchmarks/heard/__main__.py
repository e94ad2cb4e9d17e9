"""Every word that was said: what reached no utterance and no word, word errors, words that come twice.

    python -m benchmarks.heard fetch [--clones DIR]
    python -m benchmarks.heard measure [--corpora english human] [--conditions clean …] [--calls N] [--real FILE…]
        [--stm WAV STM] [--kinds ours whisperx windows] [--json FILE] [--plot FILE]
    python -m benchmarks.heard words [--of-each 110] [--kinds ours live windows] [--json FILE]
    python -m benchmarks.heard twins [--calls 3] [--json FILE]

Corpora, made or fetched into ~/.cache/callstream by `fetch`: `english` (calls by 18 synthetic voices), `es`, `fr`,
`it`, `pt`, `hi`, `mixed` (their language is to be detected), `human` (people, with published transcripts). `measure`
puts each under conditions (`benchmarks.heard.conditions`) and compares, on the same samples and model,

- the share of the reference's speech in no utterance and in no word. The reference's speech is where the dry voice is
  loud, not what a detector of ours finds; speech within 0.1 s of an utterance or 0.3 s of a word's times is in it
- reference words in no utterance; without a word at their time, but marked as unheard; in neither
- word errors: substituted, deleted, inserted

of the contenders in `benchmarks.heard.contenders`. What the plain tools make of a set is kept; `--again` repeats them.

`words`: prompts of one or few words, alone, one a second and with a second between them: how many come twice or more
often, of how many nothing comes. `twins`: one voice on two channels and crosstalk, through the whole pipeline.

What it does not show: a GPU, other models, calls recorded on real lines except for the files that are given.
"""

import argparse
import asyncio
import json
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from benchmarks.harness.command import add_outputs, add_settings, benchmark_parser
from benchmarks.harness.report import write_report
from benchmarks.heard.conditions import CONDITIONS
from benchmarks.heard.contenders import KINDS
from benchmarks.heard.human import human_calls, spoken_digits
from benchmarks.heard.measuring import Run, against, report
from benchmarks.heard.prompts import LANGUAGES, OF_EACH, prompts
from benchmarks.heard.sets import Set, every, of_files, of_stm_file, under
from benchmarks.heard.tables import show_measured, show_twins, show_words
from benchmarks.heard.twins import FORMS, twins_report
from benchmarks.heard.voiced import SETS, voiced
from benchmarks.heard.word_table import word_sets, words_report
from benchmarks.speech.corpus import Corpus
from pipeline.wiring.weights import resolve_model

CORPORA: Final = ("english", "human", *SETS[1:])
EVERYTHING: Final = ("prompts", *CORPORA)


def parser() -> argparse.ArgumentParser:
    made = benchmark_parser("heard", __doc__)
    commands = made.add_subparsers(dest="command", required=True)
    fetching = commands.add_parser("fetch", help="fetch and make the corpora that do not exist yet")
    fetching.add_argument("--clones", type=Path, metavar="DIR", help="clones of repositories to use instead of GitHub")
    fetching.add_argument("--corpora", nargs="+", choices=EVERYTHING, default=EVERYTHING, help="which (all)")
    add_outputs(fetching)
    measuring = commands.add_parser("measure", help="coverage and word errors")
    measuring.add_argument("--corpora", nargs="*", choices=CORPORA, default=("english", "human"), help="which")
    measuring.add_argument(
        "--conditions", nargs="+", choices=[*CONDITIONS, "all"], default=["clean"], help="which (clean)"
    )
    measuring.add_argument("--calls", type=int, help="only so many calls of each corpus, spread over it (all)")
    measuring.add_argument("--real", nargs="+", type=Path, default=[], metavar="FILE", help="channels of one real call")
    measuring.add_argument("--stm", nargs=2, type=Path, default=None, metavar=("WAV", "STM"), help="with its reference")
    measuring.add_argument("--kinds", nargs="+", choices=KINDS, default=("ours", "whisperx", "windows"), help="which")
    add_outputs(measuring, plot="the sweeps over levels and codecs")
    wording = commands.add_parser("words", help="words that come twice or not at all")
    wording.add_argument("--of-each", type=int, default=OF_EACH, help=f"prompts of each language ({OF_EACH})")
    wording.add_argument("--languages", nargs="+", choices=LANGUAGES, default=LANGUAGES, help="all")
    wording.add_argument("--kinds", nargs="+", choices=KINDS, default=("ours", "live", "windows"), help="which")
    twinning = commands.add_parser("twins", help="one voice on two channels, through the whole pipeline")
    twinning.add_argument("--corpus", choices=CORPORA, default="human", help="which (human)")
    twinning.add_argument("--calls", type=int, default=3, help="calls, spread over the corpus (3)")
    twinning.add_argument("--forms", nargs="+", choices=FORMS, default=FORMS, help="all")
    for command in (wording, twinning):
        add_outputs(command)
    for command in (measuring, wording, twinning):
        command.add_argument("--threads", type=int, default=2, help="threads of each model (2)")
        command.add_argument("--model", default="base", help="name, directory or package:NAME (base)")
        command.add_argument("--again", action="store_true", help="repeat what was kept of the plain tools")
        add_settings(command)
    return made


def main() -> int:
    given = parser().parse_args()
    return {"fetch": fetch, "measure": measure, "words": words, "twins": twins}[given.command](given)


def fetch(given: argparse.Namespace) -> int:
    found: dict[str, Any] = {}
    for name in given.corpora:
        if name == "prompts":
            found[name] = {"clips": len(prompts())}
        elif name == "human":
            found[name] = human_calls(clones=given.clones).described()
            found["digits of people"] = {"clips": len(spoken_digits(clones=given.clones))}
        else:
            found[name] = voiced(name, on_progress=_progress).described()
    for name, about in found.items():
        print(f"{name}: {about}")
    write_report("heard fetch", {"corpora": found}, given.json, given=sorted(found), runs=1)
    return 0


def measure(given: argparse.Namespace) -> int:
    conditions = list(CONDITIONS) if "all" in given.conditions else given.conditions
    with tempfile.TemporaryDirectory() as folder:
        sets = [one for corpus in given.corpora for one in _sets(corpus, conditions, given.calls)]
        if given.real:
            sets.append(of_files("real", given.real, Path(folder)))
        if given.stm:
            sets.append(of_stm_file(*given.stm))
        made = report(sets, given.kinds, run_of(given, Path(folder)), lambda figures: _save(given.json, figures))
    figures: dict[str, Any] = {
        "model": given.model,
        "settings": given.set,
        "sets": made,
        "against": {
            corpus: {kind: against(made, "ours", kind, names) for kind in given.kinds if kind != "ours"}
            for corpus in {one.corpus for one in sets}
            for names in [[one.name for one in sets if one.corpus == corpus]]
        },
    }
    show_measured(figures)
    sent = {one.name: one.sha256[:16] for one in sets}
    write_report("heard measure", figures, given.json, given=sent, runs=1)
    if given.plot is not None:
        from benchmarks.harness.plots import draw_heard

        draw_heard(figures, given.plot)
        print(f"drawn in {given.plot}")
    return 0


def words(given: argparse.Namespace) -> int:
    clips = prompts(languages=given.languages, of_each=given.of_each)
    by_people = spoken_digits() if "en" in given.languages else []
    with tempfile.TemporaryDirectory() as folder:
        sets = word_sets(clips, by_people, Path(folder))
        run = run_of(given, Path(folder))
        made = words_report(sets, given.kinds, run, lambda figures: _save(given.json, figures))
    show_words(made)
    sent = {"prompts": len(clips), "of_each": given.of_each, "digits": len(by_people)}
    write_report(
        "heard words", {"model": given.model, "settings": given.set, "sets": made}, given.json, given=sent, runs=1
    )
    return 0


def twins(given: argparse.Namespace) -> int:
    calls = every(_calls(given.corpus), given.calls)
    with tempfile.TemporaryDirectory() as folder:
        made = asyncio.run(twins_report(calls, given.forms, run_of(given, Path(folder)), Path(folder)))
    show_twins(made)
    sent = {"corpus": given.corpus, **calls.described()}
    write_report(
        "heard twins", {"model": given.model, "settings": given.set, "forms": made}, given.json, given=sent, runs=1
    )
    return 0


def run_of(given: argparse.Namespace, folder: Path) -> Run:
    model = resolve_model(given.model, folder / "models")
    return Run(
        model=str(model.path), model_id=model.sha256, threads=given.threads, changes=given.set, again=given.again
    )


def _sets(corpus: str, conditions: list[str], n_calls: int | None) -> list[Set]:
    calls = every(_calls(corpus), n_calls)
    language = "en" if corpus in ("english", "human") else None
    return [under(corpus, calls, condition, language=language) for condition in conditions]


def _calls(corpus: str) -> Corpus:
    return human_calls() if corpus == "human" else voiced(corpus, on_progress=_progress)


def _save(path: Path | None, figures: dict[str, Any]) -> None:
    if path is not None:
        path.write_text(json.dumps({"sets": figures}, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _progress(name: str) -> None:
    print(f"making {name}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

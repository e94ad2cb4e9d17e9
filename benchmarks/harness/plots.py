"""Plots of reports. matplotlib is installed with WhisperX."""

from pathlib import Path
from typing import Any, Final

_INK: Final = "#222222"
_OURS: Final = "#1b6ca8"
_THEIRS: Final = "#b8bec4"


def draw_transcribe(report: dict[str, Any], path: Path) -> None:
    """Draw bars of audio seconds per CPU second with their spread and word errors, a row for each set of calls."""
    from matplotlib.figure import Figure

    sets = report["sets"]
    figure = Figure(figsize=(8, 0.5 + 3.0 * len(sets)), layout="constrained")
    for axes, (name, figures) in zip(figure.subplots(len(sets), squeeze=False)[:, 0], sets.items(), strict=True):
        kinds = list(figures["kinds"])
        speeds = [figures["kinds"][kind]["audio_s_per_cpu_s"] for kind in kinds]
        middle = [one["median"] for one in speeds]
        reach = [[one["median"] - one["min"] for one in speeds], [one["max"] - one["median"] for one in speeds]]
        colours = [_OURS if kind in ("transcriber", "padded", "pipeline") else _THEIRS for kind in kinds]
        axes.barh(kinds, middle, xerr=reach, color=colours, ecolor=_INK, capsize=3)
        for place, (kind, one) in enumerate(zip(kinds, speeds, strict=True)):
            label = f" {one['median']:.1f}"
            if "errors" in figures:
                label += f", {figures['errors'][kind]['all']['percent']:.2f} % word errors"
            axes.text(one["max"], place, label, va="center", color=_INK)
        axes.set_xlim(0, 1.5 * max(one["max"] for one in speeds))
        axes.invert_yaxis()
        axes.set_xlabel("audio seconds (both legs) per CPU second")
        axes.set_title(f"{name} calls, {report['model']['name']} {report['model']['compute_type']}", loc="left")
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def draw_live(report: dict[str, Any], path: Path) -> None:
    """Draw the shares of finals and of words first shown over the seconds waited, a line for each measurement."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, key, title in ((left, "all_final_s", "end of speech → final"), (right, "all_shown_s", "word → shown")):
        for number, one in enumerate(report["measurements"]):
            waits = one[key]
            if waits:
                shares = [(index + 1) / len(waits) for index in range(len(waits))]
                axes.plot(waits, shares, label=one["label"], color=f"C{number % 10}")
        axes.axhline(0.95, color=_THEIRS, linewidth=1)
        axes.set_xlabel("seconds")
        axes.set_title(title, loc="left")
        axes.spines[["top", "right"]].set_visible(False)
    left.set_ylabel("share (line: 95 %)")
    left.legend(frameon=False)
    figure.savefig(path)


def draw_heard(report: dict[str, Any], path: Path) -> None:
    """Draw speech in no utterance, in no word, and word errors over levels and over codecs, a line for each kind."""
    from matplotlib.figure import Figure

    from benchmarks.heard.conditions import CODEC_SWEEP, LEVEL_SWEEP

    sets = {(one["corpus"], one["condition"]): one["kinds"] for one in report["sets"].values()}
    shown = (
        ("speech in no utterance, %", ("coverage", "percent", "speech_outside_utterances")),
        ("speech in no word, %", ("coverage", "percent", "speech_outside_words")),
        ("word errors, %", ("errors", "percent")),
    )
    corpora = sorted({corpus for corpus, condition in sets if condition in (*LEVEL_SWEEP, *CODEC_SWEEP)})
    rows = [(corpus, sweep) for corpus in corpora for sweep in (LEVEL_SWEEP, CODEC_SWEEP)]
    figure = Figure(figsize=(12, 0.5 + 3 * len(rows)), layout="constrained")
    for row, (corpus, sweep) in zip(figure.subplots(len(rows), len(shown), squeeze=False), rows, strict=True):
        done = [condition for condition in sweep if (corpus, condition) in sets]
        for axes, (title, keys) in zip(row, shown, strict=True):
            for number, kind in enumerate(dict.fromkeys(kind for one in sets.values() for kind in one)):
                values = [_figure(sets[corpus, one].get(kind), keys) for one in done]
                if any(value is not None for value in values):
                    axes.plot(done, values, marker="o", label=kind, color=_OURS if kind == "ours" else f"C{number + 1}")
            axes.set_ylim(bottom=0)
            axes.set_title(f"{corpus}: {title}", loc="left")
            axes.tick_params(axis="x", labelrotation=30)
            axes.spines[["top", "right"]].set_visible(False)
        row[0].legend(frameon=False)
    figure.savefig(path)


def _figure(found: dict[str, Any] | None, keys: tuple[str, ...]) -> float | None:
    """Return a figure deep in a report; None where its kind was not run."""
    if found is None:
        return None
    one: Any = found
    for key in keys:
        one = one[key]
    return None if one is None else float(one)

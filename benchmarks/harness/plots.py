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

"""Figures that one looks at rather than reads. matplotlib comes with WhisperX."""

from pathlib import Path
from typing import Any, Final

_INK: Final = "#222222"
_OURS: Final = "#1b6ca8"
_THEIRS: Final = "#b8bec4"


def draw_transcribe(report: dict[str, Any], path: Path) -> None:
    """Bars of audio seconds per CPU second with their spread, word errors written on them; a row for each set."""
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

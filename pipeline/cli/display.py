"""Terminal display of a call in progress: a live line of figures, settled turns, metrics, summary."""

import time

import msgspec
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pipeline.cli.consoles import stderr_console, stdout_console
from pipeline.client.call_progress import CallWatch
from pipeline.client.exports import summary_lines
from pipeline.printable import one_line
from schemas.summaries import Summary
from schemas.transcripts import CallMetrics, Turn

_STYLES = ("cyan", "magenta", "green", "yellow", "blue", "red", "bright_cyan", "bright_magenta")
_PLAIN_INTERVAL_S = 2.0


def clock_text(seconds: float) -> str:
    """`1:02:03.4`, or `02:03.4` under an hour."""
    minutes, rest = divmod(round(seconds, 1), 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02d}:{rest:04.1f}" if hours else f"{minutes:02d}:{rest:04.1f}"


class Display:
    """Prints turns, metrics and summary on standard output, and progress on standard error.

    On a terminal the progress line updates in place; elsewhere a line is printed every two seconds.
    """

    def __init__(self, *, name: str, turns: bool = True) -> None:
        self._out = stdout_console()
        self._err = stderr_console()
        self._name = name
        self._turns = turns
        self._began = time.monotonic()
        self._last_plain = -_PLAIN_INTERVAL_S
        self._last_text = ""
        self._live = Live(console=self._err, refresh_per_second=4, transient=True) if self._err.is_terminal else None

    def __enter__(self) -> "Display":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_error: object) -> None:
        if self._live is not None:
            self._live.stop()

    def note(self, text: str) -> None:
        self._err.print(text, markup=False)

    def update(self, watch: CallWatch, *, published_s: float, phase: str = "") -> None:
        """Show the figures and the turns settled since the last call."""
        if self._turns:
            # If both streams are one terminal, only the console of the live line can print above it.
            console = self._err if self._live is not None and self._out.is_terminal else self._out
            for turn in watch.new_turns:
                console.print(turn_line(turn))
        watch.new_turns.clear()
        figures = self._figures(watch, published_s, phase)
        if self._live is not None:
            self._live.update(Text(figures, style="bold"))
            return
        now = time.monotonic()
        if figures != self._last_text and now - self._last_plain >= _PLAIN_INTERVAL_S:
            self._last_plain, self._last_text = now, figures
            self._err.print(figures, style="dim", markup=False)

    def final_figures(self, watch: CallWatch, *, published_s: float) -> None:
        self._err.print(self._figures(watch, published_s, "done"), style="bold", markup=False)

    def metrics(self, metrics: CallMetrics) -> None:
        self._out.print()
        self._out.print(metrics_table(metrics))
        self._out.print(
            f"silence {metrics.silence_s:.1f} s (longest {metrics.longest_silence_s:.1f} s) · "
            f"overlap {metrics.overlap_s:.1f} s · interruptions {metrics.interruptions}"
        )

    def summary(self, summary: Summary) -> None:
        method = f"by {summary.model}" if summary.method == "llm" else "extractive: sentences picked from the call"
        self._out.print()
        self._out.print(Text(f"Summary ({method})", style="bold"))
        if summary.detail:
            self._out.print(Text(f"  {one_line(summary.detail)}", style="dim"))
        self._out.print(one_line(summary.text), markup=False)
        for text in summary_lines(msgspec.to_builtins(summary)):
            self._out.print(f"  {text}", markup=False)

    def line(self, text: str = "") -> None:
        self._out.print(text, markup=False)

    def _figures(self, watch: CallWatch, published_s: float, phase: str) -> str:
        elapsed_s = time.monotonic() - self._began
        parts = [
            self._name,
            f"{elapsed_s:5.1f} s",
            f"audio in {published_s:.1f} s",
            f"heard {watch.heard_s:.1f} s",
            f"speech {watch.speech_s:.1f} s",
            f"utterances {watch.utterances}",
            f"transcribed {watch.transcribed}",
        ]
        if watch.transcribed_s:
            parts.append(f"{watch.transcribed_s / elapsed_s:.1f} × real time")
        return " · ".join([*parts, phase] if phase else parts)


def speaker_style(channel: int) -> str:
    return _STYLES[channel % len(_STYLES)]


def turn_line(turn: Turn) -> Text:
    style = speaker_style(turn.channel)
    return Text.assemble(
        (f"{clock_text(turn.start_s)}–{clock_text(turn.end_s)}  ", "dim"),
        (f"{one_line(turn.speaker):<10}", style),
        one_line(turn.text),
    )


def metrics_table(metrics: CallMetrics) -> Table:
    table = Table(title=f"Call of {metrics.duration_s:.1f} s", title_justify="left", title_style="bold")
    for heading in (
        "speaker",
        "talk s",
        "talk %",
        "turns",
        "words",
        "words/min",
        "monologue s",
        "latency s",
        "interrupts",
    ):
        table.add_column(heading, justify="left" if heading == "speaker" else "right")
    for channel in metrics.channels:
        table.add_row(
            Text(one_line(channel.role)),
            f"{channel.talk_s:.1f}",
            f"{100 * channel.talk_ratio:.0f}",
            str(channel.turns),
            str(channel.words),
            f"{channel.words_per_minute:.0f}",
            f"{channel.longest_monologue_s:.1f}",
            "–" if channel.response_latency_s is None else f"{channel.response_latency_s:.2f}",
            str(channel.interruptions),
        )
    return table

"""The command line that all benchmarks share."""

import argparse
from pathlib import Path

from tests.support.processes.deployment import SAMPLE


def benchmark_parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """Return the parser of `python -m benchmarks.NAME`; `--help` prints `description` as it stands."""
    return argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_call(parser: argparse.ArgumentParser) -> None:
    """Add FILE, the recording of a call; by default the sample call."""
    parser.add_argument("file", nargs="?", type=Path, default=SAMPLE, metavar="FILE", help="a call (the sample call)")


def add_outputs(parser: argparse.ArgumentParser, *, plot: str | None = None) -> None:
    """Add `--json FILE`, and `--plot FILE` where `plot` says what is drawn."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    if plot is not None:
        parser.add_argument("--plot", type=Path, metavar="FILE", help=f"draw {plot} there (PNG or SVG)")


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add `--set NAME=VALUE`, which `benchmarks.harness.offline.settings_of` reads."""
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting, as beam_size=1")

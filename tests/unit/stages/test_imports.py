import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import stages

ROOT = Path(stages.__file__).parent
STAGES = sorted(folder.name for folder in ROOT.iterdir() if (folder / "stage.py").exists())
SHARED = {"adapters", "crosstalk", "errors", "ledger", "protocol", "text"}


def imported(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} has a relative import"
            yield from (f"{node.module}.{name.name}" for name in node.names)


def rooms(folder: Path) -> set[str]:
    """The folders and modules directly under `stages` that the modules of a folder import."""
    names = {name for file in folder.rglob("*.py") for name in imported(file)}
    return {name.split(".")[1] for name in names if name.startswith("stages.")}


def test_every_stage_is_looked_at() -> None:
    assert STAGES == ["index", "merge", "separate", "sink", "summarize", "transcribe"]


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_imports_no_other_stage(stage: str) -> None:
    assert rooms(ROOT / stage) - SHARED <= {stage}


def test_adapters_import_no_stage() -> None:
    assert rooms(ROOT / "adapters") <= {"adapters", "errors"}

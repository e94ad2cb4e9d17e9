"""This version resumes a data directory of an older version that was killed during a call.

`tests/compatibility/write.py` describes the fixtures.
"""

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any

import pytest

from tests.compatibility import calls
from tests.compatibility.write import SETTINGS, VERSIONS, answers, connected, unpack
from tests.support.processes.deployment import Deployment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ANOTHER_MACHINE = 0.05
"""Tolerance for probabilities, times in seconds and similarities: other processors compute other ones."""

ANOTHER_DETECTOR_S = 0.3
"""Tolerance for the times of turns: a later version may find speech to begin and end elsewhere."""


class Opened:
    """The results of this version on the directory of another, from one start of `up`."""

    def __init__(self, version: Path, data: Path) -> None:
        written = json.loads((version / "printed.json").read_text(encoding="utf-8"))
        self.before: dict[str, list[dict[str, Any]]] = written
        self.undisturbed: dict[str, Any] = json.loads((version / "on-line.json").read_text(encoding="utf-8"))
        self.now: dict[str, list[dict[str, Any]]] = {}
        with Deployment(data, **SETTINGS) as deployment:
            self.now["on files"] = answers(deployment, _arguments(written["on files"]))
            deployment.start()
            deployment.wait_ready()
            asyncio.run(_send_rest(deployment))
            self.resumed = deployment.wait_completed(calls.ON_LINE, tenant=calls.TENANT)
            self.now["on an instance"] = answers(deployment, _arguments(written["on an instance"]))
            self.exit_code = deployment.terminate()
            self.log = deployment.log_lines(1)


def _arguments(printed: list[dict[str, Any]]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(one["arguments"]) for one in printed)


async def _send_rest(deployment: Deployment) -> None:
    async with connected(deployment) as client:
        await calls.send_to_nats(client, calls.on_line()[1])


@pytest.fixture(scope="module", params=sorted(VERSIONS.iterdir()), ids=lambda path: path.name)
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Opened:
    data = tmp_path_factory.mktemp("written") / "data"
    unpack(request.param / "data.tar.xz", data)
    return Opened(request.param, data)


def _printed(text: str) -> Any:
    """Parse output that is JSON, and JSON in its strings; return other output as it is."""
    with contextlib.suppress(ValueError):
        return _inner(json.loads(text))
    return text


def _inner(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _inner(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_inner(one) for one in value]
    return _printed(value) if isinstance(value, str) and value[:1] in ("[", "{") else value


def test_commands_print_the_same_without_an_instance(opened: Opened) -> None:
    for before, now in zip(opened.before["on files"], opened.now["on files"], strict=True):
        assert _printed(now["prints"]) == _printed(before["prints"]), now["arguments"]


def test_commands_print_the_same_with_an_instance(opened: Opened) -> None:
    for before, now in zip(opened.before["on an instance"], opened.now["on an instance"], strict=True):
        assert _printed(now["prints"]) == _near(_printed(before["prints"])), now["arguments"]


def test_the_resumed_call_has_the_transcript_of_an_undisturbed_one(opened: Opened) -> None:
    expected, resumed = opened.undisturbed, opened.resumed
    assert [(turn["speaker"], turn["text"]) for turn in resumed["turns"]] == [
        (turn["speaker"], turn["text"]) for turn in expected["turns"]
    ]
    for now, before in zip(resumed["turns"], expected["turns"], strict=True):
        assert (now["start_s"], now["end_s"]) == _near((before["start_s"], before["end_s"]), by=ANOTHER_DETECTOR_S)
    assert resumed["turns"][0]["turn_id"] == expected["turns"][0]["turn_id"]  # spoken before the kill
    for name in ("gaps", "metadata", "channels", "language", "duration_s", "reason", "revision", "provisional"):
        assert resumed[name] == expected[name], name
    assert resumed["summary"]["text"] == expected["summary"]["text"]


def test_the_instance_logs_no_errors_and_exits_with_zero(opened: Opened) -> None:
    assert opened.exit_code == 0
    assert [line for line in opened.log if line["level"] == "error"] == []
    waiting = {line["group"]: line["waiting"] for line in opened.log if line["event"] == "stage reads"}
    assert {group for group, count in waiting.items() if count} >= {"separate", "transcribe", "merge"}


def _near(value: Any, by: float = ANOTHER_MACHINE) -> Any:
    """Return a value that equals others within the tolerance."""
    if isinstance(value, dict):
        return {name: _near(one, by) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_near(one, by) for one in value)
    return pytest.approx(value, abs=by, rel=0) if isinstance(value, float) else value

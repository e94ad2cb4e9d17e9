"""Words timed by a wav2vec2 model that the settings name."""

import json
from pathlib import Path

import pytest

from tests.calls.wording import holds
from tests.support.models.alignment import write_model
from tests.support.processes.deployment import Deployment

pytestmark = pytest.mark.slow


def test_words_are_timed_by_the_model_that_the_settings_name(tmp_path: Path, greeting: Path) -> None:
    """The model hears tones, so on a voice its times mean nothing; they keep the order and stay inside the speech."""
    model = write_model(tmp_path / "aligner")
    deployment = Deployment(tmp_path / "data", align_model=f"en={model}", language="en")
    out = tmp_path / "call.json"
    deployment.run("transcribe", str(greeting), "--roles", "left=agent,right=customer", "--out", str(out))
    document = json.loads(out.read_text())
    [detail] = [job["detail"] for job in document["jobs"] if job["job"] == "transcribe"]
    assert detail["aligned"] == detail["with_words"] >= 1
    words = [word for turn in document["turns"] for word in turn["words"]]
    assert holds(" ".join(word["text"] for word in words), "Northwind")
    starts = [word["start_s"] for word in words]
    assert starts == sorted(starts)
    assert 0.5 <= starts[0] <= words[-1]["end_s"] <= 5.4


def test_weights_that_are_not_there_end_the_start_with_their_name(tmp_path: Path, greeting: Path) -> None:
    deployment = Deployment(tmp_path / "data", align_model=str(tmp_path / "absent"))
    done = deployment.run("transcribe", str(greeting), check=False)
    assert done.returncode != 0
    assert f"{tmp_path / 'absent'} has no config.json" in done.stderr

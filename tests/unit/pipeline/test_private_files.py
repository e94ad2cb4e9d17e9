"""Who may read a data directory."""

import os
import stat
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from pipeline.private_files import own_directory

OTHER_USER = 65534


def modes(folder: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.lstat().st_mode) for path in (folder, *folder.iterdir())}


def test_a_new_directory_is_its_user_s_alone(tmp_path: Path) -> None:
    own_directory(tmp_path / "made" / "data")
    assert modes(tmp_path / "made" / "data") == {"data": 0o700}


def test_a_directory_of_an_earlier_version_is_closed_with_what_lies_in_it(tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "models").mkdir(parents=True, mode=0o755)
    (data / "callstream.duckdb").touch(mode=0o644)
    (data / "tool").touch(mode=0o775)
    (data / "lock").touch(mode=0o600)
    data.chmod(0o2775)
    with capture_logs() as logged:
        own_directory(data)
    assert modes(data) == {"data": 0o2700, "models": 0o700, "callstream.duckdb": 0o600, "tool": 0o700, "lock": 0o600}
    assert {(line["log_level"], Path(line["path"]).name) for line in logged} == {
        ("info", name) for name in ("data", "models", "callstream.duckdb", "tool")
    }
    with capture_logs() as logged:
        own_directory(data)
    assert logged == []


def test_what_a_link_points_to_is_left_alone(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.touch(mode=0o644)
    data = tmp_path / "data"
    data.mkdir()
    (data / "models").symlink_to(outside)
    (data / "gone").symlink_to(tmp_path / "nowhere")
    own_directory(data)
    assert modes(tmp_path)["outside"] == 0o644


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory to another user: run the tests as root")
def test_another_user_s_directory_is_warned_of_and_left_alone(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir(mode=0o755)
    os.chown(data, OTHER_USER, OTHER_USER)
    with capture_logs() as logged:
        own_directory(data)
    assert modes(data) == {"data": 0o755}
    assert [(line["log_level"], line["uid"]) for line in logged] == [("warning", OTHER_USER)]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user: run the tests as root")
def test_another_user_s_file_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "theirs").touch(mode=0o644)
    os.chown(tmp_path / "theirs", OTHER_USER, OTHER_USER)
    own_directory(tmp_path)
    assert modes(tmp_path)["theirs"] == 0o644

"""`infra/install.py`: uv does as pip is configured, prints little, and pip installs where uv cannot."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from infra.install import ROOT, pip_options, uv_variables, worth_telling

LISTED = """\
:env:.cert='/env/ca.pem'
:env:.find-links='/wheels /more'
:env:.no-input='1'
global.cert='/global/ca.pem'
global.index-url='https://user:it%27s=here@mirror.invalid/simple'
global.timeout='20'
install.timeout='60'
list.format='columns'
"""

UV_PRINTS = """\
Using Python 3.11.7 environment at: /somewhere/.venv
Resolved 171 packages in 1.78s
   Building callstream @ file:///somewhere
Downloading torch (846.9MiB)
Downloading numpy (16.0MiB)
Downloading all (1.2GiB)
      Built callstream @ file:///somewhere
 Downloaded numpy
 Downloaded torch
warning: Failed to hardlink files
Prepared 171 packages in 41.20s
Uninstalled 1 package in 97ms
Installed 171 packages in 2.49s
 + aiohttp==3.14.5
 - setuptools==65.5.0
 ~ callstream==0.1.0
"""


def test_options_of_the_environment_win_over_those_of_files() -> None:
    options = pip_options(LISTED)
    assert options["cert"] == "/env/ca.pem"
    assert options["timeout"] == "60"
    assert options["index-url"] == "https://user:it%27s=here@mirror.invalid/simple"
    assert "format" not in options


def test_uv_is_told_what_pip_is_configured_with() -> None:
    variables = uv_variables(pip_options(LISTED), {"UV_HTTP_TIMEOUT": "5"})
    assert variables == {
        "SSL_CERT_FILE": "/env/ca.pem",
        "UV_FIND_LINKS": "/wheels,/more",
        "UV_DEFAULT_INDEX": "https://user:it%27s=here@mirror.invalid/simple",
    }


def test_a_second_index_counts_like_the_first_as_with_pip() -> None:
    variables = uv_variables({"extra-index-url": "https://a.invalid\nhttps://b.invalid", "cert": "/ca.pem"}, {})
    assert variables["UV_INDEX"] == "https://a.invalid https://b.invalid"
    assert variables["UV_INDEX_STRATEGY"] == "unsafe-best-match"


def test_progress_names_large_downloads_and_no_single_package() -> None:
    assert list(worth_telling(iter(UV_PRINTS.splitlines()))) == [
        "Resolved 171 packages in 1.78s",
        "Downloading torch, 846.9 MiB",
        "Downloading all, 1.2 GiB",
        "warning: Failed to hardlink files",
        "Prepared 171 packages in 41.20s",
        "Installed 171 packages in 2.49s",
    ]


@pytest.mark.parametrize(("uv_exits", "pip_installs"), [(0, False), (2, True)])
def test_pip_installs_where_uv_fails(uv_exits: int, pip_installs: bool, tmp_path: Path) -> None:
    """With an interpreter and a uv that only say what they are asked for."""
    asked = tmp_path / "asked"
    (tmp_path / "infra").mkdir()
    shutil.copy(ROOT / "infra" / "install.py", tmp_path / "infra")
    for name, status in (("python", 0), ("uv", uv_exits)):
        program = tmp_path / name
        program.write_text(f'#!/bin/sh\necho "{name} $*" >> {asked}\nexit {status}\n')
        program.chmod(0o755)
    pretend = f"import sys; sys.executable = {str(tmp_path / 'python')!r}"
    code = f"{pretend}; import install; sys.exit(install.main(['-e', '.']))"
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(tmp_path / "infra")}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    lines = asked.read_text().splitlines()
    assert any(line.startswith("uv pip install") and line.endswith("constraints.txt -e .") for line in lines)
    assert ("pip does" in done.stdout) is pip_installs
    pip_calls = [line for line in lines if line.startswith("python") and " install " in line]
    assert [line.split()[-1] for line in pip_calls] == (["pip>=25.1", "."] if pip_installs else [])

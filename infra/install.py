"""Installs into the virtual environment whose Python runs it: `.venv/bin/python infra/install.py --editable '.[all]'`.

Arguments are those of `pip install`. uv installs, which downloads and unpacks several files at once; where uv cannot,
pip does. What pip is configured with (`PIP_…`, `pip.conf`: indexes, proxies, certificates) holds for uv too.
"""

import ast
import os
import re
import ssl
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")
CONSTRAINTS = ("--constraint", str(ROOT / "infra" / "constraints.txt"))
NAMED_FROM_BYTES = 100e6
"""A line is printed for each download of this size or more."""

VARIABLES = {
    "index-url": ("UV_DEFAULT_INDEX",),
    "extra-index-url": ("UV_INDEX",),
    "find-links": ("UV_FIND_LINKS",),
    "no-index": ("UV_NO_INDEX",),
    "trusted-host": ("UV_INSECURE_HOST",),
    "cert": ("SSL_CERT_FILE",),
    "client-cert": ("SSL_CLIENT_CERT",),
    "proxy": ("HTTPS_PROXY", "HTTP_PROXY"),
    "timeout": ("UV_HTTP_TIMEOUT",),
    "default-timeout": ("UV_HTTP_TIMEOUT",),
    "retries": ("UV_HTTP_RETRIES",),
    "cache-dir": ("UV_CACHE_DIR",),
    "no-cache-dir": ("UV_NO_CACHE",),
}
"""The variables that tell uv what an option of pip's configuration tells pip."""

_UNITS = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def pip_options(listed: str) -> dict[str, str]:
    """Return pip's configuration by option, from what `pip config list` prints: lines such as `global.cert='/x'`.

    pip lists files first and the environment, which wins, under `:env:`; options of `install` win over `global`.
    """
    found: dict[str, tuple[int, str]] = {}
    for line in listed.splitlines():
        name, equals, value = line.partition("=")
        section, _, option = name.rpartition(".")
        rank = {"global": 0, "install": 1, ":env:": 2}.get(section)
        if equals and rank is not None and rank >= found.get(option, (0, ""))[0]:
            found[option] = (rank, str(ast.literal_eval(value)))
    return {option: value for option, (_, value) in found.items()}


def uv_variables(options: Mapping[str, str], environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that make uv do as pip's `options` say. Those that `environment` holds stay as they are."""
    variables: dict[str, str] = {}
    for option, value in options.items():
        text = ",".join(value.split()) if option == "find-links" else " ".join(value.split())
        variables |= dict.fromkeys(VARIABLES.get(option, ()), text)
    if "extra-index-url" in options:
        variables["UV_INDEX_STRATEGY"] = "unsafe-best-match"  # as pip: the best version of all indexes
    if "cert" not in options and ssl.get_default_verify_paths().cafile:
        variables["UV_SYSTEM_CERTS"] = "true"
    return {name: text for name, text in variables.items() if name not in environment}


def worth_telling(lines: Iterator[str]) -> Iterator[str]:
    """Yield what of uv's output says how far it is, and what went wrong: neither small downloads nor each package."""
    for line in lines:
        text = line.strip()
        download = re.fullmatch(r"(Downloading|Downloaded) (\S+)(?: \(([\d.]+)(\w+)\))?", text)
        if download is None:
            if not re.match(r"[+~-] |Building|Built|Using Python|Audited|Uninstalled", text):
                yield text
        elif download[3] and float(download[3]) * _UNITS[download[4]] >= NAMED_FROM_BYTES:
            yield f"Downloading {download[2]}, {download[3]} {download[4]}"


def install_uv() -> Path:
    """Return the path of uv in this environment, after installing it from its wheel if need be."""
    uv = Path(sys.executable).with_name("uv")
    if not uv.exists():
        groups = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["dependency-groups"]
        subprocess.run([*PIP, "install", "--quiet", *CONSTRAINTS, *groups["install"]], check=True)
    return uv


def install_with_uv(arguments: list[str], began: float) -> None:
    """Raises CalledProcessError and OSError."""
    listed = subprocess.run([*PIP, "config", "list"], stdout=subprocess.PIPE, text=True, check=False).stdout
    environment = {**os.environ, **uv_variables(pip_options(listed), os.environ)}
    command = [str(install_uv()), "pip", "install", "--python", sys.executable, *CONSTRAINTS, *arguments]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stderr is not None
        for line in worth_telling(process.stderr):
            print(f"  {time.monotonic() - began:4.0f} s  {line}", flush=True)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)


def main(arguments: list[str]) -> int:
    began = time.monotonic()
    try:
        install_with_uv(arguments, began)
    except (subprocess.CalledProcessError, OSError) as error:
        print(f"uv did not install it ({error.__class__.__name__}): pip does, which takes longer", flush=True)
        for command in (["--quiet", "pip>=25.1"], [*CONSTRAINTS, *arguments]):  # --group came with pip 25.1
            if returned := subprocess.run([*PIP, "install", *command], cwd=ROOT, check=False).returncode:
                return returned
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

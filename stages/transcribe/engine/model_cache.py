"""Models that are loaded when they are first needed, and evicted when they would exceed a memory budget."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, Protocol, TypeVar

from stages.transcribe.engine.protocol import EngineError


class Model(Protocol):
    name: str

    @property
    def size_bytes(self) -> int:
        """Size of the weights in memory."""
        ...

    def close(self) -> None:
        """Free the memory. The model is not used afterwards."""
        ...


class CacheObserver:
    """Is called when models are loaded and evicted, from any thread. This one ignores it."""

    def loaded(self, name: str, *, size_bytes: int, load_s: float) -> None:
        """`load_s`: the cold start, from nothing to a model that has been checked."""

    def unloaded(self, name: str) -> None: ...


M = TypeVar("M", bound=Model)


class _Entry(Generic[M]):
    def __init__(self, model: M) -> None:
        self.model = model
        self.ref_count = 0


class ModelCache(Generic[M]):
    """May be used from several threads at once. One model is loaded at a time; the others can be used meanwhile.

    The least recently used model is evicted first. Models in use are never evicted: the budget is exceeded until one is
    released. A model's size is known only after its first load, so until then it may be in memory together with the
    models that it replaces.
    """

    def __init__(self, load: Callable[[str], M], *, budget_bytes: int | None, observer: CacheObserver) -> None:
        """`load` makes the model of a key. Without a budget nothing is evicted."""
        self._load = load
        self._budget_bytes = budget_bytes
        self._observer = observer
        self._entries: OrderedDict[str, _Entry[M]] = OrderedDict()
        self._sizes_bytes: dict[str, int] = {}
        self._lock = threading.Lock()
        self._loading = threading.Lock()

    @property
    def size_bytes(self) -> int:
        """Size of all loaded models."""
        return sum(entry.model.size_bytes for entry in list(self._entries.values()))

    @contextmanager
    def use(self, key: str) -> Iterator[M]:
        """Yield the model of `key`, loaded if necessary. It is not evicted inside the context.

        Raises what `load` raises, and EngineError for a model that exceeds the budget alone.
        """
        entry = self._cached(key) or self._load_entry(key)
        try:
            yield entry.model
        finally:
            with self._lock:
                entry.ref_count -= 1
                self._evict()

    def _cached(self, key: str) -> _Entry[M] | None:
        with self._lock:
            if key in self._entries:
                self._entries.move_to_end(key)
                self._entries[key].ref_count += 1
            return self._entries.get(key)

    def _load_entry(self, key: str) -> _Entry[M]:
        with self._loading:
            if (entry := self._cached(key)) is not None:  # another thread has loaded it
                return entry
            with self._lock:
                self._evict(self._sizes_bytes.get(key, 0))
            began_s = time.monotonic()
            entry = _Entry(self._load(key))
            load_s = time.monotonic() - began_s
            name, size_bytes = entry.model.name, entry.model.size_bytes
            if self._budget_bytes is not None and size_bytes > self._budget_bytes:
                entry.model.close()
                raise EngineError(
                    f"the model {name!r} takes {size_bytes / 1e9:.2g} GB, more than the {self._budget_bytes / 1e9:.2g} "
                    "that models may take"
                )
            self._observer.loaded(name, size_bytes=size_bytes, load_s=load_s)
            with self._lock:
                self._sizes_bytes[key] = size_bytes
                self._entries[key] = entry
                entry.ref_count += 1
                self._evict()
            return entry

    def _evict(self, size_bytes: int = 0) -> None:
        """Evict unused models until `size_bytes` more fit, the least recently used first."""
        for key, entry in list(self._entries.items()):
            if self._budget_bytes is None or self.size_bytes + size_bytes <= self._budget_bytes:
                return
            if not entry.ref_count:
                del self._entries[key]
                entry.model.close()
                self._observer.unloaded(entry.model.name)

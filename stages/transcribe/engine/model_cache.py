"""Models that are loaded when they are first needed, and unloaded again where they would take more than a budget."""

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
        """Of its weights, as they lie in memory."""
        ...

    def close(self) -> None:
        """Give the memory back. Afterwards it is not used."""
        ...


class ModelWatch:
    """Is told what is loaded and unloaded, from any thread. This one ignores it."""

    def loaded(self, name: str, *, size_bytes: int, load_s: float) -> None:
        """`load_s`: the cold start, from nothing to a model that has proved that it works."""

    def unloaded(self, name: str) -> None: ...


M = TypeVar("M", bound=Model)


class _Held(Generic[M]):
    def __init__(self, model: M) -> None:
        self.model = model
        self.users = 0


class ModelMemory(Generic[M]):
    """May be used from several threads at once. One model is loaded at a time; meanwhile the others can be used.

    The least recently used model goes first, and none while it is in use: the budget is exceeded until one is given
    back. A model's size is known once it was loaded, so the first time it may lie beside those that then have to go.
    """

    def __init__(self, load: Callable[[str], M], *, budget_bytes: int | None, watch: ModelWatch) -> None:
        """`load` makes the model of a key. Without a budget nothing is unloaded."""
        self._load = load
        self._budget_bytes = budget_bytes
        self._watch = watch
        self._held: OrderedDict[str, _Held[M]] = OrderedDict()
        self._sizes_bytes: dict[str, int] = {}
        self._lock = threading.Lock()
        self._loading = threading.Lock()

    @property
    def size_bytes(self) -> int:
        """Of all that are loaded."""
        return sum(held.model.size_bytes for held in list(self._held.values()))

    @contextmanager
    def lent(self, key: str) -> Iterator[M]:
        """The model of `key`, loaded if it has to be. Raises what `load` raises, and EngineError for a model that
        exceeds the budget alone.
        """
        held = self._taken(key) or self._loaded(key)
        try:
            yield held.model
        finally:
            with self._lock:
                held.users -= 1
                self._make_room()

    def _taken(self, key: str) -> _Held[M] | None:
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
                self._held[key].users += 1
            return self._held.get(key)

    def _loaded(self, key: str) -> _Held[M]:
        with self._loading:
            if (held := self._taken(key)) is not None:  # another thread was loading it
                return held
            with self._lock:
                self._make_room(self._sizes_bytes.get(key, 0))
            began_s = time.monotonic()
            held = _Held(self._load(key))
            load_s = time.monotonic() - began_s
            name, size_bytes = held.model.name, held.model.size_bytes
            if self._budget_bytes is not None and size_bytes > self._budget_bytes:
                held.model.close()
                raise EngineError(
                    f"the model {name!r} takes {size_bytes / 1e9:.2g} GB, more than the {self._budget_bytes / 1e9:.2g} "
                    "that models may take"
                )
            self._watch.loaded(name, size_bytes=size_bytes, load_s=load_s)
            with self._lock:
                self._sizes_bytes[key] = size_bytes
                self._held[key] = held
                held.users += 1
                self._make_room()
            return held

    def _make_room(self, size_bytes: int = 0) -> None:
        """Unload what is not in use until `size_bytes` more fit, the least recently used first."""
        for key, held in list(self._held.items()):
            if self._budget_bytes is None or self.size_bytes + size_bytes <= self._budget_bytes:
                return
            if not held.users:
                del self._held[key]
                held.model.close()
                self._watch.unloaded(held.model.name)

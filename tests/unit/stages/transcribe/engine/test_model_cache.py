"""Models under a budget, with models of known sizes."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from stages.transcribe.engine.model_cache import CacheObserver, ModelCache
from stages.transcribe.engine.protocol import EngineError


class FakeModel:
    def __init__(self, name: str, size_bytes: int) -> None:
        self.name = name
        self.size_bytes = size_bytes
        self.closed = False

    def close(self) -> None:
        assert not self.closed
        self.closed = True


class Machine(CacheObserver):
    """Loads models of given sizes and records the events."""

    def __init__(self, budget_bytes: int | None = 10, **sizes_bytes: int) -> None:
        self.sizes_bytes = sizes_bytes
        self.events: list[str] = []
        self.cache = ModelCache(self._load, budget_bytes=budget_bytes, observer=self)

    def _load(self, key: str) -> FakeModel:
        if key not in self.sizes_bytes:
            raise EngineError(f"no weights for {key}")
        return FakeModel(key, self.sizes_bytes[key])

    def loaded(self, name: str, *, size_bytes: int, load_s: float) -> None:
        self.events.append(f"+{name}")

    def unloaded(self, name: str) -> None:
        self.events.append(f"-{name}")

    def use(self, keys: str) -> None:
        for key in keys:
            with self.cache.use(key) as model:
                assert model.name == key
                assert not model.closed


def test_a_model_is_loaded_once() -> None:
    machine = Machine(a=4)
    machine.use("aaa")
    assert machine.events == ["+a"]
    assert machine.cache.size_bytes == 4


def test_the_least_recently_used_is_unloaded_first() -> None:
    machine = Machine(a=4, b=4, c=4)
    machine.use("abac")
    assert machine.events == ["+a", "+b", "+c", "-b"]
    assert machine.cache.size_bytes == 8


def test_room_for_a_known_size_is_made_before_the_model_is_loaded() -> None:
    machine = Machine(a=6, b=6)
    machine.use("aba")
    assert machine.events == ["+a", "+b", "-a", "-b", "+a"]


def test_as_many_models_are_evicted_as_necessary() -> None:
    machine = Machine(a=3, b=3, c=3, d=8)
    machine.use("abcd")
    assert machine.events == ["+a", "+b", "+c", "+d", "-a", "-b", "-c"]


def test_without_a_budget_nothing_is_unloaded() -> None:
    machine = Machine(None, a=10**12, b=10**12)
    machine.use("abab")
    assert machine.events == ["+a", "+b"]


def test_a_model_in_use_is_evicted_when_it_is_released() -> None:
    machine = Machine(a=6, b=6)
    with ExitStack() as first, ExitStack() as second:
        model = first.enter_context(machine.cache.use("a"))
        second.enter_context(machine.cache.use("b"))
        assert machine.cache.size_bytes == 12
        assert not model.closed
        first.close()
        assert model.closed
        assert machine.cache.size_bytes == 6
    assert machine.events == ["+a", "+b", "-a"]


def test_a_model_larger_than_the_budget_is_refused_and_evicts_none() -> None:
    machine = Machine(a=4, huge=11)
    machine.use("a")
    with pytest.raises(EngineError, match=r"takes 1\.1e-08 GB, more than the 1e-08"), machine.cache.use("huge"):
        pass
    assert machine.events == ["+a"]
    assert machine.cache.size_bytes == 4


def test_a_model_that_cannot_be_loaded_is_tried_again() -> None:
    machine = Machine(a=4)
    with pytest.raises(EngineError, match="no weights for b"):
        machine.use("b")
    machine.sizes_bytes["b"] = 4
    machine.use("b")
    assert machine.events == ["+b"]


def test_many_threads_use_more_models_than_there_is_memory_for() -> None:
    machine = Machine(a=4, b=4, c=4, d=4)
    started = threading.Barrier(4)

    def use(keys: str) -> None:
        started.wait(10)
        machine.use(keys * 100)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(use, ("abcd", "dcba", "aabb", "cdcd"), timeout=30))
    assert machine.cache.size_bytes <= 10
    loads = [event for event in machine.events if event.startswith("+")]
    assert 4 * (len(loads) - (len(machine.events) - len(loads))) == machine.cache.size_bytes

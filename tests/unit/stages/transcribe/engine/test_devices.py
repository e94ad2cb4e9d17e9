"""Devices that a setting stands for."""

import pytest

from stages.transcribe.engine import devices
from stages.transcribe.engine.devices import CPU, GPU_BATCH, Device, devices_of, fitting_batch


@pytest.mark.parametrize(
    ("setting", "n_gpus", "expected"),
    [
        ("cpu", 2, ["cpu"]),
        ("auto", 0, ["cpu"]),
        ("auto", 2, ["cuda:0"]),
        ("cuda", 2, ["cuda:0"]),
        ("cuda", 0, ["cuda:0"]),
        ("cuda:1", 2, ["cuda:1"]),
        ("cuda:1,cuda:0,cuda:1", 2, ["cuda:1", "cuda:0"]),
        ("cuda:all", 3, ["cuda:0", "cuda:1", "cuda:2"]),
        ("cuda:all", 0, ["cuda:0"]),
    ],
)
def test_a_setting_stands_for_devices(setting: str, n_gpus: int, expected: list[str]) -> None:
    assert [str(device) for device in devices_of(setting, n_gpus)] == expected


def test_a_gpu_takes_batches_in_half_precision_and_a_cpu_rows_in_int8() -> None:
    assert (Device("cuda", 1).compute_type, Device("cuda", 1).max_batch) == ("float16", GPU_BATCH)
    assert (CPU.compute_type, CPU.max_batch) == ("int8", 1)


@pytest.mark.parametrize(
    ("free_gb", "row_gb", "workers", "rows"),
    [(80, 0.35, 1, GPU_BATCH), (80, 0.35, 4, GPU_BATCH), (8, 0.35, 1, GPU_BATCH), (6, 0.35, 2, 6), (0.1, 0.35, 4, 1)],
)
def test_a_batch_has_as_many_rows_as_a_gpus_memory_leaves_room_for(
    free_gb: float, row_gb: float, workers: int, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "free_bytes", lambda device: int(free_gb * 1e9))
    assert fitting_batch(Device("cuda"), row_bytes=int(row_gb * 1e9), workers=workers) == rows


def test_a_gpu_whose_memory_is_not_known_takes_whole_batches_and_a_cpu_single_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert fitting_batch(CPU, row_bytes=1, workers=1) == 1
    monkeypatch.setattr(devices, "free_bytes", lambda device: None)
    assert fitting_batch(Device("cuda"), row_bytes=1, workers=1) == GPU_BATCH

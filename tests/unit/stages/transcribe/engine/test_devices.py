"""Devices that a setting stands for."""

import pytest

from stages.transcribe.engine.devices import CPU, GPU_BATCH, Device, devices_of


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

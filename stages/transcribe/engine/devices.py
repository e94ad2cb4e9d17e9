"""Devices that a model may run on, the CPU or one of several GPUs, and their defaults."""

from typing import Final, Literal

import msgspec

GPU_BATCH: Final = 16
"""The most rows that a GPU decodes at once: it gains from batching. A CPU gains from one thread for each row."""
_USABLE: Final = 0.8
"""The share of a GPU's free memory that rows may take: alignment models and the allocator need some, too."""


class Device(msgspec.Struct, frozen=True):
    """A device for CTranslate2 and torch, which number the GPUs alike. As text it is torch's name for it."""

    kind: Literal["cpu", "cuda"]
    index: int = 0

    def __str__(self) -> str:
        return "cpu" if self.kind == "cpu" else f"cuda:{self.index}"

    @property
    def compute_type(self) -> str:
        """The arithmetic that `auto` stands for."""
        return "int8" if self.kind == "cpu" else "float16"

    @property
    def max_batch(self) -> int:
        return 1 if self.kind == "cpu" else GPU_BATCH


CPU: Final = Device("cpu")


def devices_of(setting: str, n_gpus: int) -> list[Device]:
    """Return the devices that a setting stands for on a machine with `n_gpus`. They are not checked to exist.

    `setting` is one of:
    - `cpu`
    - `auto`: the first GPU if there is one, else the CPU
    - `cuda`: the first GPU
    - `cuda:all`
    - a list such as `cuda:0,cuda:1`, in which repeats are ignored
    """
    if setting == "cpu" or (setting == "auto" and not n_gpus):
        return [CPU]
    if setting in ("auto", "cuda"):
        return [Device("cuda")]
    if setting == "cuda:all":  # without a GPU, loading on the first one gives the error
        return [Device("cuda", index) for index in range(max(1, n_gpus))]
    return list(dict.fromkeys(Device("cuda", int(name.removeprefix("cuda:"))) for name in setting.split(",")))


def fitting_batch(device: Device, *, row_bytes: int, workers: int) -> int:
    """Return the rows of a batch, on a GPU as many as `workers` batches at a time leave memory for. At least one.

    The model is loaded already. `row_bytes`: the device memory of a row.
    """
    free = free_bytes(device)
    if free is None:
        return device.max_batch
    return max(1, min(device.max_batch, int(_USABLE * free) // (row_bytes * workers)))


def free_bytes(device: Device) -> int | None:
    """Return a GPU's free memory; None for the CPU, and for a GPU that torch, unlike CTranslate2, cannot use."""
    if device.kind == "cpu":
        return None
    import torch

    return int(torch.cuda.mem_get_info(device.index)[0]) if torch.cuda.is_available() else None


def visible_gpus() -> int:
    """Return the number of GPUs that CTranslate2 sees."""
    from ctranslate2 import get_cuda_device_count

    return int(get_cuda_device_count())

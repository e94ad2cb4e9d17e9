"""What a model may run on: the processor, or one GPU of several; and what each is used with unless it is told."""

from typing import Final, Literal

import msgspec

GPU_BATCH: Final = 16
"""Rows that a GPU decodes at once: its gain lies in the batch. On a CPU it lies in one thread for each row."""


class Device(msgspec.Struct, frozen=True):
    """`index` counts the GPUs as CTranslate2 and torch do. As text it is what torch calls it."""

    kind: Literal["cpu", "cuda"]
    index: int = 0

    def __str__(self) -> str:
        return "cpu" if self.kind == "cpu" else f"cuda:{self.index}"

    @property
    def compute_type(self) -> str:
        """The arithmetic that `auto` means."""
        return "int8" if self.kind == "cpu" else "float16"

    @property
    def max_batch(self) -> int:
        return 1 if self.kind == "cpu" else GPU_BATCH


CPU: Final = Device("cpu")


def devices_of(setting: str, n_gpus: int) -> list[Device]:
    """The devices that a setting means where there are `n_gpus`; what it names is not checked against them.

    `setting`: cpu; auto (the first GPU where there is one, else the CPU); cuda (the first); cuda:all; or a list such
    as cuda:0,cuda:1, in which a device counts once.
    """
    if setting == "cpu" or (setting == "auto" and not n_gpus):
        return [CPU]
    if setting in ("auto", "cuda"):
        return [Device("cuda")]
    if setting == "cuda:all":  # where there is none, loading on the first says why
        return [Device("cuda", index) for index in range(max(1, n_gpus))]
    return list(dict.fromkeys(Device("cuda", int(name.removeprefix("cuda:"))) for name in setting.split(",")))


def visible_gpus() -> int:
    """How many GPUs CTranslate2 sees."""
    from ctranslate2 import get_cuda_device_count

    return int(get_cuda_device_count())

"""What all who load models with torch need: a quiet import, and the device that `auto` means."""

import contextlib
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def without_ffmpeg_warning() -> Iterator[None]:
    """pyannote warns when it is imported that it could not decode files without FFmpeg; none are decoded."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"\s*torchcodec is not installed correctly", category=UserWarning)
        yield


def torch_device(name: str) -> str:
    """`auto` is a GPU where torch sees one."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return name

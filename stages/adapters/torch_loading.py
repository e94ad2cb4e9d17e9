"""What all who load models with torch need: an import that is alone and quiet, and the device that `auto` means."""

import contextlib
import threading
import warnings
from collections.abc import Iterator

_IMPORTING = threading.RLock()


@contextlib.contextmanager
def torch_imports() -> Iterator[None]:
    """Around imports that bring torch, and the loading of models that imports as it goes.

    One thread at a time: transformers makes its names when they are first asked for, and while one thread is at it
    another finds them missing ("cannot import name 'Pipeline'", seen with 4.57). pyannote warns that it could not
    decode files without FFmpeg; none are decoded.
    """
    with _IMPORTING, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"\s*torchcodec is not installed correctly", category=UserWarning)
        yield


def torch_device(name: str) -> str:
    """`auto` is a GPU where torch sees one."""
    with torch_imports():
        import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return name

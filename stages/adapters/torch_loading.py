"""Loading models with torch: imports one thread at a time, without warnings; and the device of `auto`."""

import contextlib
import threading
import warnings
from collections.abc import Iterator

_IMPORTING = threading.RLock()


@contextlib.contextmanager
def torch_imports() -> Iterator[None]:
    """Wrap imports of torch, and loading of models, which may import more.

    Admits one thread at a time: transformers creates its names when they are first used, and meanwhile another thread
    finds them missing ("cannot import name 'Pipeline'", seen with 4.57). Suppresses pyannote's warning that it cannot
    decode files without FFmpeg: none are decoded.
    """
    with _IMPORTING, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"\s*torchcodec is not installed correctly", category=UserWarning)
        yield


def torch_device(name: str) -> str:
    """Return the device of a name: `auto` is a GPU if torch sees one, else the CPU."""
    with torch_imports():
        import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return name

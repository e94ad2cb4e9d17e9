"""Detection of errors that mean a device is out of memory. The libraries have no common error type for it."""

from typing import Final

_SIGNS: Final = (
    "out of memory",  # CTranslate2: "CUDA failed with error out of memory"; torch: "CUDA out of memory. Tried to …"
    "cublas_status_alloc_failed",
    "cudnn_status_alloc_failed",
    "failed to allocate",  # oneDNN and MKL
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether `error`, or one of its causes, means out of memory.

    Only texts of RuntimeErrors, torch's among them, are searched: other errors may quote such a text.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MemoryError):
            return True
        if isinstance(cause, RuntimeError) and any(sign in str(cause).lower() for sign in _SIGNS):
            return True
        cause = cause.__cause__
    return False

"""Whether an error says that a device has no memory left: the libraries have no error type in common for it."""

from typing import Final

_SIGNS: Final = (
    "out of memory",  # CTranslate2: "CUDA failed with error out of memory"; torch: "CUDA out of memory. Tried to …"
    "cublas_status_alloc_failed",
    "cudnn_status_alloc_failed",
    "failed to allocate",  # oneDNN and MKL
)


def is_out_of_memory(error: BaseException) -> bool:
    """Of `error` or of what caused it. Only RuntimeErrors are read, torch's among them: texts of others may quote."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MemoryError):
            return True
        if isinstance(cause, RuntimeError) and any(sign in str(cause).lower() for sign in _SIGNS):
            return True
        cause = cause.__cause__
    return False

"""Errors that mean out of memory. The texts are those of CTranslate2 4.8 and torch 2.8."""

import pytest

from stages.transcribe.engine.out_of_memory import is_out_of_memory
from stages.transcribe.engine.protocol import EngineError


class OutOfMemoryError(RuntimeError):
    """As torch has one."""


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA failed with error out of memory"),
        RuntimeError("cuBLAS failed with status CUBLAS_STATUS_ALLOC_FAILED"),
        RuntimeError("cuDNN failed with status CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("mkl_malloc: failed to allocate memory"),
        OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
        MemoryError(),
    ],
)
def test_out_of_memory_errors_are_recognized_directly_and_as_causes(error: Exception) -> None:
    assert is_out_of_memory(error)
    wrapped = EngineError("cannot be loaded")
    wrapped.__cause__ = error
    assert is_out_of_memory(wrapped)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA failed with error an illegal memory access was encountered"),
        RuntimeError("cuBLAS failed with status CUBLAS_STATUS_NOT_SUPPORTED"),
        ValueError("the row says: out of memory"),
        EngineError("no text on cuda:0"),
    ],
)
def test_other_errors_are_not_taken_for_out_of_memory(error: Exception) -> None:
    assert not is_out_of_memory(error)

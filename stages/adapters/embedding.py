"""Texts as vectors: what is meant alike lies close together. Search and the check of summaries rest on it."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from stages.adapters.torch_loading import torch_imports
from stages.errors import StageError

Vectors = NDArray[np.float32]

_BATCH: Final = 32


class EmbeddingError(StageError):
    """The embedding model cannot be used: the operator names another or installs it."""


class QuestionEmbedder(Protocol):
    """What makes vectors of texts that look for passages: some models want to be told the difference."""

    def questions(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors of shape (n, dimensions), one for each text. Blocks; safe in several threads."""
        ...


class Embedder(QuestionEmbedder, Protocol):
    """A sentence embedding model. `name` and `dimensions` say which vectors can be compared with each other."""

    name: str
    dimensions: int

    def passages(self, texts: Sequence[str]) -> Vectors:
        """As `questions`, for the texts that are looked for."""
        ...


class SentenceEmbedder:
    """A model of sentence-transformers: a directory, or the name of one in the hub.

    Texts longer than the model's window (256 tokens for all-MiniLM-L6-v2, some 190 English words) are cut there.
    """

    def __init__(self, weights: Path | str, *, name: str) -> None:
        """Raises EmbeddingError where the library or the weights cannot be loaded."""
        try:
            with torch_imports():
                import torch
                from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise EmbeddingError(
                f"embeddings need the search extra: pip install 'callstream[search]' ({error})"
            ) from error
        self._torch = torch
        try:
            with torch_imports():
                self._model: Any = SentenceTransformer(
                    str(weights), device="cpu", local_files_only=isinstance(weights, Path)
                )
        except Exception as error:  # the library lets through whatever its own libraries raise
            raise EmbeddingError(f"the embedding model {name} cannot be loaded from {weights}: {error}") from error
        self.name = name
        self.dimensions = int(self._model.get_embedding_dimension())
        self._lock = threading.Lock()

    def passages(self, texts: Sequence[str]) -> Vectors:
        return self._encoded(self._model.encode_document, texts)

    def questions(self, texts: Sequence[str]) -> Vectors:
        return self._encoded(self._model.encode_query, texts)

    def _encoded(self, encode: Any, texts: Sequence[str]) -> Vectors:
        if not texts:
            return np.zeros((0, self.dimensions), np.float32)
        with self._lock, self._torch.inference_mode():
            vectors = encode(list(texts), batch_size=_BATCH, normalize_embeddings=True, show_progress_bar=False)
        return np.asarray(vectors, np.float32)

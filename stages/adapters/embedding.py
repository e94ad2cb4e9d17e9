"""Sentence embeddings: texts as vectors, close together for similar meanings. For search and the support check."""

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
    """The embedding model cannot be used. The operator installs it or names another."""


class QuestionEmbedder(Protocol):
    """Embeds questions, which some models embed differently from the passages they look for."""

    def questions(self, texts: Sequence[str]) -> Vectors:
        """Return unit vectors, float32 of shape (n, dimensions), one for each text. Blocks; thread-safe."""
        ...


class Embedder(QuestionEmbedder, Protocol):
    """A sentence embedding model. Only vectors of the same `name` and `dimensions` can be compared."""

    name: str
    dimensions: int

    def passages(self, texts: Sequence[str]) -> Vectors:
        """As `questions`, for the texts that are searched."""
        ...


class SentenceEmbedder:
    """A model of sentence-transformers, from a directory or by its name in the hub.

    Texts are truncated to the model's window (256 tokens for all-MiniLM-L6-v2, about 190 English words).
    """

    def __init__(self, weights: Path | str, *, name: str) -> None:
        """Raises EmbeddingError if the library or the weights cannot be loaded."""
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
        except Exception as error:  # whatever the library's own libraries raise
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

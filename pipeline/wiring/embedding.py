"""The sentence embeddings of a process: search and the check of summaries share one model."""

import threading
from functools import cache
from typing import Final

from pipeline.settings import Settings
from pipeline.wiring.weights import embedding_weights
from stages.adapters.embedding import Embedder, SentenceEmbedder

_LOADING: Final = threading.Lock()


def load_embedder(settings: Settings) -> Embedder:
    """Return the process's one copy of the model. Loading takes seconds. Raises ModelError and EmbeddingError."""
    with _LOADING:
        return _embedder(settings.embedding_model)


@cache
def _embedder(name: str) -> Embedder:
    return SentenceEmbedder(embedding_weights(name), name=name)

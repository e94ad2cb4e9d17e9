"""The packaged embedding model."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import ModelError
from pipeline.settings import DEFAULT_EMBEDDING_MODEL
from pipeline.wiring.weights import embedding_weights
from stages.adapters.embedding import EmbeddingError, SentenceEmbedder


@pytest.fixture(scope="module")
def embedder() -> SentenceEmbedder:
    return SentenceEmbedder(embedding_weights(DEFAULT_EMBEDDING_MODEL), name=DEFAULT_EMBEDDING_MODEL)


def test_texts_of_similar_meaning_are_close_together(embedder: SentenceEmbedder) -> None:
    passages = embedder.passages(["My last bill is much too high.", "The heating does not start any more."])
    [question] = embedder.questions(["Who complained about an invoice?"])
    assert passages.shape == (2, embedder.dimensions) == (2, 384)
    assert passages.dtype == np.float32
    assert np.linalg.norm(passages, axis=1) == pytest.approx([1, 1], abs=1e-5)
    assert passages[0] @ question > passages[1] @ question + 0.2


def test_no_texts_have_no_vectors(embedder: SentenceEmbedder) -> None:
    assert embedder.passages([]).shape == (0, 384)


def test_an_unknown_name_is_an_error_with_the_known_ones() -> None:
    with pytest.raises(ModelError, match=r"no embedding model 'bge'.*all-MiniLM-L6-v2"):
        embedding_weights("bge")
    with pytest.raises(ModelError, match="no embedding model in /nowhere"):
        embedding_weights("/nowhere")
    assert embedding_weights("BAAI/bge-large-en-v1.5") == "BAAI/bge-large-en-v1.5"


def test_a_directory_without_a_model_is_an_error_that_names_it(tmp_path: Path) -> None:
    assert embedding_weights(str(tmp_path)) == tmp_path
    with pytest.raises(EmbeddingError, match=str(tmp_path)):
        SentenceEmbedder(tmp_path, name="mine")

"""Extractive summaries: the most central sentences of the call, without a language model, by TextRank.

Sentences are ranked by PageRank over their similarity (Mihalcea and Tarau, "TextRank: bringing order into texts", EMNLP
2004). The similarity is the cosine of TF-IDF vectors with a threshold (Erkan and Radev, "LexRank", JAIR 22, 2004). The
best sentences are given in the order of the call, each with its speaker.
"""

import re
from typing import Final

import msgspec

from schemas.summaries import KeyPoint
from schemas.transcripts import Turn
from stages.text import sentences

MODEL: Final = "textrank"
NO_SPEECH: Final = "No speech in this call."

TEXT_SENTENCES: Final = 3
POINT_SENTENCES: Final = 5
MIN_WORDS: Final = 4
"""Shorter sentences ("Yes, please.") are used only if there are no others."""

SIMILARITY_THRESHOLD: Final = 0.1
MAX_SENTENCES: Final = 400
"""Only this many sentences are ranked, the longest: work and memory grow with the square of their number."""


class ExtractiveSummary(msgspec.Struct, frozen=True, kw_only=True):
    text: str
    key_points: list[KeyPoint]


class _Sentence(msgspec.Struct, frozen=True):
    speaker: str
    text: str
    segment_ids: list[str]


def extractive_summary(turns: list[Turn], *, language: str) -> ExtractiveSummary:
    """Pick sentences of the call. `language` is an ISO 639-1 code; function words are ignored in English only.

    Takes up to a second of CPU for a long call. The same turns give the same summary.
    """
    ranked = _sentences(turns)
    if not ranked:
        return ExtractiveSummary(text=NO_SPEECH, key_points=[])
    scores = _scores([sentence.text for sentence in ranked], language)
    ranking = sorted(range(len(ranked)), key=lambda index: (-scores[index], index))
    text = [ranked[index] for index in sorted(ranking[:TEXT_SENTENCES])]
    points = [ranked[index] for index in sorted(ranking[:POINT_SENTENCES])]
    return ExtractiveSummary(
        text="\n".join(f"{sentence.speaker}: {sentence.text}" for sentence in text),
        key_points=[
            KeyPoint(text=f"{sentence.speaker}: {sentence.text}", segment_ids=sentence.segment_ids)
            for sentence in points
        ],
    )


def _sentences(turns: list[Turn]) -> list[_Sentence]:
    """Return the sentences worth ranking, in order, each wording once."""
    every = [_Sentence(turn.speaker, text, turn.segment_ids) for turn in turns for text in sentences(turn.text)]
    once = list({(sentence.speaker, sentence.text.casefold()): sentence for sentence in reversed(every)}.values())[::-1]
    whole = [sentence for sentence in once if _n_words(sentence.text) >= MIN_WORDS] or once
    longest = sorted(range(len(whole)), key=lambda index: (-len(whole[index].text), index))[:MAX_SENTENCES]
    return [whole[index] for index in sorted(longest)]


def _n_words(text: str) -> int:
    """Return the number of words. In scripts without spaces two characters count as a word."""
    return max(len(text.split()), len(re.findall(r"[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff]", text)) // 2)


def _scores(texts: list[str], language: str) -> list[float]:
    """Return the PageRank of each text. All are equal if no text shares a word with another."""
    import networkx
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(stop_words="english" if language == "en" else None)
    try:
        vectors = vectorizer.fit_transform(texts)
    except ValueError:  # nothing but function words
        return [1.0 / len(texts)] * len(texts)
    similarity = (vectors @ vectors.T).toarray()
    similarity[similarity < SIMILARITY_THRESHOLD] = 0.0
    for index in range(len(texts)):
        similarity[index, index] = 0.0
    ranks = networkx.pagerank(networkx.from_numpy_array(similarity))
    return [float(ranks[index]) for index in range(len(texts))]

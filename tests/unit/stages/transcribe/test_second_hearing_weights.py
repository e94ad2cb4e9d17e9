"""A second hearing with the real weights of Whisper base, on the sample call, whose text is known."""

from collections.abc import Sequence
from itertools import pairwise

import msgspec
import numpy as np
import pytest

from stages.text import word_spans
from stages.transcribe.engine.protocol import Audio, Row, Transcription
from stages.transcribe.engine.whisper import Engine
from stages.transcribe.engine.windows import SAMPLE_RATE_HZ
from stages.transcribe.second_hearing import hear_whole
from tests.calls.wording import word_errors
from tests.unit.stages.transcribe.engine.test_whisper import Line, channels, engine, lines, model

__all__ = ["channels", "engine", "lines", "model"]

_CONTEXT_S = 0.3


def pack_of(audio: Audio, said: Sequence[Line]) -> tuple[Row, list[float]]:
    """Return lines of one channel as a pack, and where each begins in it, in seconds."""
    pieces, voiced, starts_s, at_s = [], [], [], 0.0
    for line in said:
        start_s, end_s = line.start_s - _CONTEXT_S, line.end_s + _CONTEXT_S
        pieces.append(audio[round(start_s * SAMPLE_RATE_HZ) : round(end_s * SAMPLE_RATE_HZ)])
        voiced += [(a - start_s + at_s, b - start_s + at_s) for a, b in line.speech]
        starts_s.append(at_s)
        at_s += len(pieces[-1]) / SAMPLE_RATE_HZ
    return Row(audio=np.concatenate(pieces), voiced=voiced, language="en"), starts_s


@pytest.mark.slow
@pytest.mark.parametrize("skipped", [0, 1])
async def test_an_utterance_of_a_pack_that_the_first_text_leaves_out_comes_back(
    engine: Engine, channels: list[Audio], lines: list[Line], skipped: int
) -> None:
    """As seen on real calls: the text begins with the second utterance, or stops after the first."""
    said = [line for line in lines if line.channel == 0][:2]
    row, starts_s = pack_of(channels[0], said)
    ends_s = [*starts_s[1:], len(row.audio) / SAMPLE_RATE_HZ]
    rows: list[Row] = []

    async def decode(asked: Row) -> Transcription:
        rows.append(asked)
        heard = engine.transcribe_batch([asked])[0]
        return heard if len(rows) > 1 else without(heard, starts_s[skipped], ends_s[skipped])

    found = await hear_whole(row, decode)
    errors, n_words = word_errors(" ".join(line.text for line in said), found.transcription.text)
    assert errors <= 1, (found.transcription.text, n_words)
    assert found.unheard == []
    assert 1 <= found.rows <= 2
    words = found.transcription.words
    assert all(one.start_s <= other.start_s for one, other in pairwise(words))
    assert word_spans(found.transcription.text, [word.text for word in words]) is not None


def without(heard: Transcription, start_s: float, end_s: float) -> Transcription:
    """Return a text without the words of a stretch."""
    words = [word for word in heard.words if not start_s <= (word.start_s + word.end_s) / 2 < end_s]
    assert len(words) < len(heard.words)
    return msgspec.structs.replace(heard, words=words, text=" ".join(word.text for word in words))

from collections.abc import Sequence

import numpy as np

from benchmarks.speech.corpus import Call, TruthLine, TruthWord
from benchmarks.speech.cuts import CutErrors, PlaceErrors, cut_errors
from benchmarks.speech.monologues import INNER_PAUSE_S, fluent
from benchmarks.speech.telephone import RATE_HZ
from schemas.utterances import Utterance
from tests.unit.benchmarks.guards.test_counts import segment
from tests.unit.stages.transcribe.records import CALL

WORDS = ["one", "fine", "day", "the", "old", "man", "went", "down", "to", "the", "sea"]


def spoken() -> Call:
    """A word each half second."""
    words = [TruthWord(word, index / 2, index / 2 + 0.5) for index, word in enumerate(WORDS)]
    line = TruthLine(0, 0.0, len(WORDS) / 2, " ".join(WORDS), words)
    return Call(name="m", file="m.wav", variant="clean", duration_s=6.0, sha256="", lines=[line])


def utterances(*cuts_s: float) -> Sequence[Utterance]:
    return [
        Utterance(
            call=CALL,
            seq=index,
            channel=0,
            first_sample=0,
            sample_rate_hz=RATE_HZ,
            pcm=bytes(2 * int(cut_s * RATE_HZ)),
            voiced=[],
            cut="hard",
        )
        for index, cut_s in enumerate(cuts_s)
    ]


def test_errors_are_counted_beside_hard_cuts_and_elsewhere() -> None:
    written = segment(0.0, 5.5, text="one fine they the old man man went down the sea")
    found = cut_errors(spoken(), utterances(3.2), [written])
    assert (found.cuts, found.inside) == (1, 1)
    assert found.beside == PlaceErrors(words=4, changed=0, lost=0, inserted=1)
    assert found.elsewhere == PlaceErrors(words=7, changed=1, lost=1, inserted=0)
    (example,) = found.examples
    assert example.endswith("[–: man]")


def test_a_cut_between_words_divides_none_and_sums_are_of_all() -> None:
    found = cut_errors(spoken(), utterances(3.0), [segment(0.0, 5.5, text=" ".join(WORDS))])
    assert (found.inside, found.beside.percent, found.elsewhere.percent) == (0, 0.0, 0.0)
    assert (found + found).cuts == 2
    assert sum([found], CutErrors()) == found


def test_long_pauses_and_silent_edges_are_taken_out() -> None:
    loud, silent = np.ones(RATE_HZ // 2), np.zeros(RATE_HZ // 2)
    short = np.zeros(RATE_HZ // 20)
    audio = np.concatenate([silent, loud, silent, loud, short, loud, silent])
    left = audio[fluent(audio)]
    assert len(left) == 3 * len(loud) + int(INNER_PAUSE_S * RATE_HZ) + len(short)
    assert left.sum() == 3 * len(loud)

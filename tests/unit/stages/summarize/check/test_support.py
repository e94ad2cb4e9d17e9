"""The support check: claims and the turns that they cite."""

import threading
import zlib
from collections.abc import Iterator, Sequence

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.support.labelled import judge, labelled_calls, rates
from pipeline.settings import DEFAULT_EMBEDDING_MODEL
from pipeline.wiring.weights import embedding_weights
from schemas.transcripts import Turn
from stages.adapters.embedding import SentenceEmbedder, Vectors
from stages.summarize.check.support import MAX_PASSAGES, Support, SupportCheck
from stages.summarize.check.words import content_stems
from stages.summarize.claims import Claim
from tests.unit.stages.summarize.calls import turns

BILL = (
    ("agent", "Northwind Energy, this is Sarah. How can I help you?"),
    ("customer", "My last bill looks wrong. It is much too high."),
    ("agent", "Your bill for October is one hundred forty two dollars and fifty cents, with a fee of twelve dollars."),
    ("customer", "But I paid on time. I paid on the third of September."),
    ("agent", "You are right. I will remove the fee, and you will receive a new bill by email before Friday."),
    ("customer", "Did you get my letter from Oxford?"),
    ("agent", "No, I am afraid we did not."),
)


class BagOfWords:
    """A fake embedding model that remembers the texts it embedded."""

    name, dimensions = "words", 256

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def passages(self, texts: Sequence[str]) -> Vectors:
        self.asked.append(list(texts))
        vectors = np.zeros((len(texts), self.dimensions), np.float32)
        for vector, text in zip(vectors, texts, strict=True):
            for word in content_stems(text):
                vector[zlib.crc32(word.encode()) % self.dimensions] = 1
            vector /= max(float(np.linalg.norm(vector)), 1)
        return vectors

    def questions(self, texts: Sequence[str]) -> Vectors:
        return self.passages(texts)


def ids(spoken: Sequence[Turn], *numbers: int) -> list[str]:
    return [segment_id for number in numbers for segment_id in spoken[number].segment_ids]


def judged(text: str, *numbers: int, language: str = "en", lines: Sequence[tuple[str, str]] = BILL) -> Support:
    spoken = turns(lines)
    [answer] = SupportCheck(BagOfWords()).judge([Claim(text, ids(spoken, *numbers))], spoken, language=language)
    return answer


@pytest.mark.parametrize(
    ("text", "cited"),
    [
        ("The customer thinks the bill is too high.", 1),
        ("The October bill is $142.50, including a $12 fee.", 2),
        ("The customer paid on September 3rd.", 3),
        ("Sarah will take off the fee and email a new bill before Friday.", 4),
        ("The agent did not get the letter.", 6),
    ],
)
def test_a_claim_that_follows_is_supported(text: str, cited: int) -> None:
    answer = judged(text, cited)
    assert (answer.supported, answer.reason, answer.detail) == (True, None, "")


@pytest.mark.parametrize(
    ("text", "cited", "reason", "detail"),
    [
        ("The October bill is $124.50.", 2, "number", "124.5"),
        ("A new bill comes before Monday.", 4, "number", "monday"),
        ("The agent paid on September 3.", 3, "speaker", "customer"),
        ("The customer will remove the fee.", 4, "speaker", "agent does it"),
        ("The agent will not remove the fee.", 4, "negation", "remove"),
        ("The agent got the letter.", 6, "negation", "no"),
        ("The customer will visit Frankfurt about the bill.", 1, "name", "Frankfurt"),
        ("Xylophones buzz quickly.", 1, "unlike", "0.48"),
    ],
)
def test_a_claim_that_does_not_says_why(text: str, cited: int, reason: str, detail: str) -> None:
    answer = judged(text, cited)
    assert (answer.supported, answer.reason) == (False, reason)
    assert detail in answer.detail


def test_a_number_of_another_turn_than_the_cited_is_missing() -> None:
    assert judged("The bill is $142.50.", 4).reason == "number"
    assert judged("The bill is $142.50.", 2, 4).supported


def test_an_answer_is_read_together_with_its_question() -> None:
    lines = [("agent", "Can you come in on Thursday at 5:15?"), ("customer", "Let me look. Yes, that works.")]
    assert judged("The customer can come in on Thursday at a quarter past five.", 1, lines=lines).supported
    assert judged("The customer can come in on Friday at a quarter past five.", 1, lines=lines).reason == "number"


def test_names_may_come_from_another_turn_and_be_spelled_differently() -> None:
    assert judged("The last bill of Oxford looks wrong.", 1).supported
    assert judged("The last bill of Northwindt Energy looks wrong.", 1).supported
    assert judged("The last bill of Frankfurt looks wrong.", 1).reason == "name"


def test_a_claim_without_citations_is_held_against_the_nearest_turns() -> None:
    assert judged("Remove the $12 fee and email a new bill before Friday.").supported
    assert judged("Remove the $13 fee and email a new bill before Friday.").reason == "number"
    assert judged("Xylophones buzz quickly.").reason == "citation"


def test_citations_of_no_turn_support_nothing() -> None:
    [answer] = SupportCheck().judge([Claim("The fee will be removed.", ["elsewhere"])], turns(BILL))
    assert (answer.supported, answer.reason, answer.score) == (False, "citation", 0.0)


def test_without_an_embedder_words_in_common_decide_as_the_signals_say() -> None:
    spoken = turns(BILL)
    claims = [Claim("The fee will be removed.", ids(spoken, 4)), Claim("A dog barked at him.", ids(spoken, 4))]
    known, invented = SupportCheck().judge(claims, spoken)
    assert (known.supported, known.signals) == (True, ("numbers", "names", "speakers", "negation", "words"))
    assert (invented.reason, invented.score) == ("unlike", 0.0)
    assert judged("The fee will be removed.", 4).signals[-1] == "embedding"


def test_in_other_languages_only_language_independent_rules_apply() -> None:
    lines = [("customer", "Ich habe die Rechnung über 142,50 Euro am 3. September bezahlt.")]
    answer = judged("Der Kunde hat die Rechnung am 3. September bezahlt.", 0, language="de", lines=lines)
    assert (answer.supported, answer.signals) == (True, ("numbers", "names", "embedding"))
    assert judged("Er hat die Rechnung am 13. bezahlt.", 0, language="de", lines=lines).reason == "number"
    spelled = [("customer", "Ich habe vor zwölf Tagen die Rechnung bezahlt.")]
    assert judged("Er hat die Rechnung vor 12 Tagen bezahlt.", 0, language="de", lines=spelled).supported
    french = [("customer", "J'ai payé la facture à Lyon.")]
    assert judged("Il a payé la facture à Marseille.", 0, language="fr", lines=french).reason == "name"


def test_attribution_is_not_checked_for_speakers_without_a_role() -> None:
    lines = [("speaker 1", "I paid the bill on time.")]
    assert judged("The agent paid the bill on time.", 0, lines=lines).supported


def test_only_cited_passages_are_embedded_once_and_up_to_the_bound() -> None:
    embedder = BagOfWords()
    long = " ".join(f"This is sentence {chr(97 + at)} of the fee." for at in range(26))
    spoken = turns([*BILL, ("agent", long)])
    claims = [Claim("The fee is removed.", ids(spoken, 7))] * 2 + [Claim("The fee is gone.", ids(spoken, 7))]
    SupportCheck(embedder).judge(claims, spoken)
    [asked] = embedder.asked
    assert len(asked) == len(set(asked)) <= 2 + 2 * MAX_PASSAGES
    assert not any("October" in text for text in asked)


def test_no_claims_and_no_turns_are_no_error() -> None:
    check = SupportCheck(BagOfWords())
    assert check.judge([], turns(BILL)) == []
    assert [answer.supported for answer in check.judge([Claim("A claim."), Claim("")], [])] == [False, False]


def test_several_threads_may_judge_at_once() -> None:
    check, spoken, answers = SupportCheck(BagOfWords()), turns(BILL), list[list[Support]]()
    claims = [Claim("The customer paid on September 3rd.", ids(spoken, 3))]
    threads = [threading.Thread(target=lambda: answers.append(check.judge(claims, spoken))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 4
    assert all(answer == answers[0] for answer in answers)


@settings(max_examples=60)
@given(st.text(max_size=60), st.lists(st.text(max_size=60), max_size=5), st.sampled_from(["en", "de", "ja"]))
def test_any_claim_about_any_turns_is_judged_deterministically(claim: str, texts: list[str], language: str) -> None:
    spoken = turns([("agent" if at % 2 else "customer", text) for at, text in enumerate(texts)])
    claims = [Claim(claim, ids(spoken, *range(len(spoken)))), Claim(claim)]
    for check in (SupportCheck(), SupportCheck(BagOfWords())):
        answers = check.judge(claims, spoken, language=language)
        assert answers == check.judge(claims, spoken, language=language)
        assert all(0 <= answer.score <= 1 and answer.supported == (answer.reason is None) for answer in answers)


@settings(max_examples=60)
@given(st.sampled_from([line for _, line in BILL if "?" not in line]))
def test_every_line_supports_itself(line: str) -> None:
    assert judged(line, [text for _, text in BILL].index(line)).supported


@pytest.fixture
def one_core() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_core")
def test_claims_of_held_out_calls_are_judged_as_well_as_promised() -> None:
    check = SupportCheck(SentenceEmbedder(embedding_weights(DEFAULT_EMBEDDING_MODEL), name=DEFAULT_EMBEDDING_MODEL))
    judged = [one for call in labelled_calls("test") for one in judge(check, call)]
    figures = rates(judged)
    for answer in ("supported", "unsupported"):
        assert figures[answer]["precision"] >= 0.8, figures
        assert figures[answer]["recall"] >= 0.8, figures
    ignorant = [msgspec.structs.replace(one, support=judged[0].support) for one in judged]
    assert rates(ignorant)["supported"]["precision"] < 0.8

"""Claims that affirm what the call denies."""

import pytest

from stages.summarize.check.negation import answered, negates
from stages.text import sentences


def judged(claim: str, said: str, question: str = "") -> str | None:
    pair = answered(question, said)
    return negates(claim, [*sentences(question), *sentences(said)], [pair] if pair else [])


@pytest.mark.parametrize(
    ("claim", "said", "question"),
    [
        ("The agent will remove the fee.", "I will remove the fee.", ""),
        ("The customer never got the letter.", "I did not get the letter.", ""),
        ("The customer has trouble logging in.", "I could not log in.", ""),
        ("The customer is unable to log in.", "I could not log in.", ""),
        ("The customer asks when the parcel will arrive.", "The parcel did not arrive.", ""),
        ("The parcel has not arrived.", "I am still waiting for it to arrive.", ""),
        ("The customer is at home.", "No, I am at home.", "Are you calling from abroad?"),
        ("The wound does not bleed.", "No, it is just red.", "Is the wound bleeding?"),
        ("The customer declined the offer.", "No, thank you.", "Would you like to hear about our offer?"),
        ("The light is green.", "No, it is green.", "Is the light blinking?"),
        ("Other cables were tried without success.", "Yes, I have tried six.", "Have you tried another cable?"),
        ("Breakfast is not included.", "It doesn't, I'm afraid.", "Does that include breakfast?"),
        ("The customer cuts the old card.", "Please do not throw the old card away.", ""),
    ],
)
def test_a_claim_that_agrees_raises_no_objection(claim: str, said: str, question: str) -> None:
    assert judged(claim, said, question) is None


@pytest.mark.parametrize(
    ("claim", "said", "question"),
    [
        ("The agent will not remove the fee.", "I will remove the fee.", ""),
        ("The agent won't remove the fee.", "I will remove the fee.", ""),
        ("The customer could log in.", "I couldn't log in.", ""),
        ("The patient has to pay.", "You do not have to pay anything.", ""),
        ("The wound is bleeding.", "No, it is just red.", "Is the wound bleeding?"),
        ("The patient is not in pain.", "Yes, quite a lot.", "Are you in pain?"),
        ("Breakfast is included.", "It doesn't, I'm afraid.", "Does that include breakfast?"),
        ("The customer needs an interpreter.", "No, thank you.", "Do you need an interpreter?"),
    ],
)
def test_the_opposite_is_objected_to(claim: str, said: str, question: str) -> None:
    assert judged(claim, said, question) is not None

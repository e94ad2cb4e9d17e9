"""Attribution of speech and actions in claims and turns."""

import pytest

from stages.summarize.check.attribution import lines_of, misattributed, names_of, side_of


def judged(claim: str, *turns: tuple[str, str]) -> str | None:
    lines = [line for turn in turns for line in lines_of(*turn)]
    return misattributed(claim, lines, lines, names_of(turns))


@pytest.mark.parametrize(
    ("claim", "turn"),
    [
        ("The customer paid on time.", ("customer", "But I paid on time.")),
        ("The agent will remove the fee.", ("agent", "I will remove the fee.")),
        ("The customer will receive a new bill.", ("agent", "You will get a new bill.")),
        ("The agent will send all bills by email.", ("customer", "Could you please send all my bills by email?")),
        ("The customer asks for bills by email.", ("customer", "Could you please send all my bills by email?")),
        ("The caller should bring the letter.", ("agent", "Please bring the letter.")),
        ("The bank sent a second card.", ("customer", "You sent me a second card.")),
        ("The bank promised a fixed rate.", ("customer", "I was told that the rate is fixed.")),
        ("The customer's internet is down.", ("customer", "My internet is down.")),
        ("The customer's limit is 100.", ("agent", "Your limit is 100.")),
        ("The patient can be reached by phone.", ("customer", "You can reach me by phone.")),
        ("The customer owes 50 dollars.", ("agent", "I see that 50 dollars are still open.")),
        ("The agent checks it.", ("agent", "Let me check that.")),
        ("The customer has a credit.", ("agent", "I have checked, and there is a credit.")),
        ("It was paid.", ("customer", "I paid.")),
    ],
)
def test_a_claim_about_the_right_side_raises_no_objection(claim: str, turn: tuple[str, str]) -> None:
    assert judged(claim, turn) is None


@pytest.mark.parametrize(
    ("claim", "turn"),
    [
        ("The agent paid on time.", ("customer", "But I paid on time.")),
        ("The agent says that she paid on time.", ("customer", "But I paid on time.")),
        ("The customer will remove the fee.", ("agent", "I will remove the fee.")),
        ("The agent will receive a new bill.", ("agent", "You will get a new bill.")),
        ("The agent asked the customer to send bills.", ("customer", "Could you please send all my bills?")),
        ("The customer asked the agent to bring the letter.", ("agent", "Please bring the letter.")),
        ("The agent's wife is called Monica.", ("customer", "Yes, my wife. Her name is Monica.")),
        ("The agent would like to return it.", ("customer", "I would like to return it.")),
        ("The agent has a voucher.", ("customer", "I have a voucher that you do not accept.")),
        ("The nurse needs a new prescription.", ("customer", "I need a new prescription.")),
        ("The customer reports a fault in the street.", ("agent", "There is a fault in your street.")),
    ],
)
def test_a_claim_about_the_wrong_side_raises_an_objection(claim: str, turn: tuple[str, str]) -> None:
    assert judged(claim, turn) is not None


def test_people_who_introduce_themselves_or_are_greeted_get_a_side() -> None:
    turns = [
        ("agent", "Northwind Energy, this is Sarah speaking."),
        ("customer", "Hello Sarah. My name is John Carter. I paid the bill."),
        ("agent", "Thank you, Mr. Carter."),
    ]
    names = names_of(turns)
    assert (names["sarah"], names["carter"], names["john"]) == ("agent", "customer", "customer")
    assert judged("Mr. Carter paid the bill.", *turns) is None
    assert judged("Sarah paid the bill.", *turns) is not None


def test_a_speaker_with_a_number_takes_no_side() -> None:
    assert side_of("speaker 1") is None
    assert side_of("Customer") == "customer"
    assert judged("The agent paid on time.", ("speaker 1", "I paid on time.")) is None

"""Estimates of the tokens of a prompt."""

from hypothesis import given
from hypothesis import strategies as st

from stages.adapters.llm.protocol import Completion, Message
from stages.adapters.llm.token_budget import FRAME_TOKENS, TokenBudget


def test_the_first_estimate_is_three_bytes_to_a_token() -> None:
    assert TokenBudget().tokens(["x" * 299]) == FRAME_TOKENS + 100


def test_the_servers_counts_correct_the_estimate() -> None:
    budget = TokenBudget()
    messages = [Message("user", "x" * 4_000)]
    budget.observe(messages, Completion(text="", prompt_tokens=1_000 + FRAME_TOKENS))
    assert 1_050 < budget.tokens(["x" * 4_000]) - FRAME_TOKENS < 1_150  # 4 bytes to a token, and a margin
    budget.observe(messages, Completion(text="", prompt_tokens=2_000 + FRAME_TOKENS))
    budget.observe(messages, Completion(text="", prompt_tokens=1_000 + FRAME_TOKENS))
    assert 2_150 < budget.tokens(["x" * 4_000]) - FRAME_TOKENS < 2_300  # the densest text counts


def test_a_server_that_does_not_count_changes_nothing() -> None:
    budget = TokenBudget()
    budget.observe([Message("user", "x" * 4_000)], Completion(text=""))
    assert budget.tokens(["x" * 299]) == FRAME_TOKENS + 100


def test_after_an_overflow_less_is_planned() -> None:
    budget = TokenBudget()
    before = budget.tokens(["x" * 6_000])
    budget.overflowed([Message("user", "x" * 6_000)], tokens=4_096, room=3_584)
    assert budget.tokens(["x" * 6_000]) > 4_096 > before


def test_an_overflow_that_is_expected_by_now_changes_nothing() -> None:
    budget = TokenBudget()
    for _ in range(5):
        budget.overflowed([Message("user", "x" * 6_000)], tokens=4_096, room=3_584)
    assert budget.tokens(["x" * 6_000]) < 5_000


@given(st.lists(st.text(max_size=300), min_size=1, max_size=40), st.integers(1, 500))
def test_as_many_lines_are_planned_as_fit_and_at_least_one(lines: list[str], room: int) -> None:
    budget = TokenBudget()
    sizes = [budget.tokens([line]) - FRAME_TOKENS for line in lines]
    fitting = budget.fitting(lines, room=room)
    assert fitting == 1 or sum(sizes[:fitting]) <= room
    assert fitting == len(lines) or sum(sizes[: fitting + 1]) > room

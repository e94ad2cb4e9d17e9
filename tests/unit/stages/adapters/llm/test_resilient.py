"""A failing language model: retries, and the circuit breaker."""

import asyncio

import pytest

from stages.adapters.llm.protocol import LlmError, LlmMissing, LlmOverflow, LlmUnavailable, Message
from stages.adapters.llm.resilient import ATTEMPTS, Circuit, ResilientLlm
from tests.unit.stages.summarize.calls import ScriptedLlm, answer

ASKED = [Message("user", "hello")]
BUSY = LlmUnavailable("busy", passing=True)
SLOW = LlmUnavailable("took too long")


def resilient(llm: ScriptedLlm, circuit: Circuit | None = None) -> ResilientLlm:
    return ResilientLlm(llm, circuit or Circuit("Ollama", failures=100), first_pause_s=0.001)


async def test_passing_failures_are_retried() -> None:
    llm = ScriptedLlm(BUSY, BUSY, answer())
    assert (await resilient(llm).chat(ASKED, schema={})).text == answer()
    assert len(llm.asked) == 3


async def test_it_is_not_repeated_for_ever() -> None:
    llm = ScriptedLlm(*[BUSY] * 10)
    with pytest.raises(LlmUnavailable, match="busy"):
        await resilient(llm).chat(ASKED, schema={})
    assert len(llm.asked) == ATTEMPTS


@pytest.mark.parametrize("error", [SLOW, LlmOverflow(tokens=10, room=5), LlmMissing("no such model")])
async def test_lasting_failures_are_not_retried(error: LlmError) -> None:
    llm = ScriptedLlm(error, answer())
    with pytest.raises(type(error)):
        await resilient(llm).chat(ASKED, schema={})
    assert len(llm.asked) == 1


async def test_consecutive_failures_open_the_circuit_until_a_request_succeeds() -> None:
    states: list[str] = []
    circuit = Circuit("Ollama", failures=2, rest_s=0.1, changed=states.append)
    llm = ScriptedLlm(SLOW, SLOW, answer(), SLOW, answer())
    client = resilient(llm, circuit)
    for _ in range(2):
        with pytest.raises(LlmUnavailable, match=r"^took too long$"):
            await client.chat(ASKED, schema={})
    with pytest.raises(LlmUnavailable, match=r"^took too long$"):
        await client.chat(ASKED, schema={})
    assert len(llm.asked) == 2
    await asyncio.sleep(0.15)
    assert (await client.chat(ASKED, schema={})).text == answer()
    assert states == ["closed", "opened", "half-opened", "closed"]
    with pytest.raises(LlmUnavailable):  # one failure is not yet another two
        await client.chat(ASKED, schema={})
    assert (await client.chat(ASKED, schema={})).text == answer()


async def test_a_missing_model_or_a_long_prompt_is_no_failure_of_the_server() -> None:
    circuit = Circuit("Ollama", failures=1)
    llm = ScriptedLlm(LlmMissing("no such model"), LlmOverflow(tokens=10, room=5), answer())
    client = resilient(llm, circuit)
    for error in (LlmMissing, LlmOverflow):
        with pytest.raises(error):
            await client.chat(ASKED, schema={})
    assert (await client.chat(ASKED, schema={})).text == answer()


async def test_a_request_that_is_given_up_is_no_failure_of_the_server() -> None:
    circuit = Circuit("Ollama", failures=1)
    client = resilient(ScriptedLlm(5.0, answer()), circuit)
    asking = asyncio.create_task(client.chat(ASKED, schema={}))
    await asyncio.sleep(0.01)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    assert (await client.chat(ASKED, schema={})).text == answer()

"""What is asked of a language model, and what of its answer is believed."""

import msgspec
import pytest

from stages.summarize.llm import LlmError, draft_schema, llm_summary
from tests.unit.stages.summarize.calls import ScriptedLlm, answer, turns


async def test_a_good_answer_becomes_a_summary_with_the_segments_of_the_call() -> None:
    llm = ScriptedLlm(answer())
    summary = await llm_summary(llm, turns(), language="en")
    assert summary.text.startswith("The customer's internet is down.")
    assert [point.segment_ids for point in summary.key_points] == [["segment-1"], ["segment-5", "segment-6"]]
    assert (summary.sentiment, summary.topics, summary.dropped) == ("mixed", ["internet outage"], 0)
    assert len(llm.asked) == 1


async def test_the_prompt_names_the_language_and_carries_every_turn_with_its_label() -> None:
    llm = ScriptedLlm(answer())
    await llm_summary(llm, turns(), language="en")
    system, user = llm.asked[0]
    assert "Write in the language of the transcript (en)." in system.content
    assert user.content.splitlines()[1] == "[S2] customer: My internet has been down since Monday and I work from home."


async def test_points_that_cite_nothing_of_the_call_are_dropped_and_counted() -> None:
    points = [{"text": "true", "segments": ["S1"]}, {"text": "made up", "segments": ["S99"]}]
    summary = await llm_summary(ScriptedLlm(answer(key_points=points)), turns(), language="en")
    assert [point.text for point in summary.key_points] == ["true"]
    assert summary.dropped == 1


@pytest.mark.parametrize(
    "bad", [answer()[:150], "", "I cannot do that.", answer(sentiment="angry"), answer(summary=" ")]
)
async def test_an_unusable_answer_is_asked_for_once_more(bad: str) -> None:
    llm = ScriptedLlm(bad, answer())
    assert (await llm_summary(llm, turns(), language="en")).sentiment == "mixed"
    assert [message.role for message in llm.asked[1]] == ["system", "user", "assistant", "user"]


async def test_two_unusable_answers_are_given_up() -> None:
    with pytest.raises(LlmError, match="did not answer with the JSON"):
        await llm_summary(ScriptedLlm(answer()[:150], answer()[:100]), turns(), language="en")


async def test_a_call_that_does_not_fit_the_context_is_never_sent() -> None:
    llm = ScriptedLlm(answer(), context_tokens=1_000)
    with pytest.raises(LlmError, match=r"about \d+ tokens and 488 fit"):
        await llm_summary(llm, turns(), language="en")
    assert llm.asked == []


def test_the_schema_bounds_every_list_and_text_and_refers_to_nothing() -> None:
    schema = draft_schema()
    assert b"$ref" not in msgspec.json.encode(schema)
    assert schema["required"] == ["summary", "key_points", "sentiment", "actions", "topics"]
    point = schema["properties"]["key_points"]["items"]
    assert point["properties"]["segments"] == {
        "type": "array",
        "items": {"type": "string", "pattern": "^S[0-9]{1,4}$"},
        "minItems": 1,
        "maxItems": 5,
    }
    for name in ("key_points", "actions", "topics"):
        assert schema["properties"][name]["maxItems"] == 5

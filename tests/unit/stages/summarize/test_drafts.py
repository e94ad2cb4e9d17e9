"""The schema that a model's answer must follow, and its decoding."""

from typing import Any

import msgspec
import pytest

from stages.adapters.llm.protocol import json_schema
from stages.summarize.drafts import Draft, Notes, RollingDraft, decoded
from tests.unit.stages.summarize.calls import answer


def bounded(node: Any) -> bool:
    """Return True if every list and free text below has a limit, so that an answer ends."""
    if isinstance(node, list):
        return all(map(bounded, node))
    if not isinstance(node, dict):
        return True
    if node.get("type") == "array" and "maxItems" not in node:
        return False
    if node.get("type") == "string" and not {"maxLength", "pattern", "enum"} & {*node}:
        return False
    return all(map(bounded, node.values()))


@pytest.mark.parametrize("kind", [Draft, Notes, RollingDraft])
def test_the_schema_bounds_every_list_and_text_and_refers_to_nothing(kind: Any) -> None:
    schema = json_schema(kind)
    assert b"$ref" not in msgspec.json.encode(schema)
    assert bounded(schema)
    assert {*schema["required"]} == {*schema["properties"]}


def test_every_part_of_a_draft_is_asked_for() -> None:
    assert json_schema(Draft)["required"] == [
        "summary",
        "key_points",
        "sentiment",
        "speakers",
        "actions",
        "topics",
        "outcome",
    ]


@pytest.mark.parametrize(
    "bad", [answer()[:150], "", "I cannot do that.", answer(sentiment="angry"), answer(summary=" ")]
)
def test_an_answer_that_does_not_follow_it_is_an_error(bad: str) -> None:
    with pytest.raises(msgspec.MsgspecError):
        decoded(bad, Draft)

"""What a language model's server is called where it is shown and stored."""

from pathlib import Path

import pytest

from pipeline.settings import Settings
from pipeline.wiring.llm import open_llm, open_writer
from schemas.transcripts import Turn
from stages.adapters.llm.protocol import LlmError, Message

SETTINGS = Settings(data=Path("/nowhere"), ollama_url="http://user:hunter2@127.0.0.1:9/ollama")


TURN = Turn(
    tenant="default",
    call_id="call",
    turn_id="t1",
    revision=1,
    speaker="agent",
    channel=0,
    start_s=0.0,
    end_s=1.0,
    text="Hello.",
    words=[],
    segment_ids=["s1"],
    language="en",
)


async def test_no_reason_why_a_summary_is_missing_shows_the_login() -> None:
    said = []
    async with open_writer(SETTINGS) as writer, open_llm(SETTINGS) as llm:
        for _ in range(8):  # until the circuit is open, and then some
            for ask in (
                lambda: writer.write([TURN], language="en"),
                lambda: llm.chat([Message("user", "hello")], schema={}),
            ):
                with pytest.raises(LlmError) as raised:
                    await ask()
                said.append(str(raised.value))
    assert [text for text in said if "hunter2" in text or "user" in text] == []
    assert any("127.0.0.1:9/ollama" in text for text in said)

"""Answers to questions about calls: a language model reads the passages that search finds."""

from collections.abc import Sequence
from typing import Annotated, Final

import msgspec

from stages.adapters.llm.protocol import LlmClient, LlmError, Message, json_schema, prompt_text
from stages.index.ranking import Hit

PROMPT: Final = "answer-1"
NOT_IN_THE_CALLS: Final = "not in the calls"

LEAST_SIMILARITY: Final = 0.3
"""Lowest cosine between a question and a window, by all-MiniLM-L6-v2. Of 105 questions that a call answers, one had no
window above it (`benchmarks.search`). Most questions without an answer are above it too: the model decides."""
MAX_PASSAGES: Final = 8
_BYTES_PER_TOKEN: Final = 3


class _Draft(msgspec.Struct, frozen=True):
    found: bool
    answer: Annotated[str, msgspec.Meta(max_length=600)]
    passages: Annotated[
        list[Annotated[str, msgspec.Meta(pattern="^P[0-9]{1,2}$")]], msgspec.Meta(max_length=MAX_PASSAGES)
    ]


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """An answer and the hits that it cites; none if the calls do not answer the question."""

    text: str
    hits: list[Hit]
    model: str
    detail: str = ""

    @property
    def found(self) -> bool:
        return bool(self.hits)


async def answer(llm: LlmClient, question: str, hits: Sequence[Hit]) -> Answer:
    """Answer a question from hits. The model is not asked if no hit is near the question. Raises LlmError."""
    near = [hit for hit in hits if hit.similarity >= LEAST_SIMILARITY][:MAX_PASSAGES]
    if not near:
        return Answer(text=NOT_IN_THE_CALLS, hits=[], model="", detail="nothing that was said is about it")
    await llm.check()
    system = prompt_text("stages.index", PROMPT)
    room = (llm.context_tokens - llm.answer_tokens) * _BYTES_PER_TOKEN - len(system.encode()) - len(question.encode())
    passages = {f"P{number}": hit for number, hit in enumerate(near, start=1)}
    texts: list[str] = []
    for label, hit in passages.items():
        text = f"[{label}] call {hit.window.call_id}, from second {hit.window.start_s:.0f}:\n{hit.window.text}"
        room -= len(text.encode()) + 2
        if room < 0 and texts:
            break
        texts.append(text)
    asked = "\n\n".join([*texts, f"Question: {question}"])
    messages = [Message("system", system), Message("user", asked)]
    try:
        draft = msgspec.json.decode((await llm.chat(messages, schema=json_schema(_Draft))).text, type=_Draft)
    except msgspec.MsgspecError as error:
        raise LlmError(f"the model did not answer with the JSON asked for: {error}") from error
    cited = [passages[label] for label in dict.fromkeys(draft.passages) if label in passages]
    if not draft.found or not draft.answer.strip():
        return Answer(text=NOT_IN_THE_CALLS, hits=[], model=llm.model, detail="the model found no answer in them")
    if not cited:
        return Answer(text=NOT_IN_THE_CALLS, hits=[], model=llm.model, detail="the model's answer named no passage")
    return Answer(text=draft.answer.strip(), hits=cited, model=llm.model)

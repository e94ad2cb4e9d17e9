"""A stage of our own, small and whole: it reads turns and publishes each one in which a keyword was said."""

from collections.abc import AsyncIterator, Collection

import msgspec

from schemas.calls import CallRef
from schemas.transcripts import TranscriptCompleted, TranscriptRecord
from stages.errors import RejectedInput
from stages.protocol import Checkpoint, Event, Output, SkipsFailedInputs

KEYWORDS = "calls.keywords"
KEYWORD_TYPE = "callstream.keyword"


class KeywordSaid(msgspec.Struct, frozen=True, kw_only=True):
    """One keyword in one turn. `start_s`: when the turn began, in seconds of the call."""

    tenant: str
    call_id: str
    turn_id: str
    keyword: str
    start_s: float


class KeywordState(msgspec.Struct, frozen=True):
    next_input: int = 0
    next_output: int = 0


class CallKeywords(SkipsFailedInputs):
    """One call. Every input is done when its outputs are: the state says how many there were of each."""

    idle_position = None
    waiting = None

    def __init__(self, call: CallRef, keywords: Collection[str], state: KeywordState) -> None:
        self._call = call
        self._keywords = keywords
        self._state = state
        self.finished = False

    async def submit(self, record: TranscriptRecord, event: Event) -> AsyncIterator[Output]:
        if event.seq < self._state.next_input:
            return
        if isinstance(record, TranscriptCompleted):
            self.finished = True
            return
        if not record.words:
            raise RejectedInput("a turn without words")
        said = [keyword for keyword in self._keywords if keyword in record.text.lower()]
        first = self._state.next_output
        self._state = KeywordState(event.seq + 1, first + len(said))
        for seq, keyword in enumerate(said, start=first):
            yield Output(
                topic=KEYWORDS,
                record=KeywordSaid(
                    tenant=self._call.tenant,
                    call_id=self._call.call_id,
                    turn_id=record.turn_id,
                    keyword=keyword,
                    start_s=record.start_s,
                ),
                event_id=f"{self._call.tenant}/{self._call.call_id}/keywords.1/{record.turn_id}/{keyword}",
                event_type=KEYWORD_TYPE,
                seq=seq,
            )

    def checkpoint(self) -> Checkpoint:
        return Checkpoint(state=msgspec.msgpack.encode(self._state), released=self._state.next_input)


class KeywordStage:
    name = "keywords"
    topic = KEYWORDS

    def __init__(self, keywords: Collection[str]) -> None:
        self._keywords = keywords

    def open(self, call: CallRef, state: bytes | None) -> CallKeywords:
        restored = msgspec.msgpack.decode(state, type=KeywordState) if state else KeywordState()
        return CallKeywords(call, self._keywords, restored)

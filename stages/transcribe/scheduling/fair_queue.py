"""Rows that wait for the engine, taken in turn from tenants and from each tenant's calls, so that no tenant or call
waits for another's backlog.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Iterator

import msgspec

from schemas.calls import CallRef
from stages.transcribe.engine.protocol import Row, Transcription


class WaitingRow(msgspec.Struct, frozen=True, eq=False):
    """A row in the queue of the name `queue`. Cancelling its `result` withdraws it."""

    queue: str
    row: Row
    call: CallRef
    window_s: int
    since_s: float
    result: asyncio.Future[Transcription]


class FairQueue:
    """A queue in which the rows of one call keep their order."""

    def __init__(self) -> None:
        self._tenants: OrderedDict[str, OrderedDict[str, deque[WaitingRow]]] = OrderedDict()

    def put(self, item: WaitingRow) -> None:
        calls = self._tenants.setdefault(item.call.tenant, OrderedDict())
        calls.setdefault(item.call.call_id, deque()).append(item)

    def __iter__(self) -> Iterator[WaitingRow]:
        """Yield the rows that were not withdrawn."""
        for calls in self._tenants.values():
            for rows in calls.values():
                yield from (item for item in rows if not item.result.done())

    def take(self, window_s: int | None = None) -> WaitingRow | None:
        """Remove and return the row whose turn it is, of those with `window_s` if given.

        Its call and tenant move to the end.
        """
        found = self._find(window_s)
        if found is not None:
            tenant, call_id = found.call.tenant, found.call.call_id
            calls = self._tenants[tenant]
            calls[call_id].remove(found)
            calls.move_to_end(call_id)
            self._tenants.move_to_end(tenant)
        self._forget_empty()
        return found

    def _find(self, window_s: int | None) -> WaitingRow | None:
        return next((item for item in self if window_s is None or item.window_s == window_s), None)

    def _forget_empty(self) -> None:
        """Drop withdrawn rows at the front of calls, and calls without rows."""
        for tenant, calls in list(self._tenants.items()):
            for call_id, rows in list(calls.items()):
                while rows and rows[0].result.done():
                    rows.popleft()
                if not rows:
                    del calls[call_id]
            if not calls:
                del self._tenants[tenant]

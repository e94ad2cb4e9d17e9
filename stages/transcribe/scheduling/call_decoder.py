"""The scheduler as one call uses it."""

import asyncio

import msgspec

from schemas.calls import CallRef
from stages.transcribe.engine.protocol import Row, Transcription
from stages.transcribe.scheduling.scheduler import Scheduler


class CallDecoder(msgspec.Struct, frozen=True, kw_only=True):
    """Decodes rows of one call in its lane. `default_language`: for a call whose own is not known yet."""

    call: CallRef
    scheduler: Scheduler
    live: bool
    default_language: str

    @property
    def model_name(self) -> str:
        return self.scheduler.engine.model_name

    def decode(self, row: Row) -> asyncio.Future[Transcription]:
        """Queue a row. See `Scheduler.submit`."""
        return self.scheduler.submit(row, call=self.call, live=self.live)

    def withdraw_interim(self, result: asyncio.Future[Transcription]) -> bool:
        """Cancel an interim that still waits. See `Scheduler.withdraw_interim`."""
        return self.scheduler.withdraw_interim(result)

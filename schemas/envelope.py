"""The one codec between stages: msgpack with a type tag that names the record's version.

Every version ever published stays decodable: a new version is a new struct with a new tag, added to the union, and
golden bytes of each lie in `tests/wire`. Fields may be added with defaults; nothing is renamed or retyped.
"""

from typing import Final

import msgspec

from schemas.partials import Commitment
from schemas.segments import Segment
from schemas.summaries import SummaryDeferred
from schemas.utterances import CallChanged, CallClosed, CallOpened, CallProgress, InterimUtterance, Utterance

NumberedRecord = CallOpened | Utterance | CallProgress | CallChanged | CallClosed | Segment
StageRecord = NumberedRecord | InterimUtterance | Commitment | SummaryDeferred

CONTENT_TYPE: Final = "application/msgpack"

_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(StageRecord)


def encode(record: StageRecord) -> bytes:
    return _encoder.encode(record)


def decode(data: bytes) -> StageRecord:
    """Raises msgspec.DecodeError or msgspec.ValidationError for bytes that are not a stage record."""
    record: StageRecord = _decoder.decode(data)
    return record

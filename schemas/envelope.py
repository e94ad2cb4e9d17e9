"""The codec between stages: msgpack with a type tag that names the version of the record.

Every version ever published stays decodable. A new version is a new struct with a new tag, added to the union;
`tests/wire` has golden bytes of each. Fields may be added with defaults. Encoded names and types never change.
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
    """Raises msgspec.DecodeError for bytes that are no stage record."""
    try:
        record: StageRecord = _decoder.decode(data)
    except (UnicodeDecodeError, RecursionError) as error:
        raise msgspec.DecodeError(str(error)) from error
    return record

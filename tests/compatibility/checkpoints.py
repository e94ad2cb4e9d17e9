"""A checkpoint of each stage with every field set, nested ones included, as the imported version encodes it.

    PYTHONPATH=CHECKOUT python tests/compatibility/checkpoints.py    # prints one JSON object: bytes in hex by stage

In real calls most fields have their defaults.
"""

import json
from itertools import count
from typing import Any

import msgspec
from msgspec import inspect

from stages.merge import state as merge_state
from stages.separate.state import SeparateState
from stages.summarize.stage import SummarizeState
from stages.transcribe.stage import TranscribeState

STATES: dict[str, type[msgspec.Struct]] = {
    "separate": SeparateState,
    "transcribe": TranscribeState,
    "merge": merge_state.MergeState,
    "summarize": SummarizeState,
}


def encode(state: Any) -> bytes:
    """Encode a checkpoint as it is stored (that of merge is packed and compressed afterwards)."""
    return msgspec.msgpack.encode(state)


def filled(stage: str) -> Any:
    """Return a state of `stage` with every field set."""
    kind = STATES[stage]
    return msgspec.convert(_value(inspect.type_info(kind), count(1)), kind, strict=False)


def _value(kind: inspect.Type, numbers: "count[int]") -> Any:
    match kind:
        case inspect.StructType():
            fields = {field.encode_name: _value(field.type, numbers) for field in kind.fields}
            tag = {} if kind.tag is None else {kind.tag_field: kind.tag}
            return [*tag.values(), *fields.values()] if kind.array_like else tag | fields
        case inspect.UnionType():
            some = [one for one in kind.types if not isinstance(one, inspect.NoneType)]
            return _value(some[0], numbers)
        case inspect.ListType() | inspect.VarTupleType():
            return [_value(kind.item_type, numbers)]
        case inspect.TupleType():
            return [_value(one, numbers) for one in kind.item_types]
        case inspect.DictType():
            return {_value(kind.key_type, numbers): _value(kind.value_type, numbers)}
        case inspect.LiteralType():
            return kind.values[0]
        case inspect.BoolType():
            return True
        case inspect.IntType():
            return next(numbers)
        case inspect.FloatType():
            return next(numbers) + 0.5
        case inspect.BytesType():
            return bytes([next(numbers)])
        case inspect.StrType() | inspect.AnyType():
            return f"text {next(numbers)}"
    raise TypeError(f"no value for {kind}")


if __name__ == "__main__":
    print(json.dumps({stage: encode(filled(stage)).hex() for stage in STATES}))

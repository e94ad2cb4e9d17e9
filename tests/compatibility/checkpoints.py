"""A checkpoint of each stage with every field set, nested ones too, as the version that is imported encodes it.

    PYTHONPATH=CHECKOUT python tests/compatibility/checkpoints.py    # one JSON object: bytes in hexadecimal by stage

A call that really runs leaves most fields at their defaults.
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
    """The checkpoint as it is stored, but that merge packs and compresses it."""
    return msgspec.msgpack.encode(state)


def filled(stage: str) -> Any:
    """A state of `stage` in which no field has its default."""
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
    raise TypeError(f"no value of {kind} is made yet")


if __name__ == "__main__":
    print(json.dumps({stage: encode(filled(stage)).hex() for stage in STATES}))

"""The published JSON Schemas are those of the structs, and encoded structs are valid by them."""

import json

import jsonschema
import msgspec
import pytest

from schemas import generate
from schemas.audio import UPDATED_TYPE, WATCHED_TYPE
from tests.wire import records

ALL_OPTIONAL = {UPDATED_TYPE, WATCHED_TYPE}


@pytest.mark.parametrize("event_type", generate.PUBLISHED)
def test_the_published_schema_is_the_struct_s(event_type: str) -> None:
    assert generate.published_schema(event_type) == json.loads(generate.file_text(event_type)), (
        "run `python -m schemas.generate`"
    )


@pytest.mark.parametrize("event_type", generate.PUBLISHED)
def test_a_published_record_is_valid(event_type: str) -> None:
    value = json.loads(msgspec.json.encode(records.PUBLISHED[event_type]))
    jsonschema.Draft202012Validator(generate.published_schema(event_type)).validate(value)


@pytest.mark.parametrize("event_type", sorted({*generate.PUBLISHED} - ALL_OPTIONAL))
def test_a_record_without_its_call_is_invalid(event_type: str) -> None:
    value = json.loads(msgspec.json.encode(records.PUBLISHED[event_type]))
    required = generate.published_schema(event_type)
    name = required["$ref"].rpartition("/")[2]
    missing = required["$defs"][name]["required"][0]
    del value[missing]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(required).validate(value)


@pytest.mark.parametrize(
    ("event_type", "value"),
    [
        (UPDATED_TYPE, []),
        (UPDATED_TYPE, {"language": 1}),
        (UPDATED_TYPE, {"hotwords": "Northwind"}),
        (UPDATED_TYPE, {"partials": "yes"}),
        (WATCHED_TYPE, []),
        (WATCHED_TYPE, {"seconds": 0}),
        (WATCHED_TYPE, {"seconds": 3601}),
        (WATCHED_TYPE, {"seconds": None}),
    ],
)
def test_a_record_that_may_leave_out_everything_is_still_checked(event_type: str, value: object) -> None:
    check = jsonschema.Draft202012Validator(generate.published_schema(event_type))
    check.validate({})
    assert not check.is_valid(value)

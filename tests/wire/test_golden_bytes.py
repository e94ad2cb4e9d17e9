"""Every record version ever published decodes forever. Its bytes in `golden/` never change."""

from pathlib import Path

import pytest

from schemas import envelope
from tests.wire.records import STAGE_RECORDS

GOLDEN = Path(__file__).parent / "golden"


def test_every_record_version_has_golden_bytes() -> None:
    assert {path.stem for path in GOLDEN.glob("*.msgpack")} >= set(STAGE_RECORDS)


@pytest.mark.parametrize("version", STAGE_RECORDS)
def test_golden_bytes_decode_to_the_record(version: str) -> None:
    assert envelope.decode((GOLDEN / f"{version}.msgpack").read_bytes()) == STAGE_RECORDS[version]


@pytest.mark.parametrize("version", STAGE_RECORDS)
def test_a_record_encodes_to_its_golden_bytes(version: str) -> None:
    assert envelope.encode(STAGE_RECORDS[version]) == (GOLDEN / f"{version}.msgpack").read_bytes()

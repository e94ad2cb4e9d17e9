"""A slice of `benchmarks.damaged_records`: damaged records on every topic, below the client libraries."""

from pathlib import Path

import pytest

from benchmarks.damaged_records.__main__ import held
from benchmarks.damaged_records.mutants import mutant
from benchmarks.damaged_records.run import measure

SEED = 14


@pytest.mark.slow
@pytest.mark.parametrize("bus", ["nats", pytest.param("kafka", marks=pytest.mark.kafka)])
async def test_damaged_records_stop_no_lane_and_change_no_other_call(bus: str, tmp_path: Path) -> None:
    figures = await measure(bus, tmp_path, mutants=2_000, seed=SEED)
    assert held(figures), figures
    assert figures["good_calls"]["checked"] == 2
    assert figures["parsed_share"] > 0.3
    assert figures["call_retries"] == {}, (tmp_path / "lanes.log").read_text()[-4000:]


def test_a_mutant_follows_from_seed_and_number_alone() -> None:
    later = [mutant(SEED, number) for number in range(90, 100)]
    assert [mutant(SEED, number) for number in range(100)][90:] == later
    assert [mutant(SEED + 1, number) for number in range(90, 100)] != later

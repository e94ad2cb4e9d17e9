"""A process for the crash test: writes a fixed sequence of batches into a file until killed."""

import sys
from pathlib import Path

from stages.sink.batch import Arrival
from stages.sink.stage import SinkStage
from stages.sink.tables import Tables
from tests.unit.stages.sink.calls import CallScript


def batches() -> list[list[Arrival]]:
    """Return the batches, always the same. Calls are interleaved; parts of a transcript are in different batches."""
    calls = [CallScript(f"call-{number}", seed=number).whole(30, parts=3, words=12) for number in range(12)]
    records = [call[at] for at in range(len(calls[0])) for call in calls]
    return [records[start : start + 17] for start in range(0, len(records), 17)]


def main(path: str) -> None:
    run = batches()
    with Tables(Path(path)) as tables:
        stage = SinkStage(tables)
        for number, batch in enumerate(run):
            stage.write(batch)
            sys.stdout.write(f"{number}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1])

"""A call's ledger: the entries that every stage publishes on `calls.status`."""

from typing import Any

from schemas.calls import CallRef
from schemas.status import JOB_TYPE, Job, JobState, JobStatus
from schemas.topics import STATUS
from stages.protocol import Output


def ledger_entry(
    call: CallRef, job: Job, status: JobState, detail: dict[str, Any], *, at: float, event_id: str
) -> Output:
    """Return one entry. For a replay to repeat it, `at` must be the time of the record that caused it, in Unix
    seconds, and `event_id` must follow from the inputs.
    """
    record = JobStatus(tenant=call.tenant, call_id=call.call_id, job=job, status=status, detail=detail, at=at)
    return Output(topic=STATUS, record=record, event_id=event_id, event_type=JOB_TYPE)

"""Errors that stages raise. The whole tree is drawn in `pipeline.errors`, which stages do not import.

StageError
├── RejectedInput      never retried: the record becomes a dead letter; the operator looks at its producer
└── MachineFailure     always retried: disk, memory, device, helper process; the operator looks at the machine
"""


class StageError(Exception):
    """Base of the errors that stages raise on purpose."""


class RejectedInput(StageError):
    """The input is unusable and no retry can change that. Raised before the processor's state has changed."""


class MachineFailure(StageError):
    """A failure of the machine or of a helper process, not of the input: to be retried."""

"""Errors that stages raise. The whole tree is drawn in `pipeline.errors`, which stages do not import.

StageError
├── RejectedInput      never retried: the record becomes a dead letter; the operator looks at its producer
└── MachineFailure     always retried: disk, memory, device, helper process; the operator looks at the machine
    └── DecoderLost    the process that decodes files was killed, hangs or does not start
"""


class StageError(Exception):
    """Base of the errors that stages raise on purpose."""


class RejectedInput(StageError):
    """The input is unusable and no retry can change that. Raised before the processor's state has changed."""


class MachineFailure(StageError):
    """A failure of the machine or of a helper process, not of the input: to be retried."""


class DecoderLost(MachineFailure):
    """The process that decodes files was killed again and again, hangs, or does not start: the world's fault, retry.

    A process that crashes at the same place of the same file each time is the file's fault instead, and no error.
    """

"""Errors that stages raise. The whole tree is in `pipeline.errors`; these are here because stages import no pipeline.

StageError
└── RejectedInput      never retried: the record becomes a dead letter; the operator looks at its producer
"""


class StageError(Exception):
    """Base of what a stage raises on purpose."""


class RejectedInput(StageError):
    """The input cannot be used, whatever is retried. Raised before the processor's state has changed."""

"""The tree of callstream's errors.

CallstreamError
├── ConfigurationError     the operator's: a setting or file is wrong; says which and what is expected
├── InputError             the caller's: a file, call id or query cannot be used; says why
├── InstanceError          the data directory is in use, or no instance answers there
├── SummaryError           the language model gave no summary; says why
├── ModelError             model weights are missing or damaged; says where they were looked for
└── BusError               the broker or its store; retryable, the stage waits and goes on from its floor
    ├── StoreFullError     the store refuses new records: free space or raise the limit; retried until then
    └── RecordTooLargeError  never retryable: the record exceeds the broker's limit
"""


class CallstreamError(Exception):
    """Base of all errors that callstream raises on purpose. `exit_code` is what the command line exits with."""

    exit_code = 1
    retryable = False


class ConfigurationError(CallstreamError):
    exit_code = 2


class InputError(CallstreamError):
    exit_code = 2


class InstanceError(CallstreamError):
    exit_code = 3


class ModelError(CallstreamError):
    exit_code = 4


class SummaryError(CallstreamError):
    exit_code = 6


class BusError(CallstreamError):
    """The broker does not answer or refused. The work is not lost: retry it."""

    exit_code = 5
    retryable = True


class StoreFullError(BusError):
    """The store's limit is reached. Nothing was stored; what was stored before is safe."""


class RecordTooLargeError(BusError):
    retryable = False

    def __init__(self, topic: str, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(f"a record of {size_bytes} bytes for {topic} exceeds the limit of {limit_bytes}")
        self.topic, self.size_bytes, self.limit_bytes = topic, size_bytes, limit_bytes

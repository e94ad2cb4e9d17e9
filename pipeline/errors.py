"""The tree of callstream's errors.

CallstreamError
├── ConfigurationError     a setting or file is wrong: the message names it and what is expected
├── InputError             a file, call id or query cannot be used: the message says why
├── InstanceError          the data directory is in use, or no instance answers there
├── SummaryError           the language model gave no usable summary: the message says why
├── ModelError             model weights are missing or damaged: the message says where they were looked for
└── BusError               the broker or its store failed: retryable, the stage restarts from its floor
    ├── StoreFullError     the store refuses new records: retried until there is space or a higher limit
    └── RecordTooLargeError  the record exceeds the broker's limit: never retried
"""


class CallstreamError(Exception):
    """Base of the errors that callstream raises. `exit_code` is the exit status of a command that ends with one."""

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
    """The broker does not answer, or refused. No work is lost: retry."""

    exit_code = 5
    retryable = True


class StoreFullError(BusError):
    """The store is at its limit. The record was not stored; earlier records are safe."""


class RecordTooLargeError(BusError):
    retryable = False

    def __init__(self, topic: str, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(f"a record of {size_bytes} bytes for {topic} exceeds the limit of {limit_bytes}")
        self.topic, self.size_bytes, self.limit_bytes = topic, size_bytes, limit_bytes

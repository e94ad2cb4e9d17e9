"""The identity of a call, and the ids derived from it.

A call is identified by tenant and call id. Every topic is keyed by `CallRef.key`, so all records of a call are in one
partition of each topic.
"""

import re
import uuid

import msgspec

DEFAULT_TENANT = "default"
MAX_CALL_ID_LENGTH = 256

_NAMESPACE = uuid.UUID("0d0bb3f3-6c3e-5b0e-9d5c-2f2a5f0b8a11")
_TENANT = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_SEPARATOR = "\x1f"


class CallRef(msgspec.Struct, frozen=True, order=True):
    """The identity of a call. Hashable, so it can key per-call state."""

    tenant: str
    call_id: str

    @property
    def key(self) -> bytes:
        """The record key: the call id for the default tenant, else tenant and call id.

        The separator is a control character, which `checked` rejects in both parts, so no two calls share a key.
        """
        if self.tenant == DEFAULT_TENANT:
            return self.call_id.encode()
        return f"{self.tenant}{_SEPARATOR}{self.call_id}".encode()

    @classmethod
    def from_key(cls, key: bytes) -> "CallRef":
        """Invert `key`. Raises UnicodeDecodeError for bytes that are no call's key."""
        tenant, separator, call_id = key.decode().partition(_SEPARATOR)
        return cls(tenant, call_id) if separator else cls(DEFAULT_TENANT, tenant)

    @classmethod
    def checked(cls, tenant: str, call_id: str) -> "CallRef":
        """Return a call from untrusted input. Raises ValueError with the unusable part and the reason."""
        if not _TENANT.fullmatch(tenant):
            raise ValueError(f"tenant {tenant!r} must be 1 to 64 letters, digits, '_', '.' or '-'")
        if not 1 <= len(call_id) <= MAX_CALL_ID_LENGTH:
            raise ValueError(f"call id must have 1 to {MAX_CALL_ID_LENGTH} characters, it has {len(call_id)}")
        if not call_id.isprintable():
            raise ValueError(f"call id {call_id!r} contains a control character")
        if call_id != call_id.strip():  # a broker trims headers
            raise ValueError(f"call id {call_id!r} begins or ends with a space")
        return cls(tenant, call_id)

    @property
    def session_id(self) -> uuid.UUID:
        """The call's primary key in the warehouse."""
        return self.derived_id("session")

    def derived_id(self, *parts: str | int) -> uuid.UUID:
        """Return a UUID that depends on the call and `parts` alone, so a replay gives the same one."""
        return uuid.uuid5(_NAMESPACE, _SEPARATOR.join([self.tenant, self.call_id, *map(str, parts)]))

    def event_id(self, stage: str, *parts: str | int) -> str:
        """Return the id of a record that `stage` publishes of the call: `TENANT/CALL ID/STAGE.1/PART/…`.

        A replay must repeat ids, so `parts` must follow from the stage's inputs alone. The 1 is the version of the
        stage's ids.
        """
        return "/".join([self.tenant, self.call_id, f"{stage}.1", *map(str, parts)])

"""Subjects of live updates: `live.<tenant>.<call>`, on core NATS."""

import re
from typing import Final

from pipeline.bus.keys import key_token

_ROOT: Final = "live"
_PLAIN_TOKEN: Final = re.compile(r"(?!=)[!-~]+")
_NOT_IN_TOKENS: Final = frozenset(".*>")


def live_subject(tenant: str, call_id: str) -> str:
    """Return the subject of a call's updates."""
    return f"{_ROOT}.{_token(tenant)}.{_token(call_id)}"


def live_subjects(tenant: str) -> str:
    """Return the wildcard that matches all calls of a tenant, and no call of another."""
    return f"{_ROOT}.{_token(tenant)}.>"


def _token(name: str) -> str:
    """Return the name if a subject may hold it, else '=' and the bus's token. No two names have the same."""
    if _PLAIN_TOKEN.fullmatch(name) and not _NOT_IN_TOKENS & set(name):
        return name
    return f"={key_token(name.encode())}"

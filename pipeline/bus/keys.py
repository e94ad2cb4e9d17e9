"""The keys of records: the token that spells a key, and the partition that follows from the token, on every bus."""

import base64
from functools import lru_cache
from typing import Final

_FNV_OFFSET: Final = 2166136261
_FNV_PRIME: Final = 16777619


@lru_cache(maxsize=4096)
def key_token(key: bytes) -> str:
    """Return the key in base64url without padding: one NATS subject token, whatever bytes the key holds."""
    return base64.urlsafe_b64encode(key).decode().rstrip("=")


def partition_of(token: bytes, partitions: int) -> int:
    """Return the partition of a key token: its 32-bit FNV-1a hash modulo `partitions`.

    NATS's subject transform hashes the token of a producer's subject in the same way.
    """
    digest = _FNV_OFFSET
    for byte in token:
        digest = ((digest ^ byte) * _FNV_PRIME) & 0xFFFFFFFF
    return digest % partitions

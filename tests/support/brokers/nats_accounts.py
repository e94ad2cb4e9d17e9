"""Users of a NATS server in operator mode, as made by the `nsc` tool: signed tokens and .creds files.

Source: the layout of NATS's JSON Web Tokens, version 2 (header, claims, Ed25519 signature by the issuer's nkey).
"""

import base64
import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

import nkeys

_UNLIMITED = -1


class Operator:
    """An operator with one account and the system account. `settings` configures a server with them."""

    def __init__(self) -> None:
        self._operator = _key(nkeys.PREFIX_BYTE_OPERATOR)
        self._account, system = _key(nkeys.PREFIX_BYTE_ACCOUNT), _key(nkeys.PREFIX_BYTE_ACCOUNT)
        plain = ("subs", "data", "payload", "imports", "exports", "conn", "leaf")
        jetstream = ("mem_storage", "disk_storage", "streams", "consumer")
        self.settings: dict[str, object] = {
            "operator": _token(self._operator, self._operator, {"type": "operator"}),
            "resolver": "MEMORY",
            "system_account": _name(system),
            "resolver_preload": {
                _name(key): _token(
                    self._operator,
                    key,
                    {"type": "account", "limits": {**dict.fromkeys(limits, _UNLIMITED), "wildcards": True}},
                )
                for key, limits in ((self._account, (*plain, *jetstream)), (system, plain))
            },
        }

    def user(self, path: Path, *, expired: bool = False) -> Path:
        """Write the .creds file of a new user of the account to `path` and return it."""
        key = _key(nkeys.PREFIX_BYTE_USER)
        claims = {"type": "user", "subs": _UNLIMITED, "data": _UNLIMITED, "payload": _UNLIMITED}
        token = _token(self._account, key, claims, expires_at=int(time.time()) - 60 if expired else None)
        path.write_text(
            f"-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{key.seed.decode()}\n------END USER NKEY SEED------\n"
        )
        return path


def _key(kind: int) -> Any:
    return nkeys.from_seed(bytearray(nkeys.encode_seed(os.urandom(32), kind)))


def _name(key: Any) -> str:
    return str(key.public_key.decode())


def _token(issuer: Any, subject: Any, nats: dict[str, Any], *, expires_at: int | None = None) -> str:
    claims: dict[str, Any] = {
        "iat": int(time.time()),
        "iss": _name(issuer),
        "sub": _name(subject),
        "name": nats["type"],
        "nats": {**nats, "version": 2},
    }
    if expires_at is not None:
        claims["exp"] = expires_at
    claims["jti"] = base64.b32encode(hashlib.sha256(json.dumps(claims).encode()).digest()).decode().rstrip("=")
    signed = f"{_part({'typ': 'JWT', 'alg': 'ed25519-nkey'})}.{_part(claims)}"
    return f"{signed}.{_encoded(issuer.sign(signed.encode()))}"


def _part(content: dict[str, Any]) -> str:
    return _encoded(json.dumps(content, separators=(",", ":")).encode())


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")

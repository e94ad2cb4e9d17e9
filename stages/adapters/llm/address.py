"""The address of a language model's server: what may be shown of it, and the login that it may hold."""

from typing import NamedTuple
from urllib.parse import unquote, urlsplit, urlunsplit


class ServerAddress(NamedTuple):
    """`url` has no login: it goes into logs, summaries and the ledger. `login` is user and password."""

    url: str
    login: tuple[str, str] | None


def server_address(url: str) -> ServerAddress:
    """Split `http://user:password@host` into an address and a login."""
    parts = urlsplit(url)
    login, at, host = parts.netloc.rpartition("@")
    user, _, password = login.partition(":")
    shown = urlunsplit(parts._replace(netloc=host))
    return ServerAddress(shown, (unquote(user), unquote(password)) if at else None)

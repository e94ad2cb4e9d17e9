"""The reason why no client can connect to a Kafka cluster, in an operator's words.

Kafka itself hardly tells: a broker closes a connection whose protocol it does not understand, and a client reports
that no broker answers. So the brokers are probed once more, step by step: the port, TLS, whether a login is required,
the login.
"""

import asyncio
import contextlib
import ssl
import struct
from collections.abc import AsyncIterator
from typing import Any, Final

from aiokafka.conn import create_conn
from aiokafka.errors import AuthenticationFailedError, KafkaError, SaslAuthenticationFailed

from pipeline.bus.security import BusSecurity

_ANSWER_S: Final = 5.0
_HANDSHAKE: Final = struct.Struct(">hhih")
"""Api key, version, correlation id, and the length of a client id."""
_SASL_HANDSHAKE: Final = (17, 1)
_NO_LOGIN_HERE: Final = 34
_ALERTS: Final = {
    "CERTIFICATE_REQUIRED": "it requires a client certificate",
    "UNKNOWN_CA": "it does not trust the authority of the client certificate",
    "BAD_CERTIFICATE": "it rejects the client certificate",
    "CERTIFICATE_UNKNOWN": "it does not trust the client certificate",
    "CERTIFICATE_EXPIRED": "the client certificate has expired",
}
"""What to tell the operator for the broker's TLS alerts, by OpenSSL's names."""


class Refusal(Exception):
    """A reason that a retry does not cure."""


async def why_not(servers: str, security: BusSecurity, options: dict[str, Any]) -> str:
    """Return what keeps clients from connecting, an empty text if nothing does any more.

    `options` are those of the clients. Raises Refusal for a reason that a retry does not cure.
    """
    reason = ""
    for server in servers.split(","):
        host, _, port = server.rpartition(":")
        try:
            async with asyncio.timeout(_ANSWER_S):
                await _probe(host, int(port), security, options)
        except TimeoutError:
            reason = f"{server} does not answer"
        except (KafkaError, OSError) as error:
            reason = str(error) or f"{server} closes the connection"
    return reason


async def _probe(host: str, port: int, security: BusSecurity, options: dict[str, Any]) -> None:
    async with _connected(host, port, None):
        pass
    context = options["ssl_context"]
    try:
        logins = await _logins(host, port, context)
    except ssl.SSLCertVerificationError as error:
        raise Refusal(f"its certificate is not trusted: {error.verify_message}") from error
    except ssl.SSLError as error:
        meaning = next((text for alert, text in _ALERTS.items() if alert in (error.reason or "")), None)
        if meaning is not None:
            none_set = security.cert_file is None
            raise Refusal("it requires a client certificate, and none is set" if none_set else meaning) from error
        await _refuse_other_protocol(host, port, context)
        raise
    except (OSError, EOFError):
        await _refuse_other_protocol(host, port, context)
        raise ConnectionError(f"{host}:{port} closes the connection") from None
    if logins and security.user is None:
        raise Refusal(f"it requires a login ({', '.join(logins)}), and no user is set")
    if not logins and security.user is not None:
        raise Refusal("a user is set, but it accepts no logins there")
    if logins and security.sasl not in logins:
        raise Refusal(f"it accepts logins by {', '.join(logins)}, not by {security.sasl}")
    if logins:
        await _log_in(host, port, options)


async def _refuse_other_protocol(host: str, port: int, context: ssl.SSLContext | None) -> None:
    """Raise Refusal if the broker speaks TLS and we do not, or the other way round."""
    if context is not None:
        with contextlib.suppress(OSError, EOFError):
            await _logins(host, port, None)
            raise Refusal("TLS is on, but it does not speak TLS there")
        return
    unverified = ssl.create_default_context()
    unverified.check_hostname = False
    unverified.verify_mode = ssl.CERT_NONE
    with contextlib.suppress(OSError):
        async with _connected(host, port, unverified):
            raise Refusal("TLS is off, but it speaks TLS there")


async def _log_in(host: str, port: int, options: dict[str, Any]) -> None:
    names = ("security_protocol", "ssl_context", "sasl_mechanism", "sasl_plain_username", "sasl_plain_password")
    try:
        connection = await create_conn(host, port, **{name: options[name] for name in names})
    except (SaslAuthenticationFailed, AuthenticationFailedError) as error:
        raise Refusal("it rejects this user name and password") from error
    connection.close()


async def _logins(host: str, port: int, context: ssl.SSLContext | None) -> list[str]:
    """Return the SASL mechanisms of a broker, none if it accepts no logins. Raises OSError or EOFError."""
    request = _HANDSHAKE.pack(*_SASL_HANDSHAKE, 1, -1) + struct.pack(">h", 0)
    async with _connected(host, port, context) as (reader, writer):
        writer.write(struct.pack(">i", len(request)) + request)
        (size,) = struct.unpack(">i", await reader.readexactly(4))
        if not 10 <= size <= 10_000:
            raise ConnectionError(f"{host}:{port} is not a Kafka broker")
        answer = await reader.readexactly(size)
    code, count = struct.unpack_from(">hi", answer, 4)
    if code == _NO_LOGIN_HERE:
        return []
    names, at = [], 10
    for _ in range(count):
        (length,) = struct.unpack_from(">h", answer, at)
        names.append(answer[at + 2 : at + 2 + length].decode())
        at += 2 + length
    return names


@contextlib.asynccontextmanager
async def _connected(
    host: str, port: int, context: ssl.SSLContext | None
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(host, port, ssl=context)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()

"""A connection to NATS that reconnects by itself, and requests over it.

nats-py's own reconnect is not used: it replays buffered commands and subscriptions of the lost connection, so that a
forgotten pull would take records. Here every connection is a new `Session`. What lived on the old one ends with it, at
once, and its users set it up again.
"""

import asyncio
import contextlib
import json
import re
import ssl
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
import structlog

from pipeline.backoff import Backoff
from pipeline.bus.nats.client import NatsClient
from pipeline.bus.security import BusSecurity
from pipeline.errors import BusError, ConfigurationError
from pipeline.imports import absent

# nats-py uses aiohttp for WebSockets alone, which this bus does not speak. Importing it takes 0.35 s of CPU.
with absent("aiohttp"):
    import nats.errors
    from nats.aio.client import Client, RawCredentials
    from nats.aio.msg import Msg

T = TypeVar("T")

REQUEST_TIMEOUT_S: Final = 5.0
_CONNECT_PAUSES_S: Final = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
_RETRY_PAUSE_S: Final = 0.02
_CLOSE_S: Final = 0.2
_CANCEL_AGAIN_S: Final = 0.5
NANOSECONDS: Final = 1_000_000_000
"""Nanoseconds in a second: the unit of all durations in JetStream's API."""
_NO_RESPONDERS: Final = "503"
_PENDING_MESSAGES: Final = 1_000_000
_PENDING_BYTES: Final = 512_000_000
_REFUSALS: Final = {
    "authorization violation": "it rejects these credentials",
    "user authentication expired": "the credentials have expired",
    "account authentication expired": "the credentials have expired",
    "user authentication revoked": "the credentials were revoked",
}
"""What a server says when it refuses a client for good, and what to tell the operator."""
_ALERTS: Final = {
    "CERTIFICATE_REQUIRED": "it requires a client certificate, and none is set",
    "UNKNOWN_CA": "it does not trust the authority of the client certificate",
    "BAD_CERTIFICATE": "it rejects the client certificate",
    "CERTIFICATE_EXPIRED": "the client certificate has expired",
}
"""The same for the server's TLS alerts, by OpenSSL's names."""

_TOKEN: Final = re.compile(r"^-+BEGIN NATS USER JWT-+\s*\n\S+\s*\n", re.MULTILINE)
_SEED: Final = re.compile(r"^-+BEGIN USER NKEY SEED-+\s*\n(\S+)\s*\n", re.MULTILINE)
"""The two parts of a .creds file."""
_BARE_SEED: Final = re.compile(r"\s*(SU[A-Z2-7]{56})\s*")
"""An NKey seed alone, as in the files of `pipeline.bus.nats.logins`."""

_CONNECTION_ERRORS: Final = (nats.errors.Error, OSError)


class SessionLost(Exception):
    """The connection ended, or a request was not answered. What was requested may or may not have happened."""


class ApiError(Exception):
    """JetStream answered with an error. `code` is its `err_code`."""

    def __init__(self, code: int, description: str) -> None:
        super().__init__(f"{description} ({code})")
        self.code = code
        self.description = description


class _Stored(msgspec.Struct):
    """The fields of JetStream's answer to a publish that are read here."""

    seq: int = 0
    error: dict[str, Any] | None = None


_decode_stored = msgspec.json.Decoder(_Stored).decode


class Session:
    """One TCP connection, until it is lost. Every wait on it then ends with SessionLost."""

    def __init__(self, client: Client) -> None:
        self.lost = asyncio.Event()
        self._client = client
        self._inbox = client.new_inbox()
        self._requests: dict[str, asyncio.Future[Msg]] = {}
        self._numbers = 0

    @property
    def max_payload_bytes(self) -> int:
        return int(self._client.max_payload)

    def new_inbox(self) -> str:
        inbox: str = self._client.new_inbox()
        return inbox

    async def begin(self) -> None:
        await self.subscribe(f"{self._inbox}.*", self._on_reply)

    def end(self) -> None:
        self.lost.set()
        for reply in self._requests.values():
            if not reply.done():
                reply.set_exception(SessionLost("the connection was lost"))

    async def close(self) -> None:
        self.end()
        with contextlib.suppress(nats.errors.Error, OSError):
            await self._client.close()

    async def subscribe(self, subject: str, callback: Callable[[Msg], Awaitable[None]]) -> "Listening":
        try:
            subscription = await self._client.subscribe(
                subject, cb=callback, pending_msgs_limit=_PENDING_MESSAGES, pending_bytes_limit=_PENDING_BYTES
            )
        except _CONNECTION_ERRORS as error:
            raise _lost(error) from error
        return Listening(subscription)

    async def publish(
        self, subject: str, payload: bytes = b"", *, reply: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        try:
            await self._client.publish(subject, payload, reply=reply, headers=headers)
        except _CONNECTION_ERRORS as error:
            raise _lost(error) from error

    async def request(
        self,
        subject: str,
        payload: bytes = b"",
        *,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = REQUEST_TIMEOUT_S,
    ) -> Msg:
        """Send a request and return the answer.

        Raises SessionLost if the connection ends, no answer comes in time, or nobody listens on the subject.
        """
        if self.lost.is_set():
            raise SessionLost("the connection was lost")
        self._numbers += 1
        number = str(self._numbers)
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Msg] = loop.create_future()
        self._requests[number] = answer
        timer = loop.call_later(timeout_s, _time_out, answer, subject)
        try:
            await self.publish(subject, payload, reply=f"{self._inbox}.{number}", headers=headers)
            message = await answer
        finally:
            timer.cancel()
            del self._requests[number]
            if answer.done() and not answer.cancelled():
                answer.exception()
        if message.headers and message.headers.get("Status") == _NO_RESPONDERS:
            raise SessionLost(f"nobody listens on {subject}")
        return message

    async def api(self, subject: str, body: object = None) -> dict[str, Any]:
        """Call the JetStream API. Raises ApiError if it refuses, and what `request` raises."""
        message = await self.request(f"$JS.API.{subject}", b"" if body is None else json.dumps(body).encode())
        answer: dict[str, Any] = json.loads(message.data)
        check(answer)
        return answer

    async def _on_reply(self, message: Msg) -> None:
        answer = self._requests.get(message.subject.rpartition(".")[2])
        if answer is not None and not answer.done():
            answer.set_result(message)


class Listening:
    """A subscription."""

    def __init__(self, subscription: Any) -> None:
        self._subscription = subscription

    async def close(self) -> None:
        """Unsubscribe. On a lost session there is nothing left to do."""
        with contextlib.suppress(nats.errors.Error, OSError):
            await self._subscription.unsubscribe()


class NatsConnection:
    """Keeps one session open. Users wait up to `reconnect_s` for a lost one before they get BusError."""

    def __init__(self, url: str, *, name: str, reconnect_s: float, security: BusSecurity | None = None) -> None:
        self.url = url
        self.reconnect_s = reconnect_s
        self._name = name
        self._security = security or BusSecurity()
        if url.startswith("tls://"):
            self._security = msgspec.structs.replace(self._security, tls=True)
        self._session: Session | None = None
        self._connected = asyncio.Event()
        self._keeping: asyncio.Task[None] | None = None
        self._reason = "it was never reached"
        self._log = structlog.get_logger("callstream.nats").bind(url=url)

    async def connect(self) -> None:
        """Raises BusError if no server answers within `reconnect_s`, ConfigurationError if one refuses at once.

        After a first connection a refusal is retried: the server's credentials may be about to change.
        """
        refused: asyncio.Future[Session] = asyncio.get_running_loop().create_future()
        self._keeping = asyncio.create_task(self._keep(refused), name=f"keep {self.url}")
        waiting = asyncio.ensure_future(self.session())
        try:
            ends: set[asyncio.Future[Any]] = {refused, waiting, self._keeping}
            first, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            for end in first:
                end.result()
        except BaseException:
            await self.close()
            raise
        finally:
            refused.cancel()
            waiting.cancel()
            await asyncio.gather(refused, waiting, return_exceptions=True)

    async def close(self) -> None:
        keeping, self._keeping = self._keeping, None
        if keeping is not None:
            while not keeping.done():
                keeping.cancel()  # asyncio.wait_for of Python 3.11, in nats-py, may swallow a cancellation
                await asyncio.wait({keeping}, timeout=_CANCEL_AGAIN_S)
            await asyncio.gather(keeping, return_exceptions=True)
        if self._session is not None:
            await self._session.close()
            self._session = None
        self._connected.clear()

    async def session(self, timeout_s: float | None = None) -> Session:
        """Return the session; wait for one if it is lost. Raises BusError if none is there in time."""
        if self._session is not None and not self._session.lost.is_set():
            return self._session
        if self._keeping is None:
            raise BusError(f"the connection to {self.url} is closed")
        try:
            async with asyncio.timeout(self.reconnect_s if timeout_s is None else timeout_s):
                while True:
                    await self._connected.wait()
                    if self._session is not None:
                        return self._session
        except TimeoutError:
            raise BusError(f"no NATS server answers at {self.url}: {self._reason}") from None

    async def retrying(self, operation: Callable[[Session], Awaitable[T]]) -> T:
        """Run `operation`, again after each SessionLost. Raises BusError once `reconnect_s` is over."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.reconnect_s
        while True:
            session = self._session
            if session is None or session.lost.is_set():
                session = await self.session(max(0.0, deadline - loop.time()))
            try:
                return await operation(session)
            except SessionLost as error:
                if loop.time() >= deadline:
                    raise BusError(f"{self.url}: {error}") from error
                await asyncio.sleep(_RETRY_PAUSE_S)

    async def _keep(self, refused: "asyncio.Future[Session]") -> None:
        backoff = Backoff(_CONNECT_PAUSES_S)
        while True:
            try:
                session = await self._open()
            except (nats.errors.Error, OSError, TimeoutError, SessionLost, ConfigurationError) as error:
                refusal = self._refusal(error)
                if refusal is not None and not refused.done():
                    refused.set_exception(refusal)
                self._reason = str(refusal or error) or type(error).__name__
                await backoff.pause()
                continue
            except Exception as error:
                self._reason = repr(error)
                self._log.error("connecting to NATS failed", error=repr(error), exc_info=error)
                await backoff.pause()
                continue
            self._session = session
            self._connected.set()
            if backoff.failures:
                self._log.info("connected to NATS", attempts=backoff.failures + 1)
            await session.lost.wait()
            self._connected.clear()
            await session.close()
            backoff.failures = 1  # the loss counts: the attempt that follows at once is the second
            self._reason = "the connection was lost"
            self._log.warning("connection to NATS lost")

    async def _open(self) -> Session:
        """Connect. Certificate and credentials files are read every time: they may have been renewed."""
        session: Session | None = None

        async def on_end() -> None:
            if session is not None:
                session.end()

        async def on_error(error: Exception) -> None:
            self._log.debug("NATS client error", error=str(error) or type(error).__name__)

        security = _security_options(self._security)
        client = NatsClient(tls=self._security.tls, on_end=on_end)
        try:
            await client.connect(
                self.url,
                name=self._name,
                allow_reconnect=False,
                connect_timeout=2,
                max_reconnect_attempts=1,
                reconnect_time_wait=0,
                ping_interval=10,
                max_outstanding_pings=2,
                pending_size=16_000_000,
                error_cb=on_error,
                disconnected_cb=on_end,
                closed_cb=on_end,
                **security,
            )
            session = Session(client)
            if not client.is_connected:
                session.end()
            await session.begin()
        except BaseException:
            # After a failed TLS handshake asyncio never reports the connection as closed.
            with contextlib.suppress(nats.errors.Error, OSError, TimeoutError):
                async with asyncio.timeout(_CLOSE_S):
                    await client.close()
            raise
        return session

    def _refusal(self, error: Exception) -> ConfigurationError | None:
        """Return `error` as one that a retry does not cure, None if a retry may."""
        if isinstance(error, ConfigurationError):
            return error
        said = str(error)
        reason = next((meaning for words, meaning in _REFUSALS.items() if words in said.lower()), None)
        if isinstance(error, nats.errors.SecureConnRequiredError):
            reason = "TLS is on, but the server does not offer it"
        elif isinstance(error, ssl.SSLCertVerificationError):
            reason = f"its certificate is not trusted: {error.verify_message}"
        elif isinstance(error, ssl.SSLError):
            reason = next((text for alert, text in _ALERTS.items() if alert in (error.reason or "")), None)
        return None if reason is None else ConfigurationError(f"the NATS server at {self.url} refuses: {reason}")


def _security_options(security: BusSecurity) -> dict[str, Any]:
    """Return TLS and credentials as options of nats-py's `connect`."""
    options: dict[str, Any] = {}
    context = security.tls_context()
    if context is not None:
        options["tls"] = context
    if security.credentials is not None:
        options |= _credentials(security.credentials)
    elif security.user is not None and security.password is not None:
        options |= {"user": security.user, "password": security.password.reveal()}
    return options


def _credentials(path: Path) -> dict[str, Any]:
    """Return the login of a .creds file or of a bare NKey seed as an option of `connect`.

    A .creds file is checked here, because nats-py loops forever on one without its parts.
    """
    import nkeys

    try:
        text = path.read_text(encoding="utf-8")
        if (bare := _BARE_SEED.fullmatch(text)) is not None:
            nkeys.from_seed(bytearray(bare[1].encode())).wipe()
            return {"nkeys_seed_str": bare[1]}
        seed = _SEED.search(text)
        if seed is None or not _TOKEN.search(text):
            raise ConfigurationError(f"the credentials file {path} holds no user token with its seed")
        nkeys.from_seed(bytearray(seed[1].encode())).wipe()
    except OSError as error:
        raise ConfigurationError(f"the credentials file {path} cannot be read: {error.strerror}") from error
    except (nkeys.NkeysError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"the credentials file {path} is damaged: {type(error).__name__}") from error
    return {"user_credentials": RawCredentials(text)}


def check_publish(message: Msg) -> int:
    """Return the position at which JetStream stored a record, from its answer. Raises ApiError if it refused."""
    answer = _decode_stored(message.data)
    if answer.error is not None:
        check({"error": answer.error})
    return answer.seq


def check(answer: Mapping[str, Any]) -> None:
    """Raise ApiError if a JetStream answer has an error."""
    error = answer.get("error")
    if error is not None:
        raise ApiError(int(error.get("err_code", 0)), str(error.get("description", "")))


def _time_out(answer: "asyncio.Future[Msg]", subject: str) -> None:
    if not answer.done():
        answer.set_exception(SessionLost(f"no answer on {subject} in time"))


def _lost(error: Exception) -> SessionLost:
    return SessionLost(str(error) or type(error).__name__)

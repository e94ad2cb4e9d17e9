"""Our NATS client writes and reads headers as nats-py does."""

from collections.abc import Coroutine
from typing import Any, TypeVar

from hypothesis import given
from hypothesis import strategies as st
from nats.aio.client import Client
from nats.errors import BadHeaderError

from pipeline.bus.nats.client import NatsClient, header_lines

T = TypeVar("T")

names = st.one_of(
    st.sampled_from(["ce-id", "Nats-Msg-Id", "callstream-state", "", " ", " padded ", "two words", "käse", "a:b"]),
    st.text(max_size=8),
)
texts = st.one_of(
    st.sampled_from(["", " padded\t", "two\r\nlines", "late\n", "\u2003wide\u2003"]), st.text(max_size=20)
)
lines = st.lists(
    st.one_of(
        st.binary(max_size=12),
        st.sampled_from(
            [b"ce-id: 1", b"ce-id:\t2 ", b" :3", b"no colon", b"\xff: 4", b"a b: 5", b"x: \xc3\xa4\xff", b"y: \xa0"]
        ),
    )
)


def done(work: Coroutine[Any, Any, T]) -> T:
    """Return the result of what waits for nothing."""
    try:
        work.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    raise AssertionError("it waits")


class Sending:
    """What a client writes to its connection."""

    def __init__(self, client: Client) -> None:
        self.commands: list[bytes] = []
        self._client = client
        client._send_command = self._send_command

    async def _send_command(self, command: bytes) -> None:
        self.commands.append(bytes(command))

    def publish(self, payload: bytes, headers: dict[str, str] | None) -> list[bytes] | str:
        """Return what is written, or the name of the error."""
        try:
            done(self._client._send_publish("a.b", "reply", payload, len(payload), headers))
        except (BadHeaderError, UnicodeEncodeError) as error:
            return type(error).__name__
        return self.commands


def ours() -> NatsClient:
    async def on_end() -> None: ...

    return NatsClient(tls=False, on_end=on_end)


@given(st.none() | st.dictionaries(names, texts, max_size=4), st.binary(max_size=20))
def test_a_message_is_written_as_by_nats_py(headers: dict[str, str] | None, payload: bytes) -> None:
    mine, theirs = ours(), Client()
    assert Sending(mine).publish(payload, headers) == Sending(theirs).publish(payload, headers)
    assert mine.stats == theirs.stats


@given(lines)
def test_headers_are_read_as_by_nats_py(raw: list[bytes]) -> None:
    block = b"\r\n".join(raw)
    assert header_lines(block) == Client._parse_header_lines(block)


@given(lines)
def test_a_message_s_headers_are_read_as_by_nats_py(raw: list[bytes]) -> None:
    block = b"NATS/1.0\r\n" + b"\r\n".join(raw) + b"\r\n\r\n"
    assert done(ours()._process_headers(block)) == done(Client()._process_headers(block))

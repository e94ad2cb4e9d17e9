import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.bus.keys import key_token
from pipeline.bus.nats import subjects
from pipeline.bus.protocol import INLINE_STATE_BYTES, Progress
from schemas import topics

ALL_TOPICS = [
    topics.AUDIO,
    topics.AUDIO_BATCH,
    topics.UTTERANCES,
    topics.UTTERANCES_BATCH,
    topics.SEGMENTS,
    topics.PARTIALS,
    topics.TRANSCRIPTS,
    topics.SUMMARIES,
    topics.STATUS,
    topics.DEAD_LETTERS,
]


@given(st.binary(min_size=1))
def test_a_key_survives_as_one_subject_token(key: bytes) -> None:
    token = key_token(key)
    assert not set(token) & set(".*> =\r\n\t")
    assert subjects.token_key(token) == key
    assert subjects.token_key(token + "=" * (-len(token) % 4)) == key


@given(st.text(st.characters(blacklist_characters=".*> \r\n\t\f", blacklist_categories=["Cs"]), min_size=1))
def test_any_token_gives_some_key(token: str) -> None:
    assert subjects.token_key(token)


@pytest.mark.parametrize("token", ["call№1", "a", "ab=c", "call!", "=="])
def test_a_token_that_is_not_base64url_is_the_key_itself(token: str) -> None:
    assert subjects.token_key(token) == token.encode()


def test_names_of_topics_do_not_collide_and_subjects_do_not_overlap() -> None:
    bases = [subjects.subject_base(topic) for topic in ALL_TOPICS]
    assert subjects.subject_base(topics.AUDIO_BATCH) == "calls.audio_batch"
    assert len(set(bases)) == len({subjects.stream_name(topic) for topic in ALL_TOPICS}) == len(ALL_TOPICS)
    assert all(base.count(".") == 1 for base in bases)
    assert not any("." in subjects.stream_name(topic) for topic in ALL_TOPICS)


def test_headers_are_spelled_as_nats_spells_them_and_back() -> None:
    headers = {"ce_id": "1", "ce_callseq": "7", "content-type": "application/json", "traceparent": "00-1"}
    wire = subjects.to_wire(headers)
    assert wire == {"ce-id": "1", "ce-callseq": "7", "content-type": "application/json", "traceparent": "00-1"}
    assert subjects.from_wire(wire) == headers


def test_headers_of_the_bus_are_not_part_of_the_record() -> None:
    wire = {"Nats-Msg-Id": "1", "callstream-seq": "3", "CE-ID": "a"}
    assert subjects.from_wire(wire) == {"ce_id": "a"}
    assert subjects.from_wire(None) == {}


@given(st.integers(0, 10**12), st.integers(0, 10**12), st.binary(max_size=INLINE_STATE_BYTES))
def test_progress_survives_in_headers(seq: int, released: int, state: bytes) -> None:
    progress = Progress(seq=seq, released=released, state=state)
    assert subjects.progress_from_wire(subjects.progress_to_wire(progress)) == (progress, True)


def test_a_large_state_is_not_in_the_headers() -> None:
    progress = Progress(seq=1, released=1, state=b"x" * (INLINE_STATE_BYTES + 1))
    headers = subjects.progress_to_wire(progress)
    assert sum(map(len, headers.values())) < 10
    assert subjects.progress_from_wire(headers) == (Progress(seq=1, released=1, state=b""), False)


def test_the_headers_name_the_place_of_a_large_state_only() -> None:
    large = Progress(seq=1, released=1, state=b"x" * (INLINE_STATE_BYTES + 1))
    assert subjects.state_place(subjects.progress_to_wire(large, "writer.1")) == "writer.1"
    assert subjects.state_place(subjects.progress_to_wire(large)) is None
    assert subjects.state_place(None) is None
    assert subjects.from_wire(subjects.progress_to_wire(large, "writer.1")) == {}


def test_a_record_without_progress_has_none() -> None:
    assert subjects.progress_from_wire({"ce-id": "1"}) is None
    assert subjects.progress_from_wire(None) is None


@pytest.mark.parametrize(
    "headers",
    [
        {"callstream-seq": "one", "callstream-released": "1"},
        {"callstream-seq": "1"},
        {"callstream-seq": "1", "callstream-released": "1", "callstream-state": "a"},
    ],
)
def test_headers_of_other_programs_that_look_like_progress_are_ignored(headers: dict[str, str]) -> None:
    assert subjects.progress_from_wire(headers) is None

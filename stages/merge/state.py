"""The checkpoint of the merge stage: compact enough that hours of a call fit one record.

Words make up nearly all of it. They are stored in columns, times in whole milliseconds and probabilities in
ten-thousandths; the stage rounds words accordingly when it takes them. A synthetic hour of talk (720 turns, 8,640
words) packs into 130 KB.
"""

import zlib
from collections.abc import Iterator, Sequence
from itertools import islice

import msgspec

from schemas.segments import Word
from schemas.transcripts import ChannelUnheard, Turn
from schemas.utterances import CallOpened, Gap


class MergeState(msgspec.Struct, array_like=True, tag="merge.1"):
    """A call without its unordered pieces and its open turn: all there is once it is complete.

    `revision` is that of the next completed transcript. `complete` says that no input arrived since the last one,
    `final` that none may. `voiced` are the detected stretches of speech per channel, in seconds. `turns` are by
    channel, even if the end of the call told several speakers of a channel apart. For each segment of each turn,
    `lengths` says how many of its words are in the turn. `unheard` is by the order of the segments. `echoes` are the
    words that were dropped as another channel's, in `echo_segments` segments.
    """

    opened: CallOpened | None = None
    last_input_seq: int = -1
    next_output_seq: int = 0
    revision: int = 1
    complete: bool = False
    final: bool = False
    watermarks_s: list[float] = []
    turns: list[Turn] = []
    voiced: list[list[tuple[float, float]]] = []
    segments: int = 0
    words: int = 0
    empty: int = 0
    guards: dict[str, int] = {}
    languages: dict[str, int] = {}
    lengths: list[int] = []
    unheard: list[ChannelUnheard] = []
    echoes: int = 0
    echo_segments: int = 0


class _WordColumns(msgspec.Struct, array_like=True):
    """The words of all turns. `counts` has the number of words of each turn, `steps_ms` the time between starts."""

    counts: list[int]
    texts: list[str]
    steps_ms: list[int]
    lengths_ms: list[int]
    probabilities: list[int]
    interpolated: list[bool]


class _Packed(msgspec.Struct, array_like=True):
    """`gaps` are encoded only if there are any."""

    state: MergeState
    words: _WordColumns
    gaps: list[Gap] = []


def rounded(word: Word) -> Word:
    """Return the word with its times and probability as a state keeps them."""
    return msgspec.structs.replace(
        word, start_s=round(word.start_s, 3), end_s=round(word.end_s, 3), probability=round(word.probability, 4)
    )


def pack(state: MergeState, gaps: Sequence[Gap] = ()) -> bytes:
    """Encode and compress the state. All words in it must be `rounded`. `gaps`: where speech could not be merged."""
    words = [word for turn in state.turns for word in turn.words]
    starts_ms = [round(word.start_s * 1e3) for word in words]
    columns = _WordColumns(
        counts=[len(turn.words) for turn in state.turns],
        texts=[word.text for word in words],
        steps_ms=[start_ms - before_ms for before_ms, start_ms in zip([0, *starts_ms], starts_ms, strict=False)],
        lengths_ms=[round(word.end_s * 1e3) - start_ms for word, start_ms in zip(words, starts_ms, strict=True)],
        probabilities=[round(word.probability * 1e4) for word in words],
        interpolated=[word.interpolated for word in words],
    )
    turns = [msgspec.structs.replace(turn, words=[]) for turn in state.turns]
    kept = [msgspec.structs.replace(state, turns=turns), columns, *([gaps] if gaps else [])]
    return zlib.compress(msgspec.msgpack.encode(kept), 6)


def unpack(data: bytes) -> tuple[MergeState, list[Gap]]:
    """Invert `pack`. Raises msgspec.DecodeError or zlib.error for data that `pack` did not make."""
    packed = msgspec.msgpack.decode(zlib.decompress(data), type=_Packed)
    words = _words(packed.words)
    turns = [
        msgspec.structs.replace(turn, words=list(islice(words, count)))
        for turn, count in zip(packed.state.turns, packed.words.counts, strict=True)
    ]
    return msgspec.structs.replace(packed.state, turns=turns), packed.gaps


def _words(columns: _WordColumns) -> Iterator[Word]:
    start_ms = 0
    for text, step_ms, length_ms, probability, interpolated in zip(
        columns.texts,
        columns.steps_ms,
        columns.lengths_ms,
        columns.probabilities,
        columns.interpolated,
        strict=True,
    ):
        start_ms += step_ms
        yield Word(
            text=text,
            start_s=start_ms / 1e3,
            end_s=(start_ms + length_ms) / 1e3,
            probability=probability / 1e4,
            interpolated=interpolated,
        )

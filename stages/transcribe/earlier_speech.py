"""Speech before an utterance of a live call: the decoder is given the end of it, and its text.

A recorded call is decoded in packs of several utterances. Those of a live call cannot wait for each other, and alone
they have more word errors: 129 of 2,281 words of nine synthetic telephone calls against 98 in packs (Whisper base). So
a short utterance is decoded with the last seconds of speech before it on its channel in front, whose text is the known
beginning (`Row.prefix`): only what the decoder writes after it is the utterance's own. That leaves 114 errors, for 1.26
times the CPU.

Of the first hearings alone, without guards or second hearings, 153 errors became 119 at 1.40 times the CPU. Each word
of the known beginning costs a step of the decoder, so long utterances, which have context of their own, are decoded
alone: with them it was 124 errors at 1.57 times. The text alone as Whisper's prompt gave 168 errors.

The text is part of the checkpoint. The audio is not: the checkpoint does not release the utterances that it is from, so
after a crash the bus delivers them again. An utterance is needed for `MAX_PAUSE_S` after its end.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

import msgspec
import numpy as np

from schemas.segments import Segment
from schemas.utterances import Utterance
from stages.text import word_spans
from stages.transcribe.audio import Span, samples_of, voiced_s
from stages.transcribe.engine.protocol import Row, Transcription
from stages.transcribe.engine.windows import FULL_WINDOW_S, SAMPLE_RATE_HZ
from stages.transcribe.engine.words import UNSPACED
from stages.transcribe.hard_cuts import CLOSING

MAX_S: Final = 4.0
"""The most speech that is given before an utterance."""
_MAX_OWN_S: Final = 4.0
"""An utterance with more speech is decoded alone: it has words enough, and earlier ones cost most there."""
MAX_PAUSE_S: Final = 10.0
"""Speech that ended so long before has another subject, and its utterance is not kept for longer."""
_PAUSE_S: Final = 0.2
"""The pause after each piece of speech in the row, and the room that is left at the row's end."""

Decode = Callable[[Row], Awaitable[Transcription]]


class EarlierText(msgspec.Struct, frozen=True, array_like=True):
    """The end of the text of utterance `seq`, which is spoken from `first_sample` of the call to `end_s` seconds."""

    seq: int
    first_sample: int
    end_s: float
    text: str
    language: str


class EarlierSpeech(msgspec.Struct, frozen=True):
    """The end of an utterance: its text, its audio in the form of `Utterance.pcm`, and the speech in it, in seconds of
    the call."""

    said: EarlierText
    pcm: bytes
    sample_rate_hz: int
    voiced: list[Span]

    @property
    def start_s(self) -> float:
        return self.said.first_sample / self.sample_rate_hz

    @property
    def length_s(self) -> float:
        return len(self.pcm) / 2 / self.sample_rate_hz


Earlier = tuple[EarlierSpeech, ...]
"""The last speech of a channel, in order."""


def speech_of(utterance: Utterance, said: EarlierText) -> EarlierSpeech:
    """Return the end of an utterance, whose text is known."""
    skipped = said.first_sample - utterance.first_sample
    start_s = said.first_sample / utterance.sample_rate_hz
    return EarlierSpeech(
        said=said,
        pcm=utterance.pcm[2 * skipped : len(utterance.pcm) // 2 * 2],
        sample_rate_hz=utterance.sample_rate_hz,
        voiced=[(max(start, start_s), end) for start, end in utterance.voiced if end > start_s],
    )


def following(earlier: Earlier, utterance: Utterance, segment: Segment) -> Earlier:
    """Return the last speech after one more utterance. One without words changes nothing.

    Text that does not account for its audio is told to no later utterance.
    """
    if not segment.words:
        return earlier
    said = _end_of(utterance, segment)
    if said is None:
        return ()
    newest = speech_of(utterance, said)
    kept: list[EarlierSpeech] = [newest]
    for one in reversed(_continued(earlier, utterance, said.language)):
        if sum(speech.length_s for speech in (one, *kept)) > MAX_S:
            break
        kept.insert(0, one)
    return tuple(kept) if said.first_sample == utterance.first_sample else (newest,)


def _end_of(utterance: Utterance, segment: Segment) -> EarlierText | None:
    """Return the text of the last words of an utterance that take at most `MAX_S`; None if they cannot be told."""
    spans = word_spans(segment.text, [word.text for word in segment.words])
    if spans is None or utterance.parts or segment.unheard or segment.guard is not None:
        return None
    first_sample, begin = utterance.first_sample, 0
    if utterance.audio_s > MAX_S:
        from_s = utterance.end_s - MAX_S
        index = next((i for i, word in enumerate(segment.words) if i and word.start_s >= from_s), None)
        if index is None:
            return None
        cut_s = (segment.words[index - 1].end_s + segment.words[index].start_s) / 2
        first_sample, begin = round(cut_s * utterance.sample_rate_hz), spans[index][0]
    return EarlierText(utterance.seq, first_sample, utterance.end_s, segment.text[begin:], segment.language)


def _continued(earlier: Earlier, utterance: Utterance, language: str) -> Earlier:
    """Return the speech that an utterance continues: in its language, and with no long pause up to it."""
    begin_s, found = utterance.start_s, 0
    for one in reversed(earlier):
        if one.said.language != language or begin_s - one.said.end_s > MAX_PAUSE_S:
            break
        begin_s, found = one.start_s, found + 1
    return earlier[len(earlier) - found :]


async def decode_after(row: Row, earlier: Earlier, utterance: Utterance, decode: Decode) -> Transcription:
    """Decode the row of an utterance: a short one with the speech before it, unless nothing is heard after that."""
    known: Earlier = ()
    if isinstance(row.language, str) and voiced_s(utterance) <= _MAX_OWN_S:
        known = _continued(earlier, utterance, row.language)
    length_s = sum(one.length_s + _PAUSE_S for one in known) + len(row.audio) / SAMPLE_RATE_HZ
    if known and length_s + _PAUSE_S <= FULL_WINDOW_S:
        before = _Before.of(known, row)
        own = before.removed_from(await decode(before.row))
        if own is not None:
            return own
    return await decode(row)


class _Before(msgspec.Struct, frozen=True):
    """A row with earlier speech in front: `text`, which takes `length_s`. `known`: the prefix of the row alone."""

    row: Row
    text: str
    length_s: float
    known: str

    @classmethod
    def of(cls, earlier: Earlier, row: Row) -> "_Before":
        pause = np.zeros(round(_PAUSE_S * SAMPLE_RATE_HZ), np.float32)
        audio, voiced, n_samples = [], [], 0
        for one in earlier:
            samples = samples_of(one.pcm, one.sample_rate_hz)
            shift_s = n_samples / SAMPLE_RATE_HZ - one.start_s
            voiced += [(start + shift_s, end + shift_s) for start, end in one.voiced]
            audio += [samples, pause]
            n_samples += len(samples) + len(pause)
        length_s = n_samples / SAMPLE_RATE_HZ
        spaced = row.language not in UNSPACED
        text = (" " if spaced else "").join(one.said.text for one in earlier)
        told = msgspec.structs.replace(
            row,
            audio=np.concatenate([*audio, row.audio]),
            voiced=[*voiced, *((start + length_s, end + length_s) for start, end in row.voiced)],
            prefix=(" " if spaced and row.prefix else "").join((text, row.prefix)),
        )
        return cls(told, text, length_s, row.prefix)

    def removed_from(self, whole: Transcription) -> Transcription | None:
        """Return the row's own text, with times from its start; None without any, or if the words do not spell it."""
        spans = word_spans(whole.text, [word.text for word in whole.words])
        if whole.error is not None or spans is None or not whole.text.startswith(self.text):
            return None
        text = whole.text[len(self.text) :].lstrip(CLOSING)
        if not text.startswith(self.known):
            return None
        words = [
            msgspec.structs.replace(
                word,
                start_s=round(max(0.0, word.start_s - self.length_s), 3),
                end_s=round(max(0.01, word.end_s - self.length_s), 3),
            )
            for word, (start, _) in zip(whole.words, spans, strict=True)
            if start >= len(self.text)
        ]
        return msgspec.structs.replace(whole, text=text, words=words) if words else None


def still_told(
    said: Mapping[int, Sequence[EarlierText]], heard_to_s: Sequence[float]
) -> dict[int, tuple[EarlierText, ...]]:
    """Return the texts that a later utterance may continue. `heard_to_s`: how far each channel has been heard."""
    return {
        channel: tuple(texts)
        for channel, texts in said.items()
        if texts and not (channel < len(heard_to_s) and heard_to_s[channel] - texts[-1].end_s > MAX_PAUSE_S)
    }

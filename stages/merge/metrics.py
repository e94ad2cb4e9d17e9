"""A call's metrics, computed from speech activity and never from word times. All are in seconds of the call's audio.

The input per channel are the detected stretches of speech of its segments with text, so noises that the guards dropped
count as silence, and so do echoes of other channels (`attribution`).

talk-spurt
    A stretch of speech of one channel; pauses up to 0.2 s inside it are bridged (Brady, "A statistical analysis of
    on-off patterns in 16 conversations", Bell System Technical Journal 47, 1968; ITU-T P.59 bridges the same).
utterance
    Talk-spurts of one channel with pauses up to 0.6 s, the pause at which the separate stage cuts.
backchannel
    An utterance under 1 s ("very short utterance": Heldner, Edlund, Hjalmarsson and Laskowski, "Very short
    utterances and timing in turn-taking", Interspeech 2011).
talk_s, talk_ratio
    The sum of the channel's talk-spurts; its share of the sum over all channels (0 where nobody speaks).
speech_s, silence_s, longest_silence_s, overlap_s
    Time in which at least one channel is in a talk-spurt; time in which none is; the longest stretch of it, including
    the call's beginning and end; time in which two or more are. With two channels
    `talk_s + talk_s - overlap_s + silence_s == duration_s`.
interruptions
    A channel interrupts when it begins an utterance that is no backchannel while another channel is in a talk-spurt,
    has been in its utterance for at least 0.5 s, and continues for at least 0.4 s. Less overlap is close turn-taking:
    two syllables is the bound of West and Zimmerman, "Small insults", 1983, and speech has about five syllables a
    second. Counted for the interrupting channel.
response_latency_s, responses
    A response is a talk-spurt that begins while no channel speaks and after another channel spoke last. Its latency is
    the gap in between (the "gap" of Heldner and Edlund, "Pauses, gaps and overlaps in conversations",
    Journal of Phonetics 38, 2010). The median over the channel's responses. Overlapping starts are not responses.
longest_monologue_s
    The longest stretch of one channel's speech without a pause over 2 s and without an utterance of another channel,
    backchannels excepted.
words_per_minute
    The channel's words over its talk time.
turns
    The channel's turns: its speech until another channel takes the floor, or until a pause over 2 s. What a listener
    says beside a turn is a turn of its own (`stages.merge.turns`).
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise
from statistics import median
from typing import Final

from schemas.transcripts import CallMetrics, ChannelMetrics
from schemas.utterances import Channel

Span = tuple[float, float]

SPURT_PAUSE_S: Final = 0.2
UTTERANCE_PAUSE_S: Final = 0.6
MONOLOGUE_PAUSE_S: Final = 2.0
BACKCHANNEL_S: Final = 1.0
SPOKEN_BEFORE_S: Final = 0.5
SPOKEN_ON_S: Final = 0.4


def call_metrics(
    *,
    duration_s: float,
    channels: Sequence[Channel],
    voiced: Sequence[Sequence[Span]],
    turns: Sequence[int],
    words: Sequence[int],
) -> CallMetrics:
    """Return the metrics of a call.

    Args:
        duration_s: length of the call.
        channels: the call's channels.
        voiced: per channel, (start, end) of its stretches of speech in seconds; in any order, they may overlap.
        turns: per channel, the number of its turns.
        words: per channel, the number of its words.
    """
    spurts = [bridged(_clipped(spans, duration_s), SPURT_PAUSE_S) for spans in voiced]
    utterances = [bridged(spans, UTTERANCE_PAUSE_S) for spans in spurts]
    speech = bridged([span for spans in spurts for span in spans], 0.0)
    silences = _subtracted([(0.0, duration_s)] if duration_s > 0 else [], speech)
    total_talk_s = math.fsum(_length_s(spans) for spans in spurts)
    interruptions = [_interruptions(index, spurts, utterances) for index in range(len(channels))]
    return CallMetrics(
        duration_s=duration_s,
        speech_s=_length_s(speech),
        silence_s=_length_s(silences),
        longest_silence_s=max((end_s - start_s for start_s, end_s in silences), default=0.0),
        overlap_s=_overlap_s(spurts),
        interruptions=sum(interruptions),
        channels=[
            _channel_metrics(
                channel,
                index,
                spurts=spurts,
                utterances=utterances,
                total_talk_s=total_talk_s,
                turns=turns[index],
                words=words[index],
                interruptions=interruptions[index],
            )
            for index, channel in enumerate(channels)
        ],
    )


def bridged(spans: Sequence[Span], pause_s: float) -> list[Span]:
    """Return the union of `spans`, in order, with gaps up to `pause_s` filled."""
    joined: list[Span] = []
    for start_s, end_s in sorted(spans):
        if joined and start_s - joined[-1][1] <= pause_s:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end_s))
        else:
            joined.append((start_s, end_s))
    return joined


def _channel_metrics(
    channel: Channel,
    index: int,
    *,
    spurts: list[list[Span]],
    utterances: list[list[Span]],
    total_talk_s: float,
    turns: int,
    words: int,
    interruptions: int,
) -> ChannelMetrics:
    talk_s = _length_s(spurts[index])
    latencies_s = _latencies_s(index, spurts)
    return ChannelMetrics(
        channel=channel.index,
        role=channel.role,
        talk_s=talk_s,
        talk_ratio=talk_s / total_talk_s if total_talk_s else 0.0,
        turns=turns,
        words=words,
        words_per_minute=60.0 * words / talk_s if talk_s else 0.0,
        interruptions=interruptions,
        longest_monologue_s=_longest_monologue_s(index, spurts, utterances),
        response_latency_s=median(latencies_s) if latencies_s else None,
        responses=len(latencies_s),
    )


def _clipped(spans: Sequence[Span], duration_s: float) -> list[Span]:
    inside = ((max(start_s, 0.0), min(end_s, duration_s)) for start_s, end_s in spans)
    return [(start_s, end_s) for start_s, end_s in inside if end_s > start_s]


def _length_s(spans: Sequence[Span]) -> float:
    return math.fsum(end_s - start_s for start_s, end_s in spans)


def _subtracted(spans: Sequence[Span], taken: Sequence[Span]) -> list[Span]:
    """Return `spans` without `taken`; both in order and without overlaps. Empty spans are left out."""
    left: list[Span] = []
    for start_s, end_s in spans:
        for taken_start_s, taken_end_s in taken[max(bisect_right(taken, (start_s, start_s)) - 1, 0) :]:
            if taken_start_s >= end_s:
                break
            if taken_start_s > start_s:
                left.append((start_s, taken_start_s))
            start_s = max(start_s, taken_end_s)
        if end_s > start_s:
            left.append((start_s, end_s))
    return left


def _overlap_s(spurts: list[list[Span]]) -> float:
    """Return the time inside the spurts of two or more channels, by a sweep over their edges."""
    edges = sorted(
        (edge_s, step) for spans in spurts for span in spans for edge_s, step in zip(span, (1, -1), strict=True)
    )
    speaking = 0
    overlaps_s: list[float] = []
    for (edge_s, step), (next_s, _) in pairwise(edges):
        speaking += step
        if speaking >= 2:
            overlaps_s.append(next_s - edge_s)
    return math.fsum(overlaps_s)


def _around(spans: list[Span], time_s: float) -> Span | None:
    """Return the span that contains `time_s`, its end excluded; None if there is none."""
    index = bisect_right(spans, (time_s, -math.inf)) - 1
    return spans[index] if index >= 0 and spans[index][1] > time_s else None


def _interruptions(index: int, spurts: list[list[Span]], utterances: list[list[Span]]) -> int:
    count = 0
    for start_s, end_s in utterances[index]:
        if end_s - start_s < BACKCHANNEL_S:
            continue
        for other in range(len(spurts)):
            spurt, utterance = _around(spurts[other], start_s), _around(utterances[other], start_s)
            if other == index or spurt is None or utterance is None:
                continue
            if start_s - utterance[0] >= SPOKEN_BEFORE_S and spurt[1] - start_s >= SPOKEN_ON_S:
                count += 1
                break
    return count


def _latencies_s(index: int, spurts: list[list[Span]]) -> list[float]:
    latencies_s: list[float] = []
    own_end_s = -math.inf
    others = sorted(span for other, spans in enumerate(spurts) if other != index for span in spans)
    ended_s, position = -math.inf, 0
    for start_s, end_s in spurts[index]:
        while position < len(others) and others[position][0] < start_s:
            ended_s = max(ended_s, others[position][1])
            position += 1
        if own_end_s < ended_s <= start_s:
            latencies_s.append(start_s - ended_s)
        own_end_s = end_s
    return latencies_s


def _longest_monologue_s(index: int, spurts: list[list[Span]], utterances: list[list[Span]]) -> float:
    others = [
        (start_s, end_s)
        for other, spans in enumerate(utterances)
        if other != index
        for start_s, end_s in spans
        if end_s - start_s >= BACKCHANNEL_S
    ]
    own = spurts[index]
    longest_s = 0.0
    position = 0
    for start_s, end_s in _subtracted(bridged(own, MONOLOGUE_PAUSE_S), bridged(others, 0.0)):
        while position < len(own) and own[position][1] <= start_s:
            position += 1
        inside = position
        first_s = last_s = None
        while inside < len(own) and own[inside][0] < end_s:
            first_s = max(own[inside][0], start_s) if first_s is None else first_s
            last_s = min(own[inside][1], end_s)
            inside += 1
        if first_s is not None and last_s is not None:
            longest_s = max(longest_s, last_s - first_s)
    return longest_s

"""Interim versions of an open utterance, for live text: unnumbered records among the call's numbered ones."""

from schemas import topics
from schemas.calls import CallRef
from schemas.utterances import InterimUtterance
from stages.protocol import Output
from stages.separate import ledger
from stages.separate.channel import Growth


def interim(call: CallRef, channel: int, growth: Growth, rate_hz: int) -> Output:
    """Return one version as a record. It follows from the audio alone, so a repeat has the same id and bytes."""
    speech = growth.speech
    record = InterimUtterance(
        call=call,
        channel=channel,
        first_sample=speech.first_sample,
        sample_rate_hz=rate_hz,
        pcm=speech.pcm,
        voiced=speech.voiced,
        revision=growth.revision,
        certain=growth.certain,
        before=speech.before,
    )
    event_id = call.event_id(ledger.NAME, "interim", channel, speech.first_sample, growth.revision)
    return Output(topic=topics.UTTERANCES, record=record, event_id=event_id, same_partition=True)

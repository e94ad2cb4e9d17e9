"""One voice on two channels, through the whole pipeline: each line once, under who said it?

`mono` is the mix of both legs on one channel, and `legs` the call as it should be: what each line costs without twins.
"""

import asyncio
import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.harness.offline import settings_of
from benchmarks.heard.clips import Samples
from benchmarks.heard.crosstalk import CROSSTALK_DB, DUAL_MONO, crosstalk, dual_mono, mono
from benchmarks.heard.measuring import Run
from benchmarks.heard.references import read_channels
from benchmarks.heard.sets import write
from benchmarks.heard.texts import word_errors
from benchmarks.speech.corpus import Call, Corpus
from benchmarks.speech.scoring import Errors
from benchmarks.transcribe.contenders import BEAM, COMPUTE_TYPE, send_call
from pipeline.client.warehouse import open_reader
from pipeline.instance import DATABASE_FILE
from pipeline.wiring.embedded import Embedded
from schemas.calls import DEFAULT_TENANT, CallRef

_CROSSTALK: Final = {f"crosstalk {level:.0f} dB": level for level in CROSSTALK_DB}
FORMS: Final = ("mono", *(f"dual mono, {form}" for form in DUAL_MONO), "legs", *_CROSSTALK)


def legs_of(form: str, dry: Sequence[Samples], seed: int = 1) -> list[Samples]:
    """Return the channels of a call in one of `FORMS`."""
    if form == "mono":
        return [mono(dry, seed)]
    if form == "legs":
        return crosstalk(dry, -120.0, seed)
    if form in _CROSSTALK:
        return crosstalk(dry, _CROSSTALK[form], seed)
    return dual_mono(dry, form.removeprefix("dual mono, "), seed)


def scored(form: str, call: Call, turns: Sequence[dict[str, Any]], channels: int) -> dict[str, Any]:
    """Return the word errors of a transcript. Of a call with legs each speaker counts alone, so that a line under the
    wrong one is deleted and inserted; of a mix, all lines in their order.

    `written_words` over `words` is about 2 if everything came twice.
    """
    ordered = sorted(turns, key=lambda turn: float(turn["start_s"]))
    if form == "legs" or form in _CROSSTALK:
        found = sum(
            (
                word_errors(call.said(leg), _text(turn for turn in ordered if turn["channel"] == leg), call.language)
                for leg in range(channels)
            ),
            Errors(),
        )
    else:
        lines = sorted(call.lines, key=lambda line: line.start_s)
        found = word_errors(" ".join(line.text for line in lines), _text(ordered), call.language)
    return {
        **found.described(),
        "once": round(100 * (found.words - found.deleted - found.substituted) / found.words, 2),
        "written_words": found.words - found.deleted + found.inserted,
        "speakers": sorted({str(turn["speaker"]) for turn in turns}),
        "turns": len(turns),
    }


async def twins_report(calls: Corpus, forms: Sequence[str], run: Run, folder: Path) -> dict[str, Any]:
    """Send every call in every form through the pipeline; return its scores by form and call."""

    settings = settings_of(
        folder / "data",
        run.changes,
        model=run.model,
        compute_type=COMPUTE_TYPE,
        beam_size=BEAM,
        asr_workers=run.threads,
    )
    made: dict[str, Any] = {form: {} for form in forms}
    async with Embedded(settings) as pipeline:
        await pipeline.worker.ready.wait()
        for number, call in enumerate(calls.calls):
            dry, _ = read_channels(calls.path(call))
            for form in forms:
                path = folder / "twin.wav"
                write(path, legs_of(form, dry, number))
                await send_call(pipeline, str(path), f"{form}/{call.name}", call.language)
                print(f"{form} {call.name}", file=sys.stderr, flush=True)
        with contextlib.closing(open_reader(settings.data / DATABASE_FILE, pipeline.instance)) as reader:
            for call in calls.calls:
                for form in forms:
                    shown = await asyncio.to_thread(reader.show, CallRef(DEFAULT_TENANT, f"{form}/{call.name}"))
                    made[form][call.name] = scored(form, call, shown["turns"], len(shown["channels"])) | {
                        "channels": shown["channels"],
                        "text": _text(sorted(shown["turns"], key=lambda turn: float(turn["start_s"]))),
                    }
    return made


def _text(turns: Any) -> str:
    return " ".join(str(turn["text"]) for turn in turns)

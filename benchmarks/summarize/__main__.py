"""A long call through a real language model: turns read, memory, validity of citations.

    python -m benchmarks.summarize --url http://127.0.0.1:11434 --model llama3.2:1b [--hours 3] [--json FILE]

The call is built from our own sentences and summarized as in a deployment. The report lists the turns that were in a
prompt, the prompts' lengths by the model's own tokenizer, and the peak memory of this process (not of the server).

What it does not show: how good the summary is, which depends on the model.
"""

import argparse
import asyncio
import re
import resource
import sys
import time
from typing import Any, Final

import msgspec

from benchmarks.harness.command import add_outputs, benchmark_parser
from benchmarks.harness.report import write_report
from benchmarks.speech.script import SETTINGS, ScriptLine, ScriptWriter
from benchmarks.speech.turns import spoken
from pipeline.settings import DEFAULT_EMBEDDING_MODEL
from pipeline.wiring.weights import embedding_weights
from schemas.calls import CallRef
from stages.adapters.embedding import SentenceEmbedder
from stages.adapters.llm.ollama import OllamaClient
from stages.adapters.llm.protocol import Completion, LlmError, Message
from stages.summarize.check.support import SupportCheck, judged_by_support
from stages.summarize.writer import SummaryWriter

CALL: Final = CallRef("default", "long")
TIMEOUT_S: Final = 1_200.0


class RecordingClient(OllamaClient):
    """A client that records its prompts and the turns in them."""

    def __init__(self, url: str, model: str) -> None:
        super().__init__(url, model, timeout_s=TIMEOUT_S)
        self.prompts: list[int] = []
        """Tokens of each answered prompt."""
        self.refused = 0
        self.turns_read: set[str] = set()

    async def chat(self, messages: list[Message], *, schema: dict[str, Any]) -> Completion:
        try:
            answer = await super().chat(messages, schema=schema)
        except LlmError:
            self.refused += 1
            raise
        self.prompts.append(answer.prompt_tokens)
        self.turns_read |= {*re.findall(r"^\[(S\d+)\] \w+:", messages[1].content, re.MULTILINE)}
        print(f"  {len(self.prompts)} requests, {len(self.turns_read)} turns read", flush=True)
        return answer


async def measured(url: str, model: str, hours: float, seed: int) -> dict[str, Any]:
    writer = ScriptWriter(seed)
    lines: list[ScriptLine] = []
    turns = spoken(CALL, lines)
    while not turns or turns[-1].end_s < 3600 * hours:
        lines += writer.write(SETTINGS[len(lines) % len(SETTINGS)], 1_500, backchannels=False)
        turns = spoken(CALL, lines)
    client = RecordingClient(url, model)
    embedder = SentenceEmbedder(embedding_weights(DEFAULT_EMBEDDING_MODEL), name=DEFAULT_EMBEDDING_MODEL)
    before_mb = _peak_mb()
    began = time.monotonic()
    failure, written = "", None
    try:
        written = await SummaryWriter(
            lambda _type, _long: client, judge=judged_by_support(lambda: SupportCheck(embedder))
        ).write(turns, language="en")
    except LlmError as error:
        failure = str(error)
    finally:
        await client.close()
    known = {segment_id for turn in turns for segment_id in turn.segment_ids}
    figures: dict[str, Any] = {
        "model": model,
        "hours": round(turns[-1].end_s / 3600, 2),
        "turns": len(turns),
        "words": sum(len(turn.text.split()) for turn in turns),
        "context_tokens": client.context_tokens,
        "requests": len(client.prompts),
        "longest_prompt_tokens": max(client.prompts, default=0),
        "refused_prompts": client.refused,
        "turns_read": len(client.turns_read),
        "seconds": round(time.monotonic() - began, 1),
        "memory_mb_before": before_mb,
        "memory_mb_peak": _peak_mb(),
        "failure": failure,
    }
    if written is not None:
        cited = [claim.segment_ids for claim in written.key_points]
        cited += [claim.segment_ids for claim in written.action_items]
        figures |= {
            "windows": written.windows,
            "believed": len(cited),
            "invalid_citations": sum(not ids or not {*ids} <= known for ids in cited),
            "doubted": [msgspec.structs.asdict(claim) for claim in written.doubted],
            "summary": written.text,
        }
    return figures


def _peak_mb() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3, 1)


def parser() -> argparse.ArgumentParser:
    made = benchmark_parser("summarize", __doc__)
    made.add_argument(
        "--url", default="http://127.0.0.1:11434", help="URL of the Ollama server (http://127.0.0.1:11434)"
    )
    made.add_argument("--model", default="llama3.2:1b", help="name of the model as in `ollama list` (llama3.2:1b)")
    made.add_argument("--hours", type=float, default=3.0, help="length of the call in hours (3)")
    made.add_argument("--seed", type=int, default=1, help="seed of the call (1)")
    add_outputs(made)
    return made


def main() -> int:
    given = parser().parse_args()
    figures = asyncio.run(measured(given.url, given.model, given.hours, given.seed))
    for name, value in figures.items():
        print(f"{name:<22} {value}")
    call = {"turns": figures["turns"], "words": figures["words"], "seed": given.seed}
    write_report("summarize", figures, given.json, given=call, runs=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())

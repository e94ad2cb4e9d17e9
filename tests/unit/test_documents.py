"""The documents agree with the code: links, paths, sizes, examples, tables. What they show is run in `tests/e2e`."""

import base64
import json
import re
from collections.abc import Iterator
from math import inf
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from pipeline import errors
from pipeline.telemetry.metrics import Metrics
from pipeline.wiring.topology import TopicRow, topic_rows
from schemas import cloudevents
from schemas.status import DEAD_LETTER_TYPE, letter_id

REPOSITORY = Path(__file__).parents[2]
README, MESSAGES = REPOSITORY / "README.md", REPOSITORY / "schemas" / "README.md"
OPERATING, DESIGN = REPOSITORY / "infra" / "README.md", REPOSITORY / "pipeline" / "README.md"
DEMO = REPOSITORY / "tests" / "e2e" / "demo.txt"
ROOMS = ("pipeline", "stages")
FOLDERS = (".github", "benchmarks", "infra", "schemas", "tests", *ROOMS)
DOCUMENTS = [
    *sorted(REPOSITORY.glob("*.md")),
    *sorted(path for folder in FOLDERS for path in (REPOSITORY / folder).rglob("*.md") if "prompts" not in path.parts),
]

LINK = re.compile(r"(?<!!)\[[^\]]+\]\(([^)\s]+)\)")
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
NAMED_PATH = re.compile(r"`((?:pipeline|stages|schemas|tests|benchmarks|infra)/[\w./-]+)`")


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def section(path: Path, title: str) -> str:
    return text_of(path).partition(f"## {title}\n")[2].partition("\n## ")[0]


def rows(text: str) -> Iterator[list[str]]:
    """The cells of each row of a text's tables, heads included."""
    for line in text.splitlines():
        if line.startswith("| ") and line.endswith(" |"):
            yield [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def anchors(path: Path) -> set[str]:
    """The headings as GitHub turns them into anchors."""
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", text_of(path)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_readme_is_read_in_five_minutes() -> None:
    text = text_of(README)
    assert len(text.splitlines()) <= 150
    assert len(text.split()) <= 1300


def test_the_documents_are_found() -> None:
    assert {README, MESSAGES, OPERATING, DESIGN, REPOSITORY / ".github" / "CONTRIBUTING.md"} <= set(DOCUMENTS)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_every_relative_link_resolves(path: Path) -> None:
    for link in LINK.findall(FENCED.sub("", text_of(path))):
        if link.startswith(("http://", "https://")):
            continue
        target, _, anchor = link.partition("#")
        linked = (path.parent / target).resolve() if target else path
        assert linked.exists(), f"{link} leads nowhere"
        if anchor:
            assert anchor in anchors(linked), f"{link}: there is no such heading"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_every_path_that_a_document_names_exists(path: Path) -> None:
    for named in NAMED_PATH.findall(text_of(path)):
        assert (REPOSITORY / named).exists(), f"there is no {named}"


def test_readme_shows_lines_of_the_demo_in_their_order() -> None:
    printed = iter(text_of(DEMO).splitlines())
    shown = text_of(README).partition("```text\n")[2].partition("```")[0].splitlines()
    kept = [line for line in shown if line not in ("", "…")]
    assert len(kept) > 15
    for line in kept:
        pattern = re.compile(".*".join(map(re.escape, line.split("…"))))
        assert any(pattern.fullmatch(candidate) for candidate in printed), f"the demo does not print {line!r} there"


def examples() -> list[Any]:
    """The JSON examples of the messages, each under a heading that names its type."""
    found = []
    for part in text_of(MESSAGES).split("\n### ")[1:]:
        heading = re.match(r"`([a-z.-]+)`\n", part)
        if heading is not None:
            [example] = re.findall(r"```json\n(.*?)```", part, re.DOTALL)
            found.append(pytest.param(heading[1], json.loads(example), id=heading[1]))
    return found


@pytest.mark.parametrize(("event_type", "example"), examples())
def test_an_example_is_valid_by_its_schema_and_has_no_other_fields(event_type: str, example: dict[str, Any]) -> None:
    schema = json.loads(text_of(REPOSITORY / "schemas" / "json" / f"{event_type}.json"))
    jsonschema.Draft202012Validator(schema).validate(example)
    fields = schema["$defs"][schema["$ref"].rpartition("/")[2]]["properties"]
    assert example.keys() <= fields.keys()


def test_every_published_type_has_an_example_but_segments_and_chunks() -> None:
    published = {path.stem for path in (REPOSITORY / "schemas" / "json").glob("*.json")}
    assert {example.values[0] for example in examples()} == published - {"callstream.segment"}


def test_the_dead_letter_shown_is_the_one_that_its_record_becomes() -> None:
    [letter] = [example.values[1] for example in examples() if example.values[0] == DEAD_LETTER_TYPE]
    value = base64.b64decode(letter["value"])
    headers = {**letter["headers"], "ce_specversion": "1.0", "ce_callseq": "0"}
    with pytest.raises(ValueError, match="cannot be read") as raised:
        cloudevents.decode_audio_event(headers, base64.b64decode(letter["key"]), value)
    assert (letter["error"], letter["message"]) == (type(raised.value).__name__, str(raised.value))
    assert letter["value_bytes"] == len(value)
    shown = letter_id(letter["stage"], letter["topic"], letter["partition"], letter["position"])
    assert f'"letter_id": "{shown}"' in text_of(MESSAGES)


def test_the_design_s_table_of_topics_is_the_code_s() -> None:
    def kept(row: TopicRow) -> str:
        topic = row.topic
        if topic.keep_s == 3600:
            return "an hour at most"
        assert topic.keep_s == inf
        return "retention" if topic.keep == 1 else f"{topic.keep:g} × retention"

    shown = [row for row in rows(section(DESIGN, "Data flow")) if row[0].startswith("`calls.")]
    assert [[row[0], *row[2:]] for row in shown] == [
        [f"`{row.name}`", row.written_by, ", ".join(row.read_by), kept(row)] for row in topic_rows()
    ]


def test_the_tree_of_rooms_is_the_repository_s() -> None:
    tree = section(DESIGN, "Rooms").partition("```text\n")[2].partition("```")[0]
    shown = [line.split()[0] for line in tree.splitlines()]
    assert all((REPOSITORY / room).is_dir() for room in shown)
    rooms = {
        str(package.parent.relative_to(REPOSITORY))
        for top in ROOMS
        for package in (REPOSITORY / top).rglob("__init__.py")
    }
    assert rooms <= set(shown), f"the tree lacks {sorted(rooms - set(shown))}"


def test_every_metric_that_operators_are_told_of_exists() -> None:
    named = set(re.findall(r"`(callstream_\w+)`", text_of(OPERATING)))
    assert len(named) > 15
    families = {family.name for family in Metrics().registry.collect()}
    assert {name.removesuffix("_total") for name in named} <= families


def test_the_exit_codes_shown_are_those_of_the_errors() -> None:
    shown = {int(row[0]) for row in rows(section(OPERATING, "Exit codes")) if row[0].isdigit()}
    raised = {
        kind.exit_code
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.CallstreamError)
    }
    assert shown == raised | {0, 130}

"""The tables that the benchmark prints."""

from collections.abc import Sequence
from typing import Any, Final

HEADS: Final = (
    "speech in no utterance",
    "speech in no word",
    "words in no utterance",
    "words in `unheard`",
    "words in neither",
    "silence in `unheard`",
    "word errors (S, D, I)",
    "audio s per CPU s",
)


def show_measured(figures: dict[str, Any]) -> None:
    """Print a row for each set and kind."""
    print(f"| corpus, condition | | words | {' | '.join(HEADS)} |")
    print("|---" * (len(HEADS) + 3) + "|")
    for name, one in figures["sets"].items():
        for kind, found in one["kinds"].items():
            print(f"| {name} | {kind} | {' | '.join(cells(found))} |")
    for corpus, others in figures["against"].items():
        for kind, gap in others.items():
            if gap is not None:
                print(
                    f"{corpus}: ours − {kind}, word errors: {gap['points']:+.2f} points "
                    f"(95 %: {gap['low']:+.2f} to {gap['high']:+.2f})"
                )


def cells(found: dict[str, Any]) -> Sequence[str]:
    percent, errors = found["coverage"]["percent"], found["errors"]
    counts = ", ".join(f"{errors[key]:,}" for key in ("substituted", "deleted", "inserted"))
    return [
        f"{errors['words']:,}" if errors["words"] else "–",
        *(
            _share(percent[key])
            for key in (
                "speech_outside_utterances",
                "speech_outside_words",
                "words_outside_utterances",
                "words_unheard",
                "words_in_neither",
                "silence_marked_unheard",
            )
        ),
        f"{errors['percent']:.2f} % ({counts})" if errors["words"] else "–",
        f"{found['audio_s_per_cpu_s']:.1f}",
    ]


def _share(percent: float | None) -> str:
    return "–" if percent is None else f"{percent:.2f} %"


def show_words(sets: dict[str, Any]) -> None:
    """Print doubled and lost words of each set, a column for each kind."""
    kinds = list(dict.fromkeys(kind for one in sets.values() for kind in one["kinds"]))
    print(f"| words | | {' | '.join(f'{kind}: doubled, lost' for kind in kinds)} |")
    print("|---" * (len(kinds) + 2) + "|")
    for name, one in sets.items():
        counts = [one["kinds"].get(kind) for kind in kinds]
        said = next(count["clips"] for count in counts if count)
        cells = [f"{count['doubled']}, {count['lost']}" if count else "–" for count in counts]
        print(f"| {name} | {said} | {' | '.join(cells)} |")


def show_twins(forms: dict[str, Any]) -> None:
    """Print for each form the words that came right and once, and those that came too often."""
    print("| call | words | right, once, under who said it | written words | word errors (S, D, I) | speakers |")
    print("|---|---|---|---|---|---|")
    for form, calls in forms.items():
        words, written = (sum(one[key] for one in calls.values()) for key in ("words", "written_words"))
        counts = [sum(one[key] for one in calls.values()) for key in ("substituted", "deleted", "inserted")]
        once = 100 * (words - counts[0] - counts[1]) / words
        speakers = ", ".join(sorted({str(len(one["speakers"])) for one in calls.values()}))
        print(
            f"| {form} | {words:,} | {once:.1f} % | {written:,} | {100 * sum(counts) / words:.1f} % "
            f"({', '.join(map(str, counts))}) | {speakers} |"
        )

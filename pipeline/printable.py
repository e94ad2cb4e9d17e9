"""Text of others, made safe to print: a terminal obeys control characters, and lines can be forged by line breaks.

Removed are the C0 and C1 controls with DEL (so no escape or OSC sequence begins), the separators U+2028 and U+2029, and
the marks that turn the direction of writing, with which a line reads other than it is (Unicode Standard Annex 9).
"""

from collections.abc import Iterator
from typing import Any, Final

_CONTROLS: Final = ((0x00, 0x08), (0x0B, 0x1F))
_UNESCAPED_IN_JSON: Final = (
    (0x7F, 0x9F),
    (0x061C, 0x061C),
    (0x200E, 0x200F),
    (0x2028, 0x202E),
    (0x2066, 0x2069),
)
"""First and last of each range. JSON itself escapes the C0 controls."""


def _each(ranges: tuple[tuple[int, int], ...]) -> Iterator[int]:
    for first, last in ranges:
        yield from range(first, last + 1)


# Tables of `str.translate`: a regular expression takes a millisecond to compile, at the start of each command.
_REMOVED: Final[dict[int, str]] = dict.fromkeys(_each(_CONTROLS + _UNESCAPED_IN_JSON), "")
_SPACES: Final[dict[int, str]] = dict.fromkeys(_REMOVED, " ")
_ESCAPED: Final = {point: f"\\u{point:04x}" for point in _each(_UNESCAPED_IN_JSON)}


def without_controls(text: str) -> str:
    """Return the text with its line breaks (`\\n`) and tabs, without other control characters."""
    return text.translate(_REMOVED)


def one_line(text: str) -> str:
    """Return the text on one line: each run of spaces, line breaks and control characters is one space."""
    return " ".join(text.translate(_SPACES).split())


def json_text(value: Any, *, indent: int | None = None) -> str:
    """Return JSON in which no control character stands for itself. Parsed, it is equal to `value`.

    Raises ValueError for NaN and infinity.
    """
    import json

    return escaped_json(json.dumps(value, ensure_ascii=False, indent=indent, allow_nan=False))


def escaped_json(text: str) -> str:
    """Return a JSON text with the control characters that JSON allows in strings as escapes."""
    return text.translate(_ESCAPED)

"""Text of others, made safe to print: a terminal obeys control characters, and lines can be forged by line breaks.

Removed are the C0 and C1 controls with DEL (so no escape or OSC sequence begins), the separators U+2028 and U+2029, and
the marks that turn the direction of writing, with which a line reads other than it is (Unicode Standard Annex 9).
"""

import json
import re
from typing import Any, Final

_UNSAFE: Final = "\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"
_CONTROLS: Final = re.compile(f"[{_UNSAFE}]")
_BREAKS: Final = re.compile(f"[\\s{_UNSAFE}]+")
_RAW_IN_JSON: Final = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def without_controls(text: str) -> str:
    """Return the text with its line breaks (`\\n`) and tabs, without other control characters."""
    return _CONTROLS.sub("", text)


def one_line(text: str) -> str:
    """Return the text on one line: each run of spaces, line breaks and control characters is one space."""
    return _BREAKS.sub(" ", text).strip()


def json_text(value: Any, *, indent: int | None = None) -> str:
    """Return JSON in which no control character stands for itself. Parsed, it is equal to `value`.

    Raises ValueError for NaN and infinity.
    """
    return escaped_json(json.dumps(value, ensure_ascii=False, indent=indent, allow_nan=False))


def escaped_json(text: str) -> str:
    """Return a JSON text with the control characters that JSON allows in strings as escapes."""
    return _RAW_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text)

"""Languages that a producer can name: those that a Whisper model knows."""

import re
from typing import Final

_CODES: Final = (
    "af am ar as az ba be bg bn bo br bs ca cs cy da de el en es et eu fa fi fo fr gl gu ha haw he hi hr ht hu hy id "
    "is it ja jw ka kk km kn ko la lb ln lo lt lv mg mi mk ml mn mr ms mt my ne nl nn no oc pa pl ps pt ro ru sa sd si "
    "sk sl sn so sq sr su sv sw ta te tg th tk tl tr tt uk ur uz vi yi yo yue zh"
)
LANGUAGES: Final = frozenset(_CODES.split())
"""ISO 639-1 codes, and Whisper's own for languages without one (`haw`, `jw`, `yue`)."""


def primary_code(name: str) -> str:
    """Return the language of a tag: `en` for `en-US` and `EN_us`."""
    return name.strip().lower().replace("_", "-").partition("-")[0]


_TAG: Final = re.compile(r"[A-Za-z]{2,3}([-_][A-Za-z0-9]{1,8}){0,3}")


def is_known(tag: str) -> bool:
    """Return True for the code of a language in `LANGUAGES`, alone or with subtags: `en`, `en-US`, `zh_Hant_TW`."""
    return _TAG.fullmatch(tag) is not None and primary_code(tag) in LANGUAGES

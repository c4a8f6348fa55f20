"""The languages that people read: which one somebody chose, and a sentence in it."""

from __future__ import annotations

import gettext
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Final

from chatd.errors import Phrase, Refused, Template, filled

SPOKEN: Final = ("en", "zh")
"""What sentences can be had in. The first is what the code is written in; it needs no catalogue."""

_LISTED = 500  # characters of a list of languages that are looked at
_WEIGHT = re.compile(r"\s*q\s*=\s*(0(?:\.\d{0,3})?|1(?:\.0{0,3})?)\s*")  # RFC 9110 §12.4.2


def pick(wanted: str) -> str:
    """The language for a list such as `zh-CN, en;q=0.8` (RFC 9110 §12.5.4), found by lookup
    (RFC 4647 §3.4): English if none of them is spoken, nothing for an empty list."""
    for tag in _by_weight(wanted):
        while tag and tag not in SPOKEN:
            tag = tag.rpartition("-")[0]
        if tag:
            return tag
    return SPOKEN[0] if wanted.strip() else ""


def _by_weight(wanted: str) -> list[str]:
    """The languages, the most wanted first; people also write `zh_CN`."""
    weighted: dict[str, float] = {}
    for item in wanted[:_LISTED].lower().replace("_", "-").split(","):
        tag, _, weight = item.partition(";")
        weighted[tag.strip()] = _weight(weight)
    heaviest = sorted(weighted, key=lambda tag: weighted[tag], reverse=True)
    return [tag for tag in heaviest if weighted[tag]]


def _weight(text: str) -> float:
    if not text.strip():
        return 1.0
    match = _WEIGHT.fullmatch(text)
    return float(match[1]) if match else 0.0


def translated(template: Template, fields: Mapping[str, object], language: str) -> str:
    """A template in a language of `SPOKEN` ("": English), with its fields, of which a `Phrase`
    is translated likewise. What the catalogue does not have stays English."""
    if language in _AS_WRITTEN:
        return filled(template, fields)
    inner = {name: _inner(value, language) for name, value in fields.items()}
    return filled(_catalogue(language).gettext(template), inner)


def _inner(value: object, language: str) -> object:
    if isinstance(value, Phrase):
        return translated(value.template, value.fields, language)
    return value


def said_in(language: str, refused: Refused) -> Refused:
    """The refusal as a wire is to encode it for somebody who reads the language."""
    if language in _AS_WRITTEN:
        return refused
    sentence = translated(refused.template, refused.fields, language)
    return Refused(refused.code, sentence, refused.retry_after)


@cache
def _catalogue(language: str) -> gettext.NullTranslations:
    return gettext.translation(
        "chatd", Path(__file__).parent / "locales", [language], fallback=True
    )


_AS_WRITTEN = frozenset(("", SPOKEN[0]))

"""Finds the names in `@name` of a text, in scripts with and without spaces between words."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from itertools import islice
from typing import Final

from chatd.model import fold, name_run

MOST: Final = 50  # whom one message may mention, by name
ALL: Final = "all"

_LOOKED_AT = 20  # @ in a text, or a read would ask for thousands of names
_RUN = 64  # characters behind an @: a name has 32, each of which may be written as two
# Thai to Burmese, Khmer, kana, ideographs, and Hangul, whose particles join the name.
_SPACELESS = re.compile(
    "[\u0e00-\u109f\u1100-\u11ff\u1780-\u17ff\u3005-\u30ff\u3130-\u318f\u31f0-\u9fff"
    "\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff\U00020000-\U0003ffff]"
)


def candidates(text: str) -> list[list[str]]:
    """For each of a text's @ the folded names that may be meant, the longest first: `你好@刘备明天`
    may mean 刘备, but `@bobby` never bob, and `carol@bob.example` nobody."""
    return list(islice(_candidates(text), _LOOKED_AT))


def _candidates(text: str) -> Iterator[list[str]]:
    for match in re.finditer("@", text):
        start = match.end()
        if start > 1 and not _parted(text[start - 2], "a"):
            continue
        run = name_run(text[start : start + _RUN])
        ends = range(len(run), 0, -1)
        names = [fold(run[:n]) for n in ends if n == len(run) or _parted(run[n - 1], run[n])]
        if names:
            yield names


def _parted(left: str, right: str) -> bool:
    """Whether a word may end between two characters."""
    if unicodedata.category(right) in ("Mn", "Mc"):
        return False
    if _SPACELESS.match(left) or _SPACELESS.match(right):
        return True
    return not (left.isalnum() and right.isalnum())

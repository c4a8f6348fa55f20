"""Whether a name can be taken for another: its skeleton, and mixtures of scripts (UTS #39)."""

from __future__ import annotations

import re
from bisect import bisect_right
from functools import cache
from pathlib import Path
from typing import Final
from unicodedata import normalize

import msgspec
from msgspec import Struct

from chatd.errors import Refused
from chatd.model import fold, normalise

NEUTRAL: Final = frozenset(("Zyyy", "Zinh"))
"""The scripts of what goes with every script, such as digits and accents."""

# Besides one script alone: what is written together (UTS #39 §5.2, "highly restrictive").
_TOGETHER = (
    frozenset(("Latn", "Hani", "Hira", "Kana")),
    frozenset(("Latn", "Hani", "Bopo")),
    frozenset(("Latn", "Hani", "Hang")),
)

# A dot on a letter that has one is not seen (UTS #39 §5.4); marks below stand between.
_DOT_ON_DOT = re.compile("([ij][\u0316-\u0333]*)\u0307")


class _Table(Struct, frozen=True):
    """`scripts` are runs of characters, by the first one, with the scripts they are used in,
    none where they go with all; `alike` says by what they look like which characters do."""

    scripts: list[tuple[int, str]]
    alike: dict[str, str]


class _Tables(Struct, frozen=True):
    """The same, as they are used."""

    starts: list[int]
    scripts: list[frozenset[str]]
    alike: dict[int, str]


@cache
def _tables() -> _Tables:
    """Read when somebody first registers: the rest of a daemon's life may do without."""
    path = Path(__file__).with_suffix(".json")
    table = msgspec.json.decode(path.read_bytes(), type=_Table)
    sets = {names: frozenset(names.split()) for _, names in table.scripts}
    return _Tables(
        [start for start, _ in table.scripts],
        [sets[names] for _, names in table.scripts],
        {ord(char): like for like, chars in table.alike.items() for char in chars},
    )


def new_name(name: str) -> str:
    """The normalised form of a name that somebody wants to have. Raises `Refused` if it cannot
    be a name, or is in scripts that nobody writes together."""
    shown = normalise(name)
    if not shown.isascii():
        _check_scripts(shown)
    return shown


def skeleton(name: str) -> str:
    """What a normalised name looks like: names of one skeleton can be taken for each other. Of
    an ASCII name it is the folded name: ASCII is never taken for other ASCII."""
    if name.isascii():
        return fold(name)
    seen = fold(normalize("NFD", name).translate(_tables().alike))
    return normalize("NFKC", _DOT_ON_DOT.sub(r"\1", normalize("NFD", seen)))


def _check_scripts(name: str) -> None:
    found = {scripts for scripts in map(_scripts, name) if scripts}
    if not found or frozenset.intersection(*found):
        return
    if not any(all(map(written.intersection, found)) for written in _TOGETHER):
        raise Refused("bad-request", "A name is in one script; {name} mixes several.", name=name)


def _scripts(char: str) -> frozenset[str]:
    tables = _tables()
    return tables.scripts[bisect_right(tables.starts, ord(char)) - 1]

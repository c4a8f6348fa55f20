"""Makes chatd/lookalikes.json from the tables of Unicode: ``python -m tools.lookalikes``.

They come with two packages that nothing else needs: confusable_homoglyphs has confusables.txt,
fonttools has Scripts.txt and ScriptExtensions.txt.
"""

import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any, Final
from unicodedata import category, normalize

from fontTools.unicodedata import script, script_extension

from chatd.lookalikes import NEUTRAL
from chatd.model import fold

TABLE: Final = Path(__file__).parents[1] / "chatd" / "lookalikes.json"
NOTICE: Final = (
    "Made by tools/lookalikes.py from confusables.txt, Scripts.txt and ScriptExtensions.txt"
    " (confusable_homoglyphs {}, fonttools {}). Copyright (c) Unicode, Inc. Unicode License V3,"
    " https://www.unicode.org/license.txt; as in LICENSE.unicode."
)
# What confusables.txt has not: fonts show a small palochka as an l, not as an i.
_SEEN: Final = {"\u0237": "j", "\u04cf": "l"}
_LONGEST: Final = 4  # characters that one may look like


def classes() -> list[set[str]]:
    """The characters and sequences that look alike."""
    text = files("confusable_homoglyphs").joinpath("confusables.json").read_text()
    table: dict[str, list[dict[str, str]]] = json.loads(text)
    around = {one: {other["c"] for other in others} for one, others in table.items()}
    found, seen = [], set[str]()
    for one in around:
        if one in seen:
            continue
        together, waiting = {one}, [one]
        while waiting:
            new = around.get(waiting.pop(), set()) - together
            together |= new
            waiting += new
        seen |= together
        found.append(together)
    return found


def prototypes() -> dict[str, str]:
    """What each character looks like: ASCII if it can be, else what is alone in its form."""
    found: dict[str, str] = {}
    for together in classes():
        stable = [text for text in together if fold(text) == text or text.isascii()]
        names = [text for text in stable if all(map(_in_names, text)) and len(text) <= _LONGEST]
        if names:
            best = min(names, key=_unlikely)
            found.update(dict.fromkeys(together, fold(best)))
    return found


def _unlikely(text: str) -> tuple[bool, int, bool, bool, str]:
    """Smallest for what should stand for a class: ASCII, short, a letter, a small one."""
    return (not text.isascii(), len(text), not text.isalpha(), not text.islower(), text)


def _in_names(char: str) -> bool:
    return char.isalnum() or char in "_-." or category(char) in ("Mn", "Mc")


def alike() -> dict[str, str]:
    """By what they look like: the characters of names beyond ASCII that look like others."""
    found, groups = prototypes(), defaultdict[str, list[str]](list)
    for number in range(0x80, sys.maxunicode + 1):
        char = chr(number)
        if _in_names(char) and normalize("NFKD", char) == char:
            target = _SEEN.get(char) or _target(char, found)
            if target != fold(char):
                groups[target].append(char)
    return {target: "".join(groups[target]) for target in sorted(groups)}


def _target(char: str, found: dict[str, str]) -> str:
    """A capital is folded later: it looks like what its small letter does, or else like what
    it does itself."""
    small = fold(char)
    as_small, as_is = found.get(small, small), found.get(char, small)
    return as_is if as_is.isascii() and not as_small.isascii() else as_small


def scripts() -> Iterator[tuple[int, str]]:
    """(first character, scripts) of each run; what is not assigned belongs to the run before."""
    before = ""
    for number in range(sys.maxunicode + 1):
        char = chr(number)
        if script(char) == "Zzzz":
            continue
        names = script_extension(char)
        here = " ".join(sorted(names)) if names.isdisjoint(NEUTRAL) else ""
        if here != before:
            yield number, here
            before = here


def main() -> None:
    table: dict[str, Any] = {
        "notice": NOTICE.format(version("confusable_homoglyphs"), version("fonttools")),
        "scripts": list(scripts()),
        "alike": alike(),
    }
    rows = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in table.items()]
    TABLE.write_text("{\n" + ",\n".join(rows) + "\n}\n")


if __name__ == "__main__":
    main()

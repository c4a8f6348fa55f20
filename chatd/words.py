"""The words of a text, by which it is found: the same for every database.

A text is folded (NFKC, no case, no accents on Latin and Greek letters) and cut into atoms: each
character of a script written without spaces between words (Chinese, Japanese, Korean, Thai …) and
each emoji is one, and so is each run of other letters and digits. The index has each atom, and
each two neighbours of such a script, so that a word of two characters is one look, and one of
more is few.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator

TOKEN_BYTES = 48  # of UTF-8: as wide as the index's column
_LIGHT = 500  # tokens that cost nothing
_PROBES = 4  # tokens by which one search looks; the text itself is compared with the rest

# Scripts written without spaces between words, and Hangul, whose words carry their endings.
_DENSE = (
    "\u0e01-\u0e4e\u0e81-\u0ece"  # Thai, Lao
    "\u1000-\u109f\u1780-\u17d3"  # Burmese, Khmer
    "\u1100-\u11ff\ua960-\ua97c\uac00-\ud7fb"  # Hangul
    "\u3005-\u3007\u3041-\u309a\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff"  # Kana
    "\u3105-\u312f\u31a0-\u31bf"  # Bopomofo
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Han
)
_EMOJI = "\u2300-\u23ff\u2600-\u27bf\u2b00-\u2bff\U0001f000-\U0001f3fa\U0001f400-\U0001faff"
# Vowel signs and the like are no letters to Python, but parts of words.
_MARKS = (
    "\u0300-\u036f\u0483-\u0487\u0591-\u05bd\u05bf-\u05c7\u0610-\u061a\u064b-\u065f\u0670"
    "\u06d6-\u06dc\u06df-\u06e8\u06ea-\u06ed\u0900-\u0963\u0971-\u0df3\u0f18-\u0f39\u0f3e-\u0fbc"
)
_ATOM = re.compile(f"([{_DENSE}])|([{_EMOJI}])|((?:(?![{_DENSE}])[^\\W_]|[{_MARKS}])+)")
_ASCII_ATOM = re.compile("[a-z0-9]+")
_ACCENTS = re.compile("(?<=[a-z\u0391-\u03c9])[\u0300-\u036f]+")
# Not shown, or only as the form of what they follow: a soft hyphen, joiners, variants, skins.
_UNSEEN = re.compile("[\u00ad\u200b-\u200d\u2060\ufe00-\ufe0f\U0001f3fb-\U0001f3ff]")
# Unicode sorts the marks on a letter, and needs the square of their number for it.
_PILE = re.compile(r"\W{64}")
_QUOTED = re.compile('"([^"]*)"|([^\\s"]+)')
_LINK = re.compile(r"\bhttps?://[^\s/?#]", re.IGNORECASE)

_APART = "|"  # between two characters that would be neighbours, but for what stood there


def spelled(text: str) -> str:
    """The atoms of a text in their order, each between spaces: a phrase is in a text if its
    atoms, spelled so, are in the text's."""
    atoms = [*_atoms(text)]
    return f" {' '.join(atoms)} " if atoms else ""


def tokens(text: str) -> set[bytes]:
    """What the index has of a text."""
    return {_cut(token) for token in _grams(_atoms(text))}


def burden(text: str) -> int:
    """What it costs to bring a text into the index, by the number of tokens that it may have, in
    requests; 0 for what people usually write."""
    most = len(text) // 4 if text.isascii() else 2 * len(text)
    return max(0, most - _LIGHT) // 32


def phrases(query: str) -> list[str]:
    """The phrases that a query asks for, spelled: what stands in double quotes, and each word
    outside of them. One that is given twice counts once."""
    found = (spelled(quoted or bare) for quoted, bare in _QUOTED.findall(query))
    return [*dict.fromkeys(phrase for phrase in found if phrase)]


def probes(wanted: Iterable[str]) -> list[bytes]:
    """The few tokens of spelled phrases by which to look for texts that may hold them all: the
    longest, as they tend to be the rarest."""
    found = {_cut(token) for phrase in wanted for token in _cover(phrase.split())}
    return sorted(found, key=lambda token: (-len(token), token))[:_PROBES]


def has_link(text: str) -> bool:
    """Whether somebody could follow a link in the text."""
    return _LINK.search(text) is not None


def _atoms(text: str) -> Iterator[str]:
    if text.isascii():
        yield from _ASCII_ATOM.findall(text.lower())
        return
    dense = -1  # where the last character of a dense script ended
    for match in _ATOM.finditer(_folded(text)):
        atom = match[0]
        if match[1] is not None:
            if 0 <= dense < match.start():
                yield _APART
            dense = match.end()
        else:
            dense = -1
        yield atom


def _folded(text: str) -> str:
    folded = unicodedata.normalize("NFKC", _PILE.sub(r"\g<0> ", text)).casefold()
    bare = _ACCENTS.sub("", unicodedata.normalize("NFKD", _UNSEEN.sub("", folded)))
    return unicodedata.normalize("NFKC", bare)


def _grams(atoms: Iterable[str]) -> Iterator[str]:
    """Each atom, and each two neighbours of a dense script."""
    before = ""
    for atom in atoms:
        if atom == _APART:
            before = ""
            continue
        yield atom
        dense = len(atom) == 1 and _is_dense(atom)
        if before and dense:
            yield before + atom
        before = atom if dense else ""


def _cover(atoms: list[str]) -> Iterator[str]:
    """Tokens that any text with these neighbouring atoms has: pairs rather than characters, and
    none twice."""
    place = 0
    while place < len(atoms):
        pair = [*_grams(atoms[place : place + 2])]
        if len(pair) == 3:
            yield pair[2]
            place += 2
        elif place and len(both := [*_grams(atoms[place - 1 : place + 1])]) == 3:
            yield both[2]
            place += 1
        else:
            if atoms[place] != _APART:
                yield atoms[place]
            place += 1


_DENSE_ONE = re.compile(f"[{_DENSE}]")


def _is_dense(atom: str) -> bool:
    return _DENSE_ONE.match(atom) is not None


def _cut(token: str) -> bytes:
    encoded = token.encode(errors="replace")
    return encoded if len(encoded) <= TOKEN_BYTES else _whole(encoded[:TOKEN_BYTES])


def _whole(encoded: bytes) -> bytes:
    return encoded.decode(errors="ignore").encode()

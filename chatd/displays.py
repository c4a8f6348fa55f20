"""What people may write of themselves beside their names: nothing unseen, nothing that reorders."""

from __future__ import annotations

import re
import unicodedata

from chatd.errors import Refused

# Controls, formats (bidi marks, zero-width characters, tags), surrogates, private use,
# unassigned, line and paragraph separators.
_REFUSED = frozenset(("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"))
# Default_Ignorable_Code_Point among letters and marks, and the blank pattern of Braille.
_BLANK = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0e\uffa0\U000e0100-\U000e01ef]"
)
_JOINERS = "\u200c\u200d"
_EMOJI = "\ufe0f"  # the picture form of what stands before it
_SPACES = re.compile("[ \u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]+")
_VIRAMA = 9  # its combining class
_MOST_MARKS = 8  # that one letter may carry: some scripts need four


def shown(text: str, most: int) -> str:
    """The text as it is kept: one line of at most so many characters, NFC, no space at its ends.
    Raises `Refused` of `bad-request` if something in it could not be seen, or would act on what
    stands around it."""
    line = _SPACES.sub(" ", unicodedata.normalize("NFC", text)).strip(" ")
    if len(line) > most:
        raise Refused("bad-request", "Write at most {most} characters.", most=most)
    marks = 0
    for place, char in enumerate(line):
        mark = unicodedata.category(char) in ("Mn", "Me")
        marks = marks + 1 if mark else 0
        if (mark and place == 0) or marks > _MOST_MARKS or not _legible(line, place):
            raise Refused(
                "bad-request", "There is a character that cannot be seen, or that moves others."
            )
    return line


def _legible(line: str, place: int) -> bool:
    char = line[place]
    before, after = line[place - 1 : place], line[place + 1 : place + 2]
    if char in _JOINERS:
        return bool(before and after) and _joins(char, before, after)
    if char == _EMOJI:
        return bool(before) and not before.isalpha() and not before.isspace()
    return unicodedata.category(char) not in _REFUSED and not _BLANK.match(char)


def _joins(char: str, before: str, after: str) -> bool:
    """Whether a joiner between two characters is seen: after the RFC 5892 A.1 and A.2, and within
    emoji."""
    if unicodedata.combining(before) == _VIRAMA:
        return True
    if char == "\u200c":
        return unicodedata.bidirectional(before) == unicodedata.bidirectional(after) == "AL"
    pictures = ("So", "Sk")  # Sk: the tones of skin
    left = before == _EMOJI or unicodedata.category(before) in pictures
    return left and unicodedata.category(after) == "So"

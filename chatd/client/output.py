"""Shows what a verb found or did: to people printable text, to programs JSON."""

from __future__ import annotations

import json
import sys
import unicodedata
from datetime import UTC, datetime
from typing import Any, Final, TextIO

from msgspec import Struct

from chatd.store.connection import Row

_TIMES: Final = frozenset(("created", "expires", "disabled"))  # columns in ms since 1970 UTC


class Answer(Struct, frozen=True):
    """What a verb did: `value` for programs, `sentence` for people; `secret` is shown once."""

    value: dict[str, Any]
    sentence: str
    secret: str = ""


class Table(Struct, frozen=True):
    """What a verb found: as many cells in each row as there are columns; `none` says to people
    that there is nothing, `bad`: that it was found is a failure."""

    columns: tuple[str, ...]
    rows: list[Row]
    none: str = ""
    bad: bool = False


def show(answer: Answer | Table, as_json: bool) -> None:
    """Write it to standard output; OSError if that cannot be written to."""
    if as_json:
        write(sys.stdout, json.dumps(_value(answer)))
    elif isinstance(answer, Table) and answer.none and not answer.rows:
        write(sys.stdout, answer.none)
    elif isinstance(answer, Table):
        write(sys.stdout, *_lines(answer))
    elif answer.secret:
        # So that KEY=$(chatctl key add …) gets the key alone.
        write(sys.stderr, answer.sentence)
        write(sys.stdout, answer.secret)
    else:
        write(sys.stdout, answer.sentence)


def _value(answer: Answer | Table) -> Any:
    if isinstance(answer, Answer):
        return answer.value
    return [dict(zip(answer.columns, row, strict=True)) for row in answer.rows]


def _lines(table: Table) -> list[str]:
    head = [column.upper().replace("_", " ") for column in table.columns]
    rows = [[*map(_cell, table.columns, row)] for row in table.rows]
    widths = [max(map(_width, column)) for column in zip(head, *rows, strict=True)]
    return ["  ".join(map(_padded, row, widths)).rstrip() for row in (head, *rows)]


def _cell(column: str, value: Any) -> str:
    if value in (None, ""):
        return "-"
    if column in _TIMES:
        return iso(value)
    return printable(" ".join(value) if isinstance(value, list) else str(value))


def _padded(text: str, width: int) -> str:
    return text + " " * (width - _width(text))


def _width(text: str) -> int:
    """Terminal columns: two for a wide character, none for a mark above or below another."""
    marks = sum(unicodedata.category(char) in ("Mn", "Me") for char in text)
    return len(text) + sum(unicodedata.east_asian_width(char) in "WF" for char in text) - marks


def iso(millis: int) -> str:
    """A time in ms since 1970 as ISO 8601 in UTC, to the second."""
    return datetime.fromtimestamp(millis / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def printable(text: str) -> str:
    """The text with an escape, such as \\x1b, for each character that is not printable."""
    # Users choose their display names: none may act on the operator's terminal.
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def write(stream: TextIO, *lines: str) -> None:
    """Write lines, without what is not printable or not in the stream's encoding."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    text = "\n".join(map(printable, lines)).encode(encoding, "backslashreplace")
    print(text.decode(encoding), file=stream, flush=True)

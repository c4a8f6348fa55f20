"""Statements about what people say of themselves, and how they are found."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

from chatd.bonds import State
from chatd.errors import Refused
from chatd.model import fold
from chatd.store.connection import Connection, Row

Writers = Literal["everybody", "friends"]

LAST = "\U0010ffff"
"""Behind every character of a name."""


class Profile(Struct, frozen=True):
    """What a user has set. `writers`: who may write to you; `findable`: whether a search finds
    you; `receipts`: whether others see what you have read."""

    display: str
    status: str
    language: str
    writers: Writers
    findable: bool
    receipts: bool


class Card(Struct, frozen=True, omit_defaults=True):
    """Somebody, as you may see them: `state` is what they are to you (`friend`, `asked`, `asking`,
    `refused`), `remark` what you call them, `blocked` whether you block them."""

    user: str
    display: str = ""
    status: str = ""
    state: State = ""
    remark: str = ""
    blocked: bool = False


def profile(connection: Connection, user_id: int) -> Profile:
    """What a user has set."""
    row = connection.one(
        "SELECT display, status, language, writers, findable, receipts FROM users WHERE id = ?",
        (user_id,),
    )
    assert row is not None
    display, status, language, writers, findable, receipts = row
    return Profile(display, status, language, writers, bool(findable), bool(receipts))


def change_profile(connection: Connection, user_id: int, changes: dict[str, Any]) -> None:
    """Sets fields of `Profile`."""
    columns = ", ".join(f"{name} = ?" for name in changes)
    connection.run(f"UPDATE users SET {columns} WHERE id = ?", (*changes.values(), user_id))


_CARDS = (
    "SELECT u.name, u.display, u.status, c.state, c.remark, c.blocked FROM users u"
    " LEFT JOIN contacts c ON c.user_id = ? AND c.other_id = u.id"
)


def card(connection: Connection, user_id: int, name: str) -> Card:
    """The user of a normalised name, as another sees him. Raises `Refused` of `not-found`."""
    row = connection.one(f"{_CARDS} WHERE u.name_key = ?", (user_id, fold(name)))
    if row is None:
        raise Refused("not-found", "There is no user @{name}.", name=name)
    return _card(row)


def find(connection: Connection, user_id: int, first: str, last: str, limit: int) -> list[Card]:
    """The users whose folded names are from `first` to `last`, by name: those who may be found,
    and friends of the one who looks."""
    rows = connection.all(FIND, (user_id, first, last, limit))
    return [_card(row) for row in rows]


FIND = (
    f"{_CARDS} WHERE u.name_key BETWEEN ? AND ? AND u.disabled_at IS NULL"
    " AND (u.findable = 1 OR c.state = 'friend') ORDER BY u.name_key LIMIT ?"
)


def _card(row: Row) -> Card:
    name, display, status, state, remark, blocked = row
    return Card(name, display, status, state or "", remark or "", bool(blocked))

"""Statements about what users are to each other: friends, requests, blocks."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from chatd.bonds import NOBODY, Bond, Change, Side, State
from chatd.errors import Refused, Template
from chatd.model import Party, fold
from chatd.store.connection import Connection, Row


class Contact(Struct, frozen=True):
    """A friend, or somebody who has asked or was asked; since when (ms), and with which words.
    `remark` is what the user calls them, `seen_at` when they were last noted as online (ms)."""

    party: Party
    state: State
    since: int
    display: str
    remark: str
    words: str
    seen_at: int


class Changed(Refused):
    """The bond is not what it was taken for any more."""

    def __init__(self) -> None:
        super().__init__("conflict", "The state has changed meanwhile. Try again.")


def check_open(connection: Connection, user_id: int, other: Party) -> None:
    """Raises `Refused` of `blocked` unless the other one takes messages from the user."""
    row = connection.one(
        "SELECT u.writers, mine.blocked, theirs.blocked, theirs.state FROM users u"
        " LEFT JOIN contacts mine ON mine.user_id = ? AND mine.other_id = u.id"
        " LEFT JOIN contacts theirs ON theirs.user_id = u.id AND theirs.other_id = ?"
        " WHERE u.id = ?",
        (user_id, user_id, other.id),
    )
    if row is None:
        return
    writers, blocking, blocked, state = row
    if blocking:
        raise Refused("blocked", "You have blocked @{name}.", name=other.name)
    if blocked or (writers == "friends" and state != "friend"):
        raise Refused("blocked", "@{name} takes no messages from you.", name=other.name)


def bond(connection: Connection, user_id: int, other: Party) -> Bond:
    """What the user and the other one are to each other."""
    rows = connection.all(
        "SELECT user_id, state, blocked, remark, words, at FROM contacts"
        " WHERE (user_id = ? AND other_id = ?) OR (user_id = ? AND other_id = ?)",
        (user_id, other.id, other.id, user_id),
    )
    sides = {row[0]: _side(row[1:]) for row in rows}
    return Bond(other.name, sides.get(user_id, NOBODY), sides.get(other.id, NOBODY))


def _side(row: Row) -> Side:
    state, blocked, *rest = row
    return Side(state, bool(blocked), *rest)


def settle(
    connection: Connection, user_id: int, other: Party, before: Bond, change: Change, most: int
) -> None:
    """Makes the change, if the bond is as it was `before`, or raises `Changed`. Belongs into a
    transaction that has locked the inboxes of both. Raises `Refused` of `too-large` where it would
    be more than `most` of a kind."""
    if bond(connection, user_id, other) != before:
        raise Changed
    mine, theirs = change.bond.mine, change.bond.theirs
    fields = {"most": most, "name": other.name}
    if mine.state in _OWN and before.mine.state not in _OWN:
        _check_room(connection, user_id, "state IN ('friend', 'asked')", _FRIENDS, fields)
    if theirs.state == "asking" and before.theirs.state != "asking":
        _check_room(connection, other.id, "state = 'asking'", _REQUESTS, fields)
    if mine.blocked and not before.mine.blocked:
        _check_room(connection, user_id, "blocked = 1", _BLOCKS, fields)
    for owner, whom, side, old in (
        (user_id, other.id, mine, before.mine),
        (other.id, user_id, theirs, before.theirs),
    ):
        if side != old:
            _keep(connection, owner, whom, side)


_OWN = ("friend", "asked")
_FRIENDS: Template = "One may have {most} friends and requests at most. Unfriend somebody first."
_REQUESTS: Template = "@{name} has {most} requests to answer; no more are taken."
_BLOCKS: Template = "One may block {most} users at most. Unblock somebody first."


def _check_room(
    connection: Connection, owner: int, what: str, too_many: Template, fields: dict[str, Any]
) -> None:
    row = connection.one(f"SELECT COUNT(*) FROM contacts WHERE user_id = ? AND {what}", (owner,))
    assert row is not None
    if row[0] >= fields["most"]:
        raise Refused("too-large", too_many, **fields)


def _keep(connection: Connection, owner: int, whom: int, side: Side) -> None:
    if side == NOBODY:
        connection.run("DELETE FROM contacts WHERE user_id = ? AND other_id = ?", (owner, whom))
        return
    connection.run(
        "REPLACE INTO contacts (user_id, other_id, state, blocked, remark, words, at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (owner, whom, side.state, int(side.blocked), side.remark, side.words, side.at),
    )


def friends(connection: Connection, user_id: int, after: str, limit: int) -> list[Contact]:
    """A page of the user's friends and open requests both ways, by name behind `after`."""
    rows = connection.all(
        "SELECT u.id, u.name, c.state, c.at, u.display, c.remark, c.words, u.seen_at"
        " FROM contacts c JOIN users u ON u.id = c.other_id"
        " WHERE c.user_id = ? AND c.state IN ('friend', 'asked', 'asking') AND u.name_key > ?"
        " ORDER BY u.name_key LIMIT ?",
        (user_id, fold(after), limit),
    )
    return [Contact(Party(*row[:2]), *row[2:]) for row in rows]


def blocks(connection: Connection, user_id: int, after: str, limit: int) -> list[str]:
    """A page of the names of those whom the user blocks, behind `after`."""
    rows = connection.all(
        "SELECT u.name FROM contacts c JOIN users u ON u.id = c.other_id"
        " WHERE c.user_id = ? AND c.blocked = 1 AND u.name_key > ? ORDER BY u.name_key LIMIT ?",
        (user_id, fold(after), limit),
    )
    return [name for (name,) in rows]

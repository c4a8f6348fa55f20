"""Plays the groups' logs again: who is in them, as what, since when, and who may not write."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from itertools import groupby
from typing import Any, Final

import msgspec
from msgspec import Struct

from chatd.model import fold
from chatd.store.connection import Connection, Row

_PAGE: Final = 5000  # entries in memory at once


class Difference(Struct, frozen=True):
    """What is not as it should be: the check that failed, the room's id and the seq, 0 where it
    is of none, and whom or what it is about."""

    check: str
    room: int
    seq: int
    what: str


class _Group:
    """What the log says: (role, joined_seq) by user id, mutes in ms by user id."""

    def __init__(self) -> None:
        self.members: dict[int, tuple[str, int]] = {}
        self.mutes: dict[int, int] = {}
        self.muted_until = 0
        self.dissolved = False

    def play(self, entry: Row, user_id: int) -> None:
        """Does what an entry of the log did; `user_id` is whom it is about."""
        _, seq, kind, sender_id, body = entry
        match kind:
            case "created":
                self.members[sender_id] = ("owner", seq)
            case "joined":
                self.members[sender_id] = ("member", seq)
            case "left" | "kicked":
                self.members.pop(user_id, None)
            case "appointed":
                self._appoint(sender_id, user_id, body["role"])
            case "muted" if "user" in body:
                self.mutes[user_id] = body["until"]
            case "muted":
                self.muted_until = body["until"]
            case "dissolved":
                self.dissolved = True

    def _appoint(self, sender_id: int, user_id: int, role: str) -> None:
        if role == "owner":
            self._set(sender_id, "admin")
        self._set(user_id, role)

    def _set(self, user_id: int, role: str) -> None:
        if user_id in self.members:
            self.members[user_id] = (role, self.members[user_id][1])


def memberships(connection: Connection, now: int) -> Iterator[Difference]:
    """Compares the groups' members, roles, mutes and ends with what their logs say."""

    @cache
    def user_id(name: str) -> int:
        row = connection.one("SELECT id FROM users WHERE name_key = ?", (fold(name),))
        return row[0] if row else 0

    for room_id, entries in groupby(_changes(connection), key=lambda entry: entry[0]):
        group = _Group()
        for entry in entries:
            name = entry[4].get("user")
            group.play(entry, entry[3] if name is None else user_id(name))
        yield from _compared(connection, room_id, group, now)


def _changes(connection: Connection) -> Iterator[Row]:
    for room_id, seq, kind, sender_id, body in pages(
        connection,
        "SELECT e.room_id, e.seq, e.kind, e.sender_id, e.body FROM entries e"
        " JOIN rooms r ON r.id = e.room_id AND r.kind = 'group' WHERE e.kind IN"
        " ('created', 'joined', 'left', 'kicked', 'appointed', 'muted', 'dissolved')",
    ):
        yield (room_id, seq, kind, sender_id, msgspec.json.decode(body))


def pages(connection: Connection, sql: str) -> Iterator[Row]:
    """The rows of a query of entries `e`, whose first two columns are the room's id and the seq,
    in their order, few at a time."""
    room_id = seq = 0
    while True:
        rows = connection.all(
            f"{sql} AND e.room_id >= ? AND (e.room_id > ? OR e.seq > ?)"
            f" ORDER BY e.room_id, e.seq LIMIT {_PAGE}",
            (room_id, room_id, seq),
        )
        yield from rows
        if len(rows) < _PAGE:
            return
        room_id, seq = rows[-1][:2]


def _compared(
    connection: Connection, room_id: int, group: _Group, now: int
) -> Iterator[Difference]:
    rows = connection.all(
        "SELECT user_id, role, joined_seq FROM members WHERE room_id = ?", (room_id,)
    )
    found: dict[int, Any] = {user_id: (role, seq) for user_id, role, seq in rows}
    for user_id in _unlike(found, group.members):
        _, seq = found.get(user_id) or group.members[user_id]
        yield Difference("membership", room_id, seq, f"user {user_id}")
    ((muted_until, dissolved_at),) = connection.all(
        "SELECT muted_until, dissolved_at FROM rooms WHERE id = ?", (room_id,)
    )
    if (dissolved_at is not None) != group.dissolved:
        yield Difference("dissolved", room_id, 0, "")
    if group.dissolved:
        return
    rows = connection.all("SELECT user_id, until FROM mutes WHERE room_id = ?", (room_id,))
    mutes: dict[int, int] = dict(rows)
    for user_id in _unlike(_lasting(mutes, now), _lasting(group.mutes, now)):
        yield Difference("mute", room_id, 0, f"user {user_id}")
    if _lasting({0: muted_until}, now) != _lasting({0: group.muted_until}, now):
        yield Difference("mute", room_id, 0, "everybody")


def _unlike(one: dict[int, Any], other: dict[int, Any]) -> Iterable[int]:
    return sorted(key for key in one.keys() | other.keys() if one.get(key) != other.get(key))


def _lasting(mutes: dict[int, int], now: int) -> dict[int, int]:
    return {user_id: until for user_id, until in mutes.items() if until > now}

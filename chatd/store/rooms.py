"""Statements about rooms, members and cursors."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import Struct

from chatd.errors import Refused
from chatd.lookalikes import skeleton
from chatd.model import Entry, Party, Role, Room, fold
from chatd.store.connection import Connection, Row
from chatd.store.log import END_OF_ROOM, read_after

UNREAD_SEEN = 1000  # unread messages are counted among a room's last 1000 entries


class Cursor(Struct, frozen=True):
    """How far a user has got in a room: entries up to `delivered` reached one of the user's
    clients, those up to `read` were read."""

    user_id: int
    room_id: int
    delivered: int = 0
    read: int = 0


class Progress(Struct, frozen=True):
    """A room of a user's, where its log ends and how much of it the user got and read."""

    room: Room
    end: int
    delivered: int
    read: int


class Overview(Struct, frozen=True):
    """A room in the list of a user's rooms."""

    progress: Progress
    unread: int
    last: Entry | None


class Member(Struct, frozen=True):
    """A member of a group."""

    user: str
    role: Role


def find_group(connection: Connection, name: str) -> Room | None:
    """The group of a normalised name."""
    row = connection.one(
        "SELECT id, name, title FROM rooms WHERE name_key = ? AND dissolved_at IS NULL",
        (fold(name),),
    )
    return Room(row[0], "group", row[1], row[2]) if row else None


def find_pair(connection: Connection, one: Party, other: Party) -> Room | None:
    """The direct room of two users, or the inbox of one, if anything was ever said there."""
    low, high = sorted((one, other), key=lambda party: party.id)
    row = connection.one("SELECT id FROM rooms WHERE low_id = ? AND high_id = ?", (low.id, high.id))
    return _pair(row[0], low, high) if row else None


def _pair(room_id: int, low: Party, high: Party) -> Room:
    return Room(room_id, "inbox" if low == high else "direct", low=low, high=high)


def make_pair(connection: Connection, one: Party, other: Party, now: int) -> Room:
    """The direct room of two users, or the inbox of one, made where it is missing."""
    low, high = sorted((one, other), key=lambda party: party.id)
    connection.run(
        "INSERT IGNORE INTO rooms (kind, title, low_id, high_id, created_at)"
        " VALUES (?, '', ?, ?, ?)",
        ("inbox" if low == high else "direct", low.id, high.id, now),
    )
    room = find_pair(connection, one, other)
    assert room is not None
    return room


def make_group(
    connection: Connection, name: str, title: str, owner: Party, key: bytes, now: int
) -> Room:
    """Makes a group, its owner and the first entry of its log. Raises `Refused` of `exists`;
    `key` tells a repeat after a lost commit from another's group."""
    try:
        with connection.transaction():
            room_id = _insert_group(connection, name, title, owner, key, now)
    except connection.dialect.errors as error:
        if not connection.dialect.duplicate(error):
            raise
        room_id = _made_before(connection, name, key)
    return Room(room_id, "group", name, title)


def _insert_group(
    connection: Connection, name: str, title: str, owner: Party, key: bytes, now: int
) -> int:
    room_id = connection.insert(
        "INSERT INTO rooms (kind, name, name_key, skeleton, title, created_at)"
        " VALUES ('group', ?, ?, ?, ?, ?)",
        (name, fold(name), skeleton(name), title, now),
    )
    body = msgspec.json.encode({"title": title} if title else {}).decode()
    connection.run(
        "INSERT INTO entries (room_id, seq, sender_id, idempotency_key, at, kind, body)"
        " VALUES (?, 1, ?, ?, ?, 'created', ?)",
        (room_id, owner.id, key, now, body),
    )
    add_member(connection, room_id, owner.id, "owner", 1)
    return room_id


def _made_before(connection: Connection, name: str, key: bytes) -> int:
    row = connection.one(
        "SELECT r.id, e.idempotency_key, r.name FROM rooms r"
        " JOIN entries e ON e.room_id = r.id AND e.seq = 1 WHERE r.name_key = ? OR r.skeleton = ?",
        (fold(name), skeleton(name)),
    )
    if row is not None and fold(row[2]) != fold(name):
        sentence = "#{name} looks like #{other}, a group that there is, or was."
        raise Refused("exists", sentence, name=name, other=row[2])
    if row is None or bytes(row[1]) != key:
        raise Refused("exists", "There is, or was, a group #{name}.", name=name)
    return int(row[0])


def add_member(connection: Connection, room_id: int, user_id: int, role: Role, seq: int) -> None:
    """Puts a user into a group with the entry `seq`; what came before is neither replayed nor
    unread. Raises `Refused` of `exists` for a member."""
    if connection.one(
        "SELECT 1 FROM members WHERE user_id = ? AND room_id = ?", (user_id, room_id)
    ):
        raise Refused("exists", "You are in the group already.")
    connection.run(
        "INSERT INTO members (user_id, room_id, role, joined_seq) VALUES (?, ?, ?, ?)",
        (user_id, room_id, role, seq),
    )
    connection.many(_ADVANCE, [(user_id, room_id, seq, seq)])


def join(connection: Connection, room_id: int, user_id: int, seq: int) -> None:
    """`add_member` for somebody who comes to a group that may have gone meanwhile."""
    if not connection.one("SELECT 1 FROM rooms WHERE id = ? AND dissolved_at IS NULL", (room_id,)):
        raise Refused("not-found", "The group was dissolved.")
    add_member(connection, room_id, user_id, "member", seq)


def leave(connection: Connection, room_id: int, user_id: int) -> None:
    """Takes a user out of a group. Raises `Refused` of `not-a-member`, or of `conflict` for
    the owner, without whom nobody could dissolve it."""
    row = connection.one(
        "SELECT role FROM members WHERE user_id = ? AND room_id = ?", (user_id, room_id)
    )
    if row is None:
        raise Refused("not-a-member", "You are not in the group.")
    if row[0] == "owner":
        raise Refused("conflict", "The owner cannot leave; dissolve the group instead.")
    connection.run("DELETE FROM members WHERE user_id = ? AND room_id = ?", (user_id, room_id))


def dissolve(connection: Connection, room_id: int, now: int) -> None:
    """Ends a group: its members get no more than what is in its log. Its name is not given
    again: clients know entries by address and seq.
    Raises `Refused` of `not-found` if somebody else did it first."""
    if not connection.run(
        "UPDATE rooms SET dissolved_at = ? WHERE id = ? AND dissolved_at IS NULL",
        (now, room_id),
    ):
        raise Refused("not-found", "The group was dissolved.")


def members(connection: Connection, room_id: int, after: str, limit: int) -> list[Member]:
    """A page of a group's members by name, beginning behind the name `after`."""
    rows = connection.all(
        "SELECT u.name, m.role FROM members m JOIN users u ON u.id = m.user_id"
        " WHERE m.room_id = ? AND u.name_key > ? ORDER BY u.name_key LIMIT ?",
        (room_id, fold(after), limit),
    )
    return [Member(name, role) for name, role in rows]


_ADVANCE = (
    "INSERT INTO cursors (user_id, room_id, delivered_seq, read_seq) VALUES (?, ?, ?, ?)"
    " ON DUPLICATE KEY UPDATE"
    " delivered_seq = GREATEST(delivered_seq, VALUES(delivered_seq)),"
    " read_seq = GREATEST(read_seq, VALUES(read_seq))"
)


def advance(connection: Connection, cursors: Sequence[Cursor]) -> list[None]:
    """Moves cursors forward, a batch at a time; none ever moves back."""
    connection.insert_all(_ADVANCE, [_cursor_row(cursor) for cursor in cursors])
    return [None] * len(cursors)


def _cursor_row(cursor: Cursor) -> Row:
    delivered = max(cursor.delivered, cursor.read)  # what was read was delivered
    return (cursor.user_id, cursor.room_id, delivered, cursor.read)


_ROOM = (
    "SELECT r.id, r.kind, r.name, r.title, r.low_id, lo.name, r.high_id, hi.name,"
    f" {END_OF_ROOM},"
    " c.delivered_seq, c.read_seq, r.dissolved_at"
    " FROM {source}"
    " LEFT JOIN users lo ON lo.id = r.low_id LEFT JOIN users hi ON hi.id = r.high_id"
    " LEFT JOIN cursors c ON c.user_id = ? AND c.room_id = r.id"
)
_MINE = (
    _ROOM.format(source="members m JOIN rooms r ON r.id = m.room_id") + " WHERE m.user_id = ?",
    _ROOM.format(source="rooms r") + " WHERE r.low_id = ?",
    _ROOM.format(source="rooms r") + " WHERE r.high_id = ? AND r.low_id <> r.high_id",
)


def progress(connection: Connection, user_id: int, dissolved: bool = False) -> list[Progress]:
    """All rooms of a user: groups, direct rooms and the inbox; groups that were dissolved too
    if that is asked."""
    rows = [row for sql in _MINE for row in connection.all(sql, (user_id, user_id))]
    return [_progress(row) for row in rows if dissolved or row[-1] is None]


def _progress(row: Row) -> Progress:
    room_id, kind, name, title, low_id, low, high_id, high, end, delivered, read, _ = row
    room = Room(
        room_id,
        kind,
        name or "",
        title,
        Party(low_id, low) if low_id else None,
        Party(high_id, high) if high_id else None,
    )
    return Progress(room, end or 0, delivered or 0, read or 0)


def overview(connection: Connection, user_id: int, since: int) -> list[Overview]:
    """The user's rooms whose last entry is newer than `since` (ms), latest first."""
    rooms = [_look(connection, user_id, room) for room in progress(connection, user_id)]
    recent = [room for room in rooms if _at(room) >= since]
    return sorted(recent, key=_at, reverse=True)


def _at(room: Overview) -> int:
    return room.last.at if room.last else 0


def _look(connection: Connection, user_id: int, here: Progress) -> Overview:
    last = read_after(connection, here.room, here.end - 1, 1)
    unread = connection.all(
        "SELECT COUNT(*) FROM entries WHERE room_id = ? AND seq > ? AND kind = 'message'"
        " AND sender_id <> ?",
        (here.room.id, max(here.read, here.end - UNREAD_SEEN), user_id),
    )
    return Overview(here, unread[0][0], last[0] if last else None)

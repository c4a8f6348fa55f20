"""Statements about rooms, members and cursors."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from chatd.errors import Refused, Template
from chatd.model import Party, Role, Room, fold
from chatd.rights import RIGHTS, may, outranks
from chatd.store.connection import Connection, Row
from chatd.store.log import END_OF_ROOM


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


def add_member(connection: Connection, room_id: int, user_id: int, role: Role, seq: int) -> None:
    """Puts a user into a group with the entry `seq`; what came before is neither replayed nor
    unread. Raises `Refused` of `exists` for a member."""
    if connection.one(
        "SELECT 1 FROM members WHERE user_id = ? AND room_id = ?", (user_id, room_id)
    ):
        raise Refused("exists", "You are in the group already.")
    connection.run(
        "INSERT INTO members (user_id, room_id, role, joined_seq, name_key)"
        " SELECT id, ?, ?, ?, name_key FROM users WHERE id = ?",
        (room_id, role, seq, user_id),
    )
    connection.many(_ADVANCE, [(user_id, room_id, seq, seq)])


def authorise(
    connection: Connection, room_id: int, user_id: int, action: str, subject_id: int | None = None
) -> Role:
    """The user's role, if it is enough for an action of `chatd.rights` in a group that stands;
    what is done to a member needs a higher role than that member's. Belongs into the transaction
    that does it. Raises `Refused` of `not-found`, `not-a-member` or `forbidden`."""
    if not connection.one("SELECT 1 FROM rooms WHERE id = ? AND dissolved_at IS NULL", (room_id,)):
        raise Refused("not-found", "The group was dissolved.")
    role = role_of(connection, room_id, user_id)
    if role is None:
        raise Refused("not-a-member", "You are not in the group.")
    if not may(role, action):
        raise Refused("forbidden", _ONLY[RIGHTS[action]])
    subject = None if subject_id is None else role_of(connection, room_id, subject_id)
    if subject is not None and not outranks(role, subject):
        raise Refused("forbidden", "This takes a higher role than the other member has.")
    return role


_ONLY: dict[Role, Template] = {
    "owner": "Only the owner of the group may do this.",
    "admin": "Only admins of the group may do this.",
}


def role_of(connection: Connection, room_id: int, user_id: int) -> Role | None:
    """A member's role; None for others."""
    row = connection.one(
        "SELECT role FROM members WHERE user_id = ? AND room_id = ?", (user_id, room_id)
    )
    return row[0] if row else None


_ADVANCE = (
    "INSERT INTO cursors (user_id, room_id, delivered_seq, read_seq) VALUES (?, ?, ?, ?)"
    " ON DUPLICATE KEY UPDATE"
    " delivered_seq = GREATEST(delivered_seq, VALUES(delivered_seq)),"
    " read_seq = GREATEST(read_seq, VALUES(read_seq)),"
    " marked = CASE WHEN VALUES(read_seq) > 0 THEN 0 ELSE marked END"
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
    return [progress_of(row[:-1]) for row in rows if dissolved or row[-1] is None]


def progress_of(row: Row) -> Progress:
    """A room's id, kind, name, title, low and high (id, name), its end, and the user's cursors."""
    room_id, kind, name, title, low_id, low, high_id, high, end, delivered, read = row
    room = Room(
        room_id,
        kind,
        name or "",
        title,
        Party(low_id, low) if low_id else None,
        Party(high_id, high) if high_id else None,
    )
    return Progress(room, end or 0, delivered or 0, read or 0)

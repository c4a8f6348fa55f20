"""Statements about a user's place in a room: cursors, receipts, preferences."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Literal

from msgspec import Struct

from chatd.errors import Refused
from chatd.model import Party, Room, fold
from chatd.store.connection import Connection, Row, marks
from chatd.store.log import END_OF_ROOM
from chatd.store.visible import UNHIDDEN, floor

Notify = Literal["all", "mentions", "none"]

_IDS_AT_ONCE = 1000


class Place(Struct, frozen=True):
    """Where a room's log ends, how far a user has got in it, and whether the user has marked it
    as unread."""

    end: int
    delivered: int
    read: int
    marked: bool


class Hall(Struct, frozen=True):
    """A room, and whether too many are in it for receipts."""

    room: Room
    crowded: bool


class Person(Struct, frozen=True):
    """A user; whether that user tells and is told what was read, and is not to be seen at all, and
    whom that user has blocked."""

    party: Party
    receipts: bool
    invisible: bool
    blocks: frozenset[int] = frozenset()


class Receipt(Struct, frozen=True):
    """Somebody whom an entry has reached; `read`: who has read it."""

    user: str
    read: bool


def place(connection: Connection, room: Room, user_id: int) -> Place:
    """A user's place in a room."""
    rows: list[Row] = connection.all(
        f"SELECT {END_OF_ROOM}, c.delivered_seq, c.read_seq, c.marked FROM rooms r"
        " LEFT JOIN cursors c ON c.user_id = ? AND c.room_id = r.id WHERE r.id = ?",
        (user_id, room.id),
    )
    end, delivered, read, marked = rows[0]
    return Place(end or 0, delivered or 0, read or 0, bool(marked))


def halls(connection: Connection, room_ids: Collection[int], most: int) -> dict[int, Hall]:
    """Rooms by id; `most` is how many may be in one that is not crowded."""
    return {
        row[0]: Hall(_room(row), row[8] is not None)
        for ids in _portions(room_ids)
        for row in connection.all(
            "SELECT r.id, r.kind, r.name, r.title, r.low_id, lo.name, r.high_id, hi.name,"
            " (SELECT 1 FROM members m WHERE m.room_id = r.id LIMIT 1 OFFSET ?) FROM rooms r"
            " LEFT JOIN users lo ON lo.id = r.low_id LEFT JOIN users hi ON hi.id = r.high_id"
            f" WHERE r.dissolved_at IS NULL AND r.id IN ({marks(ids)})",
            (most, *ids),
        )
    }


def _room(row: Row) -> Room:
    room_id, kind, name, title, low_id, low, high_id, high = row[:8]
    one = Party(low_id, low) if low_id else None
    other = Party(high_id, high) if high_id else None
    return Room(room_id, kind, name or "", title, one, other)


def people(connection: Connection, user_ids: Collection[int]) -> dict[int, Person]:
    """Users by id."""
    rows = [row for ids in _portions(user_ids) for row in connection.all(_people(ids), ids)]
    blocks: dict[int, set[int]] = {}
    for user_id, *_, other_id in rows:
        if other_id is not None:
            blocks.setdefault(user_id, set()).add(other_id)
    return {
        user_id: Person(
            Party(user_id, name),
            bool(receipts),
            bool(invisible),
            frozenset(blocks.get(user_id, ())),
        )
        for user_id, name, receipts, invisible, _ in rows
    }


def _people(ids: Sequence[int]) -> str:
    return (
        "SELECT u.id, u.name, u.receipts, u.invisible, b.other_id FROM users u"
        " LEFT JOIN contacts b ON b.user_id = u.id AND b.blocked = 1"
        f" WHERE u.id IN ({marks(ids)})"
    )


def _portions(ids: Collection[int]) -> Iterator[Sequence[int]]:
    ordered = sorted(ids)
    for start in range(0, len(ordered), _IDS_AT_ONCE):
        yield ordered[start : start + _IDS_AT_ONCE]


def receipts(
    connection: Connection, room: Room, user_id: int, seq: int, after: str, limit: int, most: int
) -> list[Receipt]:
    """A page, by name, of those whom an entry has reached, but the user who asks, its sender, who
    came later, who is invisible or blocked the user, and who tells nobody what they read. Raises
    `Refused` of `not-found` for an entry that the user cannot see, `forbidden` for a user who tells
    nobody, `too-large` where more than `most` are in the group."""
    sender_id = _sender(connection, room, user_id, seq)
    if not people(connection, (user_id,))[user_id].receipts:
        raise Refused("forbidden", "Who does not tell what was read is not told it either.")
    if room.kind == "group" and halls(connection, (room.id,), most)[room.id].crowded:
        raise Refused("too-large", "Receipts are kept for groups of up to {most}.", most=most)
    source, there = _those_in(room, user_id, seq)
    rows = connection.all(
        f"SELECT u.name, c.read_seq FROM {source} JOIN cursors c ON c.user_id = u.id"
        " AND c.room_id = ? AND c.delivered_seq >= ? WHERE u.receipts = 1"
        " AND u.invisible = 0 AND NOT EXISTS (SELECT 1 FROM contacts b"
        " WHERE b.user_id = u.id AND b.other_id = ? AND b.blocked = 1)"
        " AND u.id <> ? AND u.id <> ? AND u.name_key > ? ORDER BY u.name_key LIMIT ?",
        (*there, room.id, seq, user_id, user_id, sender_id, fold(after), limit),
    )
    return [Receipt(name, read >= seq) for name, read in rows]


def _those_in(room: Room, user_id: int, seq: int) -> tuple[str, Row]:
    if room.kind == "group":
        source = "members m JOIN users u ON u.id = m.user_id AND m.room_id = ? AND m.joined_seq < ?"
        return source, (room.id, seq)
    return "(SELECT * FROM users WHERE id = ?) u", (room.other(user_id).id,)


def _sender(connection: Connection, room: Room, user_id: int, seq: int) -> int:
    row = connection.one(
        f"SELECT e.sender_id FROM entries e WHERE e.room_id = ? AND e.seq = ? AND {UNHIDDEN}",
        (room.id, seq, user_id),
    )
    if row is None or seq <= floor(connection, room, user_id):
        raise Refused("not-found", "There is no entry {seq} that you could see.", seq=seq)
    return int(row[0])


def mark(connection: Connection, room_id: int, user_id: int) -> None:
    """Marks a room as unread until the user reads there."""
    _change(connection, room_id, user_id, "marked = 1", ())


def prefer(
    connection: Connection,
    room_id: int,
    user_id: int,
    pinned_at: int | None,
    notify: Notify | None,
    archived: bool | None,
) -> None:
    """Changes those of a user's wishes for a room that are not None; `pinned_at` in ms, 0: no
    more. What is archived comes back with the next message of somebody else."""
    if pinned_at is not None:
        _change(connection, room_id, user_id, "pinned_at = ?", (pinned_at,))
    if notify is not None:
        _change(connection, room_id, user_id, "notify = ?", (notify,))
    if archived is not None:
        row = connection.one(f"SELECT {END_OF_ROOM} FROM rooms r WHERE r.id = ?", (room_id,))
        end = (row and row[0]) or 0
        changes = "archived = ?, archived_seq = ?"
        _change(connection, room_id, user_id, changes, (int(archived), end * archived))


def clear(connection: Connection, room_id: int, user_id: int, upto: int) -> None:
    """Ends what a user sees of a room at a seq, which counts as read then."""
    changes = ", ".join(
        f"{name}_seq = GREATEST({name}_seq, ?)" for name in ("delivered", "read", "cleared")
    )
    _change(connection, room_id, user_id, f"{changes}, marked = 0", (upto, upto, upto))


def _change(
    connection: Connection, room_id: int, user_id: int, changes: str, values: Sequence[object]
) -> None:
    connection.run(
        "INSERT IGNORE INTO cursors (user_id, room_id) VALUES (?, ?)", (user_id, room_id)
    )
    connection.run(
        f"UPDATE cursors SET {changes} WHERE user_id = ? AND room_id = ?",
        (*values, user_id, room_id),
    )

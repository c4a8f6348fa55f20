"""Statements about pinned messages."""

from __future__ import annotations

from typing import Final

from chatd.errors import Refused
from chatd.model import Entry, Room
from chatd.store.connection import Connection
from chatd.store.log import read_these
from chatd.store.messages import Change, Unchanged, find
from chatd.store.rooms import authorise
from chatd.store.visible import floor

PINS: Final = 50  # in a room


def pin(connection: Connection, change: Change) -> None:
    """Pins a message. Raises as `find` does, of `forbidden`, of `too-large` for one too many, and
    `Unchanged`."""
    find(connection, change.room, change.user.id, change.target)
    _authorise(connection, change)
    pinned = _pinned(connection, change.room)
    if change.target in pinned:
        raise Unchanged
    if len(pinned) >= PINS:
        raise Refused("too-large", "A room has at most {most} pinned messages.", most=PINS)
    connection.run(
        "INSERT INTO pins (room_id, seq, by_id, at) VALUES (?, ?, ?, ?)",
        (change.room.id, change.target, change.user.id, change.at),
    )


def unpin(connection: Connection, change: Change) -> None:
    """Takes a pin away. Raises of `forbidden`, and `Unchanged`."""
    _authorise(connection, change)
    if not connection.run(
        "DELETE FROM pins WHERE room_id = ? AND seq = ?", (change.room.id, change.target)
    ):
        raise Unchanged


def _authorise(connection: Connection, change: Change) -> None:
    if change.room.kind == "group":
        authorise(connection, change.room.id, change.user.id, "pin")


def _pinned(connection: Connection, room: Room) -> list[int]:
    rows = connection.all("SELECT seq FROM pins WHERE room_id = ? ORDER BY at, seq", (room.id,))
    return [seq for (seq,) in rows]


def pins(connection: Connection, room: Room, user_id: int) -> list[Entry]:
    """The pinned messages that the user may read, the one pinned first first."""
    lowest = floor(connection, room, user_id)
    places = [seq for seq in _pinned(connection, room) if seq > lowest]
    found = {entry.seq: entry for entry in read_these(connection, room, places, user_id)}
    return [found[seq] for seq in places if seq in found]

"""A room's log as one of its users may read it."""

from __future__ import annotations

from msgspec import Struct

from chatd.model import Entry, Room
from chatd.store.connection import Connection
from chatd.store.log import read_after, read_before, read_ends
from chatd.store.visible import floor


class News(Struct, frozen=True):
    """A room's entries after a seq; `floor` is the last one that the user may not see, `end` the
    last there is, told where there are no entries."""

    entries: list[Entry]
    floor: int
    end: int = 0


def page_after(
    connection: Connection, room: Room, user_id: int, seq: int, limit: int
) -> list[Entry]:
    """The first `limit` entries after `seq`, oldest first."""
    low = floor(connection, room, user_id)
    return read_after(connection, room, max(seq, low), limit, user_id)


def page_before(
    connection: Connection, room: Room, user_id: int, seq: int, limit: int
) -> list[Entry]:
    """The last `limit` entries before `seq`, oldest first."""
    low = floor(connection, room, user_id)
    return read_before(connection, room, seq, limit, user_id, low)


def news(connection: Connection, room: Room, user_id: int, seq: int, limit: int) -> News:
    """What comes after the last entry that a client has."""
    low = floor(connection, room, user_id)
    entries = read_after(connection, room, max(seq, low), limit, user_id)
    end = 0 if entries else read_ends(connection, {room.id}).get(room.id, 0)
    return News(entries, low, end)

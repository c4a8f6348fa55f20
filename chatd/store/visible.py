"""What of a room's log a user may read."""

from __future__ import annotations

from chatd.model import Room
from chatd.store.connection import Connection, Row

UNHIDDEN = (
    "NOT EXISTS (SELECT 1 FROM hidden h"
    " WHERE h.user_id = ? AND h.room_id = e.room_id AND h.seq = e.seq)"
)
"""In a query of entries `e`: those that the user of the parameter has not deleted for himself."""

FLOOR = (
    "GREATEST(COALESCE(c.cleared_seq, 0),"
    " CASE WHEN r.history = 'joined' THEN COALESCE(m.joined_seq, 1) - 1 ELSE 0 END)"
)
"""In a query of rooms `r`, left joined with the user's `cursors` c and `members` m: the last seq
that the user may not read, 0 where all is open."""


def floor(connection: Connection, room: Room, user_id: int) -> int:
    """The last seq of a room that a user who may read there may not read; 0: all is open."""
    rows: list[Row] = connection.all(
        f"SELECT {FLOOR} FROM rooms r"
        " LEFT JOIN cursors c ON c.user_id = ? AND c.room_id = r.id"
        " LEFT JOIN members m ON m.user_id = ? AND m.room_id = r.id WHERE r.id = ?",
        (user_id, user_id, room.id),
    )
    return int(rows[0][0]) if rows else 0

"""Compares all that is derived from the logs, or has to fit other rows, with what it should be.

Nothing is written, and of a database in use one moment is seen. What can be a question to the
database is; the rest is read in pages.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Final

from chatd.store.connection import Connection
from chatd.store.recounts import reaction_counts, unread_counts
from chatd.store.replays import Difference, memberships

MOST: Final = 1000  # differences of one class are told

_END = "(SELECT n.seq FROM entries n WHERE n.room_id = {} ORDER BY n.seq DESC LIMIT 1)"
_STANDING = (
    "SELECT x.room_id, x.seq, ''"
    " FROM {} x LEFT JOIN entries e"
    " ON e.room_id = x.room_id AND e.seq = x.seq AND e.kind = 'message' WHERE e.seq IS NULL"
)
# Each gives the room, the seq and what there is to say of it.
_CHECKS: Final[dict[str, str]] = {
    "numbering": "SELECT e.room_id, CASE WHEN MIN(e.seq) <> 1 THEN 1 ELSE"
    " (SELECT g.seq + 1 FROM entries g LEFT JOIN entries n ON n.room_id = g.room_id"
    " AND n.seq = g.seq + 1 WHERE g.room_id = e.room_id AND n.seq IS NULL"
    " ORDER BY g.seq LIMIT 1) END, '' FROM entries e GROUP BY e.room_id"
    " HAVING MIN(e.seq) <> 1 OR MAX(e.seq) <> COUNT(*)",
    "sender": "SELECT e.room_id, e.seq, e.sender_id FROM entries e"
    " LEFT JOIN users u ON u.id = e.sender_id LEFT JOIN rooms r ON r.id = e.room_id"
    " WHERE u.id IS NULL OR (r.kind <> 'group' AND e.sender_id NOT IN (r.low_id, r.high_id))",
    "room": "SELECT DISTINCT e.room_id, 0, '' FROM entries e LEFT JOIN rooms r ON r.id = e.room_id"
    " WHERE r.id IS NULL UNION ALL SELECT r.id, 1, '' FROM rooms r LEFT JOIN entries e"
    " ON e.room_id = r.id AND e.seq = 1 AND e.kind = 'created'"
    " WHERE r.kind = 'group' AND e.seq IS NULL",
    "pair": "SELECT r.id, 0, r.kind FROM rooms r"
    " LEFT JOIN users lo ON lo.id = r.low_id LEFT JOIN users hi ON hi.id = r.high_id"
    " WHERE (r.kind = 'direct' AND (lo.id IS NULL OR hi.id IS NULL OR r.low_id >= r.high_id))"
    " OR (r.kind = 'inbox' AND (lo.id IS NULL OR hi.id IS NULL OR r.low_id <> r.high_id))",
    "cursor": "SELECT c.room_id, c.delivered_seq, c.user_id FROM cursors c"
    f" WHERE GREATEST(c.delivered_seq, c.cleared_seq) > COALESCE({_END.format('c.room_id')}, 0)"
    " OR c.read_seq > c.delivered_seq OR c.cleared_seq > c.read_seq",
    "member": "SELECT m.room_id, m.joined_seq, m.user_id FROM members m"
    " LEFT JOIN users u ON u.id = m.user_id LEFT JOIN rooms r ON r.id = m.room_id"
    " WHERE u.id IS NULL OR r.id IS NULL OR r.kind <> 'group'",
    "mention": f"{_STANDING.format('mentions')} UNION ALL SELECT x.room_id, x.seq, x.user_id"
    " FROM mentions x LEFT JOIN users u ON u.id = x.user_id"
    " WHERE u.id IS NULL AND x.user_id <> 0",
    "reaction": _STANDING.format("reactions"),
    "pin": _STANDING.format("pins"),
    "version": _STANDING.format("versions"),
    "posting": _STANDING.format("(SELECT DISTINCT room_id, seq FROM postings)"),
    "hidden": "SELECT h.room_id, h.seq, h.user_id FROM hidden h"
    " LEFT JOIN entries e ON e.room_id = h.room_id AND e.seq = h.seq WHERE e.seq IS NULL",
    "contact": "SELECT 0, 0, a.name, b.name FROM contacts c"
    " JOIN users a ON a.id = c.user_id JOIN users b ON b.id = c.other_id"
    " LEFT JOIN contacts o ON o.user_id = c.other_id AND o.other_id = c.user_id"
    " WHERE (c.state = 'friend' AND COALESCE(o.state, '') <> 'friend')"
    " OR (c.state = 'asked' AND COALESCE(o.state, '') NOT IN ('asking', 'refused'))"
    " OR (c.state = 'asking' AND COALESCE(o.state, '') <> 'asked')",
}


def differences(connection: Connection, now: int) -> Iterator[Difference]:
    """All differences, each class up to `MOST`; `now` is in ms. Belongs into a `snapshot`."""
    for check, sql in _CHECKS.items():
        for room_id, seq, *what in connection.all(f"{sql} LIMIT {MOST}"):
            yield Difference(check, room_id, seq, " ".join(map(str, what)))
    yield from islice(memberships(connection, now), MOST)
    yield from islice(reaction_counts(connection), MOST)
    yield from islice(unread_counts(connection), MOST)

"""Counts again, one by one, what is counted otherwise elsewhere: unread messages, reactions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import msgspec

from chatd.store import overview
from chatd.store.connection import Connection, Row
from chatd.store.replays import Difference, pages

_USERS_AT_ONCE = 1000
_LOGS_KEPT = 32  # ends of logs, of overview.UNREAD_SEEN entries each


def unread_counts(connection: Connection) -> Iterator[Difference]:
    """Compares what `rooms` says is unread with what everybody's cursors and the logs say."""
    log = lru_cache(_LOGS_KEPT)(lambda room_id, end: _end_of_log(connection, room_id, end))
    for user_id in _users(connection):
        hidden = set(
            connection.all("SELECT room_id, seq FROM hidden WHERE user_id = ?", (user_id,))
        )
        for room in overview.counted(connection, user_id):
            here = room.progress
            seen = max(here.read, _floor(connection, here.room.id, user_id))
            unread = sum(
                kind == "message"
                and sender_id != user_id
                and seq > seen
                and (here.room.id, seq) not in hidden
                for seq, kind, sender_id in (log(here.room.id, here.end) if seen < here.end else ())
            )
            if unread != room.unread:
                what = f"user {user_id}: {room.unread}, not {unread}"
                yield Difference("unread", here.room.id, here.read, what)


def _users(connection: Connection) -> Iterator[int]:
    last = 0
    while True:
        rows = connection.all(
            "SELECT id FROM users WHERE id > ? ORDER BY id LIMIT ?", (last, _USERS_AT_ONCE)
        )
        yield from (user_id for (user_id,) in rows)
        if len(rows) < _USERS_AT_ONCE:
            return
        last = rows[-1][0]


def _end_of_log(connection: Connection, room_id: int, end: int) -> list[Row]:
    return connection.all(
        "SELECT seq, kind, sender_id FROM entries WHERE room_id = ? AND seq > ?",
        (room_id, end - overview.UNREAD_SEEN),
    )


def _floor(connection: Connection, room_id: int, user_id: int) -> int:
    cleared = connection.one(
        "SELECT cleared_seq FROM cursors WHERE user_id = ? AND room_id = ?", (user_id, room_id)
    )
    joined = connection.one(
        "SELECT m.joined_seq FROM members m JOIN rooms r ON r.id = m.room_id"
        " WHERE m.user_id = ? AND m.room_id = ? AND r.history = 'joined'",
        (user_id, room_id),
    )
    return max(cleared[0] if cleared else 0, joined[0] - 1 if joined else 0)


def reaction_counts(connection: Connection) -> Iterator[Difference]:
    """Compares the reactions that messages show with those there are."""
    for room_id, seq, body in pages(
        connection,
        "SELECT e.room_id, e.seq, e.body FROM entries e WHERE e.kind = 'message'"
        " AND (e.body LIKE '%\"reactions\":%' OR EXISTS (SELECT 1 FROM reactions x"
        " WHERE x.room_id = e.room_id AND x.seq = e.seq))",
    ):
        shown: list[dict[str, Any]] = msgspec.json.decode(body).get("reactions", [])
        rows = connection.all(
            "SELECT emoji FROM reactions WHERE room_id = ? AND seq = ?", (room_id, seq)
        )
        there = Counter(emoji for (emoji,) in rows)
        if {one["emoji"]: one["count"] for one in shown} != there:
            yield Difference("reactions", room_id, seq, "")

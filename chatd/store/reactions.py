"""Statements about reactions to messages.

The table has who reacted; how many and the first of them stand in the message's body as well, so
that reading a message costs nothing more.
"""

from __future__ import annotations

from typing import Any, Final

from msgspec import Struct

from chatd.errors import Refused
from chatd.model import Room
from chatd.store.connection import Connection
from chatd.store.messages import Change, Message, Unchanged, find, put_body

KINDS: Final = 20  # different emoji on one message
FIRST: Final = 3  # who are named in the message


class Reaction(Struct, frozen=True):
    """Who reacted with what, and when (ms)."""

    emoji: str
    user: str
    at: int


def react(connection: Connection, change: Change, emoji: str, on: bool) -> int:
    """Adds or takes back a user's reaction; how many have reacted so now. Raises as `find` does, of
    `too-large` for one emoji too many, and `Unchanged`."""
    message = find(connection, change.room, change.user.id, change.target)
    known = [one["emoji"] for one in message.body.get("reactions", ())]
    if on and emoji not in known and len(known) >= KINDS:
        raise Refused("too-large", "A message takes {most} different emoji.", most=KINDS)
    if not (_add if on else _remove)(connection, change, emoji):
        raise Unchanged
    return _note(connection, change, message, emoji, on)


def _add(connection: Connection, change: Change, emoji: str) -> int:
    return connection.run(
        "INSERT IGNORE INTO reactions (room_id, seq, emoji, user_id, at) VALUES (?, ?, ?, ?, ?)",
        (change.room.id, change.target, emoji, change.user.id, change.at),
    )


def _remove(connection: Connection, change: Change, emoji: str) -> int:
    return connection.run(
        "DELETE FROM reactions WHERE room_id = ? AND seq = ? AND emoji = ? AND user_id = ?",
        (change.room.id, change.target, emoji, change.user.id),
    )


def _note(connection: Connection, change: Change, message: Message, emoji: str, on: bool) -> int:
    """Counts on from what the message shows: to count the rows would take longer with each."""
    known = {one["emoji"]: one for one in message.body.get("reactions", ())}
    shown = known.get(emoji, {"count": 0, "users": []})
    count = shown["count"] + (1 if on else -1)
    users = [name for name in shown["users"] if name != change.user.name]
    if on and len(users) < FIRST:
        users.append(change.user.name)
    elif len(users) < min(count, FIRST):
        users = _first(connection, change, emoji)
    known[emoji] = {"emoji": emoji, "count": count, "users": users}
    body: dict[str, Any] = {k: v for k, v in message.body.items() if k != "reactions"}
    left = [one for one in known.values() if one["count"]]
    if left:
        body["reactions"] = left
    put_body(connection, change.room.id, change.target, body)
    return int(count)


def _first(connection: Connection, change: Change, emoji: str) -> list[str]:
    rows = connection.all(
        "SELECT u.name FROM reactions r JOIN users u ON u.id = r.user_id"
        " WHERE r.room_id = ? AND r.seq = ? AND r.emoji = ? ORDER BY r.at, r.user_id LIMIT ?",
        (change.room.id, change.target, emoji, FIRST),
    )
    return [name for (name,) in rows]


def reactions(
    connection: Connection, room: Room, user_id: int, seq: int, after: tuple[str, str], limit: int
) -> list[Reaction]:
    """Who reacted to a message, by emoji and name, beginning behind (emoji, name). Raises as
    `find` does."""
    find(connection, room, user_id, seq)
    emoji, name = after
    rows = connection.all(
        "SELECT r.emoji, u.name, r.at FROM reactions r JOIN users u ON u.id = r.user_id"
        " WHERE r.room_id = ? AND r.seq = ? AND (r.emoji > ? OR (r.emoji = ? AND u.name > ?))"
        " ORDER BY r.emoji, u.name LIMIT ?",
        (room.id, seq, emoji, emoji, name, limit),
    )
    return [Reaction(*row) for row in rows]

"""Statements about what users are to each other: friends, blocked."""

from __future__ import annotations

from chatd.errors import Refused
from chatd.model import Party
from chatd.store.connection import Connection


def check_open(connection: Connection, user_id: int, other: Party) -> None:
    """Raises `Refused` of `blocked` unless the other one takes messages from the user."""
    row = connection.one(
        "SELECT u.writers, mine.blocked, theirs.blocked, theirs.state FROM users u"
        " LEFT JOIN contacts mine ON mine.user_id = ? AND mine.other_id = u.id"
        " LEFT JOIN contacts theirs ON theirs.user_id = u.id AND theirs.other_id = ?"
        " WHERE u.id = ?",
        (user_id, user_id, other.id),
    )
    if row is None:
        return
    writers, blocking, blocked, state = row
    if blocking:
        raise Refused("blocked", "You have blocked @{name}.", name=other.name)
    if blocked or (writers == "friends" and state != "friend"):
        raise Refused("blocked", "@{name} takes no messages from you.", name=other.name)

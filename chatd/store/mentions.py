"""Statements about who is mentioned in a group's messages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from chatd.errors import Refused
from chatd.model import Party, Room
from chatd.store.connection import Connection, marks
from chatd.store.rooms import authorise

EVERYBODY = 0  # in the place of a user's id


def named(connection: Connection, room: Room, keys: Sequence[str]) -> dict[str, Party]:
    """The members of a group by their folded names, of those that are asked for."""
    rows = connection.all(
        "SELECT u.name_key, u.id, u.name FROM users u"
        " JOIN members m ON m.user_id = u.id AND m.room_id = ?"
        f" WHERE u.name_key IN ({marks(keys)})",
        (room.id, *keys),
    )
    return {key: Party(user_id, name) for key, user_id, name in rows}


def mention(connection: Connection, room_id: int, seq: int, user_ids: Iterable[int]) -> None:
    """Notes whom the message `seq` mentions."""
    connection.many(
        "INSERT INTO mentions (room_id, user_id, seq) VALUES (?, ?, ?)",
        [(room_id, user_id, seq) for user_id in user_ids],
    )


def call_all(
    connection: Connection, room_id: int, user_id: int, seq: int, at: int, pause: int
) -> None:
    """Notes that the message `seq` mentions everybody. Raises `Refused` of `rate-limited` where
    that was done in the last `pause` ms, and as `authorise` does."""
    authorise(connection, room_id, user_id, "call all")
    ((called,),) = connection.all("SELECT called_at FROM rooms WHERE id = ?", (room_id,))
    if called and at < called + pause:
        wait = (called + pause - at) / 1000
        raise Refused(
            "rate-limited", "@all was called just now. Wait {wait:.0f} s.", wait, wait=wait
        )
    connection.run("UPDATE rooms SET called_at = ? WHERE id = ?", (at, room_id))
    mention(connection, room_id, seq, (EVERYBODY,))

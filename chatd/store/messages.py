"""Statements about single messages: found, replied to, edited, recalled, copied, hidden.

All but the reading ones belong into the transaction that stores the entry which tells of them,
under the lock of the room's row.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import Struct

from chatd import payloads
from chatd.errors import Refused
from chatd.model import Party, Room
from chatd.rights import may
from chatd.store.connection import Connection
from chatd.store.postings import reindex, unindex
from chatd.store.rooms import authorise
from chatd.store.shown import ERASED, present, quote
from chatd.store.visible import FLOOR

VERSIONS: Final = 20  # earlier ones that are kept of a message

_COPIED = ("text", "kind", "data")
_ERASED_BODY = '{"text":"","recalled":true}'


class Unchanged(Refused):
    """What is asked for is so already: there is nothing to tell anybody."""

    def __init__(self) -> None:
        super().__init__("conflict", "It is so already.")


class Message(Struct, frozen=True):
    """A message as it stands in its room's log; `at` in ms."""

    seq: int
    sender: Party
    at: int
    body: dict[str, Any]


class Version(Struct, frozen=True, omit_defaults=True):
    """What a message said from a time (ms) on."""

    at: int
    text: str
    data: dict[str, Any] | None = None


class Change(Struct, frozen=True):
    """What a user does to the message `target`, at a time; of one's own only what was sent after
    `since` (both in ms) can be changed."""

    room: Room
    user: Party
    target: int
    at: int
    since: int = 0


def find(connection: Connection, room: Room, user_id: int, seq: int) -> Message:
    """A message that the user may read. Raises `Refused` of `not-found`, of `conflict` for one
    that was recalled, and as `authorise` does."""
    kind, message = _find(connection, room, user_id, seq)
    if kind == ERASED:
        raise Refused("conflict", "The message was recalled.")
    return message


def _find(connection: Connection, room: Room, user_id: int, seq: int) -> tuple[str, Message]:
    if room.kind == "group":
        authorise(connection, room.id, user_id, "write")
    row = connection.one(_FIND, (seq, user_id, user_id, room.id, seq))
    if row is None:
        raise Refused("not-found", "There is no message {seq} here.", seq=seq)
    kind, sender_id, name, at, body = row
    return kind, Message(seq, Party(sender_id, name or ""), at, msgspec.json.decode(body))


_FIND = (
    "SELECT e.kind, e.sender_id, u.name, e.at, e.body FROM rooms r"
    f" JOIN entries e ON e.room_id = r.id AND e.seq = ? AND e.kind IN ('message', '{ERASED}')"
    " LEFT JOIN users u ON u.id = e.sender_id"
    " LEFT JOIN cursors c ON c.user_id = ? AND c.room_id = r.id"
    " LEFT JOIN members m ON m.user_id = ? AND m.room_id = r.id"
    f" WHERE r.id = ? AND {FLOOR} < ?"
)


def quoted(connection: Connection, room: Room, user_id: int, seq: int) -> dict[str, Any]:
    """What a reply to a message shows of it. Raises as `find` does."""
    message = find(connection, room, user_id, seq)
    return quote(seq, message.sender.name, message.body)


def copied(
    connection: Connection, room: Room, user_id: int, seq: int, lock: bool = False
) -> dict[str, Any]:
    """The body of a message that says the same in another room; with `lock` nobody changes the
    message before the transaction ends. Raises as `find` does."""
    if lock:
        connection.all(
            "SELECT seq FROM entries WHERE room_id = ? AND seq = ?" + connection.dialect.locking,
            (room.id, seq),
        )
    message = find(connection, room, user_id, seq)
    kept = {name: value for name, value in message.body.items() if name in _COPIED}
    origin = message.body.get("forwarded") or {"from": message.sender.name}
    return {**kept, "forwarded": origin}


def edit(
    connection: Connection, change: Change, text: str, data: dict[str, Any] | None
) -> dict[str, Any]:
    """Gives a message another text, and other data unless that is None; what it says now. Raises
    as `find` does, of `forbidden` for another's message or too late, of `too-large` where no more
    versions can be kept, and `Unchanged`."""
    message = find(connection, change.room, change.user.id, change.target)
    if message.sender.id != change.user.id:
        raise Refused("forbidden", "Only the sender of a message can edit it.")
    _check_time(message, change)
    old = message.body
    new = {**old, "text": text, "edited": change.at}
    if data is not None:
        new["data"] = data
    if present(new) == present(old):
        raise Unchanged
    if data is not None:
        payloads.check(old.get("kind", "text"), data)
    _keep_version(connection, change, Version(old.get("edited", message.at), **present(old)))
    put_body(connection, change.room.id, change.target, new)
    reindex(connection, change.room.id, change.target, old, new)
    return present(new)


def _check_time(message: Message, change: Change) -> None:
    if message.at <= change.since:
        raise Refused("forbidden", "It is too late: the message is too old.")


def _keep_version(connection: Connection, change: Change, version: Version) -> None:
    place = (change.room.id, change.target)
    rows = connection.all("SELECT MAX(version) FROM versions WHERE room_id = ? AND seq = ?", place)
    number = (rows[0][0] or 0) + 1
    if number > VERSIONS:
        raise Refused("too-large", "A message can be edited {most} times.", most=VERSIONS)
    body = msgspec.json.encode(version).decode()
    connection.run(
        "INSERT INTO versions (room_id, seq, version, at, body) VALUES (?, ?, ?, ?, ?)",
        (*place, number, version.at, body),
    )


def versions(connection: Connection, room: Room, user_id: int, seq: int) -> list[Version]:
    """What a message said, earliest first; the last is what it says now. Raises as `find` does."""
    message = find(connection, room, user_id, seq)
    rows = connection.all(
        "SELECT body FROM versions WHERE room_id = ? AND seq = ? ORDER BY version", (room.id, seq)
    )
    earlier = [msgspec.json.decode(body, type=Version) for (body,) in rows]
    return [*earlier, Version(message.body.get("edited", message.at), **present(message.body))]


def recall(connection: Connection, change: Change) -> None:
    """Takes a message away from everybody: its text is gone from the database. Raises as `find`
    does, and of `forbidden` for who may not, or too late."""
    room = change.room
    message = find(connection, room, change.user.id, change.target)
    if message.sender.id == change.user.id:
        if room.kind != "group" or not _is_admin(connection, change):
            _check_time(message, change)
    elif room.kind == "group":
        authorise(connection, room.id, change.user.id, "recall", message.sender.id)
    else:
        raise Refused("forbidden", "Only the sender of a message can recall it.")
    place = (room.id, change.target)
    connection.run(
        f"UPDATE entries SET kind = '{ERASED}', body = ? WHERE room_id = ? AND seq = ?",
        (_ERASED_BODY, *place),
    )
    for table in ("versions", "mentions", "reactions", "pins"):
        connection.run(f"DELETE FROM {table} WHERE room_id = ? AND seq = ?", place)
    unindex(connection, room.id, change.target, message.body)


def _is_admin(connection: Connection, change: Change) -> bool:
    role = authorise(connection, change.room.id, change.user.id, "write")
    return may(role, "recall")


def put_body(connection: Connection, room_id: int, seq: int, body: dict[str, Any]) -> None:
    """Gives an entry another body."""
    connection.run(
        "UPDATE entries SET body = ? WHERE room_id = ? AND seq = ?",
        (msgspec.json.encode(body).decode(), room_id, seq),
    )


def seen(connection: Connection, room: Room, user_id: int, seq: int) -> None:
    """Raises as `find` does, though not for a message that was recalled."""
    _find(connection, room, user_id, seq)


def hide(connection: Connection, room: Room, user_id: int, seq: int) -> None:
    """Takes a message out of the user's own view. Raises as `seen` does, and `Unchanged`."""
    seen(connection, room, user_id, seq)
    if not connection.run(
        "INSERT IGNORE INTO hidden (user_id, room_id, seq) VALUES (?, ?, ?)",
        (user_id, room.id, seq),
    ):
        raise Unchanged

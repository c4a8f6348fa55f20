"""The index of what was said: which tokens a message has, kept level with the rooms' logs.

`indexed` says up to which seq a room's messages have their postings. Whoever changes postings
holds the lock of the room's row, so that indexing, edits and recalls come one after another.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from chatd.store.connection import Connection, Row, marks
from chatd.store.log import END_OF_ROOM
from chatd.words import has_link, tokens

_ENTRIES = 100  # of a room that are read at once
TOKENS = 1500  # after which no further message is begun, at most
_CHARS = 10_000  # likewise: some 10 ms to cut most texts, and few words may come of it
_AT_ONCE = 500  # tokens in one statement

_ADD = "INSERT INTO postings (token, room_id, at, seq) VALUES (?, ?, ?, ?)"


def index(connection: Connection, room_ids: Sequence[int], most: int = TOKENS) -> list[int]:
    """Indexes what is new in some rooms, in one transaction, and begins no message after `most`
    tokens; those of the rooms that are, or may be, behind still."""
    rooms = sorted(room_ids)
    rows: list[Row] = []
    ends: list[Row] = []
    left: list[int] = []
    spare = _CHARS
    with connection.transaction():
        connection.all(
            f"SELECT id FROM rooms WHERE id IN ({marks(rooms)}) ORDER BY id"
            + connection.dialect.locking,
            rooms,
        )
        begun = _indexed(connection, rooms)
        for room_id in rooms:
            end, level, spare = _index(
                connection, room_id, begun.get(room_id, 0), rows, most, spare
            )
            ends.append((room_id, end))
            if not level:
                left.append(room_id)
        connection.many(_ADD, sorted(rows))
        connection.many(_MOVE, ends)
    return left


_MOVE = "INSERT INTO indexed (room_id, seq) VALUES (?, ?) ON DUPLICATE KEY UPDATE seq = VALUES(seq)"


def _indexed(connection: Connection, room_ids: Sequence[int]) -> dict[int, int]:
    found = connection.all(
        f"SELECT room_id, seq FROM indexed WHERE room_id IN ({marks(room_ids)})", room_ids
    )
    return dict(found)


def _index(
    connection: Connection, room_id: int, seq: int, rows: list[Row], most: int, spare: int
) -> tuple[int, bool, int]:
    """Adds the postings behind `seq` to `rows`, for `spare` characters and what the last message
    has more; up to which seq, whether that is the end, and how many are left to spare."""
    if spare <= 0 or len(rows) >= most:
        return seq, False, spare
    found = connection.all(
        "SELECT seq, sender_id, at, kind, body FROM entries WHERE room_id = ? AND seq > ?"
        " ORDER BY seq LIMIT ?",
        (room_id, seq, _ENTRIES),
    )
    for here, sender_id, at, kind, body in found:
        if spare <= 0 or len(rows) >= most:
            return seq, False, spare
        spare -= len(body)
        if kind == "message":
            told = _told(sender_id, msgspec.json.decode(body))
            rows += [(token, room_id, at, here) for token in told]
        seq = here
    return seq, len(found) < _ENTRIES, spare


def reindex(
    connection: Connection,
    room_id: int,
    seq: int,
    old: Mapping[str, Any],
    new: Mapping[str, Any],
) -> None:
    """A message's body has changed from `old` to `new`. To be called under the lock of the
    room's row; a message that is not yet indexed will be with its new body."""
    place = _place(connection, room_id, seq)
    if place is None:
        return
    sender_id, at = place
    before, after = _told(sender_id, old), _told(sender_id, new)
    _remove(connection, (room_id, at, seq), sorted(before - after))
    connection.many(_ADD, [(token, room_id, at, seq) for token in sorted(after - before)])


def unindex(connection: Connection, room_id: int, seq: int, old: Mapping[str, Any]) -> None:
    """A message with the body `old` is no more. To be called under the lock of the room's row,
    with the entry's kind changed, so that it is not indexed later."""
    place = _place(connection, room_id, seq)
    if place is not None:
        sender_id, at = place
        _remove(connection, (room_id, at, seq), sorted(_told(sender_id, old)))


def _place(connection: Connection, room_id: int, seq: int) -> Row | None:
    """(sender_id, at) of an entry that is indexed."""
    return connection.one(
        "SELECT e.sender_id, e.at FROM entries e JOIN indexed i ON i.room_id = e.room_id"
        " WHERE e.room_id = ? AND e.seq = ? AND i.seq >= e.seq",
        (room_id, seq),
    )


def _remove(connection: Connection, place: Row, old: Sequence[bytes]) -> None:
    room_id, at, seq = place
    for start in range(0, len(old), _AT_ONCE):
        part = old[start : start + _AT_ONCE]
        connection.run(
            f"DELETE FROM postings WHERE room_id = ? AND token IN ({marks(part)})"
            " AND at = ? AND seq = ?",
            (room_id, *part, at, seq),
        )


def behind(connection: Connection, after: int, limit: int) -> tuple[list[int], int | None]:
    """Of the next `limit` rooms by id those whose log goes beyond the index; and the last id
    that was looked at, None when there is none."""
    rows = connection.all(
        f"SELECT r.id, COALESCE(i.seq, 0), {END_OF_ROOM} FROM rooms r"
        " LEFT JOIN indexed i ON i.room_id = r.id WHERE r.id > ? ORDER BY r.id LIMIT ?",
        (after, limit),
    )
    return [room_id for room_id, seq, end in rows if seq < (end or 0)], (
        rows[-1][0] if rows else None
    )


def by(sender_id: int) -> bytes:
    """The token of all that a user said."""
    return b"\0by%d" % sender_id


def has(kind: str) -> bytes:
    """The token of messages of a kind, or with a link."""
    return b"\0has" + kind.encode()


def _told(sender_id: int, body: Mapping[str, Any]) -> set[bytes]:
    """All tokens of a message. Those that are no words begin with NUL, which is in none."""
    text = body.get("text", "")
    return {by(sender_id), *_marks(text, body.get("kind")), *tokens(text)}


def _marks(text: str, kind: str | None) -> Iterable[bytes]:
    if kind is not None:
        yield has(kind)
    if has_link(text):
        yield has("link")

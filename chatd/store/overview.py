"""The list of a user's rooms: what is unread in each, what the user wishes, the last entry."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice

from msgspec import Struct
from msgspec.structs import replace

from chatd.model import Entry
from chatd.store.connection import Connection, Row
from chatd.store.log import END_OF_ROOM, read_each
from chatd.store.places import Notify
from chatd.store.rooms import Progress, progress_of
from chatd.store.visible import FLOOR, UNHIDDEN

UNREAD_SEEN = 1000  # unread messages are counted among a room's last 1000 entries

_ROOMS_AT_ONCE = 200  # asked about in one statement; SQLite compounds 500


class Overview(Struct, frozen=True):
    """A room in the list; `floor` is the last seq that the user may not see, `last_seq` and
    `last_at` (ms) are of the last entry that the user may, 0 if there is none, `hidden_seq` is of
    the last that the user has hidden."""

    progress: Progress
    floor: int
    last_seq: int
    last_at: int
    marked: bool
    pinned_at: int
    notify: Notify
    archived: bool
    archived_seq: int
    hidden_seq: int
    unread: int = 0
    mentions: int = 0
    last: Entry | None = None

    @property
    def place(self) -> tuple[int, int, int]:
        """Where it stands in the list, the greatest first: pinned rooms, then by the last entry."""
        return (self.pinned_at, self.last_at, self.progress.room.id)


class Totals(Struct, frozen=True):
    """What is unread in all: `unread` messages in the rooms that notify of all, `mentions` in
    those that notify of any, in so many `rooms`, marked ones too; `muted` are the unread messages
    elsewhere: in archived rooms and those that notify of mentions or nothing."""

    unread: int
    mentions: int
    rooms: int
    muted: int


_ROOM = (
    "SELECT r.id, r.kind, r.name, r.title, r.low_id, lo.name, r.high_id, hi.name,"
    f" {END_OF_ROOM}, c.delivered_seq, c.read_seq, {FLOOR},"
    " (SELECT e.at FROM entries e WHERE e.room_id = r.id ORDER BY e.seq DESC LIMIT 1),"
    " (SELECT h.seq FROM hidden h WHERE h.user_id = ? AND h.room_id = r.id"
    " ORDER BY h.seq DESC LIMIT 1),"
    " c.marked, c.pinned_at, c.notify, c.archived, c.archived_seq FROM {source}"
    " LEFT JOIN users lo ON lo.id = r.low_id LEFT JOIN users hi ON hi.id = r.high_id"
    " LEFT JOIN cursors c ON c.user_id = ? AND c.room_id = r.id"
    " LEFT JOIN members m ON m.user_id = ? AND m.room_id = r.id WHERE {mine}"
)
_MINE = (
    _ROOM.format(
        source="members mine JOIN rooms r ON r.id = mine.room_id",
        mine="mine.user_id = ? AND r.dissolved_at IS NULL",
    ),
    _ROOM.format(source="rooms r", mine="r.low_id = ?"),
    _ROOM.format(source="rooms r", mine="r.high_id = ? AND r.low_id <> r.high_id"),
)
_UNREAD = (
    "SELECT e.room_id, COUNT(*) FROM entries e"
    " WHERE e.kind = 'message' AND e.sender_id <> ? AND ({}) GROUP BY e.room_id"
)
_HIDDEN = (
    "SELECT h.room_id, COUNT(*) FROM hidden h"
    " JOIN entries e ON e.room_id = h.room_id AND e.seq = h.seq"
    " WHERE e.kind = 'message' AND e.sender_id <> ? AND h.user_id = ? AND ({}) GROUP BY h.room_id"
)
_MENTIONS = (
    "SELECT n.room_id, COUNT(DISTINCT n.seq) FROM mentions n"
    " JOIN entries e ON e.room_id = n.room_id AND e.seq = n.seq"
    f" WHERE e.kind = 'message' AND e.sender_id <> ? AND {UNHIDDEN} AND ({{}}) GROUP BY n.room_id"
)
_NEWS = (
    "SELECT ?, EXISTS (SELECT 1 FROM entries e"
    " WHERE e.room_id = ? AND e.seq > ? AND e.kind = 'message' AND e.sender_id <> ?)"
)
_SHOWN = (
    "SELECT * FROM (SELECT e.room_id, e.seq, e.at FROM entries e"
    f" WHERE e.room_id = ? AND e.seq > ? AND {UNHIDDEN} ORDER BY e.seq DESC LIMIT 1) shown"
)


def overview(
    connection: Connection,
    user_id: int,
    since: int = 0,
    after: tuple[int, int, int] | None = None,
    limit: int = 1000,
) -> list[Overview]:
    """The first rooms, behind the place `after`, of those that a user has and whose last entry is
    not older than `since` (ms)."""
    rooms = sorted(_rooms(connection, user_id), key=lambda room: room.place, reverse=True)
    wanted = (r for r in rooms if r.last_at >= since and (after is None or r.place < after))
    page = list(islice(wanted, limit))
    counted = _counted(connection, user_id, _returned(connection, user_id, page))
    return _with_last(connection, counted)


def totals(connection: Connection, user_id: int) -> Totals:
    """What is unread in all of a user's rooms."""
    rooms = counted(connection, user_id)
    open_rooms = [room for room in rooms if not room.archived and room.notify != "none"]
    loud = [room for room in open_rooms if room.notify == "all"]
    unread = sum(room.unread for room in loud)
    return Totals(
        unread,
        sum(room.mentions for room in open_rooms),
        sum(_calls(room) for room in open_rooms),
        sum(room.unread for room in rooms) - unread,
    )


def counted(connection: Connection, user_id: int) -> list[Overview]:
    """All of a user's rooms with what is unread there, in any order."""
    return _counted(
        connection, user_id, _returned(connection, user_id, _rooms(connection, user_id))
    )


def _calls(room: Overview) -> bool:
    return room.marked or bool(room.mentions or (room.unread and room.notify == "all"))


def _rooms(connection: Connection, user_id: int) -> list[Overview]:
    rows = [row for sql in _MINE for row in connection.all(sql, (user_id,) * 4)]
    rooms = [_overview(row) for row in rows]
    hidden = [room for room in rooms if room.last_seq < 0]
    shown = {
        row[0]: row[1:]
        for row in _each(connection, _SHOWN, hidden, lambda r: (_id(r), r.floor, user_id))
    }
    return [
        room if room.last_seq >= 0 else _with_end(room, *shown.get(room.progress.room.id, (0, 0)))
        for room in rooms
    ]


def _overview(row: Row) -> Overview:
    here = progress_of(row[:11])
    floor, at, hidden, marked, pinned_at, notify, archived, archived_seq = row[11:]
    last_seq = -1 if hidden is not None and hidden == here.end else here.end
    if here.end <= floor:
        last_seq = at = 0
    return Overview(
        here,
        floor,
        last_seq,
        at or 0,
        bool(marked),
        pinned_at or 0,
        notify or "all",
        bool(archived),
        archived_seq or 0,
        hidden or 0,
    )


def _with_end(room: Overview, seq: int, at: int) -> Overview:
    return replace(room, last_seq=seq, last_at=at)


def _returned(connection: Connection, user_id: int, rooms: Sequence[Overview]) -> list[Overview]:
    """The rooms, those no more archived that somebody else has said something in since."""
    put_away = [
        room
        for room in rooms
        if room.archived and room.notify != "none" and room.progress.end > room.archived_seq
    ]
    found = _each(connection, _NEWS, put_away, lambda r: (_id(r), _id(r), r.archived_seq, user_id))
    back = {room_id for room_id, news in found if news}
    return [replace(room, archived=False) if _id(room) in back else room for room in rooms]


def _counted(connection: Connection, user_id: int, rooms: Sequence[Overview]) -> list[Overview]:
    behind = [room for room in rooms if room.progress.end > _seen(room)]
    hiding = [room for room in behind if room.hidden_seq > _start(room)]
    unread = _counts(
        connection, _UNREAD, (user_id,), behind, "(e.room_id = ? AND e.seq > ?)", _start
    )
    hidden = _counts(
        *(connection, _HIDDEN, (user_id, user_id), hiding),
        *("(h.room_id = ? AND h.seq > ?)", _start),
    )
    mentions = _counts(
        *(connection, _MENTIONS, (user_id, user_id), behind),
        *(f"(n.room_id = ? AND n.user_id IN (0, {int(user_id)}) AND n.seq > ?)", _seen),
    )
    return [
        replace(
            room,
            unread=unread.get(_id(room), 0) - hidden.get(_id(room), 0),
            mentions=mentions.get(_id(room), 0),
        )
        for room in rooms
    ]


def _counts(
    connection: Connection,
    sql: str,
    values: Row,
    rooms: Sequence[Overview],
    condition: str,
    after: Callable[[Overview], int],
) -> dict[int, int]:
    """What a query counts, by room id, behind a seq of each room."""
    found: dict[int, int] = {}
    for part in _portions(rooms):
        places = chain.from_iterable((_id(room), after(room)) for room in part)
        text = sql.format(" OR ".join([condition] * len(part)))
        found.update(dict(connection.all(text, (*values, *places))))
    return found


def _start(room: Overview) -> int:
    return max(_seen(room), room.progress.end - UNREAD_SEEN)


def _seen(room: Overview) -> int:
    return max(room.progress.read, room.floor)


def _with_last(connection: Connection, rooms: Sequence[Overview]) -> list[Overview]:
    places = [(room.progress.room, room.last_seq) for room in rooms if room.last_seq]
    found = {entry.room_id: entry for entry in read_each(connection, places)}
    return [replace(room, last=found.get(_id(room))) for room in rooms]


def _id(room: Overview) -> int:
    return room.progress.room.id


def _each(
    connection: Connection,
    sql: str,
    rooms: Sequence[Overview],
    parameters: Callable[[Overview], Row],
) -> Iterator[Row]:
    """What a query gives for each room, asked for many rooms at once."""
    for part in _portions(rooms):
        values = list(chain.from_iterable(map(parameters, part)))
        yield from connection.all(" UNION ALL ".join([sql] * len(part)), values)


def _portions(rooms: Sequence[Overview]) -> Iterator[Sequence[Overview]]:
    for start in range(0, len(rooms), _ROOMS_AT_ONCE):
        yield rooms[start : start + _ROOMS_AT_ONCE]

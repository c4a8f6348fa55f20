"""Finds messages by their words in all that a user may read, newest first.

A room has a range of postings for each token. Of every room the newest posting of each token
tells how new a hit can be at most; the rooms that promise the newest are looked through first,
piece by piece, until none of the others can have a newer one. The text itself decides whether a
candidate is a hit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
from msgspec import Struct

from chatd.model import Entry, Party, Room
from chatd.store.connection import Connection, Row
from chatd.store.shown import complete
from chatd.store.visible import FLOOR, UNHIDDEN
from chatd.words import spelled

Key = tuple[int, int, int]  # at, room's id, seq: hits are told in the falling order of their keys

FIRST: Key = (2**62, 0, 0)

_EFFORT = 4500  # rows that one request may look at; some 20 ms
_TEXT = 30  # what looking at a text costs, in rows
_CHARS = 60_000  # characters of texts that one request may look at, and those of the last one
_BRANCH = 30  # what each part of a statement costs, in rows
_ROOMS = 16  # looked through at once
_PIECE = (16, 4096)  # postings of a room that are looked through at once: at first, and at most
_ALL = 2**62  # beyond every seq and every time
_SKEW = 3_600_000  # ms by which what was said later may be stamped earlier


class Query(Struct, frozen=True):
    """What `user_id` looks for: texts with all `phrases`, spelled as `words.spelled` does; by
    `tokens` that all of them have; from `after` on (ms), behind `start` in the order of the
    keys; in one room, or in all (None)."""

    user_id: int
    phrases: Sequence[str]
    tokens: Sequence[bytes]
    after: int = 0
    start: Key = FIRST
    room_id: int | None = None


class Found(Struct, frozen=True):
    """A page of hits, newest first. `rest`: where to go on, None at the end; the page may be
    short, or empty, all the same."""

    entries: list[Entry]
    rest: Key | None


def search(connection: Connection, query: Query, limit: int) -> Found:
    """The first `limit` hits, or those that could be found in reasonable time."""
    return _Search(connection, query).page(limit)


class _Place:
    """How far a room was looked through: what is left is below (`at`, `seq`)."""

    __slots__ = ("at", "floor", "id", "lowest", "piece", "seq")

    def __init__(self, room_id: int, floor: int, lowest: int, start: Key, head: int) -> None:
        self.id = room_id
        self.floor = floor  # the last seq that the user may not see
        self.lowest = lowest  # ms, nothing earlier is a hit
        at, last, seq = start
        self.at, self.seq = at, seq if room_id == last else _ALL if room_id < last else 0
        if head < at:
            self.at, self.seq = head, _ALL
        self.piece = _PIECE[0]

    @property
    def key(self) -> Key:
        """Hits that are left have smaller keys."""
        return (self.at, self.id, self.seq)


class _Search:
    """One request's search."""

    def __init__(self, connection: Connection, query: Query) -> None:
        self._connection = connection
        self._query = query
        self._effort = 0
        self._chars = 0
        self._candidates: list[Key] = []
        self._places: list[_Place] = []

    def page(self, limit: int) -> Found:
        self._places = self._begin()
        hits: list[Key] = []
        while True:
            edge = max((place.key for place in self._places), default=None)
            for part in self._ready(edge, limit + 1):
                found, last = self._look(part)
                hits += found
                if len(hits) > limit:
                    return Found(self._entries(hits[:limit]), hits[limit - 1])
                if self._spent():
                    return Found(self._entries(hits), last)
            if edge is None or self._spent():
                return Found(self._entries(hits), edge)
            self._step()

    def _spent(self) -> bool:
        return self._effort >= _EFFORT or self._chars >= _CHARS

    def _begin(self) -> list[_Place]:
        """The rooms that have all tokens."""
        query = self._query
        heads = ", ".join(_HEAD.format(n=n) for n in range(len(query.tokens)))
        have = " AND ".join(f"x.h{n} IS NOT NULL" for n in range(len(query.tokens)))
        params = [value for t in query.tokens for value in (t, query.start[0], query.after)]
        only = () if query.room_id is None else (query.room_id,)
        found = []
        for source in _SOURCES:
            rows = self._connection.all(
                f"SELECT x.*, {_OPENED} FROM (SELECT r.id, {FLOOR} AS floor, {heads}"
                f" FROM {source}{' AND r.id = ?' if only else ''} LIMIT ?) x WHERE {have}",
                (*params, query.user_id, *only, _ALL),  # else heads would be looked up twice
            )
            found += [self._place(row) for row in rows]
        return [place for place in found if place.at >= place.lowest]

    def _place(self, row: Row) -> _Place:
        room_id, floor, *heads, opened = row
        lowest = max(self._query.after, (opened or 0) - _SKEW)
        return _Place(room_id, floor, lowest, self._query.start, min(heads))

    def _ready(self, edge: Key | None, size: int) -> Iterable[list[Key]]:
        """The candidates that no other room can have newer ones than, part by part."""
        self._candidates.sort(reverse=True)
        while self._candidates and (edge is None or self._candidates[0] >= edge):
            part = [key for key in self._candidates[:size] if edge is None or key >= edge]
            del self._candidates[: len(part)]
            yield part

    def _step(self) -> None:
        """Looks through the next piece of the rooms that promise the newest hits."""
        self._places.sort(key=lambda place: place.key, reverse=True)
        here = self._places[:_ROOMS]
        if len(self._query.tokens) == 1:
            scans = [(place, place.lowest, self._query.tokens) for place in here]
        else:
            scans = self._rarest(here)
        params = [value for place, low, tokens in scans for value in _scan(place, low, tokens)]
        branch = _SCAN.format(others=_OTHER * (len(self._query.tokens) - 1))
        rows = self._connection.all(" UNION ALL ".join([branch] * len(scans)), params)
        self._candidates += [(at, room_id, seq) for room_id, at, seq in rows]
        self._effort += len(rows) + _BRANCH * len(here)
        for place, low, _ in scans:
            _advance(place, low, [(at, seq) for room_id, at, seq in rows if room_id == place.id])
        self._places = [place for place in self._places if place.at >= place.lowest]

    def _rarest(self, places: list[_Place]) -> list[tuple[_Place, int, Sequence[bytes]]]:
        """For each room, the token of which a piece goes the farthest back, first of all tokens;
        and where (ms) that piece ends."""
        tokens = self._query.tokens
        row = self._connection.one(
            "SELECT " + ", ".join([_END_OF_PIECE] * len(places) * len(tokens)),
            [v for p in places for t in tokens for v in (p.id, t, p.at, p.lowest, p.piece)],
        )
        assert row is not None
        scans: list[tuple[_Place, int, Sequence[bytes]]] = []
        for number, place in enumerate(places):
            ends = row[number * len(tokens) : (number + 1) * len(tokens)]
            low, first = min(
                (place.lowest if end is None else end, n) for n, end in enumerate(ends)
            )
            self._effort += (place.piece + _BRANCH) * len(tokens)
            rest = [token for n, token in enumerate(tokens) if n != first]
            scans.append((place, low, [tokens[first], *rest]))
        return scans

    def _look(self, keys: Sequence[Key]) -> tuple[list[Key], Key]:
        """Those of the candidates that are hits, newest first, and the last one looked at."""
        self._effort += _TEXT * len(keys)
        rows = self._read("e.at, e.room_id, e.seq, e.body FROM entries e", keys)
        hits = []
        for *place, body in sorted(rows, reverse=True):
            key = (place[0], place[1], place[2])
            if self._fits(body):
                hits.append(key)
            if self._chars >= _CHARS:
                return hits, key
        return hits, keys[-1]

    def _fits(self, body: str) -> bool:
        text = spelled(msgspec.json.decode(body).get("text", ""))
        self._chars += len(text)
        return all(phrase in text for phrase in self._query.phrases)

    def _entries(self, keys: Sequence[Key]) -> list[Entry]:
        entries = [_entry(row) for row in self._read(_ENTRY, keys)] if keys else []
        return sorted(complete(self._connection, entries), key=_key, reverse=True)

    def _read(self, what: str, keys: Sequence[Key]) -> list[Row]:
        """Of entries `e`, if the user may read them still."""
        places = " OR ".join("(e.room_id = ? AND e.seq = ?)" for _ in keys)
        return self._connection.all(
            f"SELECT {what} WHERE e.kind = 'message' AND {UNHIDDEN} AND ({places})",
            [self._query.user_id, *(value for _, *place in keys for value in place)],
        )


def _scan(place: _Place, low: int, tokens: Sequence[bytes]) -> Iterable[int | bytes]:
    first, *others = tokens
    return (
        *(place.id, first, low, place.at, place.at, place.seq, place.floor),
        *others,
        place.piece,
    )


def _advance(place: _Place, low: int, found: Sequence[tuple[int, int]]) -> None:
    if len(found) == place.piece:
        place.at, place.seq = found[-1]
    else:
        place.at, place.seq = low, 0
        if low <= place.lowest:
            place.at = place.lowest - 1
    place.piece = min(2 * place.piece, _PIECE[1])


def _key(entry: Entry) -> Key:
    return (entry.at, entry.room_id, entry.seq)


def _entry(row: Row) -> Entry:
    room_id, seq, kind, sender_id, name, at, body, *of_room = row
    room_kind, group, low_id, low, high_id, high = of_room
    room = Room(
        room_id,
        room_kind,
        group or "",
        low=Party(low_id, low or "") if low_id else None,
        high=Party(high_id, high or "") if high_id else None,
    )
    sender = Party(sender_id, name or "")
    to = room.address_from(sender_id)
    return Entry(room_id, seq, kind, to, sender, at, msgspec.json.decode(body))


# The rooms that a user may read.
_SOURCES = (
    "members m JOIN rooms r ON r.id = m.room_id"
    " LEFT JOIN cursors c ON c.user_id = m.user_id AND c.room_id = r.id"
    " WHERE m.user_id = ? AND r.dissolved_at IS NULL",
    *(
        f"rooms r LEFT JOIN cursors c ON c.user_id = r.{side} AND c.room_id = r.id"
        f" LEFT JOIN members m ON m.user_id = r.{side} AND m.room_id = r.id WHERE {which}"
        for side, which in (
            ("low_id", "r.low_id = ?"),
            ("high_id", "r.high_id = ? AND r.low_id <> r.high_id"),
        )
    ),
)
_OPENED = (
    "CASE WHEN x.floor > 0 THEN"
    " (SELECT e.at FROM entries e WHERE e.room_id = x.id AND e.seq = x.floor + 1) END"
)
_HEAD = (
    "(SELECT p.at FROM postings p WHERE p.room_id = r.id AND p.token = ? AND p.at <= ?"
    " AND p.at >= ? ORDER BY p.at DESC LIMIT 1) AS h{n}"
)
_END_OF_PIECE = (
    "(SELECT p.at FROM postings p WHERE p.room_id = ? AND p.token = ? AND p.at <= ?"
    " AND p.at >= ? ORDER BY p.at DESC LIMIT 1 OFFSET ?)"
)
_SCAN = (
    "SELECT * FROM (SELECT p.room_id, p.at, p.seq FROM postings p"
    " WHERE p.room_id = ? AND p.token = ? AND p.at >= ? AND p.at <= ?"
    " AND (p.at < ? OR p.seq < ?) AND p.seq > ?{others}"
    " ORDER BY p.at DESC, p.seq DESC LIMIT ?) x"
)
# As a value, since an EXISTS might be turned into a join that begins at the other token.
_OTHER = (
    " AND (SELECT 1 FROM postings o WHERE o.room_id = p.room_id AND o.token = ?"
    " AND o.at = p.at AND o.seq = p.seq) IS NOT NULL"
)
# With an inner join MariaDB would begin at the rooms and read their whole logs.
_ENTRY = (
    "e.room_id, e.seq, e.kind, e.sender_id, u.name, e.at, e.body,"
    " r.kind, r.name, r.low_id, lo.name, r.high_id, hi.name"
    " FROM entries e LEFT JOIN rooms r ON r.id = e.room_id"
    " LEFT JOIN users u ON u.id = e.sender_id"
    " LEFT JOIN users lo ON lo.id = r.low_id LEFT JOIN users hi ON hi.id = r.high_id"
)

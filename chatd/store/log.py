"""The rooms' logs: entries numbered 1, 2, 3 … without gaps, appended in groups, read in
ranges.

Numbers are taken optimistically from what is known of a room's end and inserted with one
statement; the primary key (room_id, seq) and the unique (sender_id, idempotency_key) are the
arbiters. On a clash the batch locks the rooms' rows, finds repeats, reads the ends, and
inserts.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from typing import Any

import msgspec
from msgspec import Struct
from twisted.internet.defer import Deferred

from chatd.errors import Refused, Unavailable
from chatd.model import Entry, Party, Room
from chatd.session import Session
from chatd.store.batch import Batcher
from chatd.store.connection import Connection, Row, marks
from chatd.store.pool import Pool
from chatd.store.shown import ERASED, complete
from chatd.store.visible import UNHIDDEN

Effect = Callable[[Connection, int], object]
Identity = tuple[int, bytes]  # of an entry: its sender's id and its key

_ENDS_KEPT = 200_000  # rooms whose end is remembered: about 20 MB
_KEYS_AT_ONCE = 100  # SQLite parses an OR chain recursively
_CLASHES = 20  # how often another node may be faster before we give up

_OWN = b"\0"  # how the server's own keys begin, and no client's can

END_OF_ROOM = "(SELECT e.seq FROM entries e WHERE e.room_id = r.id ORDER BY e.seq DESC LIMIT 1)"
"""In a query of rooms `r`: the last seq. MariaDB would read a whole log to find its MAX."""

_INSERT = (
    "INSERT INTO entries (room_id, seq, sender_id, idempotency_key, at, kind, body)"
    " VALUES (?, ?, ?, ?, ?, ?, ?)"
)
_ENTRY = "SELECT e.seq, e.kind, e.sender_id, u.name, e.at, e.body"
_FROM = "FROM entries e LEFT JOIN users u ON u.id = e.sender_id"
_SELECT = f"{_ENTRY} {_FROM} WHERE e.room_id = ?"


class Draft(Struct, frozen=True):
    """An entry on its way into the log.

    `body` is what the event shows, `encoded` what is kept of it. `key` is unique with the sender;
    `at` is in ms; `effect(connection, seq)` changes other tables in the same transaction, may
    add to `body` and may raise `Refused`; `origin` is the session that it came from; `subject`
    whom it is about, where that is not the sender. `companions`, which have neither effects nor
    companions, go into the logs of other rooms in the same transaction. `locks` are the ids of
    further rooms that the effect looks at or changes: nobody else does so meanwhile.
    """

    room: Room
    sender: Party
    kind: str
    body: dict[str, Any]
    encoded: str
    key: bytes
    at: int
    origin: Session | None = None
    effect: Effect | None = None
    subject: Party | None = None
    companions: tuple[Draft, ...] = ()
    locks: tuple[int, ...] = ()

    def entry(self, seq: int) -> Entry:
        """The entry that the draft became."""
        to = self.room.address_from(self.sender.id)
        return Entry(self.room.id, seq, self.kind, to, self.sender, self.at, self.body)


class Stored(Struct, frozen=True, omit_defaults=True):
    """Where the entry stands in its room's log, since when (ms); `duplicate`: it was stored by an
    earlier request with the same key."""

    seq: int
    at: int
    duplicate: bool = False


class Bundle(Struct, frozen=True):
    """What became of a draft with companions: its own place, and theirs."""

    stored: Stored
    companions: list[tuple[Draft, int]]


class Keys:
    """Idempotency keys for entries whose sender gave none.

    They are unique over restarts.
    """

    def __init__(self) -> None:
        self._prefix = _OWN + os.urandom(8)
        self._numbers = count()

    def __call__(self) -> bytes:
        return self._prefix + next(self._numbers).to_bytes(8, "big")


class Log:
    """Appends to the rooms' logs by group commit.

    `publish(pairs)` is called in the reactor's thread with the drafts that were stored now
    (not with repeats), in the order of their numbers within each room; `told()` when those
    who wait for the batch have been told. What was stored although it was refused, since the
    database did not answer in time, is published when that is known.
    """

    def __init__(
        self,
        reactor: Any,
        pool: Pool,
        publish: Callable[[list[tuple[Draft, int]]], None],
        told: Callable[[], None],
    ) -> None:
        self._publish = publish
        self._pending: dict[Identity, list[tuple[Draft, Deferred[Stored]]]] = {}
        self._batcher: Batcher[Draft, Stored | Bundle] = Batcher(
            reactor,
            pool,
            Writer(partial(reactor.callFromThread, publish)).write,
            self._stored,
            told,
            size=_most_bytes,
        )
        self.idle = self._batcher.idle
        self.hurry = self._batcher.hurry
        self.published = self._batcher.published

    def append(self, draft: Draft) -> Deferred[Stored]:
        """Stores the draft; the result fires after the commit. A repeat of a key gets the
        first one's place. Fails with `Refused`, of `conflict` where the key was used for
        another room, `unavailable` where the database does not answer."""
        if draft.key.startswith(_OWN):
            return self._submit(draft)
        identity = _identity(draft)
        followers = self._pending.get(identity)
        if followers is not None:
            done: Deferred[Stored] = Deferred()
            followers.append((draft, done))
            return done
        stored = self._submit(draft)
        self._pending[identity] = []
        return stored.addBoth(self._settle, draft)

    def _submit(self, draft: Draft) -> Deferred[Any]:
        result = self._batcher.submit(draft)
        return result.addCallback(_own_place) if draft.companions else result

    def _settle(self, outcome: Any, draft: Draft) -> Any:
        for follower, done in self._pending.pop(_identity(draft)):
            if not isinstance(outcome, Stored):
                done.errback(outcome)
            elif follower.room.id != draft.room.id:
                done.errback(_key_conflict())
            else:
                done.callback(Stored(outcome.seq, outcome.at, duplicate=True))
        return outcome

    def _stored(self, batch: list[tuple[Draft, Stored | Bundle, bool]]) -> None:
        fresh = []
        for draft, result, late in batch:
            stored = _own_place(result)
            if not stored.duplicate:
                fresh.append((_unheard(draft) if late else draft, stored.seq))
            if isinstance(result, Bundle):
                fresh += result.companions
        self._publish(fresh)


def _own_place(result: Stored | Bundle) -> Stored:
    return result.stored if isinstance(result, Bundle) else result


def _unheard(draft: Draft) -> Draft:
    """The draft, as the session that it came from gets it, too, since it was told nothing of
    its place in the log."""
    return msgspec.structs.replace(draft, origin=None)


def _most_bytes(draft: Draft) -> int:
    size = len(draft.encoded)
    return size if draft.encoded.isascii() else 4 * size


class Writer:
    """Numbers and inserts batches.

    It lives in the pool's threads, where one batch runs at a time, and knows the ends of the
    rooms that it wrote to. A batch that failed is in doubt: its commit may have gone through
    unheard. The next batch looks, before it writes, and `announce(pairs)` gets what was stored
    so, with its seqs, or live sessions would never hear of it.
    """

    def __init__(self, announce: Callable[[list[tuple[Draft, int]]], None]) -> None:
        self._announce = announce
        self._ends: dict[int, int] = {}
        self._doubtful: Sequence[Draft] = ()

    def write(
        self, connection: Connection, drafts: Sequence[Draft]
    ) -> Sequence[Stored | Bundle | Refused]:
        """Stores a batch. Safe to run again after a failure that leaves open whether the
        commit went through."""
        tried = {_identity(draft) for draft in self._doubtful}
        self._settle(connection, drafts)
        self._doubtful = drafts
        # Forgotten first: after a failure it is unknown where these rooms end.
        ends = {room_id: self._ends.pop(room_id, 0) for room_id in _room_ids(drafts)}
        results = _write(connection, drafts, ends, tried)
        self._doubtful = ()
        if len(self._ends) > _ENDS_KEPT:
            self._ends.clear()
        for draft, result in zip(drafts, results, strict=True):
            if isinstance(result, Stored) and not result.duplicate:
                self._ends[draft.room.id] = result.seq
            elif isinstance(result, Bundle):
                self._ends[draft.room.id] = result.stored.seq
                self._ends.update((other.room.id, seq) for other, seq in result.companions)
        return results

    def _settle(self, connection: Connection, drafts: Sequence[Draft]) -> None:
        """Announces what an earlier batch stored unheard; what is tried again now will be
        told with its batch."""
        now = {id(draft) for draft in drafts}
        earlier = _flat([draft for draft in self._doubtful if id(draft) not in now])
        if not earlier:
            return
        found = _repeats(connection, earlier)
        stored = [
            (_unheard(draft), place[1])
            for draft in earlier
            if (place := found.get(_identity(draft))) is not None and place[2] == draft.at
        ]
        if stored:
            self._announce(stored)


def _identity(draft: Draft) -> Identity:
    return (draft.sender.id, draft.key)


def _flat(drafts: Sequence[Draft]) -> list[Draft]:
    """The drafts, each followed by its companions."""
    return [one for draft in drafts for one in (draft, *draft.companions)]


def _room_ids(drafts: Sequence[Draft]) -> set[int]:
    return {draft.room.id for draft in _flat(drafts)}


def _write(
    connection: Connection, drafts: Sequence[Draft], ends: dict[int, int], tried: set[Identity]
) -> Sequence[Stored | Bundle | Refused]:
    if all(draft.effect is None and not draft.companions for draft in drafts):
        try:
            return _insert(connection, drafts, ends)
        except connection.dialect.errors as error:
            if not connection.dialect.duplicate(error):
                raise
    for _ in range(_CLASHES):
        try:
            with connection.transaction():
                return _insert_locked(connection, drafts, tried)
        except connection.dialect.errors as error:
            if not connection.dialect.duplicate(error):
                raise
    raise Unavailable("Too many writers in one room. Try again.")


def _insert(
    connection: Connection, drafts: Sequence[Draft], known: dict[int, int]
) -> Sequence[Stored]:
    ends = known | read_ends(connection, {room_id for room_id, end in known.items() if not end})
    stored = []
    for draft in drafts:
        ends[draft.room.id] = seq = ends[draft.room.id] + 1
        stored.append(Stored(seq, draft.at))
    connection.insert_all(_INSERT, [_row(d, s.seq) for d, s in zip(drafts, stored, strict=True)])
    return stored


def _insert_locked(
    connection: Connection, drafts: Sequence[Draft], tried: set[Identity]
) -> Sequence[Stored | Bundle | Refused]:
    room_ids = _room_ids(drafts)
    locked = sorted(room_ids.union(*(draft.locks for draft in drafts)))
    connection.all(
        f"SELECT id FROM rooms WHERE id IN ({marks(locked)}) ORDER BY id"
        + connection.dialect.locking,
        locked,
    )
    repeats = _repeats(connection, _flat(drafts))
    ends = read_ends(connection, room_ids)
    results: list[Stored | Bundle | Refused] = []
    rows = []
    for draft in drafts:
        earlier = repeats.get(_identity(draft))
        if earlier is not None:
            result = _repeated(draft, *earlier, _identity(draft) in tried)
            results.append(_bundled(draft, result, repeats))
            continue
        seq = ends[draft.room.id] + 1
        try:
            if draft.effect is not None:
                draft.effect(connection, seq)
        except Refused as refused:
            results.append(refused)
            continue
        for one in (draft, *draft.companions):
            ends[one.room.id] += 1
            rows.append(_row(one, ends[one.room.id]))
            repeats[_identity(one)] = (one.room.id, ends[one.room.id], one.at)
        results.append(_bundled(draft, Stored(seq, draft.at), repeats))
    connection.many(_INSERT, rows)
    return results


def _bundled(
    draft: Draft, result: Stored | Refused, places: dict[Identity, tuple[int, int, int]]
) -> Stored | Bundle | Refused:
    if not draft.companions or isinstance(result, Refused) or result.duplicate:
        return result
    return Bundle(result, [(other, places[_identity(other)][1]) for other in draft.companions])


def _row(draft: Draft, seq: int) -> Row:
    room_id, sender_id = draft.room.id, draft.sender.id
    return (room_id, seq, sender_id, draft.key, draft.at, draft.kind, draft.encoded)


def _repeats(
    connection: Connection, drafts: Sequence[Draft]
) -> dict[Identity, tuple[int, int, int]]:
    """(room_id, seq, at) of the entries stored under the drafts' keys."""
    found = {}
    for start in range(0, len(drafts), _KEYS_AT_ONCE):
        part = drafts[start : start + _KEYS_AT_ONCE]
        rows = connection.all(
            "SELECT sender_id, idempotency_key, room_id, seq, at FROM entries WHERE "
            + " OR ".join("(sender_id = ? AND idempotency_key = ?)" for _ in part),
            [value for draft in part for value in _identity(draft)],
        )
        for sender_id, key, *place in rows:
            found[sender_id, bytes(key)] = (place[0], place[1], place[2])
    return found


def _repeated(draft: Draft, room_id: int, seq: int, at: int, tried: bool) -> Stored | Refused:
    if room_id != draft.room.id:
        return _key_conflict()
    # Found by a second try: it is this very draft, whose commit went through unheard.
    return Stored(seq, at, duplicate=not (tried and at == draft.at))


def _key_conflict() -> Refused:
    return Refused("conflict", "The key was used for a message to another address.")


def read_ends(connection: Connection, room_ids: set[int]) -> dict[int, int]:
    """The last seq of each room, 0 where its log is empty."""
    if not room_ids:
        return {}
    rows = connection.all(
        f"SELECT r.id, {END_OF_ROOM} FROM rooms r WHERE r.id IN ({marks(room_ids)})",
        list(room_ids),
    )
    return {room_id: end or 0 for room_id, end in rows}


def read_after(
    connection: Connection, room: Room, seq: int, limit: int, viewer: int = 0
) -> list[Entry]:
    """The first `limit` entries after `seq`, oldest first, without those that `viewer`, a user's
    id, has hidden."""
    rows = connection.all(
        f"{_shown_to(viewer)} AND e.seq > ? ORDER BY e.seq LIMIT ?",
        (room.id, *_viewer(viewer), seq, limit),
    )
    return complete(connection, [_entry(room, row) for row in rows])


def read_before(
    connection: Connection, room: Room, seq: int, limit: int, viewer: int = 0, floor: int = 0
) -> list[Entry]:
    """The last `limit` entries before `seq` and after `floor`, the same way."""
    rows = connection.all(
        f"{_shown_to(viewer)} AND e.seq < ? AND e.seq > ? ORDER BY e.seq DESC LIMIT ?",
        (room.id, *_viewer(viewer), seq, floor, limit),
    )
    return complete(connection, [_entry(room, row) for row in reversed(rows)])


def read_these(
    connection: Connection, room: Room, seqs: Sequence[int], user_id: int
) -> list[Entry]:
    """The entries with the given numbers that the user has not hidden."""
    if not seqs:
        return []
    rows = connection.all(
        f"{_SELECT} AND e.seq IN ({marks(seqs)}) AND {UNHIDDEN}", (room.id, *seqs, user_id)
    )
    return complete(connection, [_entry(room, row) for row in rows])


def read_each(connection: Connection, places: Sequence[tuple[Room, int]]) -> list[Entry]:
    """The entries at places in the logs of different rooms."""
    found = []
    for start in range(0, len(places), _KEYS_AT_ONCE):
        part = {room.id: (room, seq) for room, seq in places[start : start + _KEYS_AT_ONCE]}
        rows = connection.all(
            f"{_ENTRY}, e.room_id {_FROM} WHERE "
            + " OR ".join("(e.room_id = ? AND e.seq = ?)" for _ in part),
            [value for room, seq in part.values() for value in (room.id, seq)],
        )
        found += [_entry(part[row[-1]][0], row[:-1]) for row in rows]
    return complete(connection, found)


def _shown_to(viewer: int) -> str:
    return f"{_SELECT} AND {UNHIDDEN}" if viewer else _SELECT


def _viewer(viewer: int) -> tuple[int, ...]:
    return (viewer,) if viewer else ()


def _entry(room: Room, row: Row) -> Entry:
    seq, kind, sender_id, name, at, body = row
    sender = Party(sender_id, name or "")
    to = room.address_from(sender_id)
    shown = "message" if kind == ERASED else kind
    return Entry(room.id, seq, shown, to, sender, at, msgspec.json.decode(body))

"""Tells people how far others have got: the `delivered` and `read` events, once a tick."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from typing import Any

from chatd.errors import Unavailable
from chatd.hub import Hub
from chatd.model import Party, Room
from chatd.session import Session
from chatd.store.places import Hall, Person, Place, halls, people
from chatd.store.rooms import Cursor
from chatd.store.store import Store

_TOLD_KEPT = 100_000  # users' positions in rooms that are remembered: about 20 MB
_HALLS_KEPT = 20_000  # about 10 MB

_NOWHERE = Place(0, 0, 0, False)

Spawn = Callable[[str, Coroutine[Any, Any, None]], None]
Key = tuple[int, int]  # a room's id and a user's
Step = tuple[int, str, int]  # a room's id, an event, the seq that it tells of


class Move:
    """How far a user got in a room in this tick, 0 where no farther; `badge` is what the user's
    own sessions have to know as read, but `origin`, which said so."""

    __slots__ = ("badge", "delivered", "origin", "read")

    def __init__(self) -> None:
        self.delivered = self.read = self.badge = 0
        self.origin: Session | None = None


class Receipts:
    """The moves that are stored and not told yet, and what is told already.

    Like all that is not kept in a log, they are the first to be shed: those of a tick in which
    the database does not answer are not told, nor are slow readers.
    """

    def __init__(
        self,
        store: Store,
        hub: Hub,
        spawn: Spawn,
        most_members: Callable[[], int],
        millis: Callable[[], int],
    ) -> None:
        self._store = store
        self._hub = hub
        self._spawn = spawn
        self._most_members = most_members
        self._millis = millis
        self._moves: dict[Key, Move] = {}
        self._told: dict[Key, tuple[int, int]] = {}
        self._halls: dict[int, Hall] = {}
        self._most = 0
        self._telling = False

    def note(self, cursor: Cursor, origin: Session | None = None, before: Place = _NOWHERE) -> None:
        """A cursor is stored; `origin` asked for it, and found the user at `before`."""
        key = (cursor.room_id, cursor.user_id)
        delivered, read = self._told.get(key, (0, 0))
        delivered, read = max(delivered, before.delivered), max(read, before.read)
        unmarked = before.marked and cursor.read > 0
        now = max(delivered, cursor.delivered, cursor.read), max(read, cursor.read)
        if now == (delivered, read) and not unmarked:
            return
        if len(self._told) >= _TOLD_KEPT:
            self._told.clear()
        self._told[key] = now
        move = self._moves.get(key)
        if move is None:
            move = self._moves[key] = Move()
        if now[0] > delivered:
            move.delivered = now[0]
        if now[1] > read:
            move.read = now[1]
        if now[1] > read or unmarked:
            move.badge, move.origin = now[1], origin

    def forget(self, room_id: int) -> None:
        """Who is in a room has changed."""
        self._halls.pop(room_id, None)

    def tell(self) -> None:
        """Tells what moved."""
        if self._moves and not self._telling:
            self._telling = True
            moves, self._moves = self._moves, {}
            self._spawn("telling receipts", self._tell(moves))

    async def _tell(self, moves: Mapping[Key, Move]) -> None:
        try:
            found = await self._find({room_id for room_id, _ in moves})
            small = {room_id: hall.room for room_id, hall in found.items() if not hall.crowded}
            known = await self._store.read(people, self._concerned(moves, small))
        except Unavailable:
            return
        finally:
            self._telling = False
        steps: dict[Step, list[Person]] = {}
        for (room_id, user_id), move in moves.items():
            if room_id in found:
                self._show_own(found[room_id].room, user_id, move)
            if room_id in small and user_id in known:
                for name, upto in _told(move, known[user_id]):
                    steps.setdefault((room_id, name, upto), []).append(known[user_id])
        for (room_id, name, upto), users in steps.items():
            self._show(small[room_id], name, upto, users, known)

    async def _find(self, room_ids: set[int]) -> dict[int, Hall]:
        most = self._most_members()
        if most != self._most or len(self._halls) >= _HALLS_KEPT:
            self._halls, self._most = {}, most
        kept = self._halls
        found = {room_id: kept[room_id] for room_id in room_ids & kept.keys()}
        missing = room_ids - found.keys()
        if missing:
            fresh = await self._store.read(halls, missing, most)
            kept.update(fresh)
            found |= fresh
        return found

    def _concerned(self, moves: Mapping[Key, Move], rooms: Mapping[int, Room]) -> set[int]:
        """Whose names or wishes are needed to tell the moves."""
        ids = set()
        for (room_id, user_id), move in moves.items():
            room = rooms.get(room_id)
            if room is None:
                continue
            ids.add(user_id)
            if move.read:
                ids.update(s.user.id for s in self._hub.audience(room) if s.user)
        return ids

    def _show_own(self, room: Room, user_id: int, move: Move) -> None:
        user = self._hub.user(user_id)
        if move.badge and user is not None:
            others = [session for session in user.sessions if session is not move.origin]
            self._hub.whisper(others, self._event("read", room, [user.party], move.badge))

    def _show(
        self, room: Room, name: str, upto: int, users: list[Person], known: Mapping[int, Person]
    ) -> None:
        """Tells a room that users got as far: of all in one event, since where everybody reads
        along, one for each would be as many as the square of their number."""
        blocked = frozenset[int]().union(*(person.blocks for person in users))
        told: dict[tuple[Party, ...], list[Session]] = {}
        for session in self._hub.audience(room):
            user = session.user
            if user is None or (name == "read" and not _wants(known, user.id)):
                continue
            seen = [p for p in users if user.id not in p.blocks] if user.id in blocked else users
            parties = tuple(person.party for person in seen)
            if parties and parties != (user.party,):
                told.setdefault(parties, []).append(session)
        for parties, sessions in told.items():
            self._hub.whisper(sessions, self._event(name, room, parties, upto))

    def _event(self, name: str, room: Room, users: Sequence[Party], upto: int) -> dict[str, Any]:
        to = room.address_from(users[0].id)
        names = [party.name for party in users]
        who = {"from": names[0]} if len(names) == 1 else {"users": names}
        return {"event": name, "to": to, **who, "upto": upto, "at": self._millis()}


def _told(move: Move, person: Person) -> Iterator[tuple[str, int]]:
    """What others may know of a move: the event and the seq."""
    if move.delivered and not person.invisible:
        yield "delivered", move.delivered
    if move.read and person.receipts and not person.invisible:
        yield "read", move.read


def _wants(known: Mapping[int, Person], user_id: int) -> bool:
    person = known.get(user_id)  # None: came while this was read
    return person is not None and person.receipts

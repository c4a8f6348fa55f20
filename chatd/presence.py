"""Who is online as others see it, and who is told of its changes.

What was told last is what everybody is shown: a change is told once a tick, to friends and to
those who have a room of the user's open. An invisible user is one who has left.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from itertools import islice
from typing import Any, Literal

from msgspec import Struct
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from chatd.errors import Unavailable
from chatd.hub import Hub
from chatd.model import Party
from chatd.session import Session, User, Watched, Wire
from chatd.settings import Presence as Settings
from chatd.store import presence as statements
from chatd.store.presence import Audience
from chatd.store.store import Store

State = Literal["online", "away", "offline"]
Spawn = Callable[[str, Coroutine[Any, Any, None]], None]
Events = dict[int, dict[str, Any]]

_AT_ONCE = 500  # users told of in a tick
_SLICE = 250  # sessions written to in a turn of the event loop: a few ms
_NOTED = 300  # ticks after which it is noted again who is online: a crash loses as much


class _Left(Struct, frozen=True):
    """Who has left, in which tick, and when in ms."""

    party: Party
    tick: int
    at: int


class Presence:
    """The states of users as they were told, `settings` says how long those who left linger.

    This is where local knowledge is asked: what the hub knows comes in by `_state` alone, and
    what others may know goes out by `shown`, `seen`, `devices` and the events.
    """

    def __init__(
        self, clock: IReactorTime, store: Store, hub: Hub, spawn: Spawn, settings: Settings
    ) -> None:
        self.settings = settings
        self._clock = clock
        self._store = store
        self._hub = hub
        self._spawn = spawn
        self._tick = self._now = 0
        self._shown: dict[int, State] = {}  # but for those who are offline
        self._left: dict[int, _Left] = {}  # of those who are shown; the first to leave first
        self._waiting: dict[int, Party] = {}  # to be looked at
        self._unsaved: dict[int, int] = {}
        self.telling = False

    # -- what others may know

    def shown(self, user_id: int) -> State:
        """The user's state as others see it."""
        return self._shown.get(user_id, "offline")

    def seen(self, user_id: int, saved: int) -> int | None:
        """When a user who is shown as offline was last online (ms), where `saved` stands in the
        database; None: never, or is online."""
        if user_id in self._shown:
            return None
        return self._unsaved.get(user_id, saved) or None

    def devices(self, user_id: int) -> list[str]:
        """The names of the devices that the user is online with."""
        user = self._hub.user(user_id)
        if user is None or user.invisible or user_id not in self._shown:
            return []
        return user.devices

    # -- what has changed

    def look(self, tick: int, now: int) -> None:
        """Begins a tick: tells of those who changed, unless the last ones are still told of.
        What the database is needed for waits for it."""
        self._tick, self._now = tick, now
        changed, self._hub.changed = self._hub.changed, {}
        for party in changed.values():
            self._note(party)
        for left in self._gone():
            self._waiting[left.party.id] = left.party
        if not tick % _NOTED:
            self._note_all()
        if (self._waiting or self._unsaved) and not self.telling:
            self.telling = True
            self._spawn("telling of presence", self._tell())

    async def stop(self, now: int) -> None:
        """Notes when those who are online were last seen."""
        self._now = now
        self._note_all()
        self._unsaved |= {user_id: left.at for user_id, left in self._left.items()}
        with suppress(Unavailable):
            await self._save()

    def _note(self, party: Party) -> None:
        user = self._hub.user(party.id)
        if user is not None and not user.invisible:
            self._left.pop(party.id, None)
            self._waiting[party.id] = party
        elif party.id in self._shown:
            self._left.setdefault(party.id, _Left(party, self._tick, self._now))

    def _note_all(self) -> None:
        self._unsaved |= dict.fromkeys(self._shown, self._now)

    def _gone(self) -> Iterator[_Left]:
        for left in self._left.values():
            if not self._has_gone(left):
                return
            yield left

    def _has_gone(self, left: _Left) -> bool:
        return self._tick - left.tick >= self.settings.linger_seconds

    def _state(self, user_id: int) -> State:
        user = self._hub.user(user_id)
        if user is None or user.invisible:
            left = self._left.get(user_id)
            return "offline" if left and self._has_gone(left) else self.shown(user_id)
        return "away" if user.away else "online"

    # -- telling

    async def _tell(self) -> None:
        try:
            if self._waiting:
                users = list(islice(self._waiting, _AT_ONCE))
                groups = self._hub.open_groups()
                audience = await self._store.read(statements.audience, users, groups)
                await self._send(_Round(self._hub, self._events(users), audience))
            if self._unsaved:
                await self._save()
        except Unavailable:
            pass  # the next tick tries again
        finally:
            self.telling = False

    def _events(self, user_ids: list[int]) -> Events:
        """What is to be told of these users; from here on it counts as told."""
        events = {}
        for user_id in user_ids:
            party, state = self._waiting.pop(user_id), self._state(user_id)
            if state != self.shown(user_id):
                events[user_id] = self._turn(party, state)
        return events

    def _turn(self, party: Party, state: State) -> dict[str, Any]:
        event = {"event": "presence", "from": party.name, "state": state, "at": self._now}
        if state == "offline":
            del self._shown[party.id]
            event["seen"] = self._unsaved[party.id] = self._left.pop(party.id).at
            return event
        if party.id not in self._shown:
            self._unsaved[party.id] = self._now
        self._shown[party.id] = state
        return event

    async def _send(self, letters: _Round) -> None:
        for count, (session, user, data) in enumerate(letters.sorted(), 1):
            # The first thing that a slow reader goes without.
            if session.user is user and not session.paused and not session.link.crowded:
                self._hub.send(session, data)
            if not count % _SLICE:
                await deferLater(self._clock, 0)

    async def _save(self) -> None:
        saving = dict(self._unsaved)
        await self._store.write(statements.note_seen, saving)
        for user_id, at in saving.items():
            if self._unsaved.get(user_id) == at:
                del self._unsaved[user_id]


class _Round:
    """What is told in one tick, sorted by who gets it. Each event is encoded once for a wire, and
    what all who have a room open get is put together once."""

    def __init__(self, hub: Hub, events: Events, audience: Audience) -> None:
        self._hub = hub
        self._events = events
        self._audience = audience
        self._frames: dict[tuple[Wire, int], bytes] = {}
        self._by_watched: dict[Watched, dict[int, None]] = {}
        for user_id in events:
            self._by_watched[("user", user_id)] = {user_id: None}
            for room_id in audience.groups.get(user_id, ()):
                self._by_watched.setdefault(("group", room_id), {})[user_id] = None

    def sorted(self) -> list[tuple[Session, User, bytes]]:
        """The frames that each session of a user is to get."""
        letters: dict[Session, list[bytes]] = {}
        for what, user_ids in self._by_watched.items():
            self._to_watchers(what, user_ids, letters)
        for user_id in self._events:
            self._to_friends(user_id, letters)
        return [
            (session, session.user, b"".join(frames))
            for session, frames in letters.items()
            if session.user is not None
        ]

    def _to_watchers(
        self, what: Watched, user_ids: dict[int, None], letters: dict[Session, list[bytes]]
    ) -> None:
        blocked = self._audience.blocked
        special = self._events.keys() | {other for _, other in blocked}
        joined: dict[Wire, bytes] = {}
        for session in self._hub.watchers(what):
            user, wire = session.user, session.wire
            if user is not None and user.id in special:
                theirs = [i for i in user_ids if i != user.id and (i, user.id) not in blocked]
                letters[session] = [self._frame(wire, user_id) for user_id in theirs]
                continue
            if wire not in joined:
                joined[wire] = b"".join([self._frame(wire, user_id) for user_id in user_ids])
            letters[session] = [joined[wire]]

    def _to_friends(self, user_id: int, letters: dict[Session, list[bytes]]) -> None:
        for friend_id in self._audience.friends.get(user_id, ()):
            friend = self._hub.user(friend_id)
            for session in friend.sessions if friend is not None else ():
                if session.watched is None or not self._covered(session.watched, user_id):
                    letters.setdefault(session, []).append(self._frame(session.wire, user_id))

    def _covered(self, watched: Watched, user_id: int) -> bool:
        return user_id in self._by_watched.get(watched, ())

    def _frame(self, wire: Wire, user_id: int) -> bytes:
        frame = self._frames.get((wire, user_id))
        if frame is None:
            frame = self._frames[wire, user_id] = wire.event(self._events[user_id])
        return frame

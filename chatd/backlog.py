"""What a session missed: replayed from the log, at the client's own speed, until the session
is level with the room and takes live entries again.

It serves the login, where the delivered cursor says what was missed, and the slow reader,
whose full buffer stopped live delivery.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from twisted.logger import Logger

from chatd.cursors import Cursors
from chatd.errors import TRY_AGAIN_LATER, Refused, Unavailable
from chatd.hub import Hub
from chatd.model import Room
from chatd.session import Gap, Session
from chatd.store.log import read_after
from chatd.store.rooms import progress
from chatd.store.store import Store

PAGE = 100  # entries read at once
CHUNK = 32 * 1024  # bytes written between two looks at the client's buffer

Spawn = Callable[[str, Coroutine[Any, Any, None]], None]


class Backlog:
    """Feeds sessions that are behind."""

    _log = Logger()

    def __init__(self, store: Store, hub: Hub, cursors: Cursors, spawn: Spawn) -> None:
        self._store = store
        self._hub = hub
        self._cursors = cursors
        self._spawn = spawn

    def begin(self, session: Session) -> None:
        """To be called before the session's user enters the hub: from here on nothing is
        written live, and what comes is remembered."""
        session.loading = True
        session.behind = {}

    def replay(self, session: Session) -> None:
        """Replays all entries after the user's delivered cursors; live entries follow."""
        self._spawn("replay", self._replay(session))

    async def _replay(self, session: Session) -> None:
        user = session.user
        if user is None:
            return
        try:
            rooms = await self._store.read(progress, user.id, dissolved=True)
        except Exception as error:  # whatever it is, without its backlog the session is no use
            if not isinstance(error, Refused):
                self._log.failure("a replay failed")
            session.link.close(TRY_AGAIN_LATER, "What you missed cannot be read now.")
            return
        behind = session.behind
        if session.user is not user or behind is None:
            return
        for here in rooms:
            if here.delivered < here.end:
                gap = behind.setdefault(here.room.id, Gap(here.room, here.delivered))
                gap.position = min(gap.position, here.delivered)
                gap.seen = max(gap.seen, here.end)
        session.loading = False
        self.feed(session)

    def fall_behind(self, session: Session, room: Room, position: int) -> None:
        """Something behind `position` was stored that the session has not been sent."""
        session.gaps().setdefault(room.id, Gap(room, position)).level = False
        self._hub.clock.callLater(0, self.feed, session)

    def pause(self, session: Session) -> None:
        """The client reads too slowly: its buffer is full."""
        session.paused = True
        session.gaps()

    def resume(self, session: Session) -> None:
        """The client has read what was in its buffer."""
        session.paused = False
        self.feed(session)

    def feed(self, session: Session) -> None:
        """Begins or goes on to bring a session up to date."""
        if session.behind is not None and not session.feeding and not session.lagging:
            session.feeding = True
            self._spawn("feed", self._feed(session))

    async def _feed(self, session: Session) -> None:
        try:
            while not session.lagging and (gap := _next(session)) is not None:
                await self._page(session, gap)
            await self._store.published()
        except Unavailable:
            return  # the heartbeat tries again
        finally:
            session.feeding = False
        _forget_level(session)
        if _next(session) is not None:
            self.feed(session)

    async def _page(self, session: Session, gap: Gap) -> None:
        entries = await self._store.read(read_after, gap.room, gap.position, PAGE)
        size = 0
        for entry in entries:
            if session.paused or session.behind is None:
                return
            if session.behind.get(gap.room.id) is not gap:
                return  # another user's session by now, or no member any more
            gap.position = entry.seq
            session.wrote(gap.room.id, entry.seq)
            if entry.kind == "dissolved":
                session.over |= {gap.room.id}
            if entry.seq in gap.own:
                continue
            frame = session.wire.event(entry.event())
            self._hub.send(session, frame)
            size += len(frame)
            if size >= CHUNK:
                self._hub.flush()
                size = 0
        self._hub.flush()
        if session.asked is None and session.unproved:
            self._cursors.ask(session)  # page by page, or a long backlog might never be proved
        if len(entries) < PAGE and gap.position >= gap.seen:
            gap.level = True


def _next(session: Session) -> Gap | None:
    if session.behind is None:
        return None
    return next((gap for gap in session.behind.values() if not gap.level), None)


def _forget_level(session: Session) -> None:
    """All that the log held has been fanned out: what comes now is beyond every position."""
    if session.behind is None or session.lagging:
        return
    session.behind = {room: gap for room, gap in session.behind.items() if not gap.level} or None

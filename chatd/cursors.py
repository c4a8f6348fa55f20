"""The delivered cursors that moved: gathered in memory, saved together.

They are kept back because a group message moves as many cursors as it has receivers. What a
crash loses of them is delivered again.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet.defer import Deferred, DeferredList, maybeDeferred

from chatd.session import Session
from chatd.store.rooms import Cursor
from chatd.store.store import Store

_PROMPT = 2  # ticks within which a client answers a ping, if it can

Spawn = Callable[[str, Coroutine[Any, Any, None]], None]


class Cursors:
    """What clients have been seen to have received and is not saved yet; `stored(cursor)` is called
    when it is."""

    def __init__(
        self,
        store: Store,
        spawn: Spawn,
        tick: Callable[[], int],
        stored: Callable[[Cursor], None],
    ) -> None:
        self._tick = tick
        self._stored = stored
        self._store = store
        self._spawn = spawn
        self._moved: dict[int, dict[int, int]] = {}
        self._saving: dict[int, list[Deferred[bool]]] = {}

    def ask(self, session: Session) -> None:
        """Sends a ping, whose answer will prove all that was written until now."""
        if not session.link.pings:
            return
        session.asked, session.unproved = _merged(session.asked, session.unproved) or {}, None
        session.question += 1
        session.asked_in = self._tick()
        session.link.ping(_payload(session))

    def answered(self, session: Session, payload: bytes) -> bool:
        """A ping was answered; only the answer to the last one counts. Whether it is that."""
        if session.asked is None or payload != _payload(session):
            return False
        self._note(session, session.asked)
        session.asked, session.answers = None, True
        return True

    def prove(self, session: Session) -> None:
        """The client sent a request. That proves nothing by itself: it may have left before what
        was written arrived, and a proxy in between may have taken that. So the client is asked."""
        if self._mute(session):
            self._acknowledged(session)
        elif session.unproved and session.asked is None:
            self.ask(session)

    def ended(self, session: Session) -> None:
        """The connection ended. A proxy may have done that, so it is proof for lines alone, which
        have none that is better."""
        if not session.link.pings:
            self._acknowledged(session)

    def closed(self, session: Session) -> None:
        """The client said goodbye, so it has read what was written, unless it left a ping
        unanswered for long."""
        if self._mute(session) or session.asked is None or self._silence(session) <= _PROMPT:
            self._acknowledged(session)

    def _mute(self, session: Session) -> bool:
        """Whether the client has no answer to a ping."""
        if not session.link.pings:
            return True
        ignored = session.asked is not None and self._silence(session) > _PROMPT
        return ignored and not session.answers

    def _silence(self, session: Session) -> int:
        return self._tick() - session.asked_in

    def _acknowledged(self, session: Session) -> None:
        """What the kernel of the other side has acknowledged, if it is all, counts as received."""
        if not (session.unproved or session.asked) or session.outbox is not None:
            return
        if not session.link.pending():
            self._note(session, _merged(session.asked, session.unproved))
            session.asked = session.unproved = None

    def _note(self, session: Session, seqs: dict[int, int] | None) -> None:
        if not seqs or session.user is None:
            return
        if session.acknowledging:
            seqs = {room_id: seq for room_id, seq in seqs.items() if room_id in session.over}
        if not seqs:
            return
        self._gather(session.user.id, seqs)

    def _gather(self, user_id: int, seqs: dict[int, int]) -> None:
        moved = self._moved.setdefault(user_id, {})
        for room_id, seq in seqs.items():
            moved[room_id] = max(seq, moved.get(room_id, 0))

    def save(self) -> None:
        """Saves what moved."""
        for user_id in list(self._moved):
            self.save_user(user_id)

    def save_user(self, user_id: int) -> None:
        """Saves what moved of one user."""
        if user_id in self._moved and user_id not in self._saving:
            self._spawn("save cursors", self._save(user_id, self._moved.pop(user_id)))

    async def saved(self, user_id: int) -> None:
        """Waits until the database knows how far the user has got."""
        while user_id in self._moved or user_id in self._saving:
            self.save_user(user_id)
            saving = self._saving.get(user_id)
            if saving is None:
                return  # too much waits for the database already
            waiter: Deferred[bool] = Deferred()
            saving.append(waiter)
            if not await waiter:
                return

    async def _save(self, user_id: int, moved: dict[int, int]) -> None:
        self._saving[user_id] = []
        cursors = [Cursor(user_id, room_id, seq) for room_id, seq in moved.items()]
        saves = [maybeDeferred(self._store.advance, cursor) for cursor in cursors]
        outcomes = await DeferredList(saves, consumeErrors=True)
        waiters = self._saving.pop(user_id)
        good = all(success for success, _ in outcomes)
        if good:
            for cursor in cursors:
                self._stored(cursor)
        else:
            self._gather(user_id, moved)  # for the next save
        for waiter in waiters:
            waiter.callback(good)


def _payload(session: Session) -> bytes:
    return session.question.to_bytes(8, "big")


def _merged(one: dict[int, int] | None, other: dict[int, int] | None) -> dict[int, int] | None:
    return {**one, **other} if one and other else one or other

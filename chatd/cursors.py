"""The delivered cursors that moved: gathered in memory, saved together.

They are kept back because a group message moves as many cursors as it has receivers. What a
crash loses of them is delivered again.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet.defer import Deferred, gatherResults

from chatd.errors import Refused
from chatd.session import Session
from chatd.store.rooms import Cursor
from chatd.store.store import Store

Spawn = Callable[[str, Coroutine[Any, Any, None]], None]


class Cursors:
    """What clients have been seen to have received and is not saved yet."""

    def __init__(self, store: Store, spawn: Spawn) -> None:
        self._store = store
        self._spawn = spawn
        self._moved: dict[int, dict[int, int]] = {}
        self._saving: dict[int, Deferred[None]] = {}

    def ask(self, session: Session) -> None:
        """A ping leaves: its answer will prove all that was written until now."""
        session.asked, session.unproved = _merged(session.asked, session.unproved), None

    def answered(self, session: Session) -> None:
        """The ping was answered."""
        self._note(session, session.asked)
        session.asked = None

    def prove(self, session: Session) -> None:
        """The client gave a sign of life: all that its kernel has acknowledged, it has."""
        if (session.unproved or session.asked) and session.link.delivered():
            self._note(session, _merged(session.asked, session.unproved))
            session.asked = session.unproved = None

    def _note(self, session: Session, seqs: dict[int, int] | None) -> None:
        if not seqs or session.user is None or session.acknowledging:
            return
        moved = self._moved.setdefault(session.user.id, {})
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
        self.save_user(user_id)
        if user_id in self._saving:
            waiter: Deferred[None] = Deferred()
            self._saving[user_id].chainDeferred(waiter)
            await waiter

    async def _save(self, user_id: int, moved: dict[int, int]) -> None:
        done = self._saving[user_id] = Deferred()
        try:
            cursors = [Cursor(user_id, room_id, seq) for room_id, seq in moved.items()]
            await gatherResults([self._store.advance(cursor) for cursor in cursors])
        except Refused:
            pass  # delivered again at the next login, as after a crash
        finally:
            del self._saving[user_id]
            done.callback(None)


def _merged(one: dict[int, int] | None, other: dict[int, int] | None) -> dict[int, int] | None:
    return {**one, **other} if one and other else one or other

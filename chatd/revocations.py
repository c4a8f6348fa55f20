"""Ends sessions whose token was revoked, by whatever process: the database tells."""

from __future__ import annotations

from collections import deque

from chatd.errors import LOGGED_OUT, Unavailable
from chatd.hub import Hub
from chatd.session import Session
from chatd.store import revocations
from chatd.store.store import Store

_LOOKS = 60  # for which a row is read again: a minute


class Revocations:
    """Looks for revocations when told to, once a tick.

    A row may become visible after rows with higher ids, and a login that read its token before
    the revocation may enter after the look. So each look reads again what the last 60 did.
    """

    def __init__(self, store: Store, hub: Hub) -> None:
        self._store = store
        self._hub = hub
        self._ends = deque([0], _LOOKS)  # the highest ids seen, by look
        self._looking = False

    async def look(self, now: int) -> None:
        """Closes the sessions whose tokens are not good at a time in ms. Does nothing while
        an earlier look waits; without a database the next look does it."""
        if self._looking:
            return
        self._looking = True
        try:
            await self._look(now)
        except Unavailable:
            pass  # nothing was missed: the window has not moved
        finally:
            self._looking = False

    async def _look(self, now: int) -> None:
        noted = await self._store.read(revocations.noted_after, self._ends[0])
        here = [user for user_id in noted if (user := self._hub.user(user_id))]
        if here:
            # Who logs in from here on has a token that was good after the revocation, or else
            # is found by the next look.
            held = {session: session.token for user in here for session in user.sessions}
            ids = [user.id for user in here]
            good = await self._store.read(revocations.standing, ids, now)
            for session, token in held.items():
                if token not in good and session.token == token:
                    log_out(session)
        self._ends.append(max([self._ends[-1], *noted.values()]))


def log_out(session: Session) -> None:
    """Closes a session whose token is no longer good."""
    if session.user is not None:
        session.link.close(LOGGED_OUT, "The session was logged out.")

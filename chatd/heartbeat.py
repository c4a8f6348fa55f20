"""One timer for the whole node: it finds dead peers, moves cursors, does the housekeeping.

Each beat visits a slice of the sessions, so that each is visited once a tick, which is a
second. Liveness comes from bytes received, never from writes that a kernel swallowed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress

from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from chatd.errors import LOGIN_TIMEOUT, Unavailable
from chatd.node import Node
from chatd.revocations import log_out
from chatd.session import Session
from chatd.store import accounts, groups

BEATS = 10  # in a tick
_MUCH = 64 * 1024  # bytes on their way to a client, before a ping
_PROOF = 2  # ticks within which a client that listens is asked for proof that it received
_CLEANING = 600  # ticks between two cleanings of the tables


class Heartbeat:
    """Visits the sessions; tells `lagged` how late each beat comes, in seconds.

    `feed_watchdog` is called after each tick that came through, or, if it must be fed more often
    than every `fed_within` seconds, after as many beats as fit into half of them.
    """

    _log = Logger()

    def __init__(
        self,
        node: Node,
        feed_watchdog: Callable[[], object],
        lagged: Callable[[float], object],
        fed_within: float = math.inf,
    ) -> None:
        self._node = node
        self._feed_watchdog = feed_watchdog
        self._lagged = lagged
        self._feeding = max(1, int(min(1.0, fed_within / 2) * BEATS))
        self._due = 0.0
        self._read_settings()
        self._beats = 0
        self._round: list[Session] = []
        self._loop = LoopingCall(self._beat)
        self._loop.clock = node.clock

    def start(self) -> None:
        """Begins to beat."""
        self._due = self._node.clock.seconds() + 1 / BEATS
        self._loop.start(1 / BEATS, now=False).addErrback(
            lambda failure: self._log.failure("the heartbeat stopped", failure)
        )

    def stop(self) -> None:
        """Beats no more."""
        if self._loop.running:
            self._loop.stop()

    def _beat(self) -> None:
        self._measure()
        try:
            self.beat()
        except Exception:  # it would end the LoopingCall for good
            self._log.failure("a heartbeat failed")

    def _measure(self) -> None:
        late = max(0.0, self._node.clock.seconds() - self._due)
        self._lagged(late)
        # LoopingCall leaves out the beats whose time has passed.
        self._due += (math.floor(late * BEATS) + 1) / BEATS

    def beat(self) -> None:
        """Visits the next slice of the sessions, and at a tick's end keeps house."""
        if not self._beats % BEATS:
            self._round = list(self._node.hub.sessions)
        self._read_settings()
        for session in self._round[self._beats % BEATS :: BEATS]:
            if not session.ended:
                self._try_visit(session)
        self._beats += 1
        if not self._beats % BEATS:
            self._keep_house()
        if not self._beats % self._feeding:
            self._feed_watchdog()

    def _read_settings(self) -> None:
        # A visit comes up to a tick late, and the limits are promises.
        self._interval = max(1, math.ceil(self._node.pulse.interval) - 1)
        self._timeout = max(1, math.ceil(self._node.pulse.timeout) - 1)
        self._login = max(1, math.ceil(self._node.limits.login_seconds))

    def _keep_house(self) -> None:
        node = self._node
        node.keep_house()
        node.spawn("a look for revocations", node.revocations.look(node.millis()))
        if node.tick % _CLEANING == 1:
            node.spawn("cleaning", self._clean())

    async def _clean(self) -> None:
        with suppress(Unavailable):  # another time
            for statements in (accounts, groups):
                await self._node.store.write(statements.forget_expired, self._node.millis())

    def _try_visit(self, session: Session) -> None:
        try:
            self._visit(session)
        except Exception:  # one bad session must not keep the others from being visited
            self._log.failure("a session could not be visited")
            self._node.hub.drop(session)

    def _visit(self, session: Session) -> None:
        node, link = self._node, session.link
        waiting = session.user is None and not session.busy
        if waiting and node.tick - session.since > self._login:
            link.close(LOGIN_TIMEOUT, "Nobody logged in in time.")
            return
        if session.user is not None and session.expires <= node.millis():
            log_out(session)
            return
        node.backlog.feed(session)  # for one whose last page could not be read
        if session.held:
            session.heard = node.tick  # it is we who do not listen
        if session.paused or node.tick - session.heard >= self._interval:
            before, session.drained = session.drained, link.pending()
            # More of it may be our own pings; little of it a proxy may take for a dead client.
            if session.drained < before and (session.paused or before >= _MUCH):
                session.heard = node.tick  # it reads, if slowly: the ping stands behind the rest
        silence = node.tick - session.heard
        if not link.pings:
            self._visit_mute(session, silence)
        elif silence >= self._interval + self._timeout:
            link.abort()
        elif silence >= self._interval and session.pinged <= session.heard:
            session.pinged = node.tick
            node.cursors.ask(session)
        elif session.unproved and session.asked is None and not node.tick % _PROOF:
            node.cursors.ask(session)

    def _visit_mute(self, session: Session, silence: int) -> None:
        """For a client that has no answer to a ping: what its kernel has acknowledged counts,
        and whether it empties its buffer."""
        self._node.cursors.prove(session)
        if session.paused and silence >= self._interval + self._timeout:
            session.link.abort()

"""An adbapi pool that notices dead connections and runs transactions again.

adbapi's own `cp_reconnect` trusts `cursor()` to fail on a dead link; PyMySQL's does not, so
the first query after a drop would fail, or every one for ever.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from random import uniform
from threading import Lock
from typing import Any, TypeVar

from twisted.enterprise import adbapi
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure

from chatd.errors import AWAY, Unavailable
from chatd.store.connection import Connection
from chatd.store.dialects import ANSWER_SECONDS, Dialect

T = TypeVar("T")
Work = Callable[[Connection], T]

PATIENCE = 5.0  # seconds until somebody who waits for the database gets an answer
_MOST_WAITING = 10_000
_ATTEMPTS = 4  # at most: each deadlock costs one
_PAUSES = (0.05, 1.0)  # seconds, the first and the longest, between attempts to connect
_CALM = 0.5  # seconds without a failure after which the database can be used again,
_QUIET = 3.0  # and after which the log says so: several pauses, since some may fail longer
_ENDING = 20  # looks whether an abandoned statement has ended,
_ENDING_PAUSE = 0.05  # seconds apart


class Broken(Unavailable):
    """The work lost its connection again and again, while the database answers others."""


class Health:
    """Whether the database can be used, as the last attempts had it. Threads share it; each
    change is logged once, in words that say what (`read` or `written`) is not possible."""

    _log = Logger()

    def __init__(self, use: str) -> None:
        self.usable = True
        self._told = True  # what the log said last
        self._use = use
        self._lock = Lock()
        self._failed = 0.0
        self._pause = _PAUSES[0]
        self._refusal: Unavailable | None = None
        self._retry = 0.0

    def refusal(self) -> Unavailable | None:
        """What to answer without an attempt, since one to connect has just failed."""
        return self._refusal if time.monotonic() < self._retry else None

    def failed(self, error: Exception, connecting: bool = False) -> Unavailable:
        """Notes a failure; what to answer."""
        refusal = Unavailable(AWAY)
        now = time.monotonic()
        with self._lock:
            changed, self._told = self._told, False
            self.usable, self._failed = False, now
            if connecting and now >= self._retry:
                self._retry = now + self._pause * uniform(0.5, 1)
                self._pause = min(2 * self._pause, _PAUSES[1])
                self._refusal = refusal
        if changed:
            self._log.warn("the database cannot be {use}: {error}", use=self._use, error=error)
        return refusal

    def succeeded(self) -> None:
        """Notes a success. One amid failures, over a connection that still stands where no new
        one can be made, changes nothing."""
        if self._told:
            return
        with self._lock:
            self._pause = _PAUSES[0]
            calm = time.monotonic() - self._failed
            self.usable = self.usable or calm >= _CALM
            changed = not self._told and calm >= _QUIET
            self._told = self._told or changed
        if changed:
            self._log.info("the database can be {use} again", use=self._use)


class Pool:
    """A fixed number of threads, each with a connection of its own; `use` is what for, `read`
    or `written`."""

    def __init__(self, reactor: Any, dialect: Dialect, size: int, use: str) -> None:
        self.health = Health(use)
        self._dialect = dialect
        self._reactor = reactor
        self._waiting = 0
        self._abandoned: set[int] = set()
        self._pool = adbapi.ConnectionPool(
            dialect.module,
            cp_reactor=reactor,
            cp_min=size,
            cp_max=size,
            cp_noisy=False,
            cp_openfun=self._opened,
            **dialect.connect,
        )

    def start(self) -> None:
        """Starts the threads; connections are made when they are first needed."""
        self._pool.start()

    def close(self) -> None:
        """Waits for what runs, then closes the connections."""
        self._pool.close()

    def run(self, work: Work[T]) -> Deferred[T]:
        """Runs `work(connection)` in a thread; it may run more than once, so it must be safe
        to repeat. Fails with `Unavailable` when the database cannot be used, with `Broken` when
        it is the work that the database cannot bear."""
        return deferToThreadPool(self._reactor, self._pool.threadpool, self._attempt, work)

    def run_soon(self, work: Work[T], writes: bool) -> Deferred[T]:
        """The same, but fails with `Unavailable`, too, when there is no answer in time or too
        many wait. What writes and has begun is waited for, since it may have consequences: it
        has to begin early enough for the driver's timeouts to end it in time."""
        if self._waiting >= _MOST_WAITING:
            return _failed(Unavailable("The server cannot keep up with its database. Try again."))
        self._waiting += 1
        begun: list[bool] = []
        answer: Deferred[T] = Deferred()

        def begin(connection: Connection) -> T:
            if answer.called:
                raise LATE  # nobody waits any more
            begun.append(True)
            return work(connection)

        def give_up() -> None:
            if not (writes and begun):
                answer.errback(Failure(LATE))

        timer = self._reactor.callLater(PATIENCE - ANSWER_SECONDS * writes, give_up)

        def done(outcome: T | Failure) -> None:
            self._waiting -= 1
            if timer.active():
                timer.cancel()
            if not answer.called:
                answer.callback(outcome)

        self.run(begin).addBoth(done)
        return answer

    def _opened(self, raw: Any) -> None:
        try:
            self._dialect.opened(raw)
            self._end_abandoned(raw)
        except BaseException:
            raw.close()
            raise

    def _end_abandoned(self, raw: Any) -> None:
        """Sees to it that no statement whose answer we gave up on is carried out later: what
        comes after this must know whether it was."""
        for _ in range(_ENDING):
            abandoned = set(self._abandoned)
            if not abandoned:
                return
            running = self._dialect.end(raw, abandoned)
            self._abandoned -= abandoned - running
            if running:
                time.sleep(_ENDING_PAUSE)
        raise OSError("a statement that was given up still runs")

    def _attempt(self, work: Work[T]) -> T:
        attempts, end = _ATTEMPTS, time.monotonic() + ANSWER_SECONDS
        while True:
            raw = self._connect()
            try:
                result = work(Connection(raw, self._dialect))
            except self._dialect.errors as error:
                if self._dialect.lost(error):
                    self._lose(raw, error)
                    attempts -= _ATTEMPTS // 2  # so a fresh one is tried once
                elif self._dialect.contended(error):
                    attempts -= 1
                elif self._dialect.unusable(error):
                    attempts = 0
                else:
                    raise
                if attempts <= 0 and self._dialect.lost(error) and self._answers():
                    raise Broken(AWAY) from error
                if attempts <= 0 or time.monotonic() >= end:
                    raise self.health.failed(error) from error
            else:
                self.health.succeeded()
                return result

    def _answers(self) -> bool:
        with suppress(*self._dialect.errors, Unavailable):
            return Connection(self._connect(), self._dialect).one("SELECT 1") is not None
        return False

    def _connect(self) -> Any:
        mine = self._pool.connections.get(self._pool.threadID())
        if mine is not None and self._abandoned:
            self._pool.disconnect(mine)  # a new one ends first what another thread gave up
            mine = None
        refusal = self.health.refusal()
        if refusal is not None and mine is None:
            raise refusal
        try:
            return self._pool.connect()
        except self._dialect.errors as error:
            raise self.health.failed(error, connecting=True) from error

    def _lose(self, raw: Any, error: Exception) -> None:
        if self._dialect.stalled(error):
            self._abandoned.add(raw.thread_id())
        self._pool.disconnect(raw)


LATE = Unavailable("The database did not answer in time. Try again, with the same key.")


def _failed(error: Exception) -> Deferred[Any]:
    failed: Deferred[Any] = Deferred()
    failed.errback(Failure(error))
    return failed

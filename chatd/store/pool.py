"""An adbapi pool that notices dead connections and runs transactions again.

adbapi's own `cp_reconnect` trusts `cursor()` to fail on a dead link; PyMySQL's does not, so
the first query after a drop would fail, or every one for ever.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from twisted.enterprise import adbapi
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger

from chatd.errors import Unavailable
from chatd.store.connection import Connection
from chatd.store.dialects import Dialect

T = TypeVar("T")
Work = Callable[[Connection], T]

_ATTEMPTS = 4  # at most: each deadlock costs one


class Pool:
    """A fixed number of threads, each with a connection of its own. `usable`: the last use of
    the database was not refused by its state; a change of it is logged once."""

    _log = Logger()

    def __init__(self, reactor: Any, dialect: Dialect, size: int) -> None:
        self.usable = True
        self._dialect = dialect
        self._reactor = reactor
        self._pool = adbapi.ConnectionPool(
            dialect.module,
            cp_reactor=reactor,
            cp_min=size,
            cp_max=size,
            cp_noisy=False,
            cp_openfun=dialect.opened,
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
        to repeat. Fails with `Unavailable` when the database cannot be used."""
        return deferToThreadPool(self._reactor, self._pool.threadpool, self._attempt, work)

    def _attempt(self, work: Work[T]) -> T:
        attempts = _ATTEMPTS
        while True:
            try:
                raw = self._pool.connect()
            except self._dialect.errors as error:
                raise self._unavailable(error) from error
            try:
                result = work(Connection(raw, self._dialect))
            except self._dialect.errors as error:
                if self._dialect.lost(error):
                    self._pool.disconnect(raw)
                    attempts -= _ATTEMPTS // 2  # so a fresh one is tried once
                elif self._dialect.contended(error):
                    attempts -= 1
                elif self._dialect.unusable(error):
                    attempts = 0
                else:
                    raise
                if attempts <= 0:
                    raise self._unavailable(error) from error
            else:
                self._available()
                return result

    def _unavailable(self, error: Exception) -> Unavailable:
        if self.usable:
            self._log.warn("the database cannot be used: {error}", error=error)
        self.usable = False
        return Unavailable("The database cannot be used now. Try again, with the same key.")

    def _available(self) -> None:
        if not self.usable:
            self._log.info("the database can be used again")
        self.usable = True

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

_ATTEMPTS = 4  # a dead connection costs one, each deadlock another


class Pool:
    """A fixed number of threads, each with a connection of its own."""

    _log = Logger()

    def __init__(self, reactor: Any, dialect: Dialect, size: int) -> None:
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
        for attempt in range(_ATTEMPTS):
            try:
                raw = self._pool.connect()
            except self._dialect.errors as error:
                raise self._unavailable(error) from error
            try:
                return work(Connection(raw, self._dialect))
            except self._dialect.errors as error:
                if self._dialect.lost(error):
                    self._pool.disconnect(raw)
                elif not self._dialect.contended(error):
                    raise
                self._log.debug("attempt {n}: {error}", n=attempt + 1, error=error)
                last = error
        raise self._unavailable(last) from last

    def _unavailable(self, error: Exception) -> Unavailable:
        self._log.warn("the database cannot be used: {error}", error=error)
        return Unavailable("The database cannot be reached. Try again, with the same key.")

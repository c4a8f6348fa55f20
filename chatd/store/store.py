"""The store as the rest of the daemon sees it: run a statement, append to a log."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

from twisted.internet.defer import Deferred

from chatd.store import accounts, rooms
from chatd.store.batch import Batcher
from chatd.store.connection import Connection
from chatd.store.dialects import Dialect
from chatd.store.log import Draft, Log
from chatd.store.pool import Pool

P = ParamSpec("P")
T = TypeVar("T")

_READERS = 3  # SQLite's readers never wait for its writer


class Store:
    """Two pools, one to write and one to read, and the batches that go through the first."""

    def __init__(
        self,
        reactor: Any,
        dialect: Dialect,
        connections: int,
        publish: Callable[[list[tuple[Draft, int]]], None],
        told: Callable[[], None],
    ) -> None:
        self._writers = Pool(reactor, dialect, dialect.writers or connections, "written")
        self._readers = Pool(reactor, dialect, _READERS if dialect.writers else connections, "read")
        self._log = Log(reactor, self._writers, publish, told)
        self._logins: Batcher[accounts.Login, accounts.Account] = Batcher(
            reactor, self._writers, accounts.log_in, most=200
        )
        self._cursors: Batcher[rooms.Cursor, None] = Batcher(reactor, self._writers, rooms.advance)
        self.append = self._log.append
        self.published = self._log.published
        self.log_in = self._logins.submit
        self.advance = self._cursors.submit

    def start(self) -> None:
        """Starts the pools' threads."""
        self._writers.start()
        self._readers.start()

    def read(
        self, query: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> Deferred[T]:
        """Runs `query(connection, …)`, which only reads."""
        return self._readers.run_soon(lambda db: query(db, *args, **kwargs), writes=False)

    def write(
        self, statement: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> Deferred[T]:
        """Runs `statement(connection, …)`, which may write and must be safe to run again."""
        return self._writers.run_soon(lambda db: statement(db, *args, **kwargs), writes=True)

    async def check(self) -> None:
        """Raises `Unavailable` unless the database answers."""
        await self.read(lambda connection: connection.one("SELECT 1"))

    @property
    def usable(self) -> bool:
        """Whether the database could be written to, when that was tried last."""
        return self._writers.health.usable

    def hurry(self) -> None:
        """From here on a database that is away is not waited for."""
        for batcher in (self._log, self._logins, self._cursors):
            batcher.hurry()

    async def idle(self) -> None:
        """Waits until all that was submitted is done."""
        await self._log.idle()
        await self._logins.idle()
        await self._cursors.idle()

    async def stop(self) -> None:
        """Finishes what was submitted, then closes the connections."""
        self.hurry()
        await self.idle()
        self._writers.close()
        self._readers.close()

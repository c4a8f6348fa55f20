"""Group commit: items that arrive while a batch runs share the next one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from chatd.errors import Refused, Unavailable
from chatd.store.connection import Connection
from chatd.store.pool import Pool

Item = TypeVar("Item")
Result = TypeVar("Result")

_Waiting = tuple[Item, Deferred[Result], float]  # since when, in seconds

_PATIENCE = 5.0  # seconds that an item waits for a database that cannot be used
MOST_WAITING = 20_000  # items; a second of the highest load measured


class Batcher(Generic[Item, Result]):
    """One batch at a time goes to the database.

    `work(connection, items)` runs in a thread of the pool, never twice at once, and returns
    one result, or `Refused`, for each item; it may be run again. `publish(pairs)` gets what
    succeeded, in order, before those who wait are told, and `told()` comes after that.
    """

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        pool: Pool,
        work: Callable[[Connection, Sequence[Item]], Sequence[Result | Refused]],
        publish: Callable[[list[tuple[Item, Result]]], None] = lambda pairs: None,
        told: Callable[[], None] = lambda: None,
        size: Callable[[Item], int] = lambda item: 1,
        most: int = 500,
        most_size: int = 4 * 2**20,
    ) -> None:
        self._clock = clock
        self._pool = pool
        self._work = work
        self._publish = publish
        self._told = told
        self._size = size
        self._most = most
        self._most_size = most_size
        self._waiting: list[_Waiting[Item, Result]] = []
        self._running = False
        self._idle: list[Deferred[None]] = []
        self._unpublished: list[Deferred[None]] = []

    def submit(self, item: Item) -> Deferred[Result]:
        """Puts an item into the next batch, which begins at the end of the reactor's turn if
        none runs. Raises `Unavailable` when too many wait."""
        if len(self._waiting) >= MOST_WAITING:
            raise Unavailable("The server cannot keep up with its database. Try again.")
        done: Deferred[Result] = Deferred()
        self._waiting.append((item, done, self._clock.seconds()))
        if not self._running:
            self._running = True
            self._clock.callLater(0, self._next)
        return done

    def published(self) -> Deferred[None]:
        """Fires when all that the database holds now has been published."""
        done: Deferred[None] = Deferred()
        if self._running:
            self._unpublished.append(done)
        else:
            done.callback(None)
        return done

    def idle(self) -> Deferred[None]:
        """Fires when all that was submitted is done."""
        done: Deferred[None] = Deferred()
        if self._running:
            self._idle.append(done)
        else:
            done.callback(None)
        return done

    def _next(self) -> None:
        if self._waiting:
            self._begin()
            return
        self._running = False
        at_rest = self._unpublished + self._idle
        self._unpublished, self._idle = [], []
        for done in at_rest:
            done.callback(None)

    def _begin(self) -> None:
        Deferred.fromCoroutine(self._run(self._cut())).addErrback(self._failed)

    def _cut(self) -> list[_Waiting[Item, Result]]:
        total = count = 0
        for item, _, _ in self._waiting[: self._most]:
            total += self._size(item)
            if count and total > self._most_size:
                break
            count += 1
        batch = self._waiting[:count]
        del self._waiting[:count]
        return batch

    async def _run(self, batch: list[_Waiting[Item, Result]]) -> None:
        results = await self._results([item for item, _, _ in batch])
        # Who asks from here on may have seen what the next batch stores.
        unpublished, self._unpublished = self._unpublished, []
        more = bool(self._waiting)
        if more:
            self._begin()  # the database works while what it stored is told
        self._tell(batch, results)
        for waiter in unpublished:
            waiter.callback(None)
        if not more:
            self._next()

    def _tell(
        self, batch: list[_Waiting[Item, Result]], results: Sequence[Result | Refused]
    ) -> None:
        stored = [
            (item, result)
            for (item, _, _), result in zip(batch, results, strict=True)
            if not isinstance(result, Refused)
        ]
        self._try(lambda: self._publish(stored))
        for (_, done, _), result in zip(batch, results, strict=True):
            if isinstance(result, Refused):
                done.errback(Failure(result))
            else:
                done.callback(result)
        self._try(self._told)

    def _try(self, step: Callable[[], None]) -> None:
        try:
            step()
        except Exception:  # a fault in telling must not take the answers with it
            self._log.failure("publishing failed")

    async def _results(self, items: list[Item]) -> Sequence[Result | Refused]:
        try:
            return await self._pool.run(lambda connection: self._work(connection, items))
        except Refused as refused:
            self._refuse_patient(refused)
            return [refused] * len(items)
        except Exception:  # whatever the database raised: nobody else may suffer for one item
            if len(items) > 1:
                return [(await self._results([item]))[0] for item in items]
            self._log.failure("the database refused an item")
            return [Refused("internal", "The server could not store this.")]

    def _refuse_patient(self, refused: Refused) -> None:
        """The database could not be used: who has waited long is not to wait for it again."""
        since = self._clock.seconds() - _PATIENCE
        waiting = self._waiting
        self._waiting = [item for item in waiting if item[2] > since]
        for _, done, submitted in waiting:
            if submitted <= since:
                done.errback(Failure(refused))

    def _failed(self, failure: Failure) -> None:
        self._log.failure("a batch was lost", failure)

"""Group commit: items that arrive while a batch runs share the next one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import uniform
from typing import Any, Generic, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from chatd.errors import Refused, Unavailable
from chatd.store.connection import Connection
from chatd.store.pool import LATE, PATIENCE, Broken, Pool

Item = TypeVar("Item")
Result = TypeVar("Result")

_Waiting = tuple[Item, Deferred[Result], float]  # since when, in seconds

MOST_WAITING = 20_000  # items; a second of the highest load measured
_PAUSES = (0.02, 0.5)  # seconds, the first and the longest, until a failed batch is tried again


class Batcher(Generic[Item, Result]):
    """One batch at a time goes to the database.

    `work(connection, items)` runs in a thread of the pool, never twice at once, and returns
    one result, or `Refused`, for each item; it may be run again, and runs with no items when it
    is to find out what became of a batch that failed. `publish(stored)` gets what succeeded, in
    order, before those who wait are told: the item, its result, and whether it comes too late
    to be told. `told()` comes after that.

    While the database cannot be used, items wait and are tried again, each for `PATIENCE`
    seconds; then it is refused with `Unavailable`. If it was under way, it may yet succeed.
    """

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        pool: Pool,
        work: Callable[[Connection, Sequence[Item]], Sequence[Result | Refused]],
        publish: Callable[[list[tuple[Item, Result, bool]]], None] = lambda stored: None,
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
        self._under_way: list[_Waiting[Item, Result]] = []
        self._running = False
        self._hurried = False
        self._pause = _PAUSES[0]
        self._alarm: Any = None
        self._idle: list[Deferred[None]] = []
        self._unpublished: list[Deferred[None]] = []

    def submit(self, item: Item) -> Deferred[Result]:
        """Puts an item into the next batch, which begins at the end of the reactor's turn if
        none runs. Raises `Unavailable` when too many wait."""
        if len(self._waiting) >= MOST_WAITING:
            raise Unavailable("The server cannot keep up with its database. Try again.")
        done: Deferred[Result] = Deferred()
        self._waiting.append((item, done, self._clock.seconds()))
        if self._alarm is None:
            self._alarm = self._clock.callLater(PATIENCE, self._ring)
        if not self._running:
            self._running = True
            self._clock.callLater(0, self._next)
        return done

    def published(self) -> Deferred[None]:
        """Fires when all that the database holds now has been published."""
        return self._wait(self._unpublished)

    def idle(self) -> Deferred[None]:
        """Fires when all that was submitted is done."""
        return self._wait(self._idle)

    def _wait(self, waiters: list[Deferred[None]]) -> Deferred[None]:
        done: Deferred[None] = Deferred()
        if self._running:
            waiters.append(done)
        else:
            done.callback(None)
        return done

    def hurry(self) -> None:
        """From now on nothing is tried again."""
        self._hurried = True
        self._hush()

    def _hush(self) -> None:
        if self._hurried and not self._running and self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def _next(self) -> None:
        if self._waiting:
            self._begin()
            return
        self._running = False
        self._hush()
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
        self._under_way = batch = self._waiting[:count]
        del self._waiting[:count]
        return batch

    async def _run(self, batch: list[_Waiting[Item, Result]]) -> None:
        results, failed = await self._results([item for item, _, _ in batch])
        self._under_way = []
        if failed is not None:
            self._tell(batch[: len(results)], results)
            self._put_back(batch[len(results) :], failed)
            return
        self._pause = _PAUSES[0]
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

    def _put_back(self, rest: list[_Waiting[Item, Result]], failed: Unavailable) -> None:
        """To be tried again after a pause, as far as somebody waits for it still; with nothing
        left, too, since what failed may have been stored, and nobody has heard of it."""
        self._waiting[:0] = [waiting for waiting in rest if not waiting[1].called]
        if self._hurried:
            self._refuse(self._waiting, failed)
            self._waiting = []
            self._next()
            return
        self._clock.callLater(self._pause * uniform(0.5, 1), self._begin)
        self._pause = min(2 * self._pause, _PAUSES[1])

    def _ring(self) -> None:
        """Refuses those who have waited for too long."""
        self._alarm = None
        now = self._clock.seconds()
        unanswered = [waiting for waiting in self._under_way if not waiting[1].called]
        unanswered += self._waiting
        late = [waiting for waiting in unanswered if waiting[2] + PATIENCE <= now]
        self._waiting = [waiting for waiting in self._waiting if waiting[2] + PATIENCE > now]
        if len(late) < len(unanswered):
            oldest = unanswered[len(late)][2]
            self._alarm = self._clock.callLater(oldest + PATIENCE - now, self._ring)
        self._refuse(late, LATE)

    def _refuse(self, batch: Sequence[_Waiting[Item, Result]], refused: Refused) -> None:
        for _, done, _ in batch:
            done.errback(Failure(refused))

    def _tell(
        self, batch: list[_Waiting[Item, Result]], results: Sequence[Result | Refused]
    ) -> None:
        stored = [
            (item, result, done.called)
            for (item, done, _), result in zip(batch, results, strict=True)
            if not isinstance(result, Refused)
        ]
        self._try(lambda: self._publish(stored))
        for (_, done, _), result in zip(batch, results, strict=True):
            if done.called:
                continue
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

    async def _results(
        self, items: list[Item]
    ) -> tuple[Sequence[Result | Refused], Unavailable | None]:
        """The results of the first items, and why the others have none if they have none."""
        try:
            return await self._pool.run(lambda connection: self._work(connection, items)), None
        except Broken as broken:
            refused: Refused = broken
        except Unavailable as unavailable:
            return [], unavailable
        except Exception:  # whatever the database raised: nobody else may suffer for one item
            if len(items) <= 1:
                self._log.failure("the database refused an item")
            refused = _REFUSED
        return await self._one_by_one(items, refused)

    async def _one_by_one(
        self, items: list[Item], refused: Refused
    ) -> tuple[Sequence[Result | Refused], Unavailable | None]:
        if not items:
            return [], Unavailable(refused.sentence)
        # First what became of them together: it comes before what is stored from here on.
        _, unknown = await self._results([])
        if len(items) == 1:
            return [refused], unknown
        if unknown is not None:
            return [], unknown
        results: list[Result | Refused] = []
        for item in items:
            result, failed = await self._results([item])
            results += result
            if failed is not None:
                return results, failed
        return results, None

    def _failed(self, failure: Failure) -> None:
        self._log.failure("a batch was lost", failure)


_REFUSED = Refused("internal", "The server could not store this.")

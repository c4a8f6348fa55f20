"""Brings what was said into the index, behind the log: nobody who sends waits for it."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Sequence
from itertools import islice
from time import perf_counter
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from chatd.errors import Unavailable
from chatd.store.connection import Connection
from chatd.store.postings import TOKENS, behind, index
from chatd.store.store import Store

Spawn = Callable[[str, Coroutine[Any, Any, None]], None]

GATHERING = 0.1  # seconds in which news gather before they are indexed together
_ROOMS = 50  # in one transaction, at most
_FEW = 20  # tokens that a room which is behind has at least, mostly
_LOOK = 500  # rooms of which is found out at once whether they are behind
_LEAST = 600  # tokens in one transaction where the database is slow: a commit costs as much
_HOLD = 0.03  # seconds for which one may hold SQLite's one writer, or the locks of its rooms
_REST = 4  # times as long as a transaction took, while more is said
_AGAIN = 1.0  # seconds until a database that is away is tried again


class Indexer:
    """Knows the rooms that are behind, and indexes them in small transactions, one at a time,
    which are the smaller, the slower the database is.

    Between two of them it rests as long as the last one took, and four times as long while more
    is said: in a flood the log comes first, and the index catches up afterwards. A node that was
    killed finds at its next start what is left.
    """

    def __init__(self, store: Store, clock: IReactorTime, spawn: Spawn) -> None:
        self._store = store
        self._clock = clock
        self._spawn = spawn
        self._behind: dict[int, None] = {}
        self._unseen: int | None = None  # rooms with a higher id are not yet looked at
        self._most = _LEAST  # tokens in the next transaction
        self._news = False  # since the last one began
        self._running = False
        self._stopped = False
        self._rest: Deferred[None] | None = None
        self._waiting: list[Deferred[None]] = []

    def start(self) -> None:
        """Begins to look for the rooms that an earlier process left behind."""
        self._unseen = 0
        self._wake()

    def stop(self) -> None:
        """Begins nothing further; `level` tells when what was begun is done. What is left, the
        next start finds."""
        self._stopped = True
        if self._rest is not None:
            self._rest.cancel()

    def note(self, room_ids: Iterable[int]) -> None:
        """Something was said in these rooms."""
        self._behind.update(dict.fromkeys(room_ids))
        self._news = True
        self._wake()

    def level(self) -> Deferred[None]:
        """Fires when all that was said before is in the index, or the indexer stops."""
        done: Deferred[None] = Deferred()
        if self._running:
            self._waiting.append(done)
        else:
            done.callback(None)
        return done

    def _wake(self) -> None:
        if not self._running and not self._stopped:
            self._running = True
            self._spawn("indexing", self._run())

    async def _run(self) -> None:
        try:
            pause = GATHERING
            while not self._stopped and (self._behind or self._unseen is not None):
                self._rest = deferLater(self._clock, pause)
                await self._rest
                self._rest = None
                pause = await self._go_on()
        except CancelledError:
            return  # stopped
        finally:
            self._running = False
            waiting, self._waiting = self._waiting, []
            for done in waiting:
                done.callback(None)

    async def _go_on(self) -> float:
        """Does the next piece of work; for how many seconds to rest after it."""
        begun, self._news = self._clock.seconds(), False
        try:
            if self._behind:
                await self._index()
            else:
                await self._look()
        except Unavailable:
            return _AGAIN
        took = max(0.0, self._clock.seconds() - begun)
        return took * _REST if self._news else took

    async def _index(self) -> None:
        part = [*islice(self._behind, min(_ROOMS, self._most // _FEW))]
        for room_id in part:
            del self._behind[room_id]
        left: Iterable[int] = part
        try:
            left, took = await self._store.write(_timed, part, self._most)
            self._fit(took)
        finally:
            self._behind.update(dict.fromkeys(left))  # behind those that came meanwhile

    def _fit(self, took: float) -> None:
        if took > _HOLD:
            self._most = max(_LEAST, self._most // 2)
        elif took < _HOLD / 2:
            self._most = min(TOKENS, self._most * 2)

    async def _look(self) -> None:
        assert self._unseen is not None
        found, self._unseen = await self._store.read(behind, self._unseen, _LOOK)
        self._behind.update(dict.fromkeys(found))


def _timed(connection: Connection, room_ids: Sequence[int], most: int) -> tuple[list[int], float]:
    """Without the time that it waited for the thread; in seconds."""
    begun = perf_counter()
    return index(connection, room_ids, most), perf_counter() - begun

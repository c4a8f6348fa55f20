"""What the store does while its database is away: who waits, who is told what, and that nothing is
stored unheard. The same on SQLite and on MariaDB."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import LogEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from chatd.errors import Unavailable
from chatd.store import batch, pool
from chatd.store.accounts import Login
from chatd.store.connection import Connection
from chatd.store.pool import Health
from chatd.store.rooms import Cursor
from tests.stores import Held, MariaDBCase, SQLiteCase, Wire, in_reactor, once, throw

if TYPE_CHECKING:
    from tests.stores import StoreCase as Contract
else:
    Contract = object

INSERT = "INSERT INTO entries"


class Outage:
    """A database that takes no statement of a kind while it is `on`."""

    def __init__(self, wire: Wire, error: Exception, begin: str = INSERT) -> None:
        self.on = True
        self._error = error
        self._begin = begin
        self._waiting: list[Deferred[None]] = []
        wire.before = self._refuse

    async def refuses(self, times: int) -> None:
        """Waits until it has refused so often from now on."""
        waiting: list[Deferred[None]] = [Deferred() for _ in range(times)]
        self._waiting += waiting
        for refused in waiting:
            await refused

    def _refuse(self, sql: str) -> None:
        if not self.on or not sql.startswith(self._begin):
            return
        if self._waiting:
            in_reactor(self._waiting.pop(0))
        raise self._error


class Waiting(Contract):
    """Appends while the database is away."""

    def outage(self) -> tuple[Any, Outage]:
        """A node, and the outage of its database."""
        wire = Wire()
        return self.node(self.wired(wire)), Outage(wire, self.unusable())

    async def test_waits(self) -> None:
        """An append waits for the database and is stored once, in its order, when that is back."""
        node, outage = self.outage()
        room, user = self.inbox(), self.user()
        waiting = [node.append(self.draft(room, user)) for _ in range(3)]
        await outage.refuses(2)
        waiting.append(node.append(self.draft(room, user)))
        outage.on = False
        self.assertEqual(await self.answers(waiting), [1, 2, 3, 4])
        self.assertEqual(node.heard_in(room), [1, 2, 3, 4])

    async def test_refused(self) -> None:
        """An append that has waited long enough is refused and not stored later; the next one
        is taken when the database is back."""
        node, outage = self.outage()
        room, user = self.inbox(), self.user()
        for module in (batch, pool):
            self.patch(module, "PATIENCE", 0.1)
        with self.assertRaises(Unavailable) as refused:
            await node.append(self.draft(room, user))
        self.assertEqual(refused.exception.retry_after, 1)
        self.patch(batch, "PATIENCE", 60)
        following = node.append(self.draft(room, user))
        await outage.refuses(2)  # it may have been under way when it was refused
        outage.on = False
        self.assertEqual(await self.answer(following), 1)
        self.assertEqual(node.heard_in(room), [1])

    async def test_one_after_the_other(self) -> None:
        """Each item has its own time to wait, under way or not."""
        node, clock, gate = self.node(), Clock(), threading.Event()

        def work(connection: Connection, items: Sequence[str]) -> Sequence[str]:
            gate.wait(20)
            return items

        batcher: batch.Batcher[str, str] = batch.Batcher(clock, node._writers, work)
        first = batcher.submit("first")
        clock.advance(0)
        clock.advance(1)
        second, third = batcher.submit("second"), batcher.submit("third")
        clock.advance(pool.PATIENCE - 1)
        self.failureResultOf(first, Unavailable)
        self.assertNoResult(second)
        clock.advance(1)
        self.failureResultOf(second, Unavailable)
        self.failureResultOf(third, Unavailable)
        last = batcher.submit("last")
        gate.set()
        self.assertEqual(await last, "last")
        batcher.hurry()
        await batcher.idle()
        self.assertEqual(clock.getDelayedCalls(), [])

    async def test_stop(self) -> None:
        """A store that stops waits for no database that is away, and refuses what it has."""
        node, outage = self.outage()
        room, user = self.inbox(), self.user()
        waiting = node.append(self.draft(room, user))
        await outage.refuses(2)
        await node.stop()
        self.nodes.remove(node)
        self.assertEqual(await self.answer(waiting), "unavailable")

    async def test_logins_and_cursors(self) -> None:
        """They wait like appends; a batch of none is good for finding out that the database is
        back."""
        self.patch(pool, "_CALM", 0)
        cursor = Cursor(self.user().id, self.inbox().id)
        self.patch(batch, "PATIENCE", 0.1)
        for submit in (
            lambda node: node.log_in(Login(0, token=bytes(32))),
            lambda node: node.advance(cursor),
        ):
            wire = Wire()
            node = self.node(self.wired(wire))
            outage = Outage(wire, self.unusable(), begin="")
            with self.assertRaises(Unavailable):
                await submit(node)
            outage.on = False
            await node._logins.published()
            await node._cursors.published()
            self.assertTrue(node.usable)


class Late(Contract):
    """Answers that come too late."""

    after: str  # the statement after which an append is stored

    async def test_stored_after_all(self) -> None:
        """An append that was refused while it was under way, and is stored after all, is heard by
        all sessions, its own too; its repeat gets its place."""
        wire = Wire()
        node, room, user = self.node(self.wired(wire)), self.inbox(), self.user()
        held = Held(wire, INSERT)
        self.patch(batch, "PATIENCE", 0.1)
        session: Any = object()
        draft = msgspec.structs.replace(self.draft(room, user, key="k"), origin=session)
        refused = node.append(draft)
        await held.there
        self.assertEqual(await self.answer(refused), "unavailable")
        self.patch(batch, "PATIENCE", 60)
        again = node.append(self.draft(room, user, key="k"))
        held.go()
        self.assertEqual(await self.answer(again), ("again", 1))
        self.assertEqual([(draft.origin, seq) for draft, seq in node.heard], [(None, 1)])

    async def test_in_doubt(self) -> None:
        """What a failed batch stored all the same is found out without anybody's doing and heard
        by all sessions."""
        wire = Wire()
        node, room, user = self.node(self.wired(wire)), self.inbox(), self.user()
        away = threading.Event()

        def lose(sql: str) -> None:
            if sql.startswith(self.after):
                away.set()
                raise self.unusable()

        def refuse(sql: str) -> None:
            if away.is_set():
                raise self.unusable()

        wire.after, wire.before = lose, refuse
        self.patch(batch, "PATIENCE", 0.1)
        session: Any = object()
        draft = msgspec.structs.replace(self.draft(room, user), origin=session)
        self.assertEqual(await self.answer(node.append(draft)), "unavailable")
        published = node.published()
        self.assertNoResult(published)
        wire.after = lambda sql: None
        away.clear()
        await published
        self.assertEqual([(draft.origin, seq) for draft, seq in node.heard], [(None, 1)])
        self.assertEqual(self.seqs(room), [1])

    async def test_in_doubt_and_tried_again(self) -> None:
        """What a failed batch stored is acknowledged as new to those who still wait for it."""
        wire = Wire()
        node, room, user = self.node(self.wired(wire)), self.inbox(), self.user()
        lost: list[str] = []

        def lose(sql: str) -> None:
            if sql.startswith(self.after) and not lost:
                lost.append(sql)
                raise self.unusable()

        wire.after = lose
        session: Any = object()
        draft = msgspec.structs.replace(self.draft(room, user), origin=session)
        self.assertEqual(await self.answer(node.append(draft)), 1)
        self.assertEqual([(draft.origin, seq) for draft, seq in node.heard], [(session, 1)])
        self.assertEqual(self.seqs(room), [1])

    async def test_in_doubt_and_one_by_one(self) -> None:
        """What a batch stored, although its answer was an error, is heard in the order of the log
        and stored once."""
        node, room, user = self.odd()
        waiting = [node.append(self.draft(room, user)) for _ in range(3)]
        self.assertEqual(await self.answers(waiting), [("again", n) for n in (1, 2, 3)])
        self.assertEqual(node.heard_in(room), [1, 2, 3])
        self.assertEqual(self.seqs(room), [1, 2, 3])

    async def test_refused_in_doubt(self) -> None:
        """An append that was refused for an error, but stored, is heard without anybody's doing."""
        node, room, user = self.odd()
        self.assertEqual(await self.answer(node.append(self.draft(room, user))), "internal")
        await node.published()
        self.assertEqual(node.heard_in(room), [1])
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def odd(self) -> tuple[Any, Any, Any]:
        """A node whose database answers what it has stored by an error, once; a room and a user."""
        wire = Wire()
        wire.after = once(self.after, lambda: throw(ValueError("no answer that one expects")))
        return self.node(self.wired(wire)), self.inbox(), self.user()


class Busy(Contract):
    """Reads and writes when all threads are taken."""

    def take(self, node: Any, how: str, threads: int) -> tuple[list[Deferred[Any]], Any, Any]:
        """Works that hold the threads: their results, what fires when all have begun, what lets
        them go."""
        begun: Deferred[None] = Deferred()
        gate = threading.Barrier(threads, action=lambda: in_reactor(begun))
        go = threading.Event()

        def hold(connection: Connection) -> str:
            gate.wait(20)
            go.wait(20)
            return "done"

        return [getattr(node, how)(hold) for _ in range(threads)], begun, go

    async def test_read(self) -> None:
        """A read that is not answered in time is refused, begun or not; one that has not begun
        never runs."""
        node = self.node(connections=1)
        threads = node._readers._pool.max
        await self.emptied(node)  # and connected
        self.patch(pool, "PATIENCE", 0.1)
        held, begun, go = self.take(node, "read", threads)
        ran: list[int] = []
        waiting = node.read(lambda connection: ran.append(1))
        await begun
        for refused in (*held, waiting):
            with self.assertRaises(Unavailable):
                await refused
        go.set()
        self.patch(pool, "PATIENCE", 60)
        self.assertEqual(await node.read(lambda connection: "next"), "next")
        await self.emptied(node)
        self.assertEqual(ran, [])

    async def test_write(self) -> None:
        """A write that has begun is waited for; one that has not is refused and never runs."""
        node = self.node(connections=1)
        await self.emptied(node)  # and connected
        self.patch(pool, "PATIENCE", 0.1)
        self.patch(pool, "ANSWER_SECONDS", 0)
        held, begun, go = self.take(node, "write", 1)
        ran: list[int] = []
        waiting = node.write(lambda connection: ran.append(1))
        await begun
        with self.assertRaises(Unavailable):
            await waiting
        go.set()
        self.assertEqual([await one for one in held], ["done"])
        await self.emptied(node)
        self.assertEqual(ran, [])

    async def emptied(self, node: Any) -> None:
        """Waits until nothing is left in the pools' queues."""
        self.patch(pool, "PATIENCE", 60)
        await node.write(lambda connection: None)
        threads = node._readers._pool.max
        _, begun, go = self.take(node, "read", threads)
        await begun
        go.set()

    async def test_too_many(self) -> None:
        """When too many wait, the next is refused at once."""
        node = self.node(connections=1)
        self.patch(pool, "_MOST_WAITING", 2)
        held, begun, go = self.take(node, "write", 1)
        await begun
        waiting = node.write(lambda connection: "second")
        with self.assertRaises(Unavailable):
            await node.write(lambda connection: "third")
        go.set()
        self.assertEqual([await one for one in (*held, waiting)], ["done", "second"])
        self.assertEqual(await node.write(lambda connection: "fourth"), "fourth")


class OutagesOnSQLite(Waiting, Late, Busy, SQLiteCase):
    """On SQLite."""

    after = "COMMIT"


class OutagesOnMariaDB(Waiting, Late, Busy, MariaDBCase):
    """On MariaDB, and what only a server can do."""

    after = INSERT

    async def test_given_up(self) -> None:
        """A statement whose answer was given up is not carried out later: the server has ended it
        when the connection that takes its place is used."""
        node = self.impatient()
        with self.assertRaises(Unavailable):
            await node.write(self.slow)
        await node.write(lambda connection: connection.all("SELECT 1"))
        self.assertEqual(self.still_runs(self.db), [])
        self.assertEqual(self.db.all("SELECT name FROM api_keys"), [])

    async def test_given_up_elsewhere(self) -> None:
        """The same where a thread comes next whose own connection stands."""
        run = self.impatient()._writers._attempt
        self.patch(pool, "ANSWER_SECONDS", 0)
        with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
            other.submit(run, lambda connection: connection.all("SELECT 1")).result()
            with self.assertRaises(Unavailable):
                one.submit(run, self.slow).result()
            self.assertEqual(other.submit(run, self.still_runs).result(), [])
        self.assertEqual(self.db.all("SELECT name FROM api_keys"), [])

    def impatient(self) -> Any:
        """A node that gives a statement up soon."""
        connect = {**self.dialect.connect, "read_timeout": 0.2}
        return self.node(dataclasses.replace(self.dialect, connect=connect), connections=1)

    @staticmethod
    def slow(connection: Connection) -> None:
        connection.run(
            "INSERT INTO api_keys (hash, name, scopes, created_at) SELECT ?, ?, '', SLEEP(10)",
            (b"h", "slow"),
        )

    @staticmethod
    def still_runs(connection: Connection) -> list[Any]:
        return connection.all(
            "SELECT info FROM information_schema.processlist"
            " WHERE db = DATABASE() AND info LIKE '%SLEEP(10)' AND id <> CONNECTION_ID()"
        )

    async def test_lock(self) -> None:
        """A statement does not wait for another's lock for ever, but is tried again."""
        node, room, user = self.node(), self.inbox(), self.user()
        found = await node.write(lambda db: db.one("SELECT @@innodb_lock_wait_timeout"))
        self.assertLess(found[0], pool.PATIENCE)  # type: ignore[index]
        self.assertEqual(await self.answer(node.append(self.draft(room, user))), 1)

    async def test_few_attempts(self) -> None:
        """While no connection can be made, only now and then one is tried."""
        nowhere = {**self.dialect.connect, "unix_socket": "/nowhere"}
        node = self.node(dataclasses.replace(self.dialect, connect=nowhere))
        tried: list[int] = []
        connect = node._readers._pool.connect

        def count() -> Any:
            tried.append(1)
            return connect()

        self.patch(node._readers._pool, "connect", count)
        for _ in range(100):
            with self.assertRaises(Unavailable):
                await node.read(lambda connection: None)
        self.assertLess(len(tried), 20)


class OneLine(SynchronousTestCase):
    """What the log says of the database's health."""

    def setUp(self) -> None:
        self.lines: list[str] = []
        note: Any = self._note
        globalLogPublisher.addObserver(note)
        self.addCleanup(globalLogPublisher.removeObserver, note)

    def _note(self, event: LogEvent) -> None:
        if event.get("log_namespace") == "chatd.store.pool.Health":
            self.lines.append(event["log_format"])

    def test_changes(self) -> None:
        """Each change of state is one line, however many failures and successes it has; a success
        amid failures is no change, and one soon behind them is not told yet."""
        health = Health("written")
        for _ in range(3):
            health.failed(OSError("away"))
            health.succeeded()
        self.assertEqual(len(self.lines), 1)
        self.assertFalse(health.usable)
        self.patch(pool, "_CALM", 0)
        health.succeeded()
        self.assertEqual((health.usable, len(self.lines)), (True, 1))
        health.failed(OSError("away again"))
        self.assertEqual((health.usable, len(self.lines)), (False, 1))
        self.patch(pool, "_QUIET", 0)
        for _ in range(3):
            health.succeeded()
        self.assertEqual((health.usable, len(self.lines)), (True, 2))

    def test_refusal(self) -> None:
        """After a failure to connect, others are refused without an attempt, for a while; after
        another failure they are not."""
        health = Health("written")
        health.failed(OSError("full"))
        self.assertIsNone(health.refusal())
        self.patch(pool, "_PAUSES", (60.0, 60.0))
        health = Health("written")
        health.failed(OSError("away"), connecting=True)
        self.assertIsInstance(health.refusal(), Unavailable)

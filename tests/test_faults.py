"""The fault harness itself: its oracle finds what is wrong, its proxy does what it says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.faults.actors import Frames, Lines, frame
from tests.faults.catalogue import FAULTS
from tests.faults.oracle import Ledger, Row, Said, Verdict, View, judge, room_of
from tests.faults.proxy import Proxy

GUARD = 10  # seconds, far more than anything here takes


class History:
    """A good history of three messages in a group, which a test spoils."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.view = View("bob")
        self.view.since["#g"] = 1
        self.session = self.view.begin()
        self.rows = [Row("#g", 1, "alice", "\0made", "")]
        for seq in (2, 3, 4):
            key = f"k{seq}"
            self.ledger.say(key, Said("alice", "#g", f"text {seq}"))
            self.ledger.acknowledge(key, seq)
            self.rows.append(Row("#g", seq, "alice", key, f"text {seq}"))
            self.hear(seq)

    def hear(self, seq: int, text: str = "") -> None:
        """Bob gets an event."""
        self.session.events["#g"].append(seq)
        self.view.saw("#g", seq, text or f"text {seq}")

    def verdict(self) -> Verdict:
        """What the oracle says."""
        return judge(self.ledger, self.rows, [self.view])


class OracleTests(SynchronousTestCase):
    """Good histories pass, each kind of bad one is counted."""

    def setUp(self) -> None:
        self.history = History()

    def check(self, lost: int = 0, doubled: int = 0, reordered: int = 0) -> None:
        """Whether just this is found."""
        verdict = self.history.verdict()
        found = (bool(verdict.lost), bool(verdict.doubled), bool(verdict.reordered))
        self.assertEqual(found, (bool(lost), bool(doubled), bool(reordered)), verdict.complaints)
        self.assertEqual(bool(verdict.complaints), any(found))

    def test_good(self) -> None:
        """Nothing is found where nothing is wrong; what comes again after a reconnect is not
        wrong."""
        self.check()
        self.history.session = self.history.view.begin()
        self.history.hear(3)
        self.history.hear(4)
        self.check()
        self.assertEqual(self.history.verdict().acknowledged, 3)

    def test_own_ones_left_out(self) -> None:
        """A session need not get what its own user said."""
        history = self.history
        history.rows.append(Row("#g", 5, "bob", "b5", "mine"))
        history.rows.append(Row("#g", 6, "alice", "k6", "text 6"))
        history.view.saw("#g", 5, "mine")
        history.hear(6)
        self.check()

    def test_acknowledged_and_not_stored(self) -> None:
        """An acknowledged message that is not stored is lost."""
        self.history.ledger.say("k5", Said("alice", "#g", "text 5"))
        self.history.ledger.acknowledge("k5", 5)
        self.check(lost=1)

    def test_stored_otherwise(self) -> None:
        """So is one that is stored with another text, number or key."""
        good = self.history.rows[3]
        for row in (
            Row("#g", 4, "alice", "k4", "other"),
            Row("#h", 4, "alice", "k4", "text 4"),
            Row("#g", 4, "alice", "k9", "text 4"),
            Row("#g", 4, "carol", "k4", "text 4"),
        ):
            self.history.rows[3] = row
            self.assertTrue(self.history.verdict().lost, row)
        self.history.rows[3] = good
        self.check()

    def test_never_seen(self) -> None:
        """A stored message that a subscriber never got is lost, unless it is older than the
        subscription."""
        self.history.rows.append(Row("#g", 5, "carol", "c5", "text 5"))
        self.check(lost=1)
        self.history.view.since["#g"] = 5
        self.check()

    def test_seen_and_not_stored(self) -> None:
        """What a subscriber got and is not stored is lost."""
        self.history.hear(5)
        self.check(lost=1)

    def test_key_stored_twice(self) -> None:
        """A key that is stored twice is doubled."""
        self.history.rows.append(Row("#g", 5, "alice", "k4", "text 5"))
        self.history.hear(5)
        self.check(doubled=1)

    def test_text_stored_twice(self) -> None:
        """So is a text, under whatever keys."""
        self.history.rows.append(Row("#g", 5, "alice", "k5", "text 4"))
        self.history.hear(5, "text 4")
        self.check(doubled=1)

    def test_told_twice(self) -> None:
        """So is an event that a session gets twice."""
        self.history.hear(4)
        self.check(doubled=1)

    def test_two_acknowledgements(self) -> None:
        """So is a key that is acknowledged with two numbers."""
        self.history.ledger.acknowledge("k4", 3)
        self.check(doubled=1)

    def test_hole_in_the_log(self) -> None:
        """A log with a hole is out of order."""
        self.history.rows.append(Row("#g", 6, "alice", "k6", "text 6"))
        self.history.session = self.history.view.begin()
        self.history.hear(6)
        self.check(reordered=1)

    def test_hole_in_a_session(self) -> None:
        """A session that got an entry of another before an earlier one is out of order, though
        it gets that later."""
        history = self.history
        history.rows += [Row("#g", seq, "alice", f"k{seq}", f"text {seq}") for seq in (5, 6)]
        history.hear(6)
        history.session = history.view.begin()
        history.hear(5)
        self.check(reordered=1)

    def test_backwards(self) -> None:
        """So is one that gets an earlier entry behind a later one."""
        self.history.hear(2)
        self.check(reordered=1)

    def test_another_text(self) -> None:
        """So is an entry that comes with two texts."""
        self.history.session = self.history.view.begin()
        self.history.hear(4, "text 3")
        self.check(reordered=1)

    def test_acknowledged_out_of_order(self) -> None:
        """So are messages of a session that are stored in another order than they were said."""
        self.history.session.acks["#g"].extend((3, 2))
        self.check(reordered=1)

    def test_names_of_rooms(self) -> None:
        """A direct room has one name, whoever of the two speaks."""
        self.assertEqual(room_of("bob", "@alice"), room_of("alice", "@bob"))
        self.assertEqual(room_of("bob", "#alice"), "#alice")


class WireTests(SynchronousTestCase):
    """What comes is the same wherever it is cut."""

    def test_frames(self) -> None:
        """Frames of every size."""
        head = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"
        sizes = (0, 1, 125, 126, 65_535, 65_536)
        frames = b"".join(_unmasked(b"x" * size) for size in sizes) + b"\x89\x02hi\x88\x02\x03\xe8"
        for step in (1, 7, 100_000):
            wire = Frames()
            data = head + frames
            found = [f for at in range(0, len(data), step) for f in wire.feed(data[at : at + step])]
            expected = [("text", b"x" * size) for size in sizes]
            self.assertEqual(found, [*expected, ("ping", b"hi"), ("close", b"\x03\xe8")])

    def test_refused(self) -> None:
        """A handshake that is refused is no connection."""
        self.assertRaises(ConnectionRefusedError, Frames().feed, b"HTTP/1.1 403 No\r\n\r\n")

    def test_lines(self) -> None:
        """Lines that are JSON; others are passed over."""
        wire = Lines()
        data = b'+OK\n{"a":1}\n{"b"'
        found = [f for at in range(len(data)) for f in wire.feed(data[at : at + 1])]
        self.assertEqual(found, [("text", b'{"a":1}')])


def _unmasked(payload: bytes) -> bytes:
    masked = bytearray(frame(payload))
    masked[1] &= 0x7F
    del masked[len(masked) - len(payload) - 4 : len(masked) - len(payload)]
    return bytes(masked)


class Echo:
    """A server that gives back what comes, and notes how connections end."""

    def __init__(self) -> None:
        self.ends: list[str] = []
        self.ended = asyncio.Event()
        self.received = b""
        self.tasks: set[asyncio.Task[Any]] = set()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if task := asyncio.current_task():
            self.tasks.add(task)
        try:
            while data := await reader.read(65_536):
                self.received += data
                writer.write(data)
            self.ends.append("FIN")
        except ConnectionResetError:
            self.ends.append("RST")
        writer.close()
        self.ended.set()


class ProxyTests(SynchronousTestCase):
    """The proxy between a client and an echo."""

    def play(self, scene: Callable[[Proxy, Echo, Any, Any], Coroutine[Any, Any, None]]) -> None:
        """Runs a scene with a client's reader and writer."""

        async def run() -> None:
            echo = Echo()
            server = await asyncio.start_server(echo, "127.0.0.1", 0)
            proxy = Proxy(lambda: int(server.sockets[0].getsockname()[1]))
            await proxy.start()
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            try:
                writer.write(b"hello")
                self.assertEqual(await reader.readexactly(5), b"hello")
                await asyncio.wait_for(scene(proxy, echo, reader, writer), GUARD)
            finally:
                writer.transport.abort()
                proxy.close()
                server.close()
                await asyncio.wait(echo.tasks, timeout=GUARD)

        asyncio.run(run())

    def test_cut(self) -> None:
        """A cut is an end in good order for both."""

        async def scene(proxy: Proxy, echo: Echo, reader: Any, writer: Any) -> None:
            proxy.cut()
            self.assertEqual(await reader.read(), b"")
            await echo.ended.wait()
            self.assertEqual(echo.ends, ["FIN"])

        self.play(scene)

    def test_reset(self) -> None:
        """A reset is none, for both."""

        async def scene(proxy: Proxy, echo: Echo, reader: Any, writer: Any) -> None:
            proxy.reset()
            with self.assertRaises(ConnectionResetError):
                await reader.read()
            await echo.ended.wait()
            self.assertEqual(echo.ends, ["RST"])

        self.play(scene)

    def test_truncate(self) -> None:
        """The client gets so many bytes more, then the end."""

        async def scene(proxy: Proxy, echo: Echo, reader: Any, writer: Any) -> None:
            proxy.truncate(7)
            writer.write(b"0123456789")
            self.assertEqual(await reader.read(), b"0123456")

        self.play(scene)

    def test_blackhole(self) -> None:
        """What the server sends, its end too, does not reach the client; what the client sends
        reaches the server. New connections are served."""

        async def scene(proxy: Proxy, echo: Echo, reader: Any, writer: Any) -> None:
            proxy.blackhole(down=True)
            writer.write(b"lost")
            again, fresh = await asyncio.open_connection("127.0.0.1", proxy.port)
            fresh.write(b"served")
            self.assertEqual(await again.readexactly(6), b"served")
            fresh.transport.abort()
            self.assertIn(b"lost", echo.received)
            self.assertFalse(reader._buffer)

        self.play(scene)

    def test_stall(self) -> None:
        """What is sent waits until the proxy goes on."""

        async def scene(proxy: Proxy, echo: Echo, reader: Any, writer: Any) -> None:
            proxy.stall()
            writer.write(b"later")
            _, fresh = await asyncio.open_connection("127.0.0.1", proxy.port)
            fresh.transport.abort()
            self.assertEqual(echo.received, b"hello")
            proxy.go_on()
            self.assertEqual(await reader.readexactly(5), b"later")

        self.play(scene)

    def test_throttle(self) -> None:
        """All arrives, in order."""

        async def scene(proxy: Proxy, echo: Echo, reader: Any, writer: Any) -> None:
            proxy.throttle(20_000)
            data = bytes(range(250)) * 20
            writer.write(data)
            self.assertEqual(await reader.readexactly(len(data)), data)

        self.play(scene)

    def test_swallow(self) -> None:
        """A command of that kind reaches the server; its client gets a reset for an answer, and
        the next one is answered."""

        async def scene(proxy: Proxy, echo: Echo, reader: Any, writer: Any) -> None:
            done = proxy.swallow(b"COMMIT")
            other = b"\x07\0\0\0\x03SELECT"
            writer.write(other)
            self.assertEqual(await reader.readexactly(len(other)), other)
            writer.write(b"\x07\0\0\0\x03COMMIT")
            with self.assertRaises(ConnectionResetError):
                await reader.read()
            self.assertTrue(done.is_set())
            self.assertIn(b"COMMIT", echo.received)

        self.play(scene)


class CatalogueTests(SynchronousTestCase):
    """The table of faults."""

    def test_complete(self) -> None:
        """Each has a name of its own and something that shows it; at least 45 rows of the 76 are
        there."""
        names = [fault.name for fault in FAULTS]
        self.assertEqual(len(names), len(set(names)))
        for fault in FAULTS:
            self.assertEqual(bool(fault.play), not fault.tests, fault.name)
        self.assertGreaterEqual(len({fault.row for fault in FAULTS}), 45)

    def test_tests_exist(self) -> None:
        """The tests that are named are there."""
        from twisted.trial.runner import TestLoader

        for name in {name for fault in FAULTS for name in fault.tests}:
            found = TestLoader().loadByName(name)
            self.assertTrue(found.countTestCases(), name)
            self.assertNotIn("ErrorHolder", repr(found), name)

"""The heartbeat: dead peers, late logins, housekeeping."""

from __future__ import annotations

import itertools
import math
import re
from functools import partial
from operator import add
from typing import Any

from twisted.internet.task import Clock

from chatd.errors import LOGGED_OUT, LOGIN_TIMEOUT
from chatd.heartbeat import BEATS, Heartbeat
from chatd.settings import Heartbeat as Pulse
from chatd.settings import Limits
from tests.bed import Frames, NodeCase

_TINY = 1e-6  # seconds, so that a beat is not before its time by a rounding error


class Beats(NodeCase):
    """Ticks made by hand."""

    pulse = Pulse(interval=30, timeout=10)
    limits = Limits(login_seconds=20)

    def pings(self, client: Frames) -> int:
        """Takes the pings that came; their number."""
        client.received, count = re.subn(rb"\x89\x08.{8}", b"", client.received, flags=re.DOTALL)
        return count

    async def test_a_quiet_peer_is_asked_and_kept_if_it_answers(self) -> None:
        """A quiet WebSocket client gets one ping an interval; its answers keep it."""
        alice = await self.user("alice")
        for _ in range(5):
            self.tick(30)
            self.assertEqual(self.pings(alice), 1)
            alice.frame(b"", opcode=10)
        self.assertFalse(alice.closed)

    async def test_a_dead_peer_is_dropped_in_time(self) -> None:
        """Who answers no ping is dropped within interval and timeout, though the server
        writes to it all the time."""
        alice, bob = await self.user("alice"), await self.user("bob")
        for second in range(40):
            self.assertFalse(bob.closed and second < 35, f"after {second} s")
            if second % 5 == 0:
                await alice.ask("say", to="@bob", text="are you there?")
            self.tick(1)
        self.assertTrue(bob.closed)
        self.assertFalse(alice.closed)

    async def test_a_slow_reader_is_kept_as_long_as_it_reads(self) -> None:
        """A client whose ping stands behind much that it reads slowly is not dropped while that
        becomes less; with little on its way it is, whoever takes it."""
        for much, kept in ((500_000, True), (40_000, False)):
            bob = await self.user("bob")
            (session,) = self.node.hub.sessions
            self.patch(session.link, "pending", itertools.count(much, -100).__next__)
            self.tick(50)
            self.assertEqual(bob.closed, not kept)
            self.patch(session.link, "pending", itertools.repeat(much).__next__)
            self.tick(45)
            self.assertTrue(bob.closed)

    async def test_a_client_that_asks_is_not_pinged(self) -> None:
        """Any request is a sign of life."""
        alice = await self.user("alice")
        for _ in range(10):
            self.tick(20)
            await alice.ask("ping")
        self.assertEqual(self.pings(alice), 0)

    async def test_nobody_stays_without_logging_in(self) -> None:
        """A connection on which nobody logs in is closed with its code."""
        frames, lines = self.frames(), self.lines()
        self.tick(20)
        self.assertFalse(lines.closed)
        self.tick(2)
        opcode, payload = await frames.next_frame()
        self.assertEqual((opcode, int.from_bytes(payload[:2], "big")), (8, LOGIN_TIMEOUT))
        self.assertIn(b"* closing code=4101", lines.received)
        self.assertTrue(lines.closed)

    async def test_logging_out_leaves_time_to_log_in(self) -> None:
        """Who logs out after a long time has as long as anybody to log in again."""
        alice = await self.user("alice")
        for _ in range(3):
            self.tick(15)
            await alice.ask("ping")
        await alice.ask("logout")
        self.tick(20)
        self.assertFalse(alice.closed)
        self.assertTrue((await alice.ask("login", name="alice", password="secret"))["ok"])

    async def test_a_slow_reader_that_reads_is_kept(self) -> None:
        """While a full buffer empties, however slowly, its client is not taken for dead; one
        that stands still is."""
        alice = await self.user("alice")
        link: Any = alice.protocol._inner
        pending = 1_000_000
        link.pending = lambda: pending
        link.pauseProducing()
        for _ in range(10):
            self.tick(20)
            pending -= 1000
        self.assertFalse(alice.closed)
        self.tick(41)
        self.assertTrue(alice.closed)

    async def test_a_client_that_reads_nothing_is_dropped(self) -> None:
        """That our own pings join what waits for a client is no sign that it reads."""
        alice = await self.user("alice")
        link: Any = alice.protocol._inner
        pending = 1_000_000
        link.pending = lambda: pending
        link.pauseProducing()
        ping = link.ping

        def grow(payload: bytes) -> None:
            nonlocal pending
            pending += len(payload)
            ping(payload)

        link.ping = grow
        self.tick(41)
        self.assertTrue(alice.closed)

    async def test_the_wall_clock_jumps(self) -> None:
        """A clock that is set by hours, forwards and back, drops nobody and changes no order."""
        alice, bob = await self.user("alice"), await self.user("bob")
        now = self.node.now()
        for number, jump in enumerate((3600, -3600, 7200, -86_400), 1):
            self.node.now = partial(add, now, jump)
            said = await alice.ask("say", to="@bob", text=f"{number}")
            self.assertEqual((said["ok"], said["seq"]), (True, number))
            self.assertEqual((await bob.event())["seq"], number)
            self.tick(2)
        self.assertFalse(alice.closed or bob.closed)

    async def test_line_clients_may_be_silent(self) -> None:
        """A person at telnet may read for hours and say nothing."""
        alice = await self.user("alice", self.lines())
        self.tick(500)
        self.assertFalse(alice.closed)

    async def test_cursors_of_silent_line_clients_move(self) -> None:
        """What the kernel of a line client has acknowledged is not replayed, though the
        client never answers and its connection breaks later."""
        alice = await self.user("alice")
        bob = await self.user("bob", self.lines())
        await alice.ask("say", to="@bob", text="one")
        await bob.event()
        self.tick(1)
        await self.node.store.idle()
        bob.transport.abortConnection()
        await alice.ask("say", to="@bob", text="two")
        bob = self.lines()
        bob.line("/login bob secret")
        self.assertEqual(await bob.event(), "* @bob 2 <alice> two")

    async def test_a_fault_does_not_stop_the_heart(self) -> None:
        """A fault in one visit is logged, and the next beat comes."""
        broken: Any = await self.user("alice")
        session = next(iter(self.node.hub.sessions))
        session.link = None  # type: ignore[assignment]
        self.tick_safely()
        self.assertTrue(self.flushLoggedErrors(AttributeError))
        session.link = broken.protocol._inner
        self.tick(1)

    def tick_safely(self) -> None:
        for _ in range(BEATS):
            self.heartbeat._beat()

    async def test_a_fault_of_one_session_harms_no_other(self) -> None:
        """A session that cannot be visited is dropped; the others are visited and the housekeeping
        is done."""
        users = [await self.user(f"user{n}") for n in range(2 * BEATS)]

        def fail(payload: bytes) -> None:
            raise LookupError("no ping")

        for session in self.node.hub.sessions:
            if session.user is not None and session.user.name != "user7":
                self.patch(session.link, "ping", fail)
        before = self.node.tick
        for _ in range(30):
            self.tick_safely()
        self.node.hub.flush()
        self.assertEqual(self.node.tick, before + 30)
        self.assertEqual([user.closed for user in users], [n != 7 for n in range(2 * BEATS)])
        self.assertEqual(self.pings(users[7]), 1)
        self.assertEqual(len(self.flushLoggedErrors(LookupError)), 2 * BEATS - 1)

    async def test_a_new_pulse_is_taken_up(self) -> None:
        """Another interval holds from the next tick on."""
        alice = await self.user("alice")
        self.node.reload(self.limits, Pulse(interval=5, timeout=10))
        self.tick(6)
        self.assertEqual(self.pings(alice), 1)

    def beats_late(self, *late: float, fed_within: float = math.inf) -> tuple[list[float], int]:
        """The lags that were measured, and how often the watchdog was fed, of a heart whose
        every beat finds the loop so late."""
        clock: Any = Clock()
        lags: list[float] = []
        fed: list[None] = []
        self.node.clock = clock
        heart = Heartbeat(self.node, lambda: fed.append(None), lags.append, fed_within)
        heart.start()
        for seconds in late:
            due = (math.floor(clock.seconds() * BEATS) + 1) / BEATS
            clock.advance(due + seconds + _TINY - clock.seconds())
        heart.stop()
        self.node.clock = self.node.hub.clock  # which the end needs
        return [round(lag, 4) for lag in lags], len(fed)

    def test_lag(self) -> None:
        """Each beat tells how late it comes, those left out are not waited for."""
        late = [0.0, 0.04, 0.04, 0.0, 0.25, 0.0, 3.0, 0.02, 0.0]
        self.assertEqual(self.beats_late(*late)[0], late)

    def test_feeding(self) -> None:
        """The watchdog is fed once a tick, or twice in the time that it allows."""
        beats = [0.0] * 20
        for seconds, count in ((math.inf, 2), (30, 2), (2, 2), (1, 4), (0.4, 10), (0.1, 20)):
            self.assertEqual(self.beats_late(*beats, fed_within=seconds)[1], count, seconds)

    async def test_expired_tokens_are_forgotten(self) -> None:
        """The tables do not grow with tokens that nobody can use; nor do their sessions go on."""
        alice = await self.user("alice")
        later = self.node.now() + 40 * 24 * 3600
        self.node.now = lambda: later
        self.tick(1)
        await self.node.store.write(lambda connection: None)
        await self.node.store.write(lambda connection: None)
        rows = await self.node.store.read(lambda c: c.all("SELECT COUNT(*) FROM tokens"))
        self.assertEqual(rows, [(0,)])
        opcode, payload = await alice.next_frame()
        self.assertEqual((opcode, int.from_bytes(payload[:2], "big")), (8, LOGGED_OUT))

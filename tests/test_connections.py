"""Who may come in, and how long a connection may take: counts, addresses, HTTP times, pipelines,
telnet's commands."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.protocols.haproxy._wrapper import HAProxyWrappingFactory
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from chatd.doors import Doors, place_of
from chatd.settings import Limits
from tests.bed import HOST, CalmCase, Client, Frames, Lines, NodeCase

OTHER = "198.51.100.1"
HEALTH = b"GET /healthz HTTP/1.1\r\n\r\n"


class Places(SynchronousTestCase):
    """What counts as one place."""

    def test_places(self) -> None:
        """An IPv4 address, however it is written; the site of an IPv6 address; this machine is
        no place."""
        for address, place in (
            ("192.0.2.7", "192.0.2.7"),
            ("::ffff:192.0.2.7", "192.0.2.7"),
            ("2001:db8:1:2::3", "2001:0db8:0001:0002::/64"),
            ("2001:db8:1:2:ffff::", "2001:0db8:0001:0002::/64"),
            ("fe80::1%eth0", "fe80:0000:0000:0000::/64"),
            ("127.0.0.1", None),
            ("127.3.2.1", None),
            ("::ffff:127.0.0.1", None),
            ("::1", None),
            ("local", None),
            ("a:b", "a:b"),
            ("999.9.9.9", "999.9.9.9"),
        ):
            self.assertEqual(place_of(address), place, address)

    def test_descriptors(self) -> None:
        """Connections never use up the descriptors, whatever the limits are."""
        doors, limits = Doors(50), Limits(connections=1000)
        for _ in range(30):
            guest = doors.enter("local")
            self.assertIsNone(doors.refusal(guest, limits))
        for _ in range(20):
            guest = doors.enter("local")
            self.assertIsNotNone(doors.refusal(guest, limits))
            self.assertFalse(doors.crowded(limits))
        doors.enter("local")
        self.assertTrue(doors.crowded(limits))


class Guests(CalmCase):
    """Five may be in, three from one address."""

    limits = Limits(connections=5, address_connections=3)

    def setUp(self) -> None:
        self.behind: list[Client] = []  # the proxy
        super().setUp()

    def told(self, client: Client) -> str:
        """How the client was sent away; "" if it was not."""
        if not client.closed:
            return ""
        text = client.received.decode()
        if text.startswith("-ERR unavailable "):
            return text
        head, _, body = text.partition("\r\n\r\n")
        self.assertTrue(head.startswith("HTTP/1.1 503 "), text)
        self.assertIn("\r\nRetry-After: 10", head)
        self.assertIn(f"\r\nContent-Length: {len(body)}", head)
        return str(json.loads(body)["message"])

    def kinds(self) -> dict[str, Callable[[str], Client]]:
        """Ways to be connected: a line, a WebSocket, HTTP amid its head, HTTP kept alive."""

        def begun(host: str) -> Client:
            client = self.raw_web(host)
            client.send(b"GET ")
            return client

        def kept(host: str) -> Client:
            client = self.raw_web(host)
            client.send(HEALTH)
            return client

        return {"lines": self.lines, "frames": self.frames, "begun": begun, "kept": kept}

    async def test_in_all(self) -> None:
        """Connections of every kind count from their first moment to their last, and who is
        one too many is told so at once, politely."""
        for name, make in self.kinds().items():
            inside = [make(f"198.51.100.{n}") for n in range(5)]
            for late in (self.lines(), self.raw_web()):
                self.assertIn("as many connections as it may", self.told(late), name)
            inside.pop().vanish()
            inside.append(self.lines())
            self.assertEqual(self.told(inside[-1]), "", name)
            self.assertIn("The server has", self.told(self.lines()), name)
            for client in inside:
                client.vanish()

    async def test_from_one_address(self) -> None:
        """One address may have only some of the connections; others come in."""
        for name, make in self.kinds().items():
            inside = [make(HOST) for _ in range(3)]
            for late in (self.lines(), self.raw_web()):
                self.assertIn("Your address has", self.told(late), name)
            inside.append(self.lines(OTHER))
            self.assertEqual(self.told(inside[-1]), "", name)
            inside.pop(0).vanish()
            inside.append(self.lines())
            self.assertEqual(self.told(inside[-1]), "", name)
            for client in inside:
                client.vanish()

    async def test_from_this_machine(self) -> None:
        """Addresses of this machine may have all."""
        inside = [self.lines("127.0.0.1") for _ in range(5)]
        self.assertEqual([self.told(client) for client in inside], [""] * 5)

    async def test_a_crowd(self) -> None:
        """Of a crowd at the doors some are told; the others are dropped without a word."""
        self.patch(self.node, "clock", Clock())
        inside = [self.lines(f"198.51.100.{n}") for n in range(5)]
        stubborn: list[Any] = []
        for make in (self.lines, self.raw_web) * 10:
            client = _Unclosing.connect(make)
            self.assertTrue(client.received)
            stubborn.append(client)
        for make in (self.lines, self.raw_web):
            client = make(HOST)
            self.assertEqual((client.closed, client.received), (True, b""))
        self.node.clock.advance(2)  # type: ignore[attr-defined]
        self.assertTrue(all(client.closed for client in stubborn))
        inside[0].vanish()
        self.assertEqual(self.told(self.lines()), "")

    async def test_new_limits(self) -> None:
        """The numbers are read at each connection."""
        self.node.limits = Limits(connections=1)
        self.lines()
        self.assertIn("The server has", self.told(self.lines()))
        self.node.limits = Limits(connections=2)
        self.assertEqual(self.told(self.lines()), "")

    def gone(self, client: Client) -> None:
        """A client behind the proxy ends its connection."""
        client.transport.lose(Failure(ConnectionDone()))

    def proxied(self, factory: Any, source: str) -> Client:
        """A connection through a proxy on this machine, which has told whose it is."""
        client = Client(HAProxyWrappingFactory(factory).buildProtocol(None), "127.0.0.1")
        self.addCleanup(self.gone, client)
        self.behind.append(client)
        client.send(b"PROXY TCP4 %s 127.0.0.1 1 2\r\n" % source.encode())
        return client

    async def test_behind_a_proxy(self) -> None:
        """The address that a proxy tells with the first bytes is the one that counts."""
        for _ in range(3):
            self.proxied(self.lines_factory, HOST).send(b"/ping\r\n")
        late = self.proxied(self.lines_factory, HOST)
        self.assertEqual(late.received, b"")
        late.send(b"/ping\r\n")
        self.assertIn("Your address has", self.told(late))
        late = self.proxied(self.web, HOST)
        late.send(HEALTH)
        self.assertIn("Your address has", self.told(late))
        other = self.proxied(self.web, OTHER)
        other.send(HEALTH)
        self.assertIn(b"HTTP/1.1 200 ", other.received)
        for client in self.behind:
            self.gone(client)
        self.assertEqual(self.told(self.lines()), "")

    async def test_rates_behind_a_proxy(self) -> None:
        """So it is for the rates."""
        client = self.proxied(self.lines_factory, HOST)
        client.send(b"/ping\r\n")
        self.assertEqual(len(self.node.rates.places), 1)

    async def test_nothing_is_left(self) -> None:
        """When all are gone nothing is counted any more."""
        for make in self.kinds().values():
            make(HOST)
        self.proxied(self.web, OTHER).send(HEALTH)
        for client in self.clients:
            client.vanish()
        self.gone(self.behind[0])
        self.assertEqual(vars(self.node.doors)["_by_place"], {})
        self.assertEqual(vars(self.node.doors)["_inside"], 0)


class _Unclosing:
    """Connects clients whose transports are slow to close."""

    @staticmethod
    def connect(make: Callable[[str], Client]) -> Client:
        from tests import bed

        close = bed.Transport.loseConnection
        bed.Transport.loseConnection = lambda self: None  # type: ignore[method-assign]
        try:
            return make(HOST)
        finally:
            bed.Transport.loseConnection = close  # type: ignore[method-assign]


class HttpTimes(CalmCase):
    """How long a connection to the API may take."""

    limits = Limits(body_seconds=30, handshake_seconds=5)

    def setUp(self) -> None:
        super().setUp()
        self.clock = Clock()
        self.patch(self.node, "clock", self.clock)

    def assert_late(self, client: Client, answers: int = 0) -> None:
        """The client was told that it took too long, behind its answers."""
        self.assertTrue(client.closed)
        self.assertEqual(client.received.count(b"HTTP/1.1 200 "), answers)
        words = client.received.rpartition(b"HTTP/1.1 ")[2]
        self.assertTrue(words.startswith(b"408 "), client.received)
        self.assertEqual(json.loads(words.partition(b"\r\n\r\n")[2])["error"], "bad-request")
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def drip(self, client: Client, data: bytes, seconds: float) -> None:
        """Sends bytes one by one, evenly in that time; the connection stays."""
        for byte in data:
            self.assertFalse(client.closed)
            client.send(bytes([byte]))
            self.clock.advance(seconds / len(data))

    def test_a_first_head(self) -> None:
        """The first head has its seconds; nothing at all gets no answer."""
        silent, slow = self.raw_web(), self.raw_web()
        self.drip(slow, b"GET /h", 4.9)
        self.assertFalse(slow.closed or silent.closed)
        self.clock.advance(0.2)
        self.assertEqual((silent.closed, silent.received), (True, b""))
        self.assert_late(slow)

    def test_a_body(self) -> None:
        """A body that drips has its seconds in all."""
        client = self.raw_web()
        client.send(b"POST /api/v1/ping HTTP/1.1\r\nContent-Length: 100\r\n\r\n")
        self.drip(client, b"x" * 99, 29.9)
        self.assertFalse(client.closed)
        self.clock.advance(0.2)
        self.assert_late(client)

    def test_a_chunked_body(self) -> None:
        """So has one in chunks that never end."""
        client = self.raw_web()
        client.send(b"POST /api/v1/ping HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
        self.drip(client, b"1\r\nx\r\n" * 10, 29.9)
        self.clock.advance(0.2)
        self.assert_late(client)

    def test_a_later_head(self) -> None:
        """A later request has its seconds from its first byte on."""
        client = self.raw_web()
        client.send(HEALTH)
        self.clock.advance(14)
        client.send(b"G")
        self.clock.advance(1)
        self.drip(client, b"ET /healthz HTTP/1.1\r\nA: b", 28.9)
        self.assertFalse(client.closed)
        self.clock.advance(0.2)
        self.assert_late(client, 1)

    def test_idle(self) -> None:
        """A connection waits some seconds for its next request, and ends without a word."""
        client = self.raw_web()
        for _ in range(3):
            client.send(HEALTH)
            self.clock.advance(14)
        self.assertFalse(client.closed)
        self.clock.advance(1)
        self.assertTrue(client.closed)
        self.assertEqual(client.received.count(b"HTTP/1.1 "), 3)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_new_limits(self) -> None:
        """The seconds are read at each request."""
        client = self.raw_web()
        client.send(HEALTH)
        self.node.limits = Limits(body_seconds=3)
        client.send(b"GET")
        self.clock.advance(3.1)
        self.assert_late(client, 1)

    def test_a_client_that_does_not_close(self) -> None:
        """A connection that does not close, for nobody reads, is dropped."""
        client = self.raw_web()
        client.transport.loseConnection = lambda: None  # type: ignore[method-assign]
        client.send(b"GET /healthz HTTP/1.0\r\n\r\n")
        self.assertFalse(client.closed)
        self.clock.advance(2)
        self.assertTrue(client.closed)

    def test_pipelined(self) -> None:
        """Of many requests at once one is answered a turn; all are, in their order, and reading
        goes on."""
        client = self.raw_web()
        answers: list[int] = []

        def turn() -> None:
            answers.append(client.received.count(b"HTTP/1.1 "))
            if client.transport.paused:
                self.clock.callLater(0, turn)

        paths = [b"/healthz", b"/nowhere"] * 50
        client.send(b"".join(b"GET %s HTTP/1.1\r\n\r\n" % path for path in paths))
        turn()
        self.clock.advance(0)
        self.assertEqual(answers, list(range(1, 101)))
        statuses = [int(part[:3]) for part in client.received.split(b"HTTP/1.1 ")[1:]]
        self.assertEqual(statuses, [200, 404] * 50)
        client.send(HEALTH)
        self.assertTrue(client.received.endswith(b'{"ok":true}\n'))

    def test_pipelined_bodies(self) -> None:
        """So are requests with bodies, the last one coming later."""
        client = self.raw_web()
        post = b"POST /api/v1/ping HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}"
        client.send(post * 3 + post[:-1])
        for _ in range(5):
            self.clock.advance(0)
        self.assertEqual(client.received.count(b"HTTP/1.1 200 "), 3)
        self.assertFalse(client.transport.paused)
        client.send(b"}")
        self.assertEqual(client.received.count(b"HTTP/1.1 200 "), 4)

    def test_pipelined_and_gone(self) -> None:
        """What a client that went away had asked for is not begun."""
        client = self.raw_web()
        client.send(HEALTH * 3)
        client.vanish()
        self.assertEqual(client.received.count(b"HTTP/1.1 "), 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_later_heads_are_bounded(self) -> None:
        """The limit on heads holds for each request, in one line or many."""
        limit = self.limits.header_bytes
        for head in (
            b"GET /" + b"x" * limit + b" HTTP/1.1\r\n",
            b"GET /healthz HTTP/1.1\r\nX: " + b"x" * limit,
            b"GET /healthz HTTP/1.1\r\n" + b"X: %d\r\n" % 10**100 * (limit // 100),
        ):
            client = self.raw_web()
            client.send(HEALTH + head)
            self.clock.advance(0)
            self.assertEqual(client.received.count(b"HTTP/1.1 200 "), 1)
            self.assertIn(b"HTTP/1.1 431 ", client.received, head[:30])
            self.assertTrue(client.closed)
        client = self.raw_web()
        client.send(HEALTH * 2000)
        while client.transport.paused:
            self.clock.advance(0)
        self.assertEqual(client.received.count(b"HTTP/1.1 200 "), 2000)


class Floods(CalmCase):
    """One client that sends much."""

    async def test_a_paste(self) -> None:
        """A megabyte in one paste waits for its turn: no more than some requests are under
        way, and others are answered in between."""
        alice, bob = await self.user("alice", self.lines()), await self.user("bob")
        (session,) = [s for s in self.node.hub.sessions if s.link is alice.protocol]
        alice.send(b"/say @bob 0123456789012345678901234567890123456789\r\n" * 20_000)
        for number in range(500):
            self.assertTrue((await alice.next()).startswith("+OK"))
            under_way = len(session.requests or ()) + len(session.replies or ())
            self.assertLessEqual(under_way, 2 * self.limits.requests_under_way)
            if number % 50 == 0:
                self.assertTrue((await bob.ask("ping"))["ok"])
        self.assertTrue(alice.transport.paused)

    def test_a_timing_mark_is_answered_once(self) -> None:
        """However the command is cut, and whatever comes while another is unfinished, it is
        answered once."""
        mark = b"\xff\xfd\x06"
        for pieces in (
            [mark],
            [mark[:1], mark[1:2], mark[2:]],
            [mark + b"\xff\xfa\x18", b"\x00", b"x", b"\xff", b"\xf0"],
            [b"\xff\xfa\x18" + mark, b"a", b"b", b"\xff\xf0"],
        ):
            client = self.lines()
            for piece in pieces:
                client.send(piece)
            self.assertEqual(client.received.count(b"\xff\xfc\x06"), 1, pieces)

    def test_negotiation_without_end(self) -> None:
        """Telnet's commands are bounded like lines, and nothing is kept after the end."""
        client: Lines = self.lines()
        client.transport.loseConnection = lambda: None  # type: ignore[method-assign]
        client.send(b"\xff\xfa")
        for _ in range(100):
            client.send(b"x" * 1000)
        self.node.hub.flush()
        self.assertEqual(client.received.count(b"-ERR too-large"), 1)
        self.assertLess(len(client.protocol._negotiation), 2 * self.limits.line_bytes)

    def test_frames_are_there(self) -> None:
        """The same connection that was handed over is a WebSocket's."""
        client: Frames = self.frames()
        client.frame(b'{"cmd":"ping","id":1}')
        self.node.hub.flush()
        self.assertIn(b'"reply":1', client.received)


class Faults(NodeCase):
    """One session whose transport fails, among others."""

    def broken(self, client: Client) -> None:
        """From here on nothing can be written to the client."""

        def fail(data: bytes) -> None:
            raise RuntimeError("this transport is broken")

        client.transport.write = fail  # type: ignore[method-assign]

    async def test_a_write_that_fails(self) -> None:
        """It ends that session alone; the others get what the turn has for them."""
        alice = await self.user("alice")
        await alice.ask("create", name="team")
        others = [await self.user(f"u{n}", self.lines()) for n in range(5)]
        for client in others:
            await client.ask("join", group="team")
        self.broken(others[2])
        await alice.ask("say", to="#team", text="are you there?")
        for client in others[:2] + others[3:]:
            while "are you there?" not in await client.event():
                pass
        self.assertTrue(others[2].closed)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    async def test_a_visit_that_fails(self) -> None:
        """The heartbeat goes on, and sees the other sessions and the tick."""
        bad, good = self.lines(), await self.user("alice", self.lines())
        del bad.protocol.session.since
        self.tick(1)
        self.assertEqual(self.node.tick, 1)
        self.assertTrue(bad.closed)
        self.assertFalse(good.closed)
        self.assertEqual(len(self.flushLoggedErrors(AttributeError)), 1)

    async def test_a_portion_that_fails(self) -> None:
        """A fault in the turn of what waits ends that session, instead of taking it again."""
        client = self.lines()
        client.send(b"/ping\r\n" * 100)
        self.patch(self.dispatcher, "receive", None)
        await client.until(lambda: client.closed or None)
        self.assertEqual(len(self.flushLoggedErrors(TypeError)), 1)

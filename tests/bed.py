"""A node with its front ends in memory: real store, real protocols, transports without sockets.

A test's clients send bytes and wait for bytes; nobody sleeps.
"""

from __future__ import annotations

import itertools
import json
import os
import zlib
from collections.abc import Callable, Iterable
from typing import Any

import argon2
from twisted.internet import address, reactor
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.task import deferLater
from twisted.internet.testing import StringTransport
from twisted.logger import LogEvent, LogLevel, globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from chatd.auth import SiteTokens
from chatd.dispatcher import Dispatcher
from chatd.frontends.http import make_site
from chatd.frontends.tcp import LineFactory
from chatd.frontends.web import WebFactory
from chatd.frontends.websocket import ChatFactory
from chatd.heartbeat import BEATS, Heartbeat
from chatd.metrics import Metrics
from chatd.node import Node
from chatd.settings import Accounts, Limits, Presence, StoreURL, store_url
from chatd.settings import Heartbeat as Pulse
from chatd.store import schema
from chatd.store.dialects import Dialect, dialect

HOST = "192.0.2.7"  # where a client is unless a test says otherwise
UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: chat.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def masked(
    payload: bytes, opcode: int = 1, fin: bool = True, rsv: int = 0, mask: bytes = b""
) -> bytes:
    """A client's frame (RFC 6455 §5.2), by a random mask unless one is given."""
    mask = mask or os.urandom(4)
    size = len(payload)
    head = bytes([opcode | rsv << 4 | (0x80 if fin else 0)])
    if size < 126:
        head += bytes([0x80 | size])
    elif size < 2**16:
        head += b"\xfe" + size.to_bytes(2, "big")
    else:
        head += b"\xff" + size.to_bytes(8, "big")
    return head + mask + bytes(b ^ m for b, m in zip(payload, itertools.cycle(mask), strict=False))


class Transport(StringTransport):
    """A peer's end of a connection: what the server writes is there to read."""

    def __init__(
        self, protocol: Any, host: str, wrote: Callable[[bytes], None], closed: Callable[[], None]
    ) -> None:
        kind = address.IPv6Address if ":" in host else address.IPv4Address
        super().__init__(peerAddress=kind("TCP", host, 4711))
        self._protocol = protocol
        self._wrote = wrote
        self._closed = closed
        self.paused = False
        self.lost = False

    def write(self, data: bytes) -> None:
        if not self.lost:
            self._wrote(data)

    def writeSequence(self, data: Iterable[bytes]) -> None:
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        self.disconnecting = True
        self.lose(Failure(ConnectionDone()))

    def abortConnection(self) -> None:
        self.lose(Failure(ConnectionAborted()))

    def lose(self, reason: Failure) -> None:
        """The connection is gone."""
        if not self.lost:
            self.lost = True
            self._protocol.connectionLost(reason)
            self._closed()

    def setTcpNoDelay(self, on: bool) -> None:
        pass

    def unregisterProducer(self) -> None:
        self.producer = None  # a socket's transport does not mind that there is none

    def pauseProducing(self) -> None:
        self.paused = True

    def resumeProducing(self) -> None:
        self.paused = False


class Client:
    """One connection: what it received, and a way to wait for more."""

    def __init__(self, protocol: Any, host: str = HOST) -> None:
        self.received = b""
        self._waiting: list[tuple[Callable[[], Any], Deferred[Any]]] = []
        self.protocol = protocol
        self.transport = Transport(protocol, host, self._wrote, self._look)
        protocol.makeConnection(self.transport)

    @property
    def closed(self) -> bool:
        """Whether the server closed the connection."""
        return self.transport.lost

    def send(self, data: bytes) -> None:
        """Bytes arrive at the server."""
        self.protocol.dataReceived(data)

    def vanish(self) -> None:
        """The client goes away in good order."""
        if not self.transport.lost:
            self.protocol.readConnectionLost()
            self.transport.lose(Failure(ConnectionDone()))

    def until(self, look: Callable[[], Any]) -> Deferred[Any]:
        """What `look()` finds, as soon as it finds something."""
        found = look()
        if found is not None:
            return succeed(found)
        done: Deferred[Any] = Deferred()
        self._waiting.append((look, done))
        return done

    def _wrote(self, data: bytes) -> None:
        self.received += data
        self._look()

    def _look(self) -> None:
        for waiter in list(self._waiting):
            found = waiter[0]()
            if found is not None:
                self._waiting.remove(waiter)
                waiter[1].callback(found)


class Lines(Client):
    """A client of the line protocol."""

    _ids = itertools.count(1)

    def line(self, text: str) -> None:
        """Sends a line."""
        self.send(text.encode() + b"\r\n")

    def next(self) -> Deferred[str]:
        """The next line from the server."""
        return self.until(self._take)

    def _take(self) -> str | None:
        line, end, rest = self.received.partition(b"\n")
        if not end:
            return None
        self.received = rest
        return line.removesuffix(b"\r").decode()

    async def answer(self, text: str) -> list[str]:
        """Sends a line; the lines of its answer. Events before it are passed over."""
        self.line(text)
        lines = []
        while True:
            line = await self.next()
            if line.startswith("* "):
                continue
            lines.append(line)
            if line.startswith(("+OK", "-ERR")):
                return lines

    async def ask(self, command: str, /, **parameters: Any) -> dict[str, Any]:
        """Sends a JSON request; its reply. Events before it are passed over."""
        request_id = next(self._ids)
        self.line(json.dumps({"cmd": command, "id": request_id, **parameters}))
        while True:
            line = await self.next()
            if line.startswith('{"reply":'):
                reply: dict[str, Any] = json.loads(line)
                if reply["reply"] == request_id:
                    return reply

    async def event(self) -> str:
        """The next event, as a line. Replies before it are passed over."""
        while not (line := await self.next()).startswith("* "):
            pass
        return line


class Frames(Client):
    """A client of the WebSocket protocol."""

    _ids = itertools.count(1)

    def __init__(self, protocol: Any, host: str = HOST, offer: bytes = b"") -> None:
        super().__init__(protocol, host)
        self.compressed = 0  # frames received
        extensions = b"Sec-WebSocket-Extensions: %b\r\n\r\n" % offer if offer else b"\r\n"
        self.send(UPGRADE.removesuffix(b"\r\n") + extensions)
        self.head, _, self.received = self.received.partition(b"\r\n\r\n")
        assert self.head.startswith(b"HTTP/1.1 101"), self.head

    def frame(self, payload: bytes, opcode: int = 1, fin: bool = True) -> None:
        """Sends a masked frame."""
        self.send(masked(payload, opcode, fin))

    def next_frame(self) -> Deferred[tuple[int, bytes]]:
        """(opcode, payload) of the next frame from the server."""
        return self.until(self._take)

    def _take(self) -> tuple[int, bytes] | None:
        data = self.received
        if len(data) < 2:
            return None
        size, start = data[1], 2
        if size == 126:
            size, start = int.from_bytes(data[2:4], "big"), 4
        elif size == 127:
            size, start = int.from_bytes(data[2:10], "big"), 10
        if len(data) < start + size:
            return None
        self.received = data[start + size :]
        payload = data[start : start + size]
        if data[0] & 0x40:  # RSV1
            self.compressed += 1
            payload = _inflated(payload + b"\0\0\xff\xff")
        return data[0] & 0x0F, payload

    async def next(self) -> dict[str, Any]:
        """The next reply or event. Pings before it are answered."""
        while True:
            opcode, payload = await self.next_frame()
            if opcode == 9:
                self.frame(payload, opcode=10)
            if opcode == 1:
                found: dict[str, Any] = json.loads(payload)
                return found

    async def ask(self, command: str, /, **parameters: Any) -> dict[str, Any]:
        """Sends a request; its reply. Events before it are passed over."""
        request_id = next(self._ids)
        self.frame(json.dumps({"cmd": command, "id": request_id, **parameters}).encode())
        while True:
            found = await self.next()
            if found.get("reply") == request_id:
                return found

    async def event(self) -> dict[str, Any]:
        """The next event. Replies before it are passed over."""
        while "event" not in (found := await self.next()):
            pass
        return found


def _inflated(data: bytes) -> bytes:
    # Given all at once, zlib looks farther back than its window.
    stream = zlib.decompressobj(-12)
    return b"".join(stream.decompress(data[n : n + 50]) for n in range(0, len(data), 50))


class Http:
    """A client of the HTTP API; each request is a connection of its own."""

    def __init__(self, connect: Callable[[], Client]) -> None:
        self._connect = connect
        self.token = ""
        self.status = 0

    async def ask(self, command: str, /, **parameters: Any) -> dict[str, Any]:
        """Posts a request; the answer's JSON, `ok` as other wires have it."""
        return await self.post(command, json.dumps(parameters).encode())

    async def post(self, command: str, body: bytes) -> dict[str, Any]:
        """Posts a body; the answer's JSON, `ok` as other wires have it."""
        client = self._connect()
        bearer = f"Authorization: Bearer {self.token}\r\n" if self.token else ""
        client.send(
            f"POST /api/v1/{command} HTTP/1.0\r\nHost: chat.test\r\n{bearer}"
            f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        await client.until(lambda: client.closed or None)
        head, _, answer = client.received.partition(b"\r\n\r\n")
        self.status = int(head.split()[1])
        return {"ok": self.status == 200, **json.loads(answer)}


class NodeCase(TestCase):
    """A test with a node of its own. Set what is to differ before `setUp`'s end by overriding
    the attributes; `url` says which database."""

    timeout = 60
    accounts = Accounts()
    limits = Limits()
    pulse = Pulse()
    presence = Presence()
    site_tokens: SiteTokens | None = None
    origins: tuple[str, ...] = ()
    compression = False

    def make_url(self) -> StoreURL:
        """A fresh database: SQLite, unless a subclass has another."""
        return store_url("", self.mktemp())

    def make_dialect(self) -> Dialect:
        """How the node speaks to it."""
        return dialect(self.url)

    def setUp(self) -> None:
        self.url = self.make_url()
        schema.upgrade(self.url)
        self.clients: list[Client] = []
        self.open()

    def open(self) -> None:
        """Starts a node on the test's database."""
        clock: Any = reactor
        # As safe as it is by default, a password would take longer than all else in a test.
        weak = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
        self.node = Node(
            clock,
            clock.seconds,
            self.make_dialect(),
            2,
            self.accounts,
            self.limits,
            self.pulse,
            self.site_tokens,
            hasher=weak,
            presence=self.presence,
        )
        self.dispatcher = Dispatcher(self.node)
        self.metrics = Metrics(self.node)
        self.heartbeat = Heartbeat(self.node, lambda: None, self.metrics.lagged)
        self.lines_factory = LineFactory(self.node, self.dispatcher)
        chat = ChatFactory(clock, self.node, self.dispatcher, self.origins, self.compression)
        site = make_site(self.node, self.dispatcher, self.metrics.text)
        self.web = WebFactory(self.node, chat.buildProtocol, site.buildProtocol)
        self.node.start()
        self.addCleanup(self._close, self.node)

    async def _close(self, node: Node) -> None:
        self.vanish()
        await node.stop()

    def vanish(self) -> None:
        """All clients go away."""
        for client in self.clients:
            client.vanish()
        self.clients.clear()

    def lines(self, host: str = HOST) -> Lines:
        """A new client of the line protocol."""
        client = Lines(self.lines_factory.buildProtocol(None), host)
        self.clients.append(client)
        return client

    def frames(self, host: str = HOST, offer: bytes = b"") -> Frames:
        """A new client of the WebSocket protocol; `offer` is of extensions."""
        client = Frames(self.web.buildProtocol(None), host, offer)
        self.clients.append(client)
        return client

    def raw_web(self, host: str = HOST) -> Client:
        """A new connection to the web port, nothing sent yet."""
        client = Client(self.web.buildProtocol(None), host)
        self.clients.append(client)
        return client

    def http(self, host: str = HOST) -> Http:
        """A new client of the HTTP API."""
        return Http(lambda: self.raw_web(host))

    def tick(self, count: int = 1) -> None:
        """So many seconds pass for the heartbeat."""
        for _ in range(count * BEATS):
            self.heartbeat.beat()
        self.node.hub.flush()

    async def user(self, name: str, client: Any = None, **parameters: Any) -> Any:
        """A client, of WebSocket unless one is given, on which `name` has registered, or has
        logged in where there is such a user."""
        client = client or self.frames()
        known = await client.ask("register", name=name, password="secret", **parameters)
        if not known["ok"]:
            known = await client.ask("login", name=name, password="secret", **parameters)
        assert known["ok"], known
        if isinstance(client, Http):
            client.token = known["token"]
        while any(s.loading and s.user and s.user.name == name for s in self.node.hub.sessions):
            await deferLater(reactor, 0)  # until its backlog is known
        return client


class CalmCase(NodeCase):
    """A test in which nothing may be logged as an error."""

    def setUp(self) -> None:
        self.faults: list[LogEvent] = []
        note: Any = self._note
        globalLogPublisher.addObserver(note)
        self.addCleanup(globalLogPublisher.removeObserver, note)
        self.addCleanup(self.calm)  # when all has been closed
        super().setUp()

    def calm(self) -> None:
        """Fails if a fault was logged by now."""
        self.assertEqual(self.flushLoggedErrors(), [])
        self.assertEqual(self.faults, [])

    def _note(self, event: LogEvent) -> None:
        if event.get("log_level") in (LogLevel.error, LogLevel.critical):
            self.faults.append(event)

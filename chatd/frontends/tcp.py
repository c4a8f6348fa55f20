"""The front end for lines over TCP: telnet, nc, programs that can write a line."""

from __future__ import annotations

import re
import socket
from typing import Any

from twisted.internet.protocol import Factory
from twisted.python.failure import Failure

from chatd.dispatcher import Dispatcher, Malformed
from chatd.doors import Guest
from chatd.errors import Refused
from chatd.frontends.link import PORTION, TransportLink, address_of, drop
from chatd.node import Node
from chatd.session import Session, Wire
from chatd.wire import text
from chatd.wire.json import JsonWire
from chatd.wire.text import TextWire

TEXT = TextWire()
JSON_LINES = JsonWire(lambda payload: payload + b"\n")

# RFC 854: IAC, then WILL, WONT, DO, DONT and an option; or SB … IAC SE; or one more byte; or
# the beginning of one of these, at the end. Possessive, so that no bytes take quadratic time,
# and a run at once: one by one, 64 KB of them would take 60 ms.
_TELNET = re.compile(
    rb"(?:\xff(?:[\xfb-\xfe].|\xfa(?:[^\xff]++|\xff[^\xf0])*+\xff\xf0|[^\xfa-\xfe]))++"
    rb"|(\xff.*)",
    re.DOTALL,
)
# telnet takes UTF-8's 0x83 for ^C and then hides all output until its "DO TIMING-MARK" is
# answered (RFC 860); "DO TRANSMIT-BINARY" (RFC 856) ends the mistake.
_TIMING_MARK = b"\xff\xfd\x06"
_NO_MARK = b"\xff\xfc\x06\xff\xfd\x00"


class LineProtocol(TransportLink):
    """Cuts the bytes into lines; a line is a request."""

    pings = False
    _guest: Guest
    _known = False
    _negotiation = b""  # its beginning; it may hold line ends that are none

    def connectionMade(self) -> None:
        node, transport = self.node, self.transport
        self._guest = node.doors.enter(address_of(transport))
        if node.doors.crowded(node.limits):
            drop(transport)
            return
        keep_alive(transport, node)
        if self._may_stay():
            self.opened(TEXT)

    def _may_stay(self) -> bool:
        refusal = self.node.doors.refusal(self._guest, self.node.limits)
        if refusal is not None:
            self.send(TEXT.error(None, refusal))
            self._end()
        return refusal is None

    def dataReceived(self, data: bytes) -> None:
        if self._closing is not None:
            return
        if not self._known and not self._recognise():
            return
        data = self._negotiation + data
        if b"\xff" in data:
            kept = filter(None, _TELNET.split(data))  # `sub` would expand a template each time
            plain, iac, cut = b"".join(kept).partition(b"\xff")
            self._negotiation = iac + cut
            if _TIMING_MARK in data.removesuffix(self._negotiation):
                self.send(_NO_MARK)
            data = plain
        self.take(data)

    def _recognise(self) -> bool:
        """Behind a proxy that speaks PROXY it shows by the first bytes who has come; whether
        the client may stay."""
        self._known = True
        address = address_of(self.transport)
        if self.session is None or address == self.session.address:
            return True
        self.node.doors.move(self._guest, address)
        self.node.locate(self.session, address)
        return self._may_stay()

    def consume(self, data: bytes) -> tuple[bytes, bool]:
        start = 0
        for _ in range(PORTION):
            end = data.find(b"\n", start)
            if end < 0 or self.stopped or self._over:
                break
            line = data[start:end].removesuffix(b"\r")
            start = end + 1
            if len(line) > self.node.limits.line_bytes:
                self._too_long(line)
            elif line:
                self._line(line)
        if self._over:
            return b"", False
        rest = data[start:]
        more = b"\n" in rest
        begun = rest.removesuffix(b"\r") + self._negotiation
        if not more and len(begun) > self.node.limits.line_bytes:
            self._too_long(begun)
        return rest, more

    @property
    def _over(self) -> bool:
        """Whether no further line is wanted."""
        session = self.session
        return session is None or session.finishing or self._closing is not None

    def _line(self, line: bytes) -> None:
        session = self.session
        assert session is not None
        try:
            words = line.decode()
        except UnicodeDecodeError as error:
            self.dispatcher.receive(session, Malformed(None, _not_utf8(error)), _wire(line))
            return
        if words.startswith("{"):
            self.dispatcher.receive(session, text.decode(words), JSON_LINES)
        elif words in _MODES:
            session.wire = _MODES[words]
            self._receive(text.decode("/ping"))
        elif words == "/quit":
            self.input_ended()
            self._finish(session)
        else:
            self._receive(text.decode(words))

    def _receive(self, request: Any) -> None:
        assert self.session is not None
        self.dispatcher.receive(self.session, request, TEXT)

    def _too_long(self, line: bytes) -> None:
        limit = self.node.limits.line_bytes
        refused = Refused("too-large", "A line has at most {limit} bytes.", limit=limit)
        assert self.session is not None
        self.node.hub.send(self.session, _wire(line).error(None, refused))
        self._end()

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        self.node.doors.leave(self._guest)
        self.lost()

    def take(self, data: bytes) -> None:
        super().take(data)
        if self._eof and self.session is not None and b"\n" not in self._unread:
            self._finish(self.session)

    def readConnectionLost(self) -> None:
        self._eof = True
        self.input_ended()
        self.take(b"")

    def _finish(self, session: Session) -> None:
        """Answers what was asked, then closes."""
        session.finishing = True
        if self.dispatcher.idle(session):
            self._end()

    # -- session.Link

    def close(self, code: int, reason: str) -> None:
        session = self.session
        if session is not None and self._closing is None:
            event = {"event": "closing", "code": code, "reason": reason}
            self.node.hub.send(session, session.wire.event(event))
        self._end()

    def ping(self, payload: bytes) -> None:
        pass

    def resumeProducing(self) -> None:
        if self.session is not None:
            self.session.heard = self.node.tick  # it reads; it has no other sign of life
        super().resumeProducing()

    def finished(self) -> None:
        self._end()

    def _end(self) -> None:
        if self._closing is None:
            transport: Any = self.transport
            self.drop_soon()
            self.node.hub.flush()
            transport.unregisterProducer()  # TLS would wait for it
            transport.loseConnection()


_MODES: dict[str, Wire] = {"/json on": JSON_LINES, "/json off": TEXT}


def _wire(line: bytes) -> Wire:
    """What answers a line: JSON is answered in JSON."""
    return JSON_LINES if line.startswith(b"{") else TEXT


def _not_utf8(error: UnicodeDecodeError) -> Refused:
    return Refused(
        "bad-request", "A line is UTF-8; byte {place} of this one is not.", place=error.start + 1
    )


def keep_alive(transport: Any, node: Node) -> None:
    """Lets the kernel find peers that are gone, where the wire has no ping: probes on a quiet
    connection, a deadline on an unanswered write."""
    try:
        transport.setTcpNoDelay(True)
        transport.setTcpKeepAlive(True)
        handle = transport.getHandle()
        interval, timeout = int(node.pulse.interval) or 1, int(node.pulse.timeout) or 1
        handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, interval)
        handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, max(1, timeout // 3))
        handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
        deadline = int((node.pulse.interval + node.pulse.timeout) * 1000)
        handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, deadline)
    except (AttributeError, OSError):
        pass  # not TCP itself: a Unix socket, TLS, a test's transport


class LineFactory(Factory):
    """Makes the protocols for one node."""

    noisy = False

    def __init__(self, node: Node, dispatcher: Dispatcher) -> None:
        self.protocol = type("Lines", (LineProtocol,), {"node": node, "dispatcher": dispatcher})

"""What the front ends share: a session's link over a Twisted transport."""

from __future__ import annotations

import fcntl
import struct
import termios
from typing import Any, ClassVar

from twisted.internet import tcp
from twisted.internet.error import ConnectionAborted
from twisted.internet.interfaces import IHalfCloseableProtocol, IPushProducer
from twisted.internet.protocol import Protocol
from twisted.logger import Logger
from twisted.protocols.policies import ProtocolWrapper
from twisted.python.failure import Failure
from zope.interface import implementer

from chatd.dispatcher import Dispatcher
from chatd.errors import SERVICE_RESTART, Template
from chatd.languages import pick, translated
from chatd.node import RESTARTS, Node
from chatd.session import Link, Session, Wire

_GOODBYE = 2.0  # seconds until a connection that does not close is dropped
_HELD = 1  # too many requests under way
_FULL = 2  # the client does not read what it is sent
_OTHERS = 4  # a portion was taken

PORTION = 64  # requests taken at once: a few ms


@implementer(IPushProducer, IHalfCloseableProtocol)
class TransportLink(Protocol, Link):
    """Sends for a session and stops what comes too fast, in both directions.

    `node` and `dispatcher` are set by the front end on the class that it makes of this.
    """

    node: ClassVar[Node]
    dispatcher: ClassVar[Dispatcher]
    live: ClassVar[bool] = True
    _log = Logger()
    session: Session | None = None
    _unread = b""  # what has come and not been taken yet
    _stopped = 0
    crowded = False
    _eof = False  # the client sends no more
    _closing: Any = None

    def opened(self, wire: Wire, accepted: str = "") -> Session:
        """To be called when the client may send requests; `accepted` is its Accept-Language."""
        transport: Any = self.transport
        session = self.node.session(self, wire, address_of(transport))
        session.accepted = pick(accepted)
        self.session = session
        self.node.hub.open(session)
        transport.registerProducer(self, True)
        if self.node.stopping:  # it was accepted before the port closed
            self.close(SERVICE_RESTART, RESTARTS)
        return session

    def consume(self, data: bytes) -> tuple[bytes, bool]:
        """Takes requests from the bytes, at most `PORTION` and none once `stopped`; what is
        left of them, and whether there may be a request in it."""
        raise NotImplementedError

    @property
    def stopped(self) -> bool:
        """Whether no request is taken for now."""
        return bool(self._stopped)

    def take(self, data: bytes) -> None:
        """Takes the requests that have come, a portion at a time: then the others have their
        turn, and it shows whether the client reads what it asks for."""
        data = self._unread + data
        if self._stopped:
            self._unread = data
            return
        try:
            self._unread, more = self.consume(data)
        except Exception:  # the border: timers come here, too, and what was taken is not known
            self._log.failure("what a client sent could not be taken")
            self._unread = b""
            self.abort()
            return
        if more and not self._stopped:
            self._stop(_OTHERS, True)
            self.node.hub.flush()
            self.node.clock.callLater(0, self._stop, _OTHERS, False)

    def said(self, template: Template) -> str:
        """A sentence without fields in the client's language."""
        return translated(template, {}, self.session.language if self.session else "")

    def lost(self) -> None:
        """To be called when the connection is gone."""
        if self._closing is not None and self._closing.active():
            self._closing.cancel()
        session, self.session = self.session, None
        if session is not None:
            user = session.user
            self.node.hub.close(session)
            if user is not None:
                self.node.cursors.save_user(user.id)

    def drop_soon(self) -> None:
        """Drops the connection unless it closes by itself: a peer that does not read never
        gets to the end of what it is sent."""
        if self._closing is not None:
            return
        self._closing = self.node.clock.callLater(_GOODBYE, self.abort)
        if self.session is not None:
            # Nothing of the log goes behind the goodbye: an answer to it would prove that, too.
            self.node.backlog.pause(self.session)

    def input_ended(self) -> None:
        """The client sends no more."""
        if self.session is not None:
            self.node.cursors.ended(self.session)

    # -- session.Link

    def send(self, data: bytes) -> None:
        transport: Any = self.transport
        # A socket with nothing buffered is written at once: half the cost of Twisted's way
        # over the reactor's list of writers.
        if type(transport) is tcp.Server and not (
            transport.dataBuffer or transport._tempDataLen or transport.disconnecting
        ):
            try:
                sent = transport.socket.send(data)
            except OSError:  # full, or broken: Twisted finds out which
                sent = 0
            if sent == len(data):
                return
            data = data[sent:]
        transport.write(data)
        if self.crowded:
            self.pauseProducing()

    def abort(self) -> None:
        transport: Any = self.transport
        transport.abortConnection()

    def pending(self) -> int:
        socket = _socket(self.transport)
        if socket is None or not socket.connected:
            return 0 if socket is None else 1
        queued = fcntl.ioctl(socket.fileno(), termios.TIOCOUTQ, b"\0\0\0\0")
        return _buffered(socket) + int(struct.unpack("i", queued)[0])

    def hold(self, on: bool) -> None:
        self._stop(_HELD, on)

    def _stop(self, why: int, on: bool) -> None:
        before, transport = self._stopped, self.transport
        self._stopped = before | why if on else before & ~why
        if self._stopped and not before:
            transport.pauseProducing()  # type: ignore[union-attr]
        elif before and not self._stopped and self.session is not None:
            if not self._eof:
                transport.resumeProducing()  # type: ignore[union-attr]
            self.take(b"")

    # -- IPushProducer: the transport tells that its buffer is full, or empty again

    def pauseProducing(self) -> None:
        # The transport asks from 64 KB on, and only once: then each further write looks.
        self.crowded = True
        session, socket = self.session, _socket(self.transport)
        limit = self.node.limits.outbound_bytes
        if session is None or session.paused or (socket is not None and _buffered(socket) <= limit):
            return
        self.node.backlog.pause(session)
        self._stop(_FULL, True)

    def resumeProducing(self) -> None:
        self.crowded = False
        session = self.session
        if session is not None and session.paused and self._closing is None:
            session.heard = self.node.tick  # it reads
            self.node.backlog.resume(session)
            self.dispatcher.go_on(session)
            self._stop(_FULL, False)

    def stopProducing(self) -> None:
        pass

    # -- IHalfCloseableProtocol

    def readConnectionLost(self) -> None:
        self._eof = True
        self.input_ended()
        self.transport.loseConnection()  # type: ignore[union-attr]

    def writeConnectionLost(self) -> None:
        pass


def _socket(transport: Any) -> Any:
    """The socket's transport beneath TLS or a proxy's header, if it is one."""
    while isinstance(transport, ProtocolWrapper):
        transport = transport.transport
    return transport if isinstance(transport, tcp.Connection) else None


def drop(transport: Any) -> None:
    """Ends a connection at once: `abortConnection` would keep its descriptor for the rest of
    the turn, in which a hundred others may be accepted."""
    socket = _socket(transport)
    if socket is None:
        transport.abortConnection()
    else:
        socket.connectionLost(Failure(ConnectionAborted()))


def unsent(transport: Any) -> int:
    """The bytes that wait to be sent, as far as is known."""
    socket = _socket(transport)
    return 0 if socket is None or not socket.connected else _buffered(socket)


def _buffered(socket: Any) -> int:
    size: int = len(socket.dataBuffer) - socket.offset + socket._tempDataLen
    return size


def address_of(transport: Any) -> str:
    return getattr(transport.getPeer(), "host", "local")

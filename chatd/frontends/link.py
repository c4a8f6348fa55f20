"""What the front ends share: a session's link over a Twisted transport."""

from __future__ import annotations

import fcntl
import struct
import termios
from typing import Any, ClassVar

from twisted.internet import tcp
from twisted.internet.interfaces import IHalfCloseableProtocol, IPushProducer
from twisted.internet.protocol import Protocol
from twisted.protocols.policies import ProtocolWrapper
from zope.interface import implementer

from chatd.dispatcher import Dispatcher
from chatd.node import Node
from chatd.session import Link, Session, Wire

_GOODBYE = 2.0  # seconds until a connection that does not close is dropped
_HELD = 1  # too many requests under way
_FULL = 2  # the client does not read what it is sent


@implementer(IPushProducer, IHalfCloseableProtocol)
class TransportLink(Protocol, Link):
    """Sends for a session and stops what comes too fast, in both directions.

    `node` and `dispatcher` are set by the front end on the class that it makes of this.
    """

    node: ClassVar[Node]
    dispatcher: ClassVar[Dispatcher]
    live: ClassVar[bool] = True
    session: Session | None = None
    _stopped = 0
    _closing: Any = None

    def opened(self, wire: Wire) -> Session:
        """To be called when the client may send requests."""
        transport: Any = self.transport
        session = Session(self, wire, _address(transport), self.node.tick)
        self.session = session
        self.node.hub.open(session)
        socket = _socket(transport)
        if socket is not None:
            socket.bufferSize = self.node.limits.outbound_bytes
        transport.registerProducer(self, True)
        return session

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
        """The client sends no more. That it ended in good order, with all acknowledged,
        proves that it has read all: a kernel resets a connection with unread bytes."""
        if self.session is not None:
            self.node.cursors.prove(self.session)

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

    def abort(self) -> None:
        transport: Any = self.transport
        transport.abortConnection()

    def delivered(self) -> bool:
        socket = _socket(self.transport)
        if socket is None:
            return True
        if socket.dataBuffer or socket._tempDataLen or not socket.connected:
            return False
        queued = fcntl.ioctl(socket.fileno(), termios.TIOCOUTQ, b"\0\0\0\0")
        return bool(struct.unpack("i", queued)[0] == 0)

    def hold(self, on: bool) -> None:
        self._stop(_HELD, on)

    def _stop(self, why: int, on: bool) -> None:
        before, transport = self._stopped, self.transport
        self._stopped = before | why if on else before & ~why
        if self._stopped and not before:
            transport.pauseProducing()  # type: ignore[union-attr]
        elif before and not self._stopped:
            transport.resumeProducing()  # type: ignore[union-attr]

    # -- IPushProducer: the transport tells that its buffer is full, or empty again

    def pauseProducing(self) -> None:
        if self.session is not None:
            self.node.backlog.pause(self.session)
            self._stop(_FULL, True)

    def resumeProducing(self) -> None:
        if self.session is not None and self._closing is None:
            self._stop(_FULL, False)
            self.node.backlog.resume(self.session)

    def stopProducing(self) -> None:
        pass

    # -- IHalfCloseableProtocol

    def readConnectionLost(self) -> None:
        self.input_ended()
        self.transport.loseConnection()  # type: ignore[union-attr]

    def writeConnectionLost(self) -> None:
        pass


def _socket(transport: Any) -> Any:
    """The socket's transport beneath TLS or a proxy's header, if it is one."""
    while isinstance(transport, ProtocolWrapper):
        transport = transport.transport
    return transport if isinstance(transport, tcp.Connection) else None


def _address(transport: Any) -> str:
    return getattr(transport.getPeer(), "host", "local")

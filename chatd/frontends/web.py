"""One port for WebSocket and HTTP: reads a connection's first request head, then hands the
connection over.

A WebSocket handed over so has nothing of twisted.web about it, which saves 4 KB for each, and
no head grows without bound in Autobahn's buffer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IHalfCloseableProtocol, IProtocolNegotiationFactory
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from chatd.doors import Guest
from chatd.frontends.channel import head_too_long, last_words, too_late
from chatd.frontends.link import address_of, drop
from chatd.node import Node

_GOODBYE = 1.0  # seconds until a connection that does not close is dropped


@implementer(IHalfCloseableProtocol)
class WebProtocol(Protocol):
    """Waits for the head of the first request."""

    factory: WebFactory
    _guest: Guest
    _head = b""
    _inner: Any = None
    _deadline: Any = None
    _refused = False

    def connectionMade(self) -> None:
        node, transport = self.factory.node, self.transport
        self._guest = node.doors.enter(address_of(transport))
        if node.doors.crowded(node.limits):
            drop(transport)
            return
        self._wait(node.limits.handshake_seconds, self._late)
        self._look_who_comes()

    def _look_who_comes(self) -> None:
        node = self.factory.node
        refusal = node.doors.refusal(self._guest, node.limits)
        if refusal is not None:
            self._refuse(last_words(b"503 Service Unavailable", refusal))

    def dataReceived(self, data: bytes) -> None:
        if self._inner is not None:
            self._inner.dataReceived(data)
            return
        if not self._head and not self._refused:
            self._recognise()
        if self._refused:
            return
        limit = self.factory.node.limits.header_bytes
        head = self._head = self._head + data
        end = head.find(b"\r\n\r\n")
        if end > limit or (end < 0 and len(head) > limit):
            self._refuse(head_too_long(limit))
        elif end >= 0:
            self._hand_over(head)

    def _recognise(self) -> None:
        """Behind a proxy that speaks PROXY it shows by the first bytes who has come."""
        if self.factory.node.doors.move(self._guest, address_of(self.transport)):
            self._look_who_comes()

    def _hand_over(self, head: bytes) -> None:
        self._wait(None)
        del self._deadline, self._head
        make = self.factory.make_websocket if _wants_websocket(head) else self.factory.make_http
        self._inner = inner = make(self.transport.getPeer())  # type: ignore[union-attr]
        inner.makeConnection(self.transport)
        self.dataReceived = inner.dataReceived  # type: ignore[method-assign]
        inner.dataReceived(head)

    def _refuse(self, words: bytes) -> None:
        if self._refused:
            return
        transport: Any = self.transport
        self._refused = True
        self._wait(_GOODBYE, transport.abortConnection)
        transport.write(words)
        transport.loseConnection()

    def _late(self) -> None:
        node, transport = self.factory.node, self.transport
        if self._head:
            self._refuse(too_late(node.limits.handshake_seconds))
        else:
            transport.abortConnection()  # type: ignore[union-attr]

    def _wait(self, seconds: float | None, then: Callable[[], None] | None = None) -> None:
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()
        if seconds is not None and then is not None:
            self._deadline = self.factory.node.clock.callLater(seconds, then)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.factory.node.doors.leave(self._guest)
        self._wait(None)
        if self._inner is not None:
            self._inner.connectionLost(reason)
            self._inner = None
            self.__dict__.pop("dataReceived", None)

    def readConnectionLost(self) -> None:
        transport: Any = self.transport
        if self._inner is not None:
            self._inner.readConnectionLost()
        else:
            transport.loseConnection()

    def writeConnectionLost(self) -> None:
        pass


def _wants_websocket(head: bytes) -> bool:
    target = head.split(b" ", 2)[1:2]
    return bool(target) and target[0].partition(b"?")[0] == b"/ws"


@implementer(IProtocolNegotiationFactory)
class WebFactory(Factory):
    """Makes the protocols; `make_websocket` and `make_http` build what takes over."""

    protocol = WebProtocol  # type: ignore[assignment]
    noisy = False

    def __init__(
        self, node: Node, make_websocket: Callable[[Any], Any], make_http: Callable[[Any], Any]
    ) -> None:
        self.node = node
        self.make_websocket = make_websocket
        self.make_http = make_http

    def acceptableProtocols(self) -> list[bytes]:
        """For TLS clients that ask what is spoken here (ALPN, RFC 7301)."""
        return [b"http/1.1"]

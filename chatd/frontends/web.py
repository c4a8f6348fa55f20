"""One port for WebSocket and HTTP: reads a connection's first request head, then hands the
connection over.

A WebSocket handed over so has nothing of twisted.web about it, which saves 4 KB for each, and
no head grows without bound in Autobahn's buffer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import (
    IHalfCloseableProtocol,
    IProtocolNegotiationFactory,
    IReactorTime,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from chatd.settings import Limits

_TOO_LONG = b"HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\n\r\n"


@implementer(IHalfCloseableProtocol)
class WebProtocol(Protocol):
    """Waits for the head of the first request."""

    factory: WebFactory
    _head = b""
    _inner: Any = None
    _deadline: Any = None

    def connectionMade(self) -> None:
        factory = self.factory
        self._deadline = factory.clock.callLater(factory.limits.handshake_seconds, self._late)

    def dataReceived(self, data: bytes) -> None:
        if self._inner is not None:
            self._inner.dataReceived(data)
            return
        head = self._head = self._head + data
        end = head.find(b"\r\n\r\n")
        if end > self.factory.limits.header_bytes or (
            end < 0 and len(head) > self.factory.limits.header_bytes
        ):
            self._refuse()
        elif end >= 0:
            self._hand_over(head)

    def _hand_over(self, head: bytes) -> None:
        self._deadline.cancel()
        del self._deadline, self._head
        make = self.factory.make_websocket if _wants_websocket(head) else self.factory.make_http
        self._inner = inner = make(self.transport.getPeer())  # type: ignore[union-attr]
        inner.makeConnection(self.transport)
        self.dataReceived = inner.dataReceived  # type: ignore[method-assign]
        inner.dataReceived(head)

    def _refuse(self) -> None:
        transport: Any = self.transport
        self._deadline.cancel()
        self._deadline = self.factory.clock.callLater(1, transport.abortConnection)
        transport.write(_TOO_LONG)
        transport.loseConnection()

    def _late(self) -> None:
        self.transport.abortConnection()  # type: ignore[union-attr]

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()
        if self._inner is not None:
            self._inner.connectionLost(reason)
            self._inner = None
            self.__dict__.pop("dataReceived", None)

    def readConnectionLost(self) -> None:
        transport: Any = self.transport
        if IHalfCloseableProtocol.providedBy(self._inner):
            self._inner.readConnectionLost()
        elif self._inner is not None and self._inner._channel.requests:
            self._inner._channel.persistent = 0  # twisted.web closes when it has answered
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
        self,
        clock: IReactorTime,
        limits: Limits,
        make_websocket: Callable[[Any], Any],
        make_http: Callable[[Any], Any],
    ) -> None:
        self.clock = clock
        self.limits = limits
        self.make_websocket = make_websocket
        self.make_http = make_http

    def acceptableProtocols(self) -> list[bytes]:
        """For TLS clients that ask what is spoken here (ALPN, RFC 7301)."""
        return [b"http/1.1"]

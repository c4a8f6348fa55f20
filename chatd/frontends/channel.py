"""HTTP/1.1 connections on twisted.web, bounded: heads and bodies in bytes and time, silence in
time, pipelined requests to one a turn."""

from __future__ import annotations

import sys
from typing import Any

from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from twisted.web import server
from twisted.web.http import HTTPChannel
from zope.interface import implementer

from chatd.errors import Refused
from chatd.frontends.link import unsent
from chatd.languages import pick, said_in
from chatd.node import Node
from chatd.session import Session
from chatd.wire.json import JsonWire

PLAIN = JsonWire(lambda payload: payload)

_IDLE = 15.0  # seconds that a connection may wait for its next request
_GOODBYE = 2.0  # seconds for a connection to close in which the client reads nothing


def last_words(status: bytes, refused: Refused, language: str = "") -> bytes:
    """A whole response with a status such as `408 Request Timeout`, the connection's last."""
    body = PLAIN.error(None, said_in(language, refused))
    head = [b"HTTP/1.1 " + status, b"Content-Type: application/json", b"Connection: close"]
    if refused.retry_after is not None:
        head.append(b"Retry-After: %d" % max(1, round(refused.retry_after)))
    return b"\r\n".join([*head, b"Content-Length: %d" % len(body), b"", body])


def head_too_long(limit: int) -> bytes:
    """What answers a head beyond the limit."""
    refused = Refused(
        "too-large", "The headers of a request have at most {limit} bytes.", limit=limit
    )
    return last_words(b"431 Request Header Fields Too Large", refused)


def body_too_long(limit: int, language: str = "") -> bytes:
    """What answers a body beyond the limit."""
    refused = Refused("too-large", "A body has at most {limit} bytes.", limit=limit)
    return last_words(b"413 Content Too Large", refused, language)


def too_late(seconds: float) -> bytes:
    """What answers a request that is not there in time."""
    refused = Refused(
        "bad-request", "The request was not there within {seconds:g} s.", seconds=seconds
    )
    return last_words(b"408 Request Timeout", refused)


class LimitedRequest(server.Request):
    """A request whose body is refused once it is over the limit, before it is all there.
    `asker` is the session that it becomes."""

    content: Any
    channel: Channel
    asker: Session | None = None
    _refused = False

    @property
    def language(self) -> str:
        """What its client reads."""
        return self.accepted if self.asker is None else self.asker.language

    @property
    def accepted(self) -> str:
        """What its Accept-Language picks."""
        return pick(self.getHeader("accept-language") or "")

    def gotLength(self, length: int | None) -> None:
        super().gotLength(length)
        if length is not None and length > self._limit:
            self._refuse()

    def handleContentChunk(self, data: bytes) -> None:
        if self._refused:
            return
        super().handleContentChunk(data)
        if self.content.tell() > self._limit:
            self._refuse()

    @property
    def _limit(self) -> int:
        return self.channel.node.limits.body_bytes

    def _refuse(self) -> None:
        self._refused = True
        self.channel.end(body_too_long(self._limit, self.accepted))

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        if not self._refused:
            super().requestReceived(command, path, version)


@implementer(IHalfCloseableProtocol)
class Channel(HTTPChannel):
    """One connection. A request has `body_seconds` from its first byte, however they drip."""

    transport: Any
    totalHeadersSize = sys.maxsize  # lineReceived looks before
    timeOut = None  # twisted.web's own begins anew with every byte
    _taken = 0  # requests that were there completely
    _stage: tuple[str, int] | None = None
    _timer: Any = None
    _turn: Any = None
    _unsent = 0
    _ending = False

    def __init__(self, node: Node) -> None:
        super().__init__()
        self.node = node

    @property
    def MAX_LENGTH(self) -> int:  # type: ignore[override]
        return self.node.limits.header_bytes

    def connectionMade(self) -> None:
        super().connectionMade()
        self._watch()

    def dataReceived(self, data: bytes) -> None:
        super().dataReceived(data)
        self._watch()

    def lineReceived(self, line: bytes) -> None:
        if self._receivedHeaderSize + len(line) > self.MAX_LENGTH:
            self.lineLengthExceeded(line)
        else:
            super().lineReceived(line)

    def lineLengthExceeded(self, line: bytes) -> None:
        self.end(head_too_long(self.MAX_LENGTH))

    def headerReceived(self, line: bytes) -> bool:
        try:
            return bool(super().headerReceived(line))
        except ValueError:  # a Content-Length of more digits than int() takes
            self.end(body_too_long(self.node.limits.body_bytes))
            return False

    def _send100Continue(self) -> None:
        if not self._ending:  # nothing comes behind the last words
            super()._send100Continue()

    def allContentReceived(self) -> None:
        self._taken += 1
        super().allContentReceived()

    def requestDone(self, request: Any) -> None:
        self.paused = True
        super().requestDone(request)
        self.paused = bool(self._buffer) and not self._ending
        if self.paused:  # the next one's turn comes after that of other connections
            self._networkProducer.pauseProducing()
            self._turn = self.node.clock.callLater(0, self._next)
        self._watch()

    def _next(self) -> None:
        self.paused = False
        self.dataReceived(b"")
        if not (self._handlingRequest or self._waitingForTransport or self.paused):
            self._networkProducer.resumeProducing()

    # -- times

    def _watch(self) -> None:
        """Begins to count the seconds of what the connection does now, if that is new."""
        if self._ending:
            return
        if self._handlingRequest:
            stage, seconds = "answering", None
        elif self._buffer or self.requests:
            stage, seconds = "receiving", self.node.limits.body_seconds
        else:
            stage, seconds = "idle", _IDLE
        if self._stage != (stage, self._taken):
            self._stage = (stage, self._taken)
            self._wait(seconds)

    def _wait(self, seconds: float | None) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None if seconds is None else self.node.clock.callLater(seconds, self._late)

    def _late(self) -> None:
        before, self._unsent = self._unsent, unsent(self.transport)
        receiving = self._stage is not None and self._stage[0] == "receiving"
        if self._unsent and self._unsent != before and (self._ending or not receiving):
            self._wait(_GOODBYE if self._ending else _IDLE)  # the client reads its answer
        elif self._ending:
            self.transport.abortConnection()
        else:
            self.end(too_late(self.node.limits.body_seconds) if receiving else b"")

    def end(self, words: bytes = b"") -> None:
        """Says the last words and closes."""
        if words:
            self.transport.write(words)
        self.loseConnection()

    def loseConnection(self) -> None:
        self._ending = True
        self._wait(_GOODBYE)
        super().loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._ending = True
        self._wait(None)
        if self._turn is not None and self._turn.active():
            self._turn.cancel()
        super().connectionLost(reason)

    def readConnectionLost(self) -> None:
        if self._handlingRequest:
            self.persistent = 0  # twisted.web closes when it has answered
        else:
            self.end()

    def writeConnectionLost(self) -> None:
        pass

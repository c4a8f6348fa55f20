"""The front end for browsers: JSON over WebSocket (RFC 6455), by Autobahn.

Autobahn's defaults are open and its way to set options costs two thirds of an accept; here
every option is a class attribute, all limits are set, and what the handshake leaves behind is
dropped.
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any, ClassVar
from urllib.parse import urlsplit

import txaio
from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from autobahn.websocket.types import ConnectionDeny, ConnectionRequest

from chatd.dispatcher import Dispatcher, Malformed
from chatd.errors import TRY_AGAIN_LATER, Refused
from chatd.frontends.link import PORTION, TransportLink
from chatd.node import TOO_MANY, Node
from chatd.wire.json import JsonWire, decode

_LEFTOVERS = (  # of the handshake: 1.5 KB a connection
    "http_headers",
    "http_request_data",
    "http_request_params",
    "http_response_data",
    "websocket_extensions",
    "_transport_details",
)
_WHOLE_TEXT = 0x81  # FIN and the opcode of text
_MASKED = 0x80
_SIZE_16 = 126  # the size stands in the next two bytes
_PING = b"\x89"
_SLICE = 4096  # bytes given to Autobahn at once: some 700 of the smallest frames,
_SLICE_COST = 16  # which cost as much as so many requests


def frame(payload: bytes) -> bytes:
    """An unmasked text frame (RFC 6455 §5.2)."""
    size = len(payload)
    if size < 126:
        return bytes((0x81, size)) + payload
    if size < 2**16:
        return b"\x81\x7e" + size.to_bytes(2, "big") + payload
    return b"\x81\x7f" + size.to_bytes(8, "big") + payload


FRAMES = JsonWire(frame)

_BINARY = Malformed(None, Refused("bad-request", "A request is a text frame, not a binary one."))


class ChatProtocol(TransportLink, WebSocketServerProtocol):  # type: ignore[misc]
    """One browser's connection; a text frame is a request."""

    pings = True
    CONFIG_ATTRS = ()  # type: ignore[assignment]
    logOctets = logFrames = trackTimings = False
    utf8validateIncoming = applyMask = True
    autoFragmentSize = 0
    failByDrop = False  # say why before closing
    echoCloseCodeReason = False
    openHandshakeTimeout = 0  # the whole head is there before this protocol is made
    closeHandshakeTimeout = 0  # sendCloseFrame sees to it
    tcpNoDelay = True
    autoPingInterval = autoPingTimeout = 0  # the heartbeat does it for all sessions
    autoPingSize = 12
    autoPingRestartOnAnyTraffic = True
    versions: ClassVar[list[int]] = [13]
    webStatus = False
    requireMaskedClientFrames = True
    maskServerFrames = False
    serveFlashSocketPolicy = False
    flashSocketPolicy = ""
    allowedOrigins: ClassVar[list[str]] = ["*"]  # onConnect decides
    allowedOriginsPatterns: ClassVar[list[re.Pattern[str]]] = [re.compile("")]
    allowNullOrigin = True
    maxConnections = 0
    trustXForwardedFor = 0
    origins: ClassVar[tuple[str, ...]] = ()
    maxFramePayloadSize = maxMessagePayloadSize = 0  # set by the factory
    current_frame: Any  # none between two frames

    @staticmethod
    def perMessageCompressionAccept(offers: Any) -> None:
        """Takes none: a compressor costs 90 KB per connection, and spoils encode-once."""

    def connectionMade(self) -> None:
        transport: Any = self.transport
        self.peer = str(transport.getPeer())
        with suppress(AttributeError, OSError):  # a Unix socket
            transport.setTcpNoDelay(True)
        self._connectionMade()

    def onConnect(self, request: ConnectionRequest) -> None:
        if request.origin and not _allowed(request.origin, request.headers, self.origins):
            raise ConnectionDeny(403, "This origin may not connect; see listen.origins.")

    def onOpen(self) -> None:
        for leftover in _LEFTOVERS:
            setattr(self, leftover, None)
        if self.node.full():
            self.close(TRY_AGAIN_LATER, TOO_MANY.sentence)
            return
        self.opened(FRAMES)

    def dataReceived(self, data: bytes) -> None:
        if self.session is None:
            self._dataReceived(data)
        else:
            self.take(data)

    def consume(self, data: bytes) -> tuple[bytes, bool]:
        """Takes what nearly every frame is, a whole short text message, by a short way: a
        fourth of Autobahn's cost. All else is left to Autobahn, byte for byte."""
        start, budget = 0, PORTION
        while start < len(data) and budget > 0 and not self.stopped:
            taken = self._take_text(data, start)
            if taken is not None:
                text, start = taken
                self._request(decode(text))
                budget -= 1
            else:
                end = start + max(_SLICE, self._missing())
                self._dataReceived(data[start:end])
                start = end
                budget -= _SLICE_COST
        return data[start:], start < len(data)

    def _missing(self) -> int:
        """The bytes that the frame under way still lacks."""
        if self.current_frame is None:
            return 0
        missing: int = self.current_frame.length - self.current_frame_masker.pointer()
        return missing

    def _take_text(self, data: bytes, start: int) -> tuple[str, int] | None:
        """The text of an unfragmented, masked frame at `start`, and where the next begins;
        None for any other frame, or one that is broken or not all there."""
        body = start + 6
        if len(data) < body or data[start] != _WHOLE_TEXT:
            return None
        if self.data or self.state != self.STATE_OPEN:
            return None
        if self.inside_message or self.current_frame is not None:
            return None  # amid a message or a frame
        size = data[start + 1] - _MASKED
        if size == _SIZE_16:
            size = int.from_bytes(data[start + 2 : start + 4], "big")
            body += 2
            if size < _SIZE_16:
                return None
        elif not 0 <= size < _SIZE_16:
            return None
        end = body + size
        if end > len(data) or size > self.maxFramePayloadSize:
            return None
        mask = (data[body - 4 : body] * (size // 4 + 1))[:size]
        bits = int.from_bytes(data[body:end], "little") ^ int.from_bytes(mask, "little")
        try:
            return bits.to_bytes(size, "little").decode(), end
        except UnicodeDecodeError:
            return None

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        self._request(_BINARY if isBinary else decode(payload))

    def _request(self, request: Any) -> None:
        if self.session is not None and self.state == self.STATE_OPEN:
            self.dispatcher.receive(self.session, request, FRAMES)

    def onMessageEnd(self) -> None:
        # Autobahn's own makes a Deferred for listeners that nobody has.
        if not self.failedByMe:
            self.onMessage(b"".join(self.message_data), self.message_is_binary)
        self.message_data = []

    def onPing(self, payload: bytes) -> None:
        self._heard()
        self.sendPong(payload)

    def onPong(self, payload: bytes) -> None:
        self._heard()
        if self.session is not None:
            self.node.cursors.answered(self.session, payload)

    def _heard(self) -> None:
        if self.session is not None:
            self.session.heard = self.node.tick

    def sendCloseFrame(self, *args: Any, **kwargs: Any) -> None:
        self.node.hub.flush()  # no data may come behind a close (RFC 6455 §5.5.1)
        self.drop_soon()
        super().sendCloseFrame(*args, **kwargs)

    def onCloseFrame(self, code: int, reasonRaw: bytes) -> Any:
        self.input_ended()
        return super().onCloseFrame(code, reasonRaw)

    def connectionLost(self, reason: Any) -> None:  # type: ignore[override]
        self._connectionLost(reason)
        self.lost()

    def onClose(self, wasClean: bool, code: Any, reason: Any) -> None:
        pass

    # -- session.Link

    def close(self, code: int, reason: str) -> None:
        # Autobahn's sendClose takes no code below 3000 but 1000, and so not 1012 and 1013.
        self.sendCloseFrame(code, reason.encode())

    def send(self, data: bytes) -> None:
        if self.state == self.STATE_OPEN:  # no data may come behind a close
            super().send(data)

    def ping(self, payload: bytes) -> None:
        self.node.hub.flush()
        self.send(_PING + bytes((len(payload),)) + payload)

    def finished(self) -> None:
        pass


def _allowed(origin: str, headers: Any, origins: tuple[str, ...]) -> bool:
    """Whether a page of this origin may connect: one of chatd's own host, or a listed one."""
    if "*" in origins or origin in origins:
        return True
    host: str = headers.get("host", "")
    return urlsplit(origin).netloc.lower() == host.strip().lower()


class ChatFactory(WebSocketServerFactory):
    """Makes the protocols for one node."""

    noisy = False

    def __init__(
        self, reactor: Any, node: Node, dispatcher: Dispatcher, origins: tuple[str, ...]
    ) -> None:
        txaio.use_twisted()
        txaio.config.loop = reactor  # type: ignore[attr-defined]
        super().__init__(reactor=reactor, server="chatd")
        self.protocol = type(  # type: ignore[assignment]
            "WebSocket",
            (ChatProtocol,),
            {
                "node": node,
                "dispatcher": dispatcher,
            },
        )
        self._node = node
        self.reload(origins)

    def reload(self, origins: tuple[str, ...]) -> None:
        """Takes over origins and the node's limits, for connections that are open, too."""
        protocol: Any = self.protocol
        protocol.origins = origins
        protocol.maxFramePayloadSize = self._node.limits.frame_bytes
        protocol.maxMessagePayloadSize = self._node.limits.frame_bytes

"""The front end for browsers: JSON over WebSocket (RFC 6455), by Autobahn.

Autobahn's defaults are open and its way to set options costs two thirds of an accept; here
every option is a class attribute, all limits are set, and what the handshake leaves behind is
dropped.
"""

from __future__ import annotations

import re
from contextlib import suppress
from http import HTTPStatus
from typing import Any, ClassVar

import txaio
from autobahn.exception import PayloadCorruptError, PayloadExceededError
from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from autobahn.websocket.protocol import TrafficStats
from autobahn.websocket.types import ConnectionDeny, ConnectionRequest
from twisted.logger import Logger

from chatd.dispatcher import Dispatcher, Malformed
from chatd.errors import CLOSE_CODES, TOO_MANY_FRAMES, Refused, Template
from chatd.frontends.link import PORTION, TransportLink
from chatd.languages import pick, translated
from chatd.node import Node
from chatd.wire import deflate
from chatd.wire.json import JsonWire, decode

_LEFTOVERS = (  # of the handshake: 2 KB a connection
    "_transport_details",
    "_wskey",
    "http_headers",
    "http_request_data",
    "http_request_host",
    "http_request_params",
    "http_request_path",
    "http_request_uri",
    "http_response_data",
    "http_status_line",
    "websocket_extensions",
    "websocket_extensions_in_use",
    "websocket_origin",
    "websocket_protocols",
)
_WHOLE_TEXT = 0x81  # FIN and the opcode of text
_COMPRESSED = 0x40  # RSV1 (RFC 7692 §6)
_MASKED = 0x80
_SIZE_16 = 126  # the size stands in the next two bytes
_PING = b"\x89"
_PONG = b"\x8a"
_CONTROL = 8  # the first opcode of the control frames
_REASON = 200  # characters of the reason why a handshake failed: some quote the client
# RFC 9112 §3 to §5: no folded lines, no blank before a colon, no line end but CR LF. Autobahn
# would read a folded line as a header of its own.
_HEAD = re.compile(
    rb"[ -~\x80-\xff]+\r\n(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t -~\x80-\x84\x86-\xff]*\r\n)*\r\n"
)
_SLICE = 4096  # bytes given to Autobahn at once: some 700 of the smallest frames,
_SLICE_COST = 16  # which cost as much as so many requests
_SMALL_SLICE = 256  # the same, of compressed messages: 64 KB may stand in 100 bytes


def frame(payload: bytes, first: int = _WHOLE_TEXT) -> bytes:
    """An unmasked text frame (RFC 6455 §5.2)."""
    size = len(payload)
    if size < 126:
        return bytes((first, size)) + payload
    if size < 2**16:
        return bytes((first, 126)) + size.to_bytes(2, "big") + payload
    return bytes((first, 127)) + size.to_bytes(8, "big") + payload


def small_frame(payload: bytes) -> bytes:
    """The same, compressed where that makes it smaller."""
    data = deflate.compressed(payload)
    return frame(payload) if data is None else frame(data, _WHOLE_TEXT | _COMPRESSED)


FRAMES = JsonWire(frame)
SMALL_FRAMES = JsonWire(small_frame)

_BINARY = Malformed(None, Refused("bad-request", "A request is a text frame, not a binary one."))


class _Compression(deflate.Inflater):
    """An inflater as Autobahn calls it. Its own keeps its state between messages, and all that
    comes behind a last block; how much it lets through depends on how the frame arrives."""

    __slots__ = ()
    EXTENSION_NAME = deflate.NAME

    def start_decompress_message(self) -> None:
        self.begin()

    def decompress_message_data(self, data: bytes, max_output_len: int) -> bytes:
        try:
            return self.feed(data)
        except deflate.TooLarge as error:
            raise PayloadExceededError from error
        except deflate.Corrupt as error:
            raise PayloadCorruptError(str(error)) from error

    def end_decompress_message(self) -> None:
        try:
            self.end()
        except deflate.Corrupt as error:
            raise PayloadCorruptError(str(error)) from error


class _Log(Logger):
    """For Autobahn: what a client does wrong is told to the client, and must not fill our log."""

    def trace(self, *args: Any, **fields: Any) -> None:
        """Nothing, and below the same."""

    debug = info = warn = trace


class ChatProtocol(TransportLink, WebSocketServerProtocol):  # type: ignore[misc]
    """One browser's connection; a text frame is a request."""

    pings = True
    log = _Log("autobahn")
    CONFIG_ATTRS = ()  # type: ignore[assignment]
    logOctets = logFrames = trackTimings = False
    utf8validateIncoming = applyMask = True
    autoFragmentSize = 0
    failByDrop = False  # say why before closing
    echoCloseCodeReason = True
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
    compression: ClassVar[bool] = False
    maxFramePayloadSize = maxMessagePayloadSize = 0  # set by the factory
    current_frame: Any  # none between two frames
    traffic: ClassVar[TrafficStats]
    send_queue: Any
    _perMessageCompress: Any
    _isMessageCompressed: bool
    message_data: Any  # bytes: Autobahn's list would grow by empty fragments
    _counted_in = -1  # the tick in which
    _frames = 0  # frames that are no whole message have been counted
    _deaf = False  # it sends far too many: what else comes is not looked at

    @staticmethod
    def perMessageCompressionAccept(offers: Any) -> None:
        """Takes none: onConnect decides. Autobahn's compressor costs 90 KB per connection, and
        spoils encode-once."""

    def connectionMade(self) -> None:
        transport: Any = self.transport
        self.peer = str(transport.getPeer())
        with suppress(AttributeError, OSError):  # a Unix socket
            transport.setTcpNoDelay(True)
        self._connectionMade()

    def processHandshake(self) -> None:
        if _HEAD.match(self.data) is None:
            self.failHandshake("The head of the request is malformed.")
            return
        super().processHandshake()

    def onConnect(self, request: ConnectionRequest) -> Any:
        headers: Any = request.headers
        if request.origin and not _allowed(request.origin, headers, self.origins):
            raise ConnectionDeny(403, "This origin may not connect; see listen.origins.")
        if "transfer-encoding" in headers or headers.get("content-length", "0") != "0":
            raise ConnectionDeny(400, "A handshake has no body.")
        self.websocket_extensions = []  # Autobahn would fail for an offer that it does not like
        agreed = deflate.answer(request.extensions) if self.compression else None
        if agreed is None:
            return None
        extension, bits = agreed
        self._perMessageCompress = _Compression(bits, self.maxMessagePayloadSize)
        return None, {"Sec-WebSocket-Extensions": extension}

    def failHandshake(self, reason: str, code: int = 400, responseHeaders: Any = None) -> None:
        # Not Autobahn's own: that logs the reason, and some quote the URL or a header, in which
        # there may be a token. It gives headers for a version alone (RFC 6455 §4.4).
        self.drop_soon()
        self.sendHttpErrorResponse(HTTPStatus.UPGRADE_REQUIRED if responseHeaders else code, reason)
        self.wasClean = True
        self.dropConnection(abort=False)

    def sendHttpErrorResponse(self, code: int, reason: str, responseHeaders: Any = None) -> None:
        headers = getattr(self, "http_headers", None) or {}
        plain = reason[:_REASON].encode("ascii", "replace").decode()
        told = translated(plain, {}, pick(headers.get("accept-language", "")))
        body = told.encode() + b"\n"
        head = f"HTTP/1.1 {code:d} {HTTPStatus(code).phrase}\r\n"
        if code == HTTPStatus.UPGRADE_REQUIRED:
            head += "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        if code == HTTPStatus.METHOD_NOT_ALLOWED:
            head += "Allow: GET\r\n"
        head += "Connection: close\r\nContent-Type: text/plain; charset=utf-8\r\n"
        head += f"X-Content-Type-Options: nosniff\r\nContent-Length: {len(body)}\r\n\r\n"
        self.sendData(head.encode() + body)

    def onOpen(self) -> None:
        accepted = (self.http_headers or {}).get("accept-language", "")
        for leftover in _LEFTOVERS:
            setattr(self, leftover, None)
        self.send_queue = ()  # for bytes sent one by one, which nothing does: 760 bytes
        self.trafficStats = self.traffic  # nobody asks for one connection's: 350 bytes
        self.opened(FRAMES if self._perMessageCompress is None else SMALL_FRAMES, accepted)

    def dataReceived(self, data: bytes) -> None:
        if self.session is not None:
            self.take(data)
        elif self.state != self.STATE_CLOSED:  # Autobahn would keep it
            self._dataReceived(data)

    def consume(self, data: bytes) -> tuple[bytes, bool]:
        """Takes what nearly every frame is, a whole short text message, by a short way: a
        fourth of Autobahn's cost. All else is left to Autobahn, byte for byte."""
        if self._deaf or self.state == self.STATE_CLOSED:  # Autobahn would keep it
            return b"", False
        start, budget = 0, PORTION
        while start < len(data) and budget > 0 and not self.stopped:
            taken = self._take_text(data, start)
            if taken is not None:
                text, start = taken
                self._request(decode(text))
                budget -= 1
            else:
                slice_ = _SLICE if self._perMessageCompress is None else _SMALL_SLICE
                end = start + max(slice_, self._missing())
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
        if self.data or self.inside_message or self.current_frame is not None:
            return None  # amid a message, a frame or its head
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
        session = self.session
        if session is not None and self.state == self.STATE_OPEN:
            self.dispatcher.receive(session, request, session.wire)

    def onFrameBegin(self) -> None:
        frame = self.current_frame
        if frame.opcode < _CONTROL and not (frame.opcode and frame.fin):
            self._count()
        super().onFrameBegin()

    def onMessageBegin(self, isBinary: bool) -> None:
        super().onMessageBegin(isBinary)
        self.message_data = bytearray()

    def onMessageFrameBegin(self, length: int) -> None:
        super().onMessageFrameBegin(length)
        if self._isMessageCompressed:  # what it is inflated to is counted by the inflater
            self.message_data_total_length -= length

    def onMessageFrameData(self, payload: bytes) -> None:
        if not self.failedByMe:
            self.message_data += payload

    def onMessageFrameEnd(self) -> None:
        pass

    def onMessageEnd(self) -> None:
        # Autobahn's own makes a Deferred for listeners that nobody has.
        data, self.message_data = self.message_data, b""
        if not self.failedByMe:
            self.onMessage(bytes(data), self.message_is_binary)

    def onPing(self, payload: bytes) -> None:
        self._heard()
        self._count()
        if self.state != self.STATE_OPEN:
            return  # such as for a ping that was too long: Autobahn reads on when it has failed
        self.send(_PONG + bytes((len(payload),)) + payload)

    def onPong(self, payload: bytes) -> None:
        self._heard()
        if self.session is None or not self.node.cursors.answered(self.session, payload):
            self._count()

    def _count(self) -> None:
        """Counts a control frame that nobody asked for, or a fragment."""
        node = self.node
        if self._counted_in != node.tick:
            self._counted_in, self._frames = node.tick, 0
        self._frames += 1
        most = node.limits.frames_per_second
        if self._frames > 2 * most:  # long closed, and it goes on
            self._deaf = True
        elif self._frames > most and self.state == self.STATE_OPEN:
            self.close(TOO_MANY_FRAMES, CLOSE_CODES[TOO_MANY_FRAMES])

    def _heard(self) -> None:
        if self.session is not None:
            self.session.heard = self.node.tick

    def _fail_connection(self, code: int = 1001, reason: str = "") -> None:
        # Autobahn's reason says more, but in English only.
        meaning = CLOSE_CODES.get(code, reason)
        told = self.said(meaning)
        super()._fail_connection(code, reason if told == meaning else told)

    def sendCloseFrame(self, *args: Any, **kwargs: Any) -> None:
        self.node.hub.flush()  # no data may come behind a close (RFC 6455 §5.5.1)
        self.drop_soon()
        super().sendCloseFrame(*args, **kwargs)

    def onCloseFrame(self, code: int, reasonRaw: bytes) -> Any:
        if self.session is not None:
            self.node.cursors.closed(self.session)
        return super().onCloseFrame(code, reasonRaw)

    def connectionLost(self, reason: Any) -> None:  # type: ignore[override]
        self._connectionLost(reason)
        self.lost()

    def onClose(self, wasClean: bool, code: Any, reason: Any) -> None:
        pass

    # -- session.Link

    def close(self, code: int, reason: Template) -> None:
        # Autobahn's sendClose takes no code below 3000 but 1000, and so not 1012 and 1013.
        self.sendCloseFrame(code, self.said(reason).encode())

    def send(self, data: bytes) -> None:
        if self.state == self.STATE_OPEN:  # no data may come behind a close
            super().send(data)

    def ping(self, payload: bytes) -> None:
        if self.session is not None:
            self.node.hub.send(self.session, _PING + bytes((len(payload),)) + payload)

    def finished(self) -> None:
        pass


def _allowed(origin: str, headers: Any, origins: tuple[str, ...]) -> bool:
    """Whether a page of this origin may connect: one of chatd's own host, or a listed one."""
    if "*" in origins or origin in origins:
        return True
    scheme, _, host = origin.lower().partition("://")
    return bool(scheme and host) and host == headers.get("host", "").strip().lower()


class ChatFactory(WebSocketServerFactory):
    """Makes the protocols for one node."""

    noisy = False

    def __init__(
        self,
        reactor: Any,
        node: Node,
        dispatcher: Dispatcher,
        origins: tuple[str, ...],
        compression: bool = False,
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
                "compression": compression,
                "traffic": TrafficStats(),
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

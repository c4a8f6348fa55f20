"""The two wires as bytes: requests to send, and a server's bytes cut into messages."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import ClassVar, Protocol

TEXT_FRAME = 0x81
MASKED = 0x80
HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


Steps = tuple[bytes, ...]  # each is answered by one message


class Wire(Protocol):
    """One of the two ways to talk to chatd."""

    before_login: ClassVar[Steps]
    after_login: ClassVar[Steps]

    def frame(self, request: Mapping[str, object]) -> bytes:
        """The bytes to send for one request."""

    def cut(self, data: bytes) -> tuple[list[bytes], bytes]:
        """The whole messages `data` begins with, and what is left of it."""


class WebSocket:
    """JSON in masked text frames (RFC 6455); a server's frames are not masked."""

    before_login: ClassVar[Steps] = (HANDSHAKE,)
    after_login: ClassVar[Steps] = ()

    def frame(self, request: Mapping[str, object]) -> bytes:
        payload = compact(request)
        return bytes((TEXT_FRAME,)) + _masked_length(len(payload)) + _masked(payload)

    def cut(self, data: bytes) -> tuple[list[bytes], bytes]:
        messages, at = [], 0
        while span := _span(data, at):
            start, at = span
            messages.append(data[start:at])
        return messages, data[at:]


class Lines:
    """JSON in lines over plain TCP, events too after `/json on`."""

    before_login: ClassVar[Steps] = ()
    after_login: ClassVar[Steps] = (b"/json on\n",)

    def frame(self, request: Mapping[str, object]) -> bytes:
        return compact(request) + b"\n"

    def cut(self, data: bytes) -> tuple[list[bytes], bytes]:
        *messages, rest = data.split(b"\n")
        return messages, rest


def compact(request: Mapping[str, object]) -> bytes:
    return json.dumps(request, separators=(",", ":")).encode()


def _masked_length(length: int) -> bytes:
    if length < 126:
        return bytes((MASKED | length,))
    return bytes((MASKED | 126,)) + length.to_bytes(2, "big")


def _masked(payload: bytes) -> bytes:
    key = os.urandom(4)
    pad = (key * (len(payload) // 4 + 1))[: len(payload)]
    masked = int.from_bytes(payload, "big") ^ int.from_bytes(pad, "big")
    return key + masked.to_bytes(len(payload), "big")


def _span(data: bytes, at: int) -> tuple[int, int] | None:
    """Start and end of the payload of the frame at `at`, None while it is incomplete."""
    if data.startswith(b"HTTP/", at):
        end = data.find(b"\r\n\r\n", at)
        return None if end < 0 else (at, end + 4)
    start = at + 2
    if len(data) < start:
        return None
    length = data[at + 1]
    if length >= 126:
        width = 2 if length == 126 else 8
        length = int.from_bytes(data[start : start + width], "big")
        start += width
    if len(data) < start + length or len(data) < start:
        return None
    return start, start + length

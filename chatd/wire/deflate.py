"""permessage-deflate (RFC 7692), each message for itself: what is agreed, and both directions.

That nothing is kept from one message to the next costs some compression. It saves the memory
per connection, and lets one compressed event go to every session.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

NAME = "permessage-deflate"
_WINDOW_BITS = 12  # 4 KB hold most events whole
_MEMORY_LEVEL = 5  # 16 KB while a message is compressed
_LEVEL = 6
_WORTHWHILE = 200  # bytes; a shorter message hardly shrinks
_TAIL = b"\0\0\xff\xff"  # ends every message, and so is not sent (§7.2.1)

_BITS = "=([89]|1[0-5])"
_PARAMETERS = {  # what may stand behind the name of each (§7.1)
    "server_no_context_takeover": re.compile(""),
    "client_no_context_takeover": re.compile(""),
    "server_max_window_bits": re.compile(_BITS),
    "client_max_window_bits": re.compile(f"({_BITS})?"),
}

# Parameters by name, each with its values, which are True where there is none.
Offer = tuple[str, Mapping[str, Sequence[Any]]]


class TooLarge(Exception):
    """A message inflates to more than it may."""


class Corrupt(Exception):
    """A message is no deflate data."""


def answer(offers: Iterable[Offer]) -> tuple[str, int] | None:
    """The extension as the server wants it and the bits of the client's window, for the first
    offer that lets it; None if there is none. A broken offer is passed over (§7)."""
    for name, parameters in offers:
        if name == NAME and (agreed := _agreed(parameters)):
            return agreed
    return None


def _agreed(parameters: Mapping[str, Sequence[Any]]) -> tuple[str, int] | None:
    given: dict[str, str] = {}
    for name, values in parameters.items():
        given[name] = "".join("" if value is True else f"={value}" for value in values)
        if len(values) != 1 or name not in _PARAMETERS:
            return None
        if not _PARAMETERS[name].fullmatch(given[name]):
            return None
    if _bits(given.get("server_max_window_bits", "")) < _WINDOW_BITS:
        return None
    ours = f"{NAME}; server_no_context_takeover; client_no_context_takeover"
    ours += f"; server_max_window_bits={_WINDOW_BITS}"
    hint = given.get("client_max_window_bits")
    if hint is None:  # such a client cannot be told to have a smaller one (§7.1.2.2)
        return ours, zlib.MAX_WBITS
    if _bits(hint) < _WINDOW_BITS:  # it keeps to it unasked
        return ours, _WINDOW_BITS
    return f"{ours}; client_max_window_bits={_WINDOW_BITS}", _WINDOW_BITS


def _bits(given: str) -> int:
    return int(given[1:] or zlib.MAX_WBITS)


def compressed(payload: bytes) -> bytes | None:
    """The payload of a compressed message; None if it is better sent as it is."""
    if len(payload) < _WORTHWHILE:
        return None
    stream = zlib.compressobj(_LEVEL, zlib.DEFLATED, -_WINDOW_BITS, _MEMORY_LEVEL)
    data = stream.compress(payload) + stream.flush(zlib.Z_SYNC_FLUSH)
    return data[: -len(_TAIL)] if len(data) < len(payload) else None


class Inflater:
    """Inflates one message after the other, each to `most` bytes at most, by a window of so many
    bits; holds state only amid a message."""

    __slots__ = ("_bits", "_most", "_room", "_stream")

    def __init__(self, bits: int, most: int) -> None:
        self._bits = bits
        self._most = self._room = most
        self._stream: Any = None

    def begin(self) -> None:
        """A message begins."""
        self._room = self._most
        self._stream = zlib.decompressobj(-self._bits)

    def feed(self, data: bytes) -> bytes:
        """What a piece of the message stands for. Raises `TooLarge` or `Corrupt`; after that
        the rest of the message is nothing."""
        stream, self._stream = self._stream, None
        if stream is None:
            return b""
        try:
            # One byte more than there is room for: what would be beyond it cannot stay inside.
            inflated: bytes = stream.decompress(data, self._room + 1)
        except zlib.error as error:
            raise Corrupt(str(error)) from error
        self._room -= len(inflated)
        if self._room < 0:
            raise TooLarge
        if stream.unused_data not in (b"", b"\0"):  # the latter as in §7.2.3.4
            raise Corrupt("data behind the last block")
        self._stream = stream
        return inflated

    def end(self) -> None:
        """The message is all there. Raises `Corrupt`."""
        stream, self._stream = self._stream, None
        if stream is None or stream.eof:
            return
        try:
            beyond = stream.decompress(_TAIL, 1)
        except zlib.error as error:
            raise Corrupt(str(error)) from error
        if beyond:
            raise Corrupt("the last block is cut off")

"""A reactor that moves only when told to, threads that run when told to, and clients on real
sockets: whatever happens in a node happens in an order that a test chooses.
"""

from __future__ import annotations

import json
import select
import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from twisted.internet import tcp
from twisted.internet.base import ReactorBase
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IReactorFDSet
from twisted.internet.posixbase import _DisconnectSelectableMixin
from twisted.python.failure import Failure
from zope.interface import implementer

from tests.bed import UPGRADE, masked

_ADDRESS = ("192.0.2.7", 4711)
_BUFFER = 4608  # bytes, the kernel's least: some messages fill it
_TICK = 1e-6  # seconds; time moves with every look, so calls of one delay stay in order


@implementer(IReactorFDSet)
class Loop(_DisconnectSelectableMixin, ReactorBase):
    """Twisted's reactor with time standing still and sockets looked at once a turn."""

    def __init__(self) -> None:
        self._now = 1e9
        self._reads: dict[Any, None] = {}
        self._writes: dict[Any, None] = {}
        super().__init__()

    def seconds(self) -> float:
        self._now += _TICK
        return self._now

    def installWaker(self) -> None:
        pass

    def addReader(self, reader: Any) -> None:
        self._reads[reader] = None

    def removeReader(self, reader: Any) -> None:
        self._reads.pop(reader, None)

    def addWriter(self, writer: Any) -> None:
        self._writes[writer] = None

    def removeWriter(self, writer: Any) -> None:
        self._writes.pop(writer, None)

    def getReaders(self) -> list[Any]:
        return list(self._reads)

    def getWriters(self) -> list[Any]:
        return list(self._writes)

    def removeAll(self) -> list[Any]:
        found = list(self._reads | self._writes)
        self._reads.clear()
        self._writes.clear()
        return found

    def turn(self, seconds: float = 0) -> None:
        """One turn: what threads handed over, what is due after `seconds`, what has arrived."""
        self._now += seconds
        self.runUntilCurrent()
        readable, writable = self._ready()
        for reader in readable:
            if reader in self._reads:
                self._act(reader, reader.doRead, True)
        for writer in writable:
            if writer in self._writes:
                self._act(writer, writer.doWrite, False)

    def due(self) -> bool:
        """Whether a turn would do anything."""
        return bool(self.threadCallQueue) or self.timeout() == 0 or any(self._ready())

    def _ready(self) -> tuple[list[Any], list[Any]]:
        if not (self._reads or self._writes):
            return [], []
        return select.select(list(self._reads), list(self._writes), [], 0)[:2]

    def _act(self, selectable: Any, method: Callable[[], Any], reading: bool) -> None:
        why = method()
        if why:
            self._disconnectSelectable(selectable, why, reading)


class Threads:
    """In the place of a thread pool: work begins when told to, and what came of it is told to the
    reactor when told to; between the two a thread may be stopped for as long as one likes."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._waiting: deque[Callable[[], Callable[[], None]]] = deque()
        self._done: deque[Callable[[], None]] = deque()

    def start(self) -> None:
        """As a pool has it."""

    def stop(self) -> None:
        """What waits is never done."""
        self._waiting.clear()
        self._done.clear()

    def callInThreadWithCallback(
        self, told: Callable[[bool, Any], None], work: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> None:
        def begin() -> Callable[[], None]:
            try:
                outcome, good = work(*args, **kwargs), True
            except Exception:  # as in a thread
                outcome, good = Failure(), False
            return lambda: told(good, outcome)

        self._waiting.append(begin)

    @property
    def busy(self) -> bool:
        """Whether there is something to do or to tell."""
        return bool(self._waiting or self._done)

    @property
    def waiting(self) -> bool:
        """Whether there is something to do."""
        return bool(self._waiting)

    def work(self) -> None:
        """A thread, if one is free, does what has waited longest."""
        if self._waiting and len(self._done) < self._width:
            self._done.append(self._waiting.popleft()())

    def tell(self, number: int = 0) -> None:
        """One of the threads that have done their work tells of it."""
        if self._done:
            self._done.rotate(-(number % len(self._done)))
            self._done.popleft()()


class Peer:
    """A client at the other end of a socket pair. What it has not read it has not received, and
    dies with it; `told` gets the objects that it reads, one by one."""

    def __init__(self, loop: Loop, protocol: Any, told: Callable[[Any], None]) -> None:
        self._socket, theirs = socket.socketpair()
        self._socket.setblocking(False)
        theirs.setblocking(False)
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
        transport: Any = tcp.Server(theirs, protocol, _ADDRESS, None, 0, loop)  # type: ignore[arg-type]
        transport.setTcpNoDelay = lambda on: None  # a Unix socket has none
        transport.bufferSize = _BUFFER
        self.transport = transport
        self.open = True
        self.closed_by_server = False
        self.pings: list[bytes] = []
        self._told = told
        self._received = b""
        self._unsent = b""
        protocol.makeConnection(self.transport)

    def send(self, data: bytes) -> None:
        """Bytes go out, as far as the server takes them; the rest goes with the next ones."""
        self._unsent += data
        with suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
            while self._unsent and self.open:
                self._unsent = self._unsent[self._socket.send(self._unsent) :]

    def ask(self, request: dict[str, Any]) -> None:
        """Sends a request."""
        raise NotImplementedError

    def pong(self) -> None:
        """Answers the pings that it has read."""

    def read(self, most: int = 2**20) -> bool:
        """Reads at most so many bytes; whether there were any."""
        if not self.open:
            return False
        self.send(b"")
        try:
            data = self._socket.recv(most)
        except BlockingIOError:
            return False
        except ConnectionResetError:
            data = b""
        if not data:
            self._end()
            self.closed_by_server = True
            return True
        self._received += data
        while self.open and (taken := self._take(self._received)) is not None:
            self._received = self._received[taken:]
        return True

    def _take(self, data: bytes) -> int | None:
        """Takes one object from the beginning; its size, None if it is not all there."""
        raise NotImplementedError

    def die(self) -> None:
        """The program ends: in good order if it has read all, else with a reset."""
        self._end()

    def vanish(self) -> None:
        """The network is gone; the server's kernel has found that out."""
        self._end()
        if self.transport.connected:
            self.transport.connectionLost(Failure(ConnectionLost()))

    def _end(self) -> None:
        self.open = False
        self._socket.close()


class Browser(Peer):
    """A client of WebSocket."""

    _upgraded = False

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.send(UPGRADE)

    def ask(self, request: dict[str, Any]) -> None:
        self._frame(json.dumps(request).encode(), 1)

    def pong(self) -> None:
        for payload in self.pings:
            self._frame(payload, 10)
        self.pings = []

    def say_goodbye(self) -> None:
        """Begins to close in good order."""
        self._frame(b"\x03\xe8", 8)

    def _frame(self, payload: bytes, opcode: int) -> None:
        self.send(masked(payload, opcode, mask=b"\0\0\0\0"))

    def _take(self, data: bytes) -> int | None:
        if not self._upgraded:
            head, end, _ = data.partition(b"\r\n\r\n")
            self._upgraded = bool(end)
            return len(head) + 4 if end else None
        size, start = data[1] if len(data) > 1 else 2**64, 2
        if size == 126:
            size, start = int.from_bytes(data[2:4], "big"), 4
        elif size == 127:
            size, start = int.from_bytes(data[2:10], "big"), 10
        if len(data) < start + size:
            return None
        opcode, payload = data[0] & 0x0F, data[start : start + size]
        if opcode == 1:
            self._told(json.loads(payload))
        elif opcode == 9:
            self.pings.append(payload)
        elif opcode == 8:
            self._end()
            self.closed_by_server = True
        return start + size


class Terminal(Peer):
    """A client of lines that wants JSON."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.send(b"/json on\n")

    def ask(self, request: dict[str, Any]) -> None:
        self.send(json.dumps(request).encode() + b"\n")

    def say_goodbye(self) -> None:
        """Begins to close in good order."""
        self.send(b"/quit\n")

    def _take(self, data: bytes) -> int | None:
        line, end, _ = data.partition(b"\n")
        if not end:
            return None
        if line.startswith(b"{"):
            self._told(json.loads(line))
        return len(line) + 1

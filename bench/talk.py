"""Connections that follow a script: connect, log in, enrol; many at a time, one epoll."""

from __future__ import annotations

import json
import select
import socket
import struct
from collections.abc import Generator, Iterable, Iterator
from time import perf_counter
from typing import Any

from bench.wire import Wire

# What a script yields are bytes to send; what it gets back is the next answer.
Script = Generator[bytes, bytes, dict[str, Any]]

CHUNK = 16384  # bytes per recv: more than a window of deliveries
RESET_ON_CLOSE = struct.pack("ii", 1, 0)
CLOSED = "the server closed a connection"
ANSWERS = (b"HTTP/", b"+OK", b"-ERR")


class BenchError(Exception):
    """The server did something other than what is measured here."""


class Connection:
    """A non-blocking socket, the bytes not yet cut, and the script that it follows."""

    __slots__ = ("rest", "result", "script", "sock", "wire")

    def __init__(self, address: tuple[str, int], wire: Wire, script: Script) -> None:
        self.sock = socket.socket()
        self.sock.setblocking(False)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.connect_ex(address)
        self.wire, self.script = wire, script
        self.rest = b""
        self.result: dict[str, Any] | None = None

    def begin(self) -> None:
        """The connection stands: send the script's first request."""
        self.sock.send(next(self.script))

    def step(self) -> bool:
        """Take what arrived; true when the script has ended and `result` is there."""
        chunk = self.sock.recv(CHUNK)
        if not chunk:
            raise BenchError(CLOSED)
        messages, self.rest = self.wire.cut(self.rest + chunk)
        for message in messages:
            if is_answer(message):
                self._answered(message)
        return self.result is not None

    def _answered(self, message: bytes) -> None:
        refused = message.startswith(b"HTTP/") and b" 101 " not in message
        if refused or message.startswith(b"-ERR"):
            raise BenchError(f"refused: {message[:200]!r}")
        try:
            self.sock.send(self.script.send(message))
        except StopIteration as end:
            self.result = end.value

    @property
    def answer(self) -> dict[str, Any]:
        """What the script returned."""
        if self.result is None:
            raise BenchError("a script has not ended")
        return self.result

    def close(self) -> None:
        """Close with a reset: thousands of ports in TIME_WAIT would end the run."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self.sock.close()


def converse(
    address: tuple[str, int],
    wire: Wire,
    scripts: Iterable[Script],
    under_way: int = 50,
    patience: float = 20.0,
) -> Iterator[Connection]:
    """Run each script on a fresh connection and yield the connection when it has ended.

    At most `under_way` run at a time; BenchError after `patience` seconds without any bytes.
    """
    waiting = iter(scripts)
    running: dict[int, Connection] = {}
    with select.epoll() as poll:
        while True:
            while len(running) < under_way and (script := next(waiting, None)):
                connection = Connection(address, wire, script)
                running[connection.sock.fileno()] = connection
                poll.register(connection.sock, select.EPOLLOUT)
            if not running:
                return
            yield from _ended(poll, running, patience)


def _ended(
    poll: select.epoll, running: dict[int, Connection], patience: float
) -> Iterator[Connection]:
    ready = poll.poll(patience)
    if not ready:
        raise BenchError(f"{len(running)} connections got no answer in {patience:.0f} s")
    for number, what in ready:
        connection = running[number]
        if what == select.EPOLLOUT:
            connection.begin()
            poll.modify(number, select.EPOLLIN)
        elif connection.step():
            poll.unregister(number)
            del running[number]
            yield connection


def is_answer(message: bytes) -> bool:
    return message.startswith(ANSWERS) or b'"reply":' in message


def login(wire: Wire, **who: str) -> Script:
    """Log in without replay; `who` is name and api_key, or token. Returns the reply and `who`."""
    for step in wire.before_login:
        yield step
    reply = json.loads((yield wire.frame({"cmd": "login", "id": 1, **who, "replay": False})))
    if not reply["ok"]:
        raise BenchError(f"login: {reply}")
    for step in wire.after_login:
        yield step
    return {**reply, **who}


def enrol(wire: Wire, group: str, **who: str) -> Script:
    """Log in, make sure that the group exists, and join it (an error may mean: already in)."""
    yield from login(wire, **who)
    yield wire.frame({"cmd": "create", "id": 2, "name": group})
    return dict(json.loads((yield wire.frame({"cmd": "join", "id": 3, "group": f"#{group}"}))))


def say_once(wire: Wire, to: str, **who: str) -> Script:
    """Log in and say one thing; returns the reply, whose seq is the end of the room's log."""
    yield from login(wire, **who)
    reply = json.loads((yield wire.frame({"cmd": "say", "id": 4, "to": to, "text": "first"})))
    if not reply["ok"]:
        raise BenchError(f"say: {reply}")
    return dict(reply)


def until(seconds: float, scripts: Iterable[Script]) -> Iterator[Script]:
    """Hand out scripts until the time is over."""
    end = perf_counter() + seconds
    for script in scripts:
        if perf_counter() >= end:
            return
        yield script

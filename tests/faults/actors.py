"""Clients that say, come back when the connection dies, say again what was not acknowledged, and
remember what they saw."""

from __future__ import annotations

import asyncio
import itertools
import socket
import struct
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from random import Random
from typing import Any, Protocol, cast

import msgspec

from tests.bed import UPGRADE
from tests.faults.oracle import Heard, Ledger, Said, View, room_of

ANSWER_SECONDS = 30.0  # a deadline, far more than any answer takes
_RETRIES = frozenset(("unavailable", "rate-limited"))
_ACKNOWLEDGED_AT_ONCE = 20  # events, where the client says itself what has arrived
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0  # seconds between two tries to connect
_USUAL_BUFFER = 2**20  # bytes
_CONNECT_SECONDS = 5.0  # a stalled server may take the connection and not answer


class Frame(msgspec.Struct, rename={"sender": "from", "sentence": "message"}):
    """A reply or an event."""

    reply: int | None = None
    event: str | None = None
    ok: bool = False
    error: str = ""
    sentence: str = ""
    retry_after: float = 0
    to: str = ""
    seq: int = 0
    sender: str = ""
    text: str = ""
    duplicate: bool = False
    token: str = ""
    address: str = ""
    code: int = 0
    entries: list[dict[str, Any]] = []


_decode = msgspec.json.Decoder(Frame).decode
_encode = msgspec.json.encode


class Wire(Protocol):
    """Bytes to frames and back; `feed` gives (what, payload) of "text", "ping" and "close"."""

    hello: bytes

    def request(self, payload: bytes) -> bytes: ...
    def feed(self, data: bytes) -> list[tuple[str, bytes]]: ...
    def answer(self, what: str, payload: bytes) -> bytes: ...


def frame(payload: bytes, opcode: int = 1) -> bytes:
    """A client's frame, masked with zeroes, which costs nothing."""
    size = len(payload)
    if size < 126:
        head = bytes((0x80 | opcode, 0x80 | size))
    elif size < 2**16:
        head = bytes((0x80 | opcode, 0xFE)) + size.to_bytes(2, "big")
    else:
        head = bytes((0x80 | opcode, 0xFF)) + size.to_bytes(8, "big")
    return head + b"\0\0\0\0" + payload


class Frames:
    """WebSocket, as a browser speaks it."""

    hello = UPGRADE
    _KINDS = {1: "text", 8: "close", 9: "ping", 10: "pong"}  # noqa: RUF012

    def __init__(self) -> None:
        self._rest = b""
        self._open = False

    def request(self, payload: bytes) -> bytes:
        return frame(payload)

    def answer(self, what: str, payload: bytes) -> bytes:
        return frame(payload, 10 if what == "ping" else 8)

    def feed(self, data: bytes) -> list[tuple[str, bytes]]:
        data = self._rest + data if self._rest else data
        found: list[tuple[str, bytes]] = []
        if not self._open:
            head, end, data = data.partition(b"\r\n\r\n")
            if not end:
                self._rest = head
                return found
            if not head.startswith(b"HTTP/1.1 101"):
                raise ConnectionRefusedError(head.decode(errors="replace"))
            self._open = True
        start, length = 0, len(data)
        while length - start >= 2:
            size, body = data[start + 1], start + 2
            if size >= 126:
                body += 2 if size == 126 else 8
                size = int.from_bytes(data[start + 2 : body], "big")
            end_of_frame = body + size
            if body > length or end_of_frame > length:
                break
            found.append((self._KINDS[data[start] & 15], data[body:end_of_frame]))
            start = end_of_frame
        self._rest = data[start:]
        return found


class Lines:
    """Lines over TCP, as a program speaks them."""

    hello = b"/json on\n"

    def __init__(self) -> None:
        self._rest = b""

    def request(self, payload: bytes) -> bytes:
        return payload + b"\n"

    def answer(self, what: str, payload: bytes) -> bytes:
        return b""

    def feed(self, data: bytes) -> list[tuple[str, bytes]]:
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [("text", line) for line in lines if line.startswith(b"{")]


class Link(asyncio.Protocol):
    """One connection; `frames` gets what comes, `over` is told of the end."""

    def __init__(self, wire: Wire, frames: Callable[[list[Frame]], None]) -> None:
        self._wire = wire
        self._frames = frames
        self._out: list[bytes] = []
        self._busy = False
        self.close_code = 0
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(self._wire.hello)

    def send(self, payload: bytes) -> None:
        """Sends a request; those of one turn leave together."""
        self._out.append(self._wire.request(payload))
        if not self._busy:
            self._flush()

    def data_received(self, data: bytes) -> None:
        self._busy = True
        try:
            frames: list[Frame] = []
            for what, payload in self._wire.feed(data):
                if what == "text":
                    frames.append(_decode(payload))
                elif what in ("ping", "close"):
                    self._out.append(self._wire.answer(what, payload))
                if what == "close":
                    self.close_code = int.from_bytes(payload[:2], "big")
            self._frames(frames)
        except ConnectionRefusedError:
            self.transport.abort()
        finally:
            self._busy = False
        self._flush()

    def _flush(self) -> None:
        if self._out and not self.transport.is_closing():
            self.transport.write(b"".join(self._out))
        self._out.clear()

    def connection_lost(self, reason: Exception | None) -> None:
        if not self.over.done():
            self.over.set_result(None)


class Client:
    """A user of chatd. `port()` is where it connects, each time anew.

    `view` is what it saw; `slowest` the longest time (seconds) that a request took to be
    answered, `refusals` how often each code came, `drops` how often the connection died.
    """

    def __init__(
        self,
        name: str,
        port: Callable[[], int],
        ledger: Ledger,
        api_key: str,
        rng: Random,
        *,
        lines: bool = False,
        window: int = 16,
        receive_buffer: int = 0,
        ack: bool = False,
        persistent: bool = True,
    ) -> None:
        self.name = name
        self.view = View(name)
        self.slowest = 0.0
        self.slowest_request = ""
        self.drops = 0
        self.refusals: dict[str, int] = {}
        self.close_codes: list[int] = []
        self.retry_hints: list[float] = []
        self.unexpected: list[str] = []
        self.pings: list[float] = []
        self.ready = asyncio.Event()
        self.entered_at = 0.0  # when the last login was answered
        self.link: Link | None = None
        self._port = port
        self._ledger = ledger
        self._login: dict[str, Any] = {"name": name, "api_key": api_key, "ack": ack}
        self._rng = Random(rng.random())
        self._wire = Lines if lines else Frames
        self._window = window
        self._receive_buffer = receive_buffer
        self._persistent = persistent
        self._numbers = itertools.count(1)
        self._ids = itertools.count(1)
        self._prefix = f"{name}-{self._rng.randrange(16**6):06x}-"
        self._addresses: dict[str, str] = {}
        self._waiting: deque[str] = deque()
        self._unacknowledged: dict[str, None] = {}
        self._asked: dict[int, tuple[str, float, bool]] = {}
        self._answers: dict[int, asyncio.Future[Frame]] = {}
        self._tried: set[str] = set()
        self._heard: Heard = self.view.begin()
        self._over = False
        self._life: asyncio.Task[None] | None = None
        self._entering = 0

    # -- what a test asks of it

    async def enter(self) -> None:
        """Connects, and from then on comes back whenever the connection dies."""
        self._life = asyncio.get_running_loop().create_task(self._live())
        await asyncio.wait_for(self.ready.wait(), ANSWER_SECONDS)

    def say(self, to: str, text: str = "") -> str:
        """Says something as soon as the window has room for it; its key."""
        key = f"{self._prefix}{next(self._numbers)}"
        self._ledger.say(key, Said(self.name, room_of(self.name, to), text or key))
        self._addresses[key] = to
        self._waiting.append(key)
        self._unacknowledged[key] = None
        self._pump()
        return key

    @property
    def pending(self) -> int:
        """How many of its messages are not acknowledged yet."""
        return len(self._unacknowledged)

    async def ask(self, command: str, /, **parameters: Any) -> Frame:
        """A request; its reply. ConnectionError if the connection dies first."""
        started = time.monotonic()
        answer = await asyncio.wait_for(self._ask(command, **parameters), ANSWER_SECONDS)
        self._took(started, command)
        return answer

    async def join(self, group: str, make: bool = False) -> None:
        """Joins a group, or makes it."""
        if make:
            made = await self.ask("create", name=group[1:])
            assert made.ok, made
            self.view.since[group] = 1
            return
        joined = await self.ask("join", group=group)
        assert joined.ok, joined
        self.view.since[group] = joined.seq

    async def ping(self) -> float:
        """The seconds that a round trip takes."""
        started = time.monotonic()
        await self.ask("ping")
        took = time.monotonic() - started
        self.pings.append(took)
        return took

    def stop_reading(self) -> None:
        """Leaves what comes in the kernel's buffers."""
        if self.link is not None:
            self.link.transport.pause_reading()

    def read_again(self) -> None:
        """Goes on reading, with as much room in the kernel as usual."""
        self._receive_buffer = 0
        if self.link is not None and not self.link.transport.is_closing():
            sock = self.link.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _USUAL_BUFFER)
            self.link.transport.resume_reading()

    def vanish(self, reset: bool = False) -> None:
        """Drops the connection; with `reset` without a FIN."""
        if self.link is None:
            return
        self.drops += self.ready.is_set()
        self.ready.clear()
        if reset:
            reset_on_close(self.link.transport)
        self.link.transport.abort()

    async def leave(self) -> None:
        """Goes away for good."""
        self._over = True
        self.vanish()
        if self._life is not None:
            self._life.cancel()
            with suppress(asyncio.CancelledError):
                await self._life

    # -- life

    async def _live(self) -> None:
        pause = _FIRST_PAUSE
        while not self._over:
            try:
                await asyncio.wait_for(self._connect(), _CONNECT_SECONDS)
                assert self.link is not None
                await self.link.over
                if self.ready.is_set():
                    pause = _FIRST_PAUSE
            except (OSError, TimeoutError):
                pass
            self._forget_connection()
            if not self._persistent and self.entered_at:
                return
            await asyncio.sleep(pause * self._rng.uniform(0.5, 1.5))
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        sock = socket.socket()
        sock.setblocking(False)
        if self._receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_buffer)
        try:
            await loop.sock_connect(sock, ("127.0.0.1", self._port()))
        except BaseException:
            sock.close()
            raise
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        wire = self._wire()
        _, self.link = await loop.create_connection(lambda: Link(wire, self._take), sock=sock)
        self._heard = self.view.begin()
        self._entering = next(self._ids)
        request = {"cmd": "login", "id": self._entering, **self._login}
        self.link.send(_encode(request))

    def _forget_connection(self) -> None:
        if self.ready.is_set():
            self.drops += 1
        if self.link is not None:
            if self.link.close_code:
                self.close_codes.append(self.link.close_code)
            self.link.transport.abort()
        self.link = None
        self.ready.clear()
        self._asked.clear()
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(ConnectionError("the connection died"))
        self._answers.clear()

    def _entered(self, answer: Frame) -> None:
        if not answer.ok:
            self._refused(answer)
            assert self.link is not None
            self.link.transport.abort()
            return
        self._login = {"token": answer.token, "ack": self._login["ack"]}
        self.entered_at = time.monotonic()
        self.ready.set()
        self._waiting = deque(self._unacknowledged)
        self._pump()

    # -- requests

    async def _ask(self, command: str, **parameters: Any) -> Frame:
        await self.ready.wait()
        number = next(self._ids)
        answer: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        assert self.link is not None
        self.link.send(_encode({"cmd": command, "id": number, **parameters}))
        return await answer

    def _pump(self) -> None:
        if self.link is None or not self.ready.is_set():
            return
        while self._waiting and len(self._asked) < self._window:
            key = self._waiting.popleft()
            if key in self._unacknowledged:
                self._try(self.link, key)

    def _try(self, link: Link, key: str) -> None:
        number, said = next(self._ids), self._ledger.said[key]
        to = self._addresses[key]
        self._asked[number] = (key, time.monotonic(), key not in self._tried)
        self._tried.add(key)
        request = {"cmd": "say", "id": number, "to": to, "text": said.text, "key": key}
        link.send(_encode(request))

    # -- what comes

    def _take(self, frames: list[Frame]) -> None:
        for found in frames:
            if found.event is not None:
                self._event(found)
            elif found.reply in self._asked:
                self._said(found)
            elif found.reply == self._entering:
                self._entered(found)
            elif found.reply in self._answers:
                answer = self._answers.pop(found.reply)
                if not answer.done():
                    answer.set_result(found)
            elif not found.ok:
                self._refused(found)
        self._pump()

    def _event(self, event: Frame) -> None:
        if event.seq and event.to:
            room = room_of(event.sender, event.to)
            self._heard.events[room].append(event.seq)
            said = self._ledger.said.get(event.text)  # one string for all who get it
            self.view.saw(room, event.seq, said.text if said else event.text)
            if self._login["ack"] and event.seq % _ACKNOWLEDGED_AT_ONCE == 0:
                self._delivered(event)
        elif event.event == "closing":
            self.close_codes.append(event.code)
        elif event.event == "going-away":
            self.retry_hints.append(event.retry_after)

    def _delivered(self, event: Frame) -> None:
        to = (
            event.to
            if event.to.startswith("#") or event.sender == self.name
            else f"@{event.sender}"
        )
        if self.link is not None:
            self.link.send(_encode({"cmd": "delivered", "to": to, "seq": event.seq}))

    def _said(self, answer: Frame) -> None:
        assert answer.reply is not None
        key, since, first = self._asked.pop(answer.reply)
        self._took(since, f"say to {self._addresses[key]}")
        if not answer.ok:
            self._refused(answer)
            loop = asyncio.get_running_loop()
            loop.call_later(min(answer.retry_after, _LONGEST_PAUSE), self._again, key)
            return
        room = self._ledger.said[key].room
        self._unacknowledged.pop(key, None)
        self._ledger.acknowledge(key, answer.seq)
        self.view.saw(room, answer.seq, self._ledger.said[key].text)
        if first and not answer.duplicate:
            self._heard.acks[room].append(answer.seq)

    def _took(self, since: float, what: str) -> None:
        took = time.monotonic() - since
        if took > self.slowest:
            self.slowest, self.slowest_request = took, what

    def _refused(self, answer: Frame) -> None:
        self.refusals[answer.error] = self.refusals.get(answer.error, 0) + 1
        if answer.error not in _RETRIES or not answer.retry_after:
            self.unexpected.append(f"{self.name}: {answer.error} {answer.sentence}")

    def _again(self, key: str) -> None:
        if key in self._unacknowledged:
            self._waiting.append(key)
            self._pump()


def reset_on_close(transport: asyncio.BaseTransport) -> None:
    """The peer of a closed connection gets a RST instead of a FIN."""
    sock = transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

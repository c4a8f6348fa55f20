"""Runs a load for a time and counts; drains it and verifies that nothing is lost or doubled."""

from __future__ import annotations

import json
import select
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Protocol

from bench.talk import CHUNK, CLOSED, BenchError, Connection
from bench.wire import Wire

# Enough of `"event":"message"` to be told from a reply; bytes.count finds it four times faster.
DELIVERY = b':"message"'
BARRIER = b'"reply":"end"'
MESSAGE_ENDS = b"}\n"  # no mark contains these bytes, so none is cut in two after them
RING = 256  # prebuilt frames per sender, used in turn
TEXT_CHARS = 100
DOTS = ("." * TEXT_CHARS,)
SAMPLE = 16  # connections whose every byte is kept and parsed after the run
KEEP_ALIVE = 15.0  # seconds; the daemon pings who was silent for 30
PATIENCE = 10.0  # seconds for what is under way when sending stops


class Ear:
    """Counts one mark in what a connection receives."""

    __slots__ = ("chunk", "count", "kept", "mark", "recv", "sock", "tail")

    def __init__(self, connection: Connection, mark: bytes, keep: bool = False) -> None:
        self.sock, self.recv, self.mark = connection.sock, connection.sock.recv, mark
        self.tail = self.chunk = connection.rest
        self.kept = [connection.rest] if keep else None
        self.count = 0

    def take(self) -> int:
        """Receive once; how many marks ended in these bytes."""
        self.chunk = chunk = self.recv(CHUNK)
        if not chunk:
            raise BenchError(CLOSED)
        if self.kept is not None:
            self.kept.append(chunk)
        data = self.tail + chunk if self.tail else chunk
        self.tail = b"" if data[-1] in MESSAGE_ENDS else data[1 - len(self.mark) :]
        heard = data.count(self.mark)
        self.count += heard
        return heard


class Speaker:
    """Sends prebuilt messages; remembers when, until they are complete."""

    __slots__ = ("connection", "frames", "sent", "times")

    def __init__(self, connection: Connection, to: str, texts: Sequence[str] = DOTS) -> None:
        self.connection = connection
        self.frames = [
            connection.wire.frame(_say(to, number, texts[number % len(texts)]))
            for number in range(RING)
        ]
        self.sent = 0
        self.times: deque[float] = deque()

    def say(self, count: int) -> None:
        data = b"".join([self.frames[(self.sent + n) % RING] for n in range(count)])
        self.sent += count
        self.times.extend([perf_counter()] * count)
        # A window is far smaller than a socket's buffer: a short send means a stuck server.
        if self.connection.sock.send(data) != len(data):
            raise BenchError("the server does not read what is sent")

    def completed(self, count: int) -> list[float]:
        """The oldest `count` messages are complete; the seconds each of them took."""
        now = perf_counter()
        return [now - self.times.popleft() for _ in range(count)]


class Load(Protocol):
    """Something `timed` can run; counters grow, `sending` false ends the sending."""

    wire: Wire
    messages: int
    deliveries: int
    latencies: list[float]
    sending: bool

    @property
    def ears(self) -> Mapping[int, Ear]:
        """Every connection's, by file number."""

    @property
    def senders(self) -> Sequence[Speaker]:
        """Those among them that send."""

    def ready(self, number: int) -> None:
        """The connection with this file number has something to receive."""

    def verify(self) -> None:
        """Everything has arrived: BenchError if anything is lost or doubled."""


@dataclass(frozen=True, slots=True)
class Timed:
    """What was completed in the timed span; latencies in seconds, ascending."""

    seconds: float
    messages: int
    deliveries: int
    latencies: list[float]


def timed(
    load: Load, window: int, warmup: float, seconds: float, mark: Callable[[], None]
) -> Timed:
    """Run the load, call `mark` as the timed span begins and ends; then drain and verify."""
    with select.epoll() as poll:
        for number in load.ears:
            poll.register(number, select.EPOLLIN)
        for speaker in load.senders:
            speaker.say(window)
        _pump(poll, load, warmup)
        result = _span(poll, load, seconds, mark)
        load.sending = False
        _drain(poll, load)
        _barrier(poll, load)
    load.verify()
    return result


def _span(poll: select.epoll, load: Load, seconds: float, mark: Callable[[], None]) -> Timed:
    load.latencies.clear()
    messages, deliveries, start = load.messages, load.deliveries, perf_counter()
    mark()
    _pump(poll, load, seconds)
    mark()
    return Timed(
        perf_counter() - start,
        load.messages - messages,
        load.deliveries - deliveries,
        sorted(load.latencies),
    )


def _pump(poll: select.epoll, load: Load, seconds: float) -> None:
    now = perf_counter()
    end, beat = now + seconds, now + KEEP_ALIVE
    ready = load.ready
    while now < end:
        for number, _ in poll.poll(min(end, beat) - now):
            ready(number)
        now = perf_counter()
        if now >= beat:
            _send_all(load, {"cmd": "ping"})
            beat = now + KEEP_ALIVE


def _drain(poll: select.epoll, load: Load) -> None:
    end = perf_counter() + PATIENCE
    while stuck := [speaker for speaker in load.senders if speaker.times]:
        if perf_counter() > end:
            heard = load.ears[stuck[0].connection.sock.fileno()].chunk[-200:]
            raise BenchError(f"{len(stuck)} senders wait in vain; one heard last: {heard!r}")
        _pump(poll, load, 0.02)


def _barrier(poll: select.epoll, load: Load) -> None:
    """Ping on every connection: once the reply is there, so is all that was written before."""
    _send_all(load, {"cmd": "ping", "id": "end"})
    waiting = dict.fromkeys(load.ears, b"")
    end = perf_counter() + PATIENCE
    while waiting:
        if perf_counter() > end:
            raise BenchError(f"{len(waiting)} connections did not answer the last ping")
        for number, _ in poll.poll(PATIENCE):
            load.ears[number].take()
            heard = waiting.pop(number, b"") + load.ears[number].chunk
            if BARRIER not in heard:
                waiting[number] = heard


def _send_all(load: Load, request: Mapping[str, object]) -> None:
    data = load.wire.frame(request)
    for ear in load.ears.values():
        ear.sock.send(data)


def sampled(place: int, total: int) -> bool:
    """Whether the connection at this place is one of about SAMPLE to be parsed fully."""
    return place % max(1, total // SAMPLE) == 0


def verify_kept(ear: Ear, wire: Wire) -> None:
    """Parse all that an ear kept: the seqs have no gap, nor have any sender's own numbers."""
    messages, _ = wire.cut(b"".join(ear.kept or ()))
    seq: int | None = None
    numbers: dict[str, int] = {}
    for event in [json.loads(message) for message in messages if DELIVERY in message]:
        number = int(event["text"].split(" ", 1)[0])
        if seq is not None and event["seq"] != seq + 1:
            raise BenchError(f"seq {event['seq']} came after {seq}")
        if number != numbers.get(event["from"], 0):
            raise BenchError(f"number {number} came out of turn from {event['from']}")
        seq, numbers[event["from"]] = event["seq"], (number + 1) % RING


def _say(to: str, number: int, text: str) -> dict[str, object]:
    text = f"{number} {text}"[:TEXT_CHARS]
    return {"cmd": "say", "id": number, "to": to, "text": text}

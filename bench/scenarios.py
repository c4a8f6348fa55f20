"""What is measured: each scenario takes a running daemon and returns its figure."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any, Literal

from bench.fanout import Fanout
from bench.load import Load, Speaker, Timed, timed
from bench.meter import Cpu, Meter, resident_bytes
from bench.pairs import Pairs
from bench.servers import Daemon
from bench.talk import BenchError, Connection, Script, converse, enrol, login, say_once, until
from bench.wire import Lines, WebSocket, Wire

GROUP = "bench"
LOGINS_UNDER_WAY = 32
ACCOUNTS = 200  # that the login scenarios take turns with

Unit = Literal["messages/s", "deliveries/s", "logins/s", "ms", "KB/connection"]


@dataclass(frozen=True, slots=True)
class Sizes:
    """How long and how large."""

    seconds: float
    warmup: float
    pairs: int
    members: int
    connections: int


@dataclass(frozen=True, slots=True)
class Figure:
    """One measurement; percentiles in milliseconds."""

    value: float
    unit: Unit
    cpu: Cpu | None = None
    p50: float | None = None
    p99: float | None = None


class Bench:
    """A daemon to measure, and how to talk to it."""

    def __init__(self, daemon: Daemon, database: int | None, wire: str, sizes: Sizes) -> None:
        self.daemon, self.sizes = daemon, sizes
        self.wire: Wire = Lines() if wire == "tcp" else WebSocket()
        port = daemon.tcp if wire == "tcp" else daemon.websocket
        self.address = ("127.0.0.1", port)
        self.meter = Meter(daemon.pid, database)

    def login(self, name: str) -> Script:
        return login(self.wire, name=name, api_key=self.daemon.api_key)

    @contextmanager
    def online(self, names: Sequence[str]) -> Iterator[list[Connection]]:
        """These users' connections, in this order, logged in."""
        ended = converse(self.address, self.wire, map(self.login, names))
        connections = {str(connection.answer["name"]): connection for connection in ended}
        try:
            yield [connections[name] for name in names]
        finally:
            for connection in connections.values():
                connection.close()

    def talk(self, script: Script) -> dict[str, Any]:
        """Run one script on a connection of its own."""
        (connection,) = converse(self.address, self.wire, [script])
        connection.close()
        return connection.answer

    def timed(self, load: Load, window: int) -> Timed:
        return timed(load, window, self.sizes.warmup, self.sizes.seconds, self.meter.mark)


def pairs(window: int, bench: Bench) -> Figure:
    """User to user."""
    result = _pairs(bench, bench.sizes.pairs, window)
    return _rate(bench, result, result.messages, "messages/s")


def lone(bench: Bench) -> Figure:
    """One pair, one message at a time, nobody else."""
    result = _pairs(bench, 1, 1)
    return Figure(_milliseconds(result, 0.5), "ms", *_quality(bench, result))


def _pairs(bench: Bench, count: int, window: int) -> Timed:
    names = [f"{side}{number}" for side in "sr" for number in range(count)]
    with bench.online(names) as connections:
        receivers = connections[count:]
        speakers = [
            Speaker(connection, f"@r{number}")
            for number, connection in enumerate(connections[:count])
        ]
        return bench.timed(Pairs(list(zip(speakers, receivers, strict=True))), window)


def fanout(senders: int, window: int, bench: Bench) -> Figure:
    """A few members of one group to all the others."""
    names = [f"m{number}" for number in range(bench.sizes.members)]
    key = bench.daemon.api_key
    # Everybody joins and goes, few at a time: else each join would be an event for all others.
    joining = [enrol(bench.wire, GROUP, name=name, api_key=key) for name in names]
    for connection in converse(bench.address, bench.wire, joining):
        connection.close()
    last = bench.talk(say_once(bench.wire, f"#{GROUP}", name=names[0], api_key=key))
    with bench.online(names) as members:
        speakers = [Speaker(connection, f"#{GROUP}") for connection in members[:senders]]
        result = bench.timed(Fanout(speakers, members, last["seq"] + 1), window)
    return _rate(bench, result, result.deliveries, "deliveries/s")


def logins_by_key(bench: Bench) -> Figure:
    """Fresh connections that log in as somebody with an API key."""
    _accounts(bench)
    names = itertools.cycle([f"l{number}" for number in range(ACCOUNTS)])
    return _logins(bench, map(bench.login, names))


def logins_by_token(bench: Bench) -> Figure:
    """Fresh connections that log in with a token."""
    tokens = itertools.cycle(_accounts(bench))
    return _logins(bench, (login(bench.wire, token=token) for token in tokens))


def _accounts(bench: Bench) -> list[str]:
    """Make sure that the accounts exist; a token of each."""
    with bench.online([f"l{number}" for number in range(ACCOUNTS)]) as connections:
        answers = [connection.answer for connection in connections]
    if "token" not in answers[0]:
        raise BenchError("login with an API key gave no token")
    return [str(answer["token"]) for answer in answers]


def _logins(bench: Bench, scripts: Iterator[Script]) -> Figure:
    bench.meter.mark()
    count, start = 0, perf_counter()
    timed_scripts = until(bench.sizes.seconds, scripts)
    for connection in converse(bench.address, bench.wire, timed_scripts, LOGINS_UNDER_WAY):
        connection.close()
        count += 1
    seconds = perf_counter() - start
    bench.meter.mark()
    return Figure(count / seconds, "logins/s", bench.meter.cpu())


def memory(bench: Bench) -> Figure:
    """What one more logged-in connection that does nothing adds to the daemon."""
    count = bench.sizes.connections
    with bench.online([f"w{number}" for number in range(ACCOUNTS)]):
        before = resident_bytes(bench.daemon.pid)
        with bench.online([f"i{number}" for number in range(count)]):
            after = resident_bytes(bench.daemon.pid)
    return Figure((after - before) / count / 1024, "KB/connection")


def _rate(bench: Bench, result: Timed, count: int, unit: Unit) -> Figure:
    return Figure(count / result.seconds, unit, *_quality(bench, result))


def _quality(bench: Bench, result: Timed) -> tuple[Cpu, float, float]:
    return bench.meter.cpu(), _milliseconds(result, 0.5), _milliseconds(result, 0.99)


def _milliseconds(result: Timed, share: float) -> float:
    if not result.latencies:
        raise BenchError("not one message was completed in time")
    return result.latencies[int(share * (len(result.latencies) - 1))] * 1000


SCENARIOS: dict[str, Callable[[Bench], Figure]] = {
    "pairs-1": partial(pairs, 1),
    "pairs-16": partial(pairs, 16),
    "fanout-1x1": partial(fanout, 1, 1),
    "fanout-4x4": partial(fanout, 4, 4),
    "lone": lone,
    "logins-key": logins_by_key,
    "logins-token": logins_by_token,
    "memory": memory,
}

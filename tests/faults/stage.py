"""What a fault plays on: daemons, databases and clients in a directory, and the end's judgement."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import quote

import msgspec
import pymysql

from tests.daemon import LOOPBACK, TWISTD, chatctl, environment
from tests.faults.actors import Client
from tests.faults.oracle import Ledger, Row, judge
from tools import mariadb

SECONDS = 40.0  # a deadline, far more than anything here takes
DATABASE = "chatd"
ANSWER_LIMIT = 5.0  # seconds in which every request is answered
SLACK = 1.0  # seconds that a busy machine may add
POLL = 0.02  # seconds between two looks at what tells nobody when it changes

# No limit on rates: the load is the harness's own, and a fault is to be met at full speed.
FREE = {
    "limits": {
        "session_rate": 1_000_000,
        "user_rate": 1_000_000,
        "address_rate": 1_000_000,
        "mistakes_per_minute": 1_000_000,
    }
}
_BAD = re.compile(r"Traceback|\[critical\]|\[error\]|Unhandled")
_WARNING = re.compile(r"\[warn\]")


class Outcome(msgspec.Struct):
    """How a fault went. `runs`: how often it was injected; `recovery`: seconds until all was
    well again, the longest of them."""

    runs: int = 1
    messages: int = 0
    acknowledged: int = 0
    lost: int = 0
    doubled: int = 0
    reordered: int = 0
    recovery: float | None = None
    notes: str = ""
    complaints: list[str] = []

    @property
    def good(self) -> bool:
        """Nothing was lost, doubled or reordered, and nothing else is to be complained of."""
        return not (self.lost or self.doubled or self.reordered or self.complaints)


@dataclass(frozen=True, slots=True)
class Kits:
    """Directories to copy from: a state directory with a current schema and an API key, a
    MariaDB's data with the same; and that key."""

    state: str
    data: str
    api_key: str


def make_kits(directory: Path) -> Kits:
    """Makes what every fault begins with, once."""
    state = directory / "state"
    key = chatctl("--state", str(state), "key", "add", "faults", "--scope", "login-as").split()[-1]
    server = mariadb.Server(directory / "mariadb")
    with server.running():
        url = server.create(DATABASE)
        chatctl("--store", url, "db", "upgrade")
        with sqlite3.connect(state / "chatd.db") as connection:
            row = connection.execute("SELECT hash, name, scopes, created_at FROM api_keys")
            hashed, name, scopes, created = row.fetchone()
        connection.close()
        server.execute(
            f"INSERT INTO `{DATABASE}`.api_keys (hash, name, scopes, created_at)"
            f" VALUES (x'{bytes(hashed).hex()}', '{name}', '{scopes}', {created})"
        )
    return Kits(str(state), str(directory / "mariadb" / "data"), key)


class Database(mariadb.Server):
    """A MariaDB on a copy of a kit's data, started and awaited without stopping the clients."""

    def __init__(self, directory: Path, kit: str) -> None:
        super().__init__(directory)
        self._kit = kit
        self.options: list[str] = []

    def _install(self) -> None:
        shutil.copytree(self._kit, self.directory / "data")

    def _common(self, data: Path) -> list[str]:
        return [*super()._common(data), *self.options]

    def _wait_until_answering(self, process: subprocess.Popen[bytes]) -> None:
        """`launch` waits."""

    async def launch(self) -> None:
        """Starts it; returns when it answers."""
        self.start()
        await until(self.answering, "MariaDB answers")

    def answering(self) -> bool:
        """Whether it takes connections."""
        with suppress(pymysql.OperationalError):
            self._connect().close()
            return True
        return False

    @property
    def pid(self) -> int:
        """The process's."""
        assert self._process is not None
        return self._process.pid

    @property
    def store(self) -> str:
        """The store URL."""
        return self.url(DATABASE)

    def through(self, port: int, user: str = "root", password: str = "") -> str:
        """The store URL by way of a proxy's port."""
        return f"mysql://{user}:{quote(password)}@127.0.0.1:{port}/{DATABASE}"

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        """The rows of one statement, as root."""
        connection = self.connect()
        with connection, connection.cursor() as cursor:
            cursor.execute(statement)
            return list(cursor.fetchall())

    def connect(self, **options: Any) -> pymysql.Connection[Any]:
        """A connection to chatd's database, as root."""
        return pymysql.connect(
            unix_socket=str(self.socket), user="root", database=DATABASE, autocommit=True, **options
        )


async def until(true: Callable[[], object], what: str, seconds: float = SECONDS) -> float:
    """Waits until something is so; the seconds that it took. AssertionError if it does not
    come to be."""
    started = time.monotonic()
    while not true():
        if time.monotonic() - started > seconds:
            raise AssertionError(f"in {seconds:g} s it does not come to be that {what}")
        await asyncio.sleep(POLL)
    return time.monotonic() - started


class Daemon:
    """A real `twistd chatd`; it may be started again and again, on the ports that are free."""

    def __init__(self, state: Path, options: Sequence[str]) -> None:
        self.state = state
        self.web = self.lines = 0
        self.starts = 0
        self.before: list[str] = []  # a command that twistd is run by
        self.variables: dict[str, str] = {}
        self.process: subprocess.Popen[bytes] | None = None
        self._log = state.parent / f"{state.name}.log"
        self._begin = 0
        self._command = [*TWISTD, "--state", str(state), *options]
        self.listen = ["--http", LOOPBACK, "--tcp", LOOPBACK]
        self.destination: Path | None = None

    async def start(self) -> float:
        """Starts it; the seconds until it listens."""
        began = time.monotonic()
        self.spawn()
        await until(self._listening, f"the daemon listens:\n{self.log[-2000:]}")
        return time.monotonic() - began

    def spawn(self) -> None:
        """Starts it and does not wait."""
        self.starts += 1
        self._log.touch()
        self._begin = self._log.stat().st_size
        command = ["setpriv", "--pdeathsig=KILL", *self.before, *self._command, *self.listen]
        with (self.destination or self._log).open("ab") as log:
            self.process = subprocess.Popen(
                command,
                cwd=self.state.parent,
                env=environment(**self.variables),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def _listening(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"the daemon ended with {self.process.poll()}:\n{self.log}")
        recent = self.log[self._begin :]
        web = re.search(r"WebSocket  wss?://127\.0\.0\.1:(\d+)/ws", recent)
        lines = re.search(r"TCP lines  telnet 127\.0\.0\.1 (\d+)", recent)
        if web is None or lines is None:
            return False
        self.web, self.lines = int(web[1]), int(lines[1])
        return True

    @property
    def log(self) -> str:
        """What it has written, all starts together."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    @property
    def pid(self) -> int:
        """The process's."""
        assert self.process is not None
        return self.process.pid

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self.process is not None and self.process.poll() is None

    def signal(self, number: int) -> None:
        """Sends a signal."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """Ends it as a power failure would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    async def ended(self, seconds: float = SECONDS) -> int:
        """Its exit code, when it has ended."""
        await until(lambda: not self.running, "the daemon ends", seconds)
        assert self.process is not None
        return self.process.returncode

    async def stop(self) -> int:
        """Ends it as an operator would; its exit code."""
        self.signal(signal.SIGTERM)
        return await self.ended()

    def resident(self) -> int:
        """The bytes of memory that it takes."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) * 1024

    def sockets(self) -> int:
        """How many it has open: one for each connection, and a number of its own."""
        found = 0
        for path in Path(f"/proc/{self.pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed meanwhile
                found += os.readlink(path).startswith("socket:")
        return found


class Stage:
    """One fault's directory, dice, daemons, databases, clients and ledger. `full`: more of
    everything than once."""

    KILLS = 10  # in a full run of a fault that kills

    def __init__(self, directory: Path, kits: Kits, seed: int, full: bool) -> None:
        self.directory = directory
        self.kits = kits
        self.seed = seed
        self.full = full
        self.rng = Random(seed)
        self.ledger = Ledger()
        self.clients: list[Client] = []
        self.outcome = Outcome()
        self._daemons: list[Daemon] = []
        self._databases: list[Database] = []
        self._tasks: list[asyncio.Task[Any]] = []
        self._closers: list[Callable[[], object]] = []

    # -- servers

    async def mariadb(self, *options: str, directory: Path | None = None) -> Database:
        """A running MariaDB."""
        place = directory or self.directory / f"mariadb{len(self._databases)}"
        database = Database(place, self.kits.data)
        database.options.extend(options)
        self._databases.append(database)
        await database.launch()
        return database

    def daemon(self, *options: str, state: Path | None = None, **settings: Any) -> Daemon:
        """A daemon to be started, with these sections (dicts) in its configuration."""
        place = state or self.directory / f"state{len(self._daemons)}"
        if not place.exists():
            shutil.copytree(self.kits.state, place)
        sections: dict[str, dict[str, Any]] = {
            name: {**FREE.get(name, {}), **settings.get(name, {})} for name in {*FREE, *settings}
        }
        daemon = Daemon(place, options)
        daemon.variables |= {
            f"CHATD_{section}_{key}".upper(): str(value)
            for section, values in sections.items()
            for key, value in values.items()
        }
        self._daemons.append(daemon)
        return daemon

    async def started(self, *options: str, **settings: Any) -> Daemon:
        """A running daemon, on SQLite unless the options say otherwise."""
        daemon = self.daemon(*options, **settings)
        await daemon.start()
        return daemon

    # -- clients

    def client(
        self, daemon: Daemon, name: str = "", *, port: Callable[[], int] | None = None, **how: Any
    ) -> Client:
        """A client that has not connected yet."""
        lines = how.get("lines", False)
        where = port or (lambda: daemon.lines if lines else daemon.web)
        name = name or f"u{len(self.clients)}"
        client = Client(name, where, self.ledger, self.kits.api_key, self.rng, **how)
        self.clients.append(client)
        return client

    async def crowd(self, daemon: Daemon, size: int, **how: Any) -> list[Client]:
        """Clients that are logged in, every fourth on the line protocol."""
        made = [self.client(daemon, **{"lines": number % 4 == 3, **how}) for number in range(size)]
        await asyncio.gather(*(client.enter() for client in made))
        return made

    async def group(self, address: str, members: Sequence[Client]) -> None:
        """A group of these."""
        await members[0].join(address, make=True)
        await asyncio.gather(*(client.join(address) for client in members[1:]))

    def background(self, work: Any) -> asyncio.Task[Any]:
        """Something that goes on until it ends or the stage is cleared."""
        task: asyncio.Task[Any] = asyncio.get_running_loop().create_task(work)
        self._tasks.append(task)
        return task

    def at_end(self, close: Callable[[], object]) -> None:
        """Something to be closed."""
        self._closers.append(close)

    # -- judgement

    def expect(self, so: object, sentence: str) -> None:
        """Complains unless it is so."""
        if not so:
            self.outcome.complaints.append(sentence)

    def note(self, text: str) -> None:
        """Something for the report."""
        self.outcome.notes = "; ".join(filter(None, (self.outcome.notes, text)))

    def recovered(self, seconds: float) -> None:
        """How long it took until all was well again; the longest counts."""
        self.outcome.recovery = max(seconds, self.outcome.recovery or 0.0)

    async def settled(self, seconds: float = SECONDS) -> None:
        """Waits until all that was said is acknowledged."""
        await until(
            lambda: not any(client.pending for client in self.clients),
            "all is acknowledged",
            seconds,
        )

    async def judge(self, rows: Callable[[], list[Row]], seconds: float = SECONDS) -> None:
        """Waits until all is acknowledged and has arrived, then asks the oracle."""
        await self.settled()
        stored, clients = rows(), self.clients
        wanted: dict[str, list[int]] = {}
        for row in sorted(stored, key=lambda row: -row.seq):  # what comes last is looked for first
            if row.text:
                wanted.setdefault(row.room, []).append(row.seq)

        def arrived() -> bool:
            return all(
                client.view.has(room, seq)
                for client in clients
                for room, since in client.view.since.items()
                for seq in wanted.get(room, ())
                if seq > since
            )

        with suppress(AssertionError):  # the oracle says what is missing
            await until(arrived, "all has arrived", seconds)
        verdict = judge(self.ledger, stored, [client.view for client in clients])
        out = self.outcome
        out.messages, out.acknowledged = verdict.messages, verdict.acknowledged
        out.lost, out.doubled, out.reordered = verdict.lost, verdict.doubled, verdict.reordered
        out.complaints += verdict.complaints
        for client in self.clients:
            out.complaints += client.unexpected

    def answered_in_time(self, clients: Iterable[Client] | None = None) -> None:
        """Every request was answered within its limit."""
        client = max(clients or self.clients, key=lambda c: c.slowest)
        slowest = client.slowest
        self.note(f"slowest answer {slowest:.2f} s")
        sentence = f"{client.name}'s {client.slowest_request} took {slowest:.1f} s"
        self.expect(slowest <= ANSWER_LIMIT + SLACK, sentence)

    def calm(self, *expected: str) -> None:
        """The daemons' logs hold no fault, and no warning but the expected ones."""
        for daemon in self._daemons:
            for line in daemon.log.splitlines():
                warned = _WARNING.search(line) and not any(re.search(e, line) for e in expected)
                if _BAD.search(line) or warned:
                    self.expect(False, f"log: {line[:300]}")

    def clear(self) -> None:
        """Ends everything."""
        for task in self._tasks:
            task.cancel()
        for daemon in self._daemons:
            daemon.kill()
        for close in reversed(self._closers):
            close()
        for database in self._databases:
            database.kill()


def sqlite_rows(path: Path) -> list[Row]:
    """What a SQLite store holds."""
    with closing(sqlite3.connect(path)) as connection:
        return _rows(connection.execute(_ROWS).fetchall())


def mariadb_rows(database: Database) -> list[Row]:
    """What a MariaDB store holds."""
    return _rows(database.query(_ROWS))


_ROWS = (
    "SELECT r.name, l.name, h.name, e.seq, s.name, e.idempotency_key, e.kind, e.body"
    " FROM entries e JOIN rooms r ON r.id = e.room_id JOIN users s ON s.id = e.sender_id"
    " LEFT JOIN users l ON l.id = r.low_id LEFT JOIN users h ON h.id = r.high_id"
)


def _rows(found: Iterable[Sequence[Any]]) -> list[Row]:
    rows = []
    for group, low, high, seq, sender, key, kind, body in found:
        room = f"#{group}" if group else "@" + "+".join(sorted((low, high)))
        text = msgspec.json.decode(body)["text"] if kind == "message" else ""
        rows.append(Row(room, seq, sender, bytes(key).decode("latin-1"), text))
    return rows

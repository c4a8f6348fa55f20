"""A store's database for tests: SQLite or a real MariaDB, and stores (nodes) on it."""

from __future__ import annotations

import atexit
import dataclasses
import importlib
import shutil
import sqlite3
import tempfile
import threading
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import pymysql
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from chatd.errors import Refused
from chatd.model import Party, Room
from chatd.settings import StoreURL, store_url
from chatd.store import accounts, groups, rooms, schema
from chatd.store.connection import Connection, Row
from chatd.store.dialects import Dialect, dialect
from chatd.store.groups import NewGroup
from chatd.store.log import Draft, Effect, Stored
from chatd.store.store import Store
from tests import mariadb

TABLES = (
    "users", "tokens", "api_keys", "invitations", "rooms", "members", "cursors", "entries",
    "revocations", "contacts", "bans", "mutes", "join_requests", "group_invitations",
    "links", "versions", "reactions", "pins", "mentions", "hidden", "postings", "indexed",
)  # fmt: skip
NOW = 1_700_000_000_000  # ms
HOUR = 3_600_000  # ms


class Node(Store):
    """A store that notes what it publishes, batch by batch; `hear(pairs)` gets it too, and
    `told()` is called when those who wait have been told."""

    def __init__(self, dialect: Dialect, connections: int) -> None:
        self.batches: list[list[tuple[Draft, int]]] = []
        self.hear: Callable[[list[tuple[Draft, int]]], None] = lambda pairs: None
        self.told: Callable[[], None] = lambda: None
        super().__init__(reactor, dialect, connections, self.publish, lambda: self.told())

    def publish(self, pairs: list[tuple[Draft, int]]) -> None:
        self.batches.append(pairs)
        self.hear(pairs)

    @property
    def heard(self) -> list[tuple[Draft, int]]:
        """All that was published, in order."""
        return [pair for batch in self.batches for pair in batch]

    def heard_in(self, room: Room) -> list[int]:
        """The seqs published in a room, in order."""
        return [seq for draft, seq in self.heard if draft.room == room]


class Wire:
    """Between a store and its driver: `before` sees each statement on its way to the database,
    `after` each one that the database has carried out. What they raise, the store gets for an
    answer. They run in the pool's threads."""

    def __init__(self) -> None:
        self.before: Callable[[str], None] = lambda sql: None
        self.after: Callable[[str], None] = lambda sql: None

    def carry(self, sql: Any, run: Callable[[], Any]) -> Any:
        text = sql if isinstance(sql, str) else bytes(sql[:100]).decode(errors="replace")
        self.before(text)
        answer = run()
        self.after(text)
        return answer


def once(begin: str, act: Callable[[], None]) -> Callable[[str], None]:
    """Acts at the first statement that begins so."""
    waiting = [act]

    def look(sql: str) -> None:
        if sql.startswith(begin) and waiting:
            waiting.pop()()

    return look


def throw(error: Exception) -> None:
    """Raises, where only an expression fits."""
    raise error


def in_reactor(fired: Deferred[None]) -> None:
    """Fires a Deferred from another thread."""
    loop: Any = reactor
    loop.callFromThread(fired.callback, None)


class Held:
    """Keeps the next statement of a kind from the database until `go` is called; `there` fires
    when it waits."""

    def __init__(self, wire: Wire, begin: str) -> None:
        self.there: Deferred[None] = Deferred()
        self._gate = threading.Event()
        wire.before = once(begin, self._hold)

    def _hold(self) -> None:
        in_reactor(self.there)
        if not self._gate.wait(20):
            raise RuntimeError("nobody let the statement go")

    def go(self) -> None:
        self._gate.set()


class StoreCase(TestCase):
    """A test with a migrated, empty database; `db` is a connection to it for the test itself."""

    url: StoreURL

    def setUp(self) -> None:
        self.make_database()
        self.dialect = dialect(self.url)
        self.db = self.connect()
        self.nodes: list[Node] = []
        self.numbers = count(1)

    async def tearDown(self) -> None:  # type: ignore[override]
        for node in self.nodes:
            await node.stop()

    def make_database(self) -> None:
        """Sets `url`."""
        raise NotImplementedError

    def wired(self, wire: Wire) -> Dialect:
        """The dialect with a driver that asks `wire`."""
        raise NotImplementedError

    def watched(self) -> tuple[Dialect, Callable[[], list[str]]]:
        """The dialect, and a function that tells which statements its connections gave the
        database since it was last called."""
        raise NotImplementedError

    def lone_append(self, entries: int) -> list[str]:
        """The first words of the statements that append entries to rooms whose ends are known."""
        raise NotImplementedError

    def contended(self) -> Exception:
        """The driver's error that another transaction was in the way."""
        raise NotImplementedError

    def plan(self, sql: str, params: Sequence[Any]) -> str:
        """How the database goes about a query."""
        raise NotImplementedError

    def unusable(self) -> Exception:
        """The driver's error that the database takes nothing for now."""
        raise NotImplementedError

    def effort(self, work: Callable[[], Any]) -> int:
        """How much the database does for what `work` does on `db`, in steps or rows."""
        raise NotImplementedError

    def connect(self) -> Connection:
        """A connection outside the stores' pools, closed after the test."""
        raw = importlib.import_module(self.dialect.module).connect(**self.dialect.connect)
        self.dialect.opened(raw)
        self.addCleanup(raw.close)
        return Connection(raw, self.dialect)

    def node(self, dialect: Dialect | None = None, connections: int = 2) -> Node:
        """A started store on the test's database; several are several nodes."""
        node = Node(dialect or self.dialect, connections)
        node.start()
        self.nodes.append(node)
        return node

    def user(self, name: str = "") -> Party:
        """A new user."""
        name = name or f"user{next(self.numbers)}"
        return Party(accounts.add_user(self.db, name, "", "hash", NOW), name)

    def users(self, how_many: int) -> list[Party]:
        """New users."""
        return [self.user() for _ in range(how_many)]

    def pair(self, one: Party, other: Party) -> Room:
        """The direct room of two users."""
        return rooms.make_pair(self.db, one, other, NOW)

    def inbox(self) -> Room:
        """A new, empty room."""
        user = self.user()
        return self.pair(user, user)

    def group(self, owner: Party, name: str = "") -> Room:
        """A new group; its log has one entry."""
        number = next(self.numbers)
        name = name or f"group{number}"
        return groups.make_group(self.db, NewGroup(name), owner, b"\0made%d" % number, NOW)

    def roles(self, room: Room) -> dict[str, str]:
        """The roles of a group's members, by name."""
        page = groups.members(self.db, room.id, 0, NOW, "", 1000)
        return {member.party.name: member.role for member in page}

    def draft(
        self,
        room: Room,
        sender: Party,
        text: str = "hello",
        key: str = "",
        kind: str = "message",
        effect: Effect | None = None,
        encoded: str | None = None,
    ) -> Draft:
        """A draft of a message, with a key and a time of its own unless a key is given."""
        number = next(self.numbers)
        body = {"text": text}
        return Draft(
            room=room,
            sender=sender,
            kind=kind,
            body=body,
            encoded=msgspec.json.encode(body).decode() if encoded is None else encoded,
            key=(key or f"key{number}").encode(),
            at=NOW + number,
            effect=effect,
        )

    def say(self, room: Room, sender: Party, *texts: str) -> None:
        """Puts messages into a room, past the stores."""
        for text in texts:
            number = next(self.numbers)
            self.db.run(
                "INSERT INTO entries (room_id, seq, sender_id, idempotency_key, at, kind, body)"
                " SELECT ?, COALESCE(MAX(seq), 0) + 1, ?, ?, ?, 'message', ?"
                " FROM entries WHERE room_id = ?",
                (
                    room.id,
                    sender.id,
                    b"said%d" % number,
                    NOW + number,
                    msgspec.json.encode({"text": text}).decode(),
                    room.id,
                ),
            )

    async def answers(self, waiting: Iterable[Deferred[Stored]]) -> list[Any]:
        """What each append was told: the seq of a new entry, ("again", seq) of a repeat, the
        code of a refusal."""
        return [await self.answer(one) for one in list(waiting)]

    async def answer(self, waiting: Deferred[Stored]) -> Any:
        """What one append was told."""
        try:
            stored = await waiting
        except Refused as refused:
            return refused.code
        return ("again", stored.seq) if stored.duplicate else stored.seq

    def kept(self, room: Room) -> list[tuple[int, bytes]]:
        """(seq, key) of a room's entries, in order."""
        rows = self.db.all(
            "SELECT seq, idempotency_key FROM entries WHERE room_id = ? ORDER BY seq", (room.id,)
        )
        return [(seq, bytes(key)) for seq, key in rows]

    def seqs(self, room: Room) -> list[int]:
        """The numbers of a room's entries, in order."""
        return [seq for seq, _ in self.kept(room)]

    def single(self, sql: str, *params: Any) -> Any:
        """The first column of a query's only row."""
        rows: list[Row] = self.db.all(sql, params)
        self.assertEqual(len(rows), 1, sql)
        return rows[0][0]


@cache
def _sqlite_template() -> Path:
    directory = Path(tempfile.mkdtemp(prefix="chatd-sqlite-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    schema.upgrade(store_url("", str(directory)))
    return directory / "chatd.db"


class SQLiteCase(StoreCase):
    """On SQLite."""

    def make_database(self) -> None:
        directory = Path(tempfile.mkdtemp(prefix="chatd-sqlite-"))
        self.addCleanup(shutil.rmtree, directory)
        shutil.copy(_sqlite_template(), directory)
        self.url = store_url("", str(directory))

    def wired(self, wire: Wire) -> Dialect:
        class Cursor(sqlite3.Cursor):
            def execute(self, sql: str, *args: Any) -> Any:
                return wire.carry(sql, lambda: super(Cursor, self).execute(sql, *args))

            def executemany(self, sql: str, *args: Any) -> Any:
                return wire.carry(sql, lambda: super(Cursor, self).executemany(sql, *args))

        class Wired(sqlite3.Connection):
            def cursor(self, *args: Any) -> Any:
                return super().cursor(Cursor)

        connect = {**self.dialect.connect, "factory": Wired}
        return dataclasses.replace(self.dialect, connect=connect)

    def watched(self) -> tuple[Dialect, Callable[[], list[str]]]:
        seen: list[str] = []

        def opened(raw: sqlite3.Connection) -> None:
            self.dialect.opened(raw)
            raw.set_trace_callback(seen.append)

        def look() -> list[str]:
            found = list(seen)
            seen.clear()
            return found

        return dataclasses.replace(self.dialect, opened=opened), look

    def lone_append(self, entries: int) -> list[str]:
        return ["BEGIN", *["INSERT"] * entries, "COMMIT"]

    def contended(self) -> Exception:
        error = sqlite3.OperationalError("database is locked")
        error.sqlite_errorcode = sqlite3.SQLITE_BUSY
        return error

    def unusable(self) -> Exception:
        error = sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorcode = sqlite3.SQLITE_FULL
        return error

    def effort(self, work: Callable[[], Any]) -> int:
        steps = count()
        raw: sqlite3.Connection = self.db._raw
        raw.set_progress_handler(lambda: next(steps) < 0, 1)
        work()
        raw.set_progress_handler(None, 1)
        return next(steps)

    def plan(self, sql: str, params: Sequence[Any]) -> str:
        rows = self.db.all(f"EXPLAIN QUERY PLAN {sql}", params)
        return "\n".join(row[3] for row in rows)


@cache
def _mariadb_url() -> StoreURL:
    url = store_url(mariadb.fresh_database(), "")
    schema.upgrade(url)
    return url


class MariaDBCase(StoreCase):
    """On MariaDB; the database is emptied for each test, but ids go on."""

    def make_database(self) -> None:
        self.url = _mariadb_url()

    def setUp(self) -> None:
        super().setUp()
        with self.db.transaction():
            for table in TABLES:
                self.db.run(f"DELETE FROM {table}")

    def wired(self, wire: Wire) -> Dialect:
        plain: type[pymysql.cursors.Cursor] = self.dialect.connect["cursorclass"]

        class Cursor(plain):  # type: ignore[valid-type, misc]
            def execute(self, sql: Any, *args: Any) -> Any:
                return wire.carry(sql, lambda: super(Cursor, self).execute(sql, *args))

        connect = {**self.dialect.connect, "cursorclass": Cursor}
        return dataclasses.replace(self.dialect, connect=connect)

    def watched(self) -> tuple[Dialect, Callable[[], list[str]]]:
        mine = self.single("SELECT CONNECTION_ID()")
        self.db.run("SET GLOBAL log_output = 'TABLE', GLOBAL general_log = ON")
        self.addCleanup(self.db.run, "SET GLOBAL general_log = OFF")

        def look() -> list[str]:
            rows = self.db.all(
                "SELECT CONVERT(argument USING utf8mb4) FROM mysql.general_log"
                " WHERE command_type = 'Query' AND thread_id <> ? ORDER BY event_time",
                (mine,),
            )
            self.db.run("TRUNCATE mysql.general_log")
            return [row[0] for row in rows]

        look()
        return self.dialect, look

    def lone_append(self, entries: int) -> list[str]:
        return ["INSERT"]

    def contended(self) -> Exception:
        return pymysql.OperationalError(1213, "Deadlock found when trying to get lock")

    def unusable(self) -> Exception:
        return pymysql.OperationalError(1290, "The server is running with the read-only option")

    def effort(self, work: Callable[[], Any]) -> int:
        before = self._rows_read()
        work()
        return self._rows_read() - before

    def _rows_read(self) -> int:
        return sum(
            int(value) for _, value in self.db.all("SHOW SESSION STATUS LIKE 'Handler_read%'")
        )

    def plan(self, sql: str, params: Sequence[Any]) -> str:
        self.db.all("ANALYZE TABLE entries, rooms, users")
        return "\n".join(map(str, self.db.all(f"EXPLAIN {sql}", params)))

    def links(self) -> list[int]:
        """The ids of the stores' connections."""
        rows = self.db.all(
            "SELECT id FROM information_schema.processlist"
            " WHERE db = DATABASE() AND id <> CONNECTION_ID()"
        )
        return [row[0] for row in rows]

    def kill(self, link: int) -> None:
        """Ends a connection as the server does on its own; from any thread."""
        mariadb.shared().execute(f"KILL {link}")

"""The schema's migrations, on SQLite and on a real MariaDB."""

import os
import re
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pymysql
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, create_engine, event, inspect
from sqlalchemy.pool import NullPool
from twisted.trial.unittest import SynchronousTestCase

from chatd.config import StoreURL, store_url
from chatd.store import schema
from chatd.store.schema import State, UpgradeRefused
from tests import mariadb

COLUMNS = {
    "users": "id bigint, name varchar(32), name_key varchar(128), display varchar(64), "
    "password varchar(255) null, created_at bigint, disabled_at bigint null, "
    "status varchar(128), language varchar(16), seen_at bigint, invisible int, "
    "writers varchar(16), findable int, receipts int, skeleton varchar(128) null",
    "tokens": "hash varbinary(32), user_id bigint, device varchar(64), created_at bigint, "
    "expires_at bigint",
    "api_keys": "hash varbinary(32), name varchar(64), scopes varchar(255), created_at bigint",
    "invitations": "hash varbinary(32), created_at bigint, expires_at bigint, uses_left int",
    "rooms": "id bigint, kind varchar(8), name varchar(32) null, name_key varchar(128) null, "
    "title varchar(128), low_id bigint null, high_id bigint null, created_at bigint, "
    "dissolved_at bigint null, description varchar(1024), entry varchar(16), "
    "history varchar(16), posting varchar(16), muted_until bigint, called_at bigint, "
    "skeleton varchar(128) null",
    "members": "user_id bigint, room_id bigint, role varchar(8), joined_seq bigint, "
    "name_key varchar(128)",
    "mutes": "room_id bigint, user_id bigint, until bigint",
    "cursors": "user_id bigint, room_id bigint, delivered_seq bigint, read_seq bigint, "
    "cleared_seq bigint, marked int, pinned_at bigint, notify varchar(16), archived int,"
    " archived_seq bigint",
    "entries": "room_id bigint, seq bigint, sender_id bigint, idempotency_key varbinary(256), "
    "at bigint, kind varchar(16), body mediumtext",
    "revocations": "id bigint, user_id bigint, at bigint",
    "contacts": "user_id bigint, other_id bigint, state varchar(8), blocked int, "
    "remark varchar(64), words varchar(256), at bigint",
    "bans": "room_id bigint, user_id bigint, by_id bigint, at bigint",
    "join_requests": "room_id bigint, user_id bigint, words varchar(256), at bigint",
    "group_invitations": "user_id bigint, room_id bigint, by_id bigint, at bigint",
    "links": "hash varbinary(32), room_id bigint, by_id bigint, created_at bigint, "
    "expires_at bigint, uses_left int",
    "versions": "room_id bigint, seq bigint, version int, at bigint, body mediumtext",
    "reactions": "room_id bigint, seq bigint, emoji varchar(32), user_id bigint, at bigint",
    "pins": "room_id bigint, seq bigint, by_id bigint, at bigint",
    "mentions": "room_id bigint, user_id bigint, seq bigint",
    "hidden": "user_id bigint, room_id bigint, seq bigint",
    "postings": "token varbinary(48), room_id bigint, at bigint, seq bigint",
    "indexed": "room_id bigint, seq bigint",
}
DEFAULTS = {
    ("users", "display"): "",
    ("tokens", "device"): "",
    ("rooms", "title"): "",
    ("cursors", "delivered_seq"): "0",
    ("cursors", "read_seq"): "0",
    ("users", "status"): "",
    ("users", "language"): "",
    ("users", "seen_at"): "0",
    ("users", "invisible"): "0",
    ("users", "writers"): "everybody",
    ("users", "findable"): "1",
    ("users", "receipts"): "1",
    ("rooms", "description"): "",
    ("rooms", "entry"): "open",
    ("rooms", "history"): "all",
    ("rooms", "posting"): "members",
    ("rooms", "muted_until"): "0",
    ("rooms", "called_at"): "0",
    ("cursors", "cleared_seq"): "0",
    ("cursors", "marked"): "0",
    ("cursors", "pinned_at"): "0",
    ("cursors", "notify"): "all",
    ("cursors", "archived"): "0",
    ("cursors", "archived_seq"): "0",
    ("contacts", "state"): "",
    ("contacts", "blocked"): "0",
    ("contacts", "remark"): "",
    ("contacts", "words"): "",
    ("contacts", "at"): "0",
    ("join_requests", "words"): "",
    ("members", "name_key"): "",
}
PRIMARY_KEYS = {
    "users": ["id"],
    "tokens": ["hash"],
    "api_keys": ["hash"],
    "invitations": ["hash"],
    "rooms": ["id"],
    "members": ["user_id", "room_id"],
    "cursors": ["user_id", "room_id"],
    "entries": ["room_id", "seq"],
    "revocations": ["id"],
    "contacts": ["user_id", "other_id"],
    "bans": ["room_id", "user_id"],
    "mutes": ["room_id", "user_id"],
    "join_requests": ["room_id", "user_id"],
    "group_invitations": ["user_id", "room_id"],
    "links": ["hash"],
    "versions": ["room_id", "seq", "version"],
    "reactions": ["room_id", "seq", "emoji", "user_id"],
    "pins": ["room_id", "seq"],
    "mentions": ["room_id", "user_id", "seq"],
    "hidden": ["user_id", "room_id", "seq"],
    "postings": ["token", "room_id", "at", "seq"],
    "indexed": ["room_id"],
}
INDICES = {  # table: columns, unique
    ("users", ("name_key",), True),
    ("tokens", ("user_id",), False),
    ("api_keys", ("name",), True),
    ("rooms", ("name_key",), True),
    ("rooms", ("low_id", "high_id"), True),
    ("rooms", ("high_id",), False),
    ("members", ("room_id",), False),
    ("members", ("room_id", "name_key", "role"), False),
    ("entries", ("sender_id", "idempotency_key"), True),
    ("users", ("skeleton",), True),
    ("group_invitations", ("room_id",), False),
    ("rooms", ("skeleton",), True),
    ("links", ("room_id",), False),
    ("cursors", ("room_id",), False),
}
ADDED = 22  # columns, to tables that stood
CLUSTERED = set(PRIMARY_KEYS) - {"users", "rooms", "revocations"}

UPGRADE = """
import sys
from chatd.config import store_url
from chatd.store import schema
import alembic.command, sqlalchemy
url = store_url(sys.argv[1], "")
print("ready", flush=True)
sys.stdin.readline()
schema.upgrade(url)
"""
KILLED = """
import os, signal, sys
from sqlalchemy import Engine, event
from chatd.config import store_url
from chatd.store import schema

@event.listens_for(Engine, "before_cursor_execute")
def kill(connection, cursor, statement, *_):
    if "CREATE TABLE IF NOT EXISTS members" in statement:
        os.kill(os.getpid(), signal.SIGKILL)

schema.upgrade(store_url(sys.argv[1], ""))
"""
STATE = """
import sys
from chatd.config import store_url
from chatd.store import schema
url = store_url(sys.argv[1], "")
assert schema.state(url) is schema.State.CURRENT
schema.upgrade(url)
print(sorted({"alembic", "sqlalchemy"} & set(sys.modules)))
"""


class Interrupted(Exception):
    """Stands for the end of the process between two statements."""


@contextmanager
def interrupted_after(done: set[str]) -> Iterator[None]:
    """Let the CREATE and ALTER statements in `done` through and one more, which is added, then
    raise Interrupted."""
    more = False

    def count(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        nonlocal more
        if not statement.lstrip().startswith(("CREATE", "ALTER")) or statement in done:
            return
        if more:
            raise Interrupted
        more = True
        done.add(statement)

    event.listen(Engine, "before_cursor_execute", count)
    try:
        yield
    finally:
        event.remove(Engine, "before_cursor_execute", count)


class SchemaContract:
    """What holds on both databases."""

    mark: ClassVar[str]  # of a parameter, in the driver's style
    dialect: ClassVar[str]
    IntegrityError: ClassVar[type[Exception]]

    def fresh(self) -> str:
        """The URL of a database in which there is nothing."""
        raise NotImplementedError

    def connect(self, url: StoreURL) -> Any:
        raise NotImplementedError

    def setUp(self: Any) -> None:
        self.text = self.fresh()
        self.url = store_url(self.text, "")

    def start(self: Any, script: str) -> subprocess.Popen[str]:
        """A Python process that runs `script` on the database."""
        process = subprocess.Popen(
            [sys.executable, "-c", script, self.text],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        self.addCleanup(process.kill)  # does nothing once it has ended and been waited for
        return process

    def run_sql(self: Any, sql: str, *rows: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        """Run a statement, once or for each row, commit, and return what the last one found."""
        with closing(self.connect(self.url)) as connection, closing(connection.cursor()) as cursor:
            for row in rows or ((),):
                cursor.execute(sql.replace("?", self.mark), row)
            found = list(cursor.fetchall())
            connection.commit()
            return found

    @contextmanager
    def inspector(self: Any) -> Iterator[Any]:
        engine = create_engine(
            self.dialect, creator=lambda: self.connect(self.url), poolclass=NullPool
        )
        with engine.connect() as connection:
            yield inspect(connection)

    def assert_complete(self: Any) -> None:
        with self.inspector() as found:
            tables = set(found.get_table_names()) - {"alembic_version"}
            self.assertEqual(set(COLUMNS), tables)
            keys = {
                table: found.get_pk_constraint(table)["constrained_columns"] for table in tables
            }
            if found.dialect.name == "sqlite":
                self.assertEqual(["room_id", "token", "at", "seq"], keys["postings"])
                keys["postings"] = PRIMARY_KEYS["postings"]
            self.assertEqual(PRIMARY_KEYS, keys)
            unique = {
                (table, tuple(one["column_names"]), True)
                for table in tables
                for one in found.get_unique_constraints(table)
            }
            indices = {
                (table, tuple(one["column_names"]), bool(one["unique"]))
                for table in tables
                for one in found.get_indexes(table)
            }
            self.assertEqual(INDICES, unique | indices)
        self.assertIs(State.CURRENT, schema.state(self.url))

    def add_entries(self: Any, *rows: tuple[Any, ...]) -> None:
        self.run_sql(
            "INSERT INTO entries (room_id, seq, sender_id, idempotency_key, at, kind, body)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            *rows,
        )

    def add_users(self: Any, *rows: tuple[Any, ...]) -> None:
        self.run_sql("INSERT INTO users (name, name_key, created_at) VALUES (?, ?, 0)", *rows)

    def test_fresh(self: Any) -> None:
        """An upgrade of nothing makes every table, column, key and index."""
        schema.upgrade(self.url)
        self.assert_complete()
        with self.inspector() as found:
            for table, columns in COLUMNS.items():
                wanted = [
                    (words.split()[0], words.endswith(" null")) for words in columns.split(", ")
                ]
                got = [(one["name"], one["nullable"]) for one in found.get_columns(table)]
                self.assertEqual(sorted(wanted), sorted(got))  # the keys tell the order
            defaults = {
                (table, one["name"]): one["default"].strip("'")
                for table in COLUMNS
                for one in found.get_columns(table)
                if one["default"] not in (None, "NULL")
            }
            self.assertEqual(DEFAULTS, defaults)

    def test_states(self: Any) -> None:
        """A database is empty, then current; an unknown revision is newer."""
        self.assertIs(State.EMPTY, schema.state(self.url))
        self.assertIsNone(schema.revision(self.url))
        schema.upgrade(self.url)
        self.assertIs(State.CURRENT, schema.state(self.url))
        self.assertEqual(schema.head(), schema.revision(self.url))
        self.run_sql("UPDATE alembic_version SET version_num = '9999'")
        self.assertIs(State.NEWER, schema.state(self.url))
        self.assertEqual("9999", schema.revision(self.url))

    def test_newer_is_left_alone(self: Any) -> None:
        """A newer schema is not touched, and the refusal names both revisions."""
        schema.upgrade(self.url)
        self.run_sql("UPDATE alembic_version SET version_num = '9999'")
        refusal = self.assertRaises(UpgradeRefused, schema.upgrade, self.url)
        self.assertIn(f"is at 9999, this chatd knows {schema.head()}", str(refusal))
        self.assertEqual("9999", schema.revision(self.url))

    def test_twice(self: Any) -> None:
        """A second upgrade changes nothing and keeps the rows."""
        schema.upgrade(self.url)
        self.add_users(("Ann", "ann"))
        schema.upgrade(self.url)
        self.assertEqual([("Ann",)], self.run_sql("SELECT name FROM users"))

    def test_older(self: Any) -> None:
        """A database of the first release is older; an upgrade adds what is new and keeps the
        rows, also when a former one ended after it had made the table; members have their names."""
        schema.upgrade(self.url)
        self.add_users(("Ann", "ann"))
        self.run_sql(
            "INSERT INTO members (user_id, room_id, role, joined_seq)"
            " SELECT id, 1, 'owner', 1 FROM users"
        )
        for undo in ("DROP TABLE revocations", "UPDATE members SET name_key = ''"):
            self.run_sql(undo)
            self.run_sql("UPDATE alembic_version SET version_num = '0001'")
            self.assertIs(State.OLDER, schema.state(self.url))
            schema.upgrade(self.url)
            self.assert_complete()
            self.assertEqual([("Ann",)], self.run_sql("SELECT name FROM users"))
            self.assertEqual([("ann",)], self.run_sql("SELECT name_key FROM members"))

    def test_skeletons(self: Any) -> None:
        """ASCII names that are older than the column are protected, but for those that somebody
        vouched for; a repeated upgrade changes nothing."""
        schema.upgrade(self.url)
        self.run_sql(
            "INSERT INTO users (name, name_key, password, created_at) VALUES (?, ?, ?, 0)",
            ("Ann", "ann", "hash"),
            ("刘备", "刘备", "hash"),
            ("Bob", "bob", None),
        )
        self.run_sql(
            "INSERT INTO rooms (kind, name, name_key, title, created_at) VALUES (?, ?, ?, '', 0)",
            ("group", "Team", "team"),
            ("inbox", None, None),
        )
        for _ in range(2):
            self.run_sql("UPDATE alembic_version SET version_num = '0002'")
            schema.upgrade(self.url)
            found = self.run_sql("SELECT name, skeleton FROM users ORDER BY id")
            self.assertEqual([("Ann", "ann"), ("刘备", None), ("Bob", None)], found)
            found = self.run_sql("SELECT name, skeleton FROM rooms ORDER BY id")
            self.assertEqual([("Team", "team"), (None, None)], found)

    def test_foreign_tables(self: Any) -> None:
        """A database with somebody else's tables is refused and left as it is."""
        self.prepare()
        self.run_sql("CREATE TABLE users (mail VARCHAR(20))")
        refusal = self.assertRaises(UpgradeRefused, schema.upgrade, self.url)
        self.assertIn("(users)", str(refusal))
        with self.inspector() as found:
            self.assertEqual(["users"], found.get_table_names())

    def test_tables_there_already(self: Any) -> None:
        """An upgrade keeps the tables that a former one has made, and their rows."""
        schema.upgrade(self.url)
        self.add_users(("Ann", "ann"))
        for sql in (
            "DELETE FROM alembic_version",
            "DROP TABLE entries",
            "DROP TABLE cursors",
            self.drop_index,
        ):
            self.run_sql(sql)
        self.assertIs(State.EMPTY, schema.state(self.url))
        schema.upgrade(self.url)
        self.assert_complete()
        self.assertEqual([("Ann",)], self.run_sql("SELECT name FROM users"))

    def test_interrupted(self: Any) -> None:
        """An upgrade that ends before any of its statements is gone on with by the next one."""
        done: set[str] = set()
        for _ in range(200):
            try:
                with interrupted_after(done):
                    schema.upgrade(self.url)
            except Interrupted:
                self.assertIn(schema.state(self.url), (State.EMPTY, State.OLDER))
            else:
                break
        self.assert_complete()
        indices = INDICES - {index for index in INDICES if index[2] and index[1] != ("skeleton",)}
        self.assertEqual(1 + len(COLUMNS) + ADDED + len(indices), len(done))

    def test_killed(self: Any) -> None:
        """An upgrade killed by SIGKILL between two tables is finished by the next one."""
        process = self.start(KILLED)
        _, errors = process.communicate(timeout=60)
        self.assertEqual(-signal.SIGKILL, process.returncode, errors)
        self.assertIs(State.EMPTY, schema.state(self.url))
        schema.upgrade(self.url)
        self.assert_complete()

    def test_together(self: Any) -> None:
        """Two processes that upgrade at the same time both succeed."""
        processes = [self.start(UPGRADE) for _ in range(2)]
        for process in processes:
            assert process.stdout
            self.assertEqual("ready\n", process.stdout.readline())
        for process in processes:
            assert process.stdin
            process.stdin.write("go\n")
            process.stdin.flush()
        for process in processes:
            _, errors = process.communicate(timeout=120)
            self.assertEqual((0, ""), (process.returncode, errors))
        self.assert_complete()

    def test_current_is_cheap(self: Any) -> None:
        """A process that finds the schema current has not imported the migration tools."""
        schema.upgrade(self.url)
        output, errors = self.start(STATE).communicate(timeout=60)
        self.assertEqual(("[]\n", ""), (output, errors))

    def test_key_once(self: Any) -> None:
        """A sender uses an idempotency key once, whichever the room; another sender may too."""
        schema.upgrade(self.url)
        self.add_entries((1, 1, 7, b"a", 0, "message", "one"), (1, 2, 8, b"a", 0, "message", "two"))
        again = (2, 1, 7, b"a", 0, "message", "three")
        self.assertRaises(self.IntegrityError, self.add_entries, again)
        same_seq = (1, 1, 7, b"b", 0, "message", "four")
        self.assertRaises(self.IntegrityError, self.add_entries, same_seq)

    def test_keys_are_bytes(self: Any) -> None:
        """Keys that differ in case, a trailing space or a trailing zero byte are different."""
        schema.upgrade(self.url)
        keys = [b"a", b"a ", b"A", b"a\0", b"\xff" * 256]
        self.add_entries(*((1, n, 7, key, 0, "message", "") for n, key in enumerate(keys)))
        found = self.run_sql("SELECT idempotency_key FROM entries ORDER BY seq")
        self.assertEqual(keys, [key for (key,) in found])

    def test_name_key_is_exact(self: Any) -> None:
        """Names that differ in case or accents alone have different keys."""
        schema.upgrade(self.url)
        names = ["ann", "Ann", "änn", "ａnn"]
        self.add_users(*((name, name) for name in names))
        found = self.run_sql("SELECT name FROM users WHERE name_key = ?", ("Ann",))
        self.assertEqual([("Ann",)], found)
        self.assertRaises(self.IntegrityError, self.add_users, ("Ann", "Ann"))

    def test_any_text(self: Any) -> None:
        """Chinese and characters of four bytes come back as they went in."""
        schema.upgrade(self.url)
        body = "你好，世界 \U0001f468\u200d\U0001f469\u200d\U0001f467 𠮷 " + "😀" * 8000
        self.add_entries((1, 1, 7, b"k", 0, "message", body))
        self.assertEqual([(body,)], self.run_sql("SELECT body FROM entries"))
        self.add_users(("张伟😀", "张伟😀"))
        found = self.run_sql("SELECT name FROM users WHERE name_key = ?", ("张伟😀",))
        self.assertEqual([("张伟😀",)], found)

    def test_ids_are_not_used_again(self: Any) -> None:
        """The id of a deleted user is not given to the next one."""
        schema.upgrade(self.url)
        self.add_users(("Ann", "ann"), ("Ben", "ben"))
        self.run_sql("DELETE FROM users WHERE name = 'Ben'")
        self.add_users(("Cem", "cem"))
        self.assertEqual(
            [("Ann", 1), ("Cem", 3)], self.run_sql("SELECT name, id FROM users ORDER BY id")
        )

    def test_revocations_are_numbered_upwards(self: Any) -> None:
        """The id of a revocation that was forgotten does not come again."""
        schema.upgrade(self.url)
        add = "INSERT INTO revocations (user_id, at) VALUES (?, ?)"
        self.run_sql(add, (7, 1), (8, 2))
        self.run_sql("DELETE FROM revocations")
        self.run_sql(add, (9, 3))
        self.assertEqual([(3, 9)], self.run_sql("SELECT id, user_id FROM revocations"))

    def test_history_is_one_range(self: Any) -> None:
        """Reading a room after a seq walks a range of the primary key, without sorting."""
        schema.upgrade(self.url)
        self.add_entries(
            *(
                (room, seq, 7, b"%d-%d" % (room, seq), 0, "message", "text")
                for room in range(1, 11)
                for seq in range(1, 101)
            )
        )
        self.assert_range("SELECT * FROM entries WHERE room_id = 5 AND seq > 90 ORDER BY seq")
        self.assert_range("SELECT seq FROM entries WHERE room_id = 5 AND seq > 90 ORDER BY seq")


class SQLiteSchemaTests(SchemaContract, SynchronousTestCase):
    """The contract on SQLite, and what only a file has."""

    mark = "?"
    dialect = "sqlite://"
    drop_index = "DROP INDEX rooms_high_id"
    IntegrityError = sqlite3.IntegrityError

    def fresh(self) -> str:
        directory = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, directory)
        return f"sqlite:///{directory}/state/chatd.db"

    def connect(self, url: StoreURL) -> sqlite3.Connection:
        return sqlite3.connect(url.path)

    def prepare(self) -> None:
        Path(self.url.path).parent.mkdir(parents=True)

    def assert_range(self, sql: str) -> None:
        plan = [row[3] for row in self.run_sql(f"EXPLAIN QUERY PLAN {sql}")]
        self.assertEqual(["SEARCH entries USING PRIMARY KEY (room_id=? AND seq>?)"], plan)

    def test_asking_creates_nothing(self) -> None:
        """To ask for the state of a file that is not there does not create it."""
        self.assertIs(State.EMPTY, schema.state(self.url))
        self.assertFalse(Path(self.url.path).parent.exists())

    def test_empty_file(self) -> None:
        """A file of no bytes, as a kill right at the start leaves it, is upgraded."""
        self.prepare()
        Path(self.url.path).touch()
        self.assertIs(State.EMPTY, schema.state(self.url))
        schema.upgrade(self.url)
        self.assert_complete()

    def test_another_file(self) -> None:
        """A file that is no database is refused by the driver and left as it is."""
        self.prepare()
        Path(self.url.path).write_text("a diary, not a database" * 100)
        self.assertRaises(sqlite3.DatabaseError, schema.state, self.url)
        self.assertRaises(sqlite3.DatabaseError, schema.upgrade, self.url)
        self.assertTrue(Path(self.url.path).read_text().startswith("a diary"))

    def test_private(self) -> None:
        """The file is readable by its owner alone, whatever the umask, and so is the directory."""
        self.addCleanup(os.umask, os.umask(0))
        schema.upgrade(self.url)
        path = Path(self.url.path)
        self.assertEqual(0o600, stat.S_IMODE(path.stat().st_mode))
        self.assertEqual(0o700, stat.S_IMODE(path.parent.stat().st_mode))

    def test_write_ahead_log(self) -> None:
        """The file is in WAL mode for whoever opens it."""
        schema.upgrade(self.url)
        self.assertEqual([("wal",)], self.run_sql("PRAGMA journal_mode"))

    def test_locked(self) -> None:
        """An upgrade gives up on a file that another connection keeps locked."""
        self.prepare()
        with closing(self.connect(self.url)) as other:
            other.execute("PRAGMA journal_mode=WAL")
            other.execute("BEGIN IMMEDIATE")
            self.assertRaises(UpgradeRefused, schema.upgrade, self.url, lock_seconds=0)
            other.rollback()
        schema.upgrade(self.url)
        self.assert_complete()

    def test_clustered(self) -> None:
        """The tables with a natural key are stored in its order, without a row id."""
        schema.upgrade(self.url)
        found = self.run_sql("SELECT name FROM pragma_table_list WHERE wr = 1")
        self.assertEqual(CLUSTERED, {name for (name,) in found})


class MySQLSchemaTests(SchemaContract, SynchronousTestCase):
    """The contract on MariaDB, and what only a server has."""

    mark = "%s"
    dialect = "mysql+pymysql://"
    drop_index = "DROP INDEX rooms_high_id ON rooms"
    IntegrityError = pymysql.IntegrityError

    def fresh(self) -> str:
        return mariadb.fresh_database()

    def connect(self, url: StoreURL) -> Any:
        return pymysql.connect(
            user=url.user,
            password=url.password,
            unix_socket=url.unix_socket,
            database=url.database,
            charset="utf8mb4",
        )

    def prepare(self) -> None:
        """The database is there already."""

    def assert_range(self, sql: str) -> None:
        self.run_sql("ANALYZE TABLE entries")
        with (
            closing(self.connect(self.url)) as connection,
            connection.cursor(pymysql.cursors.DictCursor) as cursor,
        ):
            cursor.execute(f"EXPLAIN {sql}")
            (plan,) = cursor.fetchall()
        self.assertEqual(("range", "PRIMARY"), (plan["type"], plan["key"]))
        self.assertNotIn("filesort", plan["Extra"])

    def test_types(self) -> None:
        """Types, engine and collation are as written, whatever the database's own defaults."""
        self.run_sql(f"ALTER DATABASE `{self.url.database}` CHARACTER SET latin1")
        schema.upgrade(self.url)
        rows = self.run_sql(
            "SELECT table_name, column_name, column_type, is_nullable, collation_name"
            " FROM information_schema.columns WHERE table_schema = DATABASE()"
            " AND table_name <> 'alembic_version' ORDER BY table_name, ordinal_position"
        )
        found: dict[str, list[str]] = {}
        for table, column, kind, nullable, _ in rows:
            # MariaDB tells a width of display, which MySQL 8 has given up.
            kind = re.sub(r"int\(\d+\)", "int", kind)
            found.setdefault(table, []).append(f"{column} {kind}" + " null" * (nullable == "YES"))
        self.assertEqual(COLUMNS, {table: ", ".join(words) for table, words in found.items()})
        self.assertEqual({None, "utf8mb4_bin"}, {row[4] for row in rows})
        tables = self.run_sql(
            "SELECT engine, table_collation FROM information_schema.tables"
            " WHERE table_schema = DATABASE() AND table_name <> 'alembic_version'"
        )
        self.assertEqual({("InnoDB", "utf8mb4_bin")}, set(tables))

    def test_locked(self) -> None:
        """An upgrade gives up on a lock that is not let go; its own is let go at its end."""
        with closing(self.connect(self.url)) as other, closing(other.cursor()) as cursor:
            name = f"chatd.upgrade:{self.url.database}"
            cursor.execute("SELECT GET_LOCK(%s, 0)", (name,))
            self.assertRaises(UpgradeRefused, schema.upgrade, self.url, lock_seconds=0)
            self.assertIs(State.EMPTY, schema.state(self.url))
            cursor.execute("SELECT RELEASE_LOCK(%s)", (name,))
            schema.upgrade(self.url)
            cursor.execute("SELECT GET_LOCK(%s, 0)", (name,))
            self.assertEqual((1,), cursor.fetchone())

    def test_no_such_database(self) -> None:
        """A database that is not there is the driver's error, for a question and an upgrade."""
        self.run_sql(f"DROP DATABASE `{self.url.database}`")
        for ask in (schema.state, schema.upgrade):
            self.assertRaises(pymysql.OperationalError, ask, self.url)


class RevisionTests(SynchronousTestCase):
    """The scripts, without a database."""

    def test_the_files_are_the_history(self) -> None:
        """The revisions read off the file names are Alembic's own, in one line."""
        config = Config()
        config.set_main_option("script_location", "chatd.store:migrations")
        scripts = ScriptDirectory.from_config(config)
        walked = [script.revision for script in scripts.walk_revisions()]
        self.assertEqual(list(reversed(walked)), list(schema.revisions()))
        self.assertEqual([schema.head()], scripts.get_heads())

    def test_compare(self) -> None:
        """Nothing is empty, the last is current, any other known one older, the rest newer."""
        known = ("0001", "0002", "0003")
        self.assertEqual(
            [State.EMPTY, State.OLDER, State.OLDER, State.CURRENT, State.NEWER],
            [schema.compare(found, known) for found in (None, *known, "0004")],
        )

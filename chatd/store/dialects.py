"""What differs between the databases: connecting, placeholders, errors, a few clauses."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import pymysql
from pymysql.constants import CLIENT, CR, ER

ANSWER_SECONDS = 4.0  # how long a database has to answer: less than its users' patience
_LOCK_SECONDS = 2  # how long MySQL waits for another's lock; then the transaction runs again


class StoreURL(Protocol):
    """Where the database is; `kind` is "sqlite" or "mysql"."""

    @property
    def kind(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def user(self) -> str: ...
    @property
    def password(self) -> str: ...
    @property
    def host(self) -> str: ...
    @property
    def port(self) -> int: ...
    @property
    def database(self) -> str: ...
    @property
    def unix_socket(self) -> str: ...


@dataclass(frozen=True)
class Dialect:
    """One database's ways. SQL is written with `?` and MySQL's meaning elsewhere. `begin` and
    `snapshot` begin a transaction that writes, and one that only reads what is there now.

    `lost(error)`: the connection is dead. `stalled(error)`: by our own decision, for want of an
    answer; `end(connection, ids)` ends what such connections may still do, and gives those that
    still do it. `contended(error)`: another transaction was in the way, so running again may
    succeed. `duplicate(error)`: a unique key was violated. `unusable(error)`: the database takes
    nothing for now, such as with a full disk.
    """

    module: str
    connect: dict[str, Any]
    opened: Callable[[Any], None]
    sql: Callable[[str], str]
    begin: str
    snapshot: tuple[str, ...]
    locking: str
    lost: Callable[[BaseException], bool]
    stalled: Callable[[BaseException], bool]
    end: Callable[[Any, set[int]], set[int]]
    contended: Callable[[BaseException], bool]
    duplicate: Callable[[BaseException], bool]
    unusable: Callable[[BaseException], bool]
    errors: tuple[type[Exception], ...]
    one_statement: bool  # the driver makes one statement of an INSERT of many rows
    writers: int | None  # how many connections may write; None: as many as there are


@cache
def _mysql_sql(text: str) -> str:
    return text.replace("%", "%%").replace("?", "%s")


@cache
def _sqlite_sql(text: str) -> str:
    return (
        text.replace("INSERT IGNORE", "INSERT OR IGNORE")
        .replace("ON DUPLICATE KEY UPDATE", "ON CONFLICT DO UPDATE SET")
        .replace("GREATEST(", "max(")
        .replace("VALUES(delivered_seq)", "excluded.delivered_seq")
        .replace("VALUES(read_seq)", "excluded.read_seq")
        .replace("VALUES(seq)", "excluded.seq")
    )


def _sqlite_opened(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")  # acknowledged means on disk
    connection.execute("PRAGMA secure_delete=ON")  # what was recalled is not left in the file
    connection.execute(f"PRAGMA busy_timeout={int(ANSWER_SECONDS * 1000)}")


def _sqlite_code(error: BaseException) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


_SQLITE_UNUSABLE = (
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
)
_SQLITE_DUPLICATE = (sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY)


def sqlite(path: str) -> Dialect:
    """SQLite: one writer, readers beside it (WAL), every commit synced."""
    return Dialect(
        module="sqlite3",
        connect={"database": path, "isolation_level": None, "check_same_thread": False},
        opened=_sqlite_opened,
        sql=_sqlite_sql,
        begin="BEGIN IMMEDIATE",
        snapshot=("BEGIN",),
        locking="",
        lost=lambda error: False,
        stalled=lambda error: False,
        end=lambda connection, ids: set(),
        contended=lambda error: _sqlite_code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED),
        duplicate=lambda error: getattr(error, "sqlite_errorcode", 0) in _SQLITE_DUPLICATE,
        unusable=lambda error: _sqlite_code(error) in _SQLITE_UNUSABLE,
        errors=(sqlite3.Error,),
        one_statement=False,
        writers=1,
    )


_LOST = frozenset(
    (
        0,
        CR.CR_CONNECTION_ERROR,
        CR.CR_CONN_HOST_ERROR,
        CR.CR_SERVER_GONE_ERROR,
        CR.CR_SERVER_LOST,
        CR.CR_COMMANDS_OUT_OF_SYNC,
        CR.CR_SERVER_LOST_EXTENDED,
        ER.SERVER_SHUTDOWN,
        ER.CON_COUNT_ERROR,
        1927,  # MariaDB: connection was killed
        4031,  # MySQL: disconnected for inactivity
    )
)
_UNUSABLE = frozenset(
    (
        3,  # error writing file
        28,  # no space left on device
        ER.DISK_FULL,
        ER.RECORD_FILE_FULL,
        ER.OPTION_PREVENTS_STATEMENT,  # read-only
        1792,  # read-only transaction
        1836,  # read-only mode
    )
)
_CONTENDED = frozenset((ER.LOCK_DEADLOCK, ER.LOCK_WAIT_TIMEOUT, 1020))  # 1020: record has changed


def _mysql_code(error: BaseException) -> int | None:
    if not isinstance(error, pymysql.MySQLError) or not error.args:
        return None
    code = error.args[0]
    return code if isinstance(code, int) else None


def _mysql_lost(error: BaseException) -> bool:
    return isinstance(error, OSError | EOFError) or _mysql_code(error) in _LOST


def _mysql_opened(connection: Any) -> None:
    connection.cursor().execute(f"SET SESSION innodb_lock_wait_timeout = {_LOCK_SECONDS}")


def _mysql_end(connection: Any, ids: set[int]) -> set[int]:
    cursor = connection.cursor()
    # Only ours: a restarted server may have given the number to somebody else.
    cursor.execute(
        "SELECT id FROM information_schema.processlist WHERE id IN %s AND db = DATABASE()"
        " AND user = SUBSTRING_INDEX(USER(), '@', 1) AND id <> CONNECTION_ID()",
        (tuple(ids),),
    )
    running = {row[0] for row in cursor.fetchall()}
    for number in running:
        with suppress(pymysql.MySQLError):  # it has ended meanwhile
            cursor.execute("KILL CONNECTION %s", (number,))
    return running


class _Cursor(pymysql.cursors.Cursor):
    # A batch must stay one statement, or it would not be atomic; its size is bounded where
    # it is made, well below the server's max_allowed_packet (16 MiB by default).
    max_stmt_length = 12 * 2**20


def mysql(url: StoreURL) -> Dialect:
    """MySQL 8 or MariaDB 10.11, over PyMySQL."""
    where = {"unix_socket": url.unix_socket} if url.unix_socket else {}
    return Dialect(
        module="pymysql",
        connect={
            "host": url.host,
            "port": url.port,
            "user": url.user,
            "password": url.password,
            "database": url.database,
            "charset": "utf8mb4",
            "autocommit": True,
            "connect_timeout": ANSWER_SECONDS,
            "read_timeout": ANSWER_SECONDS,
            "write_timeout": ANSWER_SECONDS,
            "cursorclass": _Cursor,
            "client_flag": CLIENT.FOUND_ROWS,
            "init_command": "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
            **where,
        },
        opened=_mysql_opened,
        sql=_mysql_sql,
        begin="START TRANSACTION",
        snapshot=(
            "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ",
            "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY",
        ),
        locking=" FOR UPDATE",
        lost=_mysql_lost,
        stalled=lambda error: isinstance(error.__context__, TimeoutError),
        end=_mysql_end,
        contended=lambda error: _mysql_code(error) in _CONTENDED,
        duplicate=lambda error: _mysql_code(error) == ER.DUP_ENTRY,
        unusable=lambda error: _mysql_code(error) in _UNUSABLE,
        errors=(pymysql.MySQLError, OSError, EOFError),
        one_statement=True,
        writers=None,
    )


def dialect(url: StoreURL) -> Dialect:
    """The dialect of the database at `url`."""
    return sqlite(url.path) if url.kind == "sqlite" else mysql(url)

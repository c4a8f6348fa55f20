"""Tells which schema a database has, and brings it to the one this release knows."""

# Alembic and SQLAlchemy take some 25 MB, so only the functions that migrate import them: a
# daemon that starts on a current schema never pays for them.

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from chatd.store.dialects import StoreURL

if TYPE_CHECKING:
    from sqlalchemy import Connection

LOCK_SECONDS: Final = 60  # longer than any revision so far takes, short enough to wait for
VERSIONS: Final = Path(__file__).parent / "migrations" / "versions"


class State(Enum):
    """How a database's schema compares with the one this release knows."""

    EMPTY = "empty"
    OLDER = "older"
    CURRENT = "current"
    NEWER = "newer"


class UpgradeRefused(Exception):
    """The database cannot be upgraded as it is; the text tells the operator why."""


def revisions() -> tuple[str, ...]:
    """The revisions this release knows, oldest first, such as ``("0001", "0002")``."""
    return tuple(sorted(path.name[:4] for path in VERSIONS.glob("[0-9]*_*.py")))


def head() -> str:
    """The revision this release works with."""
    return revisions()[-1]


def revision(url: StoreURL) -> str | None:
    """The revision a database is at; None when no revision has finished on it.

    Creates nothing. Raises the driver's error (`sqlite3.Error`, `pymysql.MySQLError`) when the
    database does not answer or is not one.
    """
    if url.kind == "sqlite" and not os.path.exists(url.path):
        return None
    with closing(_connect(url)) as connection, closing(connection.cursor()) as cursor:
        cursor.execute(_HAS_VERSION[url.kind])
        if cursor.fetchone() is None:
            return None
        cursor.execute("SELECT version_num FROM alembic_version")
        row = cursor.fetchone()
        return str(row[0]) if row else None


def state(url: StoreURL) -> State:
    """Compare a database with this release; raises like `revision`.

    A database whose first revision was interrupted is EMPTY: `upgrade` finishes it. NEWER is
    any revision that this release does not know.
    """
    return compare(revision(url), revisions())


def compare(found: str | None, known: Sequence[str]) -> State:
    """What a database at revision `found` is to a release that knows `known`, oldest first."""
    if found is None:
        return State.EMPTY
    if found == known[-1]:
        return State.CURRENT
    return State.OLDER if found in known else State.NEWER


def upgrade(url: StoreURL, lock_seconds: int = LOCK_SECONDS) -> None:
    """Bring a database to `head`; does nothing when it is there.

    An interrupted upgrade is finished by the next one, and of several at once one works while
    the others wait, for `lock_seconds` at most. A missing SQLite file is created with mode 0600,
    its directory with 0700. Raises `UpgradeRefused` when the schema is newer than this release,
    when the database holds somebody else's tables or is locked for too long; OSError when the
    SQLite file cannot be created; else the driver's error.
    """
    found = state(url)
    if found is State.CURRENT:
        return
    if found is State.NEWER:
        raise UpgradeRefused(
            f"the schema is at {revision(url)}, this chatd knows {head()}: run a newer chatd"
        )
    if url.kind == "sqlite":
        _create_file(Path(url.path))
    _migrate(url, lock_seconds)


def _migrate(url: StoreURL, lock_seconds: int) -> None:
    from alembic import command
    from alembic.config import Config
    from sqlalchemy.exc import DBAPIError

    config = Config()
    config.set_main_option("script_location", "chatd.store:migrations")
    try:
        with _locked(url, lock_seconds) as connection:
            _refuse_foreign_tables(connection)
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    except DBAPIError as error:
        raise (error.orig or error) from error


@contextmanager
def _locked(url: StoreURL, lock_seconds: int) -> Iterator["Connection"]:
    """A connection that alone upgrades the database; commits at the end."""
    from sqlalchemy import create_engine
    from sqlalchemy.pool import NullPool

    engine = create_engine(
        _DIALECTS[url.kind],
        creator=lambda: _connect(url, lock_seconds),
        poolclass=NullPool,
        isolation_level="AUTOCOMMIT",  # so that BEGIN and COMMIT are where they are written
    )
    with engine.connect() as connection:
        if not _LOCKS[url.kind](connection, url, lock_seconds):
            raise UpgradeRefused(f"somebody else has locked the database for {lock_seconds} s")
        yield connection
        connection.exec_driver_sql("COMMIT")


def _lock_sqlite(connection: "Connection", _url: StoreURL, _seconds: int) -> bool:
    from sqlalchemy.exc import OperationalError

    # SQLite refuses at once, whatever the timeout, when two switch the mode together; then the
    # other one does it, for the mode is kept in the file.
    with suppress(OperationalError):
        connection.exec_driver_sql("PRAGMA journal_mode=WAL")
    try:
        connection.exec_driver_sql("BEGIN EXCLUSIVE")
    except OperationalError as error:
        if getattr(error.orig, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY:
            return False
        raise
    return True


def _lock_mysql(connection: "Connection", url: StoreURL, seconds: int) -> bool:
    name = f"chatd.upgrade:{url.database}"[:64]  # the longest name MySQL takes
    got = connection.exec_driver_sql("SELECT GET_LOCK(%s, %s)", (name, seconds))
    return bool(got.scalar() == 1)


def _refuse_foreign_tables(connection: "Connection") -> None:
    """Keep off a website's own `users`: a revision would take it for one it has created."""
    from sqlalchemy import inspect

    tables = inspect(connection).get_table_names()
    if tables and "alembic_version" not in tables:  # the first thing an upgrade creates
        raise UpgradeRefused(
            f"the database holds tables that chatd has not made ({', '.join(sorted(tables)[:3])}"
            "): give chatd a database of its own"
        )


def _create_file(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))


def _connect(url: StoreURL, lock_seconds: int = LOCK_SECONDS) -> Any:  # no common type
    if url.kind == "sqlite":
        uri = f"{Path(url.path).absolute().as_uri()}?mode=rw"  # rw: never create the file
        return sqlite3.connect(uri, uri=True, timeout=lock_seconds)
    import pymysql

    return pymysql.connect(
        user=url.user,
        password=url.password,
        host=url.host,
        port=url.port,
        database=url.database,
        unix_socket=url.unix_socket or None,
        charset="utf8mb4",
    )


_DIALECTS: Final = {"sqlite": "sqlite://", "mysql": "mysql+pymysql://"}
_LOCKS: Final = {"sqlite": _lock_sqlite, "mysql": _lock_mysql}
_HAS_VERSION: Final = {
    "sqlite": "SELECT 1 FROM sqlite_schema WHERE name = 'alembic_version'",
    "mysql": "SELECT 1 FROM information_schema.tables"
    " WHERE table_schema = DATABASE() AND table_name = 'alembic_version'",
}

"""Opens the database for one command, tells of its schema, and why it cannot be used."""

from __future__ import annotations

import importlib
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Final

from pymysql.constants import ER

from chatd.client.output import Answer, write
from chatd.config import ConfigError, StoreURL
from chatd.errors import Unavailable
from chatd.store import schema
from chatd.store.connection import Connection
from chatd.store.dialects import dialect
from chatd.store.schema import State

# What no other try would mend: the URL is wrong, or whoever runs chatctl may not. 1698: an account
# of MariaDB's that needs no password, but another user of the system.
_MYSQL_REFUSALS: Final = frozenset(
    (ER.DBACCESS_DENIED_ERROR, ER.ACCESS_DENIED_ERROR, ER.BAD_DB_ERROR, 1698)
)
_SQLITE_REFUSALS: Final = frozenset(
    (sqlite3.SQLITE_PERM, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_NOTADB)
)
_SCHEMAS: Final = {
    State.EMPTY: "is empty: run `chatctl db upgrade` with the same options",
    State.OLDER: "has the schema {found}, older than {head}: "
    "run `chatctl db upgrade` with the same options",
    State.CURRENT: "has the schema {found}, which is current",
    State.NEWER: "has the schema {found}, newer than {head}: run a newer chatd",
}


def prepare(url: StoreURL) -> None:
    """Bring SQLite's schema up to date, as the daemon does; MySQL's is the operator's to
    upgrade: ConfigError says how."""
    found = schema.state(url)
    if found is State.CURRENT:
        return
    if url.kind == "mysql":
        raise ConfigError([status(url).sentence])
    schema.upgrade(url)
    if found is State.EMPTY:
        write(sys.stderr, f"There was no database: {place(url)} is new.")


def require(url: StoreURL) -> None:
    """Raise ConfigError unless the schema is this release's; changes nothing."""
    if schema.state(url) is not State.CURRENT:
        raise ConfigError([status(url).sentence])


@contextmanager
def connected(url: StoreURL, patient: bool = False) -> Iterator[Connection]:
    """A connection for the statements, closed at the end; `patient`: an answer may take long."""
    spoken = dialect(url)
    ways = spoken.connect
    if patient:
        ways = {name: way for name, way in ways.items() if name != "read_timeout"}
    with closing(importlib.import_module(spoken.module).connect(**ways)) as raw:
        spoken.opened(raw)
        yield Connection(raw, spoken)


@contextmanager
def explained(url: StoreURL) -> Iterator[None]:
    """Turn errors of the database into ConfigError, where trying again would not help, or
    Unavailable."""
    # UnicodeError: what stands for a host cannot be the name of one.
    errors: tuple[type[Exception], ...] = (*dialect(url).errors, OSError, UnicodeError)
    try:
        yield
    except schema.UpgradeRefused as error:
        raise ConfigError([f"The database {place(url)} cannot be used: {error}."]) from error
    except errors as error:
        raise _explanation(url, error) from error


def _explanation(url: StoreURL, error: Exception) -> ConfigError | Unavailable:
    reason = _reason(error).rstrip(".")
    if _is_refusal(url, error):
        remedy = "mend store.url (--store, CHATD_STORE_URL), or what chatctl may do there"
        return ConfigError([f"The database {place(url)} cannot be used: {reason}; {remedy}."])
    remedy = "see that it runs and that store.url (--store, CHATD_STORE_URL) is right"
    return Unavailable(f"The database {place(url)} cannot be reached: {reason}; {remedy}.")


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error.args[-1] if error.args else type(error).__name__)


def _is_refusal(url: StoreURL, error: Exception) -> bool:
    if isinstance(error, UnicodeError):
        return True
    if url.kind == "mysql":
        return error.args[:1] != () and error.args[0] in _MYSQL_REFUSALS
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # without what SQLite adds in detail
    return isinstance(error, OSError) or code in _SQLITE_REFUSALS


def place(url: StoreURL) -> str:
    """Where the database is, without the password."""
    if url.kind == "sqlite":
        return url.path
    return f"{url.database} at {url.unix_socket or f'{url.host}:{url.port}'}"


def upgrade(url: StoreURL) -> Answer:
    """Bring the schema to this release's."""
    schema.upgrade(url)
    return status(url)


def status(url: StoreURL) -> Answer:
    """Tell which schema the database has; changes nothing."""
    found, head = schema.revision(url), schema.head()
    state = schema.compare(found, schema.revisions())
    value = {"database": place(url), "state": state.value, "revision": found, "head": head}
    meaning = _SCHEMAS[state].format(found=found, head=head)
    return Answer(value, f"The database {place(url)} {meaning}.")

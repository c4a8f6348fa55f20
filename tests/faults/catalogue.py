"""The faults: what is done, what must be observed, and what shows it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tests.faults import crashes, databases
from tests.faults.stage import Stage

Play = Callable[[Stage], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Fault:
    """One row. `play` injects it, or ordinary `tests` cover it. `mounts`: it needs a mount
    namespace of its own; `alone`: it loads or measures the whole machine; `dice`: it is worth
    being run with many seeds."""

    row: int
    name: str
    how: str
    observed: str
    play: Play | None = None
    tests: tuple[str, ...] = ()
    mounts: bool = False
    alone: bool = False
    dice: bool = False


FAULTS = (
    Fault(
        1,
        "kill-sqlite",
        "kill -9 of the daemon amid a burst, SQLite; the clients come back and say again what"
        " was not acknowledged",
        "everything acknowledged is stored once, numbered without a hole, seen by all in order",
        crashes.kill_sqlite,
        alone=True,
        dice=True,
    ),
    Fault(
        1,
        "kill-mariadb",
        "the same on MariaDB",
        "the same",
        crashes.kill_mariadb,
        alone=True,
        dice=True,
    ),
    Fault(
        5,
        "mariadb-killed",
        "kill -9 of mariadbd under load, started again after up to seven seconds",
        "every message is acknowledged or refused with `unavailable` within 5 s; in service again"
        " within 3 s; an idle client's round trips stay short; one line in the log for each change",
        databases.killed,
    ),
    Fault(
        6,
        "mariadb-idle",
        "the server closes connections after a second (wait_timeout)",
        "the first message after it is acknowledged",
        databases.idle_connections,
    ),
    Fault(
        7,
        "mariadb-connections-killed",
        "KILL of the daemon's connections amid statements and transactions",
        "every message is stored once",
        databases.connections_killed,
    ),
    Fault(
        8,
        "mariadb-commit-unheard",
        "the answer to INSERT or COMMIT is lost with its connection",
        "every message is stored once and acknowledged with its number",
        databases.commit_unheard,
    ),
    Fault(
        9,
        "mariadb-locks",
        "another client of the database holds locks for long, and in the opposite order",
        "every message is acknowledged",
        databases.locks,
    ),
    Fault(
        10,
        "mariadb-read-only",
        "SET GLOBAL read_only=1; the daemon's user has no SUPER",
        "messages are refused with `unavailable`, history works; in service again within 3 s",
        databases.read_only,
    ),
    Fault(
        11,
        "mariadb-locked-out",
        "the password changes and back; then all connections are taken",
        "refused within 5 s, few attempts to connect, in service again within 3 s",
        databases.locked_out,
    ),
    Fault(
        12,
        "mariadb-disk-full",
        "MariaDB's data on a tmpfs that is full",
        "messages are refused with `unavailable`, history works; in service again within 3 s",
        databases.mariadb_disk_full,
        mounts=True,
    ),
    Fault(
        13,
        "sqlite-disk-full",
        "the state on a tmpfs that is full",
        "the same",
        databases.sqlite_disk_full,
        mounts=True,
    ),
    Fault(
        14,
        "sqlite-locked",
        "another process holds SQLite's lock for 3 s and for 10 s",
        "messages wait for 3 s and are acknowledged; later ones are refused within 5 s",
        databases.sqlite_locked,
    ),
    Fault(
        16,
        "mariadb-frozen",
        "SIGSTOP of mariadbd for 10 s, then SIGCONT",
        "refused within 5 s, nobody is dropped, an idle client's round trips stay short; in"
        " service again within 3 s",
        databases.frozen,
    ),
)

"""The faults: what is done, what must be observed, and what shows it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tests.faults import clients, crashes, databases
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
        2,
        "sigterm",
        "SIGTERM under full load",
        "each client is told going-away with a hint of its own and closed with 1012; what was"
        " stored was acknowledged; exit code 0 within 10 s",
        crashes.stopped,
    ),
    Fault(
        3,
        "sigterm-twice",
        "a second SIGTERM while clients that do not read hold up the first",
        "exit code 1 within a second; nothing acknowledged is lost",
        crashes.stopped_twice,
    ),
    Fault(
        3,
        "sighup",
        "SIGHUP under load, each time with another limit in the file",
        "the limit is another at once; nobody is dropped",
        crashes.reloaded,
    ),
    Fault(
        4,
        "power-cut",
        "kill -9 of the daemon and of mariadbd at one moment",
        "everything acknowledged is there, once",
        crashes.power_cut,
        alone=True,
    ),
    Fault(
        4,
        "sqlite-copied",
        "SQLite's file and WAL as they are at one moment amid writing, opened elsewhere",
        "integrity_check is ok; everything acknowledged by then is in the copy",
        crashes.copied,
        alone=True,
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
        13,
        "log-unwritable",
        "the log goes to /dev/full",
        "the daemon serves as ever",
        crashes.unwritable_log,
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
    Fault(
        25,
        "never-reads",
        "clients that never read again, frames and lines",
        "dropped by the heartbeat; the next login brings what they missed",
        clients.never_reads,
    ),
    Fault(
        26,
        "slow-readers",
        "many clients stop reading while their group goes on talking, then read again",
        "a bounded buffer for each; others are answered as fast as before; each gets every"
        " message in order",
        clients.slow_readers,
        alone=True,
    ),
    Fault(
        27,
        "half-open",
        "the network of clients is gone without a FIN, a client's process is stopped, while"
        " there is more to tell them",
        "missed within interval and timeout; what was written comes again at the next login",
        clients.half_open,
    ),
    Fault(
        27,
        "networks",
        "connections are reset, closed, cut amid a frame, stalled and throttled by a proxy",
        "everything is stored once and seen by all in order",
        clients.networks,
    ),
    Fault(
        28,
        "slow-handshakes",
        "500 connections send the head of their request byte by byte",
        "all are closed at the deadline, and their files with them",
        clients.slow_handshakes,
    ),
    Fault(
        36,
        "ping-flood",
        "pings and pongs without end, whose answers are not read",
        "no more memory; others are answered as fast as before",
        clients.ping_flood,
    ),
    Fault(
        40,
        "many-in-one",
        "one request that would be thousands: an array, rooms to catch up with, entries",
        "refused",
        clients.many_in_one,
    ),
    Fault(
        62,
        "too-many-files",
        "400 connections where the process may have 256 files open",
        "who is connected is served; afterwards others are, too",
        clients.too_many_files,
    ),
    Fault(
        64,
        "watchdog",
        "the daemon stands still (SIGSTOP) under a supervisor that then ends it (SIGABRT)",
        "a busy daemon feeds the watchdog, a stopped one does not; nothing is lost",
        crashes.watched,
    ),
    Fault(
        66,
        "duplicates",
        "the same keys at the same moment over two connections of a user",
        "one is stored, both have its number, one is told duplicate",
        clients.duplicates,
    ),
    Fault(
        68,
        "storm",
        "kill -9 of the daemon, and everybody comes back at once",
        "all are back within 30 s, with all they said",
        clients.storm,
        alone=True,
    ),
    Fault(
        71,
        "tls",
        "old versions of TLS, garbage, handshakes that do not go on",
        "refused, or closed at the deadline",
        clients.tls,
    ),
    Fault(
        73,
        "pasted",
        "a person pastes a megabyte into a terminal, as lines and as one line",
        "bounded memory; others are answered as fast as before",
        clients.pasted,
    ),
)

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
        15,
        "schema",
        "a schema that is newer, empty, or half migrated; the migration killed",
        "refused with exit code 78 and a sentence; an interrupted upgrade is finished by the next",
        tests=(
            "tests.test_schema.SQLiteSchemaTests.test_newer_is_left_alone",
            "tests.test_schema.SQLiteSchemaTests.test_interrupted",
            "tests.test_schema.SQLiteSchemaTests.test_killed",
            "tests.test_schema.MySQLSchemaTests.test_newer_is_left_alone",
            "tests.test_schema.MySQLSchemaTests.test_interrupted",
            "tests.test_schema.MySQLSchemaTests.test_killed",
            "tests.test_daemon.StartTests.test_newer_schema",
            "tests.test_daemon.StartTests.test_empty_schema",
        ),
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
        29,
        "endless-heads",
        "a request's head without end",
        "431 at the limit, closed at the deadline",
        tests=(
            "tests.test_bad_input.Handshakes.test_head_limit",
            "tests.test_bad_input.Deadline",
        ),
    ),
    Fault(
        30,
        "silent-connections",
        "connections on which nobody logs in",
        "closed with a code after limits.login_seconds",
        tests=("tests.test_heartbeat.Beats.test_nobody_stays_without_logging_in",),
    ),
    Fault(
        31,
        "long-lines",
        "lines too long, or without end",
        "refused and closed at the limit; nothing more is kept",
        tests=("tests.test_bad_input.LineLimit",),
    ),
    Fault(
        32,
        "raw-bytes",
        "NUL, CR and LF alone, telnet's negotiation",
        "understood or refused, one answer for each line",
        tests=("tests.test_bad_input.TypedLines",),
    ),
    Fault(
        33,
        "bad-utf8",
        "invalid UTF-8 in frames and lines, cut anywhere",
        "1007 for a frame; a refusal for a line, whose session goes on",
        tests=(
            "tests.test_bad_input.Framing.test_fatal",
            "tests.test_bad_input.TypedLines.test_broken_utf8_in_json",
            "tests.test_conformance.Conformance.test_6_utf8",
        ),
    ),
    Fault(
        34,
        "large-frames",
        "frames over the limit, or that say they are of 2^63 bytes",
        "closed with 1009 before the payload is read",
        tests=(
            "tests.test_bad_input.Framing.test_fatal",
            "tests.test_bad_input.Framing.test_limit",
            "tests.test_bad_input.SmallFrames",
        ),
    ),
    Fault(
        35,
        "fragments",
        "fragments without number or end",
        "they count together; floods are closed with 1008",
        tests=(
            "tests.test_websocket.Frequency.test_floods",
            "tests.test_websocket.Bounds.test_fragments",
            "tests.test_websocket.Bounds.test_empty_fragments",
        ),
    ),
    Fault(
        36,
        "ping-flood",
        "pings and pongs without end, whose answers are not read",
        "no more memory; others are answered as fast as before",
        clients.ping_flood,
    ),
    Fault(
        37,
        "bombs",
        "compressed messages that inflate to a gigabyte",
        "closed with 1009 at the limit",
        tests=(
            "tests.test_websocket.Compression.test_bombs",
            "tests.test_websocket.LargeMessages.test_a_large_bomb",
        ),
    ),
    Fault(
        38,
        "compressors",
        "every client asks for compression",
        "off by default; small windows and no context where it is on",
        tests=(
            "tests.test_websocket.Off",
            "tests.test_websocket.Negotiation",
        ),
    ),
    Fault(
        39,
        "odd-json",
        "deep, huge, doubled, not a number",
        "refused in a sentence, the session goes on",
        tests=(
            "tests.test_bad_input.JsonRequests",
            "tests.test_wires.JsonRequests.test_depth",
        ),
    ),
    Fault(
        40,
        "many-in-one",
        "one request that would be thousands: an array, rooms to catch up with, entries",
        "refused",
        clients.many_in_one,
    ),
    Fault(
        41,
        "smuggled-lines",
        "line ends and commands in texts, names and titles",
        "one line for one entry, always",
        tests=(
            "tests.test_hostile_text.UserTests.test_terminals",
            "tests.test_wires.Lines.test_forgery",
            "tests.test_properties.Answers.test_one_safe_line",
        ),
    ),
    Fault(
        42,
        "terminal-escapes",
        "escape sequences, C1, bidirectional overrides",
        "none reaches a terminal",
        tests=(
            "tests.test_hostile_text.UserTests",
            "tests.test_hostile_text.OperatorTests.test_lists",
            "tests.test_wires.Lines.test_visible",
        ),
    ),
    Fault(
        43,
        "log-forgery",
        "line ends in what is logged",
        "one entry, one line",
        tests=(
            "tests.test_logs.TextTests.test_nothing_forges_a_line",
            "tests.test_hostile_text.OperatorTests.test_log",
        ),
    ),
    Fault(
        45,
        "foreign-pages",
        "WebSocket handshakes of other sites' pages",
        "403 unless the origin is listed",
        tests=(
            "tests.test_origins.OwnOriginTests.test_table",
            "tests.test_origins.ListedOriginTests",
        ),
    ),
    Fault(
        46,
        "cross-site-posts",
        "HTTP requests that a foreign page can make",
        "nothing is done without a bearer's token, and nothing may be read",
        tests=("tests.test_origins.CrossSiteTests",),
    ),
    Fault(
        47,
        "forged-headers",
        "Host, X-Forwarded-For and the like",
        "ignored",
        tests=(
            "tests.test_origins.OwnOriginTests.test_forged",
            "tests.test_origins.AddressTests",
        ),
    ),
    Fault(
        53,
        "permissions",
        "every command by every role over every wire",
        "what the table says",
        tests=("tests.test_permissions",),
    ),
    Fault(
        54,
        "enumeration",
        "logins of accounts that are, are not, are disabled",
        "the same answer after the same work",
        tests=("tests.test_guessing.GuessTests",),
    ),
    Fault(
        55,
        "guessing",
        "guesses at one account, from one address, spread",
        "braked alike; good passwords are free",
        tests=(
            "tests.test_guessing.GuessTests.test_braked_alike",
            "tests.test_accounts.GuessingTests",
            "tests.test_accounts.ThrottleTests",
        ),
    ),
    Fault(
        56,
        "password-flood",
        "hundreds of logins by password at once, where 20 may be under way",
        "some are refused, others' messages are answered as fast as before",
        clients.password_flood,
    ),
    Fault(
        57,
        "revocations",
        "logout, another password, a disabled account, seen by open sessions",
        "closed at the next tick, also where another process did it",
        tests=("tests.test_revocations",),
    ),
    Fault(
        59,
        "forged-jwts",
        "alg none, confusion of algorithms, expired, for others",
        "refused; the algorithm is pinned",
        tests=(
            "tests.test_accounts.HS256Tests",
            "tests.test_accounts.RS256Tests",
            "tests.test_config.JWTTests",
        ),
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
        65,
        "clock-jumps",
        "the wall clock jumps by hours, both ways",
        "nobody is dropped, the order stays",
        tests=("tests.test_heartbeat.Beats.test_the_wall_clock_jumps",),
    ),
    Fault(
        66,
        "duplicates",
        "the same keys at the same moment over two connections of a user",
        "one is stored, both have its number, one is told duplicate",
        clients.duplicates,
    ),
    Fault(
        67,
        "raced-rooms",
        "two processes write to the same rooms",
        "numbers without a hole, each once",
        tests=(
            "tests.test_store_log.LogOnSQLite.test_two_nodes_race",
            "tests.test_store_log.LogOnMariaDB.test_two_nodes_race",
        ),
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
        70,
        "bad-configuration",
        "a start with mistakes in the configuration",
        "exit code 78, every mistake told; systemd does not start it again",
        tests=(
            "tests.test_daemon.StartTests.test_bad_configuration",
            "tests.test_units.UnitTests",
        ),
    ),
    Fault(
        71,
        "tls",
        "old versions of TLS, garbage, handshakes that do not go on",
        "refused, or closed at the deadline",
        clients.tls,
    ),
    Fault(
        72,
        "half-closed",
        "the client ends its input behind its requests",
        "all answers, then the end",
        tests=("tests.test_integration.HalfClosedTests",),
    ),
    Fault(
        73,
        "pasted",
        "a person pastes a megabyte into a terminal, as lines and as one line",
        "bounded memory; others are answered as fast as before",
        clients.pasted,
    ),
    Fault(
        74,
        "odd-names",
        "names and texts of any script, marks, overrides",
        "one normal form; what acts on a terminal is refused",
        tests=(
            "tests.test_bad_input.Names",
            "tests.test_hostile_text.UserTests.test_names",
        ),
    ),
)

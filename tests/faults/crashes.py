"""Faults of the daemon's own process: killed, stopped, reloaded, frozen."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import sqlite3
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing, suppress
from pathlib import Path

from chatd.errors import SERVICE_RESTART
from tests.faults.actors import Client
from tests.faults.stage import POLL, Daemon, Stage, mariadb_rows, sqlite_rows, until
from tests.faults.traffic import Crowd, crowd

_TALKERS = 20
_SOON = (0.1, 0.8)  # seconds under load until the kill


async def kill_sqlite(stage: Stage) -> None:
    """kill -9 of the daemon amid a burst, on SQLite."""
    daemon = await stage.started()
    await _kills(stage, daemon)
    await stage.judge(lambda: sqlite_rows(daemon.state / "chatd.db"))
    stage.calm()


async def kill_mariadb(stage: Stage) -> None:
    """kill -9 of the daemon amid a burst, on MariaDB."""
    database = await stage.mariadb()
    daemon = await stage.started("--store", database.store)
    await _kills(stage, daemon)
    await stage.judge(lambda: mariadb_rows(database))
    stage.calm()


async def _kills(stage: Stage, daemon: Daemon) -> None:
    talkers = await crowd(stage, daemon, _TALKERS)
    talkers.talk()
    stage.outcome.runs = stage.KILLS if stage.full else 2
    for _ in range(stage.outcome.runs):
        await asyncio.sleep(stage.rng.uniform(*_SOON))
        daemon.kill()
        killed = time.monotonic()
        await daemon.start()
        await _all_back(stage, talkers.clients, killed)
    talkers.hush()


async def power_cut(stage: Stage) -> None:
    """kill -9 of the daemon and of mariadbd at one moment."""
    database = await stage.mariadb()
    daemon = await stage.started("--store", database.store)
    talkers = await crowd(stage, daemon, _TALKERS)
    talkers.talk()
    stage.outcome.runs = stage.KILLS if stage.full else 1
    for _ in range(stage.outcome.runs):
        await asyncio.sleep(stage.rng.uniform(*_SOON))
        os.kill(database.pid, signal.SIGKILL)
        daemon.kill()
        database.kill()
        killed = time.monotonic()
        await database.launch()
        await daemon.start()
        await _all_back(stage, talkers.clients, killed)
    talkers.hush()
    await stage.judge(lambda: mariadb_rows(database))
    stage.calm()


async def copied(stage: Stage) -> None:
    """SQLite's file and its log as they are at one moment amid writing, opened elsewhere."""
    daemon = await stage.started()
    talkers = await crowd(stage, daemon, _TALKERS)
    talkers.talk()
    stage.outcome.runs = 20 if stage.full else 3
    for number in range(stage.outcome.runs):
        await asyncio.sleep(stage.rng.uniform(*_SOON))
        acknowledged = dict(stage.ledger.acknowledged)
        copy = stage.directory / f"copy{number}.db"
        daemon.signal(signal.SIGSTOP)  # both files at one moment, and no moment of ours
        for suffix in ("", "-wal"):
            shutil.copyfile(f"{daemon.state / 'chatd.db'}{suffix}", f"{copy}{suffix}")
        daemon.signal(signal.SIGCONT)
        _judge_copy(stage, copy, acknowledged)
    talkers.hush()
    await stage.judge(lambda: sqlite_rows(daemon.state / "chatd.db"))
    stage.calm()


def _judge_copy(stage: Stage, copy: Path, acknowledged: dict[str, int]) -> None:
    with closing(sqlite3.connect(copy)) as connection:
        found = connection.execute("PRAGMA integrity_check").fetchall()
    stage.expect(found == [("ok",)], f"{copy.name}: {found}")
    stored = {row.key: row.seq for row in sqlite_rows(copy)}
    missing = [key for key, seq in acknowledged.items() if stored.get(key) != seq]
    stage.outcome.lost += len(missing)
    stage.expect(not missing, f"{len(missing)} acknowledged messages are not in {copy.name}")


async def stopped(stage: Stage) -> None:
    """SIGTERM under full load."""
    daemon = await stage.started()
    talkers = await crowd(stage, daemon, _TALKERS)
    talkers.talk()
    stage.outcome.runs = stage.KILLS if stage.full else 1
    for _ in range(stage.outcome.runs):
        for client in talkers.clients:
            client.close_codes.clear()
            client.retry_hints.clear()
        await asyncio.sleep(stage.rng.uniform(*_SOON))
        asked = time.monotonic()
        code = await daemon.stop()
        took = time.monotonic() - asked
        stage.note(f"ended in {took:.1f} s")
        stage.expect(code == 0, f"the daemon ended with {code}")
        stage.expect(took <= 10, f"the daemon ended after {took:.1f} s")
        await until(lambda: not any(c.ready.is_set() for c in talkers.clients), "all are closed")
        _judge_goodbye(stage, talkers)
        answered = stage.ledger.acknowledged
        unheard = [row.key for row in sqlite_rows(daemon.state / "chatd.db") if row.text]
        unheard = [key for key in unheard if key not in answered]
        stage.expect(not unheard, f"{len(unheard)} messages were stored and not acknowledged")
        await daemon.start()
        await _all_back(stage, talkers.clients, time.monotonic())
    talkers.hush()
    await stage.judge(lambda: sqlite_rows(daemon.state / "chatd.db"))
    stage.calm()


def _judge_goodbye(stage: Stage, talkers: Crowd) -> None:
    hints = [hint for client in talkers.clients for hint in client.retry_hints]
    told = sum(bool(client.retry_hints) for client in talkers.clients)
    stage.expect(told == len(talkers.clients), f"{told} clients were told of the end")
    stage.expect(len(set(hints)) > len(hints) // 2, f"the hints are alike: {sorted(hints)}")
    codes = {code for client in talkers.clients for code in client.close_codes}
    closed = sum(bool(client.close_codes) for client in talkers.clients)
    stage.expect(codes == {SERVICE_RESTART}, f"close codes {codes}")
    stage.expect(closed == len(talkers.clients), f"{closed} clients were closed with a code")


async def stopped_twice(stage: Stage) -> None:
    """A second SIGTERM while the first is being heeded, and clients do not read."""
    daemon = await stage.started()
    talkers = await crowd(stage, daemon, _TALKERS)
    talkers.talk()
    stage.outcome.runs = 5 if stage.full else 1
    for _ in range(stage.outcome.runs):
        await asyncio.sleep(stage.rng.uniform(*_SOON))
        for client in talkers.clients[:5]:
            client.stop_reading()  # the goodbye waits for them
        talkers.clients[5].retry_hints.clear()
        daemon.signal(signal.SIGTERM)
        await until(lambda: talkers.clients[5].retry_hints, "the end is announced")
        daemon.signal(signal.SIGTERM)
        asked = time.monotonic()
        code = await daemon.ended()
        took = time.monotonic() - asked
        stage.expect(code == 1, f"the daemon ended with {code}")
        stage.expect(took <= 1, f"the daemon ended after {took:.1f} s")
        for client in talkers.clients[:5]:
            client.read_again()
        await daemon.start()
        await _all_back(stage, talkers.clients, time.monotonic())
    talkers.hush()
    await stage.judge(lambda: sqlite_rows(daemon.state / "chatd.db"))
    stage.calm("SIGTERM again: ending at once")


async def reloaded(stage: Stage) -> None:
    """SIGHUP under load, with another configuration each time."""
    config = stage.directory / "reloaded.toml"
    config.write_text("[limits]\ntext_chars = 1000\n")
    daemon = await stage.started("--config", str(config))
    talkers = await crowd(stage, daemon, _TALKERS)
    talkers.talk()
    asker = stage.client(daemon, "asker")
    await asker.enter()
    stage.outcome.runs = 20 if stage.full else 3
    for number in range(stage.outcome.runs):
        await asyncio.sleep(stage.rng.uniform(*_SOON))
        most = 500 + number
        config.write_text(f"[limits]\ntext_chars = {most}\n")
        daemon.signal(signal.SIGHUP)
        refused = await _refused_over(asker, most)
        stage.expect(refused, f"a text of {most + 1} is still taken")
    drops = sum(client.drops for client in stage.clients)
    stage.expect(not drops, f"{drops} connections were dropped")
    talkers.hush()
    await stage.judge(lambda: sqlite_rows(daemon.state / "chatd.db"))
    stage.calm()


async def _refused_over(asker: Client, most: int) -> bool:
    """Whether, soon, a text longer than this is refused."""
    for _ in range(100):
        answer = await asker.ask("say", to="@asker", text="x" * (most + 1), key=f"over-{most}")
        if answer.error == "too-large":
            return True
        await asyncio.sleep(POLL)
    return False


async def watched(stage: Stage) -> None:
    """The daemon stands still (SIGSTOP): its supervisor hears no watchdog, ends it as systemd
    does (SIGABRT) and starts it again."""
    path = stage.directory / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind(str(path))
        supervisor.setblocking(False)
        daemon = stage.daemon()
        daemon.variables |= {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "3000000"}
        await daemon.start()
        talkers = await crowd(stage, daemon, _TALKERS)
        talkers.talk()
        stage.expect(await _watchdog(supervisor, 3), "a busy daemon does not feed its watchdog")
        daemon.signal(signal.SIGSTOP)
        _drained(supervisor)
        stage.expect(not await _watchdog(supervisor, 3), "a stopped daemon feeds its watchdog")
        daemon.signal(signal.SIGABRT)
        daemon.signal(signal.SIGCONT)  # systemd sends it behind every signal
        code = await daemon.ended()
        stage.expect(code == -signal.SIGABRT, f"the daemon ended with {code}")
        killed = time.monotonic()
        await daemon.start()
        await _all_back(stage, talkers.clients, killed)
        talkers.hush()
        await stage.judge(lambda: sqlite_rows(daemon.state / "chatd.db"))
    stage.calm()


async def _watchdog(supervisor: socket.socket, seconds: float) -> bool:
    with suppress(AssertionError):
        await until(lambda: b"WATCHDOG=1" in _drained(supervisor), "the watchdog is fed", seconds)
        return True
    return False


def _drained(supervisor: socket.socket) -> bytes:
    found = b""
    with suppress(BlockingIOError):
        while True:
            found += supervisor.recv(4096)
    return found


async def unwritable_log(stage: Stage) -> None:
    """The log goes to a full disk."""
    daemon = stage.daemon()
    web, lines = _free_ports(2)
    daemon.listen = ["--http", f"tcp:{web}:interface=127.0.0.1"]
    daemon.listen += ["--tcp", f"tcp:{lines}:interface=127.0.0.1"]
    daemon.destination = Path("/dev/full")
    daemon.spawn()
    daemon.web, daemon.lines = web, lines
    talkers = await crowd(stage, daemon, _TALKERS)
    talkers.talk()
    said = stage.ledger.acknowledged
    await until(lambda: len(said) > 1000, "messages flow")
    talkers.hush()
    await stage.judge(lambda: sqlite_rows(daemon.state / "chatd.db"))
    code = await daemon.stop()
    stage.expect(code in (0, -signal.SIGTERM), f"the daemon ended with {code}")


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        listening = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)
        ]
        return [one.getsockname()[1] for one in listening]


async def _all_back(stage: Stage, clients: Sequence[Client], since: float) -> None:
    await until(lambda: all(client.ready.is_set() for client in clients), "all are back")
    stage.recovered(time.monotonic() - since)

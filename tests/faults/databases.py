"""Faults of the database beneath a running daemon."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pymysql

from tests.faults.actors import Client
from tests.faults.oracle import Row
from tests.faults.proxy import Proxy
from tests.faults.stage import DATABASE, Daemon, Database, Stage, mariadb_rows, sqlite_rows, until
from tests.faults.traffic import Crowd, Probe, crowd

_TALKERS = 10
_RATE = 200  # messages a second: enough to hit a fault, few enough to measure beside
_BUSY = 0.05  # seconds: the longest that the daemon's loop may be busy, of 99 in 100 looks,
_BUSY_BESIDE = 0.25  # and where other faults share the machine
_LINES = 3  # of the log for an outage: reading, writing, and once more where it ends by halves
_BACK = 3.0  # seconds in which a daemon serves again when its database does,
_TOLD = 6.0  # and in which its log says so
_PASSWORD = "quiet-Otter-3917"
_UNUSABLE = r"the database cannot be (read|written)"
_OTHER_PASSWORD = "loud-Heron-5520"


@dataclass
class Scene:
    """A daemon with talkers and a probe, on a store of which `rows()` tells all entries."""

    stage: Stage
    daemon: Daemon
    talkers: Crowd
    probe: Probe
    rows: Callable[[], list[Row]]
    outages: int = 0

    async def serves(self, since: float) -> None:
        """Waits until messages are acknowledged again; counts from `since` (monotonic)."""
        acknowledged = self.stage.ledger.acknowledged
        before = len(acknowledged)
        await until(lambda: len(acknowledged) > before, "messages are acknowledged")
        took = time.monotonic() - since
        self.stage.recovered(took)
        self.stage.expect(took <= _BACK, f"it took {took:.1f} s until messages were acknowledged")

    async def end(self) -> None:
        """Judges what must hold after every fault of a database."""
        busy = _BUSY if self.stage.full else _BUSY_BESIDE
        with suppress(AssertionError):  # complained of below
            await until(lambda: self._told("cannot") == self._told("can"), "told", _TOLD)
        self.talkers.hush()
        late = self.probe.stop()
        await self.stage.judge(self.rows)
        self.stage.answered_in_time()
        self.stage.expect(late <= busy, f"p99 of an idle client's round trips is {late:.3f} s")
        self.stage.expect(self.daemon.running and self.daemon.starts == 1, "the daemon restarted")
        self.stage.calm(_UNUSABLE)
        lines, again = self._told("cannot"), self._told("can")
        self.stage.expect(
            lines <= _LINES * self.outages, f"{lines} lines of the log for {self.outages} outages"
        )
        self.stage.expect(lines == again, f"{lines} times away, {again} times back in the log")

    def _told(self, verb: str) -> int:
        return self.daemon.log.count(f"the database {verb} be ")

    @property
    def refused(self) -> int:
        """How many answers were `unavailable`."""
        return sum(client.refusals.get("unavailable", 0) for client in self.talkers.clients)


async def _scene(stage: Stage, daemon: Daemon, rows: Callable[[], list[Row]]) -> Scene:
    talkers = await crowd(stage, daemon, _TALKERS)
    idle = stage.client(daemon, "idle")
    await idle.enter()
    probe = Probe(stage, idle)
    talkers.meet()  # a session finds its rooms at the first message, and makes those of two
    await stage.settled()
    talkers.talk(backlog=32, rate=_RATE)
    acknowledged = stage.ledger.acknowledged
    await until(lambda: len(acknowledged) > _RATE // 4, "messages flow")
    probe.start()
    return Scene(stage, daemon, talkers, probe, rows)


async def _on_mariadb(stage: Stage, *options: str) -> tuple[Database, Scene]:
    database = await stage.mariadb(*options)
    daemon = await stage.started("--store", database.store)
    return database, await _scene(stage, daemon, partial(mariadb_rows, database))


async def _as_a_user(stage: Stage, database: Database) -> Scene:
    """On a database user of little power, as an operator would make it."""
    for statement in (
        f"CREATE USER chatd@localhost IDENTIFIED BY '{_PASSWORD}'",
        f"GRANT ALL ON `{DATABASE}`.* TO chatd@localhost",
    ):
        database.execute(statement)
    url = database.store.replace("root@", f"chatd:{_PASSWORD}@")
    daemon = await stage.started("--store", url)
    return await _scene(stage, daemon, partial(mariadb_rows, database))


async def killed(stage: Stage) -> None:
    """kill -9 of mariadbd under load, and a start after some seconds."""
    database, scene = await _on_mariadb(stage)
    away = [6.0] if not stage.full else [6.0, *(stage.rng.uniform(0.1, 7) for _ in range(9))]
    for seconds in away:
        database.kill()
        await asyncio.sleep(seconds)
        await database.launch()
        await scene.serves(time.monotonic())
    scene.outages = stage.outcome.runs = len(away)
    stage.expect(scene.refused, "nobody was refused, though the database was away for long")
    await scene.end()


async def idle_connections(stage: Stage) -> None:
    """The server closes connections that were idle for a second."""
    database = await stage.mariadb("--wait-timeout=1")
    daemon = await stage.started("--store", database.store)
    scene = await _scene(stage, daemon, partial(mariadb_rows, database))
    for _ in range(5 if stage.full else 1):
        scene.talkers.hush()
        await stage.settled()
        await asyncio.sleep(2.5)
        scene.talkers.clients[0].say("#g0")
        await stage.settled()
        answer = await scene.talkers.clients[1].ask("history", to="#g0")
        stage.expect(answer.ok, f"history: {answer.error}")
        scene.talkers.talk(backlog=32, rate=_RATE)
    stage.expect(not scene.refused, f"{scene.refused} messages were refused")
    await scene.end()


async def connections_killed(stage: Stage) -> None:
    """KILL of the daemon's connections amid their statements and transactions."""
    database, scene = await _on_mariadb(stage)
    repeat = stage.background(_repeat(stage, scene.talkers.clients[0]))
    hits = 0
    with closing(database.connect()) as killer:
        for _ in range(300 if stage.full else 40):
            hits += _kill_busy(killer)
            await asyncio.sleep(stage.rng.uniform(0.01, 0.08))
    repeat.cancel()
    await scene.serves(time.monotonic())
    stage.outcome.runs = hits
    stage.expect(hits, "no statement was hit")
    scene.outages = hits
    await scene.end()


def _kill_busy(killer: Any) -> int:
    """Ends the connections that are at work; how many."""
    with killer.cursor() as cursor:
        cursor.execute(
            "SELECT trx_mysql_thread_id FROM information_schema.innodb_trx UNION"
            " SELECT id FROM information_schema.processlist WHERE command = 'Query'"
        )
        victims = [row[0] for row in cursor.fetchall() if row[0] and row[0] != killer.thread_id()]
        for victim in victims:
            with suppress(pymysql.MySQLError):  # it is gone already
                cursor.execute(f"KILL {victim}")
    return len(victims)


async def _repeat(stage: Stage, client: Client) -> None:
    """Says old things again with their keys, which takes a transaction with locks."""
    while True:
        mine = [
            key for key in stage.ledger.acknowledged if stage.ledger.said[key].sender == client.name
        ]
        key = stage.rng.choice(mine)
        said = stage.ledger.said[key]
        if said.room.startswith("#"):
            answer = await client.ask("say", to=said.room, text=said.text, key=key)
            seq = stage.ledger.acknowledged[key]
            if answer.ok:
                stage.expect((answer.seq, answer.duplicate) == (seq, True), f"repeat: {answer}")
        await asyncio.sleep(0.02)


async def commit_unheard(stage: Stage) -> None:
    """The answers to INSERT and COMMIT are lost with their connections."""
    database = await stage.mariadb()
    proxy = Proxy(lambda: str(database.socket))
    await proxy.start()
    stage.at_end(proxy.close)
    daemon = await stage.started("--store", database.through(proxy.port))
    scene = await _scene(stage, daemon, partial(mariadb_rows, database))
    stage.background(_repeat(stage, scene.talkers.clients[0]))
    stage.outcome.runs = 100 if stage.full else 10
    for number in range(stage.outcome.runs):
        done = proxy.swallow(b"COMMIT" if number % 4 == 3 else b"INSERT INTO entries")
        await asyncio.wait_for(done.wait(), 30)
        await scene.serves(time.monotonic())
    scene.outages = stage.outcome.runs
    await scene.end()


async def locks(stage: Stage) -> None:
    """Another client of the database holds locks, too long and in the opposite order."""
    database, scene = await _on_mariadb(stage)
    stage.background(_repeat(stage, scene.talkers.clients[0]))
    database.execute(f"CREATE TABLE `{DATABASE}`.weight (n INT) ENGINE=InnoDB")
    rooms = [row[0] for row in database.query("SELECT id FROM rooms WHERE kind = 'group'")]
    for _ in range(10 if stage.full else 2):
        await asyncio.to_thread(_hold, database, "SELECT id FROM rooms FOR UPDATE", 2.5)
        await scene.serves(time.monotonic())
        await asyncio.to_thread(_cross, database, rooms, stage.rng.random() / 50)
        await scene.serves(time.monotonic())
    stage.outcome.runs = 20 if stage.full else 4
    deadlocks = database.query("SHOW GLOBAL STATUS LIKE 'Innodb_deadlocks'")[0][1]
    stage.note(f"{deadlocks} deadlocks")
    scene.outages = stage.outcome.runs
    await scene.end()


def _hold(database: Database, statement: str, seconds: float) -> None:
    with closing(database.connect()) as holder, holder.cursor() as cursor:
        cursor.execute("START TRANSACTION")
        cursor.execute(statement)
        time.sleep(seconds)
        cursor.execute("ROLLBACK")


def _cross(database: Database, rooms: list[int], pause: float) -> None:
    """Locks the ends of logs in the opposite order, in a transaction that outweighs others, so
    that the server ends theirs."""
    with closing(database.connect()) as holder, holder.cursor() as cursor:
        for _ in range(20):
            cursor.execute("START TRANSACTION")
            cursor.execute("INSERT INTO weight SELECT seq FROM entries LIMIT 500")
            with suppress(pymysql.MySQLError):
                for room in reversed(rooms):
                    cursor.execute(
                        f"SELECT seq FROM entries WHERE room_id = {room}"
                        " ORDER BY seq DESC LIMIT 1 FOR UPDATE"
                    )
                    time.sleep(pause)
            cursor.execute("ROLLBACK")


async def read_only(stage: Stage) -> None:
    """The database takes no writes for some seconds."""
    database = await stage.mariadb()
    scene = await _as_a_user(stage, database)
    reader = scene.talkers.clients[0]
    for seconds in (6.0, 1.0) if stage.full else (6.0,):
        database.execute("SET GLOBAL read_only = 1")
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            answer = await reader.ask("history", to="#g0")
            stage.expect(answer.ok, f"history: {answer.error}")
            await asyncio.sleep(0.1)
        database.execute("SET GLOBAL read_only = 0")
        await scene.serves(time.monotonic())
        scene.outages += 1
    stage.outcome.runs = scene.outages
    stage.expect(scene.refused, "nobody was refused")
    await scene.end()


async def locked_out(stage: Stage) -> None:
    """The password is another for some seconds; then there are too many connections."""
    database = await stage.mariadb()
    scene = await _as_a_user(stage, database)
    database.execute(f"ALTER USER chatd@localhost IDENTIFIED BY '{_OTHER_PASSWORD}'")
    _kill_user(database)
    before = _attempts(database)
    await asyncio.sleep(6)
    rate = (_attempts(database) - before) / 6
    stage.note(f"{rate:.1f} attempts a second to connect")
    stage.expect(rate <= 20, f"{rate:.0f} attempts a second to connect")
    database.execute(f"ALTER USER chatd@localhost IDENTIFIED BY '{_PASSWORD}'")
    await scene.serves(time.monotonic())
    database.execute("CREATE USER hog@localhost")
    database.execute("SET GLOBAL max_connections = 10")
    _kill_user(database)
    hogs = await asyncio.to_thread(_hog, database)
    await asyncio.sleep(6)
    for hog in hogs:
        hog.close()
    await scene.serves(time.monotonic())
    scene.outages = stage.outcome.runs = 2
    stage.expect(scene.refused, "nobody was refused")
    await scene.end()


def _kill_user(database: Database) -> None:
    for (number,) in database.query(
        "SELECT id FROM information_schema.processlist WHERE user = 'chatd'"
    ):
        with suppress(pymysql.MySQLError):
            database.execute(f"KILL {number}")


def _hog(database: Database) -> list[Any]:
    """Takes every connection that there is."""
    hogs = []
    end = time.monotonic() + 5
    while time.monotonic() < end:
        try:
            hogs.append(pymysql.connect(unix_socket=str(database.socket), user="hog"))
        except pymysql.MySQLError:
            if len(hogs) >= 10:
                break
    return hogs


def _attempts(database: Database) -> int:
    return int(database.query("SHOW GLOBAL STATUS LIKE 'Connections'")[0][1])


async def frozen(stage: Stage) -> None:
    """mariadbd stands still (SIGSTOP) and goes on."""
    database, scene = await _on_mariadb(stage)
    for seconds in (10.0, stage.rng.uniform(0.5, 6), 10.0) if stage.full else (7.0,):
        os.kill(database.pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            os.kill(database.pid, signal.SIGCONT)
        await scene.serves(time.monotonic())
        scene.outages += 1
    stage.outcome.runs = scene.outages
    stage.expect(scene.refused, "nobody was refused")
    drops = sum(client.drops for client in scene.talkers.clients)
    stage.expect(not drops, f"{drops} connections were dropped meanwhile")
    await scene.end()


async def mariadb_disk_full(stage: Stage) -> None:
    """The file system that holds MariaDB's data is full, and has room again."""
    place = _small_disk(stage, 96)
    database = await stage.mariadb(directory=place / "mariadb")
    daemon = await stage.started("--store", database.store)
    scene = await _scene(stage, daemon, partial(mariadb_rows, database))
    await _fill_and_free(scene, place, text="x" * 4000)
    await scene.end()


async def sqlite_disk_full(stage: Stage) -> None:
    """The file system that holds the state is full, and has room again."""
    place = _small_disk(stage, 16)
    daemon = stage.daemon(state=place / "state")
    await daemon.start()
    rows = partial(sqlite_rows, daemon.state / "chatd.db")
    scene = await _scene(stage, daemon, rows)
    await _fill_and_free(scene, place, text="x" * 4000)
    await scene.end()


async def _fill_and_free(scene: Scene, place: Path, text: str) -> None:
    """Fills the disk, says large things until one is refused, and makes room."""
    stage, talkers = scene.stage, scene.talkers
    filler = place / "filler"
    for time_of in range(3 if stage.full else 1):
        with filler.open("wb", buffering=0) as file, suppress(OSError):
            while file.write(bytes(65536)):
                pass
        before, number = scene.refused, 0
        while scene.refused == before and number < 5000:
            client = talkers.clients[number % len(talkers.clients)]
            if client.pending < 16:
                number += 1
                client.say(
                    "#g0" if client in talkers.clients[:5] else "#g1", f"{time_of} {number} {text}"
                )
            await asyncio.sleep(0.002)
        stage.expect(scene.refused > before, "nobody was refused")
        answer = await talkers.clients[0].ask("history", to="#g0", limit=1)
        stage.expect(answer.ok, f"history: {answer.error}")
        filler.unlink()
        await scene.serves(time.monotonic())
        scene.outages += 1
    stage.outcome.runs = scene.outages


def _small_disk(stage: Stage, mebibytes: int) -> Path:
    place = stage.directory / "disk"
    place.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m,mode=700", "tmpfs", str(place)],
        check=True,
    )
    return place


async def sqlite_locked(stage: Stage) -> None:
    """Another process holds SQLite's lock, for three seconds and for longer than anybody
    waits."""
    daemon = await stage.started()
    path = daemon.state / "chatd.db"
    scene = await _scene(stage, daemon, partial(sqlite_rows, path))
    for seconds in (3.0, 10.0 if stage.full else 7.0):
        before = scene.refused
        with closing(sqlite3.connect(path, isolation_level=None, timeout=30)) as other:
            other.execute("BEGIN EXCLUSIVE")
            await asyncio.sleep(seconds)
            other.execute("ROLLBACK")
        await scene.serves(time.monotonic())
        refused = scene.refused > before
        stage.expect(refused == (seconds > 5), f"refused after {seconds} s: {refused}")
    stage.outcome.runs = 2
    scene.outages = 2
    await scene.end()

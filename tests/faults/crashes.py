"""Faults of the daemon's own process: killed, stopped, reloaded, frozen."""

from __future__ import annotations

import asyncio
import time

from tests.faults.stage import Daemon, Stage, mariadb_rows, sqlite_rows, until
from tests.faults.traffic import crowd

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
        await until(lambda: all(c.ready.is_set() for c in talkers.clients), "all are back")
        stage.recovered(time.monotonic() - killed)
    talkers.hush()

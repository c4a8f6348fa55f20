"""The faults: what is done, what must be observed, and what shows it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tests.faults import crashes
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
)

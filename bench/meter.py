"""What the processes and the machine say of themselves: CPU time, memory, versions."""

from __future__ import annotations

import os
import platform
import sqlite3
import time
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
SETTLED = 5.0  # seconds to wait at most for a process's memory to stop changing


@dataclass(frozen=True, slots=True)
class Cpu:
    """Shares of one core, 0 to about 1 (a database has threads: it may pass 1)."""

    server: float
    generator: float
    database: float | None


@dataclass(slots=True)
class Meter:
    """Takes the CPU time of everybody at each mark."""

    server: int
    database: int | None
    marks: list[tuple[float, float, float, float]] = field(default_factory=list)

    def mark(self) -> None:
        database = 0.0 if self.database is None else cpu_seconds(self.database)
        self.marks.append(
            (time.perf_counter(), cpu_seconds(self.server), time.process_time(), database)
        )

    def cpu(self) -> Cpu:
        """The shares between the first mark and the last."""
        first, last = self.marks[0], self.marks[-1]
        seconds, *used = [after - before for before, after in zip(first, last, strict=True)]
        server, generator, database = [share / seconds for share in used]
        return Cpu(server, generator, None if self.database is None else database)


def cpu_seconds(pid: int) -> float:
    """User and system time of a process with all its threads; see proc(5)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def resident_bytes(pid: int) -> int:
    """The resident memory of a process, once it has stopped changing."""
    end, before = time.monotonic() + SETTLED, -1
    while (now := _resident(pid)) != before and time.monotonic() < end:
        before = now
        time.sleep(0.5)
    return now


def _resident(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"no VmRSS for process {pid}")


def machine() -> dict[str, str]:
    """What the figures were taken on."""
    return {
        "CPU": _cpu_model(),
        "cores": str(os.cpu_count()),
        "load average": f"{os.getloadavg()[0]:.2f}",
        "Linux": platform.release(),
        "Python": platform.python_version(),
        "Twisted": version("Twisted"),
        "Autobahn": version("autobahn"),
        "SQLite": sqlite3.sqlite_version,
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()

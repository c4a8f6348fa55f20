"""Runs the scenarios beside the bare limits; prints a table, writes JSON."""

from __future__ import annotations

import argparse
import json
import resource
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from bench import bare, meter, servers
from bench.scenarios import SCENARIOS, Bench, Figure, Sizes
from bench.talk import BenchError

BARE_SECONDS = 2.0
HEAD = ("scenario", "measured", "÷ sends", "÷ INSERTs", "p50 ms", "p99 ms", "CPU of server/db/load")


@dataclass(frozen=True, slots=True)
class Row:
    """A figure with its ratios to the bare limits; `error` instead where it could not be had."""

    store: str
    wire: str
    scenario: str
    figure: Figure | None = None
    per_send: float | None = None
    per_insert: float | None = None
    error: str = ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for; 0 if every scenario gave a figure."""
    options = _options(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the servers are ended too
    _raise_file_limit()
    try:
        return _run(options)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1


def _run(options: argparse.Namespace) -> int:
    about, inserts, rows = meter.machine(), {}, []
    with servers.pinned(servers.SERVER_CORE):
        sends = bare.sends_per_second(BARE_SECONDS)
    for name in ("sqlite", "mysql") if options.store == "both" else (options.store,):
        with new_store(name, options.directory) as store:
            inserts[name] = _inserts(store)
            about |= {"MariaDB": store.version} if store.version else {}
            _print_head(name, about, sends, inserts[name], options)
            for row in _measured(store, options, sends, inserts[name]):
                print(_line(row), flush=True)
                rows.append(row)
    if options.json:
        _write(options.json, about, sends, inserts, rows)
    return int(any(row.error for row in rows))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    add = parser.add_argument
    add("--store", choices=("sqlite", "mysql", "both"), default="both")
    add("--wire", choices=("websocket", "tcp"), default="websocket")
    add("--scenario", choices=tuple(SCENARIOS), action="append", help="may be given again")
    add("--seconds", type=float, default=5.0, help="timed span of each scenario")
    add("--warmup", type=float, default=1.0, help="seconds under load before the timed span")
    add("--pairs", type=int, default=100)
    add("--members", type=int, default=1000)
    add("--connections", type=int, default=5000, help="for the memory scenario")
    add("--directory", help="where the databases are kept meanwhile (default: temporary)")
    add("--json", type=Path, metavar="FILE", help="write the figures there too")
    return parser.parse_args(arguments)


def _raise_file_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@contextmanager
def new_store(name: str, parent: str | None) -> Iterator[servers.Store]:
    """An empty database, gone with what it held afterwards."""
    with tempfile.TemporaryDirectory(prefix="chatd-bench-", dir=parent) as made:
        directory = Path(made)
        if name == "sqlite":
            yield servers.Store(name, f"sqlite:///{directory / 'chatd.db'}", directory)
            return
        with servers.mariadb(directory) as store:
            yield store


def _inserts(store: servers.Store) -> float:
    with servers.pinned(servers.SERVER_CORE):
        if store.unix_socket:
            return bare.mysql_inserts_per_second(store.unix_socket, BARE_SECONDS)
        return bare.sqlite_inserts_per_second(store.directory, BARE_SECONDS)


def _measured(
    store: servers.Store, options: argparse.Namespace, sends: float, inserts: float
) -> Iterator[Row]:
    """Each scenario on a daemon just started, so that none leaves anything to the next."""
    api_key = servers.prepare(store)
    for name in options.scenario or SCENARIOS:
        row = Row(store.name, options.wire, name)
        try:
            figure = _figure(name, store, api_key, options)
        except (BenchError, OSError) as error:
            yield replace(row, error=f"{type(error).__name__}: {error}")
            continue
        per_send, per_insert = _ratios(figure, sends, inserts)
        yield replace(row, figure=figure, per_send=per_send, per_insert=per_insert)


def _figure(name: str, store: servers.Store, api_key: str, options: argparse.Namespace) -> Figure:
    sizes = Sizes(
        options.seconds, options.warmup, options.pairs, options.members, options.connections
    )
    with servers.daemon(store, api_key) as daemon, servers.pinned(servers.OTHER_CORE):
        return SCENARIOS[name](Bench(daemon, store.pid, options.wire, sizes))


def _ratios(figure: Figure, sends: float, inserts: float) -> tuple[float | None, float | None]:
    """A rate over the bare rates; a time in bare INSERTs; nothing for memory."""
    if figure.unit == "KB/connection":
        return None, None
    if figure.unit == "ms":
        return None, figure.value / 1000 * inserts
    return figure.value / sends, figure.value / inserts


def _print_head(
    store: str,
    about: dict[str, str],
    sends: float,
    inserts: float,
    options: argparse.Namespace,
) -> None:
    print("\n" + ", ".join(f"{name} {value}" for name, value in about.items()))
    print(
        f"{store} over {options.wire}, {options.seconds:g} s per scenario; bare limits: "
        f"{sends:,.0f} sends/s, {inserts:,.0f} INSERTs/s\n"
    )
    print(_columns(HEAD))


def _line(row: Row) -> str:
    if row.figure is None:
        return f"{row.scenario:14}{row.error}"
    figure, cpu = row.figure, row.figure.cpu
    shares = (cpu.server, cpu.database, cpu.generator) if cpu else ()
    return _columns(
        (
            row.scenario,
            f"{figure.value:,.{0 if figure.value >= 100 else 2}f} {figure.unit}",
            _number(row.per_send),
            _number(row.per_insert),
            _number(figure.p50),
            _number(figure.p99),
            " / ".join("–" if share is None else f"{share:.0%}" for share in shares),
        )
    )


def _columns(cells: Sequence[str]) -> str:
    widths = (14, -22, -9, -11, -9, -9, -24)
    return "".join(
        cell.ljust(width) if width > 0 else cell.rjust(-width)
        for cell, width in zip(cells, widths, strict=True)
    )


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _write(
    file: Path,
    about: dict[str, str],
    sends: float,
    inserts: dict[str, float],
    rows: list[Row],
) -> None:
    limits = {"sends_per_second": sends, "inserts_per_second": inserts}
    content = {"machine": about, "bare": limits, "results": [asdict(row) for row in rows]}
    file.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())

"""How long a search takes among a million messages: ``python -m bench.search``."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from random import Random
from time import perf_counter, process_time

from msgspec.structs import replace

from bench import meter, servers
from bench.search_corpus import READERS, Language, fill, languages
from bench.talk import BenchError
from chatd.settings import store_url
from chatd.store import schema
from chatd.store.connection import Connection
from chatd.store.dialects import dialect
from chatd.store.postings import behind, index
from chatd.store.search import Query, search
from chatd.words import phrases, probes

LIMIT = 20
_AT_ONCE = 50  # rooms handed to the indexer, as the daemon does
_PAGES = 5  # the last of which is timed, for `fifth page`

Make = Callable[[Random, Language, Language], str]


def _pick(chance: Random, language: Language, first: int, last: int) -> str:
    return language.words[chance.randrange(first, last)]


CLASSES: dict[str, Make] = {
    "common word": lambda c, en, zh: _pick(c, en, 0, 20),
    "usual word": lambda c, en, zh: _pick(c, en, 100, 2000),
    "rare word": lambda c, en, zh: _pick(c, en, 20_000, 50_000),
    "two common": lambda c, en, zh: f"{_pick(c, en, 0, 20)} {_pick(c, en, 20, 50)}",
    "two usual": lambda c, en, zh: f"{_pick(c, en, 50, 500)} {_pick(c, en, 50, 500)}",
    "common and rare": lambda c, en, zh: f"{_pick(c, en, 0, 20)} {_pick(c, en, 9000, 40_000)}",
    "never together": lambda c, en, zh: f"{_pick(c, en, 0, 10)} {_pick(c, zh, 0, 10)}",
    "phrase": lambda c, en, zh: f'"{_pick(c, en, 0, 20)} {_pick(c, en, 0, 50)}"',
    "two characters": lambda c, en, zh: _two(c, zh),
    "one character": lambda c, en, zh: _pick(c, zh, 0, 1000)[0],
    "four characters": lambda c, en, zh: _pick(c, zh, 0, 200) + _pick(c, zh, 0, 200),
    "no such word": lambda c, en, zh: "qqqq",
}


def _two(chance: Random, chinese: Language) -> str:
    while len(word := _pick(chance, chinese, 0, 5000)) != 2:
        pass
    return word


def main(arguments: Sequence[str] | None = None) -> int:
    """Fill, index and search each store; 0 if all went through."""
    options = _options(arguments)
    try:
        print(", ".join(f"{name} {value}" for name, value in meter.machine().items()))
        for name in ("sqlite", "mysql") if options.store == "both" else (options.store,):
            with _connection(name, options) as connection:
                _prepare(connection, name, options)
                _Measure(connection, options).all()
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.search", description=__doc__)
    add = parser.add_argument
    add("--store", choices=("sqlite", "mysql", "both"), default="both")
    add("--messages", type=int, default=1_000_000)
    add("--searches", type=int, default=100, help="of each class and reader")
    add("--only", choices=tuple(CLASSES), action="append", help="may be given again")
    add("--pool", default="", help="MariaDB's, such as 128M or 1G (default: its 64M here)")
    add("--directory", type=Path, help="where the databases are, and are left for another run")
    return parser.parse_args(arguments)


@contextmanager
def _connection(name: str, options: argparse.Namespace) -> Iterator[Connection]:
    with tempfile.TemporaryDirectory(prefix="chatd-bench-") as temporary:
        directory = (options.directory or Path(temporary)) / name
        directory.mkdir(parents=True, exist_ok=True)
        options.pid = None
        if name == "sqlite":
            yield connect(store_url("", str(directory)))
            return
        with servers.mariadb(directory) as store:
            options.pid = store.pid
            connection = connect(store_url(store.url, ""))
            print(f"MariaDB {store.version}, buffer pool {options.pool or '64M'}")
            if options.pool:
                size = int(options.pool[:-1]) * {"M": 2**20, "G": 2**30}[options.pool[-1]]
                connection.run(f"SET GLOBAL innodb_buffer_pool_size = {size}")
            yield connection


def connect(url: object) -> Connection:
    """A connection to a database, which has the schema then."""
    schema.upgrade(url)  # type: ignore[arg-type]
    kind = dialect(url)  # type: ignore[arg-type]
    # Counting what is there takes longer than a daemon would wait.
    connect = {name: value for name, value in kind.connect.items() if "timeout" not in name}
    raw = import_module(kind.module).connect(**connect)
    kind.opened(raw)
    return Connection(raw, kind)


def _prepare(connection: Connection, name: str, options: argparse.Namespace) -> None:
    """Fills and indexes what an earlier run has not."""
    if connection.one("SELECT 1 FROM entries LIMIT 1") is None:
        fill(connection, options.messages)
    start, rooms = perf_counter(), behind(connection, 0, 10_000)[0]
    slices: list[float] = []
    while rooms:
        begun = perf_counter()
        part, rooms = rooms[:_AT_ONCE], rooms[_AT_ONCE:]
        rooms += index(connection, part)
        slices.append((perf_counter() - begun) * 1000)
    seconds = perf_counter() - start
    if slices:
        print(
            f"{name}: {options.messages / seconds:,.0f} messages/s indexed in {len(slices):,}"
            f" transactions; ms each: {_times(slices)}"
        )
    postings = connection.all("SELECT COUNT(*) FROM postings")[0][0]
    print(f"{name}: {postings:,} postings, {_size(connection, options, name):,.0f} MB\n")


def _size(connection: Connection, options: argparse.Namespace, name: str) -> float:
    if name == "sqlite":
        pages = connection.all("SELECT SUM(pgsize) FROM dbstat WHERE name = 'postings'")
        return float(pages[0][0]) / 1e6
    rows = connection.all(
        "SELECT data_length FROM information_schema.tables"
        " WHERE table_schema = DATABASE() AND table_name = 'postings'"
    )
    return float(rows[0][0]) / 1e6


@dataclass(frozen=True, slots=True)
class _Measure:
    """Searches, and what they take: by the clock, and of the processors, the database's share
    included. On a machine that does other things as well, only the latter means something."""

    connection: Connection
    options: argparse.Namespace

    def all(self) -> None:
        """Print a line for each class."""
        scopes = [("one room", 3, 1), *((name, n, None) for n, name in enumerate(READERS, 1))]
        print(f"load average {meter.machine()['load average']}")
        print(f"{'':16}" + "".join(f"{name:>30}" for name, _, _ in scopes))
        print(f"{'ms':16}" + f"{'p50':>9}{'p95':>7}{'cpu50':>7}{'cpu95':>7}" * len(scopes))
        rows = [(name, make, 1) for name, make in CLASSES.items()]
        rows.append(("fifth page", CLASSES["common word"], _PAGES))
        only = self.options.only
        for name, make, pages in [row for row in rows if not only or row[0] in only]:
            cells = [self._cell(make, pages, user, room) for _, user, room in scopes]
            print(f"{name:16}" + "".join(cells), flush=True)

    def _cell(self, make: Make, pages: int, user_id: int, room_id: int | None) -> str:
        chance, (english, chinese) = Random(3), languages()
        clock, cpu = [], []
        for _ in range(self.options.searches):
            wanted = phrases(make(chance, english, chinese))
            query = Query(user_id, wanted, probes(wanted), room_id=room_id)
            used, took = self._timed(query)
            for _ in range(pages - 1):
                if (rest := search(self.connection, query, LIMIT).rest) is not None:
                    query = replace(query, start=rest)
                    used, took = self._timed(query)
            cpu.append(used)
            clock.append(took)
        values = [share(spent, part) for spent in (clock, cpu) for part in (0.5, 0.95)]
        return f"{values[0]:9.1f}" + "".join(f"{value:7.1f}" for value in values[1:])

    def _timed(self, query: Query) -> tuple[float, float]:
        database, begun, own = self._database(), perf_counter(), process_time()
        search(self.connection, query, LIMIT)
        own, took = process_time() - own, perf_counter() - begun
        return own * 1000 + (self._database() - database) / 1e6, took * 1000

    def _database(self) -> int:
        """The time that MariaDB has computed, in ns; see proc(5) on schedstat."""
        if self.options.pid is None:
            return 0
        tasks = Path(f"/proc/{self.options.pid}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)


def share(spent: Sequence[float], part: float) -> float:
    """The value below which that part of them is."""
    return sorted(spent)[min(len(spent) - 1, int(part * len(spent)))]


def _times(spent: Sequence[float]) -> str:
    shares = {"p50": 0.5, "p95": 0.95, "max": 1}
    return ", ".join(f"{name} {share(spent, part):.1f}" for name, part in shares.items())


if __name__ == "__main__":
    sys.exit(main())

"""What the index of search costs those who talk: ``python -m bench.indexing``."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from time import perf_counter, process_time

from bench import meter, servers
from bench.load import RING, Speaker, Timed
from bench.pairs import Pairs
from bench.run import new_store
from bench.scenarios import Bench, Sizes
from bench.search import connect, share
from bench.search_corpus import languages
from bench.servers import Store
from bench.talk import BenchError
from chatd.settings import store_url
from chatd.store.connection import Connection
from chatd.store.postings import behind, index

_AT_ONCE = 50  # rooms handed to the indexer, as the daemon does
_LOOK = 0.05  # seconds between two looks at how far the index is
_PATIENCE = 300.0  # seconds that it may take to catch up


def main(arguments: Sequence[str] | None = None) -> int:
    """Talk with and without indexing, in turns; 0 if all went through."""
    options = _options(arguments)
    try:
        print(", ".join(f"{name} {value}" for name, value in meter.machine().items()))
        for name in ("sqlite", "mysql") if options.store == "both" else (options.store,):
            with new_store(name, options.directory) as store:
                _Run(store, servers.prepare(store), options).all()
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.indexing", description=__doc__)
    add = parser.add_argument
    add("--store", choices=("sqlite", "mysql", "both"), default="both")
    add("--pairs", type=int, default=100, help="each with one message under way")
    add("--seconds", type=float, default=5.0, help="of each turn")
    add("--turns", type=int, default=3, help="with indexing, and as many without")
    add("--directory", help="where the databases are kept meanwhile (default: temporary)")
    return parser.parse_args(arguments)


@dataclass(frozen=True, slots=True)
class _Run:
    store: Store
    api_key: str
    options: argparse.Namespace

    def all(self) -> None:
        """Print a line for each turn; those without leave their messages to be indexed here."""
        print(f"\n{self.store.name} {self.store.version}, {self.options.pairs} pairs")
        for _ in range(self.options.turns):
            self._turn(indexing=False)
            self._index()
            self._turn(indexing=True)

    def _turn(self, indexing: bool) -> None:
        with (
            servers.daemon(self.store, self.api_key, indexing) as daemon,
            servers.pinned(servers.OTHER_CORE),
        ):
            sizes = Sizes(self.options.seconds, 1.0, self.options.pairs, 0, 0)
            bench = Bench(daemon, self.store.pid, "websocket", sizes)
            result = self._talk(bench)
            line = f"{'with' if indexing else 'without':8}{_said(result)}"
            print(line + (self._catches_up() if indexing else ""), flush=True)

    def _talk(self, bench: Bench) -> Timed:
        count, chance = self.options.pairs, Random(4)
        names = [f"{side}{number}" for side in "sr" for number in range(count)]
        texts = [language.text(chance) for language in languages() for _ in range(RING // 2)]
        with bench.online(names) as connections:
            speakers = [Speaker(c, f"@r{n}", texts) for n, c in enumerate(connections[:count])]
            pairs = Pairs(list(zip(speakers, connections[count:], strict=True)))
            return bench.timed(pairs, 1)

    def _catches_up(self) -> str:
        connection = self._connection()
        begun, lag = perf_counter(), _lag(connection)
        while (left := _lag(connection)) and perf_counter() < begun + _PATIENCE:
            time.sleep(_LOOK)
        if left:
            raise BenchError(f"{left} messages are not indexed")
        seconds = perf_counter() - begun
        return f"; behind {lag:,}, level after {seconds:.1f} s"

    def _index(self) -> None:
        """Indexes what a daemon left, as fast as one connection can."""
        connection, spans = self._connection(), []
        count, rooms = _lag(connection), behind(connection, 0, 10_000)[0]
        own, database = process_time(), self._database()
        while rooms:
            begun = perf_counter()
            part, rooms = rooms[:_AT_ONCE], rooms[_AT_ONCE:]
            rooms += index(connection, part)
            spans.append((perf_counter() - begun) * 1000)
        own, database = process_time() - own, self._database() - database
        print(
            f"index   {count:,} messages: {own / count * 1e6:.0f} µs of processor each, and"
            f" {database / count * 1e6:.0f} of the database's; a transaction"
            f" p50 {share(spans, 0.5):.1f}, p95 {share(spans, 0.95):.1f} ms",
            flush=True,
        )

    def _database(self) -> float:
        return meter.cpu_seconds(self.store.pid) if self.store.pid else 0.0

    def _connection(self) -> Connection:
        return connect(store_url(self.store.url, ""))


def _lag(connection: Connection) -> int:
    """Entries that are not yet looked at."""
    rows = connection.all(
        "SELECT COALESCE((SELECT MAX(e.seq) FROM entries e WHERE e.room_id = r.id), 0)"
        " - COALESCE(i.seq, 0) FROM rooms r LEFT JOIN indexed i ON i.room_id = r.id"
    )
    return sum(int(behind) for (behind,) in rows)


def _said(result: Timed) -> str:
    p50, p99 = (share(result.latencies, part) * 1000 for part in (0.5, 0.99))
    rate = result.messages / result.seconds
    return f"{rate:8,.0f} messages/s, p50 {p50:.2f}, p99 {p99:.2f} ms"


if __name__ == "__main__":
    sys.exit(main())

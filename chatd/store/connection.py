"""A database connection as the statements see it: one SQL text for every dialect."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from chatd.store.dialects import Dialect

Row = tuple[Any, ...]


class Connection:
    """Runs statements on a DB-API connection that is in autocommit mode."""

    __slots__ = ("_raw", "dialect")

    def __init__(self, raw: Any, dialect: Dialect) -> None:
        self._raw = raw
        self.dialect = dialect

    def all(self, sql: str, params: Sequence[Any] = ()) -> list[Row]:
        """The rows that a query gives."""
        cursor = self._raw.cursor()
        cursor.execute(self.dialect.sql(sql), params)
        return list(cursor.fetchall())

    def one(self, sql: str, params: Sequence[Any] = ()) -> Row | None:
        """The first row that a query gives, if any."""
        rows = self.all(sql, params)
        return rows[0] if rows else None

    def run(self, sql: str, params: Sequence[Any] = ()) -> int:
        """Runs a statement; the number of rows that it matched."""
        cursor = self._raw.cursor()
        cursor.execute(self.dialect.sql(sql), params)
        return int(cursor.rowcount)

    def insert(self, sql: str, params: Sequence[Any] = ()) -> int:
        """Inserts a row into a table with a generated id, which is returned."""
        cursor = self._raw.cursor()
        cursor.execute(self.dialect.sql(sql), params)
        return int(cursor.lastrowid)

    def many(self, sql: str, rows: Sequence[Row]) -> None:
        """Runs `INSERT … VALUES (…)` for all rows, inside a transaction."""
        if rows:
            self._raw.cursor().executemany(self.dialect.sql(sql), rows)

    def insert_all(self, sql: str, rows: Sequence[Row]) -> None:
        """Inserts all rows or none, outside a transaction, in as few round trips as can be."""
        if self.dialect.one_statement:
            self.many(sql, rows)
            return
        with self.transaction():
            self.many(sql, rows)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commits what is done inside, or nothing of it."""
        cursor = self._raw.cursor()
        cursor.execute(self.dialect.begin)
        try:
            yield
            cursor.execute("COMMIT")
        except BaseException as error:
            if not self.dialect.lost(error):
                with suppress(*self.dialect.errors):  # some errors have rolled back already
                    cursor.execute("ROLLBACK")
            raise

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """What is read inside is of one moment; nothing can be written."""
        for statement in self.dialect.snapshot:
            self.run(statement)
        try:
            yield
        finally:
            self.run("COMMIT")


def marks(values: Iterable[Any]) -> str:
    """Placeholders for an IN list: `?,?,?`."""
    return ",".join("?" for _ in values)

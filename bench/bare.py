"""The two bare limits that chatd's figures are divided by: socket sends and single INSERTs."""

from __future__ import annotations

import itertools
import socket
import sqlite3
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from time import perf_counter

import pymysql

SOCKETS = 1000
SLICES = 5
PAYLOAD = b"x" * 150  # about one delivery: a 100-character text and what chatd adds to it
BODY = "x" * 100
TABLE = "(room_id BIGINT, seq BIGINT, body TEXT, PRIMARY KEY (room_id, seq))"


def sends_per_second(seconds: float) -> float:
    """Python's `socket.send` over 1,000 TCP pairs on loopback; reading them is not timed."""
    with ExitStack() as stack:
        pairs = [_tcp_pair(stack) for _ in range(SOCKETS)]
        return _best(lambda: _send_round(pairs), len(pairs), seconds)


def _tcp_pair(stack: ExitStack) -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sender = stack.enter_context(socket.create_connection(listener.getsockname()))
        reader, _ = listener.accept()
    return sender, stack.enter_context(reader)


def _send_round(pairs: list[tuple[socket.socket, socket.socket]]) -> float:
    start = perf_counter()
    for sender, _ in pairs:
        sender.send(PAYLOAD)
    spent = perf_counter() - start
    for _, reader in pairs:
        reader.recv(len(PAYLOAD))
    return spent


def sqlite_inserts_per_second(directory: Path, seconds: float) -> float:
    """Autocommitted rows into a WAL database with synchronous=FULL, as chatd's is."""
    with closing(sqlite3.connect(directory / "bare.db", isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        db.execute(f"CREATE TABLE bare {TABLE}")
        insert = "INSERT INTO bare VALUES (1, ?, ?)"
        return _inserts(lambda seq: db.execute(insert, (seq, BODY)), seconds)


def mysql_inserts_per_second(unix_socket: str, seconds: float) -> float:
    """Autocommitted rows over a unix socket with PyMySQL, one flush per commit."""
    with (
        closing(pymysql.connect(user="root", unix_socket=unix_socket, autocommit=True)) as db,
        db.cursor() as cursor,
    ):
        cursor.execute("CREATE DATABASE bare")
        cursor.execute(f"CREATE TABLE bare.bare {TABLE} ENGINE=InnoDB")
        insert = "INSERT INTO bare.bare VALUES (1, %s, %s)"
        return _inserts(lambda seq: cursor.execute(insert, (seq, BODY)), seconds)


def _inserts(insert: Callable[[int], object], seconds: float) -> float:
    numbers = itertools.count(1)

    def one() -> float:
        start = perf_counter()
        insert(next(numbers))
        return perf_counter() - start

    return _best(one, 1, seconds)


def _best(work: Callable[[], float], size: int, seconds: float) -> float:
    """Operations per second of `work`, which does `size` of them and returns the seconds.

    Of several slices the best counts: other work on the machine only ever slows a limit down.
    """
    return max(_slice(work, size, seconds / SLICES) for _ in range(SLICES))


def _slice(work: Callable[[], float], size: int, seconds: float) -> float:
    end, spent, done = perf_counter() + seconds, 0.0, 0
    while perf_counter() < end:
        spent += work()
        done += size
    return done / spent

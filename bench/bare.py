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
PAYLOAD = b"x" * 150  # about one delivery: a 100-character text and what chatd adds to it
BODY = "x" * 100
TABLE = "(room_id BIGINT, seq BIGINT, body TEXT, PRIMARY KEY (room_id, seq))"


def sends_per_second(seconds: float) -> float:
    """Python's `socket.send` over 1,000 TCP pairs on loopback; reading them is not timed."""
    with ExitStack() as stack:
        pairs = [_tcp_pair(stack) for _ in range(SOCKETS)]
        end, spent, sends = perf_counter() + seconds, 0.0, 0
        while perf_counter() < end:
            spent += _send_round(pairs)
            sends += len(pairs)
            for _, reader in pairs:
                reader.recv(len(PAYLOAD))
    return sends / spent


def _tcp_pair(stack: ExitStack) -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sender = stack.enter_context(socket.create_connection(listener.getsockname()))
        reader, _ = listener.accept()
    return sender, stack.enter_context(reader)


def _send_round(pairs: list[tuple[socket.socket, socket.socket]]) -> float:
    start = perf_counter()
    for sender, _ in pairs:
        sender.send(PAYLOAD)
    return perf_counter() - start


def sqlite_inserts_per_second(directory: Path, seconds: float) -> float:
    """Autocommitted rows into a WAL database with synchronous=FULL, as chatd's is."""
    with closing(sqlite3.connect(directory / "bare.db", isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        db.execute(f"CREATE TABLE bare {TABLE}")
        insert = "INSERT INTO bare VALUES (1, ?, ?)"
        return _repeat(lambda seq: db.execute(insert, (seq, BODY)), seconds)


def mysql_inserts_per_second(unix_socket: str, seconds: float) -> float:
    """Autocommitted rows over a unix socket with PyMySQL, one flush per commit."""
    with (
        closing(pymysql.connect(user="root", unix_socket=unix_socket, autocommit=True)) as db,
        db.cursor() as cursor,
    ):
        cursor.execute("CREATE DATABASE bare")
        cursor.execute(f"CREATE TABLE bare.bare {TABLE} ENGINE=InnoDB")
        insert = "INSERT INTO bare.bare VALUES (1, %s, %s)"
        return _repeat(lambda seq: cursor.execute(insert, (seq, BODY)), seconds)


def _repeat(insert: Callable[[int], object], seconds: float) -> float:
    start = perf_counter()
    for seq in itertools.count(1):
        insert(seq)
        if perf_counter() >= start + seconds:
            return seq / (perf_counter() - start)
    raise AssertionError("count() does not end")

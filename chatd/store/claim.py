"""One daemon for a store: what two of them told their clients would not fit together, as long
as nothing joins them."""

from __future__ import annotations

import fcntl
import os
from importlib import import_module
from typing import Any

from chatd.store.connection import Connection
from chatd.store.dialects import StoreURL, dialect

_SECONDS = 2  # for a predecessor that was killed to be noticed
_YEAR = 31536000  # seconds, the longest wait_timeout


class Claimed(Exception):
    """Another daemon uses the store; str() is a sentence for the operator."""


def claim(url: StoreURL) -> Any:
    """Claims the store for as long as what is returned is kept, at most until the process
    ends. Raises `Claimed`, or the driver's error."""
    return _claim_file(url.path) if url.kind == "sqlite" else _claim_database(url)


def _claim_file(path: str) -> Any:
    lock = open(f"{path}.lock", "a", opener=_private)  # noqa: SIM115  (kept open)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise Claimed(f"another chatd uses {path}: give this one a --state of its own") from error
    return lock


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _claim_database(url: StoreURL) -> Any:
    kind = dialect(url)
    raw = import_module(kind.module).connect(**kind.connect)
    connection = Connection(raw, kind)
    connection.run(f"SET SESSION wait_timeout = {_YEAR}")
    if connection.one("SELECT GET_LOCK(?, ?)", (f"chatd:{url.database}"[:64], _SECONDS)) != (1,):
        raw.close()
        raise Claimed(f"another chatd uses the database {url.database}: give this one its own")
    return raw

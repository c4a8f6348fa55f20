"""One private MariaDB per test process, started when first asked for, and databases in it."""

import atexit
import shutil
import tempfile
from functools import cache
from itertools import count
from pathlib import Path

from tools.mariadb import Server

_numbers = count(1)


@cache
def shared() -> Server:
    """The server of this process; tests that stop or kill one make a `Server` of their own.

    RuntimeError, with the command that installs it, where MariaDB is missing: never a skip.
    """
    directory = Path(tempfile.mkdtemp(prefix="chatd-mariadb-"))
    server = Server(directory)
    # In reverse order at exit: the server first, then its files.
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    atexit.register(server.stop)
    server.start()
    return server


def fresh_database() -> str:
    """The store URL of an empty database (utf8mb4, utf8mb4_bin)."""
    return shared().create(f"chatd_{next(_numbers)}")

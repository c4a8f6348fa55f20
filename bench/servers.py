"""Starts and ends what is measured: a private MariaDB and the daemon, each on its core."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pymysql

from bench.talk import BenchError
from tools.mariadb import Server

T = TypeVar("T")

ROOT = Path(__file__).resolve().parent.parent
START = 30.0  # seconds a server may take to start
END = 15.0  # seconds it may take to end before it is killed
SCRIPTS = Path(sysconfig.get_path("scripts"))
CORES = sorted(os.sched_getaffinity(0))
SERVER_CORE, OTHER_CORE = CORES[0], CORES[1 % len(CORES)]
CHATCTL = "import sys; from chatd.client.chatctl import main; sys.exit(main())"
WITHOUT_INDEX = (
    "from chatd.indexer import Indexer; from twisted.scripts.twistd import run\n"
    "Indexer.start = Indexer.note = lambda *_: None; run()"
)
WEBSOCKET = re.compile(r"WebSocket\s+ws://127\.0\.0\.1:(\d+)/ws")
TCP_LINES = re.compile(r"TCP lines\s+telnet 127\.0\.0\.1 (\d+)")


@dataclass(frozen=True, slots=True)
class Store:
    """Where chatd keeps its entries; `pid` is the database's, None for SQLite."""

    name: str
    url: str
    directory: Path
    pid: int | None = None
    unix_socket: str = ""
    version: str = ""


@dataclass(frozen=True, slots=True)
class Daemon:
    """A running chatd, its ports, and an API key that may log in as anybody."""

    pid: int
    websocket: int
    tcp: int
    api_key: str


@contextmanager
def mariadb(directory: Path) -> Iterator[Store]:
    """A private MariaDB, durable as by default, with an empty database."""
    server = Server(directory)
    try:
        with pinned(OTHER_CORE):
            server.start()
        url, pid = server.create("chatd"), int((directory / "mariadbd.pid").read_text())
        unix_socket = str(server.socket)
        yield Store("mysql", url, directory, pid, unix_socket, _version(unix_socket))
    except RuntimeError as error:
        raise BenchError(str(error)) from error
    finally:
        server.stop()


def _version(unix_socket: str) -> str:
    connection = pymysql.connect(user="root", unix_socket=unix_socket)
    with closing(connection), connection.cursor() as cursor:
        cursor.execute("SELECT VERSION()")
        row = cursor.fetchone()
    return str(row[0]) if row else "unknown"


@contextmanager
def daemon(store: Store, api_key: str, indexing: bool = True) -> Iterator[Daemon]:
    """chatd on free ports of the loopback interface, with everything else as by default, but
    that it may leave what is said out of the index."""
    ports = ["--http", "tcp:0:interface=127.0.0.1", "--tcp", "tcp:0:interface=127.0.0.1"]
    twistd = [str(SCRIPTS / "twistd")] if indexing else [sys.executable, "-c", WITHOUT_INDEX]
    command = [*twistd, "--nodaemon", "--pidfile=", "chatd", *ports]
    log = store.directory / "chatd.log"
    log.unlink(missing_ok=True)
    with process([*command, *_where(store)], SERVER_CORE, log) as child:
        websocket = wait_for(child, log, lambda: WEBSOCKET.search(log.read_text()))
        tcp = wait_for(child, log, lambda: TCP_LINES.search(log.read_text()))
        yield Daemon(child.pid, int(websocket[1]), int(tcp[1]), api_key)


def prepare(store: Store) -> str:
    """Bring the schema up to date; the API key for the generator."""
    chatctl = [sys.executable, "-c", CHATCTL, *_where(store)]
    run([*chatctl, "db", "upgrade"])
    return run([*chatctl, "key", "add", "bench", "--scope", "login-as"]).split()[-1]


def _where(store: Store) -> list[str]:
    return ["--state", str(store.directory), "--store", store.url]


def run(command: Sequence[str]) -> str:
    """Run a program to its end; its output, or BenchError with it."""
    try:
        done = subprocess.run(
            command, env=_environment(), capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BenchError(f"{command[0]}: {error}") from error
    if done.returncode:
        raise BenchError(f"{' '.join(command)}: {done.stdout}{done.stderr}")
    return done.stdout


@contextmanager
def process(command: Sequence[str], core: int, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A server pinned to a core, ended by its pid."""
    with log.open("ab") as output, pinned(core):
        child = subprocess.Popen(
            command,
            env=_environment(),
            cwd=log.parent,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield child
    finally:
        _end(child)


def _end(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    try:
        child.wait(END)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait(END)


def wait_for(child: subprocess.Popen[bytes], log: Path, probe: Callable[[], T | None]) -> T:
    """Ask until there is an answer; BenchError if the server ends first or takes too long."""
    end = time.monotonic() + START
    while time.monotonic() < end and child.poll() is None:
        if (answer := probe()) is not None:
            return answer
        time.sleep(0.05)
    raise BenchError(f"{child.args!r} did not start:\n{log.read_text()[-2000:]}")


@contextmanager
def pinned(core: int) -> Iterator[None]:
    """What is started within runs on this core alone, and so does the caller."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}

"""A private MariaDB: ``mariadb.py DIRECTORY [OPTION…]`` runs chatd on one, tests use `Server`."""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import IO
from urllib.parse import quote

import pymysql

START_SECONDS = 60  # recovery after a kill included
STOP_SECONDS = 60  # a clean end writes the buffer pool out
SOCKET_BYTES = 106  # sun_path holds 108 with its NUL; MariaDB refuses the last one


class Server:
    """A MariaDB whose data live in ``directory`` and which listens on a Unix socket alone.

    Durable as by default: a commit is on disk before it is acknowledged. Its root has no
    password; the directory is its owner's alone. Start it from the main thread: the server ends
    with the thread that started it, so that none outlives a killed program.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory.absolute()
        self.socket = _socket_path(self.directory)
        self._log = self.directory / "error.log"
        self._temporary = self.directory / "tmp"
        self._lock: IO[bytes] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Return when the server answers; RuntimeError with its error log if it does not."""
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.socket.parent.mkdir(exist_ok=True, mode=0o700)
        self._take_lock()
        self._temporary.mkdir(exist_ok=True)
        if not (self.directory / "data").exists():
            self._install()
        self._log.unlink(missing_ok=True)
        self._process = subprocess.Popen(
            _ending_with_us(
                [
                    _program("mariadbd"),
                    *self._common(self.directory / "data"),
                    f"--socket={self.socket}",
                    f"--pid-file={self.directory / 'mariadbd.pid'}",
                    f"--log-error={self._log}",
                    "--skip-networking",
                    "--character-set-server=utf8mb4",
                    "--collation-server=utf8mb4_bin",
                ]
            ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # out of reach of the terminal's ^C
        )
        self._wait_until_answering(self._process)

    def create(self, database: str) -> str:
        """Make ``database`` unless it is there, and return its store URL."""
        self.execute(
            f"CREATE DATABASE IF NOT EXISTS `{database}` CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
        )
        return self.url(database)

    def url(self, database: str) -> str:
        """The store URL of ``database``."""
        return f"mysql://root@localhost/{database}?unix_socket={quote(str(self.socket))}"

    def execute(self, statement: str) -> None:
        """Run one statement as root, outside any database."""
        connection = self._connect()
        with connection, connection.cursor() as cursor:
            cursor.execute(statement)

    def stop(self) -> None:
        """End the server as an operator would; without one, do nothing."""
        self._end(signal.SIGTERM)
        if self.socket.parent != self.directory:
            shutil.rmtree(self.socket.parent, ignore_errors=True)

    def kill(self) -> None:
        """End the server as a power failure would; `start` recovers its data."""
        self._end(signal.SIGKILL)

    @contextmanager
    def running(self) -> Iterator["Server"]:
        """Started on entry, stopped on exit, whatever happens between."""
        try:
            self.start()
            yield self
        finally:
            self.stop()

    def _common(self, data: Path) -> list[str]:
        """Options of every invocation: no configuration of the machine's, and a small footprint."""
        options = [
            "--no-defaults",
            f"--datadir={data}",
            f"--tmpdir={self._temporary}",  # a starting server deletes another's in /tmp
            "--innodb-buffer-pool-size=64M",
            "--innodb-log-file-size=16M",
        ]
        return [*options, "--user=root"] if os.geteuid() == 0 else options

    def _install(self) -> None:
        """Make the data directory under another name first: an interrupted one is not used."""
        unfinished = self.directory / "data.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        installed = subprocess.run(
            [
                _program("mariadb-install-db"),
                *self._common(unfinished),
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
        )
        if installed.returncode:
            raise RuntimeError(f"mariadb-install-db failed:\n{installed.stdout}")
        unfinished.rename(self.directory / "data")

    def _take_lock(self) -> None:
        """MariaDB itself would wait for half a minute for another server's files."""
        lock = (self.directory / "lock").open("wb")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise RuntimeError(f"{self.directory} is in use by another process.") from None
        self._lock = lock

    def _wait_until_answering(self, process: subprocess.Popen[bytes]) -> None:
        pauses = START_SECONDS * 20
        for _ in range(pauses):
            with suppress(pymysql.OperationalError):
                self._connect().close()
                return
            with suppress(subprocess.TimeoutExpired):
                process.wait(1 / 20)
                break
        status = process.poll()
        how = "does not answer" if status is None else f"ended with status {status}"
        self.kill()
        log = self._log.read_text(errors="replace") if self._log.exists() else "(no error log)"
        raise RuntimeError(f"mariadbd {how}. Its error log:\n{log}")

    def _connect(self) -> "pymysql.Connection[pymysql.cursors.Cursor]":
        return pymysql.connect(unix_socket=str(self.socket), user="root", autocommit=True)

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def _socket_path(directory: Path) -> Path:
    path = directory / "mariadb.sock"
    if len(os.fsencode(path)) <= SOCKET_BYTES:
        return path
    return Path(tempfile.mkdtemp(prefix="chatd-", dir="/tmp")) / path.name


def _program(name: str) -> str:
    """The path of an installed program; an ordinary user's PATH lacks the directory of daemons."""
    path = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"]))
    if path is None:
        raise RuntimeError(
            f"{name} is not installed. This installs it:"
            " sudo apt-get install --no-install-recommends mariadb-server-core mariadb-client-core"
        )
    return path


def _ending_with_us(command: Sequence[str]) -> list[str]:
    """``command``, ended by the kernel when this process ends, even by SIGKILL."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig=TERM", *command] if setpriv else list(command)


def _run_to_its_end(command: Sequence[str]) -> int:
    """Run the daemon, ask it to end when we are asked to, again if again, and wait.

    The daemon is in a process group of its own, or a ^C would reach it twice. SIGHUP, of a
    terminal that was closed, would have it read its configuration.
    """

    def end(number: int, frame: FrameType | None) -> None:
        daemon.terminate()

    daemon = subprocess.Popen(_ending_with_us(command), process_group=0)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)
    return abs(daemon.wait())


def main() -> int:
    """Run chatd on a database kept in a directory; end the two together."""
    directory, *options = sys.argv[1:]
    programs = Path(sys.executable).parent
    chatctl, twistd = str(programs / "chatctl"), str(programs / "twistd")
    server = Server(Path(directory))
    try:
        with server.running():
            url = server.create("chatd")
            print(f"MariaDB    {url}", flush=True)
            if status := subprocess.run([chatctl, "--store", url, "db", "upgrade"]).returncode:
                return abs(status)
            daemon = [twistd, "--nodaemon", "--pidfile=", "chatd", "--store", url, *options]
            return _run_to_its_end(daemon)
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())

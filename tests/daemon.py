"""The real daemon as a process of its own, and its clients: telnet, nc, a WebSocket, chatctl.

Everything here blocks, and fails with what was read so far when a deadline passes.
"""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.bed import UPGRADE, masked

SECONDS = 30  # a deadline, far more than anything here takes
ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = Path(sys.executable).parent
LOOPBACK = "tcp:0:interface=127.0.0.1"
TWISTD = (str(PROGRAMS / "twistd"), "--nodaemon", "--pidfile=", "chatd")
TELNET_ESCAPE = b"\x1d"

# twistd, its work done, ends by the signal that asked it to; systemd takes that for success.
ENDED = -signal.SIGTERM

_NOT_OURS = re.compile("CHATD_.*|STATE_DIRECTORY|NOTIFY_SOCKET|WATCHDOG_.*|LISTEN_.*")
_WEBSOCKET = r"WebSocket  wss?://127\.0\.0\.1:(\d+)/ws"
_LINES = r"TCP lines  telnet 127\.0\.0\.1 (\d+)"


def environment(**more: str) -> dict[str, str]:
    """This process's variables without those that configure chatd, and some more."""
    kept = {name: value for name, value in os.environ.items() if not _NOT_OURS.fullmatch(name)}
    return {**kept, "PYTHONPATH": str(ROOT), **more}


def chatctl(*args: str, stdin: str = "") -> str:
    """Standard output of a run of `chatctl`, which must succeed."""
    done = subprocess.run(
        [PROGRAMS / "chatctl", *args],
        input=stdin,
        env=environment(),
        capture_output=True,
        encoding="utf-8",
        timeout=SECONDS,
    )
    if done.returncode:
        raise AssertionError(f"chatctl {args} ended with {done.returncode}: {done.stderr}")
    return done.stdout


class Output:
    """The lines that a process writes, read in a thread: its pipe never fills."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lines: list[str] = []
        self._rest = b""
        self._taken = 0
        self._ended = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    @property
    def text(self) -> str:
        """All that was read so far."""
        with self._changed:
            return "".join(f"{line}\n" for line in self._lines) + _text(self._rest)

    def find(self, pattern: str) -> str:
        """The first group of the pattern, or all of it, in the first line that has it; the last
        line need not have ended."""
        with self._changed:
            self._changed.wait_for(lambda: self._match(pattern) or self._ended, SECONDS)
            found = self._match(pattern)
        if found is None:
            raise AssertionError(f"{pattern!r} does not come:\n{self.text}")
        return found[1] if found.re.groups else found[0]

    def next(self, marks: tuple[str, ...]) -> str:
        """The next line that begins with one of the marks; others are passed over."""
        end = time.monotonic() + SECONDS
        with self._changed:
            while (line := self._take()) is None or not line.startswith(marks):
                if line is None and not self._changed.wait_for(self._has_news, end - _now()):
                    break
                if line is None and self._ended and self._taken == len(self._lines):
                    break
        if line is None:
            raise AssertionError(f"no line comes any more:\n{self.text}")
        return line

    def ended(self) -> str:
        """All of it, once it has ended."""
        self._thread.join(SECONDS)
        if self._thread.is_alive():
            raise AssertionError(f"no end comes:\n{self.text}")
        return self.text

    def _match(self, pattern: str) -> re.Match[str] | None:
        lines = [*self._lines, _text(self._rest)]
        return next(filter(None, (re.search(pattern, line) for line in lines)), None)

    def _take(self) -> str | None:
        if self._taken == len(self._lines):
            return None
        self._taken += 1
        return self._lines[self._taken - 1]

    def _has_news(self) -> bool:
        return self._ended or self._taken < len(self._lines)

    def _read(self) -> None:
        while data := _received(self._descriptor):
            *lines, rest = (self._rest + data).split(b"\n")
            self._add(lines, rest)
        os.close(self._descriptor)
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _add(self, lines: Sequence[bytes], rest: bytes) -> None:
        with self._changed:
            self._lines += map(_text, lines)
            self._rest = rest
            self._changed.notify_all()


def _text(line: bytes) -> str:
    return line.decode(errors="replace").rstrip("\r")


def _now() -> float:
    return time.monotonic()


def _received(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # how a terminal tells that nobody writes to it any more
        return b""


class Daemon:
    """`twistd chatd`, started with these options; `state` is its directory.

    It listens on free ports of the loopback interface unless the options name endpoints.
    """

    through: tuple[str, ...] = ()  # the command that starts it

    def __init__(self, state: str | Path, *options: str, **variables: str) -> None:
        self.state = Path(state)
        named = {option for option in options if option in ("--http", "--tcp")}
        listen = [word for o in ("--http", "--tcp") if o not in named for word in (o, LOOPBACK)]
        self.process = subprocess.Popen(
            [*self.through, *TWISTD, *listen, "--state", str(state), *options],
            cwd=self.state.parent,
            env=environment(**variables),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert self.process.stdout is not None
        self.output = Output(os.dup(self.process.stdout.fileno()))
        self.process.stdout.close()

    @property
    def log(self) -> str:
        """What it has written so far."""
        return self.output.text

    @property
    def web_port(self) -> int:
        """Where WebSocket and HTTP are served, as soon as they are."""
        return int(self.output.find(_WEBSOCKET))

    @property
    def line_port(self) -> int:
        """Where lines over TCP are served, as soon as they are."""
        return int(self.output.find(_LINES))

    def stop(self) -> int:
        """Ends it as an operator would; its exit code."""
        self.process.terminate()
        return self.wait()

    def kill(self) -> None:
        """Ends it as a power failure would."""
        self.process.kill()
        self.wait()

    def wait(self) -> int:
        """Its exit code, when it has ended; by then `log` is all of its output."""
        try:
            code = self.process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"the daemon does not end:\n{self.log}") from None
        self.output.ended()
        return code


class Terminal:
    """A program that a person talks to chatd with: lines go in, lines come out."""

    marks: tuple[str, ...] = ("+OK", "-ERR", "= ", "* ", "{")

    def __init__(self, *command: str) -> None:
        self._keys, screen, inner, outer = self._connected()
        self.process = subprocess.Popen(command, stdin=inner, stdout=outer, stderr=outer)
        for descriptor in {inner, outer}:
            os.close(descriptor)
        self.screen = Output(screen)

    def _connected(self) -> tuple[int, int, int, int]:
        """Our ends to write and to read, the program's ends to read and to write."""
        (inner, keys), (screen, outer) = os.pipe(), os.pipe()
        return keys, screen, inner, outer

    def line(self, text: str) -> None:
        """Types a line."""
        self.keys(text.encode() + b"\n")

    def keys(self, data: bytes) -> None:
        """Types."""
        while data:
            data = data[os.write(self._keys, data) :]

    def next(self) -> str:
        """The next line from the server."""
        return self.screen.next(self.marks)

    def answer(self, text: str) -> list[str]:
        """Types a line; the lines of its answer. Events before it are passed over."""
        self.line(text)
        lines: list[str] = []
        while not lines or not lines[-1].startswith(("+OK", "-ERR")):
            line = self.next()
            if not line.startswith("* "):
                lines.append(line)
        return lines

    def event(self) -> str:
        """The next event. Answers before it are passed over."""
        while not (line := self.next()).startswith("* "):
            pass
        return line

    def freeze(self) -> None:
        """Stops the program: its kernel takes what comes, nobody reads it."""
        self.process.send_signal(signal.SIGSTOP)

    def kill(self) -> None:
        """Ends the program at once; its kernel closes the connection."""
        self.process.kill()
        self._over()

    def leave(self) -> None:
        """Ends the program as a person would."""
        self.process.terminate()
        self._over()

    def _over(self) -> None:
        self.process.wait(SECONDS)
        self.screen.ended()

    def close(self) -> None:
        """Ends the program, if it still runs, and forgets it."""
        if self.process.poll() is None:
            self.kill()
        os.close(self._keys)


class Nc(Terminal):
    """OpenBSD's netcat between pipes."""

    def __init__(self, *where: str) -> None:
        super().__init__("nc", *where)


class Telnet(Terminal):
    """telnet on a terminal of its own, which echoes what is typed."""

    def __init__(self, *where: str) -> None:
        super().__init__("telnet", *where)
        self.screen.find("Escape character")

    def _connected(self) -> tuple[int, int, int, int]:
        master, slave = pty.openpty()
        return os.dup(master), master, slave, slave

    def leave(self) -> None:
        self.keys(TELNET_ESCAPE)
        self.screen.find("telnet> ")
        self.keys(b"quit\n")
        self._over()


class Closed(Exception):
    """The server closed the WebSocket: `code` and `reason`."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


class Browser:
    """A WebSocket client on a connected socket."""

    def __init__(self, connected: socket.socket, upgrade: bytes = UPGRADE) -> None:
        self._socket = connected
        self._end = _now() + SECONDS
        self._ids = count(1)
        self._received = b""
        self._socket.sendall(upgrade)
        while b"\r\n\r\n" not in self._received:
            self._receive()
        head, _, self._received = self._received.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101"), head

    def send(self, command: str, /, **parameters: Any) -> int:
        """Sends a request; its id."""
        number = next(self._ids)
        request = {"cmd": command, "id": number, **parameters}
        self.text(json.dumps(request).encode())
        return number

    def text(self, payload: bytes) -> None:
        """Sends a text frame, whatever is in it."""
        self._socket.sendall(masked(payload))

    def next(self) -> dict[str, Any]:
        """The next reply or event. Pings before it are answered; `Closed` if none comes."""
        self._end = _now() + SECONDS  # for all of it: the server's pings come for ever
        while True:
            opcode, payload = self._frame()
            if opcode == 9:
                self._socket.sendall(masked(payload, 10))
            if opcode == 8:
                self._socket.sendall(masked(payload, 8))
                raise Closed(int.from_bytes(payload[:2], "big"), payload[2:].decode())
            if opcode == 1:
                found: dict[str, Any] = json.loads(payload)
                return found

    def ask(self, command: str, /, **parameters: Any) -> dict[str, Any]:
        """Sends a request; its reply. Events before it are passed over."""
        number = self.send(command, **parameters)
        return self._first(lambda found: found.get("reply") == number)

    def event(self) -> dict[str, Any]:
        """The next event. Replies before it are passed over."""
        return self._first(lambda found: "event" in found)

    def _first(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        while not wanted(found := self.next()):
            pass
        return found

    def close(self) -> None:
        """Goes away without a word."""
        self._socket.close()

    def _frame(self) -> tuple[int, bytes]:
        opcode, size = self._take(2)
        if size >= 126:
            size = int.from_bytes(self._take(2 if size == 126 else 8), "big")
        return opcode & 0x0F, self._take(size)

    def _take(self, size: int) -> bytes:
        while len(self._received) < size:
            self._receive()
        taken, self._received = self._received[:size], self._received[size:]
        return taken

    def _receive(self) -> None:
        self._socket.settimeout(max(self._end - _now(), 0.001))
        data = self._socket.recv(65536)
        if not data:
            raise Closed(1006, "")
        self._received += data


class DaemonCase(SynchronousTestCase):
    """A test that starts daemons and clients; all are ended with it."""

    def setUp(self) -> None:
        self.directory = Path(self.enterContext(tempfile.TemporaryDirectory(prefix="chatd-")))
        self.state = self.directory / "state"

    kind: type[Daemon] = Daemon

    def daemon(self, *options: str, **variables: str) -> Daemon:
        """A daemon with these options, in this test's state directory."""
        daemon = self.kind(self.state, *options, **variables)
        self.addCleanup(daemon.wait)
        self.addCleanup(daemon.process.kill)
        return daemon

    def terminal(self, program: type[Terminal], *where: str) -> Terminal:
        """A program that talks to an address."""
        terminal = program(*where)
        self.addCleanup(terminal.close)
        return terminal

    def browser(self, port: int, tls: ssl.SSLContext | None = None) -> Browser:
        """A WebSocket client of a port, over TLS if a context is given."""
        connected = socket.create_connection(("127.0.0.1", port), SECONDS)
        if tls is not None:
            connected = tls.wrap_socket(connected, server_hostname="localhost")
        browser = Browser(connected)
        self.addCleanup(browser.close)
        return browser

    def user(self, name: str, port: int, **parameters: Any) -> Browser:
        """A browser on which `name` has registered."""
        browser = self.browser(port)
        known = browser.ask("register", name=name, password=password(name), **parameters)
        assert known["ok"], known
        return browser

    def assert_clean(self, daemon: Daemon, *secrets: str) -> None:
        """The log of an ended daemon has no traceback, no warning and none of the secrets."""
        for found in ("Traceback", "[critical]", "[error]", "[warn]", "Unhandled", *secrets):
            self.assertNotIn(found, daemon.log)


def password(name: str) -> str:
    """The password that the tests give a user: one that is found in a log if it gets there."""
    return f"pw-of-{name}-7Qx"

"""The daemon on sockets that its supervisor holds (sd_listen_fds(3)): restarts that nobody's
connection meets with a refusal."""

from __future__ import annotations

import fcntl
import os
import socket
import sys
import threading
from pathlib import Path

from chatd.errors import SERVICE_RESTART
from tests.bed import NodeCase
from tests.daemon import ENDED, SECONDS, Browser, Closed, Daemon, DaemonCase, password

WAITING = 40
CALLERS = 4
DROPPED = 1006  # without a word: one that had not yet said what it wants


HAND_OVER = """
import os, sys

for wanted, descriptor in enumerate(map(int, sys.argv[1:3]), 3):
    os.dup2(descriptor, wanted)
    os.close(descriptor)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "2", "LISTEN_FDNAMES": "a:b"}
os.execv(sys.argv[3], sys.argv[3:])
"""


class Activated(Daemon):
    """A daemon that is handed two sockets, for WebSocket and for lines."""

    def __init__(self, state: Path, web: socket.socket, lines: socket.socket) -> None:
        # Where the two that it shall have cannot be meant.
        self.handed = [fcntl.fcntl(s.fileno(), fcntl.F_DUPFD, 100) for s in (web, lines)]
        self.program = (sys.executable, "-c", HAND_OVER, *map(str, self.handed), *Daemon.program)
        listen = ("--http", "systemd:domain=INET:index=0", "--tcp", "systemd:domain=INET:name=b")
        stated = {"CHATD_LISTEN_PROXY": "true", "CHATD_ACCOUNTS_PUBLIC": "true"}
        super().__init__(state, *listen, **stated)
        for descriptor in self.handed:
            os.close(descriptor)


class Caller(threading.Thread):
    """Connects again and again; notes how each connection ended."""

    def __init__(self, port: int, enough: threading.Event) -> None:
        super().__init__(daemon=True)
        self.port = port
        self.enough = enough
        self.served = 0
        self.codes: set[int] = set()
        self.failed: Exception | None = None

    def run(self) -> None:
        """Until it is enough, or a connection is refused or hangs."""
        try:
            while not self.enough.is_set():
                self._call()
        except Exception as failed:
            self.failed = failed

    def _call(self) -> None:
        with socket.create_connection(("127.0.0.1", self.port), SECONDS) as connected:
            try:
                browser = Browser(connected)
                while not self.enough.is_set():
                    assert browser.ask("ping")["ok"]
                    self.served += 1
            except Closed as closed:
                self.codes.add(closed.code)
            except (ConnectionResetError, BrokenPipeError):
                self.codes.add(DROPPED)


class ActivationTests(DaemonCase):
    """Two sockets outlive the daemons that serve them."""

    def setUp(self) -> None:
        super().setUp()
        self.web, self.lines = (
            self.enterContext(socket.create_server(("127.0.0.1", 0), backlog=4096))
            for _ in range(2)
        )
        self.port, self.line_port = (s.getsockname()[1] for s in (self.web, self.lines))

    def activated(self) -> Activated:
        """A daemon on the sockets, which serves."""
        chatd = Activated(self.state, self.web, self.lines)
        self.addCleanup(chatd.wait)
        self.addCleanup(chatd.process.kill)
        return chatd

    def test_between_two(self) -> None:
        """Who connects while no daemon runs waits, and is served by the next."""
        first = self.activated()
        bob = self.user("bob", self.port)
        self.assertEqual(first.stop(), ENDED)
        self.assertEqual(bob.event()["event"], "going-away")
        waiting = [socket.create_connection(("127.0.0.1", self.port), 1) for _ in range(WAITING)]
        line = socket.create_connection(("127.0.0.1", self.line_port), 1)
        for connected in (*waiting, line):
            self.addCleanup(connected.close)
            connected.settimeout(SECONDS)
        line.sendall(b"/ping\n")
        second = self.activated()
        for connected in waiting:
            self.assertTrue(Browser(connected).ask("ping")["ok"])
        bob = self.browser(self.port)
        self.assertTrue(bob.ask("login", name="bob", password=password("bob"))["ok"])
        self.assertTrue(line.recv(4096).startswith(b"+OK at="))
        self.assertEqual(second.stop(), ENDED)
        self.assert_clean(second)

    def test_without_a_pause(self) -> None:
        """While daemons come and go nobody is refused, and nobody hangs: each connection is
        served or told that the server restarts."""
        chatd = self.activated()
        self.assertTrue(self.browser(self.port).ask("ping")["ok"])
        enough = threading.Event()
        self.addCleanup(enough.set)
        callers = [Caller(self.port, enough) for _ in range(CALLERS)]
        for caller in callers:
            caller.start()
        for _ in range(3):
            self.assertTrue(self.browser(self.port).ask("ping")["ok"])
            self.assertEqual(chatd.stop(), ENDED)
            self.assert_clean(chatd)
            before = [caller.served for caller in callers]
            chatd = self.activated()
            self.assertTrue(self.browser(self.port).ask("ping")["ok"])
        enough.set()
        for caller, count in zip(callers, before, strict=True):
            caller.join(SECONDS)
            self.assertFalse(caller.is_alive())
            self.assertIsNone(caller.failed)
            self.assertGreaterEqual(caller.served, count)
            self.assertLessEqual(caller.codes, {SERVICE_RESTART, DROPPED})
        self.assertIn(SERVICE_RESTART, set().union(*(caller.codes for caller in callers)))


class LateTests(NodeCase):
    """Who was accepted just before the ports closed."""

    async def test_told_at_once(self) -> None:
        """A connection whose session begins while the node stops is told to come back."""
        waiting = self.raw_web()
        self.node.stopping = True
        frames, lines = self.frames(), self.lines()
        opcode, payload = await frames.next_frame()
        self.assertEqual((opcode, int.from_bytes(payload[:2], "big")), (8, SERVICE_RESTART))
        self.assertIn(b"* closing code=1012", lines.received)
        self.assertTrue(lines.closed)
        waiting.send(b"GET /readyz HTTP/1.0\r\n\r\n")
        await waiting.until(lambda: waiting.closed or None)
        self.assertIn(b" 503 ", waiting.received.splitlines()[0])

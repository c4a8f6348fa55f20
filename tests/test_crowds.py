"""More connections than a real daemon has descriptors for, and clients that never finish."""

from __future__ import annotations

import contextlib
import os
import socket
import time

from tests.daemon import LOOPBACK, SECONDS, Daemon, DaemonCase

FILES = 256
CROWD = 400
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


class Small(Daemon):
    """A daemon that may have few files open."""

    through = ("prlimit", f"--nofile={FILES}")


class Crowds(DaemonCase):
    """A crowd at the doors of a daemon."""

    def connect(self, port: int, data: bytes = b"") -> socket.socket:
        """A connection on which that much was sent, if it could be."""
        connected = socket.socket()
        self.addCleanup(connected.close)
        connected.settimeout(SECONDS)
        with contextlib.suppress(ConnectionError):
            connected.connect(("127.0.0.1", port))
            connected.sendall(data)
        return connected

    def answer(self, connected: socket.socket, end: bytes = b"\n") -> bytes:
        """What comes, up to that end; less if the connection ends before."""
        data = b""
        with contextlib.suppress(ConnectionError):
            while not data.endswith(end) and (more := connected.recv(4096)):
                data += more
        return data

    def asked(self, connected: socket.socket, line: bytes) -> bytes:
        with contextlib.suppress(ConnectionError):
            connected.sendall(line + b"\n")
        return self.answer(connected)

    def files(self, daemon: Daemon) -> int:
        return len(os.listdir(f"/proc/{daemon.process.pid}/fd"))


class FewDescriptors(Crowds):
    """Four hundred connections to a daemon that may have 256 files open."""

    kind = Small

    def crowd(self, daemon: Daemon, port: int, ask: bytes, end: bytes) -> list[socket.socket]:
        """Comes all at once, and asks; those who got an answer that is no refusal."""
        connections = [self.connect(port) for _ in range(CROWD)]
        inside, told = [], 0
        for connected in connections:
            with contextlib.suppress(ConnectionError):
                connected.sendall(ask)
            answer = self.answer(connected, end)
            self.assertLess(self.files(daemon), FILES - 40)
            told += answer.startswith((b"-ERR unavailable", b"HTTP/1.1 503 "))
            if answer.startswith((b"+OK", b"HTTP/1.1 200 ")):
                inside.append(connected)
            else:
                connected.close()
        self.assertGreater(told, 0)
        self.assertGreater(len(inside), 100)
        return inside

    def test_lines(self) -> None:
        """Those inside register and talk, those outside are told or dropped, and when some
        leave others come in."""
        daemon = self.daemon()
        inside = self.crowd(daemon, daemon.line_port, b"/ping\n", b"\n")
        for number, connected in enumerate(inside[:5]):
            answer = self.asked(connected, b"/register u%d secret-%d" % (number, number))
            self.assertTrue(answer.startswith(b"+OK user="), answer)
        self.assertTrue(self.asked(inside[0], b"/say @u1 hello").startswith(b"+OK seq=1"))
        for connected in inside[10:]:
            connected.close()
        while not self.asked(self.connect(daemon.line_port), b"/ping").startswith(b"+OK"):
            pass
        self.assertTrue(self.asked(inside[2], b"/say @u1 hello").startswith(b"+OK seq=1"))
        daemon.stop()
        self.assert_clean(daemon)

    def test_web(self) -> None:
        """The same at the other port."""
        daemon = self.daemon(CHATD_LIMITS_HANDSHAKE_SECONDS="60")
        port = daemon.web_port
        before, end = self.files(daemon), time.monotonic() + SECONDS
        inside = self.crowd(daemon, port, HEALTH, b"}\n")
        for connected in inside[:50]:
            connected.close()
        # Those that were told to go have gone as well, and room is left for the database's files.
        while self.files(daemon) > before + len(inside) - 30:
            self.assertLess(time.monotonic(), end, "the descriptors do not come back")
        self.assertTrue(self.user("alice", daemon.web_port).ask("ping")["ok"])
        daemon.stop()
        self.assert_clean(daemon)

    def test_behind_a_proxy(self) -> None:
        """The same where each has told its address first."""
        daemon = self.daemon("--tcp", f"haproxy:{LOOPBACK}")
        told = b"PROXY TCP4 192.0.2.7 127.0.0.1 1 2\r\n"
        self.crowd(daemon, daemon.line_port, told + b"/ping\n", b"\n")
        daemon.stop()
        self.assert_clean(daemon)


class Slow(Crowds):
    """Clients that never finish what they begin."""

    def test_heads_and_bodies(self) -> None:
        """Five hundred that drip are closed in time, told why, and their descriptors come
        back; meanwhile others are served."""
        daemon = self.daemon(CHATD_LIMITS_HANDSHAKE_SECONDS="1", CHATD_LIMITS_BODY_SECONDS="1")
        port = daemon.web_port
        before = self.files(daemon)
        begun = (
            b"GET /healthz HTTP/1.1\r\nX: ",
            b"POST /api/v1/ping HTTP/1.1\r\nContent-Length: 100\r\n\r\n{",
        )
        slow = [self.connect(port, begun[n % 2]) for n in range(500)]
        self.assertTrue(self.user("alice", port).ask("ping")["ok"])
        for connected in slow:
            self.assertTrue(self.answer(connected, b"}").startswith(b"HTTP/1.1 408 "))
            connected.close()
        end = time.monotonic() + SECONDS
        while self.files(daemon) > before + 20:
            self.assertLess(time.monotonic(), end, "the descriptors do not come back")
        daemon.stop()
        self.assert_clean(daemon)

"""Signals at the real daemon: how it ends, whatever hangs, and what its supervisor hears."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from chatd.config import store_url
from chatd.store import schema
from tests.daemon import (
    ENDED,
    FORCED,
    LOOPBACK,
    PROGRAMS,
    ROOT,
    SECONDS,
    Browser,
    Daemon,
    DaemonCase,
    environment,
    password,
)
from tools.mariadb import Server

LISTEN = ("--http", LOOPBACK, "--tcp", LOOPBACK)
QUIET = 1.5  # seconds in which a daemon that lives would have told so


class SupervisedCase(DaemonCase):
    """A test that hears what the daemon tells its supervisor, at `address`."""

    def setUp(self) -> None:
        super().setUp()
        self.address = str(self.directory / "notify")
        self.supervisor = self.enterContext(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        self.supervisor.bind(self.address)
        self.supervisor.settimeout(SECONDS)

    def told(self) -> list[str]:
        """The lines of the next report."""
        return self.supervisor.recv(4096).decode().splitlines()


class EndTests(SupervisedCase):
    """Asked once, the daemon ends in order."""

    def test_in_order(self) -> None:
        """SIGTERM and SIGINT end it, with 0, and the log names them."""
        for number in (signal.SIGTERM, signal.SIGINT):
            chatd = self.daemon()
            chatd.output.find("TCP lines")
            chatd.process.send_signal(number)
            self.assertEqual(chatd.wait(), ENDED, chatd.log)
            self.assertIn(f"{number.name}: stopping", chatd.log)
            self.assert_clean(chatd)

    def test_background(self) -> None:
        """The same for a daemon that went to the background; its pid file is gone then."""
        pidfile, log = self.directory / "pid", self.directory / "log"
        command = [str(PROGRAMS / "twistd"), f"--pidfile={pidfile}", f"--logfile={log}", "chatd"]
        subprocess.run(
            [*command, *LISTEN, "--state", str(self.state)],
            cwd=self.directory,
            env=environment(NOTIFY_SOCKET=self.address),
            check=True,
            timeout=SECONDS,
        )
        pid = int(pidfile.read_text())
        descriptor = os.pidfd_open(pid)
        self.addCleanup(os.close, descriptor)
        self.assertIn("READY=1", self.told())
        os.kill(pid, signal.SIGTERM)
        _wait_for(descriptor)
        self.assertIn("Server Shut Down.", log.read_text())
        self.assertFalse(pidfile.exists())

    def test_ignored_interrupt(self) -> None:
        """A shell's background job ignores ^C, and so does the daemon in it."""
        chatd = Ignoring(self.state)
        self.addCleanup(chatd.wait)
        self.addCleanup(chatd.process.kill)
        self.assertTrue(self.user("bob", chatd.web_port).ask("ping")["ok"])
        chatd.process.send_signal(signal.SIGINT)
        self.assertTrue(self.browser(chatd.web_port).ask("ping")["ok"])
        self.assertEqual(chatd.stop(), ENDED)
        self.assertNotIn("SIGINT", chatd.log)


class Ignoring(Daemon):
    """A daemon that was started with SIGINT ignored."""

    program = ("env", "--ignore-signal=INT", *Daemon.program)


class InTerminal(Daemon):
    """A daemon in the foreground of a terminal of its own."""

    program = ("setsid", "--ctty", *Daemon.program)

    def __init__(self, state: Path) -> None:
        self.keyboard, self.input = pty.openpty()
        super().__init__(state)
        os.close(self.input)


class TerminalTests(DaemonCase):
    """Run by a person."""

    def in_terminal(self) -> InTerminal:
        chatd = InTerminal(self.state)
        self.addCleanup(chatd.wait)
        self.addCleanup(chatd.process.kill)
        chatd.output.find("TCP lines")
        return chatd

    def test_control_c(self) -> None:
        """^C ends it in order."""
        chatd = self.in_terminal()
        self.addCleanup(os.close, chatd.keyboard)
        os.write(chatd.keyboard, b"\x03")
        self.assertEqual(chatd.wait(), ENDED, chatd.log)
        self.assert_clean(chatd)

    def test_closed(self) -> None:
        """So does closing the terminal, which sends SIGHUP; nothing is left running."""
        chatd = self.in_terminal()
        os.close(chatd.keyboard)
        self.assertEqual(chatd.wait(), ENDED, chatd.log)
        self.assertIn("SIGHUP: stopping", chatd.log)

    def test_hang_up(self) -> None:
        """SIGHUP does not end it while the terminal is there."""
        chatd = self.in_terminal()
        self.addCleanup(os.close, chatd.keyboard)
        chatd.process.send_signal(signal.SIGHUP)
        chatd.output.find("read again")
        self.assertTrue(self.browser(chatd.web_port).ask("ping")["ok"])


STUCK = """
import os, signal, sys, threading
from twisted.internet import reactor
from twisted.python import log
from chatd.tap import Options, makeService

log.startLogging(sys.stdout)
options = Options()
options.parseOptions(sys.argv[1:])
daemon = makeService(options)
reactor.addSystemEventTrigger("before", "shutdown", daemon.stopService)

def hang():
    daemon._node.store.read(lambda connection: threading.Event().wait())
    os.kill(os.getpid(), signal.SIGTERM)

daemon.startService()
reactor.callWhenRunning(hang)
reactor.run()
"""


class HangTests(DaemonCase):
    """The end comes, whatever hangs."""

    @contextmanager
    def frozen(self) -> Iterator[tuple[Daemon, Browser, list[int]]]:
        """A daemon whose database stands still while a message is on its way; the numbers of
        the messages that were acknowledged."""
        directory = Path(tempfile.mkdtemp(prefix="chatd-mariadb-"))
        self.addCleanup(shutil.rmtree, directory)
        with Server(directory).running() as server:
            url = server.create("chatd")
            schema.upgrade(store_url(url, ""))
            chatd = self.daemon("--store", url)
            bob = self.user("bob", chatd.web_port)
            said = [bob.ask("say", to="@bob", text=f"text {n}")["seq"] for n in range(3)]
            pid = int((directory / "mariadbd.pid").read_text())
            os.kill(pid, signal.SIGSTOP)
            try:
                bob.send("say", to="@bob", text="never stored")
                yield chatd, bob, said
            finally:
                os.kill(pid, signal.SIGCONT)
            again = self.daemon("--store", url)
            browser = self.browser(again.web_port)
            self.assertTrue(browser.ask("login", name="bob", password=password("bob"))["ok"])
            stored = browser.ask("history", to="@bob")["entries"]
            self.assertEqual([entry["seq"] for entry in stored][: len(said)], said)
            again.kill()

    def test_second_signal(self) -> None:
        """A second signal ends it at once, with 1 and a sentence; what was acknowledged is
        there afterwards."""
        with self.frozen() as (chatd, bob, _):
            chatd.process.terminate()
            self.assertEqual(bob.event()["event"], "going-away")
            chatd.process.terminate()
            self.assertEqual(chatd.wait(), FORCED)
            self.assertIn("SIGTERM again: ending at once", chatd.log)
            self.assertNotIn("left behind", chatd.log)

    def test_database_stands_still(self) -> None:
        """One signal is enough when the database does not move; the clients were told."""
        with self.frozen() as (chatd, bob, _):
            chatd.process.terminate()
            self.assertEqual(bob.event()["event"], "going-away")
            self.assertIn(chatd.wait(), (ENDED, FORCED))
            self.assertNotIn("Traceback", chatd.log)

    def test_http_is_answered(self) -> None:
        """Logins over HTTP that wait for their password to be hashed are answered."""
        chatd = self.daemon()
        self.user("bob", chatd.web_port).close()
        place = ("127.0.0.1", chatd.web_port)
        body = b'{"name": "bob", "password": "a wrong one"}'
        head = b"POST /api/v1/login HTTP/1.1\r\nHost: chat.test\r\nContent-Length: %d\r\n\r\n"
        clients = []
        for _ in range(15):
            clients.append(self.enterContext(socket.create_connection(place, SECONDS)))
            clients[-1].sendall(head % len(body) + body)
        for _ in range(3):  # by then they are under way
            with socket.create_connection(place, SECONDS) as other:
                other.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
                self.assertIn(b" 200 OK", other.recv(4096))
        chatd.process.terminate()
        for client in clients:
            self.assertRegex(client.recv(4096), rb"^HTTP/1\.1 (401|503) ")
        self.assertEqual(chatd.wait(), ENDED, chatd.log)

    def test_stuck_thread(self) -> None:
        """Work that never ends in a thread is left behind, which is told."""
        done = subprocess.run(
            [sys.executable, "-c", STUCK, *LISTEN, "--state", str(self.state)],
            cwd=ROOT,
            env=environment(),
            capture_output=True,
            encoding="utf-8",
            timeout=SECONDS,
        )
        self.assertEqual(done.returncode, FORCED, done.stdout + done.stderr)
        self.assertRegex(done.stdout, r"left behind: 0 sessions, .*PoolThread")


class WatchdogTests(SupervisedCase):
    """The supervisor's watchdog is fed as long as the daemon lives."""

    def test_stands_still(self) -> None:
        """A daemon that stands still does not feed it; one that goes on does again."""
        chatd = self.daemon(NOTIFY_SOCKET=self.address, WATCHDOG_USEC="30000000")
        self.assertIn("READY=1", self.told())
        self.assertEqual(self.told(), ["WATCHDOG=1"])
        chatd.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, chatd.process.pid, os.WSTOPPED | os.WNOWAIT)
        self.supervisor.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while self.told():
                pass
        self.supervisor.settimeout(QUIET)
        with self.assertRaises(TimeoutError):
            self.told()
        chatd.process.send_signal(signal.SIGCONT)
        self.supervisor.settimeout(SECONDS)
        self.assertEqual(self.told(), ["WATCHDOG=1"])
        self.assertEqual(chatd.stop(), ENDED)

    def test_too_short(self) -> None:
        """One that wants to hear more often than the heart beats is told of at the start."""
        chatd = self.daemon(WATCHDOG_USEC="100000")
        chatd.output.find("TCP lines")
        self.assertIn("[warn] chatd.tap.Daemon: WatchdogSec is 0.1 seconds", chatd.log)
        self.assertEqual(chatd.stop(), ENDED)


class FullLog(Daemon):
    """A daemon that logs to a full disk."""

    program = (*Daemon.program[:-1], "--logfile=/dev/full", Daemon.program[-1])


class LogTests(SupervisedCase):
    """A log that cannot be written."""

    def test_full_disk(self) -> None:
        """With a log file on a full disk the daemon serves, reloads and ends as ever."""
        path = self.directory / "web"
        chatd = FullLog(self.state, "--http", f"unix:{path}", NOTIFY_SOCKET=self.address)
        self.addCleanup(chatd.wait)
        self.addCleanup(chatd.process.kill)
        self.assertIn("READY=1", self.told())
        connected = socket.socket(socket.AF_UNIX)
        connected.settimeout(SECONDS)
        connected.connect(str(path))
        bob = Browser(connected)
        self.addCleanup(bob.close)
        self.assertTrue(bob.ask("register", name="bob", password=password("bob"))["ok"])
        chatd.process.send_signal(signal.SIGHUP)
        while "RELOADING=1" not in self.told():
            pass
        self.assertTrue(bob.ask("say", to="@bob", text="still here")["ok"])
        self.assertEqual(chatd.stop(), ENDED)
        self.assertEqual(chatd.log, "")


def _wait_for(descriptor: int) -> None:
    """Waits until the process of a pidfd has ended."""
    ready, _, _ = select.select([descriptor], [], [], SECONDS)
    assert ready, "it does not end"

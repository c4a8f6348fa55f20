"""What the supervisor hears from `chatd.systemd`, over real datagram sockets."""

import os
import socket
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from chatd.systemd import notify, watchdog_seconds


class NotifyTests(SynchronousTestCase):
    def supervisor(self, address: str) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(listener.close)
        listener.bind(address)
        listener.settimeout(5)
        return listener

    def directory(self) -> Path:
        directory = tempfile.TemporaryDirectory(prefix="chatd-")
        self.addCleanup(directory.cleanup)
        return Path(directory.name)

    def test_one_datagram(self) -> None:
        """All lines of a report arrive together, joined by newlines."""
        path = str(self.directory() / "notify")
        listener = self.supervisor(path)
        sent = notify("READY=1", "STATUS=2 sessions, 刘备", environ={"NOTIFY_SOCKET": path})
        self.assertTrue(sent)
        self.assertEqual(listener.recv(4096).decode(), "READY=1\nSTATUS=2 sessions, 刘备")

    def test_abstract_socket(self) -> None:
        """A leading @ names a socket in the abstract namespace."""
        name = f"chatd-test-{os.getpid()}"
        listener = self.supervisor("\0" + name)
        self.assertTrue(notify("WATCHDOG=1", environ={"NOTIFY_SOCKET": "@" + name}))
        self.assertEqual(listener.recv(4096), b"WATCHDOG=1")

    def test_no_supervisor(self) -> None:
        """Without NOTIFY_SOCKET nothing is sent."""
        self.assertFalse(notify("READY=1", environ={}))

    def test_supervisor_away(self) -> None:
        """A socket that is gone, too long a path or another kind of address do not raise."""
        gone = str(self.directory() / "gone")
        for address in (gone, "/" + "x" * 200, "@" + "x" * 200, "vsock:2:1", "relative"):
            self.assertFalse(notify("READY=1", environ={"NOTIFY_SOCKET": address}), address)

    def test_supervisor_too_busy(self) -> None:
        """A supervisor that reads nothing costs a bounded wait, not the daemon."""
        path = str(self.directory() / "notify")
        self.supervisor(path)
        reports = [notify("WATCHDOG=1", environ={"NOTIFY_SOCKET": path}) for _ in range(2)]
        while reports[-1]:
            reports.append(notify("WATCHDOG=1", environ={"NOTIFY_SOCKET": path}))
            self.assertLess(len(reports), 100_000)


class WatchdogTests(SynchronousTestCase):
    def test_interval(self) -> None:
        """Microseconds become seconds."""
        self.assertEqual(watchdog_seconds({"WATCHDOG_USEC": "30000000"}), 30.0)

    def test_addressed_to_this_process(self) -> None:
        """WATCHDOG_PID names the process that is watched."""
        mine = {"WATCHDOG_USEC": "500000", "WATCHDOG_PID": str(os.getpid())}
        self.assertEqual(watchdog_seconds(mine), 0.5)
        self.assertIsNone(watchdog_seconds({**mine, "WATCHDOG_PID": str(os.getppid())}))

    def test_not_watched(self) -> None:
        """No interval, zero or nonsense: no watchdog."""
        for environ in ({}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "soon"}):
            self.assertIsNone(watchdog_seconds(environ))
        self.assertIsNone(watchdog_seconds({"WATCHDOG_USEC": "1", "WATCHDOG_PID": "x"}))

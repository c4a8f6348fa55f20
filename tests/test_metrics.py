"""What the daemon tells of itself, and to whom."""

from __future__ import annotations

import re
import socket

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress

from chatd.frontends.http import is_near
from tests.bed import NodeCase
from tests.daemon import ENDED, SECONDS, DaemonCase


class MeasureTests(NodeCase):
    """The measures of a node."""

    def value(self, name: str) -> float:
        """A measure's value."""
        found = re.search(rf"^{re.escape(name)} (\S+)$", self.metrics.text().decode(), re.MULTILINE)
        assert found is not None, self.metrics.text()
        return float(found[1])

    async def test_values(self) -> None:
        """Sessions, lags and the state of the database are counted as they are."""
        self.assertEqual(self.value("chatd_connections"), 0)
        alice = await self.user("alice")
        self.frames()
        self.assertEqual(self.value("chatd_connections"), 2)
        alice.vanish()
        self.assertEqual(self.value("chatd_connections"), 1)
        self.assertEqual(self.value("chatd_database_usable"), 1)
        self.node.store._readers.health.usable = False
        self.assertEqual(self.value("chatd_database_usable"), 0)
        for late in (0.0005, 0.03, 99.0):
            self.metrics.lagged(late)
        self.assertEqual(self.value('chatd_loop_lag_seconds_bucket{le="0.001"}'), 1)
        self.assertEqual(self.value('chatd_loop_lag_seconds_bucket{le="0.05"}'), 2)
        self.assertEqual(self.value('chatd_loop_lag_seconds_bucket{le="+Inf"}'), 3)
        self.assertEqual(self.value("chatd_loop_lag_seconds_count"), 3)

    def test_nothing_else(self) -> None:
        """There are three of them, and nothing of the process or the platform."""
        names = re.findall(r"^# TYPE (\S+) \S+$", self.metrics.text().decode(), re.MULTILINE)
        expected = ["chatd_loop_lag_seconds", "chatd_connections", "chatd_database_usable"]
        self.assertEqual(names, expected)

    def get(self, method: str = "GET") -> bytes:
        """What a peer of another machine gets."""
        client = self.raw_web()
        client.send(f"{method} /metrics HTTP/1.0\r\n\r\n".encode())
        return client.received

    def test_strangers(self) -> None:
        """To other machines nothing is there."""
        self.assertRegex(self.get(), rb"^HTTP/1\.[01] 404 [^\r]*\r\n")
        self.assertNotIn(b"chatd_", self.get())

    def test_who_is_near(self) -> None:
        """This machine is loopback, in either family, and a Unix socket."""
        for host in ("127.0.0.1", "127.9.9.9"):
            self.assertTrue(is_near(IPv4Address("TCP", host, 1)), host)
        for host in ("::1", "::ffff:127.0.0.1"):
            self.assertTrue(is_near(IPv6Address("TCP", host, 1)), host)
        self.assertTrue(is_near(UNIXAddress(b"")))
        for host in ("192.0.2.7", "10.0.0.1", "0.0.0.0", "localhost", "999.9.9.9"):
            self.assertFalse(is_near(IPv4Address("TCP", host, 1)), host)
        for host in ("fe80::1%eth0", "::ffff:10.0.0.1", "::"):
            self.assertFalse(is_near(IPv6Address("TCP", host, 1)), host)


class CollectorTests(DaemonCase):
    """A collector at the real daemon."""

    def test_collected(self) -> None:
        """One on this machine gets the measures as text, with the beats that came; HEAD gets
        the head, other methods nothing."""
        chatd = self.daemon()
        bob = self.user("bob", chatd.web_port)
        count = 0
        while not count:
            head, body = self.ask(chatd.web_port, "GET")
            self.assertIn(b"200 OK", head)
            self.assertIn(b"text/plain; version=0.0.4; charset=utf-8", head)
            self.assertIn(b"\nchatd_connections 1.0\n", body)
            found = re.search(rb"\nchatd_loop_lag_seconds_count (\d+)\.0\n", body)
            assert found is not None, body
            count = int(found[1])
        head, body = self.ask(chatd.web_port, "HEAD")
        self.assertIn(b"200 OK", head)
        self.assertEqual(body, b"")
        self.assertIn(b" 404 ", self.ask(chatd.web_port, "POST")[0])
        self.assertTrue(bob.ask("ping")["ok"])
        self.assertEqual(chatd.stop(), ENDED)
        self.assert_clean(chatd)

    def ask(self, port: int, method: str) -> tuple[bytes, bytes]:
        """Head and body of an answer."""
        with socket.create_connection(("127.0.0.1", port), SECONDS) as connected:
            connected.sendall(f"{method} /metrics HTTP/1.0\r\nContent-Length: 0\r\n\r\n".encode())
            head, _, body = connected.makefile("rb").read().partition(b"\r\n\r\n")
        return head, body

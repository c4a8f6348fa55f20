"""Which pages may connect, and what other sites and forged headers cannot do."""

from __future__ import annotations

import json

from chatd.settings import Limits
from tests.bed import UPGRADE, Client, NodeCase

OWN = (  # Host, Origin: allowed where nothing is listed
    ("chat.test", "http://chat.test", True),
    ("chat.test", "https://chat.test", True),
    ("chat.test", "HTTP://CHAT.TEST", True),
    ("CHAT.test", "http://chat.TEST", True),
    ("chat.test:8080", "http://chat.test:8080", True),
    ("[::1]:8080", "http://[::1]:8080", True),
    ("[::1]", "http://[::1]", True),
    ("[2001:DB8::1]:80", "http://[2001:db8::1]:80", True),
    ("chat.test", None, True),  # no browser
    ("chat.test", "null", False),
    ("null", "null", False),
    ("chat.test", "http://", False),
    ("chat.test", "chat.test", False),
    ("chat.test", "//chat.test", False),
    ("chat.test", "file://", False),
    ("chat.test", "http://evil.test", False),
    ("chat.test", "http://chat.test.evil.test", False),
    ("chat.test", "http://evilchat.test", False),
    ("chat.test", "http://sub.chat.test", False),
    ("chat.test", "http://chat.test.", False),
    ("chat.test", "http://chat.test:81", False),
    ("chat.test:8080", "http://chat.test", False),
    ("chat.test:8080", "http://chat.test:8081", False),
    ("[::1]:8080", "http://[::1]:8081", False),
    ("[::1]:8080", "http://[::2]:8080", False),
    ("chat.test", "http://chat.test@evil.test", False),
    ("chat.test", "http://chat.test:80@evil.test", False),
    ("chat.test", "http://evil.test@chat.test", False),
    ("chat.test", "http://evil.test#chat.test", False),
    ("chat.test", "http://evil.test/chat.test", False),
    ("chat.test", "http://evil.test?chat.test", False),
    ("chat.test", "http://evil.test\\chat.test", False),
    ("chat.test", "http://evil.test\\@chat.test", False),
    ("chat.test", "http://evil.test, http://chat.test", False),
    ("chat.test", "http://chat.test, http://evil.test", False),
    ("chat.test", "http://chat.test http://evil.test", False),
    ("chat.test", "http://ch\u0430t.test", False),  # a Cyrillic letter
    ("chat.test", "*", False),
)
LISTED = (
    ("chat.test", "https://site.test", True),
    ("chat.test", "app://obscure", True),
    ("chat.test", "http://chat.test", True),
    ("chat.test", None, True),
    ("chat.test", "null", False),
    ("chat.test", "http://site.test", False),
    ("chat.test", "https://site.test:444", False),
    ("chat.test", "https://site.test.evil.test", False),
    ("chat.test", "https://site.test@evil.test", False),
    ("chat.test", "https://site.tes", False),
)
FORGED = "\r\n".join(
    f"{name}: {value}"
    for name, value in (
        ("X-Forwarded-For", "10.0.0.1"),
        ("X-Real-IP", "10.0.0.1"),
        ("X-Forwarded-Host", "evil.test"),
        ("X-Forwarded-Proto", "https"),
        ("Forwarded", 'for=10.0.0.1;host="evil.test";proto=https'),
        ("X-HTTP-Method-Override", "GET"),
    )
)


class OriginCase(NodeCase):
    """Handshakes from pages."""

    def status(self, host: str, origin: str | None, more: str = "") -> int:
        """What a handshake from a page of that origin gets."""
        head = f"Host: {host}\r\n" + (f"Origin: {origin}\r\n" if origin is not None else "") + more
        client = self.raw_web()
        client.send(UPGRADE.replace(b"Host: chat.test\r\n", head.encode(), 1))
        status = int(client.received.split()[1])
        self.assertEqual(client.closed, status != 101, client.received)
        client.vanish()
        return status

    def check(self, table: tuple[tuple[str, str | None, bool], ...]) -> None:
        """Holds a table."""
        for host, origin, good in table:
            status = self.status(host, origin)
            self.assertEqual(status == 101, good, (host, origin, status))
            self.assertIn(status, (101, 400, 403), (host, origin))


class OwnOriginTests(OriginCase):
    """Nothing is listed."""

    def test_table(self) -> None:
        """Pages of the host that was asked may connect, and clients that are no pages."""
        self.check(OWN)

    def test_forged(self) -> None:
        """Headers of a proxy make no foreign page one of ours, and no page of ours foreign."""
        more = f"{FORGED}\r\n"
        self.assertEqual(self.status("chat.test", "http://evil.test", more), 403)
        self.assertEqual(self.status("chat.test", "http://chat.test", more), 101)


class ListedOriginTests(OriginCase):
    """Two are listed."""

    origins = ("https://site.test", "app://obscure")

    def test_table(self) -> None:
        """What is listed may connect, to the letter, besides what may always."""
        self.check(LISTED)


class AddressTests(NodeCase):
    """The address of a client is that of its connection."""

    limits = Limits(passwords_per_minute=2)

    async def test_forged(self) -> None:
        """Whoever says in a header that the request came from elsewhere is braked as before."""
        codes = []
        for number in range(4):
            body = json.dumps({"name": "bob", "password": "guess"})
            client = self.raw_web()
            forged = FORGED.replace("10.0.0.1", f"10.0.0.{number}")
            client.send(
                f"POST /api/v1/login HTTP/1.0\r\nHost: h{number}.test\r\n{forged}\r\n"
                f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
            )
            await client.until(lambda client=client: client.closed or None)  # type: ignore[misc]
            codes.append(client.received.split()[1])
        self.assertEqual(codes, [b"401", b"401", b"429", b"429"])
        client = self.frames_from(FORGED)
        (session,) = self.node.hub.sessions
        self.assertEqual(session.address, "192.0.2.7")
        client.vanish()

    def frames_from(self, headers: str) -> Client:
        """A WebSocket whose handshake had more headers."""
        client = self.raw_web()
        client.send(UPGRADE.replace(b"Host:", f"{headers}\r\nHost:".encode(), 1))
        self.assertTrue(client.received.startswith(b"HTTP/1.1 101"))
        return client


class CrossSiteTests(NodeCase):
    """What a page of another site can make a browser send to the HTTP API without asking first
    (a "simple" request of the Fetch standard), in a browser whose user is logged in here."""

    async def post(self, kind: str, path: str, body: str, method: str = "POST") -> Client:
        """The connection after the answer."""
        client = self.raw_web()
        client.send(
            f"{method} {path} HTTP/1.0\r\nHost: chat.test\r\nOrigin: http://evil.test\r\n"
            f"Referer: http://evil.test/\r\nCookie: token={self.token}; session={self.token}\r\n"
            f"Sec-Fetch-Site: cross-site\r\nContent-Type: {kind}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
        )
        await client.until(lambda: client.closed or None)
        return client

    async def test_simple_posts(self) -> None:
        """Without Authorization, which no page can make a browser add, every command for users
        is refused; no cookie is one, none is set, and no page may read an answer."""
        known = await self.frames().ask("register", name="bob", password="secret")
        self.token = known["token"]
        for kind in ("text/plain", "application/x-www-form-urlencoded"):
            for command, body in (
                ("say", '{"to":"@bob","text":"forged"}'),
                ("rooms", "{}"),
                ("logout", '{"everywhere":true}'),
                ("create", '{"name":"evil"}'),
            ):
                client = await self.post(kind, f"/api/v1/{command}", body)
                self.check(client, b"401")
        client = await self.post("text/plain", f"/api/v1/rooms?token={self.token}", "")
        self.check(client, b"401")
        form = f"token={self.token}&to=@bob&text=forged"
        client = await self.post("application/x-www-form-urlencoded", "/api/v1/say", form)
        self.check(client, b"400")
        self.assertTrue((await self.frames().ask("login", token=self.token))["ok"])

    async def test_preflight(self) -> None:
        """A browser that asks whether a page may send more is not told that it may."""
        self.token = ""
        for path in ("/api/v1/say", "/api/v1/x", "/healthz", "/"):
            client = await self.post("text/plain", path, "", "OPTIONS")
            self.check(client, b"404" if path == "/" else b"405")

    async def test_ordinary(self) -> None:
        """An answer that succeeds may not be read by a page of another site either."""
        self.token = ""
        self.check(await self.post("text/plain", "/api/v1/ping", "{}"), b"200")
        self.check(await self.post("text/plain", "/healthz", "", "GET"), b"200")

    def check(self, client: Client, status: bytes) -> None:
        """The status, and what stands in no head."""
        head = client.received.partition(b"\r\n\r\n")[0].lower()
        self.assertEqual(head.split()[1], status, client.received)
        self.assertNotIn(b"access-control-", head)
        self.assertNotIn(b"set-cookie", head)
        self.assertIn(b"x-content-type-options: nosniff", head)
        self.assertIn(b"content-type: application/json", head)

"""Passwords, tokens, keys and JWTs stay out of the log at its loudest, and a token in a URL is
no proof of anything. Nothing that a client sends forges a line of the log."""

from __future__ import annotations

import json
import re
import secrets
import socket
import time
from typing import Any

import jwt

from tests.bed import UPGRADE
from tests.daemon import SECONDS, Browser, Daemon, DaemonCase, Nc, chatctl

LINE = re.compile(r"\d{4}-\d\d-\d\dT[\d:]{8}[+-]\d{4} \[\w+\] [\w.]+: |    |$")
FORGED = "x\r\n2026-11-20T08:00:00+0000 [info] chatd.tap: \x1b[2Jforged\x9b\u2028\u202e"


class SecretTests(DaemonCase):
    """A daemon that logs all that it can."""

    def test_text(self) -> None:
        """In lines of text."""
        daemon, known = self.run_all("text")
        self.assert_clean(daemon, *known)
        for line in daemon.log.splitlines():
            self.assertRegex(line, LINE)

    def test_json(self) -> None:
        """In lines of JSON."""
        daemon, known = self.run_all("json")
        self.assert_clean(daemon, *known)
        for line in daemon.log.splitlines():
            self.assertIn(json.loads(line)["level"], ("debug", "info"))

    def run_all(self, form: str) -> tuple[Daemon, list[str]]:
        """Gives every kind of secret, right and wrong, to every wire; the ended daemon, and the
        secrets."""
        site = secrets.token_urlsafe(32)
        self.known = [site]
        daemon = self.daemon(CHATD_LOG_LEVEL="debug", CHATD_LOG_FORMAT=form, CHATD_JWT_KEY=site)
        self.port = daemon.web_port
        self.lines = str(daemon.line_port)
        where = ("--state", str(self.state))
        key = self.secret(chatctl("key", "add", "site", "--scope", "login-as", *where).strip())
        word = self.secret("pw-right-7Qx")
        known = self.browser(self.port).ask("register", name="bob", password=word)
        token = self.secret(known["token"])
        claims = {"sub": "dora", "exp": time.time() + 600}
        good = self.secret(jwt.encode(claims, site, "HS256"))
        bad = self.secret(jwt.encode(claims, "another-key-of-32-bytes-or-more!!", "HS256"))
        proofs: list[dict[str, Any]] = [
            {"name": "bob", "password": word},
            {"name": "bob", "password": self.secret("pw-wrong-7Qx")},
            {"name": "nobody", "password": self.secret("pw-nobody-7Qx")},
            {"name": FORGED, "password": self.secret("pw-forged-7Qx")},
            {"name": "bob", "password": self.secret("pw-surplus-7Qx"), FORGED: 1},
            {"token": token},
            {"token": self.secret("tk-wrong-7Qx")},
            {"jwt": good},
            {"jwt": bad},
            {"name": "eve", "api_key": key},
            {"name": "eve", "api_key": self.secret("ak-wrong-7Qx")},
        ]
        self.everywhere(proofs)
        self.headers(token, key, good)
        self.urls(token, key)
        self.broken(word, token)
        self.assertEqual(daemon.stop(), -15)
        return daemon, self.known

    def secret(self, text: str) -> str:
        """Notes what must not be in the log."""
        self.known.append(text)
        return text

    def everywhere(self, proofs: list[dict[str, Any]]) -> None:
        """Logins by WebSocket, JSON lines, typed lines and HTTP."""
        logged_in = 0
        for proof in proofs:
            logged_in += self.browser(self.port).ask("login", **proof)["ok"]
            nc = self.terminal(Nc, "127.0.0.1", self.lines)
            nc.line(json.dumps({"cmd": "login", "id": 1, **proof}))
            self.assertIn('"reply":', nc.next())
            typed = " ".join(f"{name}={value}" for name, value in proof.items())
            nc = self.terminal(Nc, "127.0.0.1", self.lines)
            nc.line("/login " + typed.replace("\r\n", "\r"))
            self.assertRegex(nc.next(), r"^(\+OK|-ERR)")
            self.http(f"POST /api/v1/login HTTP/1.1\r\nHost: x\r\n{_body(proof)}")
        self.assertEqual(logged_in, 4)

    def headers(self, token: str, key: str, good: str) -> None:
        """Authorization of every kind."""
        for scheme, secret, status in (
            ("Bearer", token, 200),
            ("bearer ", token, 200),
            ("Bearer", key, 401),
            ("Bearer", good, 401),
            ("Bearer", self.secret("hd-wrong-7Qx"), 401),
            ("Basic", self.secret("aGQtYmFzaWMtN1F4OnB3"), 401),
            ("Bearer", self.secret("hd-two-7Qx") + " " + token, 401),
            ("\x9b", self.secret("hd-odd-7Qx"), 401),
        ):
            head = f"Host: x\r\nAuthorization: {scheme} {secret}\r\n{_body({})}"
            self.assertEqual(self.http(f"POST /api/v1/rooms HTTP/1.1\r\n{head}"), status, scheme)

    def urls(self, token: str, key: str) -> None:
        """A token in a URL logs nobody in."""
        for name in ("token", "access_token", "authorization", "api_key"):
            for secret in (token, key):
                target = f"/api/v1/rooms?{name}={secret}"
                for method, status in (("POST", 401), ("GET", 405), ("OPTIONS", 405)):
                    head = f"{method} {target} HTTP/1.1\r\nHost: x\r\n{_body({})}"
                    self.assertEqual(self.http(head), status)
            for path, status in ((f"/?{name}={token}", 404), (f"/{token}", 404)):
                self.assertEqual(self.http(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"), status)
            upgrade = UPGRADE.replace(b"/ws", f"/ws?{name}={token}".encode(), 1)
            connected = socket.create_connection(("127.0.0.1", self.port), SECONDS)
            browser = Browser(connected, upgrade)
            self.addCleanup(browser.close)
            self.assertNotIn("user", browser.ask("whoami"))
            self.assertEqual(browser.ask("rooms")["error"], "unauthorized")
            evil = upgrade.replace(b"Host:", b"Origin: http://evil.test\r\nHost:", 1)
            self.assertEqual(self.http(evil.decode()), 403)
            bad = upgrade.replace(b"Version: 13", b"Version: 99", 1)
            self.assertEqual(self.http(bad.decode()), 400)
            for mistake in (b" HTTP/1.1 x\r\n", b"#x HTTP/1.1\r\n", b"x HTTP/1.0\r\n"):
                bad = upgrade.replace(b" HTTP/1.1\r\n", mistake, 1)
                self.assertIn(self.http(bad.decode()), (400, 505))
            bad = upgrade.replace(b"Connection: Upgrade", f"Connection: {token}".encode(), 1)
            self.assertEqual(self.http(bad.decode()), 400)
            cookie = upgrade.replace(b"Host:", f"Cookie: {name}={token}\r\nHost:".encode(), 1)
            self.assertEqual(self.http(cookie.decode()), 101)

    def broken(self, word: str, token: str) -> None:
        """Secrets in requests that cannot be read."""
        browser = self.browser(self.port)
        browser.text(f'{{"cmd":"login","name":"bob","password":"{word}'.encode())
        self.assertEqual(browser.next()["error"], "bad-request")
        browser.text(f'{{"cmd":"login","token":["{token}"]}}'.encode())
        self.assertEqual(browser.next()["error"], "bad-request")
        browser.text(f'{{"cmd":"{token}"}}'.encode())
        self.assertEqual(browser.next()["error"], "unknown-command")
        nc = self.terminal(Nc, "127.0.0.1", self.lines)
        for line in (f"/login bob {word} x=\x07", f"/{token}", f"login bob {word}"):
            nc.line(line)
            self.assertRegex(nc.next(), "^-ERR")
        self.http(f"{token} / {word}\r\n\r\n")
        self.http(
            f"POST /api/v1/login?{word} HTTP/1.1\r\nHost: x\r\nContent-Length: {token}\r\n\r\n"
        )

    def http(self, head: str) -> int:
        """The status of the answer to a request, on a connection of its own."""
        with socket.create_connection(("127.0.0.1", self.port), SECONDS) as connected:
            connected.sendall(head.encode("latin-1", "replace"))
            connected.shutdown(socket.SHUT_WR)
            answer = b""
            while piece := connected.recv(4096):
                answer += piece
            return int(answer.split()[1])


def _body(fields: dict[str, Any]) -> str:
    body = json.dumps(fields)
    return f"Content-Length: {len(body)}\r\n\r\n{body}"

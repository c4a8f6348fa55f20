"""SIGHUP at the real daemon: what follows the configuration, and that nobody notices."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import ssl
import time

import jwt

from tests.bed import UPGRADE
from tests.certificate import self_signed
from tests.daemon import ENDED, SECONDS, Browser, Closed, Daemon, Nc, password
from tests.test_signals import SupervisedCase

TOO_BIG = 1009  # RFC 6455 §7.4.1
READ = "the configuration was read again"
KEYS = ("q7Zr0kV2nX5sYb8cLd1eFg4hJm6pTu9w", "w9uTp6mJh4gFe1dLc8bYs5Xn2Vk0rZ7q")
ORIGIN = "https://chat.example.org"


class Logging(Daemon):
    """A daemon that logs to a file, where a line stands as soon as it is written."""

    program = (*Daemon.program[:-1], "--logfile=chatd.log", Daemon.program[-1])

    @property
    def log(self) -> str:
        return (self.state.parent / "chatd.log").read_text()

    def find(self, pattern: str) -> str:
        """The first group of the pattern in the log."""
        found = re.search(pattern, self.log)
        assert found, self.log
        return found[1]


class ReloadCase(SupervisedCase):
    """A test with a configuration file."""

    def started(self, text: str = "", *options: str, **variables: str) -> Logging:
        """A daemon with this file, once it is ready."""
        self.path = self.directory / "chatd.toml"
        self.path.write_text(text)
        named = ("--config", str(self.path), *options)
        chatd = Logging(self.state, *named, NOTIFY_SOCKET=self.address, **variables)
        self.addCleanup(chatd.wait)
        self.addCleanup(chatd.process.kill)
        self.assertIn("READY=1", self.told())
        return chatd

    def reload(self, chatd: Daemon, text: str = "") -> list[str]:
        """Has the daemon read this file; what it logged of that."""
        self.path.write_text(text)
        before = len(chatd.log)
        self.hang_up(chatd)
        return [line for line in chatd.log[before:].splitlines() if "chatd.reload" in line]

    def hang_up(self, chatd: Daemon) -> None:
        """Has the daemon read its file, and waits until it has."""
        chatd.process.send_signal(signal.SIGHUP)
        while "RELOADING=1" not in self.told():
            pass
        while "READY=1" not in self.told():
            pass


class FollowTests(ReloadCase):
    """What a running daemon takes over."""

    def test_limits(self) -> None:
        """Limits hold at once, for open connections as well, which all stay."""
        chatd = self.started("[limits]\ntext_chars = 600\nframe_bytes = 1024\n")
        bob = self.user("bob", chatd.web_port)
        tom = self.terminal(Nc, "127.0.0.1", str(chatd.line_port))
        tom.answer(f"/register tom {password('tom')}")
        long = "x" * 800
        self.assertEqual(bob.ask("say", to="@tom", text=long)["error"], "too-large")
        self.reload(chatd, "[limits]\ntext_chars = 5000\nframe_bytes = 8192\n")
        self.assertEqual(bob.ask("say", to="@tom", text=long)["seq"], 1)
        self.assertEqual(bob.ask("say", to="@tom", text="x" * 5000)["seq"], 2)
        self.assertEqual(tom.event(), f"* @tom 1 <bob> {long}")
        self.reload(chatd, "[limits]\ntext_chars = 600\nframe_bytes = 1024\n")
        bob.send("say", to="@tom", text="x" * 2000)
        self.assertEqual(self.assertRaises(Closed, bob.next).code, TOO_BIG)
        self.assertEqual(chatd.stop(), ENDED)
        self.assertNotIn("Traceback", chatd.log)

    def test_who_may_register(self) -> None:
        """So does who may register."""
        chatd = self.started()
        bob = self.user("bob", chatd.web_port)
        self.reload(chatd, "[accounts]\nregistration = 'closed'\n")
        eve = self.browser(chatd.web_port)
        refused = eve.ask("register", name="eve", password=password("eve"))
        self.assertEqual(refused["error"], "forbidden")
        self.assertTrue(bob.ask("ping")["ok"])

    def test_how_long_one_lingers(self) -> None:
        """So is how long one lingers who has gone."""
        rates = "[limits]\nsession_rate = 1000000\nuser_rate = 1000000\n"  # it asks and asks
        chatd = self.started(f"[presence]\nlinger_seconds = 3600\n{rates}")
        bob, tom = (self.user(name, chatd.web_port) for name in ("bob", "tom"))
        bob.ask("say", to="@tom", text="hello")
        while bob.ask("who", users=["tom"])["users"][0]["state"] != "online":
            pass
        bob.ask("watch", to="@tom")
        self.reload(chatd, "[presence]\nlinger_seconds = 0\n")
        tom.close()
        event = bob.event()
        self.assertEqual((event["from"], event["state"]), ("tom", "offline"))

    def test_how_long_messages_change(self) -> None:
        """So does for how long a message may be edited."""
        chatd = self.started("[messages]\nedit_seconds = 0\n")
        bob = self.user("bob", chatd.web_port)
        seq = bob.ask("say", to="@bob", text="one")["seq"]
        self.assertEqual(bob.ask("edit", to="@bob", seq=seq, text="two")["error"], "forbidden")
        self.reload(chatd)
        self.assertTrue(bob.ask("edit", to="@bob", seq=seq, text="two")["ok"])

    def test_key_of_jwts(self) -> None:
        """A new key for JWTs is good, the one before no longer."""
        chatd = self.started(f"[jwt]\nkey = '{KEYS[0]}'\n")
        first, second = (
            jwt.encode({"sub": "zoe", "exp": time.time() + 3600}, key, "HS256") for key in KEYS
        )
        self.assertTrue(self.browser(chatd.web_port).ask("login", jwt=first)["ok"])
        self.reload(chatd, f"[jwt]\nkey = '{KEYS[1]}'\n")
        self.assertFalse(self.browser(chatd.web_port).ask("login", jwt=first)["ok"])
        self.assertTrue(self.browser(chatd.web_port).ask("login", jwt=second)["ok"])
        self.reload(chatd)
        self.assertFalse(self.browser(chatd.web_port).ask("login", jwt=second)["ok"])

    def test_origins(self) -> None:
        """Pages of a new origin may connect."""
        chatd = self.started()
        self.assertEqual(self.status(chatd), "403")
        self.reload(chatd, f"[listen]\norigins = ['{ORIGIN}']\n")
        self.assertEqual(self.status(chatd), "101")

    def status(self, chatd: Daemon) -> str:
        """What a page of `ORIGIN` gets for its handshake."""
        with socket.create_connection(("127.0.0.1", chatd.web_port), SECONDS) as connected:
            connected.sendall(UPGRADE[:-2] + f"Origin: {ORIGIN}\r\n\r\n".encode())
            return connected.recv(4096).split()[1].decode()

    def test_log(self) -> None:
        """Format and level of the log follow."""
        chatd = self.started()
        (line,) = self.reload(chatd, "[log]\nformat = 'json'\n")
        self.assertEqual(json.loads(line)["text"], READ)
        self.assertEqual(self.reload(chatd, "[log]\nlevel = 'error'\n"), [])
        (line,) = self.reload(chatd)
        self.assertRegex(line, rf"^\S+ \[info\] chatd\.reload\.Reload: {READ}$")

    def test_environment(self) -> None:
        """Options and variables are still stronger than the file."""
        chatd = self.started(CHATD_LIMITS_TEXT_CHARS="10")
        bob = self.user("bob", chatd.web_port)
        self.reload(chatd, "[limits]\ntext_chars = 1000\n")
        self.assertEqual(bob.ask("say", to="@bob", text="x" * 11)["error"], "too-large")

    def test_restart_needed(self) -> None:
        """What only a restart changes is named, and the rest is applied."""
        chatd = self.started()
        text = "state = '/elsewhere'\n[store]\nconnections = 5\n[limits]\ntext_chars = 7\n"
        for _ in range(2):
            applied, named = self.reload(chatd, text)
            self.assertTrue(applied.endswith(READ))
            self.assertRegex(
                named, r"\[warn\] .*: store\.connections changed: that needs a restart$"
            )
        bob = self.user("bob", chatd.web_port)
        self.assertEqual(bob.ask("say", to="@bob", text="x" * 8)["error"], "too-large")
        self.assertEqual(len(self.reload(chatd)), 1)

    def test_supervisor(self) -> None:
        """systemd hears when it began, by its clock, and that it is over (sd_notify(3))."""
        chatd = self.started()
        begun = time.monotonic_ns() // 1000
        chatd.process.send_signal(signal.SIGHUP)
        while "RELOADING=1" not in (told := self.told()):
            pass
        name, _, value = told[1].partition("=")
        self.assertEqual(name, "MONOTONIC_USEC")
        self.assertLess(begun, int(value))
        self.assertLess(int(value), time.monotonic_ns() // 1000)
        self.assertEqual(self.told(), ["READY=1"])


class MistakeTests(ReloadCase):
    """With mistakes everything stays as it was."""

    def test_every_mistake(self) -> None:
        """Each is an error of its own, and nothing is applied, nobody dropped."""
        chatd = self.started("[limits]\ntext_chars = 10\n")
        bob = self.user("bob", chatd.web_port)
        text = "[limits]\ntext_chars = 20\nrooms = 0\n[log]\nlevel = 'loud'\n"
        lines = self.reload(chatd, text)
        self.assertEqual(len(lines), 2, lines)
        for line, key in zip(sorted(lines), ("limits.rooms", "log.level"), strict=True):
            self.assertIn("[error] chatd.reload.Reload: not reloaded: ", line)
            self.assertIn(key, line)
        self.assertEqual(bob.ask("say", to="@bob", text="x" * 11)["error"], "too-large")

    def test_no_file(self) -> None:
        """A file that is gone, too."""
        chatd = self.started()
        self.reload(chatd)
        self.path.unlink()
        self.hang_up(chatd)
        self.assertRegex(chatd.log, "not reloaded: .*cannot be read: No such file")
        self.assertTrue(self.browser(chatd.web_port).ask("ping")["ok"])


class CertificateTests(ReloadCase):
    """Certificates are renewed every few weeks."""

    def shown(self, port: int) -> tuple[bytes, ssl.SSLSocket]:
        """The certificate that a port shows, and the connection on which it did."""
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        plain = socket.create_connection(("127.0.0.1", port), SECONDS)
        connected = context.wrap_socket(plain, server_hostname="localhost")
        self.addCleanup(connected.close)
        return connected.getpeercert(True) or b"", connected

    def renew(self) -> None:
        """Puts a new certificate in the place of the one before."""
        certificate, key = self_signed(self.directory)
        (self.directory / "pems" / "all.pem").write_bytes(
            certificate.read_bytes() + key.read_bytes()
        )

    def setUp(self) -> None:
        super().setUp()
        (self.directory / "pems").mkdir()
        self.renew()

    def endpoints(self) -> tuple[str, str]:
        """One with files, one with a directory of them."""
        files = f"privateKey={self.directory}/key.pem:certKey={self.directory}/certificate.pem"
        return f"ssl:0:interface=127.0.0.1:{files}", (
            f"tls:{self.directory}/pems:0:interface=127.0.0.1"
        )

    def test_renewed(self) -> None:
        """New connections get the new certificate, open ones go on."""
        lines, web = self.endpoints()
        chatd = self.started("", "--tcp", lines, "--http", web)
        ports = (chatd.line_port, chatd.web_port)
        before = [self.shown(port) for port in ports]
        bob = Browser(before[1][1])
        self.assertTrue(bob.ask("register", name="bob", password=password("bob"))["ok"])
        self.renew()
        self.reload(chatd)
        for port, (first, _) in zip(ports, before, strict=True):
            self.assertNotEqual(self.shown(port)[0], first)
        self.assertTrue(bob.ask("ping")["ok"])
        before[0][1].sendall(b"/ping\n")
        self.assertTrue(before[0][1].recv(4096).startswith(b"+OK at="))
        eve = Browser(self.shown(ports[1])[1])
        self.assertTrue(eve.ask("login", name="bob", password=password("bob"))["ok"])
        self.assertEqual(chatd.stop(), ENDED)
        self.assert_clean(chatd)

    def test_broken(self) -> None:
        """A key of another certificate, or an empty directory, is told in a line, and the old
        certificates are shown until they are mended."""
        lines, web = self.endpoints()
        chatd = self.started("", "--tcp", lines, "--http", web)
        ports = (chatd.line_port, chatd.web_port)
        before = [self.shown(port)[0] for port in ports]
        old = (self.directory / "key.pem").read_bytes()
        self.renew()
        new = (self.directory / "key.pem").read_bytes()
        (self.directory / "key.pem").write_bytes(old)
        (line,) = self.reload(chatd)
        self.assertRegex(line, r"\[error\] .* not reloaded: listen\.tcp .* do not match")
        self.assertEqual([self.shown(port)[0] for port in ports], before)
        (self.directory / "key.pem").write_bytes(new)
        (self.directory / "pems" / "all.pem").rename(self.directory / "aside")
        (line,) = self.reload(chatd)
        self.assertRegex(line, r"\[error\] .* not reloaded: tls:\S+: there is no certificate")
        self.assertEqual([self.shown(port)[0] for port in ports], before)
        (self.directory / "aside").rename(self.directory / "pems" / "all.pem")
        self.reload(chatd)
        after = [self.shown(port)[0] for port in ports]
        self.assertTrue(set(before).isdisjoint(after))


class LogFileTests(ReloadCase):
    """The log file under logrotate."""

    def test_moved_away(self) -> None:
        """After a reload a new file is written, and the old one no more, even with a mistake
        in the configuration; where no file can be made, the old one is."""
        chatd = self.started()
        log = self.directory / "chatd.log"
        moved = self.directory / "chatd.log.1"
        log.rename(moved)
        self.path.write_text("nonsense = 1")
        self.hang_up(chatd)
        self.assertIn("TCP lines", moved.read_text())
        self.assertNotIn("not reloaded", moved.read_text())
        self.assertIn("not reloaded: nonsense", log.read_text())
        last = self.directory / "chatd.log.2"
        log.rename(last)
        log.mkdir()
        self.hang_up(chatd)
        self.assertIn("the log file cannot be opened", last.read_text())
        self.assertEqual(os.listdir(log), [])
        self.assertEqual(chatd.stop(), ENDED)

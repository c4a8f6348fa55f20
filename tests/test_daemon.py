"""The real daemon's start, life under a supervisor, and end."""

from __future__ import annotations

import importlib
import json
import re
import socket
import sqlite3
import subprocess
import threading
from contextlib import closing
from pathlib import Path

from chatd import __version__
from chatd.config import store_url
from chatd.store import schema
from chatd.store.connection import Connection
from chatd.store.dialects import dialect
from tests import mariadb
from tests.certificate import self_signed
from tests.daemon import (
    ENDED,
    LOOPBACK,
    SECONDS,
    TWISTD,
    Browser,
    Closed,
    Daemon,
    DaemonCase,
    Nc,
    chatctl,
    environment,
    password,
)

BAD_CONFIG, UNAVAILABLE = 78, 69
TALKERS = 20
DROPPED = 0


class StartTests(DaemonCase):
    """What keeps the daemon from starting is told, in sentences."""

    def refused(self, *options: str) -> tuple[int, str]:
        """The exit code and the output of a daemon that must not start."""
        daemon = self.daemon(*options)
        return daemon.wait(), daemon.log

    def run_twistd(self, *options: str) -> tuple[int, str]:
        """The exit code and the output of a run that ends by itself."""
        done = subprocess.run(
            [*TWISTD, *options],
            cwd=self.directory,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            timeout=SECONDS,
        )
        return done.returncode, done.stdout

    def config(self, text: str) -> str:
        """The path of a configuration file."""
        path = self.directory / "chatd.toml"
        path.write_text(text)
        return str(path)

    def test_version(self) -> None:
        """`--version` tells chatd's, and nothing else."""
        self.assertEqual(self.run_twistd("--version"), (0, f"chatd {__version__}\n"))

    def test_good_configuration(self) -> None:
        """`--check` finds nothing wrong with a good file, and creates nothing."""
        path = self.config('[limits]\ntext_chars = 100\n[log]\nformat = "json"\n')
        found = self.run_twistd("--config", path, "--state", str(self.state), "--check")
        self.assertEqual(found, (0, "The configuration is good.\n"))
        self.assertFalse(self.state.exists())

    def test_bad_configuration(self) -> None:
        """`--check` tells every mistake at once, a line for each, and ends with 78; so does a
        start."""
        path = self.config('stat = ""\n[limits]\ntext_chars = 0\n[log]\nlevel = "loud"\n')
        for check in ((), ("--check",)):
            code, told = self.run_twistd("--config", path, "--tcp", "tcp:no", *check)
            self.assertEqual(code, BAD_CONFIG, told)
            lines = sorted(line.partition(" (")[0] for line in told.splitlines())
            expected = ["limits.text_chars", "listen.tcp", "log.level", "stat"]
            self.assertEqual(lines, [f"chatd: {name}" for name in expected], told)

    def test_public_and_open(self) -> None:
        """A public address with open registration is refused, and the remedy told."""
        public = ("--http", "tcp:0", "--tcp", LOOPBACK)
        code, told = self.refused(*public)
        self.assertEqual(code, BAD_CONFIG, told)
        self.assertRegex(told, r'chatd: accounts\.registration .* allowed: "invitation"')
        self.assertNotIn("WebSocket", told)

    def test_busy_port(self) -> None:
        """A port that somebody else has fails the start with a sentence and a code."""
        with socket.create_server(("127.0.0.1", 0)) as other:
            busy = f"tcp:{other.getsockname()[1]}:interface=127.0.0.1"
            code, told = self.refused("--tcp", busy)
        self.assertEqual(code, UNAVAILABLE, told)
        self.assertRegex(told, r"chatd: Couldn't listen on 127\.0\.0\.1:\d+: .*in use")
        self.assertNotIn("Traceback", told)
        self.assertNotIn("TCP lines", told)

    def test_second_daemon(self) -> None:
        """A store has one daemon; a second is refused with a sentence, until the first ends."""
        url = mariadb.fresh_database()
        schema.upgrade(store_url(url, ""))
        for store in ((), ("--store", url)):
            first = self.daemon(*store)
            self.assertGreater(first.web_port, 0)
            code, told = self.refused(*store)
            self.assertEqual(code, UNAVAILABLE, told)
            self.assertIn("another chatd uses", told)
            first.kill()
            self.assertGreater(self.daemon(*store).web_port, 0)

    def test_empty_schema(self) -> None:
        """On MySQL a schema is the operator's to make: the start is refused and says how."""
        code, told = self.refused("--store", mariadb.fresh_database())
        self.assertEqual(code, BAD_CONFIG, told)
        self.assertIn("run chatctl db upgrade", told)

    def test_newer_schema(self) -> None:
        """A database of a later chatd is refused, SQLite's as well, and left as it is."""
        for text in (mariadb.fresh_database(), f"sqlite:///{self.directory}/newer.db"):
            url = store_url(text, "")
            schema.upgrade(url)
            _run_sql(text, "UPDATE alembic_version SET version_num = '9999'")
            code, told = self.refused("--store", text)
            self.assertEqual(code, BAD_CONFIG, told)
            self.assertIn("the schema is at 9999", told)
            self.assertIn("run a newer chatd", told)
            self.assertEqual(schema.revision(url), "9999")

    def test_no_database(self) -> None:
        """A database that does not answer is told without its password."""
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
        code, told = self.refused("--store", f"mysql://chatd:gEheim-7@127.0.0.1:{port}/chatd")
        self.assertEqual(code, UNAVAILABLE, told)
        self.assertIn("cannot be used", told)
        self.assertNotIn("gEheim", told)

    def test_no_place_for_the_database(self) -> None:
        """An SQLite file that cannot be is told in a sentence, with its path."""
        garbage = self.directory / "garbage"
        garbage.write_bytes(b"x" * 5000)
        for path, reason in (
            (garbage, "file is not a database"),
            (self.directory, "unable to open database file"),
            (garbage / "chat.db", "File exists"),
            ("/proc/chat.db", "No such file or directory"),
        ):
            code, told = self.refused("--store", f"sqlite:///{path}")
            self.assertEqual(code, UNAVAILABLE, told)
            self.assertIn(f"chatd: the database {path} cannot be used: {reason}\n", told)
            self.assertNotIn("Traceback", told)

    def test_key_of_another_certificate(self) -> None:
        """A key that is not the certificate's is a mistake, which the check finds, too."""
        others = self.directory / "others"
        others.mkdir()
        certificate, _ = self_signed(self.directory)
        _, key = self_signed(others)
        endpoint = f"ssl:0:interface=127.0.0.1:privateKey={key}:certKey={certificate}"
        code, told = self.refused("--tcp", endpoint, "--check")
        self.assertEqual(code, BAD_CONFIG, told)
        self.assertIn("do not match", told)
        directory = f"tls:{others}:0:interface=127.0.0.1"
        (others / "certificate.pem").unlink()
        code, told = self.refused("--tcp", directory)
        self.assertEqual(code, BAD_CONFIG, told)
        self.assertIn("there is no certificate with its key", told)


class Talker(threading.Thread):
    """Says things without end, until the server says goodbye."""

    def __init__(self, browser: Browser, to: str, begun: threading.Barrier) -> None:
        super().__init__(daemon=True)
        self.browser = browser
        self.to = to
        self.begun = begun
        self.acknowledged: list[str] = []
        self.refused: set[str] = set()
        self.events: list[str] = []
        self.code = DROPPED

    def run(self) -> None:
        """Keeps ten requests under way."""
        try:
            waiting = {self._say(n): f"text {n}" for n in range(10)}
            for number in range(10, 1_000_000):
                found = self.browser.next()
                if "event" in found:
                    self.events.append(found["event"])
                    continue
                text = waiting.pop(found["reply"])
                if not found["ok"]:
                    self.refused.add(found["error"])
                else:
                    self.acknowledged.append(text)
                    if len(self.acknowledged) == 10:
                        self.begun.wait(SECONDS)
                waiting[self._say(number)] = f"text {number}"
        except Closed as closed:
            self.code = closed.code
        except OSError:
            pass

    def _say(self, number: int) -> int:
        return self.browser.send("say", to=self.to, text=f"text {number}")


class StopTests(DaemonCase):
    """The end in good order, and what outlives it."""

    def test_busy(self) -> None:
        """Asked to end while twenty people talk, it says so, stores and answers what it took,
        closes with 1012, and ends; every acknowledged message is in the store, once, and no
        other."""
        chatd = self.daemon()
        chatd.output.find("TCP lines")
        begun = threading.Barrier(TALKERS + 1)
        key = chatctl("--state", str(self.state), "key", "add", "site", "--scope", "login-as")
        browsers = [self.browser(chatd.web_port) for _ in range(TALKERS)]
        for n, browser in enumerate(browsers):
            known = browser.ask("login", name=f"user{n}", api_key=key.strip())
            self.assertTrue(known["ok"], known)
        talkers = [Talker(b, f"@user{n ^ 1}", begun) for n, b in enumerate(browsers)]
        for talker in talkers:
            talker.start()
        begun.wait(SECONDS)
        self.assertEqual(chatd.stop(), ENDED)
        for talker in talkers:
            talker.join(SECONDS)
            self.assertFalse(talker.is_alive())
            # Dropped: one that on a busy machine did not answer the close in two seconds.
            self.assertIn(talker.code, (1012, DROPPED))
            self.assertTrue("going-away" in talker.events or talker.code == DROPPED)
            self.assertLessEqual(talker.refused, {"unavailable"})
        self.assertIn(1012, {talker.code for talker in talkers})
        self.assert_clean(chatd, "text 1", key.strip())
        stored = _stored(self.state / "chatd.db")
        for n, talker in enumerate(talkers):
            mine = [text for name, text in stored if name == f"user{n}"]
            self.assertEqual(len(mine), len(set(mine)))
            self.assertLessEqual(set(talker.acknowledged), set(mine))
            if talker.code == 1012:
                self.assertEqual(len(talker.acknowledged), len(mine))

    def test_history_is_kept(self) -> None:
        """A daemon on the same file knows what was said, and the tokens; killed or stopped."""
        chatd = self.daemon()
        bob = self.browser(chatd.web_port)
        token = bob.ask("register", name="bob", password=password("bob"))["token"]
        for seq in (1, 2):
            self.assertEqual(bob.ask("say", to="@bob", text=f"memo {seq}")["seq"], seq)
            if seq == 1:
                chatd.kill()
            else:
                self.assertEqual(chatd.stop(), ENDED)
            chatd = self.daemon()
            bob = self.browser(chatd.web_port)
            self.assertEqual(bob.ask("login", token=token)["user"], "bob")
            page = bob.ask("history", to="@bob")
            texts = [entry["text"] for entry in page["entries"]]
            self.assertEqual(texts, [f"memo {n + 1}" for n in range(seq)])


class SupervisedTests(DaemonCase):
    """The daemon under systemd, and its log."""

    def test_notifications(self) -> None:
        """The supervisor hears that it is ready, that it lives, and that it stops, in this
        order; ready means that the ports are open."""
        path = self.directory / "notify"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
            supervisor.bind(str(path))
            supervisor.settimeout(SECONDS)
            chatd = self.daemon(NOTIFY_SOCKET=str(path), WATCHDOG_USEC="30000000")
            self.assertIn("READY=1", supervisor.recv(4096).decode().splitlines())
            self.assertTrue(self.browser(chatd.web_port).ask("ping")["ok"])
            self.assertEqual(supervisor.recv(4096), b"WATCHDOG=1")
            self.assertEqual(chatd.stop(), ENDED)
            told = b""
            while told != b"STOPPING=1":
                told = supervisor.recv(4096)
                self.assertIn(told, (b"WATCHDOG=1", b"STOPPING=1"))

    def test_json_log(self) -> None:
        """With `format = "json"` all that is written is one JSON object a line, and nothing of
        what people said or proved themselves with; the levels below the set one too."""
        path = self.directory / "chatd.toml"
        path.write_text('[log]\nformat = "json"\nlevel = "debug"\n')
        chatd = self.daemon("--config", str(path))
        bob = self.browser(chatd.web_port)
        known = bob.ask("register", name="bob", password=password("bob"))
        bob.ask("login", name="bob", password="wrong-pw-3Zk")
        bob.ask("say", to="@bob", text="quite private")
        tom = self.terminal(Nc, "127.0.0.1", str(chatd.line_port))
        tom.answer("/login bob wrong-pw-3Zk")
        tom.answer(f"/login token={known['token']}")
        self.assertEqual(_status(chatd, "whoami", known["token"]), 200)
        self.assertEqual(_status(chatd, "whoami", "wrong-token-9Lp"), 401)
        key = chatctl("--state", str(self.state), "key", "add", "site", "--scope", "login-as")
        self.assertEqual(_status(chatd, "whoami", key.strip()), 200)
        self.assertEqual(chatd.stop(), ENDED)
        records = [json.loads(line) for line in chatd.log.splitlines()]
        self.assertTrue(any("WebSocket" in record["text"] for record in records))
        for record in records:
            self.assertLessEqual({"time", "level", "namespace", "text"}, set(record))
            self.assertIn(record["level"], ("debug", "info"), record)
        for secret in (password("bob"), "wrong-pw", "quite private", "wrong-token", key.strip()):
            self.assertNotIn(secret, chatd.log)
        self.assertNotIn(known["token"], chatd.log)


def _status(chatd: Daemon, command: str, token: str) -> int:
    """The status of an HTTP request with this token."""
    with socket.create_connection(("127.0.0.1", chatd.web_port), SECONDS) as connected:
        connected.sendall(
            f"POST /api/v1/{command} HTTP/1.0\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
        )
        found = re.match(rb"HTTP/1.[01] (\d+)", connected.makefile("rb").read())
    assert found is not None
    return int(found[1])


def _run_sql(url: str, sql: str) -> None:
    spoken = dialect(store_url(url, ""))
    raw = importlib.import_module(spoken.module).connect(**spoken.connect)
    Connection(raw, spoken).run(sql)
    raw.close()


def _stored(path: Path) -> list[tuple[str, str]]:
    """(sender, text) of the messages in a SQLite store."""
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute(
            "SELECT u.name, e.body FROM entries e JOIN users u ON u.id = e.sender_id"
            " WHERE e.kind = 'message'"
        ).fetchall()
    return [(name, json.loads(body)["text"]) for name, body in rows]

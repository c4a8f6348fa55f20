"""People at the real daemon: with telnet, nc, a WebSocket, over TLS and a Unix socket."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from chatd.config import store_url
from chatd.store import schema
from tests import mariadb
from tests.bed import UPGRADE, masked
from tests.certificate import self_signed
from tests.daemon import (
    ENDED,
    SECONDS,
    Browser,
    DaemonCase,
    Nc,
    Telnet,
    Terminal,
    password,
)

LONG = "长" * 8000  # 24 KB: the kernel takes a few of them for a program that does not read
MANY = 20
KERNEL_TAKES = 10  # of them at most: its buffer has 128 KB

if TYPE_CHECKING:
    _Case = DaemonCase
else:
    _Case = object  # what is shared is no test case of its own


class Conversation(_Case):
    """Bob has a WebSocket, Tom a terminal; subclasses say which, and on which database."""

    program: type[Terminal]

    def url(self) -> str:
        """The store URL of an empty database."""
        return f"sqlite:///{self.directory}/chat.db"

    def begin(self) -> Browser:
        """Starts the daemon; Bob, registered."""
        path = self.directory / "notify"
        self.supervisor = self.enterContext(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        self.supervisor.bind(str(path))
        self.chatd = self.daemon("--store", self.url(), NOTIFY_SOCKET=str(path))
        return self.user("bob", self.chatd.web_port)

    def tom(self, command: str = "login") -> Terminal:
        """Tom at a new terminal, logged in."""
        tom = self.terminal(self.program, "127.0.0.1", str(self.chatd.line_port))
        (answer,) = tom.answer(f"/{command} tom {password('tom')}")
        self.assertRegex(answer, r"^\+OK user=tom token=\S+ expires=\d+ session=\w+$")
        return tom

    def say(self, bob: Browser, *texts: str, to: str = "@tom") -> None:
        """Bob says something, which is stored."""
        for text in texts:
            said = bob.ask("say", to=to, text=text)
            self.assertTrue(said["ok"], said)

    def all_visited(self) -> None:
        """Waits until the daemon has looked after every session: two reports that it lives."""
        self.supervisor.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while self.supervisor.recv(4096):
                pass
        self.supervisor.settimeout(SECONDS)
        for _ in range(2):
            self.assertEqual(self.supervisor.recv(4096), b"WATCHDOG=1")

    def end(self, *secrets: str) -> None:
        """The daemon stops in good order, and its log tells nothing that it should not."""
        self.assertEqual(self.chatd.stop(), ENDED, self.chatd.log)
        self.assert_clean(self.chatd, password("tom"), password("bob"), *secrets)

    def test_talk(self) -> None:
        """A terminal and a WebSocket exchange direct and group messages, some in Chinese."""
        bob, tom = self.begin(), self.tom("register")
        self.assertRegex(tom.answer("/say @bob 你好，世界")[-1], r"^\+OK seq=1 at=\d+$")
        told = bob.event()
        at = told.pop("at")
        self.assertGreater(at, 1_700_000_000_000)
        direct = {"event": "message", "to": "@bob", "seq": 1, "from": "tom", "text": "你好，世界"}
        self.assertEqual(told, direct)
        self.say(bob, "在家吗？\nTwo lines")
        self.assertEqual(tom.event(), "* @tom 2 <bob> 在家吗？\\nTwo lines")

        self.assertEqual(bob.ask("create", name="team")["address"], "#team")
        self.assertRegex(tom.answer("/join #team")[-1], r"^\+OK seq=2 ")
        self.assertEqual(bob.event()["event"], "joined")
        self.assertRegex(tom.answer("hello, all")[-1], r"^\+OK seq=3 ")
        heard = bob.event()
        self.assertEqual((heard["to"], heard["seq"], heard["text"]), ("#team", 3, "hello, all"))
        self.say(bob, "大家好", to="#team")
        self.assertEqual(tom.event(), "* #team 4 <bob> 大家好")
        self.end("你好", "Two lines", "hello, all", "大家好")

    def test_away(self) -> None:
        """Who leaves, and gets five messages while away, sees exactly those at the next login,
        in order; at the one after it, nothing.

        What was told last before leaving does not come again, though nothing was sent after
        it: the connection ended in good order with every byte acknowledged.
        """
        bob, tom = self.begin(), self.tom("register")
        self.say(bob, "before")
        self.assertEqual(tom.event(), "* @tom 1 <bob> before")
        tom.leave()
        self.say(bob, *(f"离开 {n}" for n in range(5)))
        tom = self.tom()
        seen = [tom.event() for _ in range(5)]
        self.assertEqual(seen, [f"* @tom {n + 2} <bob> 离开 {n}" for n in range(5)])
        self.say(bob, "live")
        self.assertEqual(tom.event(), "* @tom 7 <bob> live")
        tom.leave()
        tom = self.tom()
        self.say(bob, "again")
        self.assertEqual(tom.event(), "* @tom 8 <bob> again")
        self.end()

    def test_killed_while_frozen(self) -> None:
        """What a terminal had not read when it was killed comes again, to the last message and
        without a gap."""
        bob, tom = self.begin(), self.tom("register")
        self.say(bob, "before")
        self.assertEqual(tom.event(), "* @tom 1 <bob> before")
        tom.freeze()
        numbers = [bob.send("say", to="@tom", text=LONG) for _ in range(MANY)]
        self.assertEqual([bob.next()["reply"] for _ in numbers], numbers)
        self.all_visited()
        tom.kill()
        tom = self.tom()
        self.say(bob, "after")
        seen: list[str] = []
        while not seen or not seen[-1].endswith("after"):
            seen.append(tom.event())
        first, last = int(seen[0].split()[2]), MANY + 2
        self.assertLess(first, KERNEL_TAKES)
        said = {1: "before", last: "after"}
        expected = [f"* @tom {n} <bob> {said.get(n, LONG)}" for n in range(first, last + 1)]
        self.assertEqual(seen, expected)
        self.end(LONG[:10])


class MySQL(Conversation):
    """The same on MariaDB."""

    def url(self) -> str:
        url = mariadb.fresh_database()
        schema.upgrade(store_url(url, ""))
        return url


class TelnetTests(Conversation, DaemonCase):
    """telnet, on SQLite."""

    program = Telnet


class NcTests(Conversation, DaemonCase):
    """nc, on SQLite."""

    program = Nc


class TelnetMySQLTests(MySQL, DaemonCase):
    """telnet, on MariaDB."""

    program = Telnet


class NcMySQLTests(MySQL, DaemonCase):
    """nc, on MariaDB."""

    program = Nc


class TypedTests(DaemonCase):
    """What only a telnet on a terminal does."""

    def test_byte_of_control_c(self) -> None:
        """telnet takes the byte 0x83 of 勃 for ^C: the line is refused, but seen to be, and the
        next one gets through."""
        chatd = self.daemon()
        tom = self.terminal(Telnet, "127.0.0.1", str(chatd.line_port))
        tom.answer(f"/register tom {password('tom')}")
        self.assertIn("-ERR bad-request A line is UTF-8", tom.answer("/say @tom 鲍勃")[-1])
        self.assertIn("+OK seq=1", tom.answer("/say @tom 鲍勃")[-1])
        self.assertEqual(tom.answer("/history @tom")[0], "= @tom 1 <tom> 鲍勃")


class HalfClosedTests(DaemonCase):
    """A client that says all it has to say, then ends its input."""

    def test_nc(self) -> None:
        """`printf … | nc -N` gets every answer before the connection ends, over TCP and over a
        Unix socket."""
        path = self.directory / "lines"
        unix = f"unix:{path}:mode=600"
        chatd = self.daemon("--tcp", "tcp:0:interface=127.0.0.1", "--tcp", unix)
        first = self.piped("127.0.0.1", str(chatd.line_port), command="register")
        self.assertEqual(first, ["user", *(f"seq={n}" for n in range(1, 21)), "at"])
        again = self.piped("-U", str(path), command="login")
        self.assertEqual(again, ["user", *(f"seq={n}" for n in range(21, 41)), "at"])
        self.assertEqual(chatd.stop(), ENDED)
        self.assert_clean(chatd)

    def piped(self, *where: str, command: str) -> list[str]:
        """How the answers to a login, twenty messages and a ping begin."""
        lines = [f"/{command} tom {password('tom')}", *["/say @tom hi"] * 20, "/ping"]
        done = subprocess.run(
            ["nc", "-N", *where],
            input="".join(f"{line}\n" for line in lines),
            stdout=subprocess.PIPE,
            encoding="utf-8",
            timeout=SECONDS,
        )
        return re.findall(r"^\+OK (user|seq=\d+|at)", done.stdout, re.MULTILINE)


class UnixTests(DaemonCase):
    """Clients on the same machine, without a port."""

    def test_both_ports(self) -> None:
        """Lines, WebSocket and HTTP are served on Unix sockets."""
        lines, web = self.directory / "lines", self.directory / "web"
        chatd = self.daemon("--tcp", f"unix:{lines}", "--http", f"unix:{web}")
        chatd.output.find("TCP lines")
        tom = self.terminal(Nc, "-U", str(lines))
        tom.answer(f"/register tom {password('tom')}")
        bob = Browser(self.connected(web))
        self.addCleanup(bob.close)
        self.assertTrue(bob.ask("register", name="bob", password=password("bob"))["ok"])
        tom.answer("/say @bob over there?")
        self.assertEqual(bob.event()["text"], "over there?")
        with self.connected(web) as connected:
            connected.sendall(b"POST /api/v1/ping HTTP/1.0\r\n\r\n")
            self.assertIn(b'{"at":', connected.makefile("rb").read())
        self.assertEqual(chatd.stop(), ENDED)
        self.assert_clean(chatd)

    def connected(self, path: Path) -> socket.socket:
        """A connection to a Unix socket."""
        connected = socket.socket(socket.AF_UNIX)
        connected.settimeout(SECONDS)
        connected.connect(str(path))
        return connected


class CompressionTests(DaemonCase):
    """The setting listen.deflate."""

    def test_setting(self) -> None:
        """Compression is agreed on where it is on, and not where it is off; either way the
        connection serves."""
        extension = b"Sec-WebSocket-Extensions: permessage-deflate"
        for setting, agreed in (("true", True), ("false", False)):
            chatd = self.daemon(CHATD_LISTEN_DEFLATE=setting)
            with socket.create_connection(("127.0.0.1", chatd.web_port), SECONDS) as connected:
                connected.sendall(UPGRADE.removesuffix(b"\r\n") + extension + b"\r\n\r\n")
                connected.sendall(masked(b'{"cmd":"help","id":1}') + masked(b"", 8))
                answer = connected.makefile("rb").read()
            self.assertTrue(answer.startswith(b"HTTP/1.1 101 "), answer[:300])
            self.assertEqual(extension in answer, agreed)
            self.assertEqual(b'{"reply":1,"ok":true' in answer, not agreed)
            self.assertEqual(chatd.stop(), ENDED)
            self.assert_clean(chatd)


class TLSTests(DaemonCase):
    """Both ports with a certificate of their own."""

    def test_both_ports(self) -> None:
        """Lines and WebSocket are served over TLS to clients that trust the certificate."""
        certificate, key = self_signed(self.directory)
        endpoint = f"ssl:0:interface=127.0.0.1:privateKey={key}:certKey={certificate}"
        chatd = self.daemon("--tcp", endpoint, "--http", endpoint)
        self.assertIn(f"wss://127.0.0.1:{chatd.web_port}/ws", chatd.log)
        trusting = ssl.create_default_context(cafile=certificate)
        bob = self.browser(chatd.web_port, trusting)
        self.assertTrue(bob.ask("register", name="bob", password=password("bob"))["ok"])
        plain = socket.create_connection(("127.0.0.1", chatd.line_port), SECONDS)
        with trusting.wrap_socket(plain, server_hostname="localhost") as tom:
            tom.sendall(f"/register tom {password('tom')}\n/say @bob 加密\n".encode())
            self.assertEqual(bob.event()["text"], "加密")
            self.assertTrue(bob.ask("say", to="@tom", text=LONG)["ok"])
            with tom.makefile(encoding="utf-8") as lines:
                answers = [lines.readline() for _ in range(3)]
        self.assertRegex(answers[1], r"^\+OK seq=1 ")
        self.assertEqual(answers[2], f"* @tom 2 <bob> {LONG}\n")
        self.assertEqual(chatd.stop(), ENDED)
        self.assert_clean(chatd)

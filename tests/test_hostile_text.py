"""What one user writes stays on its line at another's terminal and does nothing there; nor does
it at the operator's, who lists it."""

from __future__ import annotations

import json
import re
import subprocess
from typing import Any

from chatd.logs import as_text
from chatd.settings import store_url
from chatd.store import accounts, schema
from chatd.store.connection import Connection
from chatd.store.dialects import dialect
from tests.bed import CalmCase, Lines
from tests.daemon import PROGRAMS, SECONDS, DaemonCase, environment

# C0 but tab, DEL, C1; line and paragraph separators; what reorders a line (UAX #9).
ACTING = [
    *map(chr, (*range(9), *range(10, 0x20), *range(0x7F, 0xA0))),
    *map(chr, (0x61C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A))),
]
UNSAFE = re.compile(f"[{re.escape(''.join(ACTING))}]")
CONTROLS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f]")
HOSTILE = [
    *(f"a{char}b" for char in ACTING),
    "x\r\n* #team 99 <admin> forged",
    "x\n+OK seq=1 at=1",
    "x\r-ERR forged",
    "x\u2028* #team 99 <admin> forged",
    "x\x85* #team 99 <admin> forged",
    "\x1b]0;title\x07",
    "\x1b]52;c;Zm9yZ2Vk\x1b\\",
    "\x1b[2J\x1b[H",
    "\x9b31m",
    "\u202egnp.exe",
    'x" seq=9 from="admin',
    "x seq=9 from=admin",
    "\\n\\x1b[2J\\",
    "<admin> forged",
]
PREFIXES = ("* ", "+OK", "-ERR", "= ")


class UserTests(CalmCase):
    """Mallory at a WebSocket, where any character can be sent; Bob at a terminal."""

    async def test_terminals(self) -> None:
        """Whatever Mallory puts wherever it fits, each entry is one line at Bob's terminal,
        live and read back, and none of it acts there; a program that reads JSON gets a line
        for each, too."""
        bob = await self.user("bob", self.lines())
        program = await self.user("bob", self.lines())
        await program.answer("/json on")
        mallory = await self.user("mallory")
        await mallory.ask("create", name="team")
        await bob.answer("/join #team")
        said = 0
        for text in HOSTILE:
            for request in self.requests(text):
                said += (await mallory.ask("say", **request))["ok"]
        self.assertGreater(said, len(HOSTILE) / 2)
        self.node.hub.flush()
        heard = self.lines_of(bob)
        live = [line for line in heard if re.match(r"\* (@bob|#team) \d+ <mallory> ", line)]
        self.assertEqual(len(live), said)
        for typed in ("/history @mallory limit=200", "/history #team limit=200", "/rooms"):
            *lines, last = await bob.answer(typed)
            self.assertGreater(len(lines), 0)
            self.check([*lines, last])
        events = 0
        for line in program.received.split(b"\n")[:-1]:
            events += json.loads(line).get("from") == "mallory"
            self.assertIsNone(CONTROLS.search(line.decode()), line)
        self.assertEqual(events, said)

    def requests(self, text: str) -> list[dict[str, Any]]:
        """What to say, with the text in every place that others may see."""
        requests: list[dict[str, Any]] = [
            {"to": "@bob", "text": text},
            {"to": "#team", "text": f"{text}\n{text}"},
            {"to": "#team", "text": "x", "key": text},
            {"to": "#team", "text": "x", "kind": text},
            {"to": "#team", "text": "x", "reply_to": text},
            {"to": f"@bob{text}", "text": "x"},
            {"to": f"#team{text}", "text": "x"},
        ]
        return requests

    async def test_names(self) -> None:
        """No name of a user or a group, no title and no device has a character that acts, or
        else it is shown escaped."""
        bob = await self.user("bob", self.lines())
        for number, text in enumerate(HOSTILE):
            client = self.frames()
            await client.ask("register", name=text, password="pw", display=text)
            await client.ask("register", name=f"m{number}", password="pw", device=text)
            await client.ask("create", name=text)
            await client.ask("create", name=f"g{number}", title=text)
            await client.ask("join", group=text)
            await client.ask("say", to="@bob", text="hello")
            lines = await bob.answer(f"/join #g{number}")
            self.check(lines)
            self.check(await bob.answer(f"/members #g{number}"))
            client.vanish()
        self.check(await bob.answer("/rooms"))
        self.lines_of(bob)
        for name, *_ in await self.node.store.read(accounts.list_users):
            self.assertIsNone(UNSAFE.search(name), name)
            self.assertNotIn(" ", name)

    async def test_refusals(self) -> None:
        """A refusal that quotes what was typed is one line that does nothing."""
        bob = await self.user("bob", self.lines())
        for text in HOSTILE:
            line = text.replace("\n", "").replace("\r\n", "")
            for request in (
                f"/{line}",
                f"/say {line} x",
                f"/say @{line} x",
                f"/history #{line}",
                f"/ping {line}",
                f"/help {line}",
                f"/join {line}",
                f"/read @bob {line}",
                f"/revoke {line}",
                f'/sync {{"{line}":1}}',
            ):
                self.check(await bob.answer(request))
            for command, parameters in (
                (text, {}),
                ("ping", {text: 1}),
                ("help", {"command": text}),
                ("say", {"to": text, "text": "x"}),
                ("join", {"group": text}),
                ("say", {"to": "@bob", "text": "x", "kind": text}),
            ):
                reply = await bob.ask(command, **parameters)
                self.assertIsNone(UNSAFE.search(reply.get("message", "")), reply)

    async def test_tokens(self) -> None:
        """A list of tokens shows the devices escaped."""
        bob = await self.user("bob", self.lines())
        kept = 0
        for text in HOSTILE:
            known = await self.frames().ask(
                "login", name="bob", password="secret", device=text, replay=False
            )
            kept += known["ok"]
        *lines, last = await bob.answer("/tokens")
        self.assertEqual(len(lines), kept + 1)
        self.check([*lines, last])

    def check(self, lines: list[str]) -> None:
        """Lines of the protocol, of which none acts."""
        for line in lines:
            self.assertTrue(line.startswith(PREFIXES), line)
            self.assertIsNone(UNSAFE.search(line), line)

    def lines_of(self, client: Lines) -> list[str]:
        """What the client received and has not read yet, which must be safe."""
        whole = client.received.decode()
        *lines, rest = whole.split("\r\n")
        self.assertEqual(rest, "")
        self.check([line for line in lines if not line.startswith('{"reply"')])
        return lines


class OperatorTests(DaemonCase):
    """chatctl on a database of hostile rows, into a pipe."""

    def setUp(self) -> None:
        super().setUp()
        self.url = store_url("", str(self.state))
        schema.upgrade(self.url)

    def run_chatctl(self, *args: str) -> list[str]:
        """The lines of both streams, which must be safe."""
        done = subprocess.run(
            [PROGRAMS / "chatctl", *args],
            env=environment(COLUMNS="80"),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=SECONDS,
        )
        told = (done.stdout + done.stderr).decode()
        self.assertNotIn("Traceback", told)
        for line in told.split("\n"):
            self.assertTrue(line.isprintable(), line)
            self.assertIsNone(UNSAFE.search(line), line)
        return done.stdout.decode().splitlines()

    def test_lists(self) -> None:
        """A row is a line, whatever stands in the tables."""
        import sqlite3  # the driver that the URL names

        spoken = dialect(self.url)
        raw = sqlite3.connect(**spoken.connect)
        self.addCleanup(raw.close)
        spoken.opened(raw)
        connection = Connection(raw, spoken)
        for number, text in enumerate(HOSTILE):
            accounts.add_user(connection, f"{text}{number}", text, "hash", number)
            accounts.add_api_key(connection, f"{text}{number}", [text.replace(" ", "")], number)
        for noun in ("user", "key"):
            where = ("--state", str(self.state))
            self.assertEqual(len(self.run_chatctl(noun, "list", *where)), len(HOSTILE) + 1)
            (line,) = self.run_chatctl(noun, "list", "--json", *where)
            self.assertEqual(len(json.loads(line)), len(HOSTILE))
            self.assertTrue(line.isascii())

    def test_arguments(self) -> None:
        """What chatctl quotes of its arguments does nothing at the terminal."""
        text = "a" + "".join(ACTING[1:]) + "\x1b]0;x\x07"  # no argument has a NUL
        where = ("--state", str(self.state))
        for args in (
            ("user", "add", text, "--no-password", *where),
            ("user", "add", "bob", "--no-password", "--display", text, *where),
            ("user", "disable", text, *where),
            ("key", "add", text, "--scope", text, *where),
            ("key", "revoke", text, *where),
            ("invite", "revoke", text, *where),
            ("invite", "add", "--uses", text, *where),
            ("user", text),
            (text,),
            ("user", "list", "--config", f"/{text}"),
            ("user", "list", "--store", f"mysql://{text}@127.0.0.1:1/x"),
            ("user", "list", "--store", f"sqlite:///dev/null/{text}"),
        ):
            self.run_chatctl(*args)

    def test_log(self) -> None:
        """A log entry is a line, whatever its fields hold."""
        for text in HOSTILE:
            event = {"log_format": "{text}", "text": text, "log_namespace": text}
            line = as_text(event).decode()
            self.assertTrue(line.endswith("\n"))
            self.assertIsNone(UNSAFE.search(line[:-1]), line)

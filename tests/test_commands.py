"""Every command of the table over every wire: the same results, the same refusals."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any

from msgspec import Struct

from chatd.registry import COMMANDS, USERS
from chatd.store.accounts import add_api_key
from tests.bed import Http, Lines, NodeCase


class World(Struct):
    """What a command finds: Alice asks; `prefix` begins every name, so that each wire has a
    world of its own. Bob, whom she talked to, made the groups `team`, where she is, and `new`,
    into which he invited her; the second message between them is hers, and he reacted to it and
    pinned it. She made `own`, where Dora is and Eve is banned, and `club`, which Bob asks to join.
    Carl has asked her to be friends, Dora is a friend, Eve is blocked. `token`
    and `session` are the ids of another token and session of hers, `link` that of a link into
    `own`."""

    prefix: str = "p"
    api_key: str = "key"
    token: str = "0" * 16
    session: str = "0" * 16
    link: str = "0" * 16

    def in_own(self, user: str) -> dict[str, str]:
        """Parameters: the group `own`, and somebody."""
        return {"group": f"#{self.prefix}own", "user": f"@{self.prefix}{user}"}


Parameters = dict[str, Any]

PARAMETERS: dict[str, Callable[[World], Parameters]] = {
    "register": lambda world: {"name": f"{world.prefix}carol", "password": "se=cret"},
    "login": lambda world: {"name": f"{world.prefix}carol", "api_key": world.api_key},
    "logout": lambda world: {"everywhere": True},
    "tokens": lambda world: {},
    "revoke": lambda world: {"token": world.token},
    "sessions": lambda world: {},
    "end": lambda world: {"session": world.session},
    "help": lambda world: {"command": "say"},
    "language": lambda world: {"name": "en"},
    "ping": lambda world: {},
    "whoami": lambda world: {},
    "befriend": lambda world: {"user": f"@{world.prefix}bob", "words": "it's me, Alice"},
    "accept": lambda world: {"user": f"{world.prefix}carl"},
    "refuse": lambda world: {"user": f"{world.prefix}carl"},
    "unfriend": lambda world: {"user": f"{world.prefix}dora"},
    "remark": lambda world: {"user": f"{world.prefix}dora", "remark": "my friend Dora"},
    "friends": lambda world: {},
    "block": lambda world: {"user": f"{world.prefix}dora"},
    "unblock": lambda world: {"user": f"{world.prefix}eve"},
    "blocks": lambda world: {},
    "profile": lambda world: {"display": "Alice", "findable": False, "status": "away"},
    "user": lambda world: {"user": f"{world.prefix}dora"},
    "find": lambda world: {"text": f"{world.prefix}d"},
    "create": lambda world: {"name": f"{world.prefix}made", "title": "Made just now"},
    "about": lambda world: {"group": f"#{world.prefix}team"},
    "retitle": lambda world: {"group": f"#{world.prefix}own", "description": "two words"},
    "configure": lambda world: {"group": f"#{world.prefix}own", "posting": "admins"},
    "join": lambda world: {"group": f"#{world.prefix}new"},
    "invite": lambda world: world.in_own("bob"),
    "decline": lambda world: {"group": f"#{world.prefix}new"},
    "link": lambda world: {"group": f"#{world.prefix}own", "uses": 3},
    "links": lambda world: {"group": f"#{world.prefix}own"},
    "unlink": lambda world: {"group": f"#{world.prefix}own", "link": world.link},
    "requests": lambda world: {"group": f"#{world.prefix}club"},
    "approve": lambda world: {"group": f"#{world.prefix}club", "user": f"{world.prefix}bob"},
    "reject": lambda world: {"group": f"#{world.prefix}club", "user": f"{world.prefix}bob"},
    "kick": lambda world: {**world.in_own("dora"), "ban": True},
    "unban": lambda world: world.in_own("eve"),
    "bans": lambda world: {"group": f"#{world.prefix}own"},
    "role": lambda world: {**world.in_own("dora"), "role": "admin"},
    "mute": lambda world: {**world.in_own("dora"), "until": 2**52},
    "leave": lambda world: {"group": f"#{world.prefix}team"},
    "members": lambda world: {"group": f"#{world.prefix}team", "limit": 1},
    "dissolve": lambda world: {"group": f"#{world.prefix}own"},
    "say": lambda world: {
        "to": f"@{world.prefix}bob",
        "key": "k",
        "kind": "location",
        "data": {"lat": 1, "lon": 2.5},
        "reply_to": 1,
        "text": "你好, two words",
    },
    "forward": lambda world: {
        "to": f"@{world.prefix}bob",
        "seq": 2,
        "into": f"#{world.prefix}team",
    },
    "edit": lambda world: {"to": f"@{world.prefix}bob", "seq": 2, "text": "你好, two words"},
    "versions": lambda world: {"to": f"@{world.prefix}bob", "seq": 1},
    "recall": lambda world: {"to": f"@{world.prefix}bob", "seq": 2},
    "hide": lambda world: {"to": f"@{world.prefix}bob", "seq": 1},
    "react": lambda world: {"to": f"@{world.prefix}bob", "seq": 1, "emoji": "👍"},
    "reactions": lambda world: {"to": f"@{world.prefix}bob", "seq": 2},
    "pin": lambda world: {"to": f"@{world.prefix}bob", "seq": 1},
    "unpin": lambda world: {"to": f"@{world.prefix}bob", "seq": 2},
    "pins": lambda world: {"to": f"@{world.prefix}bob"},
    "history": lambda world: {"to": f"@{world.prefix}bob"},
    "rooms": lambda world: {"limit": 1},
    "unread": lambda world: {},
    "search": lambda world: {"to": f"@{world.prefix}bob", "limit": 3, "text": "你 not said"},
    "sync": lambda world: {"since": {f"@{world.prefix}bob": 0, f"#{world.prefix}no": 3}},
    "typing": lambda world: {"to": f"@{world.prefix}bob"},
    "who": lambda world: {"users": [f"{world.prefix}bob", f"{world.prefix}nobody"]},
    "watch": lambda world: {"to": f"#{world.prefix}team"},
    "appear": lambda world: {"state": "invisible"},
    "delivered": lambda world: {"to": f"@{world.prefix}bob", "seq": 1},
    "read": lambda world: {"to": f"@{world.prefix}bob", "seq": 1},
    "receipts": lambda world: {"to": f"@{world.prefix}bob", "seq": 1},
    "mark": lambda world: {"to": f"@{world.prefix}bob"},
    "prefer": lambda world: {"to": f"@{world.prefix}bob", "pinned": True, "notify": "none"},
    "clear": lambda world: {"to": f"@{world.prefix}bob"},
}
NEED_NOBODY = frozenset(("register", "login"))
OWN = frozenset(
    ("after", "at", "created", "expires", "id", "joined", "session", "since", "token")
)  # differ from run to run


class TextLines(Lines):
    """A client of the line protocol that types its requests."""

    async def ask(self, command: str, /, **parameters: Any) -> dict[str, Any]:
        """Types a request; the answer as a dictionary of words, and how many lines were
        before it."""
        words = [f"{name}={_typed(value)}" for name, value in parameters.items()]
        *lines, last = await self.answer(" ".join([f"/{command}", *words]))
        if last.startswith("-ERR "):
            return {"ok": False, "error": last.split()[1]}
        pairs = dict(word.partition("=")[::2] for word in last.split()[1:])
        return {"ok": True, **pairs, "lines": len(lines)}


def _typed(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def _as_words(reply: dict[str, Any]) -> dict[str, Any]:
    """A JSON reply as the text form has it."""
    lists = [value for value in reply.values() if isinstance(value, list)]
    words = {
        name: _typed(value) or '""'
        for name, value in reply.items()
        if name != "ok" and not isinstance(value, list)
    }
    return {"ok": True, **words, "lines": sum(map(len, lists))}


def _comparable(value: Any) -> Any:
    """A reply without what is another in every run."""
    if isinstance(value, dict):
        kept = {name: _comparable(inner) for name, inner in value.items() if name not in OWN}
        return {name: inner for name, inner in kept.items() if name != "reply"}
    return [_comparable(inner) for inner in value] if isinstance(value, list) else value


class CommandTests(NodeCase):
    """One table of requests, four wires."""

    def wires(self) -> dict[str, Callable[[], Any]]:
        """How to connect, by the prefix of the wire's world."""
        return {"wsx": self.frames, "tcp": self.lines, "txt": self.text_lines, "htp": self.http}

    def text_lines(self) -> TextLines:
        """A new client that types."""
        client = TextLines(self.lines_factory.buildProtocol(None))
        self.clients.append(client)
        return client

    async def build(self, prefix: str, alice: Any) -> World:
        """The world around Alice, whom the client is from now on."""
        key = await self.node.store.write(add_api_key, prefix, ["login-as"], 0)
        bob, elsewhere, carl, dora, eve = (self.frames() for _ in range(5))
        for name, client in (
            *(("bob", bob), ("alice", alice), ("alice", elsewhere)),
            *(("carl", carl), ("dora", dora), ("eve", eve)),
        ):
            known = await client.ask("login", name=f"{prefix}{name}", api_key=key)
            self.assertTrue(known["ok"], known)
            if isinstance(client, Http):
                client.token = known["token"]
        for client, command, parameters in (
            (bob, "create", {"name": f"{prefix}team"}),
            (bob, "create", {"name": f"{prefix}new"}),
            (bob, "invite", {"group": f"{prefix}new", "user": f"{prefix}alice"}),
            (alice, "create", {"name": f"{prefix}own", "title": "Mine"}),
            (alice, "kick", {"group": f"{prefix}own", "user": f"{prefix}eve", "ban": True}),
            (alice, "create", {"name": f"{prefix}club", "entry": "approval"}),
            (dora, "join", {"group": f"{prefix}own"}),
            (bob, "join", {"group": f"{prefix}club", "words": "two words"}),
            (alice, "join", {"group": f"{prefix}team"}),
            (carl, "befriend", {"user": f"{prefix}alice", "words": "do you know me?"}),
            (dora, "befriend", {"user": f"{prefix}alice"}),
            (alice, "accept", {"user": f"{prefix}dora"}),
            (alice, "block", {"user": f"{prefix}eve"}),
            (bob, "say", {"to": f"@{prefix}alice", "text": "hello\n你好"}),
            (elsewhere, "say", {"to": f"@{prefix}bob", "text": "well"}),
            (bob, "react", {"to": f"@{prefix}alice", "seq": 2, "emoji": "👍"}),
            (bob, "pin", {"to": f"@{prefix}alice", "seq": 2}),
        ):
            done = await client.ask(command, **parameters)
            self.assertTrue(done["ok"], done)
        tokens = (await elsewhere.ask("tokens"))["tokens"]
        (token,) = (token["id"] for token in tokens if token["current"])
        link = await elsewhere.ask("link", group=f"{prefix}own")
        session = (await elsewhere.ask("whoami"))["session"]
        return World(prefix, key, token, session, link["id"])

    def test_every_command_has_a_row(self) -> None:
        """No command is left out of the table, and no row is of a command that is gone."""
        self.assertEqual(set(PARAMETERS), set(COMMANDS))

    async def test_same_results(self) -> None:
        """Every command succeeds over every wire, with the same result."""
        millis = itertools.count(1_763_622_149_123)  # what is newer has a later time
        self.node.now = lambda: next(millis) / 1000
        for command, parameters in PARAMETERS.items():
            replies = {}
            for wire, connect in self.wires().items():
                client = connect()
                world = await self.build(f"{wire}{command}", client)
                asking = connect() if command in NEED_NOBODY else client
                reply = await asking.ask(command, **parameters(world))
                self.assertTrue(reply["ok"], (command, wire, reply))
                text = json.dumps(_comparable(reply), ensure_ascii=False)
                replies[wire] = json.loads(text.replace(wire, "any"))
            self.vanish()
            expected = replies["wsx"]
            self.assertEqual(replies["tcp"], expected, command)
            self.assertEqual(replies["htp"], expected, command)
            self.assertEqual(replies["txt"], _as_words(expected), command)

    async def test_nobody(self) -> None:
        """Every command for users is refused to nobody, over every wire."""
        for command, parameters in PARAMETERS.items():
            if COMMANDS[command].audience != USERS:
                continue
            for wire, connect in self.wires().items():
                client = connect()
                reply = await client.ask(command, **parameters(World()))
                found = (reply["ok"], reply.get("error"))
                self.assertEqual(found, (False, "unauthorized"), (command, wire))
                if isinstance(client, Http):
                    self.assertEqual(client.status, 401)

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
    world of its own. Bob, whom she talked to, made the groups `team`, where she is, and `new`;
    she made `own`. `token` is the id of another token of hers."""

    prefix: str = "p"
    api_key: str = "key"
    token: str = "0" * 16


Parameters = dict[str, Any]

PARAMETERS: dict[str, Callable[[World], Parameters]] = {
    "register": lambda world: {"name": f"{world.prefix}carol", "password": "se=cret"},
    "login": lambda world: {"name": f"{world.prefix}carol", "api_key": world.api_key},
    "logout": lambda world: {"everywhere": True},
    "tokens": lambda world: {},
    "revoke": lambda world: {"token": world.token},
    "help": lambda world: {"command": "say"},
    "ping": lambda world: {},
    "whoami": lambda world: {},
    "create": lambda world: {"name": f"{world.prefix}made", "title": "Made just now"},
    "join": lambda world: {"group": f"#{world.prefix}new"},
    "leave": lambda world: {"group": f"#{world.prefix}team"},
    "members": lambda world: {"group": f"#{world.prefix}team", "limit": 1},
    "dissolve": lambda world: {"group": f"#{world.prefix}own"},
    "say": lambda world: {"to": f"@{world.prefix}bob", "key": "k", "text": "你好, two words"},
    "history": lambda world: {"to": f"@{world.prefix}bob"},
    "search": lambda world: {"to": f"@{world.prefix}bob", "limit": 3, "text": "你 not said"},
    "rooms": lambda world: {},
    "sync": lambda world: {"since": {f"@{world.prefix}bob": 0, f"#{world.prefix}no": 3}},
    "typing": lambda world: {"to": f"@{world.prefix}bob"},
    "delivered": lambda world: {"to": f"@{world.prefix}bob", "seq": 1},
    "read": lambda world: {"to": f"@{world.prefix}bob", "seq": 1},
}
NEED_NOBODY = frozenset(("register", "login"))
OWN = frozenset(("at", "created", "expires", "id", "session", "token"))  # differ from run to run


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
        name: _typed(value)
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
        bob, elsewhere = self.frames(), self.frames()
        for name, client in (("bob", bob), ("alice", alice), ("alice", elsewhere)):
            known = await client.ask("login", name=f"{prefix}{name}", api_key=key)
            self.assertTrue(known["ok"], known)
            if isinstance(client, Http):
                client.token = known["token"]
        for client, command, parameters in (
            (bob, "create", {"name": f"{prefix}team"}),
            (bob, "create", {"name": f"{prefix}new"}),
            (alice, "create", {"name": f"{prefix}own", "title": "Mine"}),
            (alice, "join", {"group": f"{prefix}team"}),
            (bob, "say", {"to": f"@{prefix}alice", "text": "hello\n你好"}),
        ):
            done = await client.ask(command, **parameters)
            self.assertTrue(done["ok"], done)
        tokens = (await elsewhere.ask("tokens"))["tokens"]
        (token,) = (token["id"] for token in tokens if token["current"])
        return World(prefix, key, token)

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

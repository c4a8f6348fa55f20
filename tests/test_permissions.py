"""Who may do what: one table of every command and every role, tried over every wire."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, get_args

from msgspec import Struct

from chatd.errors import Code
from chatd.registry import COMMANDS
from chatd.store import accounts
from chatd.store.connection import Connection
from tests.bed import Http, Lines, NodeCase
from tests.test_commands import TextLines

ROLES = ("nobody", "stranger", "ex", "member", "admin", "owner", "login-as", "push")
"""Who asks: a client that has not logged in; users who never were in the group, were in it, and
are in it; back ends with a key of one scope."""
KEYS = ("login-as", "push")
SECRET = "only for members"  # said in the group


class World(Struct, frozen=True):
    """What stands around one request: names that no other world has, a key that may log in, who
    asks, the ids of a token of that user's and of another user's."""

    prefix: str
    key: str
    role: str = ""
    own: str = "0" * 16
    others: str = "0" * 16

    @property
    def group(self) -> str:
        """The group's name; its owner is `owner`, and so on."""
        return f"{self.prefix}team"

    @property
    def new(self) -> str:
        """A name that nobody and nothing has."""
        return f"{self.prefix}new.{self.role}"

    def user(self, role: str) -> str:
        """A user's name."""
        return f"{self.prefix}{role}"


class Row(Struct, frozen=True):
    """A command with parameters; `cells` are the outcomes, by role: ok or an error's code."""

    command: str
    parameters: Callable[[World], dict[str, Any]]
    cells: str


def _table() -> Iterator[Row]:
    yield Row(
        "register",
        lambda w: {"name": w.new, "password": "secret", "replay": False},
        "ok conflict conflict conflict conflict conflict ok ok",
    )
    yield Row(
        "login",
        lambda w: {"name": w.new, "api_key": w.key, "replay": False},
        "ok conflict conflict conflict conflict conflict ok ok",
    )
    yield Row(
        "login",
        lambda w: {"name": w.user("owner"), "password": "guess"},
        "unauthorized conflict conflict conflict conflict conflict unauthorized unauthorized",
    )
    yield Row("logout", lambda w: {}, _USERS)
    yield Row("logout", lambda w: {"everywhere": True}, _USERS)
    yield Row("tokens", lambda w: {}, _USERS)
    yield Row("revoke", lambda w: {"token": w.own}, _USERS)
    yield Row(
        "revoke",
        lambda w: {"token": w.others},
        "unauthorized not-found not-found not-found not-found not-found unauthorized unauthorized",
    )
    yield Row("help", lambda w: {}, _ALL)
    yield Row("ping", lambda w: {}, _ALL)
    yield Row("whoami", lambda w: {}, _ALL)
    yield Row("create", lambda w: {"name": w.new}, _USERS)
    yield Row(
        "join",
        lambda w: {"group": w.group},
        "unauthorized ok ok exists exists exists unauthorized unauthorized",
    )
    yield Row(
        "leave",
        lambda w: {"group": w.group},
        "unauthorized not-a-member not-a-member ok ok conflict unauthorized unauthorized",
    )
    yield Row("members", lambda w: {"group": w.group}, _MEMBERS)
    yield Row(
        "dissolve",
        lambda w: {"group": w.group},
        "unauthorized not-a-member not-a-member forbidden forbidden ok unauthorized unauthorized",
    )
    yield Row("say", lambda w: {"to": f"#{w.group}", "text": "hello"}, _MEMBERS)
    yield Row("say", lambda w: {"to": f"@{w.user('owner')}", "text": "hello"}, _USERS)
    yield Row("history", lambda w: {"to": f"#{w.group}"}, _MEMBERS)
    yield Row("history", lambda w: {"to": f"@{w.user('owner')}"}, _USERS)
    yield Row("search", lambda w: {"text": SECRET}, _USERS)
    yield Row("search", lambda w: {"text": SECRET, "to": f"#{w.group}"}, _MEMBERS)
    yield Row("search", lambda w: {"to": f"@{w.user('owner')}", "text": SECRET}, _USERS)
    yield Row("rooms", lambda w: {}, _USERS)
    yield Row("sync", lambda w: {"since": {f"#{w.group}": 0, f"@{w.user('ex')}": 0}}, _USERS)
    yield Row("typing", lambda w: {"to": f"#{w.group}"}, _MEMBERS)
    yield Row("delivered", lambda w: {"to": f"#{w.group}", "seq": 1}, _MEMBERS)
    yield Row("read", lambda w: {"to": f"#{w.group}", "seq": 1}, _MEMBERS)
    # Nobody ever spoke with a stranger.
    for command in ("delivered", "read"):
        yield Row(
            command,
            lambda w: {"to": f"@{w.user('stranger')}", "seq": 1},
            "unauthorized not-found not-found not-found not-found not-found"
            " unauthorized unauthorized",
        )


_ALL = "ok ok ok ok ok ok ok ok"
_USERS = "unauthorized ok ok ok ok ok unauthorized unauthorized"
_MEMBERS = "unauthorized not-a-member not-a-member ok ok ok unauthorized unauthorized"
TABLE = tuple(_table())


class TableTests(NodeCase):
    """The table itself."""

    def test_every_command(self) -> None:
        """Every command has a row, and no row is of a command that is gone."""
        self.assertEqual({row.command for row in TABLE}, set(COMMANDS))

    def test_every_cell(self) -> None:
        """Every row says of every role what comes of it."""
        for row in TABLE:
            cells = row.cells.split()
            self.assertEqual(len(cells), len(ROLES), row.command)
            self.assertLessEqual(set(cells), {"ok", *get_args(Code)}, row.command)


class WireCase(NodeCase):
    """The table over one wire."""

    roles: tuple[str, ...] = tuple(role for role in ROLES if role not in KEYS)

    def client(self) -> Any:
        """A new client."""
        raise NotImplementedError

    async def try_all(self) -> None:
        """Tries every cell, each row in a world of its own."""
        keys = {
            scope: await self.node.store.write(accounts.add_api_key, scope, [scope], 0)
            for scope in KEYS
        }
        for number, row in enumerate(TABLE):
            world = World(f"w{number}", keys["login-as"])
            clients = await self.people(world)
            clients |= {scope: self.bearer(keys[scope]) for scope in KEYS if scope in self.roles}
            for role in self.roles:
                cell = row.cells.split()[ROLES.index(role)]
                await self.try_one(world, row, role, clients.get(role) or self.client(), cell)

    async def try_one(self, world: World, row: Row, role: str, client: Any, cell: str) -> None:
        """One cell: its outcome; what is refused changes nothing; who is not in the group
        learns nothing of what was said there."""
        names = [world.user(role), world.user("victim")]
        own, others = await self.node.store.read(_a_token_of_each, names)
        world = World(world.prefix, world.key, role, own, others)
        before = await self.node.store.read(_everything)
        reply = await client.ask(row.command, **row.parameters(world))
        where = (row.command, role, reply)
        self.assertEqual(reply.get("error", "ok"), cell, where)
        self.assertEqual(reply["ok"], cell == "ok", where)
        if isinstance(client, Http):
            self.assertEqual(client.status == 200, cell == "ok", where)
        if cell != "ok":
            self.assertEqual(await self.node.store.read(_everything), before, where)
        if role not in ("member", "admin", "owner"):
            self.assertNotIn(SECRET, json.dumps(reply), where)
            self.assertNotIn(SECRET.encode(), getattr(client, "received", b""), where)

    async def people(self, world: World) -> dict[str, Any]:
        """Everybody's client, by role."""
        clients = {role: self.client() for role in ("owner", "member", "ex", "stranger")}
        for role, client in clients.items():
            await self.enter(world, role, client)
        await self.enter(world, "victim", self.frames())
        group = world.group
        await self.done(clients["owner"], "create", name=group)
        for role in ("member", "ex"):
            await self.done(clients[role], "join", group=group)
        await self.done(clients["ex"], "say", to=f"#{group}", text="I go")
        await self.done(clients["ex"], "leave", group=group)
        admin = self.frames()
        await self.enter(world, "admin", admin)
        await self.done(admin, "join", group=group)
        await self.node.store.write(_make_admin, world.user("admin"))
        admin.vanish()  # a role is read at a login
        clients["admin"] = self.client()
        await self.enter(world, "admin", clients["admin"])
        await self.done(clients["owner"], "say", to=f"#{group}", text=SECRET)
        return clients

    async def enter(self, world: World, role: str, client: Any) -> None:
        """Logs in."""
        known = await self.done(client, "login", name=world.user(role), api_key=world.key)
        if isinstance(client, Http):
            client.token = known["token"]

    async def done(self, client: Any, command: str, **parameters: Any) -> Any:
        """The reply to a request that succeeds."""
        reply = await client.ask(command, **parameters)
        self.assertTrue(reply["ok"], (command, reply))
        return reply

    def bearer(self, secret: str) -> Http:
        """A back end."""
        client = self.http()
        client.token = secret
        return client


def _everything(connection: Connection) -> list[list[Any]]:
    """All that commands may change. Delivered cursors move by themselves."""
    return [
        connection.all(f"SELECT * FROM {table} ORDER BY 1, 2")
        for table in (
            *("users", "tokens", "api_keys", "invitations", "rooms", "members", "entries"),
            "revocations",
        )
    ] + [connection.all("SELECT user_id, room_id, read_seq FROM cursors ORDER BY 1, 2")]


def _a_token_of_each(connection: Connection, names: list[str]) -> list[str]:
    found = []
    for name in names:
        row = connection.one(
            "SELECT hash FROM tokens JOIN users ON id = user_id WHERE name = ?", (name,)
        )
        found.append(accounts.token_id(row[0]) if row else "0" * 16)
    return found


def _make_admin(connection: Connection, name: str) -> None:
    connection.run(
        "UPDATE members SET role = 'admin' WHERE user_id IN (SELECT id FROM users WHERE name = ?)",
        (name,),
    )


class WebSocketTests(WireCase):
    """By WebSocket."""

    def client(self) -> Any:
        return self.frames()

    async def test_table(self) -> None:
        """Every cell of the table holds."""
        await self.try_all()


class JsonLineTests(WireCase):
    """By lines of JSON."""

    def client(self) -> Any:
        return self.lines()

    async def test_table(self) -> None:
        """Every cell of the table holds."""
        await self.try_all()


class TypedLineTests(WireCase):
    """By lines that a person types."""

    def client(self) -> Lines:
        client = TextLines(self.lines_factory.buildProtocol(None))
        self.clients.append(client)
        return client

    async def test_table(self) -> None:
        """Every cell of the table holds."""
        await self.try_all()


class HttpTests(WireCase):
    """By HTTP, where a back end's key may ask, too."""

    roles = ROLES

    def client(self) -> Http:
        return self.http()

    async def test_table(self) -> None:
        """Every cell of the table holds."""
        await self.try_all()

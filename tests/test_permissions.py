"""Who may do what: one table of every command and every role, tried over every wire."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, get_args

from msgspec import Struct

from chatd.errors import Code
from chatd.registry import COMMANDS
from chatd.store import accounts
from chatd.store.connection import Connection
from tests.bed import Http, Lines, NodeCase
from tests.stores import TABLES
from tests.test_commands import TextLines

ROLES = ("nobody", "stranger", "ex", "member", "admin", "owner", "login-as", "push")
"""Who asks: a client that has not logged in; users who never were in the group, were in it, and
are in it; back ends with a key of one scope."""
KEYS = ("login-as", "push")
SECRET = "only for members"  # said in the group
LEFT_BEHIND, SAID_SECRET = 5, 8  # the seqs of what one said who left then, and of that


class World(Struct, frozen=True):
    """What stands around one request: names that no other world has, a key that may log in, who
    asks, the ids of a token of that user's and of another user's, and of a session of that
    other user's."""

    prefix: str
    key: str
    role: str = ""
    own: str = "0" * 16
    others: str = "0" * 16
    session: str = "0" * 16

    @property
    def group(self) -> str:
        """The group's name; its owner is `owner`, and so on."""
        return f"{self.prefix}team"

    @property
    def new(self) -> str:
        """A name that nobody and nothing has."""
        return f"{self.prefix}new.{self.role}"

    @property
    def subject(self) -> str:
        """Whom it is done to by who asks."""
        return self.user(f"{self.role}.x")

    def user(self, role: str) -> str:
        """A user's name."""
        return f"{self.prefix}{role}"

    def here(self, **parameters: Any) -> dict[str, Any]:
        """Parameters of a command about the group."""
        return {"group": self.group, **parameters}

    def done_to(self, **parameters: Any) -> dict[str, Any]:
        """Parameters of a command about the subject."""
        return self.here(user=self.subject, **parameters)


class Row(Struct, frozen=True):
    """A command with parameters; `cells` are the outcomes, by role: ok or an error's code. Each
    member has somebody of his own to do something to, the world's `subject`, who is what `subject`
    says; `rules` are what the group is configured to."""

    command: str
    parameters: Callable[[World], dict[str, Any]]
    cells: str
    subject: str = ""
    rules: dict[str, str] = {}


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
    yield Row("sessions", lambda w: {}, _USERS)
    yield Row(
        "end",
        lambda w: {"session": w.session},
        "unauthorized not-found not-found not-found not-found not-found unauthorized unauthorized",
    )
    yield Row("help", lambda w: {}, _ALL)
    yield Row("language", lambda w: {"name": "en"}, _ALL)
    yield Row("ping", lambda w: {}, _ALL)
    yield Row("whoami", lambda w: {}, _ALL)
    yield from _people()
    yield Row("create", lambda w: {"name": w.new}, _USERS)
    yield Row("about", lambda w: w.here(), _USERS)
    yield Row("about", lambda w: w.here(), _HIDDEN, rules=_INVITED)
    yield Row("retitle", lambda w: w.here(title="Other"), _ADMINS)
    yield Row("configure", lambda w: w.here(history="joined"), _ADMINS)
    for subject, rules, cells in (
        ("stranger", {}, _MEMBERS),
        ("stranger", _APPROVAL, _ADMINS),
        ("stranger", _INVITED, _HIDDEN.replace("ok", "forbidden", 1)),
    ):
        yield Row("invite", lambda w: w.done_to(), cells, subject, rules)
    yield Row(
        "decline",
        lambda w: w.here(),
        "unauthorized not-found not-found not-found not-found not-found unauthorized unauthorized",
    )
    yield Row("link", lambda w: w.here(), _ADMINS)
    yield Row("links", lambda w: w.here(), _ADMINS)
    yield Row("unlink", lambda w: w.here(link="0" * 16), _ADMINS.replace("ok", "not-found"))
    yield Row("requests", lambda w: w.here(), _ADMINS)
    for command in ("approve", "reject"):
        yield Row(command, lambda w: w.done_to(), _ADMINS, "asking", _APPROVAL)
    for command, more in (("kick", {}), ("kick", {"ban": True}), ("mute", {"until": 2**52})):
        done = partial(_done, more)
        yield Row(command, done, _ADMINS, "member")
        yield Row(command, done, _OWNER, "admin")
        yield Row(command, partial(_done_to_owner, more), _OWNER.replace("ok", "forbidden"))
    yield Row("kick", lambda w: w.done_to(), _ADMINS.replace("ok", "not-found"), "stranger")
    yield Row("kick", lambda w: w.done_to(ban=True), _ADMINS, "stranger")
    yield Row(
        "kick",
        lambda w: w.done_to(),
        _ADMINS.replace("not-a-member", "not-found"),
        "member",
        _INVITED,
    )
    yield Row("unban", lambda w: w.done_to(), _ADMINS, "banned")
    yield Row("bans", lambda w: w.here(), _ADMINS)
    yield Row("mute", lambda w: w.here(until=2**52), _ADMINS)
    yield Row("role", lambda w: w.done_to(role="admin"), _OWNER, "member")
    yield Row("role", lambda w: w.done_to(role="member"), _OWNER, "admin")
    yield Row("role", lambda w: w.done_to(role="owner"), _OWNER, "member")
    yield Row("join", lambda w: w.here(), _JOINS, rules=_APPROVAL)
    yield Row("join", lambda w: w.here(), _JOINS.replace("ok", "not-found"), rules=_INVITED)
    yield Row("join", lambda w: {"token": "guess"}, _USERS.replace("ok", "not-found"))
    yield Row(
        "join",
        lambda w: {"group": w.group},
        _JOINS,
    )
    yield Row(
        "leave",
        lambda w: {"group": w.group},
        "unauthorized not-a-member not-a-member ok ok conflict unauthorized unauthorized",
    )
    yield Row("members", lambda w: {"group": w.group}, _MEMBERS)
    yield Row("dissolve", lambda w: {"group": w.group}, _OWNER)
    yield Row("say", lambda w: {"to": f"#{w.group}", "text": "hello"}, _MEMBERS)
    yield Row(
        "say",
        lambda w: {"to": f"#{w.group}", "text": "hello"},
        _ADMINS.replace("forbidden", "muted"),
        rules={"posting": "admins"},
    )
    yield Row("say", lambda w: {"to": f"@{w.user('owner')}", "text": "hello"}, _USERS)
    yield from _messages()
    yield Row("history", lambda w: {"to": f"#{w.group}"}, _MEMBERS)
    yield Row("history", lambda w: {"to": f"#{w.group}"}, _HIDDEN, rules=_INVITED)
    yield Row("history", lambda w: {"to": f"@{w.user('owner')}"}, _USERS)
    yield Row("search", lambda w: {"text": SECRET}, _USERS)
    yield Row("search", lambda w: {"to": f"#{w.group}", "text": SECRET}, _MEMBERS)
    yield Row("search", lambda w: {"to": f"@{w.user('owner')}", "text": SECRET}, _USERS)
    yield Row("rooms", lambda w: {}, _USERS)
    yield Row("unread", lambda w: {}, _USERS)
    yield Row("sync", lambda w: {"since": {f"#{w.group}": 0, f"@{w.user('ex')}": 0}}, _USERS)
    yield Row("typing", lambda w: {"to": f"#{w.group}"}, _MEMBERS)
    yield Row("who", lambda w: {"group": w.group}, _MEMBERS)
    yield Row("who", lambda w: {"users": [w.user("owner"), w.new]}, _USERS)
    yield Row("watch", lambda w: {"to": f"#{w.group}"}, _MEMBERS)
    yield Row("watch", lambda w: {"to": f"@{w.user('owner')}"}, _USERS)
    yield Row("appear", lambda w: {"state": "away"}, _USERS)
    yield Row("appear", lambda w: {"state": "invisible"}, _USERS)
    yield Row("delivered", lambda w: {"to": f"#{w.group}", "seq": 1}, _MEMBERS)
    yield Row("read", lambda w: {"to": f"#{w.group}", "seq": 1}, _MEMBERS)
    yield Row("receipts", lambda w: {"to": f"#{w.group}", "seq": 1}, _MEMBERS)
    yield Row("mark", lambda w: {"to": f"#{w.group}"}, _MEMBERS)
    yield Row("prefer", lambda w: {"to": f"#{w.group}", "archived": True}, _MEMBERS)
    yield Row("clear", lambda w: {"to": f"#{w.group}"}, _MEMBERS)
    # Nobody ever spoke with the hermit.
    for command, parameters in (
        *(("delivered", {"seq": 1}), ("read", {"seq": 1}), ("receipts", {"seq": 1})),
        *(("mark", {}), ("prefer", {"pinned": True}), ("clear", {})),
    ):
        yield Row(
            command,
            lambda w, p=parameters: {"to": f"@{w.user('hermit')}", **p},  # type: ignore[misc]
            _UNSPOKEN,
        )


def _people() -> Iterator[Row]:
    """The victim is a friend of the member, has asked the admin, and blocks the ex and the
    stranger, who does so, too."""
    for user, cells in (
        ("victim", "unauthorized blocked blocked ok ok ok unauthorized unauthorized"),
        ("owner", "unauthorized ok ok ok ok forbidden unauthorized unauthorized"),
        ("nobody", "unauthorized" + " not-found" * 5 + " unauthorized unauthorized"),
    ):
        yield Row("befriend", partial(_asking, user), cells)
    none = "unauthorized" + " not-found" * 3
    yield Row(
        "accept",
        _victim,
        "unauthorized not-found not-found ok ok not-found unauthorized unauthorized",
    )
    yield Row("refuse", _victim, f"{none} ok not-found unauthorized unauthorized")
    friend = "unauthorized not-found not-found ok not-found not-found unauthorized unauthorized"
    yield Row("unfriend", _victim, friend)
    yield Row(
        "remark",
        lambda w: {"user": w.user("victim"), "remark": "poor one"},
        "unauthorized not-found not-found ok ok not-found unauthorized unauthorized",
    )
    yield Row("friends", lambda w: {}, _USERS)
    yield Row("block", _victim, _USERS)
    yield Row(
        "unblock",
        _victim,
        "unauthorized ok not-found not-found not-found not-found unauthorized unauthorized",
    )
    yield Row("blocks", lambda w: {}, _USERS)
    yield Row("say", lambda w: {"to": f"@{w.user('victim')}", "text": "hello"}, _OPEN)
    yield Row("typing", lambda w: {"to": f"@{w.user('victim')}"}, _OPEN)
    yield Row("profile", lambda w: {}, _USERS)
    yield Row("profile", lambda w: {"display": w.role, "writers": "friends"}, _USERS)
    yield Row("user", _victim, _USERS)
    yield Row("find", lambda w: {"text": w.prefix}, _USERS)


def _asking(user: str, world: World) -> dict[str, Any]:
    return {"user": world.user(user), "words": "hi"}


def _victim(world: World) -> dict[str, Any]:
    return {"user": world.user("victim")}


_OPEN = "unauthorized blocked blocked ok ok ok unauthorized unauthorized"


def _messages() -> Iterator[Row]:
    """Of what is done to the owner's message, and to that of one who has left."""
    yield Row(
        "say",
        lambda w: {"to": f"#{w.group}", "mentions": ["all"], "text": "hello"},
        "unauthorized not-a-member not-a-member forbidden ok rate-limited"
        " unauthorized unauthorized",
    )
    yield Row(
        "recall",
        lambda w: {"to": f"#{w.group}", "seq": LEFT_BEHIND},
        "unauthorized not-a-member not-a-member forbidden ok conflict unauthorized unauthorized",
    )
    for command, more, cells in (
        ("forward", {"into": ""}, _MEMBERS),
        ("edit", {"text": "hello"}, _OWNER),
        ("versions", {}, _MEMBERS),
        ("recall", {}, _OWNER),
        ("hide", {}, _MEMBERS),
        ("react", {"emoji": "x"}, _MEMBERS),
        ("react", {"emoji": "x", "on": False}, _MEMBERS),
        ("reactions", {}, _MEMBERS),
        ("pin", {}, _ADMINS),
        ("unpin", {}, _ADMINS),
    ):
        yield Row(command, partial(_of_secret, more), cells)
        yield Row(command, partial(_unspoken, more), _UNSPOKEN)
    yield Row("pins", lambda w: {"to": f"#{w.group}"}, _MEMBERS)
    yield Row("pins", lambda w: {"to": f"@{w.user('hermit')}"}, _UNSPOKEN)


def _of_secret(more: dict[str, Any], world: World) -> dict[str, Any]:
    given = {"to": f"#{world.group}", "seq": SAID_SECRET, **more}
    return {**given, "into": f"@{world.user('ex')}"} if "into" in more else given


def _unspoken(more: dict[str, Any], world: World) -> dict[str, Any]:
    given = _of_secret(more, world)
    return {**given, "to": f"@{world.user('hermit')}", "seq": 1}


_UNSPOKEN = (
    "unauthorized not-found not-found not-found not-found not-found unauthorized unauthorized"
)
_ALL = "ok ok ok ok ok ok ok ok"
_USERS = "unauthorized ok ok ok ok ok unauthorized unauthorized"
_MEMBERS = "unauthorized not-a-member not-a-member ok ok ok unauthorized unauthorized"
_HIDDEN = "unauthorized not-found not-found ok ok ok unauthorized unauthorized"
_ADMINS = "unauthorized not-a-member not-a-member forbidden ok ok unauthorized unauthorized"
_OWNER = "unauthorized not-a-member not-a-member forbidden forbidden ok unauthorized unauthorized"
_JOINS = "unauthorized ok ok exists exists exists unauthorized unauthorized"
_APPROVAL = {"entry": "approval"}
_INVITED = {"entry": "invited"}


def _done(more: dict[str, Any], world: World) -> dict[str, Any]:
    return world.done_to(**more)


def _done_to_owner(more: dict[str, Any], world: World) -> dict[str, Any]:
    return world.here(user=world.user("owner"), **more)


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
            clients = await self.people(world, row)
            clients |= {scope: self.bearer(keys[scope]) for scope in KEYS if scope in self.roles}
            for role in self.roles:
                cell = row.cells.split()[ROLES.index(role)]
                await self.try_one(world, row, role, clients.get(role) or self.client(), cell)
            self.vanish()
            await self.node.store.idle()
            await self.node.store.write(_forget_all)

    async def try_one(self, world: World, row: Row, role: str, client: Any, cell: str) -> None:
        """One cell: its outcome; what is refused changes nothing; who is not in the group
        learns nothing of what was said there."""
        names = [world.user(role), world.user("victim")]
        own, others = await self.node.store.read(_a_token_of_each, names)
        (session,) = (s.id for s in self.node.hub.sessions if s.user and s.user.name == names[1])
        world = World(world.prefix, world.key, role, own, others, session)
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

    async def people(self, world: World, row: Row) -> dict[str, Any]:
        """Everybody's client, by role."""
        roles = ("owner", "admin", "member", "ex", "stranger")
        clients = {role: self.client() for role in roles}
        for role, client in clients.items():
            await self.enter(world, role, client)
        victim = self.frames()
        await self.enter(world, "victim", victim)
        await self.enter(world, "hermit", self.frames())
        group = world.group
        await self.done(clients["owner"], "create", name=group)
        for role in ("admin", "member", "ex"):
            await self.done(clients[role], "join", group=group)
        await self.done(clients["ex"], "say", to=f"#{group}", text="I go")
        await self.done(clients["ex"], "leave", group=group)
        await self.appoint(clients["owner"], world, "admin")
        subjects = [f"{role}.x" for role in ("member", "admin", "owner") if row.subject]
        joining = subjects if row.subject in ("member", "admin") else []
        for name in joining:
            await self.done(await self.newcomer(world, name), "join", group=group)
        if row.rules:
            await self.done(clients["owner"], "configure", group=group, **row.rules)
        for name in subjects:
            await self.make(clients["owner"], world, name, row.subject)
        await self.done(clients["owner"], "say", to=f"#{group}", text=SECRET)
        await self.befriend(world, victim, clients)
        return clients

    async def make(self, owner: Any, world: World, name: str, subject: str) -> None:
        """Makes somebody what a row's subject is, as far as joining has not."""
        if subject == "admin":
            await self.appoint(owner, world, name)
        if subject in ("member", "admin"):
            return
        newcomer = await self.newcomer(world, name)
        if subject == "asking":
            await self.done(newcomer, "join", group=world.group)
        if subject == "banned":
            await self.done(owner, "kick", **world.here(user=world.user(name), ban=True))

    async def newcomer(self, world: World, name: str) -> Any:
        """A client of somebody who is in no group."""
        client = self.frames()
        await self.enter(world, name, client)
        return client

    async def appoint(self, owner: Any, world: World, name: str) -> None:
        """Makes a member an admin."""
        await self.done(owner, "role", **world.here(user=world.user(name), role="admin"))

    async def befriend(self, world: World, victim: Any, clients: dict[str, Any]) -> None:
        """Makes the victim what it is to the others."""
        for role in ("member", "admin"):
            await self.done(victim, "befriend", user=world.user(role))
        await self.done(clients["member"], "accept", user=world.user("victim"))
        for role in ("ex", "stranger"):
            await self.done(victim, "say", to=f"@{world.user(role)}", text="leave me alone")
            await self.done(victim, "block", user=world.user(role))
        await self.done(clients["stranger"], "block", user=world.user("victim"))

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
    """All that commands may change. Delivered cursors move by themselves; an inbox in which
    nothing stands is nothing yet."""
    return [
        connection.all(f"SELECT * FROM {table} ORDER BY 1, 2")
        for table in (
            *("users", "tokens", "api_keys", "invitations", "revocations", "members", "entries"),
            *("mutes", "bans", "join_requests", "group_invitations", "links", "contacts"),
            *("versions", "reactions", "pins", "mentions", "hidden"),
        )
    ] + [
        connection.all(
            "SELECT user_id, room_id, read_seq, cleared_seq, marked, pinned_at, notify, archived"
            " FROM cursors ORDER BY 1, 2"
        ),
        connection.all(
            "SELECT * FROM rooms r WHERE kind <> 'inbox'"
            " OR EXISTS (SELECT 1 FROM entries e WHERE e.room_id = r.id) ORDER BY id"
        ),
    ]


def _forget_all(connection: Connection) -> None:
    """The next row's world is small."""
    with connection.transaction():
        for table in set(TABLES) - {"api_keys"}:
            connection.run(f"DELETE FROM {table}")


def _a_token_of_each(connection: Connection, names: list[str]) -> list[str]:
    found = []
    for name in names:
        row = connection.one(
            "SELECT hash FROM tokens JOIN users ON id = user_id WHERE name = ?", (name,)
        )
        found.append(accounts.token_id(row[0]) if row else "0" * 16)
    return found


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

"""Members, roles, messages, places, friends and search, held against an oracle of plain Python
(tests/oracle.py) over any order of requests, two of them at once, restarts and days gone by.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import cache
from itertools import pairwise, product
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import argon2
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)
from twisted.internet.defer import Deferred
from twisted.logger import LogEvent, LogLevel, formatEvent, globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from chatd.dispatcher import Dispatcher
from chatd.errors import Refused, Template
from chatd.indexer import GATHERING
from chatd.node import Node
from chatd.session import Session
from chatd.settings import Accounts, Heartbeat, Limits, Messages, StoreURL
from chatd.store import groups as group_statements
from chatd.store import overview, schema
from chatd.store.accounts import token_id
from chatd.store.connection import Connection
from chatd.store.dialects import dialect
from chatd.store.fsck import differences
from chatd.wire.json import JsonWire, decode
from tests.loop import Loop, Threads
from tests.oracle import CALL, DAY, EDIT, RANKS, SEEN, Fields, Refusal, World
from tests.profiles import machine
from tests.test_machine import memory

USERS = ("ann", "bob", "cat", "dan", "刘备")
GROUPS = ("#one", "#two", "#six")
BEGIN = 1_700_000_000_000  # ms
POOL = ("tea", "rain", "明天", "下雨", "天下", "天明", "刘备", "tea rain", "bob", "cafe")
LIMITS = Limits(session_rate=10**6, user_rate=10**6, address_rate=10**6)
TABLES = {
    "groups": "SELECT '#' || name, entry, history, posting, muted_until, called_at,"
    " dissolved_at IS NOT NULL FROM rooms WHERE kind = 'group'",
    "members": "SELECT {room}, u.name, m.role, m.joined_seq FROM members m {of_room}",
    "bans": "SELECT {room}, u.name FROM bans m {of_room}",
    "mutes": "SELECT {room}, u.name, m.until FROM mutes m {of_room} WHERE m.until > {now}",
    "requests": "SELECT {room}, u.name FROM join_requests m {of_room}",
    "invitations": "SELECT {room}, u.name, b.name, m.at FROM group_invitations m {of_room}"
    " JOIN users b ON b.id = m.by_id",
    "links": "SELECT {room}, m.hash, b.name, m.uses_left, m.expires_at FROM links m"
    " {of_pair} JOIN users b ON b.id = m.by_id",
    "contacts": "SELECT u.name, o.name, c.state, c.blocked, c.words, c.at FROM contacts c"
    " JOIN users u ON u.id = c.user_id JOIN users o ON o.id = c.other_id",
    "settings": "SELECT name, writers, receipts FROM users",
    "places": "SELECT {room}, u.name, m.delivered_seq, m.read_seq, m.cleared_seq, m.marked,"
    " m.pinned_at, m.notify, m.archived, m.archived_seq FROM cursors m {of_room}",
    "hidden": "SELECT {room}, u.name, m.seq FROM hidden m {of_room}",
    "versions": "SELECT {room}, m.seq, m.body ->> 'text' FROM versions m {of_pair}",
    "mentions": "SELECT {room}, m.seq, COALESCE(u.name, 'all') FROM mentions m {of_pair}"
    " LEFT JOIN users u ON u.id = m.user_id",
    "reactions": "SELECT {room}, m.seq, m.emoji, u.name, m.at FROM reactions m {of_room}",
    "pins": "SELECT {room}, m.seq, m.at FROM pins m {of_pair}",
    "entries": "SELECT {room}, m.seq, m.kind, u.name, m.at, m.body FROM entries m {of_pair}"
    " JOIN users u ON u.id = m.sender_id",
}
_PAIR = (
    "JOIN rooms r ON r.id = m.room_id LEFT JOIN users lo ON lo.id = r.low_id"
    " LEFT JOIN users hi ON hi.id = r.high_id"
)
_SHAPES = {
    "room": "COALESCE('#' || r.name, lo.name || '|' || hi.name)",
    "of_pair": _PAIR,
    "of_room": f"{_PAIR} JOIN users u ON u.id = m.user_id",
}


def actual(db: sqlite3.Connection, now: int) -> dict[str, list[Any]]:
    """What stands in the database, table by table."""
    found: dict[str, list[Any]] = {
        table: db.execute(sql.format(**_SHAPES, now=now)).fetchall()
        for table, sql in TABLES.items()
    }
    found["links"] = [(key, token_id(link), *rest) for key, link, *rest in found["links"]]
    found["contacts"] = [r for r in found["contacts"] if r[2:] != ("", 0, "", 0)]
    usual = (0, 0, 0, 0, 0, "all", 0, 0)
    found["places"] = [row for row in found["places"] if row[2:] != usual]
    found["entries"] = [(*row, json.loads(body)) for *row, body in found["entries"]]
    return {table: sorted(rows, key=repr) for table, rows in found.items()}


def wanted(world: World) -> dict[str, list[Any]]:
    """What should stand there."""
    found = {table: sorted(rows, key=repr) for table, rows in _wanted(world)}
    assert found.keys() == TABLES.keys()
    return found


def _wanted(world: World) -> Iterator[tuple[str, list[Any]]]:
    groups, places = world.groups.items(), world.places.items()
    yield (
        "groups",
        [
            (k, g.entry, g.history, g.posting, g.muted, g.called, int(g.dissolved))
            for k, g in groups
        ],
    )
    yield "members", [(k, user, *how) for k, g in groups for user, how in g.members.items()]
    yield "bans", [(k, user) for k, g in groups for user in g.bans]
    yield "mutes", [(k, u, t) for k, g in groups for u, t in g.mutes.items() if t > world.now]
    yield "requests", [(k, user) for k, g in groups for user in g.requests]
    yield "invitations", [(k, u, *given) for k, g in groups for u, given in g.invitations.items()]
    yield (
        "links",
        [
            (k, name[-16:], w.by, w.uses, w.expires)
            for k, g in groups
            for name, w in g.links.items()
        ],
    )
    sides = [(*both, s.state, int(s.blocked), s.words, s.at) for both, s in world.sides.items()]
    yield "contacts", [row for row in sides if row[2:] != ("", 0, "", 0)]
    yield "settings", [(u, world.writers[u], int(world.receipts[u])) for u in world.users]
    rows = [
        (
            *(key, user, p.delivered, p.read, p.cleared, int(p.marked)),
            *(p.pinned, p.notify, int(p.archived), p.archived_seq),
        )
        for (user, key), p in places
    ]
    yield "places", [row for row in rows if row[2:] != (0, 0, 0, 0, 0, "all", 0, 0)]
    yield "hidden", [(key, user, seq) for (user, key), p in places for seq in p.hidden]
    entries = [(key, entry) for key, log in world.logs.items() for entry in log]
    yield "versions", [(k, e.seq, text) for k, e in entries for text in e.versions]
    yield (
        "mentions",
        [
            (k, e.seq, user)
            for k, e in entries
            if "mentions" in e.body
            for user in (
                [e.body["mentions"]] if e.body["mentions"] == "all" else e.body["mentions"]
            )
        ],
    )
    yield (
        "reactions",
        [
            (k, e.seq, emoji, user, at)
            for k, e in entries
            for emoji, by in e.reactions.items()
            for user, at in by.items()
        ],
    )
    yield "pins", [(k, e.seq, e.pinned) for k, e in entries if e.pinned]
    yield (
        "entries",
        [
            (k, e.seq, "erased" if e.recalled else e.kind, e.sender, e.at, world.stored(e))
            for k, e in entries
        ],
    )


class Request(NamedTuple):
    """What somebody asks. A user may be given by a role, a seq as the message so far back from
    the last one, a link by the number of its making."""

    command: str
    user: str
    fields: Fields


class Ear:
    """The connection of a client that hears all and says nothing of it."""

    live: ClassVar[bool] = True
    pings: ClassVar[bool] = True
    crowded = False

    def __init__(self) -> None:
        self.heard: list[Fields] = []
        self.closed = False

    def send(self, data: bytes) -> None:
        """Hears."""
        self.heard += map(json.loads, data.splitlines())

    def close(self, code: int, reason: Template) -> None:
        """Is told to go."""
        self.closed = True

    def abort(self) -> None:
        """Is cut off."""
        self.closed = True

    def ping(self, payload: bytes) -> None:
        """Is asked, and silent."""

    def pending(self) -> int:
        """All has arrived."""
        return 0

    def hold(self, on: bool) -> None:
        """Asks no more than one thing at a time."""

    def finished(self) -> None:
        """Stays."""


WIRE = JsonWire(lambda payload: payload + b"\n")


@cache
def template() -> bytes:
    """A database with nobody but the users, who know a password."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "chatd.db")
        schema.upgrade(StoreURL(kind="sqlite", path=str(path)))
        hashed = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash("secret")
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            for name in USERS:
                db.execute(
                    "INSERT INTO users (name, name_key, skeleton, password, display, created_at)"
                    " VALUES (?, ?, ?, ?, '', 0)",
                    (name, name, name, hashed),
                )
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        return path.read_bytes()


# -- what is asked

ROLES = ("owner", "admin", "member", "stranger")
users = st.sampled_from(USERS)
askers = st.sampled_from(
    (*USERS, *USERS[:3], "owner", "owner", "admin", "admin", "member", "stranger")
)
targets = st.sampled_from((*USERS, *ROLES))
# Most happens in one place, so that things meet.
groups = st.sampled_from(("#one", "#one", "#one", "#two", "#two", "#six"))
asking = st.sampled_from(("#two", "#two", "#one"))
peers = st.sampled_from((*(f"@{name}" for name in USERS), "@ann", "@bob", "@bob"))
rooms = st.one_of(groups, groups, peers)
bosses = st.sampled_from(("owner", "owner", "admin", "admin", "member", *USERS[:3]))
seqs = st.sampled_from((0, 0, 0, -1, -1, -2, -3, 1, 3))
texts = st.lists(
    st.sampled_from(
        ("tea", "Rain", "明天", "下雨", "明天下雨", "Café", "@bob", "@刘备", "@all", "@dan", "x")
    ),
    min_size=1,
    max_size=3,
).map(" ".join)
entries = st.sampled_from(("open", "open", "approval", "invited"))
histories = st.sampled_from(("all", "joined"))
postings = st.sampled_from(("members", "members", "admins"))
flags = st.booleans()
focuses = st.sampled_from(("", "place", "place", "user", "user"))
spans = st.sampled_from((0, 1000, 2 * CALL, DAY))


def asks(command: str, who: st.SearchStrategy[str] = askers, **fields: Any) -> Any:
    """Requests with these parameters."""
    return st.builds(Request, st.just(command), who, st.fixed_dictionaries(fields))


def some(required: dict[str, Any], **optional: Any) -> Any:
    """Parameters of which the optional ones may be missing, but not all."""
    some_of = st.fixed_dictionaries(required, optional=optional)
    return some_of.filter(lambda fields: len(fields) > len(required))


def either(*choices: Any) -> Any:
    """One of these; hypothesis would spell them all out, were it not deferred."""
    return st.deferred(lambda: st.one_of(*choices))


ways = either(
    asks("join", group=groups),
    asks("join", group=groups),
    asks("join", token=st.integers(0, 3)),
    asks("join", token=st.integers(0, 1), group=groups),
    asks("leave", group=groups),
    asks("invite", group=groups, whom=targets),
    asks("decline", group=groups),
    asks("decline", group=groups, who=st.sampled_from(("asker", "guest"))),
    asks("join", group=groups, who=st.just("guest")),
    asks("link", bosses, group=groups, uses=st.integers(1, 2), days=st.sampled_from((1, 7))),
    asks("unlink", bosses, group=groups, link=st.integers(0, 3)),
    asks("approve", bosses, group=groups, whom=targets),
    asks("approve", bosses, group=asking, whom=st.just("asker")),
    asks("reject", bosses, group=asking, whom=st.just("asker")),
)
powers = either(
    asks("kick", bosses, group=groups, whom=targets, ban=flags),
    asks("unban", bosses, group=groups, whom=targets),
    asks("unban", bosses, group=groups, whom=st.just("banned")),
    asks("role", bosses, group=groups, whom=targets, role=st.sampled_from((*RANKS, "admin"))),
    asks("mute", bosses, group=groups, whom=targets, span=spans),
    asks("mute", bosses, group=groups, span=spans),
    st.builds(
        Request,
        st.just("configure"),
        bosses,
        some({"group": groups}, entry=entries, history=histories, posting=postings),
    ),
    asks("dissolve", group=groups, who=st.sampled_from(("owner", *USERS))),
    asks("create", group=groups, entry=entries, history=histories, posting=postings),
)
said = either(
    asks("say", to=rooms, text=texts),
    asks("say", to=rooms, text=texts),
    asks("say", to=rooms, text=texts, reply_to=seqs),
)
changes = either(
    asks("edit", to=rooms, seq=seqs, text=texts, who=st.just("sender")),
    asks("edit", to=rooms, seq=seqs, text=texts),
    asks("edit", to=rooms, seq=seqs, text=texts, who=st.just("sender")),
    asks("recall", to=rooms, seq=seqs),
    asks("recall", to=rooms, seq=seqs, who=st.just("sender")),
    asks("react", to=rooms, seq=seqs, emoji=st.sampled_from("👍好"), on=flags),
    asks("react", to=rooms, seq=seqs, emoji=st.sampled_from("👍好"), on=st.just(True)),
    asks("pin", to=rooms, seq=seqs),
    asks("unpin", to=rooms, seq=seqs),
    asks("hide", to=rooms, seq=seqs),
)
places = either(
    asks("clear", to=rooms),
    asks("mark", to=rooms),
    asks("prefer", to=rooms, archived=st.just(True)),
    asks("read", to=rooms, seq=seqs),
    asks("read", to=rooms, seq=seqs),
    asks("delivered", to=rooms, seq=seqs),
    st.builds(
        Request,
        st.just("prefer"),
        askers,
        some(
            {"to": rooms},
            pinned=flags,
            notify=st.sampled_from(("all", "mentions", "none")),
            archived=flags,
        ),
    ),
)
people = either(
    asks("befriend", users, other=users, words=st.sampled_from(("", "hi"))),
    asks("befriend", users, other=users, words=st.just("")),
    asks("accept", users, other=users),
    asks("refuse", users, other=users),
    asks("unfriend", users, other=users),
    asks("block", users, other=users),
    asks("unblock", users, other=users),
    asks("profile", users, writers=st.sampled_from(("everybody", "friends"))),
    asks("profile", users, receipts=flags),
)
anything = either(ways, powers, said, changes, places, people)
# What the same people do to the same thing, at once.
group_pairs = st.tuples(st.one_of(ways, powers, said), st.one_of(ways, powers, said))
text_pairs = st.tuples(st.one_of(said, changes), st.one_of(changes, places))
people_pairs = st.tuples(people, st.one_of(people, asks("say", users, to=peers, text=texts)))


class Town(RuleBasedStateMachine):
    """A node, its users, and the oracle."""

    def __init__(self) -> None:
        super().__init__()
        self.faults: list[str] = []
        note: Any = self._note
        self._observer = note
        globalLogPublisher.addObserver(note)
        self.directory = Path(tempfile.mkdtemp(prefix="chatd-people-", dir=memory()))
        path = self.directory / "chatd.db"
        path.write_bytes(template())
        self.url = StoreURL(kind="sqlite", path=str(path))
        self.db = sqlite3.connect(path, isolation_level=None)
        self.loop = Loop()
        self.world = World(USERS, BEGIN)
        self.links: list[str] = []
        self._open()

    def _note(self, event: LogEvent) -> None:
        if event.get("log_level") in (LogLevel.error, LogLevel.critical):
            failure = event.get("log_failure")
            self.faults.append(f"{formatEvent(event)} {failure.getTraceback() if failure else ''}")

    # -- the node

    def _open(self) -> None:
        """Starts a node on the database."""
        hashers, self.readers, self.writers = Threads(2), Threads(3), Threads(1)
        self.threads = (self.writers, self.readers, hashers)
        node = self.node = Node(
            self.loop,
            lambda: self.world.now / 1000,
            dialect(self.url),
            2,
            Accounts(),
            LIMITS,
            Heartbeat(),
            hasher=argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1),
            messages=Messages(
                edit_seconds=EDIT // 1000,
                recall_seconds=EDIT // 1000,
                call_all_seconds=CALL // 1000,
            ),
        )
        passwords: Any = node.passwords
        passwords._threads = hashers
        store: Any = node.store
        store._readers._pool.threadpool = self.readers
        store._writers._pool.threadpool = self.writers
        self.dispatcher = Dispatcher(node)
        self.sessions: dict[str, tuple[Session, Ear]] = {}
        node.start()

    def _drop(self) -> None:
        """The node is no more."""
        self.loop.threadCallQueue.clear()
        for call in self.loop.getDelayedCalls():
            call.cancel()
        store: Any = self.node.store
        store._readers.close()
        store._writers.close()

    def _job(self, write: bool = True) -> None:
        for threads in self.threads:
            if write or threads is not self.writers:
                threads.work()
                threads.tell()
        self.loop.turn()

    def _all(self, write: bool = True) -> None:
        """The node does all that it can; without `write`, up to where it would write."""
        able = self.threads if write else self.threads[1:]
        while any(threads.busy for threads in able) or self.loop.due():
            self._job(write)

    def _start(self, session: Session, command: str, fields: Fields) -> list[Any]:
        """Asks something; the list gets the outcome: a result, or the code of a refusal."""
        request = decode(json.dumps({"cmd": command, **fields}))
        outcome: list[Any] = []
        running = Deferred.fromCoroutine(self.dispatcher.call(session, request))
        running.addCallback(lambda result: json.loads(WIRE.reply(0, result)))
        running.addErrback(refusal)
        running.addCallback(outcome.append)
        return outcome

    def _session(self, user: str) -> Session:
        """The user's session, who logs in where there is none."""
        if user not in self.sessions:
            ear = Ear()
            session = self.node.session(ear, WIRE, "192.0.2.7")
            self.node.hub.open(session)
            self.sessions[user] = (session, ear)
            login = self._login(session, user)
            self._all()
            assert login and isinstance(login[0], dict), login
        return self.sessions[user][0]

    def _login(self, session: Session, user: str) -> list[Any]:
        given = {"name": user, "password": "secret", "replay": False}
        return self._start(session, "login", given)

    # -- requests

    def _resolved(self, request: Request) -> Request | None:
        """The request with users, seqs and links that there are."""
        fields = dict(request.fields)
        room = fields.get("group", fields.get("to", ""))
        user = self._who(request.user, room)
        key = self.world.key(user, room) if room else ""
        if "link" in fields or "token" in fields:
            which = fields.pop("link", fields.pop("token", 0))
            if which >= len(self.links):
                return None
            fields["token"] = self.links[which]
        for name in fields.keys() & {"seq", "reply_to"}:
            fields[name] = self._seq(key, fields[name])
        if request.user == "sender":
            seq, log = fields.get("seq", 1), self.world.logs.get(key, [])
            user = log[seq - 1].sender if seq <= len(log) else user
        if "whom" in fields:
            fields["whom"] = self._who(fields["whom"], room, of=request.command)
        if "span" in fields:
            span = fields.pop("span")
            fields["until"] = self.world.now + span if span else 0
        return Request(request.command, user, fields)

    def _who(self, name: str, room: str, of: str = "") -> str:
        """Somebody in that position."""
        group = self.world.groups.get(room)
        if name in USERS:
            return name
        if group is None:
            return USERS[len(name) % len(USERS)]
        if name == "stranger":
            found = [user for user in USERS if user not in group.members]
        elif name in ("asker", "banned", "guest"):
            those = {"asker": group.requests, "banned": group.bans, "guest": group.invitations}
            found = [user for user in USERS if user in those[name]]
        else:
            found = [user for user in USERS if group.role(user) == name]
        return found[-1] if found else USERS[len(name) % len(USERS)]

    def _seq(self, key: str, number: int) -> int:
        if number > 0:
            return number
        log = self.world.logs.get(key, [])
        said = [entry.seq for entry in log if entry.kind == "message"]
        return said[number - 1] if 1 - number <= len(said) else max(1, len(log) + number)

    def _parameters(self, request: Request) -> Fields:
        """As the protocol has them."""
        fields = dict(request.fields)
        if request.command == "create":
            fields["name"] = fields.pop("group")[1:]
        if "whom" in fields:
            fields["user"] = fields.pop("whom")
        if "other" in fields:
            fields["user"] = fields.pop("other")
        if request.command == "unlink":
            fields["link"] = fields.pop("token")[-16:]
        elif "token" in fields:
            fields["token"] = fields["token"][:-17]
        return fields

    def _expected(self, world: World, request: Request) -> Any:
        """The reply as the oracle has it, or the code of a refusal."""
        fields = dict(request.fields)
        if request.command == "create":
            fields["name"] = fields.pop("group")[1:]
        try:
            return world.do(request.user, request.command, **fields)
        except Refusal as refusal:
            return refusal.args[0]

    def _ask(self, request: Request) -> None:
        """One request, alone."""
        self.world.now += 1
        session = self._session(request.user)
        outcome = self._start(session, request.command, self._parameters(request))
        self._all()
        self._know_pairs(request)
        expected = self._expected(self.world, request)
        assert outcome and matches(outcome[0], expected), f"{request}: {outcome}, not {expected}"
        self._learn(self.world, request, outcome[0])
        self._compare(self.world, str(request))

    def _learn(self, world: World, request: Request, result: Any) -> None:
        """What only the server could know."""
        if request.command == "link" and isinstance(result, dict):
            name = f"{result['token']} {result['id']}"
            links = world.groups[request.fields["group"]].links
            links[name] = links.pop("new")
            self.links.insert(0, name)

    def _know_pairs(self, *requests: Request) -> None:
        self.world.pairs = {
            f"{low}|{high}"
            for low, high in self.db.execute(
                "SELECT lo.name, hi.name FROM rooms r JOIN users lo ON lo.id = r.low_id"
                " JOIN users hi ON hi.id = r.high_id"
            )
        }

    def _compare(self, world: World, what: str) -> None:
        assert not self.faults, f"{what}: {self.faults}"
        found, should = actual(self.db, world.now), wanted(world)
        for table, rows in should.items():
            assert found[table] == rows, f"{what}: {table} {difference(found[table], rows)}"
        self._listen(world, what)

    def _listen(self, world: World, what: str) -> None:
        """Who has a session heard what concerns him, once and in the order of each log."""
        for user, (session, ear) in self.sessions.items():
            told = [event for event in ear.heard if "seq" in event]
            heard = [(where(event), event["seq"], event["event"]) for event in told]
            should = world.heard[user]
            assert sorted(heard) == sorted(should), f"{what}: {user} heard {heard}, not {should}"
            for before, after in pairwise(heard):
                assert before[0] != after[0] or before[1] < after[1], f"{what}: {heard}"
            assert not ear.closed and session.behind is None, f"{what}: {user}"
            ear.heard.clear()
        world.heard = {user: [] for user in USERS}

    # -- rules

    @initialize(
        entry=entries,
        history=histories,
        posting=postings,
        more=st.lists(said, min_size=2, max_size=6),
    )
    def begin(self, entry: str, history: str, posting: str, more: list[Request]) -> None:
        """Two groups with some people in them, who have said something."""
        for name, rules in (
            ("#one", ("open", "all", posting)),
            ("#two", (entry, history, posting)),
        ):
            given = dict(zip(("entry", "history", "posting"), rules, strict=True))
            self._ask(Request("create", "ann", {"group": name, **given}))
            for user in ("bob", "cat"):
                self._ask(Request("invite", "ann", {"group": name, "whom": user}))
                self._ask(Request("join", user, {"group": name}))
            self._ask(Request("role", "ann", {"group": name, "whom": "bob", "role": "admin"}))
            self._ask(Request("invite", "bob", {"group": name, "whom": "dan"}))
            self._ask(Request("link", "bob", {"group": name, "uses": 2, "days": 7}))
            self._ask(Request("say", "cat", {"to": name, "text": "tea @bob"}))
        self._ask(Request("join", "刘备", {"group": "#two"}))
        for to in ("#one", "@bob", "@ann"):
            self._ask(Request("say", "ann", {"to": to, "text": "明天 rain"}))
        self.act(more)

    @rule(requests=st.lists(st.one_of(ways, powers), min_size=1, max_size=6), focus=focuses)
    def govern(self, requests: list[Request], focus: str) -> None:
        """People come and go, are let in or sent away; then each may write where he may."""
        self.act(requests, focus)
        self._try_doors({request.fields.get("group", "#one") for request in requests})

    @rule(
        requests=st.lists(st.one_of(said, changes), min_size=1, max_size=6),
        focus=focuses,
        level=flags,
    )
    def talk(self, requests: list[Request], focus: str, level: bool) -> None:
        """People say something, and change it."""
        if level:
            self._index()
        self.act(requests, focus)

    @rule(requests=st.lists(st.one_of(places, said), min_size=1, max_size=6), focus=focuses)
    def settle(self, requests: list[Request], focus: str) -> None:
        """People read and tidy up, and look at the list of their rooms."""
        for user in sorted(self.act(requests, focus)):
            self._summary(user)

    @rule(requests=st.lists(people, min_size=1, max_size=6), focus=focuses)
    def meet(self, requests: list[Request], focus: str) -> None:
        """People make friends and fall out; then each may write to whom he may."""
        self.act(requests, focus)
        self._try_doors({f"@{request.user}" for request in requests})

    @rule(requests=st.lists(anything, min_size=1, max_size=6), focus=focuses)
    def live(self, requests: list[Request], focus: str) -> None:
        """People do anything."""
        self.act(requests, focus)

    def _try_doors(self, addresses: set[str]) -> None:
        for user in USERS:
            for to in sorted(addresses):
                self._sees(user, "typing", {"to": to})

    def act(self, requests: list[Request], focus: str = "") -> set[str]:
        """Some requests, one after the other; by `focus` all in the same place, about the same
        message, or by the same user as well. Who asked."""
        asked = set()
        for request in requests:
            there = aimed(requests[0], request, focus == "user") if focus else request
            resolved = self._resolved(there)
            if resolved is not None:
                self._ask(resolved)
                asked.add(resolved.user)
        return asked

    @rule(
        pairs=st.lists(
            st.tuples(
                st.one_of(group_pairs, text_pairs, people_pairs),
                st.sampled_from((True, True, False)),
                st.integers(0, 5),
                flags,
            ),
            min_size=1,
            max_size=4,
        )
    )
    def race(self, pairs: list[tuple[tuple[Request, Request], bool, int, bool]]) -> None:
        """Two requests at once, some times: it comes out as if one had come before the other."""
        for (one, other), same, lead, together in pairs:
            requests = (one, aimed(one, other) if same else other)
            resolved = [r for r in map(self._resolved, requests) if r is not None]
            if len(resolved) == 2 and "link" not in (one.command, other.command):
                self._race(resolved, lead, together)

    def _race(self, requests: list[Request], lead: int, together: bool) -> None:
        """The second is made when the node has worked on the first for `lead` jobs; if they are
        `together`, nothing is written before both are as far as that."""
        self.world.now += 1
        sessions = [self._session(request.user) for request in requests]
        outcomes = []
        for request, session in zip(requests, sessions, strict=True):
            outcomes.append(self._start(session, request.command, self._parameters(request)))
            for _ in range(lead):
                self._job(not together)
        if together:
            self._all(write=False)
        self._all()
        before = self.world.pairs
        self._know_pairs()
        assert all(outcomes), f"{requests}: unanswered"
        found = [outcome[0] for outcome in outcomes]
        self.world = self._one_order(requests, found, before)

    def _one_order(self, requests: list[Request], found: list[Any], pairs: set[str]) -> World:
        """The world after the one order of the requests that explains what came out."""
        tried = []
        rows = actual(self.db, self.world.now)
        for first, second, world, expected in self._orders(requests, pairs):
            outcome = (found[first], found[second])
            if not all(map(matches, outcome, expected)):
                tried.append(str(expected))
                continue
            should = wanted(world)
            if should == rows:
                self._compare(world, str(requests))
                return world
            table = next(table for table in rows if rows[table] != should[table])
            tried.append(f"{table} {difference(rows[table], should[table])}")
        raise AssertionError(f"{requests}: {found}; " + "; or ".join(tried))

    def _orders(
        self, requests: list[Request], pairs: set[str]
    ) -> Iterator[tuple[int, int, World, tuple[Any, Any]]]:
        """Every order, with what the second one sees first, as it is then or as it was before;
        or the state has changed meanwhile, and that is a conflict. The first may come before
        the second makes a room: `pairs` are those that there were."""
        for late, made in product((False, True, None), (pairs, self.world.pairs)):
            for first, second in ((0, 1), (1, 0)):
                world = self.world.copy()
                world.pairs = made
                one = self._expected(world, requests[first])
                world.pairs = self.world.pairs
                if late is None:
                    yield first, second, world, (one, "conflict")
                    continue
                world.before = self.world if late else None
                other = self._expected(world, requests[second])
                world.before = None
                yield first, second, world, (one, other)

    @rule(ms=st.sampled_from((1000, CALL, EDIT, DAY, 8 * DAY, 31 * DAY)), sweep=flags)
    def wait(self, ms: int, sweep: bool) -> None:
        """Time goes by, and what has expired may be swept out."""
        self.world.now += ms
        self.node.keep_house()
        self._all()
        if sweep:
            self.node.store.write(group_statements.forget_expired, self.world.now)
            self._all()
            self._sweep()
        self._compare(self.world, "wait")

    def _sweep(self) -> None:
        now = self.world.now
        for group in self.world.groups.values():
            good = {k: way for k, way in group.links.items() if way.expires > now and way.uses}
            group.links = good
            asked = group.invitations.items()
            group.invitations = {u: given for u, given in asked if given[1] > now - 30 * DAY}

    @rule(user=users, how=st.sampled_from(("logout", "vanish", "vanish")))
    def go(self, user: str, how: str) -> None:
        """Somebody is online no more."""
        if user not in self.sessions:
            return
        session, _ = self.sessions[user]
        if how == "logout":
            outcome = self._start(session, "logout", {})
            self._all()
            assert matches(outcome[0], {}), outcome
        self.node.hub.close(session)
        del self.sessions[user]

    @precondition(lambda self: len(self.sessions) < len(USERS))
    @rule(user=users, request=st.one_of(ways, powers, people), lead=st.integers(0, 6))
    def come(self, user: str, request: Request, lead: int) -> None:
        """Somebody logs in while something happens: what it was counts at once."""
        resolved = self._resolved(request)
        if user in self.sessions or resolved is None or resolved.user == user:
            return
        self._session(resolved.user)
        ear = Ear()
        session = self.node.session(ear, WIRE, "192.0.2.7")
        self.node.hub.open(session)
        login = self._login(session, user)
        for _ in range(lead):
            self._job()
        self._ask(resolved)
        assert login and isinstance(login[0], dict), login
        self.sessions[user] = (session, ear)
        ear.heard.clear()

    @rule(rarely=st.integers(0, 2))
    def restart(self, rarely: int) -> None:
        """The node is killed, and another begins on the same database."""
        if rarely:
            return
        self._drop()
        self._open()
        self._compare(self.world, "restart")

    @rule()
    def index(self) -> None:
        """The index of search becomes level with the logs; then it finds all there is."""
        self._index()
        for user in USERS:
            for text in POOL[:4]:
                self._search(user, text, level=True)

    def _index(self) -> None:
        level = self.node.indexer.level()
        while not level.called:
            self.loop.turn(GATHERING)
            self._all()

    @rule(user=users, text=st.sampled_from(POOL), to=st.one_of(st.just(""), rooms))
    def search(self, user: str, text: str, to: str) -> None:
        """However far the index is, nothing is found that is not there."""
        self._search(user, text, to)

    def _search(self, user: str, text: str, to: str = "", level: bool = False) -> None:
        given = {"text": text, **({"to": to} if to else {})}
        request = Request("search", user, given)
        found = self._look(user, "search", given | {"limit": 50})
        expected = self._expected(self.world, request)
        if isinstance(expected, str) or not isinstance(found, dict):
            missing = to[:1] == "@" and found == {"entries": [], "more": False}
            assert found == expected or missing, f"{request}: {found}, not {expected}"
            return
        assert not found["more"], f"{request}: {found}"
        should = expected["entries"]
        if not level:
            should = [event for event in should if event in found["entries"]]
        assert bare(found["entries"]) == bare(should), f"{request}: {found}, not {expected}"

    @rule(user=users, to=rooms, seq=seqs)
    def look(self, user: str, to: str, seq: int) -> None:
        """Somebody looks at a room."""
        self._views(user, to, self._seq(self.world.key(user, to), seq))

    @rule(user=users)
    def review(self, user: str) -> None:
        """Somebody looks at all his rooms."""
        self._summary(user)

    def _views(self, user: str, to: str, seq: int) -> None:
        """A user sees of a room what the oracle has."""
        self._sees(user, "typing", {"to": to})
        self._sees(user, "history", {"to": to, "limit": 200})
        self._sees(user, "history", {"to": to, "limit": 3})
        self._sees(user, "pins", {"to": to})
        self._sees(user, "receipts", {"to": to, "seq": seq})
        self._sees(
            user, "versions", {"to": to, "seq": seq}, lambda r: {"texts": texts_of(r["versions"])}
        )
        if to.startswith("#"):
            self._sees(user, "members", {"group": to}, people_of)
            self._sees(user, "about", {"group": to}, told)

    def _summary(self, user: str) -> None:
        self._sees(user, "unread", {})
        self._sees(user, "blocks", {}, lambda r: {"users": r["users"]})
        self._sees(user, "friends", {}, lambda r: {"friends": states(r["friends"])})
        found = self._look(user, "rooms", {})
        expected = self.world.do(user, "rooms")["rooms"]
        lines = {line["address"]: line for line in found["rooms"]}
        shown = {a: {k: line[k] for k in line if k in NEEDED} for a, line in lines.items()}
        apart = {a: (shown.get(a), e) for a, e in expected.items() if shown.get(a) != e}
        assert shown == expected, f"{user}: {apart}"
        order = [(line["pinned"], (line["last"] or {"at": 0})["at"]) for line in found["rooms"]]
        assert order == sorted(order, reverse=True), f"{user}: {order}"

    def _sees(
        self,
        user: str,
        command: str,
        fields: Fields,
        shape: Callable[[Fields], Fields] = lambda result: result,
    ) -> None:
        found = self._look(user, command, fields)
        try:
            expected: Any = self.world.do(user, command, **fields)
        except Refusal as refusal:
            expected = refusal.args[0]
        if isinstance(found, dict):
            found = shape({k: v for k, v in found.items() if k not in ("reply", "ok")})
        assert found == expected, f"{user} {command} {fields}: {found}, not {expected}"

    def _look(self, user: str, command: str, fields: Fields) -> Any:
        session = self._session(user)
        outcome = self._start(session, command, fields)
        self._all()
        assert outcome and not self.faults, f"{user} {command} {fields}: {self.faults}"
        return outcome[0]

    def teardown(self) -> None:
        try:
            if sys.exception() is None and self.world.logs:
                self._end()
        finally:
            self._drop()
            self.db.close()
            globalLogPublisher.removeObserver(self._observer)
            shutil.rmtree(self.directory)

    def _end(self) -> None:
        """Everybody sees what the oracle has, and all that is counted agrees."""
        self._index()
        for user in USERS:
            self._summary(user)
            for to in (*self.world.groups, *(f"@{name}" for name in USERS)):
                log = self.world.logs.get(self.world.key(user, to), ())
                self._views(user, to, max(1, len(log) // 2))
            for text in POOL:
                self._search(user, text, level=True)
        for seq in range(1, len(self.world.logs["#one"]) + 1):
            self._sees("bob", "receipts", {"to": "#one", "seq": seq})
        now = self.world.now
        found = list(differences(Connection(self.db, dialect(self.url)), now))
        assert not found, found
        self._compare(self.world, "at the end")


NEEDED = (
    *("last_seq", "read_seq", "delivered_seq", "unread", "mentions", "marked", "pinned"),
    *("notify", "archived", "last"),
)


def aimed(one: Request, other: Request, same_user: bool = False) -> Request:
    """The other request, about the room, the message and the person of the first."""
    same = {k: v for k, v in one.fields.items() if k in other.fields and k in SHARED}
    if same_user:
        given = {k: v for k, v in one.fields.items() if k in other.fields and k == "other"}
        return Request(
            other.command, one.user, {**other.fields, **same, **given, **room_of(one, other)}
        )
    if "other" in one.fields and "other" in other.fields:
        return Request(other.command, one.fields["other"], {**other.fields, "other": one.user})
    if "whom" in one.fields and "whom" not in other.fields and one.fields["whom"] in USERS:
        return Request(other.command, one.fields["whom"], {**other.fields, **same})
    return Request(other.command, other.user, {**other.fields, **same, **room_of(one, other)})


def room_of(one: Request, other: Request) -> Fields:
    """The group of the first, as the other command calls it."""
    room = str(one.fields.get("group") or one.fields.get("to") or "")
    name = next((name for name in ("group", "to") if name in other.fields), "")
    return {name: room} if name and room.startswith("#") else {}


SHARED = ("group", "to", "seq", "whom", "token", "emoji")


def refusal(failure: Failure) -> str:
    """The code of a refusal."""
    assert isinstance(failure.value, Refused), failure
    return failure.value.code


def matches(found: Any, expected: Any) -> bool:
    """Whether a reply has what it must have, or is the refusal that it must be."""
    if isinstance(found, dict) and isinstance(expected, dict):
        if "seq" not in expected and "at" not in expected and "seq" in found:
            return False
        return all(found.get(name) == value for name, value in expected.items())
    return bool(found == expected)


def difference(found: list[Any], expected: list[Any]) -> str:
    """What is too much, and what is missing."""
    more = [row for row in found if row not in expected]
    less = [row for row in expected if row not in found]
    return f"has {more}, not {less}"


def where(event: Fields) -> str:
    """The room of an event."""
    if event["to"].startswith("#"):
        return str(event["to"])
    return "|".join(sorted((event["from"], event["to"][1:]), key=USERS.index))


def bare(events: list[Fields]) -> list[tuple[Any, ...]]:
    """Events in an order that does not depend on the rooms' ids."""
    rows = [
        (-event["at"], event["to"], event["from"], event["seq"], repr(event)) for event in events
    ]
    times = [row[0] for row in rows]
    assert times == sorted(times), f"not newest first: {events}"
    return sorted((at, to, who, seq) for at, to, who, seq, _ in rows)


def people_of(result: Fields) -> Fields:
    """A page of members without what is not the oracle's."""
    names = ("user", "role", "muted_until", "joined")
    return {**result, "members": [{n: line[n] for n in names} for line in result["members"]]}


def told(result: Fields) -> Fields:
    """What is told of a group, without its titles."""
    return {k: v for k, v in result.items() if v is not None and k not in TITLES}


TITLES = ("address", "title", "description")


def texts_of(versions: list[Fields]) -> list[str]:
    """What a message said."""
    return [version["text"] for version in versions]


def states(friends: list[Fields]) -> dict[str, str]:
    """What people are to one."""
    return {friend["user"]: friend["state"] for friend in friends}


class PeopleTests(SynchronousTestCase):
    """The machine, with few messages counted as unread."""

    def test_people(self) -> None:
        """Whatever people do, and two at once, all is as the oracle has it."""
        self.patch(overview, "UNREAD_SEEN", SEEN)
        run_state_machine_as_test(Town, settings=machine(25, 2000))

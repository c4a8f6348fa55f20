"""Rooms, members, cursors, unread counts and delivery, held against what must be true of them,
over any order of requests, deaths, slow reading, work of the database, and restarts.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

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
from twisted.trial.unittest import SynchronousTestCase

from chatd import backlog
from chatd.dispatcher import Dispatcher
from chatd.frontends.http import make_site
from chatd.frontends.tcp import LineFactory
from chatd.frontends.web import WebFactory
from chatd.frontends.websocket import ChatFactory
from chatd.heartbeat import BEATS, Heartbeat
from chatd.node import Node
from chatd.settings import Accounts, Limits, StoreURL
from chatd.settings import Heartbeat as Pulse
from chatd.store import batch, overview, pool, schema
from chatd.store.connection import Connection
from chatd.store.dialects import Dialect, dialect
from chatd.store.fsck import differences
from tests.loop import Browser, Loop, Peer, Terminal, Threads
from tests.profiles import machine

USERS = ("ann", "bob", "cat")
GROUPS = ("#one", "#two")
ADDRESSES = (*GROUPS, *(f"@{name}" for name in USERS))
SEEN = 4  # unread messages are counted among so many entries, for these tests
PAGE = 3  # entries of a page, for these tests
PEERS = 5
LIMITS = Limits(
    session_rate=1_000_000,
    user_rate=1_000_000,
    address_rate=1_000_000,
    passwords_per_minute=10_000,
    outbound_bytes=2048,
    requests_under_way=8,
    mistakes_per_minute=1_000_000,
    login_seconds=3600,
)
PULSE = Pulse(interval=3, timeout=2)
ENTRIES = ("message", "created", "joined", "left", "dissolved")

Where = tuple[str, ...]  # a room: its group's address, or the two names in order


def where(user: str, address: str) -> Where:
    """The room that an address means to a user."""
    if address.startswith("#"):
        return (address,)
    return tuple(sorted((user, address[1:])))


class Row(NamedTuple):
    """An entry, as it is stored."""

    seq: int
    kind: str
    sender: str
    text: str | None


class Cursor(NamedTuple):
    """A user's place in a room, as it is stored."""

    delivered: int
    read: int


class Truth:
    """What the database holds, looked at after whatever could have changed it, and what users are
    known to have received. Each look checks that logs only grow, by one number at a time, and
    cursors only move forward, over nothing that nobody received."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None)
        self.logs: dict[Where, list[Row]] = defaultdict(list)
        self.cursors: dict[tuple[str, Where], Cursor] = defaultdict(lambda: Cursor(0, 0))
        self.stays: dict[tuple[str, Where], list[range]] = defaultdict(list)
        self.got: dict[tuple[str, Where], set[int]] = defaultdict(set)
        self.told: dict[tuple[str, Where], int] = defaultdict(int)
        self.places: dict[str, tuple[Where, int]] = {}
        self.unproving: set[str] = set()  # users of sessions that prove nothing by reading

    def close(self) -> None:
        """Forgets the database."""
        self._db.close()

    def agrees(self, kind: Dialect) -> None:
        """All that is derived is as the logs have it."""
        found = list(differences(Connection(self._db, kind), 0))
        assert not found, found

    def look(self) -> None:
        """Reads what is new."""
        for first, second, group, *entry in self._db.execute(
            "SELECT lo.name, hi.name, r.name, e.seq, e.kind, u.name, e.body ->> 'text'"
            " FROM entries e JOIN rooms r ON r.id = e.room_id JOIN users u ON u.id = e.sender_id"
            " LEFT JOIN users lo ON lo.id = r.low_id LEFT JOIN users hi ON hi.id = r.high_id"
            " ORDER BY e.room_id, e.seq"
        ):
            room = (f"#{group}",) if group else tuple(sorted((first, second)))
            self._entry(room, Row(*entry))
        for user, first, second, group, *place in self._db.execute(
            "SELECT u.name, lo.name, hi.name, r.name, c.delivered_seq, c.read_seq FROM cursors c"
            " JOIN rooms r ON r.id = c.room_id JOIN users u ON u.id = c.user_id"
            " LEFT JOIN users lo ON lo.id = r.low_id LEFT JOIN users hi ON hi.id = r.high_id"
        ):
            room = (f"#{group}",) if group else tuple(sorted((first, second)))
            self._cursor(user, room, Cursor(*place))

    def _entry(self, room: Where, row: Row) -> None:
        log = self.logs[room]
        if row.seq <= len(log):
            assert log[row.seq - 1] == row, f"{room}: {log[row.seq - 1]} became {row}"
            return
        assert row.seq == len(log) + 1, f"{room}: {row} follows {len(log)}"
        log.append(row)
        if row.text is not None:
            assert row.text not in self.places, f"{row} is stored twice"
            self.places[row.text] = (room, row.seq)
        if len(room) == 1:
            self._move(room, row)

    def _move(self, room: Where, row: Row) -> None:
        assert row.seq == 1 or self.logs[room][row.seq - 2].kind != "dissolved", f"{room}: {row}"
        stays = self.stays[row.sender, room]
        inside = bool(stays) and row.seq in stays[-1]
        if row.kind in ("created", "joined"):
            assert not inside, f"{row} of a member"
            stays.append(range(row.seq, 2**63))
        if row.kind == "left":
            assert inside, f"{row} of no member"
            stays[-1] = range(stays[-1].start, row.seq + 1)
        if row.kind == "dissolved":
            for user in USERS:
                stays = self.stays[user, room]
                if stays and row.seq in stays[-1]:
                    stays[-1] = range(stays[-1].start, row.seq + 1)

    def _cursor(self, user: str, room: Where, cursor: Cursor) -> None:
        before = self.cursors[user, room]
        assert cursor.delivered >= before.delivered, f"{user} in {room}: {before} -> {cursor}"
        assert cursor.read >= before.read, f"{user} in {room}: {before} -> {cursor}"
        assert cursor.delivered <= len(self.logs[room]), f"{user} in {room}: {cursor}"
        self.cursors[user, room] = cursor
        if (
            user in self.unproving
            and self.logs[room][-1:]
            and self.logs[room][-1].kind == "dissolved"
        ):
            return  # there is no address to acknowledge it by
        begin = max(self.told[user, room], self.stay(user, room).start)
        for seq in range(before.delivered + 1, cursor.delivered + 1):
            if seq > begin and self.may_see(user, room, seq):
                assert seq in self.got[user, room], f"{user} never got {room} {seq}, but {cursor}"

    def stay(self, user: str, room: Where) -> range:
        """The numbers of the room since the user came the last time."""
        if len(room) == 2:
            return range(2**63)
        stays = self.stays[user, room]
        return stays[-1] if stays else range(0)

    def member(self, user: str, room: Where) -> bool:
        """Whether the user is in the room now."""
        return self.stay(user, room).stop == 2**63 and user in (*room, user)[: len(room) + 1]

    def may_see(self, user: str, room: Where, seq: int) -> bool:
        """Whether the user was there."""
        if len(room) == 2:
            return user in room
        return any(seq in stay for stay in self.stays[user, room])

    def visible(self, user: str) -> Iterator[tuple[Where, int]]:
        """What the user is to get in all: of each room what stands there since he came."""
        for room, log in self.logs.items():
            if len(room) == 1 or user in room:
                stay = self.stay(user, room)
                ended = bool(log) and log[-1].kind == "dissolved" and len(log) in stay
                if stay.stop == 2**63 or ended:
                    yield from ((room, row.seq) for row in log if row.seq in stay)

    def left_between(self, user: str, room: Where, after: int, seq: int) -> bool:
        """Whether the user left the room behind `after` and before `seq`."""
        return len(room) == 1 and any(
            row.kind == "left" and row.sender == user for row in self.logs[room][after : seq - 1]
        )

    def unread(self, user: str, room: Where, seen: int) -> int:
        """The messages of others behind the read cursor, among the last `seen` entries."""
        behind = max(self.cursors[user, room].read, len(self.logs[room]) - seen)
        return sum(
            row.kind == "message" and row.sender != user and row.seq > behind
            for row in self.logs[room]
        )


class Request(NamedTuple):
    """What a client asked, and what was true then."""

    body: dict[str, Any]
    span: Span | None
    check: Callable[[dict[str, Any]], None]


class Span:
    """One user's time on a connection, from the login to the logout."""

    def __init__(self, user: str, replay: bool, ack: bool) -> None:
        self.user = user
        self.replay = replay
        self.proving = replay and not ack
        self.last: dict[Where, int] = {}
        self.got: dict[Where, set[int]] = defaultdict(set)
        self.answered: dict[Where, set[int]] = defaultdict(set)  # stored by it
        self.asked: set[str | tuple[str, Where]] = set()  # texts and steps that may be its own
        self.floor: dict[Where, int] | None = None  # what it need not get; None: unknown yet


class Client:
    """A connection with what its program knows."""

    def __init__(self, truth: Truth) -> None:
        self.truth = truth
        self.peer: Peer
        self.requests: deque[Request] = deque()
        self.span: Span | None = None  # as the replies tell
        self.next: Span | None = None  # when all is answered
        self.lazy = False  # reads and answers pings only when told to
        self.prompt = True  # it always did at once
        self.ends = False  # it began to close
        self._ids = 0

    def ask(self, command: str, check: Callable[[dict[str, Any]], None], **fields: Any) -> None:
        """Sends a request."""
        self._ids += 1
        body = {"cmd": command, "id": self._ids, **fields}
        self.requests.append(Request(body, self.next, check))
        self.peer.ask(body)

    def hear(self, heard: dict[str, Any]) -> None:
        """A reply or an event has arrived."""
        if "reply" in heard:
            request = self.requests.popleft()
            assert heard["reply"] == request.body["id"], f"{heard} to {request.body}"
            assert heard["ok"] or heard["error"] != "internal", f"{heard} to {request.body}"
            self.truth.look()
            request.check(heard)
        elif "seq" in heard and heard["event"] in ENTRIES:
            self.truth.look()
            self._entry(heard)

    def _entry(self, event: dict[str, Any]) -> None:
        span, truth = self.span, self.truth
        assert span is not None, f"{event} for nobody"
        room, seq, user = where(event["from"], event["to"]), event["seq"], span.user
        row = Row(seq, event["event"], event["from"], event.get("text"))
        assert seq <= len(truth.logs[room]), f"{event} is not stored"
        assert truth.logs[room][seq - 1] == row, f"{event} is not {truth.logs[room][seq - 1]}"
        assert truth.may_see(user, room, seq), f"{user} may not get {event}"
        assert seq not in span.answered[room], f"{user} gets {event}, having said it there"
        last = span.last.get(room, 0)
        assert seq > last, f"{user} gets {event} behind {last}"
        if last and not truth.left_between(user, room, last, seq):
            for missed in truth.logs[room][last : seq - 1]:
                own = missed.text if missed.text is not None else (missed.kind, room)
                assert own in span.asked, f"{user} gets {event} behind {last}, without {missed}"
        self.settle()
        span.last[room] = seq
        span.got[room].add(seq)
        truth.got[user, room].add(seq)

    def settle(self) -> None:
        """Before the first entry: what the server counts as delivered now need not come."""
        if self.span is not None and self.span.floor is None:
            user = self.span.user
            self.span.floor = {r: self.truth.cursors[user, r].delivered for r in self.truth.logs}

    def complete(self) -> None:
        """Nothing is under way: all has been answered, and the user has all there is."""
        assert not self.requests, f"unanswered: {[r.body for r in self.requests]}"
        self.settle()
        span = self.span
        if span is None:
            return
        assert span.floor is not None
        for room, seq in self.truth.visible(span.user):
            if seq > span.floor.get(room, 0) and seq not in span.answered[room]:
                assert seq in span.got[room], f"{span.user} lacks {room} {seq}: {span.floor}"


@cache
def template() -> bytes:
    """An empty database of today's schema."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "chatd.db")
        schema.upgrade(StoreURL(kind="sqlite", path=str(path)))
        return path.read_bytes()


def memory() -> str | None:
    """A directory in memory, where there is one: a commit need not reach a disk here."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


# What members do, and the entries that tell of it.
STEPS = {"create": "created", "join": "joined", "leave": "left", "dissolve": "dissolved"}

clients = st.integers(0, PEERS - 1)
users = st.sampled_from(USERS)
groups = st.sampled_from(GROUPS)
addresses = st.sampled_from(ADDRESSES)
# What the server gets to do behind a step: nothing, a turn, a job and a turn, all there is.
runs = st.sampled_from(("all", "all", "job", "turn", "no"))


# What may happen between two who talk: (machine, who speaks, who listens, to what address).
MICRO: dict[str, Callable[[Chat, Client, Client, str], object]] = {
    "say": lambda chat, one, other, to: chat._say(one, to, "", 0),
    "say much": lambda chat, one, other, to: chat._say(one, to, "", 3000),
    "submit": lambda chat, one, other, to: chat._submit(one, to),
    "store": lambda chat, one, other, to: chat._store(one, to),
    "write": lambda chat, one, other, to: chat._write(),
    "tell": lambda chat, one, other, to: chat.writers.tell(),
    "read": lambda chat, one, other, to: chat.readers.work(),
    "tell read": lambda chat, one, other, to: chat.readers.tell(),
    "job": lambda chat, one, other, to: chat._job(),
    "overtake": lambda chat, one, other, to: chat._overtake(one, to),
    "precede": lambda chat, one, other, to: chat._precede(one, to),
    "turn": lambda chat, one, other, to: chat.loop.turn(),
    "take some": lambda chat, one, other, to: other.peer.read(2000),
    "take all": lambda chat, one, other, to: other.peer.read(),
    "answer": lambda chat, one, other, to: other.peer.pong(),
    "ask": lambda chat, one, other, to: other.ask("whoami", lambda reply: None),
    "all": lambda chat, one, other, to: chat._all(),
}


weaves = st.lists(
    st.sampled_from((*MICRO, "overtake", "precede", "overtake", "precede")), min_size=3, max_size=16
)


class Chat(RuleBasedStateMachine):
    """A node with its clients."""

    loop: Loop
    readers: Threads
    writers: Threads

    def __init__(self) -> None:
        super().__init__()
        self.faults: list[str] = []
        note: Any = self._note
        self._observer = note
        globalLogPublisher.addObserver(note)
        self.directory = Path(tempfile.mkdtemp(prefix="chatd-machine-", dir=memory()))
        path = self.directory / "chatd.db"
        path.write_bytes(template())
        self.url = StoreURL(kind="sqlite", path=str(path))
        self.truth = Truth(path)
        self.loop = Loop()
        self.clients: list[Client] = []
        self.registered: set[str] = set()
        self.tokens: dict[str, str] = {}
        self.keys: dict[tuple[str, str], tuple[str, set[str]]] = {}  # text, addresses
        self.parted: set[tuple[str, Where]] = set()
        self.texts = 0
        self._open()

    def _note(self, event: LogEvent) -> None:
        if event.get("log_level") in (LogLevel.error, LogLevel.critical):
            failure = event.get("log_failure")
            self.faults.append(f"{formatEvent(event)} {failure.getTraceback() if failure else ''}")

    def _open(self) -> None:
        """Starts a node on the database."""
        clock = self.loop
        hashers = Threads(2)
        self.readers = Threads(3)
        self.writers = Threads(1)
        self.threads = (self.writers, self.readers, hashers)
        weak = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
        node = self.node = Node(
            clock,
            clock.seconds,
            dialect(self.url),
            2,
            Accounts(),
            LIMITS,
            PULSE,
            hasher=weak,
        )
        passwords: Any = node.passwords
        passwords._threads = hashers
        store: Any = node.store
        store._readers._pool.threadpool = self.readers
        store._writers._pool.threadpool = self.writers
        dispatcher = Dispatcher(node)
        self.heartbeat = Heartbeat(node, lambda: None, lambda lag: None)
        self.lines = LineFactory(node, dispatcher)
        chat = ChatFactory(clock, node, dispatcher, ())
        site = make_site(node, dispatcher, lambda: b"")
        self.web = WebFactory(node, chat.buildProtocol, site.buildProtocol)
        node.start()

    def teardown(self) -> None:
        try:
            self.quiet(True)
            self.truth.agrees(dialect(self.url))
        finally:
            for client in self.clients:
                client.peer.vanish()
            self._drop()
            self.truth.close()
            globalLogPublisher.removeObserver(self._observer)
            shutil.rmtree(self.directory)

    def _drop(self) -> None:
        """The node is no more, whatever was under way."""
        self.loop.threadCallQueue.clear()
        for call in self.loop.getDelayedCalls():
            call.cancel()
        store: Any = self.node.store
        store._readers.close()
        store._writers.close()
        self.loop.removeAll()

    # -- what the server does

    def _run(self, how: str) -> None:
        if how == "turn":
            self.loop.turn()
        if how == "job":
            self._job()
            self.loop.turn()
        if how == "all":
            self._all()
        self._listen()

    def _job(self) -> None:
        """The threads each do one thing and tell of it."""
        for threads in self.threads:
            threads.work()
            threads.tell()
        self.truth.look()

    def _write(self) -> None:
        self.writers.work()
        self.truth.look()

    def _all(self) -> None:
        """The server does all that it can."""
        while self._under_way():
            self._job()
            self.loop.turn()

    def _under_way(self) -> bool:
        return any(threads.busy for threads in self.threads) or self.loop.due()

    def _listen(self) -> None:
        """Those clients that read at once do."""
        for client in self.clients:
            if not client.lazy:
                client.peer.read()
                client.peer.pong()
        assert not self.faults, self.faults
        for client in list(self.clients):
            if not client.peer.open:
                self._gone(client)

    def _gone(self, client: Client) -> None:
        self.clients.remove(client)
        expected = client.ends or not (client.prompt and client.peer.closed_by_server)
        assert expected or self.node.stopping, "closed for no reason"

    # -- clients come and go

    @precondition(lambda self: len(self.clients) < PEERS)
    @rule(lines=st.booleans(), lazy=st.booleans(), run=runs)
    def connect(self, lines: bool, lazy: bool, run: str) -> None:
        """A client connects."""
        client = Client(self.truth)
        kind, factory = (Terminal, self.lines) if lines else (Browser, self.web)
        client.peer = kind(self.loop, factory.buildProtocol(None), client.hear)
        client.lazy, client.prompt = lazy, not lazy
        self.clients.append(client)
        self._run(run)

    @initialize(
        kinds=st.lists(
            st.tuples(st.booleans(), st.booleans(), st.booleans(), st.booleans()),
            min_size=4,
            max_size=4,
        )
    )
    def begin(self, kinds: list[tuple[bool, bool, bool, bool]]) -> None:
        """Everybody is there, one of them twice, and all are in a group."""
        for number, (lines, lazy, replay, ack) in enumerate(kinds):
            self.connect(lines, lazy, "all")
            self.log_in(number, USERS[number % 3], replay or number < 2, ack and number > 2, "all")
            self._step(number, "join" if number else "create", "#one", "all")

    def _submit(self, client: Client, to: str) -> None:
        """Says something that then waits for the writer."""
        self._say(client, to, "", 0)
        self.loop.turn()
        self.loop.turn()

    def _store(self, client: Client, to: str) -> None:
        """Says something that is stored then, of which the reactor knows nothing yet."""
        self._submit(client, to)
        while self.writers.waiting and str(self.texts) not in self.truth.places:
            self.writers.tell()
            self._write()

    def _to_a_read(self) -> None:
        """The server goes on until a read begins, or nothing is left to do."""
        self._run("job")
        while self._under_way() and not self.readers.waiting:
            self._run("job")

    def _precede(self, client: Client, to: str) -> None:
        """A read finds what is stored and not sent out yet."""
        self._store(client, to)
        self.readers.work()
        self.readers.tell(1)
        self.loop.turn()
        self.writers.tell()
        self.loop.turn()

    def _overtake(self, client: Client, to: str) -> None:
        """Between a read and the telling of it something is said, stored and sent out."""
        self.readers.work()
        self._store(client, to)
        self.writers.tell()
        self.loop.turn()
        self.readers.tell(1)

    def _client(self, number: int) -> Client | None:
        live = [client for client in self.clients if client.peer.open and not client.ends]
        return live[number % len(live)] if live else None

    def _user(self, number: int) -> Client | None:
        """A client that is logged in, or is about to be."""
        live = [c for c in self.clients if c.peer.open and not c.ends and c.next]
        return live[number % len(live)] if live else None

    @rule(number=clients, user=users, replay=st.booleans(), ack=st.booleans(), run=runs)
    def log_in(self, number: int, user: str, replay: bool, ack: bool, run: str) -> None:
        """A client logs in; as another than before after a logout."""
        client = self._client(number)
        if client is not None:
            self._log_in(client, user, replay, ack)
            self._run(run)

    def _log_in(self, client: Client, user: str, replay: bool, ack: bool) -> None:
        if client.next is not None:
            self._log_out(client)
        span = client.next = Span(user, replay, ack)
        options: dict[str, Any] = {"replay": replay, "ack": ack}
        if ack or not replay:
            self.truth.unproving.add(user)
        known = user in self.registered

        def check(reply: dict[str, Any]) -> None:
            if not reply["ok"]:
                assert not known or reply["error"] == "exists", reply
                assert reply["error"] in ("exists", "unauthorized", "conflict"), reply
                if client.next is span:
                    client.next = None
                return
            self.registered.add(user)
            client.span = span
            if not replay:
                span.floor = {room: len(log) for room, log in self.truth.logs.items()}

        command = "login" if known else "register"
        client.ask(command, check, name=user, password="secret", **options)

    def _log_out(self, client: Client) -> None:
        def check(reply: dict[str, Any]) -> None:
            if reply["ok"]:
                client.span = None

        client.next = None
        client.ask("logout", check)

    @rule(number=clients, run=runs)
    def log_out(self, number: int, run: str) -> None:
        """A client logs out."""
        client = self._user(number)
        if client is not None:
            self._log_out(client)
            self._run(run)

    @rule(number=clients, how=st.sampled_from(("die", "vanish", "say_goodbye")), run=runs)
    def end(self, number: int, how: str, run: str) -> None:
        """A client's program or network ends, or it takes its leave."""
        client = self._client(number)
        if client is not None:
            client.ends = True
            getattr(client.peer, how)()
            self._run(run)

    @rule(number=clients)
    def change(self, number: int) -> None:
        """A client begins to read when it likes, or at once again."""
        client = self._client(number)
        if client is not None:
            client.lazy = not client.lazy
            client.prompt = False
            self._listen()

    @rule(number=clients, most=st.sampled_from((10, 300, 2**20)), pong=st.booleans(), run=runs)
    def read_some(self, number: int, most: int, pong: bool, run: str) -> None:
        """A client reads a little, and may answer the pings."""
        client = self._client(number)
        if client is not None:
            client.peer.read(most)
            if pong:
                client.peer.pong()
            self._run(run)

    # -- requests

    @rule(
        number=clients,
        to=addresses,
        key=st.sampled_from(("", "", "k1", "k2")),
        size=st.sampled_from((0, 0, 0, 3000)),
        run=runs,
    )
    def say(self, number: int, to: str, key: str, size: int, run: str) -> None:
        """A user says something new, or the same again by the same key."""
        client = self._user(number)
        if client is not None:
            self._say(client, to, key, size)
            self._run(run)

    @rule(
        number=clients,
        to=addresses,
        count=st.integers(2, 8),
        size=st.sampled_from((0, 3000)),
        run=runs,
    )
    def pour(self, number: int, to: str, count: int, size: int, run: str) -> None:
        """A user says much at once."""
        client = self._user(number)
        if client is not None:
            for _ in range(count):
                self._say(client, to, "", size)
            self._run(run)

    def _say(self, client: Client, to: str, key: str, size: int) -> None:
        span = client.next
        if span is None:
            return  # the login was refused meanwhile
        self.texts += 1
        text, tos = f"{self.texts}".ljust(size, "."), set[str]()
        fields = {"to": to}
        if key:
            text, tos = self.keys.setdefault((span.user, key), (text, tos))
            tos.add(to)
            fields["key"] = key
        span.asked.add(text)
        room = where(span.user, to)
        never = (span.user, room) in self.parted

        def check(reply: dict[str, Any]) -> None:
            if not reply["ok"]:
                refused = reply["error"]
                if refused == "conflict":
                    assert len(tos) > 1, reply
                elif client.span is span and to.startswith("#"):
                    assert refused in ("not-a-member", "not-found"), reply
                elif client.span is span and to[1:] in self.registered:
                    raise AssertionError(reply)
                return
            seq, repeated = reply["seq"], reply.get("duplicate", False)
            assert self.truth.places.get(text) == (room, seq), f"{reply}, {room}"
            assert repeated or not never, f"{span.user} said {text} to {to}"
            assert self.truth.logs[room][seq - 1].sender == span.user
            assert not repeated or key, reply
            if not repeated:
                span.answered[room].add(seq)
                self.truth.got[span.user, room].add(seq)

        client.ask("say", check, text=text, **fields)

    @rule(
        number=clients,
        step=st.sampled_from((*STEPS, "leave", "join", "leave", "join")),
        group=groups,
        run=runs,
    )
    def group(self, number: int, step: str, group: str, run: str) -> None:
        """A user makes, joins, leaves or dissolves a group."""
        self._step(number, step, group, run)

    def _step(self, number: int, command: str, group: str, run: str) -> None:
        client = self._user(number)
        if client is None or client.next is None:
            return
        span, room, kind = client.next, (group,), STEPS[command]
        span.asked.add((kind, room))
        if kind == "joined":
            self.parted.discard((span.user, room))

        def check(reply: dict[str, Any]) -> None:
            if not reply["ok"]:
                return
            seq = reply.get("seq", 1)
            row = self.truth.logs[room][seq - 1]
            assert (row.kind, row.sender) == (kind, span.user), f"{reply}, {row}"
            span.answered[room].add(seq)
            self.truth.got[span.user, room].add(seq)
            if kind == "left" and not any(
                r.body["cmd"] == "join" for c in self.clients for r in c.requests
            ):
                self.parted.add((span.user, room))

        client.ask(command, check, **{"name" if command == "create" else "group": group})
        self._run(run)

    @rule(
        number=clients,
        to=addresses,
        command=st.sampled_from(("delivered", "read")),
        back=st.integers(-1, 3),
        run=runs,
    )
    def mark(self, number: int, to: str, command: str, back: int, run: str) -> None:
        """A user tells what has arrived or was read."""
        client = self._user(number)
        if client is None or client.next is None:
            return
        user = client.next.user
        room = where(user, to)
        seq = max(0, len(self.truth.logs[room]) - back)
        told = self.truth.told
        told[user, room] = max(told[user, room], seq)

        def check(reply: dict[str, Any]) -> None:
            if reply["ok"]:
                cursor = self.truth.cursors[user, room]
                assert reply["seq"] <= min(seq, cursor.delivered), f"{reply}, {cursor}"
                assert command == "delivered" or reply["seq"] <= cursor.read, f"{reply}, {cursor}"

        client.ask(command, check, to=to, seq=seq)
        self._run(run)

    @rule(
        number=clients,
        to=addresses,
        field=st.sampled_from(("before", "after")),
        seq=st.integers(0, 12),
        limit=st.integers(1, 5),
        run=runs,
    )
    def history(self, number: int, to: str, field: str, seq: int, limit: int, run: str) -> None:
        """A user reads back."""
        client = self._user(number)
        if client is None or client.next is None:
            return
        span, room = client.next, where(client.next.user, to)
        known, never = len(self.truth.logs[room]), (span.user, room) in self.parted

        def check(reply: dict[str, Any]) -> None:
            if not reply["ok"]:
                return
            assert self.truth.stay(span.user, room) and not never, f"{span.user}: {reply}"
            entries = [_row(event) for event in reply["entries"]]
            log = self.truth.logs[room]
            assert len(entries) <= limit
            if field == "after":
                assert entries == log[seq : seq + len(entries)], reply
                assert reply["more"] or seq + len(entries) >= known, f"{reply}, {known}"
                assert not reply["more"] or len(entries) == limit
            elif entries:
                assert entries == log[entries[0].seq - 1 : entries[-1].seq], reply
                assert min(seq - 1, known) <= entries[-1].seq < seq, f"{reply}, {known}"
                assert reply["more"] == (entries[0].seq > 1), reply
            else:
                assert min(known, seq - 1) <= 0, reply

        client.ask("history", check, to=to, limit=limit, **{field: seq})
        self._run(run)

    @rule(number=clients, seqs=st.lists(st.integers(0, 12), min_size=5, max_size=5), run=runs)
    def sync(self, number: int, seqs: list[int], run: str) -> None:
        """A user catches up."""
        client = self._user(number)
        if client is None or client.next is None:
            return
        user, since = client.next.user, dict(zip(ADDRESSES, seqs, strict=True))
        known = {to: len(self.truth.logs[where(user, to)]) for to in since}
        never = {to for to in since if (user, where(user, to)) in self.parted}

        def check(reply: dict[str, Any]) -> None:
            if not reply["ok"]:
                return
            for to, seq in since.items():
                room = where(user, to)
                entries = [
                    _row(event)
                    for event in reply["entries"]
                    if where(event["from"], event["to"]) == room
                ]
                reset = reply.get("reset", {}).get(to)
                assert entries == self.truth.logs[room][seq : seq + len(entries)], reply
                if reset is None:
                    assert to not in never, reply
                    assert seq + len(entries) >= known[to], reply
                if reset == "beyond-the-end":
                    assert seq > known[to], reply

        client.ask("sync", check, since=since)
        self._run(run)

    @rule(
        speaker=clients,
        listener=clients,
        direct=st.booleans(),
        first=st.integers(1, 4),
        steps=weaves,
        missed=st.integers(0, 2),
        user=users,
    )
    def arrive(
        self,
        speaker: int,
        listener: int,
        direct: bool,
        missed: int,
        first: int,
        steps: list[str],
        user: str,
    ) -> None:
        """One speaks, another logs in, and the server does this and that between."""
        one, other = self._user(speaker), self._client(listener)
        if one is None or other is None or one is other:
            return
        to = f"@{user}" if direct else GROUPS[0]
        if other.next is not None:
            self._log_out(other)
        for _ in range(missed):
            self._say(one, to, "", 0)
        self._all()
        self._log_in(other, user, True, False)
        self._weave(one, other, to, first, steps)

    @rule(
        speaker=clients,
        listener=clients,
        direct=st.booleans(),
        first=st.integers(0, 6),
        steps=weaves,
    )
    def lag(self, speaker: int, listener: int, direct: bool, first: int, steps: list[str]) -> None:
        """One speaks, another reads slowly, and the server does this and that between."""
        one, other = self._user(speaker), self._user(listener)
        if one is None or other is None or one is other or other.next is None:
            return
        other.lazy, other.prompt = True, False
        to = f"@{other.next.user}" if direct else GROUPS[0]
        for _ in range(4):
            self._say(one, to, "", 3000)
        self._all()
        for _ in range(first):
            other.peer.read(1500)
            self.loop.turn()
        self._weave(one, other, to, 0, steps)

    def _weave(self, one: Client, other: Client, to: str, first: int, steps: list[str]) -> None:
        for _ in range(first):
            self._to_a_read()
        for step in steps:
            MICRO[step](self, one, other, to)
            self._listen()

    # -- the server's own time

    @rule(ticks=st.integers(1, 3))
    def tick(self, ticks: int) -> None:
        """Some seconds pass."""
        for _ in range(ticks * BEATS):
            self.loop.turn(1 / BEATS)
            self.heartbeat.beat()
            self._run("turn")
        self._run("all")

    @rule(ask=st.booleans())
    def quiet(self, ask: bool) -> None:
        """All read what there is, nothing new comes: then nobody lacks anything."""
        if ask:
            for client in self.clients:
                if client.next is not None and client.peer.open and not client.ends:
                    client.ask("rooms", lambda reply: None)
        self._drain()
        for client in self.clients:
            client.complete()
        for client in self.clients:
            if ask and client.span is not None:
                client.ask("rooms", self._rooms_check(client.span.user))
                self._drain()

    def _rooms_check(self, user: str) -> Callable[[dict[str, Any]], None]:
        def check(reply: dict[str, Any]) -> None:
            truth = self.truth
            found = {
                where(user, line["address"]): tuple(
                    line[field] for field in ("last_seq", "read_seq", "delivered_seq", "unread")
                )
                for line in reply["rooms"]
            }
            expected = {}
            for room, log in truth.logs.items():
                if log and truth.member(user, room) and (len(room) == 1 or user in room):
                    cursor = truth.cursors[user, room]
                    unread = truth.unread(user, room, SEEN)
                    expected[room] = (len(log), cursor.read, cursor.delivered, unread)
            for room in found.keys() - expected.keys():
                assert found[room] == (0, 0, 0, 0), f"{user}: {reply}"
            assert {r: found[r] for r in found.keys() & expected.keys()} == expected, reply

        return check

    def _drain(self) -> None:
        moved = True
        while moved:
            self._all()
            moved = False
            for client in self.clients:
                moved = client.peer.read() or moved
                client.peer.pong()
            self._listen()
            moved = moved or self.loop.due()

    @rule(how=st.sampled_from(("crash", "stop")), rarely=st.integers(0, 2))
    def restart(self, how: str, rarely: int) -> None:
        """The daemon ends, well or not, and another begins on the same database."""
        if rarely:
            return
        if how == "stop":
            self._stop()
        for client in self.clients:
            client.peer.die()
        self.clients.clear()
        self._drop()
        self.truth.look()
        self.parted.clear()
        self._open()

    def _stop(self) -> None:
        stopped = Deferred.fromCoroutine(self.node.stop())
        for _ in range(100):
            if stopped.called:
                return
            self._all()
            self._listen()
            self.loop.turn(0.1)
        raise AssertionError("the node does not stop")


def _row(event: dict[str, Any]) -> Row:
    return Row(event["seq"], event["event"], event["from"], event.get("text"))


class MachineTests(SynchronousTestCase):
    """The machine, with few entries to a page and few counted."""

    def test_chat(self) -> None:
        """Whatever happens in whatever order, nobody lacks anything, nobody gets what is not
        theirs, and nothing is stored twice or lost."""
        self.patch(backlog, "PAGE", PAGE)
        self.patch(backlog, "CHUNK", 1000)
        self.patch(overview, "UNREAD_SEEN", SEEN)
        for module in (batch, pool):
            self.patch(module, "PATIENCE", 10**9)  # time goes on while threads do nothing
        run_state_machine_as_test(Chat, settings=machine(150, 2500))

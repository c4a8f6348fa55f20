"""Who has got and read what: the events, the lists, what is kept private."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from chatd.errors import Unavailable
from chatd.hub import Hub
from chatd.model import Party, Room
from chatd.receipts import Receipts
from chatd.session import Session
from chatd.settings import Limits
from chatd.store.connection import Connection
from chatd.store.rooms import Cursor
from tests.bed import Frames, Lines, NodeCase
from tests.stores import NOW, MariaDBCase, SQLiteCase

if TYPE_CHECKING:
    from tests.stores import StoreCase as Contract
else:
    Contract = object


class ReceiptCase(NodeCase):
    """Alice, Bob and Carol."""

    async def told(self) -> None:
        """All that moved has been saved and told."""
        cursors, receipts = self.node.cursors, self.node.receipts
        while cursors._moved or cursors._saving or receipts._moves or receipts._telling:
            cursors.save()
            receipts.tell()
            await deferLater(reactor, 0)
        self.node.hub.flush()

    async def heard(self, client: Frames) -> list[tuple[Any, ...]]:
        """(event, to, from, upto) of the receipts that have come to a client until now."""
        await self.told()
        found: list[tuple[Any, ...]] = []
        request_id = f"mark{next(client._ids)}"
        client.frame(b'{"cmd":"ping","id":"%b"}' % request_id.encode())
        while (one := await client.next()).get("reply") != request_id:
            if one.get("event") in ("delivered", "read"):
                who = one["from"] if "from" in one else one["users"]
                found.append((one["event"], one["to"], who, one["upto"]))
        return found

    async def done(self, client: Any, command: str, **parameters: Any) -> Any:
        """The reply to a request that succeeds."""
        reply = await client.ask(command, **parameters)
        self.assertTrue(reply["ok"], reply)
        return reply

    async def refused(self, client: Any, command: str, **parameters: Any) -> str:
        """The code of a request that is refused."""
        reply = await client.ask(command, **parameters)
        self.assertFalse(reply["ok"], reply)
        return str(reply["error"])

    async def conversation(self, count: int = 3) -> tuple[Frames, Frames]:
        """Alice's and Bob's clients; she has said so much to him, and nothing has arrived."""
        alice, bob = await self.user("alice"), await self.user("bob", replay=False)
        for number in range(count):
            await self.done(alice, "say", to="@bob", text=str(number))
        return alice, bob

    async def team(self, *clients: Any) -> None:
        """A group of the clients' users, in which the first has said something."""
        await self.done(clients[0], "create", name="team")
        for client in clients[1:]:
            await self.done(client, "join", group="team")
        await self.done(clients[0], "say", to="#team", text="hello")

    async def set_receipts(self, name: str, on: bool) -> None:
        """Whether a user tells what was read."""
        await self.node.store.write(_set_receipts, name, on)


def _set_receipts(connection: Connection, name: str, on: bool) -> None:
    connection.run("UPDATE users SET receipts = ? WHERE name = ?", (int(on), name))


class EventTests(ReceiptCase):
    """The events `delivered` and `read`."""

    limits = Limits(receipt_members=3)

    async def test_read(self) -> None:
        """The sender's side learns how far the other one has read, with a time and without a
        seq, over every wire."""
        alice, bob = await self.conversation()
        lines = await self.user("alice", self.lines())
        await self.done(bob, "read", to="@alice", seq=2)
        await self.told()
        events = [await alice.event() for _ in range(2)]
        at = events[0].pop("at")
        self.assertLess(abs(at - self.node.millis()), 60_000)
        delivered = {"event": "delivered", "to": "@alice", "from": "bob", "upto": 2}
        self.assertEqual(events[0], delivered)
        self.assertIn(events[1].pop("at"), range(at, at + 1000))
        self.assertEqual(events[1], {**delivered, "event": "read"})
        found = [await self._line(lines) for _ in range(2)]
        self.assertEqual(
            found, ["* delivered @alice bob upto=2", "* read @alice bob upto=2"], found
        )

    async def _line(self, client: Lines) -> str:
        while (line := await client.event()).startswith("* @bob"):
            pass
        return line

    async def test_own_sessions(self) -> None:
        """The reader's other sessions learn it; the one that said so has its reply."""
        _, bob = await self.conversation()
        other = await self.user("bob", replay=False)
        await self.done(bob, "read", to="@alice", seq=2)
        self.assertEqual(await self.heard(other), [("read", "@alice", "bob", 2)])
        self.assertEqual(await self.heard(bob), [])

    async def test_delivered_is_for_others(self) -> None:
        """That something has been delivered is no news to the user it was delivered to."""
        alice, bob = await self.conversation()
        other = await self.user("bob", replay=False)
        await self.done(bob, "delivered", to="@alice", seq=2)
        self.assertEqual(await self.heard(other), [])
        self.assertEqual(await self.heard(alice), [("delivered", "@alice", "bob", 2)])

    async def test_forward_and_once(self) -> None:
        """Many moves in a tick are one event, and what is no step forward is none, not even for
        a node that does not remember what it told."""
        alice, bob = await self.conversation(5)
        for seq in (2, 1, 4, 3):
            await self.done(bob, "delivered", to="@alice", seq=seq)
        self.assertEqual(await self.heard(alice), [("delivered", "@alice", "bob", 4)])
        for seq in (1, 4):
            self.node.receipts._told.clear()
            await self.done(bob, "delivered", to="@alice", seq=seq)
        self.assertEqual(await self.heard(alice), [])
        await self.done(bob, "read", to="@alice", seq=3)
        self.assertEqual(await self.heard(alice), [("read", "@alice", "bob", 3)])
        await self.done(bob, "read", to="@alice", seq=99)
        expected = [("delivered", "@alice", "bob", 5), ("read", "@alice", "bob", 5)]
        self.assertEqual(await self.heard(alice), expected)

    async def test_proof(self) -> None:
        """What a client is seen to have received is told when it is stored."""
        alice, bob = await self.user("alice"), await self.user("bob")
        await self.done(alice, "say", to="@bob", text="hello")
        self.tick(2)
        while not self.node.cursors._moved:
            await bob.ask("ping")
        self.assertEqual(await self.heard(alice), [("delivered", "@alice", "bob", 1)])
        rooms = await self.done(bob, "rooms")
        self.assertEqual(rooms["rooms"][0]["delivered_seq"], 1)

    async def test_group(self) -> None:
        """In a group everybody learns it, but the one who moved."""
        alice, bob, carol = [await self.user(name) for name in ("alice", "bob", "carol")]
        await self.team(alice, bob, carol)
        await self.heard(alice), await self.heard(carol)
        await self.done(bob, "read", to="#team", seq=4)
        for client in (alice, carol):
            found = await self.heard(client)
            self.assertIn(("read", "#team", "bob", 4), found)
        self.assertEqual([one for one in await self.heard(bob) if one[0] == "read"], [])

    async def test_together(self) -> None:
        """Who got as far in the same tick is told of in one event, however many."""
        alice, bob, carol = [await self.user(name) for name in ("alice", "bob", "carol")]
        await self.team(alice, bob, carol)
        for client in (alice, bob, carol):
            await self.heard(client)
        for client in (bob, carol):
            await self.done(client, "read", to="#team", seq=4)
        for client in (alice, bob, carol):
            found = [one for one in await self.heard(client) if one[0] == "read"]
            self.assertEqual(found, [("read", "#team", ["bob", "carol"], 4)])

    async def test_large_group(self) -> None:
        """In a group that is too large, or becomes it, nobody learns it but the reader."""
        clients = [await self.user(name) for name in ("alice", "bob", "carol")]
        await self.team(*clients)
        await self.done(clients[1], "read", to="#team", seq=3)
        self.assertIn(("read", "#team", "bob", 3), await self.heard(clients[0]))
        await self.done(await self.user("dave"), "join", group="team")
        other = await self.user("bob")
        await self.done(clients[1], "read", to="#team", seq=4)
        self.assertEqual(await self.heard(clients[0]), [])
        self.assertEqual(await self.heard(other), [("read", "#team", "bob", 4)])

    async def test_private(self) -> None:
        """Who tells nobody what he read is not told either; what was delivered is told, and the
        own sessions agree."""
        alice, bob = await self.conversation(2)
        other = await self.user("bob", replay=False)
        await self.done(bob, "say", to="@alice", text="back")
        await self.set_receipts("bob", False)
        await self.done(bob, "read", to="@alice", seq=3)
        self.assertEqual(await self.heard(alice), [("delivered", "@alice", "bob", 3)])
        self.assertEqual(await self.heard(other), [("read", "@alice", "bob", 3)])
        await self.done(alice, "read", to="@bob", seq=3)
        found = await self.heard(bob)
        self.assertEqual(found, [("delivered", "@bob", "alice", 3)])

    async def test_blocked(self) -> None:
        """Who is blocked hears in no room that the other one is here, and finds it in no list."""
        alice, bob, carol = [await self.user(name) for name in ("alice", "bob", "carol")]
        await self.team(alice, bob, carol)
        await self.done(bob, "block", user="alice")
        await self.heard(alice), await self.heard(carol)
        await self.done(bob, "read", to="#team", seq=4)
        self.assertEqual([one for one in await self.heard(alice) if one[2] == "bob"], [])
        self.assertIn(("read", "#team", "bob", 4), await self.heard(carol))
        listed = await self.done(alice, "receipts", to="#team", seq=4)
        self.assertNotIn("bob", [one["user"] for one in listed["receipts"]])
        await self.done(bob, "unblock", user="alice")
        listed = await self.done(alice, "receipts", to="#team", seq=4)
        self.assertIn("bob", [one["user"] for one in listed["receipts"]])

    async def test_slow_readers(self) -> None:
        """A session that does not keep up goes without."""
        alice, bob = await self.conversation()
        (slow,) = self._sessions("alice")
        link: Any = slow.link
        link.pauseProducing()
        await self.done(bob, "read", to="@alice", seq=2)
        await self.told()
        link.resumeProducing()
        self.assertEqual(await self.heard(alice), [])
        await self.done(bob, "read", to="@alice", seq=3)
        self.assertEqual(len(await self.heard(alice)), 2)

    def _sessions(self, name: str) -> list[Session]:
        return [s for s in self.node.hub.sessions if s.user and s.user.name == name]

    async def test_database_away(self) -> None:
        """What cannot be told for want of the database is not, and what comes later is."""
        alice, bob = await self.conversation()
        read, self.node.store.read = self.node.store.read, _away  # type: ignore[assignment]
        self.node.receipts.note(Cursor(2, 1, 1))
        await self.told()
        self.node.store.read = read  # type: ignore[method-assign]
        self.assertEqual(await self.heard(alice), [])
        await self.done(bob, "delivered", to="@alice", seq=2)
        self.assertEqual(await self.heard(alice), [("delivered", "@alice", "bob", 2)])


def _away(*_: Any) -> Deferred[Any]:
    failed: Deferred[Any] = Deferred()
    failed.errback(Unavailable("away"))
    return failed


class ListTests(ReceiptCase):
    """The command `receipts`."""

    limits = Limits(receipt_members=4)

    async def names(self, client: Any, to: str, seq: int, **more: Any) -> list[tuple[str, bool]]:
        """(user, read) of whom an entry has reached."""
        reply = await self.done(client, "receipts", to=to, seq=seq, **more)
        return [(one["user"], one["read"]) for one in reply["receipts"]]

    async def test_direct(self) -> None:
        """Of the other one in a direct room it tells whether it has arrived and was read."""
        alice, bob = await self.conversation()
        self.assertEqual(await self.names(alice, "@bob", 2), [])
        await self.done(bob, "delivered", to="@alice", seq=2)
        self.assertEqual(await self.names(alice, "@bob", 2), [("bob", False)])
        await self.done(bob, "read", to="@alice", seq=1)
        self.assertEqual(await self.names(alice, "@bob", 1), [("bob", True)])
        self.assertEqual(await self.names(alice, "@bob", 2), [("bob", False)])
        self.assertEqual(await self.names(alice, "@bob", 3), [])
        self.assertEqual(await self.names(bob, "@alice", 1), [])

    async def test_group(self) -> None:
        """In a group it lists by name whom it has reached: not the sender, not who asks, not who
        came later, not who does not tell; in pages."""
        clients = {n: await self.user(n, replay=False) for n in ("alice", "bob", "carol", "dave")}
        await self.team(clients["alice"], clients["bob"], clients["carol"])
        await self.done(clients["dave"], "join", group="team")
        for client in clients.values():
            await self.done(client, "read", to="#team", seq=5)
        found = [("bob", True), ("carol", True)]
        self.assertEqual(await self.names(clients["alice"], "#team", 4), found)
        self.assertEqual(await self.names(clients["bob"], "#team", 4), found[1:])
        self.assertEqual(await self.names(clients["dave"], "#team", 4), found)
        page = await self.done(clients["alice"], "receipts", to="#team", seq=4, limit=1)
        self.assertEqual(([one["user"] for one in page["receipts"]], page["more"]), (["bob"], True))
        self.assertEqual(
            await self.names(clients["alice"], "#team", 4, after="bob", limit=1), found[1:]
        )
        await self.set_receipts("bob", False)
        self.assertEqual(await self.names(clients["alice"], "#team", 4), found[1:])
        code = await self.refused(clients["bob"], "receipts", to="#team", seq=4)
        self.assertEqual(code, "forbidden")

    async def test_refusals(self) -> None:
        """Of an entry that is not there, or that one does not see, and in a large group, nothing
        is told."""
        names = ("alice", "bob", "carol", "dave", "eve")
        clients = [await self.user(name, replay=False) for name in names]
        await self.team(*clients[:4])
        for seq, expected in ((5, "ok"), (6, "not-found"), (0, "not-found")):
            reply = await clients[0].ask("receipts", to="#team", seq=seq)
            self.assertEqual(reply.get("error", "ok"), expected)
        await self.done(clients[0], "clear", to="#team")
        code = await self.refused(clients[0], "receipts", to="#team", seq=5)
        self.assertEqual(code, "not-found")
        await self.done(clients[4], "join", group="team")
        code = await self.refused(clients[1], "receipts", to="#team", seq=5)
        self.assertEqual(code, "too-large")


class Effort(Contract):
    """What telling costs."""

    async def test_large_groups_cost_little(self) -> None:
        """A thousand cursors that move in a group of ten thousand cost one statement, and the
        next thousand none."""
        dialect, look = self.watched()
        node, hub, clock = self.node(dialect), Hub(_reactor()), NOW
        team = self.group(self.user())
        members = [(number, team.id, "member", 1) for number in range(10**6, 10**6 + 10_000)]
        with self.db.transaction():
            for start in range(0, len(members), 1000):
                sql = "INSERT INTO members (user_id, room_id, role, joined_seq) VALUES (?, ?, ?, ?)"
                self.db.many(sql, members[start : start + 1000])
        receipts = Receipts(node, hub, _spawn, lambda: 100, lambda: clock)
        for seq in (2, 3):
            look()
            for user_id, *_ in members[:1000]:
                receipts.note(Cursor(user_id, team.id, seq, seq))
            receipts.tell()
            while receipts._telling:
                await deferLater(_reactor(), 0)
            statements = [one for one in look() if one.startswith("SELECT")]
            self.assertEqual(len(statements), 1 if seq == 2 else 0, statements)

    async def test_many_rooms_cost_little(self) -> None:
        """A thousand direct rooms in which something is read cost three statements."""
        dialect, look = self.watched()
        node, hub = self.node(dialect), Hub(_reactor())
        one = self.user()
        with self.db.transaction():
            pairs = [self.pair(one, self.user()) for _ in range(1000)]
        receipts = Receipts(node, hub, _spawn, lambda: 100, lambda: NOW)
        look()
        for room in pairs:
            receipts.note(Cursor(_other(room, one).id, room.id, 1, 1))
        receipts.tell()
        while receipts._telling:
            await deferLater(_reactor(), 0)
        statements = [found for found in look() if found.startswith("SELECT")]
        self.assertEqual(len(statements), 2, [found[:80] for found in statements])


def _other(room: Room, one: Party) -> Party:
    return room.other(one.id)


def _reactor() -> Any:
    return reactor


def _spawn(_: str, work: Any) -> None:
    Deferred.fromCoroutine(work)


class EffortOnSQLite(Effort, SQLiteCase):
    """On SQLite."""


class EffortOnMariaDB(Effort, MariaDBCase):
    """On MariaDB."""

"""Changes of what two users are to each other, raced on two nodes of one database: SQLite and
MariaDB."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any

import pymysql
from msgspec.structs import replace
from twisted.internet.defer import Deferred, gatherResults

from chatd import bonds
from chatd.bonds import NOBODY, Bond, Step
from chatd.errors import Refused
from chatd.model import Party
from chatd.store import contacts
from chatd.store.contacts import Changed
from tests.stores import NOW, Held, MariaDBCase, Node, SQLiteCase, Wire
from tests.test_bonds import sound

if TYPE_CHECKING:
    from tests.stores import StoreCase as Contract
else:
    Contract = object

ASK: Step = partial(bonds.ask, words="hello", now=NOW)
ACCEPT: Step = partial(bonds.accept, now=NOW)
REFUSE: Step = partial(bonds.refuse, now=NOW)
STEPS: dict[str, Step] = {
    "befriend": ASK,
    "accept": ACCEPT,
    "refuse": REFUSE,
    "unfriend": bonds.unfriend,
    "block": bonds.block,
    "unblock": bonds.unblock,
}
USUAL = (8, 6, 1, 2, 1, 2)  # how often each is taken
FRIENDS = ("friend", "friend")
NOTHING = ("", "")


class Bonding(Contract):
    """Two users, and what they do to each other over two nodes."""

    most = 5000

    def setUp(self) -> None:
        super().setUp()
        self.both = [self.node(), self.node()]

    async def step(self, node: Node, user: Party, other: Party, step: Step) -> str:
        """Takes a step as a command does; the entry's kind, "" or the code of a refusal."""
        mine, theirs = self.pair(user, user), self.pair(other, other)
        while True:
            before = await node.read(contacts.bond, user.id, other)
            try:
                change = step(before)
            except Refused as refused:
                return refused.code
            if not change.kind:
                return ""
            if await self.tried(node, user, other, (mine, theirs), before, change):
                return change.kind

    async def tried(
        self, node: Node, user: Party, other: Party, rooms: Any, before: Bond, change: Any
    ) -> bool:
        """Stores a change; whether the bond was still what it had been."""
        companion = self.draft(rooms[1], other, kind=change.kind)
        draft = replace(
            self.draft(rooms[0], user, kind=change.kind),
            effect=lambda db, seq: contacts.settle(db, user.id, other, before, change, self.most),
            companions=(companion,) if change.told else (),
            locks=(rooms[1].id,),
        )
        try:
            await node.append(draft)
        except Changed:
            return False
        return True

    def states(self, one: Party, other: Party) -> tuple[str, str]:
        """The states of both sides."""
        bond = contacts.bond(self.db, one.id, other)
        return bond.mine.state, bond.theirs.state

    def kinds(self, user: Party) -> list[str]:
        """The entries of an inbox."""
        rows = self.db.all(
            "SELECT kind FROM entries WHERE room_id = ? ORDER BY seq", (self.pair(user, user).id,)
        )
        return [kind for (kind,) in rows]

    async def at_once(self, *steps: Awaitable[str]) -> list[str]:
        """What comes of steps that are taken at the same moment."""
        found: list[str] = await gatherResults([Deferred.fromCoroutine(step) for step in steps])  # type: ignore[arg-type]
        return found


class Races(Bonding):
    """What two do at the same moment ends in one state, the same for both."""

    async def test_both_ask(self) -> None:
        """Two who ask each other are friends, and each inbox has one request and one
        acceptance at most."""
        for _ in range(10):
            one, other = self.users(2)
            done = await self.at_once(
                self.step(self.both[0], one, other, ASK), self.step(self.both[1], other, one, ASK)
            )
            self.assertEqual(sorted(done), ["accepted", "befriended"])
            self.assertEqual(self.states(one, other), FRIENDS)
            for user in (one, other):
                self.assertEqual(self.kinds(user), ["befriended", "accepted"])

    async def test_one_asks_often(self) -> None:
        """Who asks from all devices at once has asked once."""
        one, other = self.users(2)
        done = await self.at_once(*(self.step(n, one, other, ASK) for n in self.both * 4))
        self.assertEqual(sorted(done), [""] * 7 + ["befriended"])
        self.assertEqual(self.kinds(other), ["befriended"])
        self.assertEqual(self.kinds(one), ["befriended"])

    async def test_accepted_twice(self) -> None:
        """Of two acceptances one makes the friendship, the other finds it made."""
        for _ in range(5):
            one, other = self.users(2)
            await self.step(self.both[0], one, other, ASK)
            done = await self.at_once(*(self.step(n, other, one, ACCEPT) for n in self.both))
            self.assertEqual(sorted(done), ["", "accepted"])
            self.assertEqual(self.states(one, other), FRIENDS)
            self.assertEqual(self.kinds(one), ["befriended", "accepted"])

    async def test_accepted_while_withdrawn(self) -> None:
        """Whichever is first, who withdraws is no friend in the end."""
        for _ in range(10):
            one, other = self.users(2)
            await self.step(self.both[0], one, other, ASK)
            accepted, withdrawn = await self.at_once(
                self.step(self.both[0], other, one, ACCEPT),
                self.step(self.both[1], one, other, bonds.unfriend),
            )
            self.assertIn(accepted, ("accepted", "not-found"))
            self.assertEqual(withdrawn, "unfriended")
            self.assertEqual(self.states(one, other), NOTHING)
            self.assertEqual(self.kinds(one).count("accepted"), int(accepted == "accepted"))

    async def test_accepted_while_refused(self) -> None:
        """A request that is accepted and refused at once is one of the two."""
        for _ in range(10):
            one, other = self.users(2)
            await self.step(self.both[0], one, other, ASK)
            done = await self.at_once(
                self.step(self.both[0], other, one, ACCEPT),
                self.step(self.both[1], other, one, REFUSE),
            )
            expected = {
                ("accepted", "not-found"): FRIENDS,
                ("not-found", "refused"): ("asked", "refused"),
            }
            self.assertEqual(self.states(one, other), expected[done[0], done[1]])

    async def test_blocked_while_asking(self) -> None:
        """Whichever is first, nothing is left of a request to somebody who blocks."""
        for _ in range(10):
            one, other = self.users(2)
            asked, blocked = await self.at_once(
                self.step(self.both[0], one, other, ASK),
                self.step(self.both[1], other, one, bonds.block),
            )
            self.assertIn(asked, ("befriended", "blocked"))
            self.assertEqual(blocked, "blocked")
            self.assertEqual(self.states(one, other), NOTHING)
            self.assertTrue(contacts.bond(self.db, one.id, other).theirs.blocked)

    async def test_blocked_while_accepting(self) -> None:
        """Nobody becomes the friend of somebody who blocks at the same moment."""
        for _ in range(10):
            one, other = self.users(2)
            await self.step(self.both[0], one, other, ASK)
            accepted, _blocked = await self.at_once(
                self.step(self.both[0], other, one, ACCEPT),
                self.step(self.both[1], one, other, bonds.block),
            )
            self.assertIn(accepted, ("accepted", "not-found"))
            self.assertEqual(self.states(one, other), NOTHING)

    async def test_crowd(self) -> None:
        """Four users who do anything to each other over two nodes, all at once: every pair ends in
        a state that the rules know, and the inboxes have no gaps."""
        dice = Random(4)
        users = self.users(4)
        steps = []
        for number in range(120):
            one, other = dice.sample(users, 2)
            step = dice.choices([*STEPS.values()], USUAL)[0]
            steps.append(self.step(self.both[number % 2], one, other, step))
        done = await self.at_once(*steps)
        self.assertTrue({"befriended", "accepted", "blocked"} <= set(done), set(done))
        for one, other in itertools.combinations(users, 2):
            bond = contacts.bond(self.db, one.id, other)
            self.assertTrue(sound(bond), bond)
        for user in users:
            seqs = self.seqs(self.pair(user, user))
            self.assertEqual(seqs, list(range(1, len(seqs) + 1)))


class Keeping(Bonding):
    """What is kept, and how much of it."""

    async def test_nothing_is_left(self) -> None:
        """A friendship that ended leaves no rows."""
        one, other = self.users(2)
        for user, whom, step in (
            (one, other, ASK),
            (other, one, ACCEPT),
            (one, other, bonds.unfriend),
        ):
            await self.step(self.both[0], user, whom, step)
        self.assertEqual(self.db.all("SELECT * FROM contacts"), [])
        self.assertEqual(contacts.bond(self.db, one.id, other), Bond(other.name, NOBODY, NOBODY))

    async def test_sides(self) -> None:
        """All of a side is kept as it was."""
        one, other = self.users(2)
        await self.step(self.both[0], one, other, partial(bonds.ask, words="it's 你好", now=NOW))
        await self.step(self.both[0], other, one, lambda bond: bonds.remark(bond, "100% 'x'"))
        mine = contacts.bond(self.db, other.id, one).mine
        self.assertEqual(mine, bonds.Side("asking", False, "100% 'x'", "it's 你好", NOW))

    async def test_limits(self) -> None:
        """Friends with requests, requests to answer, and blocks are limited each for itself."""
        self.most = 2
        node = self.both[0]
        me, *others = self.users(6)
        for other in others[:2]:
            self.assertEqual(await self.step(node, me, other, ASK), "befriended")
        with self.assertRaises(Refused) as caught:
            await self.step(node, me, others[2], ASK)
        self.assertEqual(caught.exception.code, "too-large")
        for other in others[2:4]:
            self.assertEqual(await self.step(node, other, me, ASK), "befriended")
        with self.assertRaises(Refused) as caught:
            await self.step(node, others[4], me, ASK)
        self.assertIn(me.name, caught.exception.sentence)
        with self.assertRaises(Refused):
            await self.step(node, me, others[2], ACCEPT)
        self.assertEqual(await self.step(node, others[0], me, ACCEPT), "accepted")
        for other in others[:2]:
            self.assertEqual(await self.step(node, me, other, bonds.block), "blocked")
        with self.assertRaises(Refused) as caught:
            await self.step(node, me, others[2], bonds.block)
        self.assertEqual(caught.exception.code, "too-large")
        self.assertEqual(await self.step(node, me, others[2], ACCEPT), "accepted")

    async def test_pages(self) -> None:
        """Friends and requests come by name in pages; those who were refused do not."""
        me = self.user("me")
        names = ["Anna", "bob", "李雷", "zoë", "Ωmega", "Дима"]
        for name in names:
            await self.step(self.both[0], self.user(name), me, ASK)
        nasty = self.user("nasty")
        await self.step(self.both[0], nasty, me, ASK)
        await self.step(self.both[0], me, nasty, REFUSE)
        found: list[str] = []
        while page := contacts.friends(self.db, me.id, found[-1] if found else "", 2):
            found += [contact.party.name for contact in page]
        self.assertEqual(found, sorted(names, key=str.casefold))
        self.assertEqual(contacts.friends(self.db, me.id, "Д", 9)[0].state, "asking")


class ContactsOnSQLite(Races, Keeping, SQLiteCase):
    """The contract on SQLite."""


class ContactsOnMariaDB(Races, Keeping, MariaDBCase):
    """The contract on MariaDB."""

    async def test_both_are_locked(self) -> None:
        """A change that the other one is not told of locks the other one's inbox, too: it must not
        cross one that he makes."""
        wire = Wire()
        node, (one, other) = self.node(self.wired(wire)), self.users(2)
        rooms = [self.pair(user, user) for user in (one, other)]
        held = Held(wire, "REPLACE INTO contacts")
        blocking = Deferred.fromCoroutine(self.step(node, one, other, bonds.block))
        await held.there
        for room in rooms:
            with self.assertRaises(pymysql.OperationalError):
                self.db.one("SELECT id FROM rooms WHERE id = ? FOR UPDATE NOWAIT", (room.id,))
        held.go()
        self.assertEqual(await blocking, "blocked")

"""Messages in both databases: what two nodes do to one message at the same time ends in one
consistent state, and what was recalled is gone from the files."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from chatd.errors import Refused
from chatd.model import Party, Room
from chatd.store import membership, mentions, messages, pins, reactions, rooms
from chatd.store.connection import Connection
from chatd.store.log import Stored, read_after
from chatd.store.messages import Change
from tests.stores import TABLES, Held, MariaDBCase, Node, SQLiteCase, Wire

if TYPE_CHECKING:
    from tests.stores import StoreCase as Contract
else:
    Contract = object

ROUNDS = 8
WORD = "Geheimnis"


class MessagesCase(Contract):
    """Alice owns a group, in which Bob is; each is served by a node of their own."""

    def setUp(self) -> None:
        super().setUp()
        self.alice, self.bob = self.user("alice"), self.user("bob")
        self.room = self.group(self.alice)
        rooms.add_member(self.db, self.room.id, self.bob.id, "member", 1)
        self.one, self.other = self.node(), self.node()

    def tell(
        self,
        node: Node,
        user: Party,
        kind: str,
        effect: Callable[[Connection, int], Any],
        room: Room | None = None,
        body: dict[str, Any] | None = None,
    ) -> Deferred[Stored]:
        """Stores an entry with an effect."""
        body = body or {"target": 0}
        draft = self.draft(room or self.room, user, kind=kind, effect=effect)
        encoded = msgspec.json.encode(body).decode()
        return node.append(msgspec.structs.replace(draft, body=body, encoded=encoded))

    async def said(self, text: str = WORD) -> int:
        """The seq of a new message of Alice's."""
        return (await self.one.append(self.draft(self.room, self.alice, text))).seq

    def change(self, user: Party, target: int) -> Change:
        """What the user does to a message, some time."""
        return Change(self.room, user, target, 2**50)

    def edit(self, node: Node, target: int, text: str) -> Deferred[Stored]:
        """Alice edits."""
        change = self.change(self.alice, target)
        return self.tell(
            node, self.alice, "edited", lambda db, _: messages.edit(db, change, text, None)
        )

    def recall(self, node: Node, target: int) -> Deferred[Stored]:
        """Alice recalls."""
        change = self.change(self.alice, target)
        return self.tell(node, self.alice, "recalled", lambda db, _: messages.recall(db, change))

    def react(self, node: Node, user: Party, target: int, on: bool = True) -> Deferred[Stored]:
        """Somebody reacts."""
        change = self.change(user, target)
        return self.tell(node, user, "reacted", lambda db, _: reactions.react(db, change, "👍", on))

    def pin(self, node: Node, target: int) -> Deferred[Stored]:
        """Alice pins."""
        change = self.change(self.alice, target)
        return self.tell(node, self.alice, "pinned", lambda db, _: pins.pin(db, change))

    def reply(self, node: Node, target: int) -> Deferred[Stored]:
        """Bob replies."""
        body = {"text": "yes", "reply_to": target}
        look = partial(messages.quoted, room=self.room, user_id=self.bob.id, seq=target)
        return self.tell(node, self.bob, "message", lambda db, _: look(db), body=body)

    def forward(self, node: Node, target: int, there: Room) -> Deferred[Stored]:
        """Bob forwards."""
        copy = partial(messages.copied, room=self.room, user_id=self.bob.id, seq=target)
        body = copy(self.db)

        def check(db: Connection, _: int) -> None:
            if copy(db, lock=True) != body:
                raise Refused("conflict", "It has changed.")

        return self.tell(node, self.bob, "message", check, there, body)

    def entries(self) -> dict[int, Any]:
        """The room's entries by their seqs."""
        found = read_after(self.db, self.room, 0, 1000)
        self.assertEqual([entry.seq for entry in found], list(range(1, len(found) + 1)))
        return {entry.seq: entry for entry in found}

    def everything(self) -> str:
        """All that the database holds, as text."""
        return repr([self.db.all(f"SELECT * FROM {table}") for table in TABLES])

    def count(self, table: str, seq: int) -> int:
        """The rows of a table that are of a message."""
        return int(
            self.single(
                f"SELECT COUNT(*) FROM {table} WHERE room_id = ? AND seq = ?", self.room.id, seq
            )
        )

    def check_gone(self, seq: int) -> None:
        """Nothing of a message is left, but that there was one."""
        entry = self.entries()[seq]
        self.assertEqual((entry.kind, entry.body), ("message", {"text": "", "recalled": True}))
        for table in ("versions", "mentions", "reactions", "pins"):
            self.assertEqual(self.count(table, seq), 0, table)


class Races(MessagesCase):
    """Two nodes, one message."""

    async def test_edit_and_recall(self) -> None:
        """The text is gone, whoever was first; who was late is told so."""
        for number in range(ROUNDS):
            seq = await self.said()
            edit = partial(self.edit, target=seq, text=f"{WORD} again")
            recall = partial(self.recall, target=seq)
            told = await self._both(edit, recall, number)
            self.check_gone(seq)
            self.assertIsInstance(told[1], int)
            if told[0] != "conflict":
                self.assertLess(told[0], told[1])
                shown = self.entries()[told[0]].body
                self.assertEqual(shown, {"target": 0})
        self.assertNotIn(WORD, self.everything())

    async def _both(
        self, one: Callable[[Node], Any], other: Callable[[Node], Any], number: int
    ) -> list[Any]:
        """What two are told who act at once, on two nodes; each is first every other time."""
        if number % 2:
            begun = [one(self.one), other(self.other)]
        else:
            begun = [other(self.other), one(self.one)][::-1]
        return await self.answers(begun)

    async def test_two_edits(self) -> None:
        """The later entry's text stands, and every other one is among the versions."""
        seq = await self.said("first")
        texts = [f"text {n}" for n in range(12)]
        nodes = (self.one, self.other)
        told = await self.answers(
            [self.edit(nodes[n % 2], seq, text) for n, text in enumerate(texts)]
        )
        by_seq = dict(zip(told, texts, strict=True))
        self.assertEqual(self.entries()[seq].body["text"], by_seq[max(told)])
        found = messages.versions(self.db, self.room, self.bob.id, seq)
        self.assertEqual([one.text for one in found], ["first", *(by_seq[n] for n in sorted(told))])

    async def test_react_and_recall(self) -> None:
        """No reaction is left on a recalled message."""
        for number in range(ROUNDS):
            seq = await self.said()
            react = partial(self.react, user=self.bob, target=seq)
            recall = partial(self.recall, target=seq)
            told = await self._both(react, recall, number)
            self.check_gone(seq)
            self.assertTrue(told[0] == "conflict" or told[0] < told[1], told)

    async def test_two_react(self) -> None:
        """Of the same reaction twice there is one entry; the count is that of the table."""
        for number in range(ROUNDS):
            seq = await self.said()
            alice = self.react(self.one, self.alice, seq)
            once = partial(self.react, user=self.bob, target=seq)
            told = await self._both(once, once, number)
            await alice
            self.assertEqual(sorted(isinstance(one, int) for one in told), [False, True])
            ((_, count),) = self.entries()[seq].body["reactions"][0].items() & {("count", 2)}
            self.assertEqual((count, self.count("reactions", seq)), (2, 2))

    async def test_pin_and_recall(self) -> None:
        """No pin is left on a recalled message."""
        for number in range(ROUNDS):
            seq = await self.said()
            pin = partial(self.pin, target=seq)
            recall = partial(self.recall, target=seq)
            told = await self._both(pin, recall, number)
            self.check_gone(seq)
            self.assertTrue(told[0] == "conflict" or told[0] < told[1], told)

    async def test_reply_and_recall(self) -> None:
        """A reply is stored before the recall, or refused; its quote is gone either way."""
        for number in range(ROUNDS):
            seq = await self.said()
            recall = partial(self.recall, target=seq)
            reply = partial(self.reply, target=seq)
            told = await self._both(reply, recall, number)
            if told[0] != "conflict":
                self.assertLess(told[0], told[1])
                self.assertEqual(self.entries()[told[0]].body["quote"]["text"], "")

    async def test_forward_and_recall(self) -> None:
        """A copy is stored whole, or refused; the message is gone either way."""
        there = self.group(self.bob)
        for number in range(ROUNDS):
            seq = await self.said()
            recall = partial(self.recall, target=seq)
            forward = partial(self.forward, target=seq, there=there)
            told = await self._both(forward, recall, number)
            self.check_gone(seq)
            if told[0] != "conflict":
                (copy,) = read_after(self.db, there, told[0] - 1, 1)
                self.assertEqual(copy.body, {"text": WORD, "forwarded": {"from": "alice"}})

    async def test_two_calls(self) -> None:
        """Of two who call everybody at once one is told to wait."""

        def call(db: Connection, seq: int) -> None:
            mentions.call_all(db, self.room.id, self.alice.id, seq, 2**50, 60_000)

        calls = [
            self.tell(node, self.alice, "message", call, body={"text": "@all"})
            for node in (self.one, self.other)
        ]
        told = await self.answers(calls)
        self.assertEqual(sum(one == "rate-limited" for one in told), 1)
        self.assertEqual(self.single("SELECT COUNT(*) FROM mentions WHERE user_id = 0"), 1)

    async def test_demoted(self) -> None:
        """Who lost the role at the moment of recalling does not recall another's message."""
        carol = self.user("carol")
        rooms.add_member(self.db, self.room.id, carol.id, "admin", 1)
        seq = (await self.one.append(self.draft(self.room, self.bob))).seq
        change = self.change(carol, seq)

        def demote(db: Connection, _: int) -> None:
            db.run("UPDATE members SET role = 'member' WHERE user_id = ?", (carol.id,))

        told = await self.answers(
            [
                self.tell(self.one, self.alice, "appointed", demote),
                self.tell(self.one, carol, "recalled", lambda db, _: messages.recall(db, change)),
            ]
        )
        self.assertEqual(told[1], "forbidden")
        self.assertEqual(self.entries()[seq].body["text"], "hello")

    async def test_parted(self) -> None:
        """Who is no member any more at the moment of storing changes nothing."""
        seq = (await self.one.append(self.draft(self.room, self.bob))).seq

        def part(db: Connection, _: int) -> None:
            membership.leave(db, self.room.id, self.bob.id)

        change = self.change(self.bob, seq)
        told = await self.answers(
            [
                self.tell(self.one, self.bob, "left", part),
                self.react(self.one, self.bob, seq),
                self.reply(self.one, seq),
                self.tell(
                    self.one, self.bob, "recalled", lambda db, _: messages.recall(db, change)
                ),
            ]
        )
        self.assertEqual(told[1:], ["not-a-member"] * 3)
        self.assertEqual(self.entries()[seq].body, {"text": "hello"})


class Floors(MessagesCase):
    """What a user may not read, the user cannot touch."""

    async def test_before_joining(self) -> None:
        """In a group whose history is for those who were there, what was said before is not
        there for who came later."""
        seq = await self.said()
        end = await self.said()
        self.db.run("UPDATE rooms SET history = 'joined' WHERE id = ?", (self.room.id,))
        carol = self.user("carol")
        rooms.add_member(self.db, self.room.id, carol.id, "admin", end + 1)
        for look in (
            lambda: messages.quoted(self.db, self.room, carol.id, seq),
            lambda: messages.copied(self.db, self.room, carol.id, seq),
            lambda: messages.versions(self.db, self.room, carol.id, seq),
            lambda: messages.hide(self.db, self.room, carol.id, seq),
            lambda: reactions.reactions(self.db, self.room, carol.id, seq, ("", ""), 9),
            lambda: reactions.react(self.db, self.change(carol, seq), "x", True),
            lambda: pins.pin(self.db, self.change(carol, seq)),
            lambda: messages.recall(self.db, self.change(carol, seq)),
        ):
            self.assertEqual(self.assertRaises(Refused, look).code, "not-found")
        pins.pin(self.db, self.change(self.alice, seq))
        self.assertEqual(pins.pins(self.db, self.room, carol.id), [])
        self.assertEqual(len(pins.pins(self.db, self.room, self.bob.id)), 1)


class Reading(MessagesCase):
    """What it costs to read a page."""

    def test_long_logs(self) -> None:
        """Replies and edits cost no more to read where the log is long."""
        effort = []
        for entries in (20, 1000):
            room = self.pair(self.user(), self.alice)
            with self.db.transaction():
                self.say(room, self.alice, *["x"] * entries)
            for target in range(1, 11):
                body = {"text": "yes", "reply_to": target}
                messages.put_body(self.db, room.id, entries - target, body)
            self.assertIn("quote", read_after(self.db, room, entries - 9, 1)[0].body)
            effort.append(self.effort(partial(read_after, self.db, room, entries - 12, 20)))
        self.assertLess(effort[1], effort[0] + 100)


class Traces(MessagesCase):
    """What is left of a text that was recalled."""

    async def leave_traces(self) -> None:
        """Recalls messages, short and long, that were edited, among others that stay."""
        for size in (1, 40, 600, 4000, 8000):
            seqs = []
            for number in range(6):
                seqs.append(await self.said(f"{WORD}{size}x{number} " + "y" * size))
                await self.said("stays")
            for seq in seqs:
                await self.edit(self.one, seq, f"{WORD} edited " + "z" * size)
            self.assertIn(WORD.encode(), self.bytes())
            for seq in seqs:
                await self.recall(self.one, seq)

    def bytes(self) -> bytes:
        """What the database wrote to its files, or tells when it is dumped."""
        raise NotImplementedError

    async def test_traces(self) -> None:
        """There is none."""
        await self.leave_traces()
        self.assertNotIn(WORD.encode(), self.bytes())
        self.assertIn(b"stays", self.bytes())


class RacesOnSQLite(Races, SQLiteCase):
    """The contract on SQLite."""


class RacesOnMariaDB(Races, MariaDBCase):
    """The contract on MariaDB."""


class LocksOnMariaDB(MessagesCase, MariaDBCase):
    """Where two nodes write at the same time; on SQLite one waits for the other."""

    async def test_forward_holds_back_a_recall(self) -> None:
        """A message that is being forwarded is recalled when the copy is there, so that no copy
        appears once a recall was answered."""
        seq = await self.said()
        wire = Wire()
        slow = self.node(self.wired(wire))
        held = Held(wire, "INSERT INTO entries")
        told: list[str] = []
        forward = self.forward(slow, seq, self.group(self.bob))
        forward.addCallback(lambda _: told.append("forwarded"))
        await held.there
        recall = self.recall(self.other, seq)
        recall.addCallback(lambda _: told.append("recalled"))
        while not told and not self._emptying():
            await deferLater(reactor, 0)
        held.go()
        await forward
        await recall
        self.assertEqual(told, ["forwarded", "recalled"])

    def _emptying(self) -> bool:
        """Whether the recall has come to the message's row, and stands there."""
        return bool(
            self.db.all(
                "SELECT 1 FROM information_schema.processlist WHERE info LIKE 'UPDATE entries%'"
            )
        )


class FloorsOnSQLite(Floors, SQLiteCase):
    """The contract on SQLite."""


class FloorsOnMariaDB(Floors, MariaDBCase):
    """The contract on MariaDB."""


class ReadingOnSQLite(Reading, SQLiteCase):
    """The contract on SQLite."""


class ReadingOnMariaDB(Reading, MariaDBCase):
    """The contract on MariaDB."""


class TracesOnSQLite(Traces, SQLiteCase):
    """In the file, when the log has been written back into it."""

    def bytes(self) -> bytes:
        self.db.all("PRAGMA wal_checkpoint(TRUNCATE)")
        with open(self.url.path, "rb") as file:
            return file.read()


class TracesOnMariaDB(Traces, MariaDBCase):
    """In a dump."""

    def bytes(self) -> bytes:
        url = self.url
        where = [f"--socket={url.unix_socket}", f"--user={url.user}", f"--password={url.password}"]
        command = ["mariadb-dump", "--no-defaults", *where, url.database]
        return subprocess.run(command, capture_output=True, check=True).stdout

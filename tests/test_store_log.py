"""The log's contract, the same on SQLite and on MariaDB: numbers, keys, effects, failures."""

from __future__ import annotations

import dataclasses
import random
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pymysql
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater

from chatd.errors import Refused, Unavailable
from chatd.model import Entry, Party, Room
from chatd.settings import store_url
from chatd.store import batch, rooms, schema
from chatd.store.connection import Connection, Row
from chatd.store.dialects import dialect as make_dialect
from chatd.store.log import Draft, Keys, Stored, read_after, read_before, read_ends
from tests.stores import Held, MariaDBCase, Node, SQLiteCase, Wire, once, throw
from tools.mariadb import Server

if TYPE_CHECKING:
    from tests.stores import StoreCase as Contract
else:
    Contract = object

MEBI = 2**20


class Numbering(Contract):
    """A room's entries are numbered 1, 2, 3 … in order of submission."""

    async def test_first_entry(self) -> None:
        """The first entry of a room is number 1, the next one 2, with the draft's own time."""
        node, room, user = self.node(), self.inbox(), self.user()
        first, second = self.draft(room, user), self.draft(room, user)
        self.assertEqual(await node.append(first), Stored(1, first.at))
        self.assertEqual(await node.append(second), Stored(2, second.at))

    async def test_kept_as_given(self) -> None:
        """An entry is kept with its sender, key, time, kind and body, in any script."""
        node, room, user = self.node(), self.inbox(), self.user("李雷")
        draft = self.draft(room, user, "你好 👋 'quoted' \\ %s ? \u2028", key="k")
        await node.append(draft)
        (entry,) = await node.read(read_after, room, 0, 10)
        self.assertEqual(entry, draft.entry(1))
        self.assertEqual(entry.sender, user)
        self.assertEqual(self.kept(room), [(1, b"k")])

    async def test_order_of_submission(self) -> None:
        """Drafts for many rooms, shuffled into one batch, get each room's numbers in the order
        in which they were submitted."""
        node, users = self.node(), self.users(5)
        targets = [self.inbox() for _ in range(20)]
        drafts = [self.draft(room, random.choice(users)) for room in targets for _ in range(10)]
        random.shuffle(drafts)
        await self.answers([node.append(draft) for draft in drafts])
        self.assertEqual(len(node.batches), 1)
        for room in targets:
            mine = [draft.key for draft in drafts if draft.room == room]
            self.assertEqual(self.kept(room), list(enumerate(mine, start=1)))

    async def test_goes_on_after_a_restart(self) -> None:
        """A node that knows nothing of a room goes on behind its last entry."""
        room, user = self.inbox(), self.user()
        self.assertEqual(await self.answer(self.node().append(self.draft(room, user))), 1)
        self.assertEqual(await self.answer(self.node().append(self.draft(room, user))), 2)

    async def test_two_nodes_in_turn(self) -> None:
        """A node whose knowledge of a room's end is outdated still takes the next number."""
        one, other, room, user = self.node(), self.node(), self.inbox(), self.user()
        found = [
            await self.answer(node.append(self.draft(room, user)))
            for node in (one, other, one, one, other, other, one)
        ]
        self.assertEqual(found, [1, 2, 3, 4, 5, 6, 7])

    async def test_one_outdated_end_among_many(self) -> None:
        """Another node's entry in one room of a batch leaves the other rooms as they would be."""
        one, other, user = self.node(), self.node(), self.user()
        targets = [self.inbox() for _ in range(5)]
        await self.answers([one.append(self.draft(room, user)) for room in targets])
        await other.append(self.draft(targets[2], user))
        found = await self.answers([one.append(self.draft(room, user)) for room in targets])
        self.assertEqual(found, [2, 2, 3, 2, 2])

    async def test_two_nodes_race(self) -> None:
        """Two nodes with ten senders of a hundred messages each, all in the same three rooms,
        number every message once and without a gap, and publish in order."""
        nodes, targets = [self.node(), self.node()], [self.inbox() for _ in range(3)]
        drafts: list[Draft] = []

        async def send(node: Node, sender: Party) -> None:
            for part in range(10):
                mine = [self.draft(targets[(part + n) % 3], sender) for n in range(10)]
                drafts.extend(mine)
                waiting = [node.append(draft) for draft in mine]
                for draft, stored in zip(mine, waiting, strict=True):
                    places[draft.key] = (await stored).seq

        places: dict[bytes, int] = {}
        await gatherResults(
            Deferred.fromCoroutine(send(node, user)) for node in nodes for user in self.users(10)
        )
        for room in targets:
            kept = self.kept(room)
            self.assertEqual([seq for seq, _ in kept], list(range(1, len(kept) + 1)))
            self.assertEqual({key: seq for seq, key in kept}, _of(room, drafts, places))
            for node in nodes:
                self.assertEqual(node.heard_in(room), sorted(node.heard_in(room)))
            told = sorted(nodes[0].heard_in(room) + nodes[1].heard_in(room))
            self.assertEqual(told, [seq for seq, _ in kept])


def _of(room: Room, drafts: list[Draft], places: dict[bytes, int]) -> dict[bytes, int]:
    return {draft.key: places[draft.key] for draft in drafts if draft.room == room}


class GroupCommit(Contract):
    """Appends that arrive together, or while a batch runs, share a statement."""

    async def test_lone_append(self) -> None:
        """An append to a room whose end is known is one statement, in one transaction."""
        dialect, look = self.watched()
        node, room, user = self.node(dialect, 1), self.inbox(), self.user()
        await node.append(self.draft(room, user))
        look()
        await node.append(self.draft(room, user))
        self.assertEqual(_verbs(look()), self.lone_append(1))

    async def test_one_turn(self) -> None:
        """What is appended in one turn of the loop is one statement, whichever rooms it is for."""
        dialect, look = self.watched()
        node, user = self.node(dialect, 1), self.user()
        targets = [self.inbox() for _ in range(10)]
        await self.answers([node.append(self.draft(room, user)) for room in targets])
        look()
        drafts = [self.draft(room, user) for room in targets for _ in range(20)]
        await self.answers([node.append(draft) for draft in drafts])
        self.assertEqual(_verbs(look()), self.lone_append(200))

    async def test_large_batch(self) -> None:
        """A batch of 4 MiB is one statement even where each character must be escaped."""
        dialect, look = self.watched()
        node, room, user = self.node(dialect, 1), self.inbox(), self.user()
        await node.append(self.draft(room, user))
        look()
        drafts = [self.draft(room, user, "\\" * (MEBI // 2 - 50)) for _ in range(4)]
        self.assertEqual(await self.answers(map(node.append, drafts)), [2, 3, 4, 5])
        self.assertEqual(_verbs(look()), self.lone_append(4))
        self.assertEqual(len(node.batches), 2)

    async def test_while_a_batch_runs(self) -> None:
        """What is appended while a batch runs shares the next one, and follows it."""
        wire = Wire()
        node, room, user = self.node(self.wired(wire)), self.inbox(), self.user()
        held = Held(wire, "INSERT INTO entries")
        waiting = [node.append(self.draft(room, user))]
        await held.there
        waiting += [node.append(self.draft(room, user)) for _ in range(50)]
        held.go()
        self.assertEqual(await self.answers(waiting), list(range(1, 52)))
        self.assertEqual([len(batch) for batch in node.batches], [1, 50])

    async def test_at_most_500(self) -> None:
        """A batch holds 500 entries at most."""
        node, room, user = self.node(), self.inbox(), self.user()
        drafts = [self.draft(room, user) for _ in range(1001)]
        self.assertEqual(await self.answers(map(node.append, drafts)), list(range(1, 1002)))
        self.assertEqual([len(batch) for batch in node.batches], [500, 500, 1])

    async def test_at_most_4_mebibytes(self) -> None:
        """A batch holds 4 MiB at most, and an entry that is larger is a batch of its own."""
        node, room, user = self.node(), self.inbox(), self.user()
        sizes = [0, 5 * MEBI, 0, *[MEBI - 50] * 5]
        drafts = [self.draft(room, user, "x" * size) for size in sizes]
        self.assertEqual(await self.answers(map(node.append, drafts)), list(range(1, 9)))
        self.assertEqual([len(batch) for batch in node.batches], [1, 1, 5, 1])

    async def test_mebibytes_are_bytes(self) -> None:
        """A batch's size counts bytes as the database gets them, not characters."""
        node, room, user = self.node(), self.inbox(), self.user()
        drafts = [self.draft(room, user, "😀" * (600 * 1024)) for _ in range(3)]
        self.assertEqual(await self.answers(map(node.append, drafts)), [1, 2, 3])
        self.assertEqual([len(batch) for batch in node.batches], [1, 1, 1])


def _verbs(statements: list[str]) -> list[str]:
    return [statement.split()[0] for statement in statements]


class Idempotency(Contract):
    """A sender's key is used for one entry, ever."""

    async def test_repeat(self) -> None:
        """A repeat gets the first one's seq and time, is told so, and is neither stored nor
        published."""
        node, room, user = self.node(), self.inbox(), self.user()
        first, again = (self.draft(room, user, key="k") for _ in range(2))
        await node.append(first)
        await node.append(self.draft(room, user))
        self.assertEqual(await node.append(again), Stored(1, first.at, duplicate=True))
        at_once = _replace(again, at=first.at)
        self.assertEqual(await node.append(at_once), Stored(1, first.at, duplicate=True))
        self.assertEqual(self.seqs(room), [1, 2])
        self.assertEqual(node.heard_in(room), [1, 2])
        self.assertEqual(await self.answer(node.append(self.draft(room, user))), 3)

    async def test_repeat_on_another_node(self) -> None:
        """A repeat on another node gets the first one's seq."""
        one, other, room, user = self.node(), self.node(), self.inbox(), self.user()
        await one.append(self.draft(room, user, key="k"))
        again = other.append(self.draft(room, user, key="k"))
        self.assertEqual(await self.answer(again), ("again", 1))
        self.assertEqual(other.heard, [])

    async def test_repeats_raced_on_two_nodes(self) -> None:
        """Keys that two nodes get at the same time make one entry each, and one node is told
        that it was first."""
        one, other, room, user = self.node(), self.node(), self.inbox(), self.user()
        drafts = [self.draft(room, user) for _ in range(50)]
        again = [self.draft(room, user, key=draft.key.decode()) for draft in drafts]
        waiting = [(one.append(a), other.append(b)) for a, b in zip(drafts, again, strict=True)]
        stored = [await self.answers(pair) for pair in waiting]
        self.assertEqual(self.seqs(room), list(range(1, 51)))
        for pair in stored:
            fresh = [place for place in pair if isinstance(place, int)]
            self.assertEqual(len(fresh), 1, pair)
            self.assertIn(("again", fresh[0]), pair)
        self.assertEqual(sorted(one.heard_in(room) + other.heard_in(room)), self.seqs(room))

    async def test_repeat_in_flight(self) -> None:
        """Repeats that come while the first is under way get its seq, when it has one."""
        wire = Wire()
        node, room, user = self.node(self.wired(wire)), self.inbox(), self.user()
        held = Held(wire, "INSERT INTO entries")
        waiting = [node.append(self.draft(room, user, key="k"))]
        waiting.append(node.append(self.draft(room, user, key="k")))
        await held.there
        waiting.append(node.append(self.draft(room, user, key="k")))
        held.go()
        self.assertEqual(await self.answers(waiting), [1, ("again", 1), ("again", 1)])
        self.assertEqual(self.seqs(room), [1])
        self.assertEqual(node.heard_in(room), [1])

    async def test_repeat_of_a_failure_in_flight(self) -> None:
        """Repeats that come while the first is under way share its failure, and the key is
        free afterwards."""
        node, room, user = self.node(), self.inbox(), self.user()
        refusing = self.draft(room, user, key="k", effect=_refuse)
        waiting = [node.append(refusing), node.append(self.draft(room, user, key="k"))]
        self.assertEqual(await self.answers(waiting), ["forbidden", "forbidden"])
        self.assertEqual(await self.answer(node.append(self.draft(room, user, key="k"))), 1)

    async def test_another_senders_key(self) -> None:
        """The same key of another sender is another message."""
        node, room, (one, other) = self.node(), self.inbox(), self.users(2)
        waiting = [node.append(self.draft(room, user, key="k")) for user in (one, other)]
        self.assertEqual(await self.answers(waiting), [1, 2])
        again = [node.append(self.draft(room, user, key="k")) for user in (one, other)]
        self.assertEqual(await self.answers(again), [("again", 1), ("again", 2)])

    async def test_another_room(self) -> None:
        """A key that was used for a message to another address is a conflict, stored or in
        flight, and takes no number."""
        node, room, other, user = self.node(), self.inbox(), self.inbox(), self.user()
        waiting = [node.append(self.draft(place, user, key="k")) for place in (room, other)]
        self.assertEqual(await self.answers(waiting), [1, "conflict"])
        late = node.append(self.draft(other, user, key="k"))
        self.assertEqual(await self.answer(late), "conflict")
        self.assertEqual(await self.answer(node.append(self.draft(other, user))), 1)

    async def test_keys_are_bytes(self) -> None:
        """Keys that differ in a trailing space, in case or in an accent are different keys."""
        node, room, user = self.node(), self.inbox(), self.user()
        keys = ["a", "a ", "A", "á", "a\t"]
        one_by_one = [await self.answer(node.append(self.draft(room, user, key=k))) for k in keys]
        self.assertEqual(one_by_one, [1, 2, 3, 4, 5])
        together = [node.append(self.draft(room, user, key=k)) for k in reversed(keys)]
        self.assertEqual(await self.answers(together), [("again", n) for n in (5, 4, 3, 2, 1)])

    async def test_repeat_among_new_ones(self) -> None:
        """A repeat in a batch with a hundred new messages costs none of them its place."""
        node, room, other, user = self.node(), self.inbox(), self.inbox(), self.user()
        await node.append(self.draft(room, user, key="k"))
        drafts = [self.draft(room if n % 2 else other, user) for n in range(100)]
        drafts.insert(50, self.draft(room, user, key="k"))
        found = await self.answers(map(node.append, drafts))
        self.assertEqual(found.pop(50), ("again", 1))
        self.assertEqual(found[0::2], list(range(1, 51)))
        self.assertEqual(found[1::2], list(range(2, 52)))
        self.assertEqual(self.seqs(room), list(range(1, 52)))
        self.assertEqual(len(node.heard), 101)

    async def test_many_repeats(self) -> None:
        """A batch of repeats alone is answered from the log, however many there are."""
        node, room, user = self.node(), self.inbox(), self.user()
        keys = [f"k{n}" for n in range(250)]
        await self.answers([node.append(self.draft(room, user, key=key)) for key in keys])
        again = [node.append(self.draft(room, user, key=key)) for key in keys]
        self.assertEqual(await self.answers(again), [("again", n) for n in range(1, 251)])
        self.assertEqual(await self.answer(node.append(self.draft(room, user))), 251)

    async def test_own_keys(self) -> None:
        """The server's own keys differ from each other, from another run's, and begin with a
        byte that no client's key has."""
        one, other = Keys(), Keys()
        made = [keys() for keys in (one, other) for _ in range(100)]
        self.assertEqual(len(set(made)), 200)
        self.assertEqual({key[0] for key in made}, {0})
        node, room, user = self.node(), self.inbox(), self.user()
        drafts = [_replace(self.draft(room, user), key=key) for key in made]
        self.assertEqual(await self.answers(map(node.append, drafts)), list(range(1, 201)))


def _replace(draft: Draft, **changes: Any) -> Draft:
    fields = {name: getattr(draft, name) for name in draft.__struct_fields__}
    return Draft(**{**fields, **changes})


def _refuse(connection: Connection, seq: int) -> None:
    raise Refused("forbidden", "No.")


class Effects(Contract):
    """What an entry changes besides the log happens with it or not at all."""

    def _joining(self, room: Room, user: Party) -> Draft:
        return self.draft(
            room, user, kind="joined", effect=lambda db, seq: rooms.join(db, room.id, user.id, seq)
        )

    def _leaving(self, room: Room, user: Party) -> Draft:
        return self.draft(
            room, user, kind="left", effect=lambda db, seq: rooms.leave(db, room.id, user.id)
        )

    def _dissolving(self, room: Room, user: Party) -> Draft:
        return self.draft(
            room, user, kind="dissolved", effect=lambda db, seq: rooms.dissolve(db, room.id, 1)
        )

    async def test_effect_and_entry(self) -> None:
        """An effect is told its entry's seq, and what it changes is there with the entry."""
        node, (owner, user) = self.node(), self.users(2)
        room = self.group(owner)
        self.assertEqual(await self.answer(node.append(self._joining(room, user))), 2)
        self.assertEqual(
            self.db.all(
                "SELECT role, joined_seq FROM members WHERE room_id = ? AND user_id = ?",
                (room.id, user.id),
            ),
            [("member", 2)],
        )

    async def test_refusal(self) -> None:
        """An effect that refuses fails its own draft alone and leaves no gap."""
        node, room, user = self.node(), self.inbox(), self.user()
        effects = [None, _refuse, None, _refuse, None]
        drafts = [self.draft(room, user, effect=effect) for effect in effects]
        found = await self.answers(map(node.append, drafts))
        self.assertEqual(found, [1, "forbidden", 2, "forbidden", 3])
        self.assertEqual(self.kept(room), [(n + 1, drafts[2 * n].key) for n in range(3)])
        self.assertEqual(node.heard_in(room), [1, 2, 3])

    async def test_unexpected_error(self) -> None:
        """An effect that fails takes back what it changed and fails its own draft alone; the
        rest of the batch is stored once."""
        node, room, user = self.node(), self.inbox(), self.user()

        def rename(connection: Connection, seq: int) -> None:
            connection.run("UPDATE users SET display = ? WHERE id = ?", (f"at {seq}", user.id))

        def break_off(connection: Connection, seq: int) -> None:
            connection.run("UPDATE users SET display = 'half' WHERE id = ?", (user.id,))
            raise LookupError("a fault in a command")

        effects = [None, rename, break_off, None]
        drafts = [self.draft(room, user, effect=effect) for effect in effects]
        found = await self.answers(map(node.append, drafts))
        self.assertEqual(found, [1, 2, "internal", 3])
        self.assertEqual(self.single("SELECT display FROM users WHERE id = ?", user.id), "at 2")
        self.assertEqual(self.seqs(room), [1, 2, 3])
        self.assertEqual(node.heard_in(room), [1, 2, 3])
        self.assertEqual(len(self.flushLoggedErrors(LookupError)), 1)

    async def test_entry_refused_by_the_database(self) -> None:
        """An effect whose entry cannot be stored is taken back."""
        node, owner = self.node(), self.user()
        room = self.group(owner)
        joining = _replace(self._joining(room, self.user()), encoded="\ud800")
        self.assertEqual(await self.answer(node.append(joining)), "internal")
        self.assertEqual(self.single("SELECT COUNT(*) FROM members"), 1)
        self.flushLoggedErrors(UnicodeEncodeError)

    async def test_effects_see_each_other(self) -> None:
        """In one batch, a second join is refused, leaving works after joining, and coming back
        after leaving."""
        node, (owner, user) = self.node(), self.users(2)
        room = self.group(owner)
        steps = [self._joining, self._joining, self._leaving, self._leaving, self._joining]
        found = await self.answers([node.append(step(room, user)) for step in steps])
        self.assertEqual(found, [2, "exists", 3, "not-a-member", 4])
        self.assertEqual(self.single("SELECT joined_seq FROM members WHERE role = 'member'"), 4)

    async def test_join_twice(self) -> None:
        """A second join, in a later batch or on another node, is refused."""
        node, other, (owner, user) = self.node(), self.node(), self.users(2)
        room = self.group(owner)
        found = [
            await self.answer(each.append(self._joining(room, user)))
            for each in (node, node, other)
        ]
        self.assertEqual(found, [2, "exists", "exists"])

    async def test_join_raced_on_two_nodes(self) -> None:
        """Of two nodes that let the same user join at once, one is refused; nobody else is."""
        nodes, owner, users = [self.node(), self.node()], self.user(), self.users(10)
        room = self.group(owner)
        waiting = [node.append(self._joining(room, user)) for user in users for node in nodes]
        found = await self.answers(waiting)
        self.assertEqual(found.count("exists"), 10)
        self.assertEqual(self.seqs(room), list(range(1, 12)))
        self.assertEqual(self.single("SELECT COUNT(*) FROM members"), 11)

    async def test_owner_leaves(self) -> None:
        """The owner cannot leave."""
        node, owner = self.node(), self.user()
        room = self.group(owner)
        self.assertEqual(await self.answer(node.append(self._leaving(room, owner))), "conflict")
        self.assertEqual(self.seqs(room), [1])

    async def test_dissolve_twice(self) -> None:
        """A group ends once; nobody can join it any more, and its name is not given again, for
        clients know entries by address and seq."""
        node, (owner, user) = self.node(), self.users(2)
        room = self.group(owner, "club")
        steps = [self._dissolving, self._dissolving]
        found = await self.answers([node.append(step(room, owner)) for step in steps])
        self.assertEqual(found, [2, "not-found"])
        late = [node.append(self._dissolving(room, owner)), node.append(self._joining(room, user))]
        self.assertEqual(await self.answers(late), ["not-found", "not-found"])
        self.assertEqual(self.seqs(room), [1, 2])
        self.assertIsNone(rooms.find_group(self.db, "club"))
        with self.assertRaises(Refused) as refused:
            self.group(owner, "club")
        self.assertEqual(refused.exception.code, "exists")

    async def test_repeat_with_an_effect(self) -> None:
        """A repeat does not have its effect again."""
        node, room, user = self.node(), self.inbox(), self.user()
        ran: list[int] = []
        for _ in range(2):
            draft = self.draft(room, user, key="k", effect=lambda db, seq: ran.append(seq))
            await node.append(draft)
        self.assertEqual(ran, [1])


def _bundle(case: Contract, key: str, room: Room, user: Party, *others: Room) -> Draft:
    companions = tuple(_replace(case.draft(o, user), key=b"\0%d" % o.id) for o in others)
    return _replace(case.draft(room, user, key=key), companions=companions)


class Companions(Contract):
    """A draft's companions go into other rooms' logs with it, or not at all."""

    async def test_stored_together(self) -> None:
        """Each has the next number of its room, and is published in its place."""
        node, user = self.node(), self.user()
        one, two, three = self.inbox(), self.inbox(), self.inbox()
        self.say(two, user, "there")
        bundle = _bundle(self, "", one, user, two, three)
        drafts = [self.draft(two, user), bundle, self.draft(two, user), self.draft(one, user)]
        self.assertEqual(await self.answers(map(node.append, drafts)), [2, 1, 4, 2])
        self.assertEqual([self.seqs(r) for r in (one, two, three)], [[1, 2], [1, 2, 3, 4], [1]])
        self.assertEqual([node.heard_in(r) for r in (one, two, three)], [[1, 2], [2, 3, 4], [1]])
        more = [self.draft(r, user) for r in (one, two, three)]
        self.assertEqual(await self.answers(map(node.append, more)), [3, 5, 2])

    async def test_refused_together(self) -> None:
        """What its effect refuses leaves nothing of the companions either."""
        node, user = self.node(), self.user()
        one, two = self.inbox(), self.inbox()
        bundle = _replace(_bundle(self, "", one, user, two), effect=_refuse)
        self.assertEqual(await self.answer(node.append(bundle)), "forbidden")
        self.assertEqual([self.seqs(one), self.seqs(two), node.heard], [[], [], []])

    async def test_repeated(self) -> None:
        """A repeat of the key stores no companion again."""
        node, user = self.node(), self.user()
        one, two = self.inbox(), self.inbox()
        bundles = [_bundle(self, "k", one, user, two) for _ in range(3)]
        found = await self.answers(map(node.append, bundles[:2]))
        found.append(await self.answer(node.append(bundles[2])))
        self.assertEqual(found, [1, ("again", 1), ("again", 1)])
        self.assertEqual([self.seqs(two), node.heard_in(two)], [[1], [1]])

    async def test_crossing(self) -> None:
        """Two nodes that store companions in each other's rooms do not stand in each other's way
        for ever."""
        nodes, user = [self.node(), self.node()], self.user()
        rooms = [self.inbox(), self.inbox()]
        bundles = [_bundle(self, "", rooms[n % 2], user, rooms[1 - n % 2]) for n in range(20)]
        bundles = [
            _replace(b, companions=tuple(_replace(c, key=b"\0x%d" % n) for c in b.companions))
            for n, b in enumerate(bundles)
        ]
        await self.answers(nodes[n % 2].append(b) for n, b in enumerate(bundles))
        self.assertEqual([self.seqs(room) for room in rooms], [list(range(1, 21))] * 2)


class Poison(Contract):
    """What the database refuses fails alone."""

    async def test_among_others(self) -> None:
        """A draft that the database refuses fails alone; the others of its batch are stored in
        their order and published once."""
        node, room, user = self.node(), self.inbox(), self.user()
        drafts = [self.draft(room, user) for _ in range(20)]
        drafts[7] = _replace(drafts[7], encoded="\ud800")
        drafts[13] = _replace(drafts[13], encoded="\ud800")
        found = await self.answers(map(node.append, drafts))
        self.assertEqual([found.pop(13), found.pop(7)], ["internal", "internal"])
        self.assertEqual(found, list(range(1, 19)))
        self.assertEqual(self.seqs(room), found)
        self.assertEqual(node.heard_in(room), found)
        self.assertEqual(len(self.flushLoggedErrors(UnicodeEncodeError)), 2)

    async def test_largest_text(self) -> None:
        """The largest text that the limits allow is stored, in whatever characters."""
        node, room, user = self.node(), self.inbox(), self.user()
        texts = [char * 1_000_000 for char in '\\"\n李😀']
        drafts = [self.draft(room, user, text) for text in texts]
        self.assertEqual(await self.answers(map(node.append, drafts)), [1, 2, 3, 4, 5])
        found = read_after(self.db, room, 0, 10)
        self.assertTrue([entry.body["text"] for entry in found] == texts)

    async def test_alone(self) -> None:
        """A lone draft that the database refuses takes no number from the next one."""
        node, room, user = self.node(), self.inbox(), self.user()
        bad = self.draft(room, user, encoded="\ud800")
        self.assertEqual(await self.answer(node.append(bad)), "internal")
        self.assertEqual(await self.answer(node.append(self.draft(room, user))), 1)
        self.flushLoggedErrors(UnicodeEncodeError)

    async def test_one_key_twice_in_a_batch(self) -> None:
        """Even a key that is in one batch twice makes one entry, and harms no other draft."""
        node, room, user = self.node(), self.inbox(), self.user()
        given_up = node.append(self.draft(room, user, key="k"))
        given_up.addErrback(lambda failure: None)
        given_up.cancel()
        waiting = [node.append(self.draft(room, user, key=key)) for key in ("k", "other")]
        self.assertEqual(await self.answers(waiting), [("again", 1), 2])
        self.assertEqual(self.kept(room), [(1, b"k"), (2, b"other")])


class Contention(Contract):
    """Another transaction in the way costs time, not messages."""

    async def test_once(self) -> None:
        """A statement that lost against another transaction is run again."""
        wire = Wire()
        node, room, user = self.node(self.wired(wire)), self.inbox(), self.user()
        wire.before = once("INSERT INTO entries", lambda: throw(self.contended()))
        waiting = [node.append(self.draft(room, user)) for _ in range(3)]
        self.assertEqual(await self.answers(waiting), [1, 2, 3])
        self.assertEqual(self.seqs(room), [1, 2, 3])
        self.assertEqual(node.heard_in(room), [1, 2, 3])

    async def test_in_a_transaction(self) -> None:
        """A transaction that lost against another one is run again, its effects included."""
        wire = Wire()
        node, (owner, user) = self.node(self.wired(wire)), self.users(2)
        room = self.group(owner)
        wire.before = once("INSERT INTO entries", lambda: throw(self.contended()))
        joining = self.draft(
            room, user, effect=lambda db, seq: rooms.join(db, room.id, user.id, seq)
        )
        self.assertEqual(await self.answer(node.append(joining)), 2)
        self.assertEqual(self.single("SELECT COUNT(*) FROM members"), 2)

    async def test_for_ever(self) -> None:
        """A statement that always loses ends as `unavailable`, and later ones are stored."""
        wire = Wire()
        node, room, user = self.node(self.wired(wire)), self.inbox(), self.user()

        def lose(sql: str) -> None:
            if sql.startswith("INSERT INTO entries"):
                raise self.contended()

        wire.before = lose
        waiting = [node.append(self.draft(room, user)) for _ in range(3)]
        self.assertEqual(await self.answers(waiting), ["unavailable"] * 3)
        wire.before = lambda sql: None
        self.assertEqual(await self.answer(node.append(self.draft(room, user))), 1)
        self.assertEqual(node.heard_in(room), [1])


class Telling(Contract):
    """Who is told what, and when."""

    async def test_publish_first(self) -> None:
        """A batch is published before those who wait for it are told, and `told` comes last."""
        node, room, user = self.node(), self.inbox(), self.user()
        known: list[int] = []
        waiting = [node.append(self.draft(room, user)) for _ in range(3)]
        for stored in waiting:
            stored.addCallback(lambda _: known.append(len(node.heard)))
        node.told = lambda: known.append(0)
        await node.idle()
        self.assertEqual(known, [3, 3, 3, 0])

    async def test_fault_in_publishing(self) -> None:
        """A fault in publishing, or in what follows the answers, is logged and takes neither the
        answers nor the next batch."""
        node, room, user = self.node(), self.inbox(), self.user()
        node.hear = lambda pairs: throw(LookupError("a fault"))
        node.told = lambda: throw(LookupError("a fault"))
        waiting = [node.append(self.draft(room, user)) for _ in range(3)]
        published = node.published()
        self.assertEqual(await self.answers(waiting), [1, 2, 3])
        await published
        self.assertEqual(await self.answer(node.append(self.draft(room, user))), 4)
        await node.idle()
        self.assertEqual(len(self.flushLoggedErrors(LookupError)), 4)

    async def test_append_while_publishing(self) -> None:
        """What is appended while a batch is published or answered is stored after it."""
        node, room, user = self.node(), self.inbox(), self.user()
        later: list[Deferred[Stored]] = []

        def more(_: Any) -> None:
            if len(later) < 2:
                later.append(node.append(self.draft(room, user)))

        node.hear = more
        node.append(self.draft(room, user)).addCallback(more)
        await node.idle()
        self.assertEqual(await self.answers(later), [2, 3])
        self.assertEqual(node.heard_in(room), [1, 2, 3])

    async def test_idle(self) -> None:
        """The store is idle when all that was submitted is published and answered."""
        node, room, user = self.node(), self.inbox(), self.user()
        answered: list[int] = []
        for _ in range(1001):
            stored = node.append(self.draft(room, user))
            stored.addCallback(lambda stored: answered.append(stored.seq))
        await node.idle()
        self.assertEqual(len(answered), 1001)
        self.assertEqual(len(node.heard), 1001)

    async def test_idle_counts_what_answers_lead_to(self) -> None:
        """The store is not idle while an answer has led to another append."""
        node, room, user = self.node(), self.inbox(), self.user()
        answered: list[int] = []

        def again(stored: Stored) -> None:
            answered.append(stored.seq)
            if stored.seq < 5:
                node.append(self.draft(room, user)).addCallback(again)

        node.append(self.draft(room, user)).addCallback(again)
        await node.idle()
        self.assertEqual(answered, [1, 2, 3, 4, 5])

    async def test_stop_answers(self) -> None:
        """A store that is stopped stores, publishes and answers what was submitted."""
        node, room, user = self.node(), self.inbox(), self.user()
        answered: list[int] = []
        for _ in range(3):
            stored = node.append(self.draft(room, user))
            stored.addCallback(lambda stored: answered.append(stored.seq))
        await node.stop()
        self.nodes.remove(node)
        self.assertEqual((answered, node.heard_in(room)), ([1, 2, 3], [1, 2, 3]))

    async def test_idle_and_published_at_rest(self) -> None:
        """A store without work is idle, and has published what it holds."""
        node = self.node()
        self.successResultOf(Deferred.fromCoroutine(node.idle()))
        self.successResultOf(node.published())

    async def test_published(self) -> None:
        """What the database held when one asked is published when `published` fires; it does
        not wait for what came later."""
        wire = Wire()
        node, room, user = self.node(self.wired(wire)), self.inbox(), self.user()
        held = Held(wire, "INSERT INTO entries")
        first = node.append(self.draft(room, user))
        await held.there
        asked = node.published()
        later = node.append(self.draft(room, user))
        held.go()
        held = Held(wire, "INSERT INTO entries")
        self.assertNoResult(asked)
        await asked
        self.assertEqual(node.heard_in(room), [1])
        held.go()
        self.assertEqual(await self.answers([first, later]), [1, 2])

    async def test_published_when_asked_while_publishing(self) -> None:
        """Who asks while a batch is published hears when the next one is published, for the
        database may hold that already."""
        wire = Wire()
        node, room, user = self.node(self.wired(wire)), self.inbox(), self.user()
        held = Held(wire, "INSERT INTO entries")
        asked: list[Deferred[list[int]]] = []

        def ask(_: Any) -> None:
            if not asked:
                asked.append(node.published().addCallback(lambda _: node.heard_in(room)))

        node.hear = ask
        waiting = [node.append(self.draft(room, user))]
        await held.there
        waiting.append(node.append(self.draft(room, user)))
        held.go()
        await gatherResults(waiting)
        self.assertEqual(await asked[0], [1, 2])

    async def test_too_many_wait(self) -> None:
        """When too many appends wait for the database, the next is `unavailable` at once; those
        that wait are stored, and then more are taken."""
        self.patch(batch, "MOST_WAITING", 3)
        node, room, user = self.node(), self.inbox(), self.user()
        waiting = [node.append(self.draft(room, user)) for _ in range(3)]
        key = self.draft(room, user, key="k")
        self.assertRaises(Unavailable, node.append, key)
        self.assertEqual(await self.answers(waiting), [1, 2, 3])
        self.assertEqual(await self.answer(node.append(key)), 4)


class Explained(Connection):
    """A connection that notes the database's plans for its queries."""

    __slots__ = ("case", "plans")

    def __init__(self, case: Any) -> None:
        super().__init__(case.db._raw, case.dialect)
        self.case = case
        self.plans: list[str] = []

    def all(self, sql: str, params: Any = ()) -> list[Row]:
        self.plans.append(self.case.plan(sql, params))
        return super().all(sql, params)


class History(Contract):
    """A room's entries are read in ranges."""

    by_primary_key: str  # what a plan says that does so

    def _ten(self) -> Room:
        users = self.users(2)
        room, other = self.pair(*users), self.inbox()
        for number in range(1, 11):
            self.say(room, users[number % 2], str(number))
            self.say(other, users[0], "elsewhere")
        return room

    def _numbers(self, entries: list[Entry]) -> list[int]:
        self.assertEqual([entry.body["text"] for entry in entries], [str(e.seq) for e in entries])
        return [entry.seq for entry in entries]

    def test_after(self) -> None:
        """The first entries after a seq, oldest first, up to a limit or the end."""
        room = self._ten()
        for seq, limit, expected in (
            (0, 3, [1, 2, 3]),
            (3, 3, [4, 5, 6]),
            (8, 3, [9, 10]),
            (10, 3, []),
            (11, 3, []),
            (0, 100, list(range(1, 11))),
            (-1, 1, [1]),
        ):
            self.assertEqual(self._numbers(read_after(self.db, room, seq, limit)), expected)

    def test_before(self) -> None:
        """The last entries before a seq, oldest first, up to a limit or the beginning."""
        room = self._ten()
        for seq, limit, expected in (
            (2**63 - 1, 3, [8, 9, 10]),
            (8, 3, [5, 6, 7]),
            (3, 3, [1, 2]),
            (2, 3, [1]),
            (1, 3, []),
            (0, 3, []),
            (11, 100, list(range(1, 11))),
        ):
            self.assertEqual(self._numbers(read_before(self.db, room, seq, limit)), expected)

    def test_direction(self) -> None:
        """An entry of a direct room names its sender and goes to the other one."""
        low, high = self.user("alice"), self.user("李雷")
        room = self.pair(high, low)
        self.say(room, low, "one")
        self.say(room, high, "two")
        found = [(e.sender, e.to) for e in read_after(self.db, room, 0, 10)]
        self.assertEqual(found, [(low, "@李雷"), (high, "@alice")])

    def test_ends(self) -> None:
        """The ends of rooms are their last seqs, 0 where nothing was said; rooms that are not
        there have none."""
        room, empty = self._ten(), self.inbox()
        self.assertEqual(read_ends(self.db, {room.id, empty.id, 2**40}), {room.id: 10, empty.id: 0})
        self.assertEqual(read_ends(self.db, set()), {})

    def test_by_primary_key(self) -> None:
        """Ranges are read by the primary key alone, without sorting."""
        room, user = self._ten(), self.user()
        for _ in range(10):
            self.say(self.inbox(), user, *map(str, range(20)))
        watched = Explained(self)
        read_after(watched, room, 5, 3)
        read_before(watched, room, 5, 3)
        self.assertEqual(len(watched.plans), 2)
        for plan in watched.plans:
            self.assertIn(self.by_primary_key, plan)
            self.assertNotRegex(plan, "filesort|B-TREE|SCAN")

    def test_long_logs(self) -> None:
        """Reading a page or the ends costs no more in long logs than in short ones."""
        user = self.user()
        short, long = ([self.inbox() for _ in range(3)] for _ in range(2))
        with self.db.transaction():
            for room in short:
                self.say(room, user, *map(str, range(10)))
            for room in long:
                self.say(room, user, *map(str, range(1000)))

        def read(targets: list[Room]) -> None:
            read_ends(self.db, {room.id for room in targets})
            read_after(self.db, targets[0], 2, 5)
            read_before(self.db, targets[0], 8, 5)

        few, many = self.effort(lambda: read(short)), self.effort(lambda: read(long))
        self.assertLess(many, few + 100)


class LogOnSQLite(
    Numbering,
    GroupCommit,
    Idempotency,
    Effects,
    Companions,
    Poison,
    Contention,
    Telling,
    History,
    SQLiteCase,
):
    """The contract on SQLite."""

    by_primary_key = "SEARCH e USING PRIMARY KEY (room_id=? AND seq"

    async def test_on_disk(self) -> None:
        """Every connection of the store syncs each commit."""
        node = self.node()
        for ask in (node.read, node.write):
            self.assertEqual(
                await ask(lambda db: (db.one("PRAGMA synchronous"), db.one("PRAGMA journal_mode"))),
                ((2,), ("wal",)),
            )


class LogOnMariaDB(
    Numbering,
    GroupCommit,
    Idempotency,
    Effects,
    Companions,
    Poison,
    Contention,
    Telling,
    History,
    MariaDBCase,
):
    """The contract on MariaDB, and what only a server can do."""

    by_primary_key = "'e', 'range', 'PRIMARY', 'PRIMARY', '16'"  # two BIGINTs of 8 bytes

    async def test_one_round_trip(self) -> None:
        """A lone append costs one round trip once the room's end is known."""
        node, room, user = self.node(connections=1), self.inbox(), self.user()
        await node.append(self.draft(room, user))
        before = self._counters()
        await node.append(self.draft(room, user))
        after = self._counters()
        names = ("Com_insert", "Com_begin", "Com_commit", "Com_select")
        self.assertEqual([after[name] - before[name] for name in names], [1, 0, 0, 0])
        # The other question is ours.
        self.assertEqual(after["Questions"] - before["Questions"], 2)

    def _counters(self) -> dict[str, int]:
        return {name: int(n) for name, n in self.db.all("SHOW GLOBAL STATUS") if n.isdigit()}

    async def test_waits_for_another_node(self) -> None:
        """An entry with an effect waits for another node's in the same room, and sees what that
        one changed; the effect runs once."""
        node, (owner, user) = self.node(), self.users(2)
        room = self.group(owner)
        ran: list[int] = []

        def join(connection: Connection, seq: int) -> None:
            ran.append(seq)
            rooms.join(connection, room.id, user.id, seq)

        with self.db.transaction():
            self.db.one("SELECT id FROM rooms WHERE id = ? FOR UPDATE", (room.id,))
            rooms.join(self.db, room.id, user.id, 2)
            self.say(room, user, "two")
            waiting = node.append(self.draft(room, user, effect=join))
            await self._somebody_waits()
        self.assertEqual(await self.answer(waiting), "exists")
        self.assertEqual(ran, [3])

    async def _somebody_waits(self) -> None:
        other, waits = self.connect(), "Innodb_row_lock_current_waits"
        while other.all(f"SHOW GLOBAL STATUS LIKE '{waits}'") == [(waits, "0")]:
            await deferLater(reactor, 0)

    async def test_killed_while_waiting(self) -> None:
        """A connection that is killed while its statement waits for a lock costs nothing."""
        node, room, user = self.node(connections=1), self.inbox(), self.user()
        self.assertEqual(await self.answer(node.append(self.draft(room, user))), 1)
        with self.db.transaction():
            self.say(room, user, "two")
            waiting = [node.append(self.draft(room, user)) for _ in range(3)]
            await self._somebody_waits()
            self._kill_all()
        self.assertEqual(await self.answers(waiting), [3, 4, 5])
        self.assertEqual(self.seqs(room), [1, 2, 3, 4, 5])

    async def test_too_long_for_a_column(self) -> None:
        """What does not fit its column fails alone."""
        node, room, user = self.node(), self.inbox(), self.user()
        drafts = [self.draft(room, user) for _ in range(5)]
        drafts[1] = _replace(drafts[1], key=b"k" * 257)
        drafts[3] = _replace(drafts[3], kind="k" * 17)
        found = await self.answers(map(node.append, drafts))
        self.assertEqual(found, [1, "internal", 2, "internal", 3])
        self.assertEqual(self.seqs(room), [1, 2, 3])
        self.assertEqual(len(self.flushLoggedErrors(pymysql.DataError)), 2)

    async def test_too_long_for_a_packet(self) -> None:
        """A draft that is larger than the server takes fails alone."""
        usual = self.single("SELECT @@GLOBAL.max_allowed_packet")
        self.db.run(f"SET GLOBAL max_allowed_packet = {5 * MEBI}")
        self.addCleanup(self.db.run, f"SET GLOBAL max_allowed_packet = {usual}")
        node, room, user = self.node(), self.inbox(), self.user()
        sizes = [10, 6 * MEBI, 10]
        drafts = [self.draft(room, user, "x" * size) for size in sizes]
        found = await self.answers(map(node.append, drafts))
        self.assertIn(found.pop(1), ("internal", "too-large", "unavailable"))
        self.assertEqual(found, [1, 2])
        self.assertEqual(self.seqs(room), [1, 2])

    async def test_links_killed_between_batches(self) -> None:
        """When the server has dropped all connections, the next append succeeds at the caller's
        first try, and so does the next read."""
        node, room, user = self.node(), self.inbox(), self.user()
        for number in (1, 2, 3):
            self.assertEqual(await self.answer(node.append(self.draft(room, user))), number)
            self.assertEqual(await node.read(read_ends, {room.id}), {room.id: number})
            self._kill_all()
        self.assertEqual(node.heard_in(room), [1, 2, 3])

    def _kill_all(self) -> None:
        links = self.links()
        self.assertTrue(links)
        for link in links:
            self.kill(link)

    async def test_killed_in_a_transaction(self) -> None:
        """A connection that dies inside a transaction costs nothing: the effect is there once
        and the entry is there once."""
        node, (owner, user) = self.node(), self.users(2)
        room = self.group(owner)
        tries: list[int] = []

        def join(connection: Connection, seq: int) -> None:
            rooms.join(connection, room.id, user.id, seq)
            tries.append(seq)
            if len(tries) == 1:
                self._kill_own(connection)

        drafts = [self.draft(room, owner), self.draft(room, user, effect=join)]
        self.assertEqual(await self.answers(map(node.append, drafts)), [2, 3])
        self.assertEqual(tries, [3, 3])
        self.assertEqual(self.seqs(room), [1, 2, 3])
        self.assertEqual(node.heard_in(room), [2, 3])
        self.assertEqual(self.single("SELECT COUNT(*) FROM members"), 2)

    def _kill_own(self, connection: Connection) -> None:
        own = connection.one("SELECT CONNECTION_ID()")
        assert own is not None
        self.kill(own[0])

    async def test_answer_lost(self) -> None:
        """A statement whose answer was lost after it went through makes one row for each draft;
        the callers get seqs as for new entries, and each is published once."""
        wire = Wire()
        node, room, user = self.node(self.wired(wire)), self.inbox(), self.user()
        await node.append(self.draft(room, user))
        wire.after = once("INSERT INTO entries", lambda: throw(self._lost()))
        waiting = [node.append(self.draft(room, user)) for _ in range(10)]
        self.assertEqual(await self.answers(waiting), list(range(2, 12)))
        self.assertEqual(self.seqs(room), list(range(1, 12)))
        self.assertEqual(node.heard_in(room), list(range(1, 12)))
        self.assertEqual(await self.answer(node.append(self.draft(room, user))), 12)

    def _lost(self) -> Exception:
        return pymysql.OperationalError(2013, "Lost connection to MySQL server during query")

    async def test_answer_lost_and_another_node(self) -> None:
        """Where another node goes on before the answer's loss is noticed, each draft still has
        one row and its own seq."""
        wire = Wire()
        node, other = self.node(self.wired(wire)), self.node()
        room, user = self.inbox(), self.user()
        held = Held(wire, "")
        wire.before, wire.after = (lambda sql: None), once("INSERT INTO entries", held._hold)
        waiting = [node.append(self.draft(room, user)) for _ in range(3)]
        await held.there
        self.assertEqual(await self.answer(other.append(self.draft(room, user))), 4)
        self._kill_all()
        held.go()
        waiting.append(node.append(self.draft(room, user)))
        self.assertEqual(await self.answers(waiting), [1, 2, 3, 5])

    async def test_repeat_in_a_batch_whose_answer_was_lost(self) -> None:
        """A repeat is still told that it is one when its batch had to run twice."""
        wire = Wire()
        node, room, user = self.node(self.wired(wire)), self.inbox(), self.user()
        await node.append(self.draft(room, user, key="k"))
        wire.after = once("COMMIT", lambda: throw(self._lost()))
        waiting = [node.append(self.draft(room, user, key=key)) for key in ("k", "", "")]
        self.assertEqual(await self.answers(waiting), [("again", 1), 2, 3])
        self.assertEqual(node.heard_in(room), [1, 2, 3])

    async def test_commit_answer_lost(self) -> None:
        """A transaction whose commit went through unheard has its effects and entries once, and
        its callers are answered as if nothing had happened."""
        wire = Wire()
        node, (owner, user) = self.node(self.wired(wire)), self.users(2)
        room = self.group(owner)
        wire.after = once("COMMIT", lambda: throw(self._lost()))
        ran: list[int] = []

        def join(connection: Connection, seq: int) -> None:
            rooms.join(connection, room.id, user.id, seq)
            ran.append(seq)

        drafts = [
            self.draft(room, user, effect=join),
            self.draft(room, user, effect=_refuse),
            self.draft(room, owner),
        ]
        self.assertEqual(await self.answers(map(node.append, drafts)), [2, "forbidden", 3])
        self.assertEqual(ran, [2])
        self.assertEqual(self.seqs(room), [1, 2, 3])
        self.assertEqual(node.heard_in(room), [2, 3])

    async def test_commit_answer_of_companions_lost(self) -> None:
        """After a commit that went through unheard, each is there and published once."""
        wire = Wire()
        node, user = self.node(self.wired(wire)), self.user()
        one, two = self.inbox(), self.inbox()
        wire.after = once("COMMIT", lambda: throw(self._lost()))
        self.assertEqual(await self.answer(node.append(_bundle(self, "", one, user, two))), 1)
        self.assertEqual([self.seqs(one), self.seqs(two)], [[1], [1]])
        self.assertEqual([node.heard_in(one), node.heard_in(two)], [[1], [1]])

    async def test_lost_for_ever(self) -> None:
        """A statement whose connection always dies ends as `unavailable`."""
        wire = Wire()
        node, room, user = self.node(self.wired(wire)), self.inbox(), self.user()

        def lose(sql: str) -> None:
            if sql.startswith("INSERT INTO entries"):
                raise self._lost()

        wire.before = lose
        self.assertEqual(await self.answer(node.append(self.draft(room, user))), "unavailable")
        self.assertEqual(self.seqs(room), [])

    async def test_stored_unheard(self) -> None:
        """What a batch stored whose callers could only be told `unavailable` is published before
        what comes next, once, and a repeat finds it."""
        wire = Wire()
        node, room, user = self.node(self.wired(wire)), self.inbox(), self.user()

        def cut_off() -> None:
            wire.before = lambda sql: throw(self._lost())
            raise self._lost()

        wire.after = once("INSERT INTO entries", cut_off)
        waiting = [node.append(self.draft(room, user, key=f"k{n}")) for n in range(3)]
        self.assertEqual(await self.answers(waiting), ["unavailable"] * 3)
        self.assertEqual(node.heard, [])
        wire.before = lambda sql: None
        waiting = [node.append(self.draft(room, user, key=key)) for key in ("k1", "new")]
        self.assertEqual(await self.answers(waiting), [("again", 2), 4])
        self.assertEqual(self.seqs(room), [1, 2, 3, 4])
        self.assertEqual(node.heard_in(room), [1, 2, 3, 4])

    async def test_no_server(self) -> None:
        """Where no server answers, everything is `unavailable`."""
        nowhere = {**self.dialect.connect, "unix_socket": "/nonexistent/mariadb.sock"}
        node = self.node(dataclasses.replace(self.dialect, connect=nowhere))
        room, user = self.inbox(), self.user()
        waiting = [node.append(self.draft(room, user)) for _ in range(3)]
        self.assertEqual(await self.answers(waiting), ["unavailable"] * 3)
        with self.assertRaises(Unavailable):
            await node.read(read_ends, {room.id})

    async def test_server_killed(self) -> None:
        """A server that is killed makes appends `unavailable`; when it is back, what it had
        acknowledged is there and the next append succeeds at the first try."""
        directory = Path(tempfile.mkdtemp(prefix="chatd-mariadb-"))
        self.addCleanup(shutil.rmtree, directory)
        server = Server(directory)
        self.addCleanup(server.stop)
        server.start()
        self.url = store_url(server.create("chatd"), "")
        schema.upgrade(self.url)
        self.dialect = make_dialect(self.url)
        self.db = self.connect()
        node, room, user = self.node(), self.inbox(), self.user()
        waiting = [node.append(self.draft(room, user)) for _ in range(100)]
        self.assertEqual(await self.answers(waiting), list(range(1, 101)))
        server.kill()
        drafts = [self.draft(room, user, key=f"k{n}") for n in range(3)]
        self.assertEqual(await self.answers(map(node.append, drafts)), ["unavailable"] * 3)
        server.start()
        self.assertEqual(await self.answers(map(node.append, drafts)), [101, 102, 103])
        self.db = self.connect()
        self.assertEqual(self.seqs(room), list(range(1, 104)))
        self.assertEqual(node.heard_in(room), self.seqs(room))

"""chatctl fsck: a database in use has no differences, and each kind of damage is found."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from chatd.client import chatctl
from chatd.model import Party, Room
from chatd.settings import StoreURL
from chatd.store import fsck, groups, membership, overview, places, replays, rooms
from chatd.store.connection import Connection
from chatd.store.fsck import MOST, differences
from chatd.store.rooms import Cursor
from tests.stores import HOUR, NOW, MariaDBCase, Node, SQLiteCase

if TYPE_CHECKING:
    from tests.stores import StoreCase as Contract
else:
    Contract = object

LATER = NOW + HOUR
TEAM = "(SELECT id FROM rooms WHERE name = 'team')"
PAIR = "(SELECT id FROM rooms WHERE kind = 'direct')"
BOB = "(SELECT id FROM users WHERE name = 'bob')"
ONE_OF_TEAM = f"(SELECT MAX(seq) FROM entries WHERE room_id = {TEAM} AND kind = 'message')"
DAMAGE = {
    "numbering": f"DELETE FROM entries WHERE room_id = {PAIR} AND seq = 2",
    "sender": f"UPDATE entries SET sender_id = 999999 WHERE room_id = {PAIR} AND seq = 2",
    "room": f"UPDATE entries SET kind = 'message' WHERE room_id = {TEAM} AND seq = 1",
    "pair": "UPDATE rooms SET kind = 'direct' WHERE kind = 'inbox'",
    "cursor": f"UPDATE cursors SET delivered_seq = 99 WHERE room_id = {PAIR} AND user_id = {BOB}",
    "member": "INSERT INTO members (user_id, room_id, role, joined_seq)"
    f" VALUES ({BOB}, {PAIR}, 'member', 1)",
    "mention": f"INSERT INTO mentions (room_id, user_id, seq) VALUES ({TEAM}, 0, 1)",
    "reaction": f"INSERT INTO reactions VALUES ({PAIR}, 77, 'x', 1, 1)",
    "pin": f"INSERT INTO pins (room_id, seq, by_id, at) VALUES ({TEAM}, 1, 1, 1)",
    "version": f"INSERT INTO versions VALUES ({PAIR}, 77, 1, 1, '{{}}')",
    "posting": f"INSERT INTO postings (room_id, token, at, seq) VALUES ({PAIR}, 'x', 1, 77)",
    "hidden": f"INSERT INTO hidden (user_id, room_id, seq) VALUES ({BOB}, {PAIR}, 77)",
    "contact": f"UPDATE contacts SET state = 'asked' WHERE user_id = {BOB} AND state = 'friend'",
    "membership": f"UPDATE members SET role = 'admin' WHERE room_id = {TEAM} AND user_id = {BOB}",
    "dissolved": "UPDATE rooms SET dissolved_at = NULL WHERE name = 'gone'",
    "mute": f"UPDATE mutes SET until = until + 1 WHERE room_id = {TEAM}",
    "reactions": f"DELETE FROM reactions WHERE room_id = {TEAM}",
}
"""What each class of difference is found of."""


class _Undo(Exception):
    """Ends a transaction that is not to be."""


def _leaving(room: Room, user: Party) -> Callable[[Any, int], None]:
    return lambda db, _: membership.leave(db, room.id, user.id)


class Fsck(Contract):
    """The database against its logs."""

    async def busy(self) -> None:
        """A database in which everything has happened."""
        node = self.node()
        alice, bob, carol = (self.user(name) for name in ("alice", "bob", "carol"))
        team, gone, closed = (self.group(alice, name) for name in ("team", "gone", "closed"))
        self.db.run("UPDATE rooms SET history = 'joined' WHERE id = ?", (closed.id,))
        pair, inbox = self.pair(alice, bob), self.pair(alice, alice)
        for room in (team, gone, closed):
            for user in (bob, carol):
                await self._join(node, room, user)
        for room in (team, closed, pair, inbox):
            for text in "one", "two", "three":
                await node.append(self.draft(room, alice, text))
        await node.append(self.draft(team, bob, "mine"))
        for user, room in ((bob, closed), (carol, team)):
            await self._do(node, room, user, "left", {}, _leaving(room, user))
        await self._join(node, closed, bob)
        kicked = {"user": "carol"}
        await self._do(node, closed, alice, "kicked", kicked, _leaving(closed, carol))
        await self._join(node, team, carol)
        await self._appoint(node, team, alice, carol, "admin")
        await self._do(
            node,
            gone,
            alice,
            "dissolved",
            {},
            lambda db, _: groups.dissolve(db, gone.id, alice.id, NOW),
        )
        await self._mute(node, team, alice, bob)
        await self._appoint(node, closed, alice, bob, "owner")
        await node.append(self.draft(closed, alice, "after"))
        await node.advance(Cursor(bob.id, pair.id, 3, 2))
        await node.advance(Cursor(carol.id, team.id, 6, 4))
        await node.write(places.clear, pair.id, bob.id, 1)
        await node.write(places.mark, team.id, bob.id)
        await node.write(places.prefer, team.id, bob.id, NOW, "none", True)
        self._extras(team, alice, bob)
        for one, other, state in ((carol, bob, "asked"), (bob, carol, "refused")):
            self._contact(one, other, state)

    def _extras(self, team: Room, alice: Party, bob: Party) -> None:
        row = (team.id, self.single(f"SELECT {ONE_OF_TEAM}"))
        self.db.run("INSERT INTO mentions (room_id, seq, user_id) VALUES (?, ?, 0)", row)
        self.db.run("INSERT INTO reactions VALUES (?, ?, '+', ?, 1)", (*row, alice.id))
        body = json.dumps({"text": "x", "reactions": [{"emoji": "+", "count": 1}]})
        body = body.replace('": ', '":')
        self.db.run("UPDATE entries SET body = ? WHERE room_id = ? AND seq = ?", (body, *row))
        self.db.run("INSERT INTO pins (room_id, seq, by_id, at) VALUES (?, ?, 1, 1)", row)
        self.db.run("INSERT INTO hidden (room_id, seq, user_id) VALUES (?, ?, ?)", (*row, alice.id))
        for one, other in ((alice, bob), (bob, alice)):
            self._contact(one, other, "friend")

    def _contact(self, one: Party, other: Party, state: str) -> None:
        self.db.run(
            "INSERT INTO contacts (user_id, other_id, state) VALUES (?, ?, ?)",
            (one.id, other.id, state),
        )

    async def _join(self, node: Node, room: Room, user: Party) -> None:
        await self._do(
            node,
            room,
            user,
            "joined",
            {},
            lambda db, seq: membership.join(db, room.id, user.id, seq),
        )

    async def _appoint(self, node: Node, room: Room, by: Party, user: Party, role: str) -> None:
        sql = "UPDATE members SET role = ? WHERE room_id = ? AND user_id = ?"

        def effect(db: Connection, _: int) -> None:
            db.run(sql, (role, room.id, user.id))
            if role == "owner":
                db.run(sql, ("admin", room.id, by.id))

        body = {"user": user.name, "role": role}
        await self._do(node, room, by, "appointed", body, effect)

    async def _mute(self, node: Node, room: Room, by: Party, user: Party) -> None:
        sql = "INSERT INTO mutes (room_id, user_id, until) VALUES (?, ?, ?)"
        await self._do(
            *(node, room, by, "muted", {"user": user.name, "until": LATER + HOUR}),
            lambda db, _: db.run(sql, (room.id, user.id, LATER + HOUR)),
        )

    async def _do(
        self, node: Node, room: Room, by: Party, kind: str, body: dict[str, Any], effect: Any
    ) -> None:
        await node.append(self.draft(room, by, "", "", kind, effect, json.dumps(body)))

    def found(self) -> set[str]:
        """The classes of the differences."""
        return {each.check for each in differences(self.db, LATER)}

    async def test_clean(self) -> None:
        """A busy database has no differences, nor has an empty one."""
        self.assertEqual(list(differences(self.db, LATER)), [])
        await self.busy()
        self.assertEqual(list(differences(self.db, LATER)), [])

    async def test_damage(self) -> None:
        """Each kind of damage is found under its name, and is gone when it is mended."""
        self.assertEqual(set(fsck._CHECKS) - set(DAMAGE), set())
        await self.busy()
        for check, sql in DAMAGE.items():
            with contextlib.suppress(_Undo), self.db.transaction():
                self.assertTrue(self.db.run(sql), check)
                found = self.found()
                self.assertIn(check, found, found)
                raise _Undo
        self.assertEqual(self.found(), set())

    def test_members_one_by_one(self) -> None:
        """A member too many, one too few and one since another entry are each told, with the
        group and the seq."""
        owner, bob, carol = self.users(3)
        team = self.group(owner)
        self.say(team, bob, "")
        self.db.run("UPDATE entries SET kind = 'joined' WHERE room_id = ? AND seq = 2", (team.id,))
        for user, seq, expected in (
            (bob, 2, []),
            (bob, 1, [(team.id, 1)]),
            (carol, 2, [(team.id, 2), (team.id, 2)]),
        ):
            self.db.run("DELETE FROM members WHERE user_id <> ?", (owner.id,))
            self.db.run(
                "INSERT INTO members (user_id, room_id, role, joined_seq)"
                " VALUES (?, ?, 'member', ?)",
                (user.id, team.id, seq),
            )
            found = [each for each in differences(self.db, NOW) if each.check == "membership"]
            self.assertEqual([(each.room, each.seq) for each in found], expected)

    def test_first_gap(self) -> None:
        """A gap in a log is told with the first seq that is missing."""
        room = self.inbox()
        user = room.other(0)
        self.say(room, user, *"12345")
        for seq, expected in ((4, 4), (3, 3), (1, 1)):
            self.db.run("DELETE FROM entries WHERE room_id = ? AND seq = ?", (room.id, seq))
            found = [(each.check, each.seq) for each in differences(self.db, NOW)]
            self.assertEqual(found, [("numbering", expected)])

    def test_unread(self) -> None:
        """What the list of rooms would say wrongly is found."""
        one, other = self.users(2)
        room = self.pair(one, other)
        self.say(room, one, "1", "2", "3")
        self.patch(overview, "_UNREAD", overview._UNREAD.replace("e.sender_id <> ?", "0 <> ?"))
        found = [(each.check, each.room, each.what) for each in differences(self.db, NOW)]
        self.assertEqual(found, [("unread", room.id, f"user {one.id}: 3, not 0")])

    def test_pages(self) -> None:
        """More changes than are read at once are all played."""
        self.patch(replays, "_PAGE", 3)
        owner, *others = self.users(8)
        team, second = self.group(owner), self.group(owner)
        for room in (team, second):
            for number, user in enumerate(others, 2):
                self.say(room, user, "")
                rooms.add_member(self.db, room.id, user.id, "member", number)
        self.db.run("UPDATE entries SET kind = 'joined' WHERE kind = 'message'")
        self.assertEqual(list(differences(self.db, NOW)), [])

    def test_bounded(self) -> None:
        """Of a class a thousand are told."""
        room = self.inbox()
        rows = [(room.id, 0, seq) for seq in range(MOST + 5)]
        with self.db.transaction():
            self.db.many("INSERT INTO mentions (room_id, user_id, seq) VALUES (?, ?, ?)", rows)
        self.assertEqual(len(list(differences(self.db, NOW))), MOST)

    def test_one_moment(self) -> None:
        """While it looks, others write, and it sees nothing of that."""
        room = self.inbox()
        user = room.other(0)
        self.say(room, user, "1")
        reader = self.connect()
        with reader.snapshot():
            before = reader.all("SELECT COUNT(*) FROM entries")
            self.say(room, user, "2")
            self.assertEqual(reader.all("SELECT COUNT(*) FROM entries"), before)

    def chatctl(self, *words: str) -> tuple[int, str]:
        """What `chatctl fsck` returns and prints."""
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            status = chatctl.main(["--store", _text(self.url), "fsck", *words])
        return status, printed.getvalue()

    async def test_chatctl(self) -> None:
        """The program tells and returns whether there are differences."""
        await self.busy()
        self.assertEqual(self.chatctl(), (0, "The database agrees with its logs.\n"))
        self.assertEqual(self.chatctl("--json"), (0, "[]\n"))
        self.db.run(DAMAGE["cursor"])
        status, printed = self.chatctl("--json")
        (found,) = json.loads(printed)
        room_id = self.single(f"SELECT {PAIR}")
        self.assertEqual((status, found["check"]), (1, "cursor"))
        self.assertEqual((found["room"], found["seq"]), (room_id, 99))
        status, printed = self.chatctl()
        self.assertEqual((status, printed.split()[:4]), (1, ["CHECK", "ROOM", "SEQ", "WHAT"]))
        self.assertIn("cursor", printed)


def _text(url: StoreURL) -> str:
    if url.kind == "sqlite":
        return f"sqlite:///{url.path}"
    return f"mysql://{url.user}:{url.password}@/{url.database}?unix_socket={url.unix_socket}"


class FsckOnSQLite(Fsck, SQLiteCase):
    """On SQLite."""


class FsckOnMariaDB(Fsck, MariaDBCase):
    """On MariaDB."""

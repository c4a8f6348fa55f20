"""The contract of the list of rooms, the same on SQLite and on MariaDB."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

from chatd.model import Party, Room
from chatd.store import places, rooms
from chatd.store.connection import Connection
from chatd.store.overview import Overview, counted, overview, totals
from chatd.store.rooms import Cursor
from tests.stores import NOW, MariaDBCase, SQLiteCase

if TYPE_CHECKING:
    from tests.stores import StoreCase as Contract
else:
    Contract = object


class Effort(Contract):
    """What the list costs."""

    def many(self, me: Party, count: int, entries: int = 3) -> list[Room]:
        """So many rooms, some of each kind, in which others have said so much."""
        other = self.user()
        groups = [self.group(other) for _ in range(count // 2)]
        with self.db.transaction():
            pairs = [self.pair(me, self.user()) for _ in range(count - len(groups))]
            for room in groups:
                rooms.add_member(self.db, room.id, me.id, "member", 1)
                self.say(room, other, *"x" * entries)
            for room in pairs:
                self.say(room, room.other(me.id), *"x" * entries)
        return groups + pairs

    def statements(self, work: Callable[[], object]) -> int:
        """How many statements some work on `db` needs."""
        seen: list[str] = []
        ask = self.db.dialect.sql

        def note(sql: str) -> str:
            seen.append(sql)
            return ask(sql)

        watched = dataclasses.replace(self.db.dialect, sql=note)
        self.db, mine = Connection(self.db._raw, watched), self.db
        work()
        self.db = mine
        return len(seen)

    def test_statements(self) -> None:
        """A page costs as many statements for ten rooms as for a hundred, whatever is wished of
        them, and the totals of a thousand rooms few."""
        few, many = self.users(2)
        for user, count in ((few, 10), (many, 100)):
            for room in self.many(user, count):
                places.prefer(self.db, room.id, user.id, NOW, "all", True)
                self.db.run(
                    "INSERT INTO hidden (user_id, room_id, seq)"
                    " SELECT ?, room_id, MAX(seq) FROM entries WHERE room_id = ? GROUP BY room_id",
                    (user.id, room.id),
                )
                self.say(room, self.user(), "news")
                self.db.run("UPDATE cursors SET archived_seq = 1 WHERE user_id = ?", (user.id,))
        one = self.statements(lambda: overview(self.db, few.id))
        self.assertEqual(self.statements(lambda: overview(self.db, many.id)), one)
        self.assertLessEqual(one, 8)

    def test_a_thousand(self) -> None:
        """A thousand rooms are listed and counted with few statements, and each adds as much as
        in a short list."""
        me = self.user()
        self.many(me, 100)
        short = self.effort(lambda: overview(self.db, me.id, limit=50))
        self.many(me, 900)
        self.assertLessEqual(self.statements(lambda: overview(self.db, me.id, limit=200)), 7)
        self.assertLessEqual(self.statements(lambda: totals(self.db, me.id)), 13)
        self.assertLess(self.effort(lambda: overview(self.db, me.id, limit=50)), 10 * short)
        self.assertEqual(totals(self.db, me.id).unread, 3000)

    def test_long_logs(self) -> None:
        """A long log that was read or cleared costs no more than a short one."""
        other = self.user()
        inboxes = {}
        for entries in (10, 1000):
            user = self.user()
            room = self.pair(user, other)
            with self.db.transaction():
                self.say(room, other, *["x"] * entries)
            places.clear(self.db, room.id, user.id, entries)
            inboxes[entries] = user.id
        short, long = (
            self.effort(lambda u=user_id: overview(self.db, u))  # type: ignore[misc]
            for user_id in inboxes.values()
        )
        self.assertLess(long, short + 100)


class Counts(Contract):
    """What is unread."""

    def _of(self, user: Party, room: Room) -> Overview:
        (found,) = (each for each in overview(self.db, user.id) if each.progress.room == room)
        return found

    def test_hidden_and_recalled(self) -> None:
        """Hidden and recalled messages are not unread; a hidden one of one's own, or before the
        read cursor, takes nothing away."""
        me, other = self.users(2)
        room = self.pair(me, other)
        self.say(room, other, "1", "2", "3", "4")
        self.say(room, me, "5")
        for seq, expected in ((1, 3), (5, 3), (4, 2)):
            self.db.run(
                "INSERT INTO hidden (user_id, room_id, seq) VALUES (?, ?, ?)",
                (me.id, room.id, seq),
            )
            self.assertEqual(self._of(me, room).unread, expected)
        self.db.run("UPDATE entries SET kind = 'erased' WHERE seq = 2")
        self.assertEqual(self._of(me, room).unread, 1)
        rooms.advance(self.db, [Cursor(me.id, room.id, 2, 2)])
        self.assertEqual(self._of(me, room).unread, 1)
        self.assertEqual(self._of(other, room).unread, 1)

    def test_floor(self) -> None:
        """What was before joining is not unread where the cursor stands before it."""
        me, other = self.users(2)
        room = self.group(other)
        self.say(room, other, "2", "3")
        rooms.add_member(self.db, room.id, me.id, "member", 3)
        self.db.run("DELETE FROM cursors WHERE user_id = ?", (me.id,))
        for history, expected in (("all", 2), ("joined", 1)):
            self.db.run("UPDATE rooms SET history = ?", (history,))
            self.assertEqual(self._of(me, room).unread, expected)
            self.assertEqual([each.unread for each in counted(self.db, me.id)], [expected])

    def test_mentions_from_long_ago(self) -> None:
        """Mentions are counted beyond the last thousand entries."""
        me, other = self.users(2)
        room = self.pair(me, other)
        with self.db.transaction():
            self.say(room, other, *["x"] * 1005)
        self.db.run("INSERT INTO mentions VALUES (?, ?, 1)", (room.id, me.id))
        found = self._of(me, room)
        self.assertEqual((found.unread, found.mentions), (1000, 1))


class OverviewOnSQLite(Effort, Counts, SQLiteCase):
    """The contract on SQLite."""


class OverviewOnMariaDB(Effort, Counts, MariaDBCase):
    """The contract on MariaDB."""

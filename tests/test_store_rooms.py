"""The contract of rooms, members and cursors, the same on SQLite and on MariaDB."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, gatherResults

from chatd.errors import Refused
from chatd.model import Party, Room
from chatd.store import accounts, groups, membership, rooms
from chatd.store.groups import NewGroup
from chatd.store.overview import overview
from chatd.store.rooms import Cursor, Progress
from tests.stores import NOW, MariaDBCase, SQLiteCase

if TYPE_CHECKING:
    from tests.stores import StoreCase as Contract
else:
    Contract = object


class Finding(Contract):
    """Rooms are found by what addresses them."""

    def test_pair(self) -> None:
        """Two users have one direct room, whoever asks; the smaller id is `low`."""
        one, other = self.users(2)
        room = rooms.make_pair(self.db, other, one, NOW)
        self.assertEqual((room.kind, room.low, room.high), ("direct", one, other))
        self.assertEqual(rooms.make_pair(self.db, one, other, NOW + 1), room)
        self.assertEqual(rooms.find_pair(self.db, one, other), room)
        self.assertEqual(rooms.find_pair(self.db, other, one), room)
        self.assertEqual(self.single("SELECT created_at FROM rooms"), NOW)

    def test_no_pair_yet(self) -> None:
        """Users who never spoke have no room, and asking makes none."""
        one, other, third = self.users(3)
        rooms.make_pair(self.db, one, third, NOW)
        rooms.make_pair(self.db, one, one, NOW)
        self.assertIsNone(rooms.find_pair(self.db, one, other))
        self.assertIsNone(rooms.find_pair(self.db, other, other))
        self.assertEqual(self.single("SELECT COUNT(*) FROM rooms"), 2)

    def test_inbox(self) -> None:
        """A user's room with himself is his inbox."""
        user = self.user()
        room = rooms.make_pair(self.db, user, user, NOW)
        self.assertEqual((room.kind, room.low, room.high), ("inbox", user, user))
        self.assertEqual(rooms.find_pair(self.db, user, user), room)

    async def test_pair_raced(self) -> None:
        """Two nodes that make the same room at the same time make one."""
        nodes, users = [self.node(), self.node()], self.users(4)
        pairs = [(one, other) for one in users for other in users for _ in range(2)]
        made = await gatherResults(
            node.write(rooms.make_pair, *pair, NOW) for pair in pairs for node in nodes
        )
        self.assertEqual(len({room.id for room in made}), 10)
        self.assertEqual(self.single("SELECT COUNT(*) FROM rooms"), 10)
        for room, (one, other) in zip(made[::2], pairs, strict=True):
            self.assertEqual({room.low, room.high}, {one, other})

    def test_group(self) -> None:
        """A group is found by its name in any case, and shown as it was made."""
        owner = self.user()
        room = groups.make_group(self.db, NewGroup("Größe", "A title"), owner, b"\0k", NOW)
        self.assertEqual(room, Room(room.id, "group", "Größe", "A title"))
        for name in ("Größe", "GRÖSSE", "grösse"):
            self.assertEqual(rooms.find_group(self.db, name), room)
        self.assertIsNone(rooms.find_group(self.db, "grosse"))
        self.assertEqual(
            self.single("SELECT kind FROM entries WHERE room_id = ?", room.id), "created"
        )
        self.assertEqual(self.seqs(room), [1])
        self.assertEqual(self.roles(room), {owner.name: "owner"})

    def test_group_twice(self) -> None:
        """A second group of a name is refused and leaves nothing; a repeat of the first one's
        making, after its answer was lost, finds it."""
        owner, other = self.users(2)
        room = groups.make_group(self.db, NewGroup("club"), owner, b"\0k1", NOW)
        with self.assertRaises(Refused) as caught:
            groups.make_group(self.db, NewGroup("CLUB"), other, b"\0k2", NOW)
        self.assertEqual(caught.exception.code, "exists")
        self.assertEqual(groups.make_group(self.db, NewGroup("club"), owner, b"\0k1", NOW), room)
        self.assertEqual(self.single("SELECT COUNT(*) FROM rooms"), 1)
        self.assertEqual(self.single("SELECT COUNT(*) FROM entries"), 1)
        self.assertEqual(self.single("SELECT COUNT(*) FROM members"), 1)

    async def test_group_raced(self) -> None:
        """Of many who make a group of one name at the same time, one does."""
        nodes, users = [self.node(connections=4), self.node(connections=4)], self.users(8)

        async def make(node: Any, owner: Party) -> str:
            key = b"\0%d" % owner.id
            try:
                await node.write(groups.make_group, NewGroup("club"), owner, key, NOW)
            except Refused as refused:
                return refused.code
            return "made"

        outcomes = [make(node, user) for node, user in zip(nodes * 4, users, strict=True)]
        found = await gatherResults(map(Deferred.fromCoroutine, outcomes))
        self.assertEqual(sorted(found), ["exists"] * 7 + ["made"])
        self.assertEqual(self.single("SELECT COUNT(*) FROM members"), 1)


class Belonging(Contract):
    """Members come, go, and are listed."""

    def test_pages(self) -> None:
        """Members are listed by name in pages, whatever the script, and the name to begin
        behind may be in any case and need not be there."""
        names = ["Anna", "bob", "李雷", "韩梅梅", "zoë", "王小明", "Ωmega", "Дима"]
        owner = self.user("owner")
        room = self.group(owner)
        for name in names:
            rooms.add_member(self.db, room.id, self.user(name).id, "member", 2)
        everybody = [
            member.party.name for member in groups.members(self.db, room.id, 0, NOW, "", 100)
        ]
        expected = sorted([*names, "owner"], key=lambda name: name.casefold())
        self.assertEqual(everybody, expected)
        paged: list[str] = []
        while page := groups.members(self.db, room.id, 0, NOW, paged[-1] if paged else "", 2):
            paged += [member.party.name for member in page]
        self.assertEqual(paged, expected)
        behind = groups.members(self.db, room.id, 0, NOW, "ANNA", 1)
        self.assertEqual([member.party.name for member in behind], ["bob"])
        behind = groups.members(self.db, room.id, 0, NOW, "c", 1)
        self.assertEqual([member.party.name for member in behind], ["owner"])
        self.assertEqual(groups.members(self.db, room.id, 0, NOW, "龘", 10), [])

    def test_roles(self) -> None:
        """A list of members tells their roles, and holds one group's members alone."""
        owner, other = self.user("a"), self.user("b")
        room, elsewhere = self.group(owner), self.group(other)
        membership.join(self.db, room.id, other.id, 2)
        self.assertEqual(self.roles(room), {"a": "owner", "b": "member"})
        self.assertEqual(self.roles(elsewhere), {"b": "owner"})

    def test_memberships(self) -> None:
        """A user's memberships are the groups that stand, with the roles in them."""
        one, other = self.users(2)
        mine, theirs, gone = self.group(one), self.group(other), self.group(one)
        membership.join(self.db, theirs.id, one.id, 2)
        groups.dissolve(self.db, gone.id, one.id, NOW)
        found = accounts.memberships(self.db, {one.id, other.id, 2**40})
        roles = {
            user: {member.room: member.standing.role for member in members}
            for user, members in found.items()
        }
        self.assertEqual(
            roles, {one.id: {mine: "owner", theirs: "member"}, other.id: {theirs: "owner"}}
        )
        self.assertEqual(accounts.memberships(self.db, set()), {})

    def test_leaving(self) -> None:
        """Who left is no member any more, in that group alone."""
        owner, user = self.users(2)
        room, other = self.group(owner), self.group(owner)
        for group in (room, other):
            membership.join(self.db, group.id, user.id, 2)
        membership.leave(self.db, room.id, user.id)
        self.assertEqual(self.roles(room), {owner.name: "owner"})
        self.assertEqual(len(self.roles(other)), 2)

    def test_refusals(self) -> None:
        """Leaving a group one is not in, leaving one's own, joining twice and joining what is
        not there are refused, each with its code."""
        owner, user = self.users(2)
        room = self.group(owner)
        membership.join(self.db, room.id, user.id, 2)
        for expected, step in (
            ("exists", lambda: membership.join(self.db, room.id, user.id, 3)),
            ("exists", lambda: membership.join(self.db, room.id, owner.id, 3)),
            ("conflict", lambda: membership.leave(self.db, room.id, owner.id)),
            ("not-a-member", lambda: membership.leave(self.db, room.id, 2**40)),
            ("not-found", lambda: membership.join(self.db, 2**40, user.id, 3)),
            ("not-found", lambda: groups.dissolve(self.db, 2**40, owner.id, NOW)),
        ):
            with self.assertRaises(Refused) as caught:
                step()
            self.assertEqual(caught.exception.code, expected)


class Cursors(Contract):
    """How far users have got."""

    def _cursor(self, user: Party, room: Room) -> tuple[int, int]:
        for here in rooms.progress(self.db, user.id, dissolved=True):
            if here.room == room:
                return here.delivered, here.read
        raise LookupError(room)

    def test_never_back(self) -> None:
        """A cursor moves forward and never back, each of the two by itself."""
        one, other = self.users(2)
        room = self.pair(one, other)
        self.assertEqual(self._cursor(one, room), (0, 0))
        for delivered, read, expected in (
            (5, 0, (5, 0)),
            (3, 0, (5, 0)),
            (4, 3, (5, 3)),
            (9, 1, (9, 3)),
            (0, 0, (9, 3)),
            (9, 9, (9, 9)),
        ):
            rooms.advance(self.db, [Cursor(one.id, room.id, delivered, read)])
            self.assertEqual(self._cursor(one, room), expected)
        self.assertEqual(self._cursor(other, room), (0, 0))

    def test_read_is_delivered(self) -> None:
        """What was read was delivered."""
        user = self.user()
        room = self.pair(user, user)
        rooms.advance(self.db, [Cursor(user.id, room.id, 0, 7)])
        self.assertEqual(self._cursor(user, room), (7, 7))

    async def test_many_at_once(self) -> None:
        """Cursors that move together, some of them twice and out of order, end up furthest."""
        node, users = self.node(), self.users(5)
        targets = [self.pair(one, other) for one in users for other in users]
        moves = [
            Cursor(user.id, room.id, delivered, read)
            for room in targets
            for user in {room.low, room.high}
            if user
            for delivered, read in ((3, 1), (9, 2), (5, 4))
        ]
        await gatherResults([node.advance(move) for move in moves])
        for room in targets:
            for user in (room.low, room.high):
                assert user
                self.assertEqual(self._cursor(user, room), (9, 4))

    async def test_two_nodes(self) -> None:
        """Two nodes that move the same cursors at once leave the furthest."""
        nodes, users = [self.node(), self.node()], self.users(5)
        targets = [self.pair(one, users[0]) for one in users]
        for seq in range(1, 21):
            await gatherResults(
                node.advance(Cursor(users[0].id, room.id, seq * 2 - number, 0))
                for number, node in enumerate(nodes)
                for room in (targets if number else reversed(targets))
            )
        for room in targets:
            self.assertEqual(self._cursor(users[0], room), (40, 0))


class Lists(Contract):
    """A user's rooms."""

    def test_progress(self) -> None:
        """A user has his groups, his direct rooms and his inbox, each with its end and his own
        cursors, and nobody else's."""
        me, low, other = self.user("me"), self.user("a"), self.user("b")
        group, inbox = self.group(other, "club"), self.pair(me, me)
        direct, empty = self.pair(low, me), self.pair(me, other)
        not_mine = [self.pair(low, other), self.group(low, "others"), self.pair(low, low)]
        membership.join(self.db, group.id, me.id, 1)
        self.say(direct, low, "1", "2", "3")
        self.say(inbox, me, "note")
        for room in not_mine:
            self.say(room, low, "elsewhere")
        rooms.advance(self.db, [Cursor(me.id, direct.id, 2, 1), Cursor(low.id, direct.id, 3, 3)])
        found = {here.room.id: here for here in rooms.progress(self.db, me.id)}
        self.assertEqual(
            found,
            {
                group.id: Progress(group, 1, 1, 1),
                inbox.id: Progress(inbox, 1, 0, 0),
                direct.id: Progress(direct, 3, 2, 1),
                empty.id: Progress(empty, 0, 0, 0),
            },
        )
        self.assertEqual(rooms.progress(self.db, 2**40), [])

    def test_progress_names_each_room_once(self) -> None:
        """A room is listed once, the inbox too."""
        me, other = self.users(2)
        self.pair(me, me), self.pair(me, other), self.group(me)
        found = [here.room.id for here in rooms.progress(self.db, me.id)]
        self.assertEqual(len(found), 3)
        self.assertEqual(len(set(found)), 3)

    def test_dissolved(self) -> None:
        """A dissolved group is listed only where that is asked, so that its end is replayed."""
        owner, user = self.users(2)
        room = self.group(owner)
        membership.join(self.db, room.id, user.id, 1)
        groups.dissolve(self.db, room.id, owner.id, NOW)
        self.say(room, owner, "the end")
        self.assertEqual(rooms.progress(self.db, user.id), [])
        self.assertEqual(overview(self.db, user.id, 0), [])
        (here,) = rooms.progress(self.db, user.id, dissolved=True)
        self.assertEqual((here.room.id, here.end, here.delivered), (room.id, 2, 1))

    def _unread(self, user: Party) -> dict[int, int]:
        return {here.progress.room.id: here.unread for here in overview(self.db, user.id, 0)}

    def test_unread(self) -> None:
        """Unread are the messages of others after the read cursor; one's own never are."""
        one, other = self.users(2)
        room = self.pair(one, other)
        self.say(room, one, "1", "2")
        self.assertEqual((self._unread(one), self._unread(other)), ({room.id: 0}, {room.id: 2}))
        self.say(room, other, "3")
        self.assertEqual((self._unread(one), self._unread(other)), ({room.id: 1}, {room.id: 2}))
        rooms.advance(self.db, [Cursor(other.id, room.id, 3, 1)])
        self.assertEqual((self._unread(one), self._unread(other)), ({room.id: 1}, {room.id: 1}))
        rooms.advance(self.db, [Cursor(one.id, room.id, 3, 3), Cursor(other.id, room.id, 3, 3)])
        self.assertEqual((self._unread(one), self._unread(other)), ({room.id: 0}, {room.id: 0}))

    def test_unread_counts_messages_alone(self) -> None:
        """Joining and leaving are entries, but nobody has to read them."""
        one, other = self.users(2)
        room = self.group(one)
        membership.join(self.db, room.id, other.id, 2)
        self.say(room, other, "joined", "hello")
        self.db.run("UPDATE entries SET kind = 'joined' WHERE room_id = ? AND seq = 2", (room.id,))
        self.assertEqual(self._unread(one), {room.id: 1})

    def test_unread_in_long_rooms(self) -> None:
        """Unread are counted among a room's last thousand entries."""
        one, other = self.users(2)
        room = self.pair(one, other)
        with self.db.transaction():
            self.say(room, one, *["x"] * 1005)
        self.assertEqual(self._unread(other), {room.id: 1000})
        rooms.advance(self.db, [Cursor(other.id, room.id, 1000, 1000)])
        self.assertEqual(self._unread(other), {room.id: 5})

    def test_joining_reads_what_was_before(self) -> None:
        """Who joins, or comes back, has nothing unread or undelivered from before."""
        owner, user = self.users(2)
        room = self.group(owner)
        self.say(room, owner, "2", "3")
        membership.join(self.db, room.id, user.id, 4)
        self.say(room, user, "4")
        self.assertEqual(self._unread(user), {room.id: 0})
        self.say(room, owner, "5")
        self.assertEqual(self._unread(user), {room.id: 1})
        membership.leave(self.db, room.id, user.id)
        self.assertEqual(self._unread(user), {})
        self.say(room, owner, "6", "7")
        membership.join(self.db, room.id, user.id, 8)
        self.say(room, user, "8")
        self.assertEqual(self._unread(user), {room.id: 0})
        (here,) = rooms.progress(self.db, user.id)
        self.assertEqual((here.end, here.delivered, here.read), (8, 8, 8))

    def test_overview(self) -> None:
        """Rooms are listed with their last entries, latest first; `since` leaves out those
        where nothing was said from that time on."""
        me, other, third = self.user("me"), self.user("b"), self.user("c")
        early, late, empty = self.pair(me, other), self.pair(me, third), self.pair(me, me)
        self.say(early, other, "1", "2")
        self.say(late, me, "3")
        found = overview(self.db, me.id, 0)
        self.assertEqual([here.progress.room for here in found], [late, early, empty])
        first, second, last = (here.last for here in found)
        assert first and second
        self.assertIsNone(last)
        self.assertEqual((second.seq, second.body, second.to), (2, {"text": "2"}, "@me"))
        for since, expected in ((first.at, [late]), (second.at, [late, early]), (first.at + 1, [])):
            listed = overview(self.db, me.id, since)
            self.assertEqual([here.progress.room for here in listed], expected)

    def test_long_logs(self) -> None:
        """Listing rooms costs no more when their logs are long."""
        few, many = self.users(2)
        for user, entries in ((few, 10), (many, 1000)):
            inbox = self.pair(user, user)
            group = self.group(user)
            with self.db.transaction():
                for room in (inbox, group):
                    self.say(room, user, *["x"] * entries)
        short = self.effort(lambda: rooms.progress(self.db, few.id))
        long = self.effort(lambda: rooms.progress(self.db, many.id))
        self.assertLess(long, short + 100)


class RoomsOnSQLite(Finding, Belonging, Cursors, Lists, SQLiteCase):
    """The contract on SQLite."""


class RoomsOnMariaDB(Finding, Belonging, Cursors, Lists, MariaDBCase):
    """The contract on MariaDB."""

"""What happens at the same moment in a group ends in one consistent state, on SQLite and on
MariaDB; and how much work a large group is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import replace
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater

from chatd.errors import Refused
from chatd.model import Party, Role, Room
from chatd.store import accounts, groups, invitations, membership, presence, rooms
from chatd.store.groups import NewGroup
from chatd.store.log import Draft
from chatd.store.membership import Most
from tests.stores import HOUR, NOW, Held, MariaDBCase, Node, SQLiteCase, Wire

if TYPE_CHECKING:
    from tests.stores import StoreCase as Contract
else:
    Contract = object

Step = Callable[[Node], Awaitable[Any]]


class World(Struct):
    """A group with an owner, an admin and a member; somebody else, and the inbox of that one."""

    room: Room
    owner: Party
    admin: Party
    member: Party
    other: Party
    inbox: Room


class Races(Contract):
    """Two steps on two nodes: the first is about to commit when the second comes."""

    timeout = 60

    def world(self, **settings: Any) -> World:
        """A world with a group of such settings."""
        owner, admin, member, other = self.users(4)
        number = next(self.numbers)
        new = NewGroup(f"group{number}", **settings)
        room = groups.make_group(self.db, new, owner, b"\0made%d" % number, NOW)
        self.enter(room, admin, "admin")
        self.enter(room, member)
        return World(room, owner, admin, member, other, self.pair(other, other))

    def enter(self, room: Room, user: Party, role: Role = "member") -> None:
        """Makes a user a member."""
        self.say(room, user, "joined")
        rooms.add_member(self.db, room.id, user.id, role, len(self.seqs(room)))

    # -- steps

    def step(self, draft: Draft) -> Step:
        return lambda node: node.append(draft)

    def joins(self, world: World, link: bytes = b"", most: Most = membership.UNLIMITED) -> Step:
        return self.joins_as(world, world.other, link, most)

    def joins_as(
        self, world: World, user: Party, link: bytes = b"", most: Most = membership.UNLIMITED
    ) -> Step:
        room = world.room
        return self.step(
            self.draft(
                room,
                user,
                effect=lambda db, seq: membership.join(db, room.id, user.id, seq, NOW, link, most),
            )
        )

    def leaves(self, world: World, user: Party) -> Step:
        room = world.room
        return self.step(
            self.draft(room, user, effect=lambda db, _: membership.leave(db, room.id, user.id))
        )

    def kicks(self, world: World, by: Party, user: Party, ban: bool = False) -> Step:
        room = world.room
        return self.step(
            self.draft(
                room,
                by,
                effect=lambda db, _: membership.kick(db, room.id, by.id, user, ban, NOW),
            )
        )

    def appoints(self, world: World, user: Party, role: Role) -> Step:
        room, by = world.room, world.owner
        return self.step(
            self.draft(
                room, by, effect=lambda db, _: membership.appoint(db, room.id, by.id, user, role)
            )
        )

    def approves(self, world: World, by: Party) -> Step:
        room, user = world.room, world.other
        return self.step(
            self.draft(
                room,
                user,
                effect=lambda db, seq: membership.approve(db, room.id, by.id, user.id, seq, NOW),
            )
        )

    def rejects(self, world: World, by: Party) -> Step:
        return self.by_inbox(
            world, lambda db, _: invitations.reject(db, world.room.id, by.id, world.other.id)
        )

    def invites(self, world: World, by: Party) -> Step:
        return self.by_inbox(
            world, lambda db, _: invitations.invite(db, world.room.id, by.id, world.other, NOW)
        )

    def asks(self, world: World) -> Step:
        return self.by_inbox(
            world, lambda db, _: invitations.ask(db, world.room.id, world.other.id, "", NOW)
        )

    def by_inbox(self, world: World, effect: Any) -> Step:
        draft = self.draft(world.inbox, world.other, effect=effect)
        return self.step(replace(draft, locks=(world.room.id,)))

    def declines(self, world: World) -> Step:
        return lambda node: node.write(invitations.decline, world.room.id, world.other.id)

    def dissolves(self, world: World) -> Step:
        room, owner = world.room, world.owner
        return self.step(
            self.draft(
                room, owner, effect=lambda db, _: groups.dissolve(db, room.id, owner.id, NOW)
            )
        )

    def asked(self, **settings: Any) -> World:
        """A world in which the other one asks to join."""
        world = self.world(entry="approval")
        invitations.ask(self.db, world.room.id, world.other.id, "", NOW)
        return world

    # -- running them

    async def outcome(self, waiting: Awaitable[Any]) -> Any:
        """ok, a refusal's code, or what a statement gave."""
        try:
            found = await waiting
        except Refused as refused:
            return refused.code
        return found if isinstance(found, bool) else "ok"

    async def blocked(self, waiting: Deferred[Any]) -> None:
        """Waits until a step waits for another one's end, as far as that can be seen."""
        await deferLater(reactor, 0)

    async def race(
        self,
        build: Callable[[], tuple[World, Step, Step]],
        one_first: tuple[Any, Any],
        other_first: tuple[Any, Any],
    ) -> World:
        """Runs two steps in both orders, then together; their outcomes are those of one of the
        orders. Gives the world in which the first came first."""
        wire = Wire()
        held, free = self.node(self.wired(wire)), self.node()
        world, one, other = build()
        self.assertEqual(await self._overlap(wire, held, free, one, other), one_first)
        self.check(world.room)
        turned, one, other = build()
        later, earlier = await self._overlap(wire, held, free, other, one)
        self.assertEqual((earlier, later), other_first)
        self.check(turned.room)
        for _ in range(3):
            mixed, one, other = build()
            both = [Deferred.fromCoroutine(self.outcome(step(node))) for step, node in
                    ((one, held), (other, free))]  # fmt: skip
            self.assertIn(tuple(await gatherResults(both)), (one_first, other_first))
            self.check(mixed.room)
        return world

    async def _overlap(
        self, wire: Wire, held: Node, free: Node, first: Step, second: Step
    ) -> tuple[Any, Any]:
        gate = Held(wire, "COMMIT")
        before = Deferred.fromCoroutine(self.outcome(first(held)))
        # A refused step has an end, too, but none that is held where it changed nothing.
        await gate.there
        after = Deferred.fromCoroutine(self.outcome(second(free)))
        await self.blocked(after)
        gate.go()
        return await before, await after

    def check(self, room: Room) -> None:
        """The group is as groups are."""
        roles = self.roles(room)
        self.assertEqual(list(roles.values()).count("owner"), 1)
        seqs = self.seqs(room)
        self.assertEqual(seqs, list(range(1, len(seqs) + 1)))
        pending = {
            table: {row[0] for row in self.db.all(
                f"SELECT user_id FROM {table} WHERE room_id = ?", (room.id,))}
            for table in ("members", "bans", "join_requests", "group_invitations")
        }  # fmt: skip
        inside, banned = pending["members"], pending["bans"]
        outside = pending["join_requests"] | pending["group_invitations"]
        self.assertFalse(inside & banned)
        self.assertFalse((inside | banned) & outside)
        self.assertEqual(self.db.all("SELECT 1 FROM links WHERE uses_left < 0"), [])

    # -- the races

    async def test_two_transfers(self) -> None:
        """Of two transfers by one owner, one is done."""

        def build() -> tuple[World, Step, Step]:
            world = self.world()
            return (
                world,
                self.appoints(world, world.admin, "owner"),
                self.appoints(world, world.member, "owner"),
            )

        world = await self.race(build, ("ok", "forbidden"), ("forbidden", "ok"))
        self.assertEqual(
            self.roles(world.room),
            {world.owner.name: "admin", world.admin.name: "owner", world.member.name: "member"},
        )

    async def test_owner_leaves_while_transferring(self) -> None:
        """An owner who transfers and leaves at once is out only after the transfer."""

        def build() -> tuple[World, Step, Step]:
            world = self.world()
            step = self.appoints(world, world.member, "owner")
            return world, step, self.leaves(world, world.owner)

        await self.race(build, ("ok", "ok"), ("ok", "conflict"))

    async def test_heir_leaves(self) -> None:
        """Who leaves while becoming the owner has left, or stays."""

        def build() -> tuple[World, Step, Step]:
            world = self.world()
            step = self.appoints(world, world.member, "owner")
            return world, step, self.leaves(world, world.member)

        await self.race(build, ("ok", "conflict"), ("not-found", "ok"))

    async def test_kicked_while_joining(self) -> None:
        """Who is kicked while joining is out, or was not in yet; a ban holds either way."""

        def build() -> tuple[World, Step, Step]:
            world = self.world()
            return world, self.joins(world), self.kicks(world, world.admin, world.other)

        def banning() -> tuple[World, Step, Step]:
            world = self.world()
            return world, self.joins(world), self.kicks(world, world.admin, world.other, True)

        world = await self.race(build, ("ok", "ok"), ("ok", "not-found"))
        self.assertNotIn(world.other.name, self.roles(world.room))
        world = await self.race(banning, ("ok", "ok"), ("forbidden", "ok"))
        self.assertNotIn(world.other.name, self.roles(world.room))

    async def test_approved_twice(self) -> None:
        """Of two who approve a request, one does."""

        def build() -> tuple[World, Step, Step]:
            world = self.asked()
            return world, self.approves(world, world.admin), self.approves(world, world.owner)

        await self.race(build, ("ok", "not-found"), ("not-found", "ok"))

    async def test_approved_and_rejected(self) -> None:
        """A request is approved or rejected, not both."""

        def build() -> tuple[World, Step, Step]:
            world = self.asked()
            return world, self.approves(world, world.admin), self.rejects(world, world.owner)

        world = await self.race(build, ("ok", "not-found"), ("not-found", "ok"))
        self.assertIn(world.other.name, self.roles(world.room))

    async def test_approved_and_taken_back(self) -> None:
        """A request is approved or taken back, not both."""

        def build() -> tuple[World, Step, Step]:
            world = self.asked()
            return world, self.approves(world, world.admin), self.declines(world)

        await self.race(build, ("ok", False), ("not-found", True))

    async def test_asked_twice(self) -> None:
        """A request made twice is one."""

        def build() -> tuple[World, Step, Step]:
            world = self.world(entry="approval")
            return world, self.asks(world), self.asks(world)

        await self.race(build, ("ok", "exists"), ("exists", "ok"))

    async def test_joined_twice(self) -> None:
        """An invitation taken twice makes one member."""

        def build() -> tuple[World, Step, Step]:
            world = self.world(entry="invited")
            invitations.invite(self.db, world.room.id, world.admin.id, world.other, NOW)
            return world, self.joins(world), self.joins(world)

        await self.race(build, ("ok", "exists"), ("exists", "ok"))

    async def test_last_use_of_a_link(self) -> None:
        """The last use of a link is one user's."""

        def build() -> tuple[World, Step, Step]:
            world, link = self.world(entry="invited"), b"link%d" % next(self.numbers)
            invitations.make_link(self.db, world.room.id, world.admin.id, link, 1, NOW, NOW + HOUR)
            return world, self.joins(world, link), self.joins_as(world, self.user(), link)

        await self.race(build, ("ok", "not-found"), ("not-found", "ok"))

    async def test_last_place(self) -> None:
        """The last place in a group is one user's."""

        def build() -> tuple[World, Step, Step]:
            world, most = self.world(), Most(members=4)
            other = self.joins_as(world, self.user(), most=most)
            return world, self.joins(world, most=most), other

        await self.race(build, ("ok", "too-large"), ("too-large", "ok"))

    async def test_demoted_admin_kicks(self) -> None:
        """An admin who is demoted kicks nobody any more."""

        def build() -> tuple[World, Step, Step]:
            world = self.world()
            step = self.appoints(world, world.admin, "member")
            return world, step, self.kicks(world, world.admin, world.member)

        await self.race(build, ("ok", "forbidden"), ("ok", "ok"))

    async def test_demoted_admin_rejects(self) -> None:
        """An admin who is demoted decides nothing any more, nor by an entry in another room."""

        def build() -> tuple[World, Step, Step]:
            world = self.asked()
            step = self.appoints(world, world.admin, "member")
            return world, step, self.rejects(world, world.admin)

        await self.race(build, ("ok", "forbidden"), ("ok", "ok"))

    async def test_invited_and_banned(self) -> None:
        """Who is banned while being invited is banned, and not invited."""

        def build() -> tuple[World, Step, Step]:
            world = self.world()
            step = self.invites(world, world.member)
            return world, step, self.kicks(world, world.admin, world.other, True)

        await self.race(build, ("ok", "ok"), ("forbidden", "ok"))

    async def test_joining_while_dissolving(self) -> None:
        """Nobody joins a group that is dissolved."""

        def build() -> tuple[World, Step, Step]:
            world = self.world()
            return world, self.joins(world), self.dissolves(world)

        await self.race(build, ("ok", "ok"), ("not-found", "ok"))

    async def test_dissolved_twice(self) -> None:
        """A group is dissolved once, and by its owner of the moment."""

        def build() -> tuple[World, Step, Step]:
            world = self.world()
            step = self.appoints(world, world.admin, "owner")
            return world, self.dissolves(world), step

        await self.race(build, ("ok", "not-found"), ("forbidden", "ok"))


class Size(Contract):
    """A large group is no more work than a small one."""

    def grown(self, how_many: int) -> tuple[Room, Party]:
        """A group of so many, and its owner."""
        owner = self.user()
        room = self.group(owner)
        first = self.user(f"a{how_many}").id
        with self.db.transaction():
            self.db.many(
                "INSERT INTO users (name, name_key, display, created_at) VALUES (?, ?, '', 0)",
                [(f"x{how_many}.{n}", f"x{how_many}.{n}") for n in range(how_many)],
            )
            self.db.run(
                "INSERT INTO members (user_id, room_id, role, joined_seq, name_key)"
                " SELECT id, ?, 'member', 1, name_key FROM users WHERE id > ?",
                (room.id, first),
            )
        return room, owner

    def test_effort(self) -> None:
        """Roles, kicks, mutes and pages of members read as much of a group of two thousand as of
        one of twenty; a join counts the members, and reads no more than that of each."""
        (small, one), (large, other) = self.grown(20), self.grown(2000)
        self.db.all("SELECT 1")
        work: dict[str, Callable[[Room, Party, Party], Any]] = {
            "page": lambda room, by, user: groups.members(self.db, room.id, 0, NOW, "x", 10),
            "who": lambda room, by, user: presence.members(self.db, by.id, room.id, "x", 10),
            "mute": lambda room, by, user: membership.mute(self.db, room.id, by.id, user, NOW),
            "role": lambda room, by, user: membership.appoint(
                self.db, room.id, by.id, user, "admin"
            ),
            "kick": lambda room, by, user: membership.kick(
                self.db, room.id, by.id, user, False, NOW
            ),
        }
        for name, run in work.items():
            efforts = []
            for room, by, size in ((small, one, 20), (large, other, 2000)):
                user = self._member(f"x{size}.7")
                efforts.append(self.effort(lambda: run(room, by, user)))  # noqa: B023
            self.assertLess(efforts[1], efforts[0] + 100, name)
        user = self.user()
        joining = self.effort(lambda: membership.join(self.db, large.id, user.id, 2))
        self.assertLess(joining, 2000 * 6 + 1000)

    def _member(self, name: str) -> Party:
        user = accounts.find_user(self.db, name)
        assert user is not None
        return user

    def test_links(self) -> None:
        """A group has a hundred links that are good, and no more; one made again is one."""
        owner = self.user()
        room = self.group(owner)
        for number in range(100):
            link = b"link%d" % number
            invitations.make_link(self.db, room.id, owner.id, link, 1, NOW, NOW + HOUR)
        invitations.make_link(self.db, room.id, owner.id, b"link7", 1, NOW, NOW + HOUR)
        with self.assertRaises(Refused) as caught:
            invitations.make_link(self.db, room.id, owner.id, b"more", 1, NOW, NOW + HOUR)
        self.assertEqual(caught.exception.code, "too-large")
        later = NOW + HOUR
        invitations.make_link(self.db, room.id, owner.id, b"more", 1, later, later + HOUR)

    def test_pages_of_a_role(self) -> None:
        """Pages hold every member once, by name, whatever the size of a page."""
        room, owner = self.grown(50)
        everybody = sorted(self.roles(room))
        paged: list[str] = []
        while page := groups.members(self.db, room.id, 0, NOW, paged[-1] if paged else "", 7):
            paged += [member.party.name for member in page]
        self.assertEqual(paged, everybody)
        (member,) = groups.members(self.db, room.id, 0, NOW, "", 7, "owner")
        self.assertEqual(member.party, owner)


class GroupsOnSQLite(Races, Size, SQLiteCase):
    """The contract on SQLite."""


class GroupsOnMariaDB(Races, Size, MariaDBCase):
    """The contract on MariaDB."""

    async def blocked(self, waiting: Deferred[Any]) -> None:
        other, waits = self.connect(), "Innodb_row_lock_current_waits"
        status = f"SHOW GLOBAL STATUS LIKE '{waits}'"
        while not waiting.called and other.all(status) == [(waits, "0")]:
            await deferLater(reactor, 0)

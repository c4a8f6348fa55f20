"""The statements about presence, the same on SQLite and on MariaDB."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chatd.model import Party
from chatd.store import accounts, groups, membership, presence
from chatd.store.accounts import Login
from tests.stores import NOW, MariaDBCase, SQLiteCase

if TYPE_CHECKING:
    from tests.stores import StoreCase as Contract
else:
    Contract = object


class People(Contract):
    """Users and what they are to each other."""

    def tie(self, one: Party, other: Party, state: str = "friend", blocked: int = 0) -> None:
        """What `one` thinks of the other."""
        self.db.run(
            "INSERT INTO contacts (user_id, other_id, state, blocked) VALUES (?, ?, ?, ?)",
            (one.id, other.id, state, blocked),
        )


class Audiences(People):
    """Who is to be told."""

    def test_audience(self) -> None:
        """Friends, but for those blocked, the open groups among one's groups, and all blocked."""
        one, two, friend, asked, enemy = self.users(5)
        for user in (one, two):
            self.tie(user, friend)
            self.tie(user, asked, "asked")
        self.tie(one, two, blocked=1)
        self.tie(one, enemy, "", blocked=1)
        self.tie(enemy, two)
        team, other = self.group(one), self.group(two)
        closed = self.group(one)
        membership.join(self.db, team.id, two.id, 2)
        found = presence.audience(self.db, [one.id, two.id], frozenset((team.id, other.id)))
        self.assertEqual(found.friends, {one.id: [friend.id], two.id: [friend.id]})
        self.assertEqual(found.blocked, {(one.id, two.id), (one.id, enemy.id)})
        self.assertEqual(found.groups[one.id], [team.id])
        self.assertCountEqual(found.groups[two.id], [team.id, other.id])
        self.assertNotIn(closed.id, found.groups[one.id])
        self.assertEqual(presence.audience(self.db, [one.id, two.id], frozenset()).groups, {})


class LastSeen(People):
    """What is kept."""

    def test_note_seen(self) -> None:
        """The times of very many are noted, each its own, and nobody else's."""
        with self.db.transaction():
            people = self.users(1100)
        seen = {user.id: NOW + n % 2 for n, user in enumerate(people[1:])}
        presence.note_seen(self.db, seen)
        kept: dict[int, int] = dict(self.db.all("SELECT id, seen_at FROM users"))
        self.assertEqual(kept, {people[0].id: 0, **seen})

    def test_invisible(self) -> None:
        """It is kept of one user, and a login of whatever kind tells it."""
        user, other = self.users(2)
        presence.set_invisible(self.db, user.id, True)
        issue, second, third = (accounts.digest(text) for text in "abc")
        logins = [
            Login(NOW, user_id=user.id, password="hash", issue=issue, expires=NOW + 9),
            Login(NOW, name=user.name, issue=second, expires=NOW + 9, device="web"),
            Login(NOW, user_id=other.id, password="hash", issue=third, expires=NOW + 9),
        ]
        known = accounts.log_in(self.db, logins)
        known += accounts.log_in(self.db, [Login(NOW, token=second)])
        found = [(a.user, a.invisible, a.device) for a in known if isinstance(a, accounts.Account)]
        self.assertEqual(
            found, [(user, True, ""), (user, True, "web"), (other, False, ""), (user, True, "web")]
        )
        presence.set_invisible(self.db, user.id, False)
        (account, *_) = known
        assert isinstance(account, accounts.Account)
        group = self.group(user)
        fresh = accounts.refreshed(self.db, account)
        self.assertFalse(fresh.invisible)
        self.assertEqual([member.room.id for member in fresh.memberships], [group.id])


class Views(People):
    """Who may see whom."""

    def test_by_name(self) -> None:
        """Friends, people in groups that stand, and those of a direct room are visible, whichever
        of the two is the older user; those who blocked one are not."""
        young = self.users(4)
        viewer = self.user("viewer")
        old = self.users(4)
        for friend, mate, partner, enemy in (young, old):
            self.tie(friend, viewer)
            group = self.group(mate)
            membership.join(self.db, group.id, viewer.id, 2)
            self.pair(viewer, partner)
            self.tie(enemy, viewer, "friend", blocked=1)
            self.tie(viewer, enemy)
            self.pair(viewer, enemy)
        stranger, asking, once = self.users(3)
        self.tie(asking, viewer, "asked")
        dissolved = self.group(once)
        membership.join(self.db, dissolved.id, viewer.id, 2)
        groups.dissolve(self.db, dissolved.id, once.id, NOW)
        everybody = [*young, viewer, *old, stranger, asking, once]
        names = [user.name.upper() for user in everybody]
        found = presence.by_name(self.db, viewer.id, [*names, "nobody"])
        self.assertEqual({known.id for known in found.values()}, {user.id for user in everybody})
        visible = {known.name for known in found.values() if known.visible}
        self.assertEqual(visible, {user.name for user in (*young[:3], *old[:3], viewer)})
        friends = {known.name for known in found.values() if known.friend}
        self.assertEqual(friends, {young[0].name, old[0].name})

    def test_members(self) -> None:
        """The members of a group come by name, page by page; those who blocked the viewer are
        there, and not visible."""
        viewer, friend, mate, enemy, other = (
            self.user(name) for name in ("Eve", "bob", "Carol", "dave", "alice")
        )
        group = self.group(viewer)
        for user in (friend, mate, enemy):
            membership.join(self.db, group.id, user.id, 2)
        self.group(other)
        self.tie(friend, viewer)
        self.tie(enemy, viewer, "", blocked=1)
        presence.note_seen(self.db, {mate.id: NOW})
        page = presence.members(self.db, viewer.id, group.id, "", 3)
        self.assertEqual(
            [(known.name, known.seen, known.visible, known.friend) for known in page],
            [("bob", 0, True, True), ("Carol", NOW, True, False), ("dave", 0, False, False)],
        )
        (last,) = presence.members(self.db, viewer.id, group.id, "Dave", 3)
        self.assertEqual((last.id, last.visible), (viewer.id, True))


class PresenceOnSQLite(Audiences, LastSeen, Views, SQLiteCase):
    """On SQLite."""


class PresenceOnMariaDB(Audiences, LastSeen, Views, MariaDBCase):
    """On MariaDB."""

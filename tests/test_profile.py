"""Profiles: one's own, another's, how people are found, and what a display name may be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.trial.unittest import SynchronousTestCase

from chatd import displays
from chatd.errors import Refused
from chatd.model import fold
from chatd.store import accounts, profiles
from chatd.store.profiles import LAST
from tests.stores import NOW, MariaDBCase, SQLiteCase
from tests.test_friends import People

if TYPE_CHECKING:
    from tests.stores import StoreCase as Contract
else:
    Contract = object

DEFAULTS = {
    "display": "",
    "status": "",
    "language": "",
    "writers": "everybody",
    "findable": True,
    "receipts": True,
}


class Displays(SynchronousTestCase):
    """What may be shown beside a name."""

    def test_kept(self) -> None:
        """Names of all scripts and emoji are kept, composed, without spaces at their ends."""
        for text in (
            *("", "Alice Liddell", "刘备 (玄德)", "Дима", "Zoë", "it's \\ 100%"),
            *("אליס", "علي", "نیم‌فاصله", "ক্‍ষ", "ไพลิน", "👩‍👩‍👧", "👩🏽‍🚒", "❤️", "👋🏽 hi"),
        ):
            self.assertEqual(displays.shown(text, 64), text)
        self.assertEqual(displays.shown("  Zoe\u0308 \u3000 X\u00a0", 64), "Zo\u00eb X")

    def test_refused(self) -> None:
        """What cannot be seen, or moves what stands around it, is refused."""
        for char in (
            *("\x00", "\x1b", "\x85", "\u00ad", "\u061c", "\u180e", "\u200b", "\u200c", "\u200d"),
            *("\u200e", "\u200f", "\u202a", "\u202e", "\u2060", "\u2066", "\u2069", "\ufeff"),
            *("\ufe0f", "\ufe00", "\u115f", "\u3164", "\uffa0", "\u2800", "\u034f", "\ue000"),
            *("\U000e0041", "\U000e0100", "\ud800", "\uffff", "e" + "\u0301\u0316" * 5),
        ):
            for text in (f"Al{char}ice", f"Alice{char}"):
                with self.assertRaises(Refused, msg=ascii(text)) as caught:
                    displays.shown(text, 64)
                self.assertEqual(caught.exception.code, "bad-request")
        for text in ("\u0301lice", "\u200dAlice", "\ufe0fAlice"):
            self.assertRaises(Refused, displays.shown, text, 64)

    def test_length(self) -> None:
        """It is the composed text that has to fit."""
        self.assertEqual(len(displays.shown("e\u0301" * 64, 64)), 64)
        self.assertRaises(Refused, displays.shown, "\u0958" * 64, 64)  # two characters each


class Mine(People):
    """One's own profile."""

    async def test_defaults(self) -> None:
        """Without parameters it is shown, and nothing happens."""
        alice = await self.user("alice")
        shown = await self.done(alice, "profile")
        del shown["reply"], shown["ok"]
        self.assertEqual(shown, {"user": "alice", **DEFAULTS})
        self.assertEqual(await self.inbox(alice, "alice"), [])

    async def test_changes(self) -> None:
        """What is given is changed, and told to one's own devices with no more than that."""
        alice, phone = await self.user("alice"), await self.user("alice")
        bob = await self.user("bob")
        wanted = {
            "display": " Alice  L. ",
            "status": "at the sea",
            "language": "zh-Hans",
            "writers": "friends",
            "findable": False,
            "receipts": False,
        }
        changed = await self.done(alice, "profile", **wanted)
        event = await phone.event()
        self.assertEqual((event["event"], event["seq"]), ("updated", changed["seq"]))
        wanted["display"] = "Alice L."
        for name, value in wanted.items():
            self.assertEqual((changed[name], event[name]), (value, value))
        await self.done(alice, "profile", status="back", receipts=False)
        event = await phone.event()
        self.assertEqual(
            set(event), {"event", "to", "from", "seq", "at", "status"}, "only what changed"
        )
        again = await self.done(alice, "profile", status="back")
        self.assertNotIn("seq", again)
        self.assertEqual(again["display"], "Alice L.")
        self.assertEqual(await self.inbox(alice, "alice"), ["updated", "updated"])
        card = await self.done(bob, "user", user="@ALICE")
        self.assertEqual((card["display"], card["status"]), ("Alice L.", "back"))
        await self.done(alice, "profile", display="", language="")
        self.assertNotIn("display", await self.done(bob, "user", user="alice"))

    async def test_bad(self) -> None:
        """What cannot be is refused, and changes nothing, the good beside it neither."""
        alice = await self.user("alice")
        for bad in (
            *({"display": "x" * 65}, {"display": "Al\u202eice"}, {"display": "a\nb"}),
            *({"status": "x" * 129}, {"status": "\u200b"}, {"language": "de_DE"}),
            *({"language": "x" * 17}, {"language": "-"}, {"writers": "nobody"}, {"findable": 2}),
        ):
            code = await self.code(alice, "profile", **{"receipts": False} | bad)
            self.assertEqual(code, "bad-request", bad)
        shown = await self.done(alice, "profile")
        self.assertTrue(shown["receipts"])

    async def test_register(self) -> None:
        """Nobody registers with a display name that he could not take later."""
        parameters = {"name": "eve", "password": "secret", "display": "Ali\u200bce"}
        self.assertEqual(await self.code(self.frames(), "register", **parameters), "bad-request")
        eve = await self.user("eve", display=" Eve ")
        self.assertEqual((await self.done(eve, "profile"))["display"], "Eve")

    async def test_lines(self) -> None:
        """At telnet a status takes the rest of the line."""
        alice = await self.user("alice", self.lines())
        (answer,) = await alice.answer("/profile Alice findable=false status=out to lunch")
        self.assertRegex(
            answer, r'^\+OK user=alice display=Alice status="out to lunch" language=""'
        )
        self.assertIn(" findable=false ", answer)

    async def test_nobody(self) -> None:
        """Of nobody there is no profile."""
        alice = await self.user("alice")
        self.assertEqual(await self.code(alice, "user", user="bob"), "not-found")


class Searching(People):
    """The search for users."""

    async def found(self, client: Any, text: str, **parameters: Any) -> list[str]:
        """The names that a search finds."""
        page = await self.done(client, "find", text=text, **parameters)
        return [each["user"] for each in page["users"]]

    async def test_names(self) -> None:
        """By two letters or a Chinese character one finds all names that begin so, by one letter a
        name that is no longer."""
        alice = await self.user("alice")
        for name in ("a", "Alfred", "al_x", "al.y", "alxz", "刘备", "刘禅", "李雷"):
            await self.user(name)
        everybody = ["al.y", "al_x", "Alfred", "alice", "alxz"]
        self.assertEqual(await self.found(alice, "@AL"), everybody)
        self.assertEqual(await self.found(alice, "al_"), ["al_x"])
        self.assertEqual(await self.found(alice, "A"), ["a"])
        self.assertEqual(await self.found(alice, "刘"), ["刘备", "刘禅"])
        self.assertEqual(await self.found(alice, "刘禅"), ["刘禅"])
        self.assertEqual(await self.found(alice, "zz"), [])
        for text in ("%", "al%", "a b", "x" * 33):
            self.assertEqual(await self.code(alice, "find", text=text), "bad-request")

    async def test_pages(self) -> None:
        """Many come in pages, none of them twice."""
        alice = await self.user("alice")
        names = [f"bo{n}" for n in range(5)]
        for name in names:
            await self.user(name)
        found: list[str] = []
        more = True
        while more:
            after = found[-1] if found else ""
            page = await self.done(alice, "find", text="bo", after=after, limit=2)
            self.assertLessEqual(len(page["users"]), 2)
            found += [each["user"] for each in page["users"]]
            more = page["more"]
        self.assertEqual(found, names)
        self.assertEqual(await self.found(alice, "bo", after="a"), names)
        self.assertEqual(await self.found(alice, "bo", after="c"), [])

    async def test_opted_out(self) -> None:
        """Who does not want to be found is found by friends alone, not by the whole name either;
        who is disabled by nobody."""
        alice, bob = await self.friends()
        carol = await self.user("carol")
        await self.done(bob, "profile", findable=False)
        for text in ("bo", "bob"):
            self.assertEqual(await self.found(carol, text), [])
            self.assertEqual(await self.found(alice, text), ["bob"])
        (card,) = (await self.done(alice, "find", text="bob"))["users"]
        self.assertEqual(card, {"user": "bob", "state": "friend"})
        await self.done(alice, "unfriend", user="bob")
        self.assertEqual(await self.found(alice, "bob"), [])
        await self.done(alice, "befriend", user="bob")
        self.assertEqual(await self.found(alice, "bob"), [], "a request makes no friend")
        found = await self.node.store.read(accounts.find_user, "carol")
        assert found is not None
        await self.node.store.write(accounts.disable, found.id, 0)
        self.assertEqual(await self.found(alice, "carol"), [])


class Store(Contract):
    """The statements, on each database."""

    def test_order(self) -> None:
        """A beginning finds all that begins so, whatever the script, and nothing else."""
        names = ["ab", "ab.", "ab_", "abz", "ab刘", "ab\U0002000b", "ac", "aa", "b"]
        users = [self.user(name) for name in names]
        found = profiles.find(self.db, users[0].id, "ab", "ab" + LAST, 99)
        expected = sorted((n for n in names if n.startswith("ab")), key=fold)
        self.assertEqual([card.user for card in found], expected)
        found = profiles.find(self.db, users[0].id, "ab", "ab", 99)
        self.assertEqual([card.user for card in found], ["ab"])

    def test_index(self) -> None:
        """A search reads no more than the names that begin so."""
        with self.db.transaction():
            for number in range(500):
                accounts.add_user(self.db, f"user{number}", "", "hash", NOW)
        me = self.user("me")
        parameters = (me.id, "user49", "user49" + LAST, 20)
        self.assertRegex(self.plan(profiles.FIND, parameters), "users_name_key|name_key>")
        few = self.effort(lambda: profiles.find(self.db, me.id, "user499", "user499" + LAST, 20))
        with self.db.transaction():
            for number in range(2000):
                accounts.add_user(self.db, f"more{number}", "", "hash", NOW)
        many = self.effort(lambda: profiles.find(self.db, me.id, "user499", "user499" + LAST, 20))
        self.assertLess(many, few + 50)

    def test_profile(self) -> None:
        """What is set is kept, of one user alone."""
        one, other = self.users(2)
        before = profiles.profile(self.db, other.id)
        profiles.change_profile(self.db, one.id, {"status": "it's 你好", "findable": False})
        mine = profiles.profile(self.db, one.id)
        self.assertEqual((mine.status, mine.findable, mine.receipts), ("it's 你好", False, True))
        self.assertEqual(profiles.profile(self.db, other.id), before)


class StoreOnSQLite(Store, SQLiteCase):
    """On SQLite."""


class StoreOnMariaDB(Store, MariaDBCase):
    """On MariaDB."""

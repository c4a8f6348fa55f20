"""Stories of what has arrived, what was read, and the list of rooms."""

from __future__ import annotations

from tests.people import Person, StoryCase


class Receipts(StoryCase):
    """What has arrived and was read."""

    async def test_arrived_and_read(self) -> None:
        """Ann sends. Bob's phone gets it: delivered. Bob reads it on the laptop: read; his badge
        is gone on both devices, and Ann sees each step."""
        ann, bob = await self.people("ann", "bob")
        phone = await self.device("bob", "phone")
        seq = await ann.says("@bob", "dinner?")
        await phone.sees("message", text="dinner?")
        await phone.does("delivered", to="@ann", seq=seq)
        await self.passes()
        if ann.live:
            await ann.sees("delivered", sender="bob", upto=seq)
        self.assertEqual(await self._receipts(ann, "@bob", seq), {"bob": False})
        self.assertEqual(await phone.badge("@ann"), (1, 0))
        await bob.does("read", to="@ann", seq=seq)
        await self.passes()
        if ann.live:
            await ann.sees("read", sender="bob", upto=seq)
        if phone.live:
            await phone.sees("read", sender="bob", upto=seq)
        self.assertEqual(await self._receipts(ann, "@bob", seq), {"bob": True})
        for device in (bob, phone):
            self.assertEqual(await device.badge("@ann"), (0, 0))
            self.assertEqual((await device.does("unread"))["unread"], 0)

    async def test_receipts_off(self) -> None:
        """Bob does not tell what he has read. Ann sees that it arrived, not that it was read;
        and he, who tells nothing, is told nothing of what she has read."""
        ann, bob = await self.people("ann", "bob")
        await bob.does("profile", receipts=False)
        seq = await ann.says("@bob", "did you see it?")
        await bob.does("read", to="@ann", seq=seq)
        answer = await bob.says("@ann", "see what?")
        await ann.does("read", to="@bob", seq=answer)
        await self.passes(2)
        await ann.has_not_seen("read", sender="bob")
        await bob.has_not_seen("read", sender="ann")
        self.assertNotIn(True, (await self._receipts(ann, "@bob", seq)).values())
        await bob.cannot("forbidden", "receipts", to="@ann", seq=answer)
        self.assertEqual(await bob.badge("@ann"), (0, 0))

    async def test_read_in_a_group(self) -> None:
        """Ann asks whom her message has reached: Bob has read it, Cat got it, and Dan, who
        joined later, is not in the list."""
        ann, bob, cat, dan = await self.people("ann", "bob", "cat", "dan")
        await self.gather("#team", ann, bob, cat)
        seq = await ann.says("#team", "minutes are out")
        await dan.does("join", group="#team")
        await bob.does("read", to="#team", seq=seq)
        await cat.does("delivered", to="#team", seq=seq)
        await dan.does("read", to="#team", seq=seq)
        self.assertEqual(await self._receipts(ann, "#team", seq), {"bob": True, "cat": False})

    async def _receipts(self, person: Person, to: str, seq: int) -> dict[str, bool]:
        receipts = (await person.does("receipts", to=to, seq=seq))["receipts"]
        return {receipt["user"]: receipt["read"] for receipt in receipts}


class Unread(StoryCase):
    """What the badges count."""

    async def test_over_all_rooms(self) -> None:
        """Bob has been at lunch. The badge counts what others said in all his rooms, and apart
        from that who called him; his own messages, recalled ones, and who came and left are not
        counted."""
        ann, bob, cat = await self.people("ann", "bob", "cat")
        await self.gather("#team", ann, bob)
        await self.gather("#choir", cat, bob)
        await ann.says("@bob", "one")
        gone = await ann.says("@bob", "two, recalled")
        await ann.does("recall", to="@bob", seq=gone)
        await ann.says("#team", "three")
        await ann.says("#team", "four, for @bob")
        await bob.says("#team", "my own")
        called = await cat.says("#choir", "five, for @bob, recalled")
        await cat.does("recall", to="#choir", seq=called)
        await cat.says("#choir", "six")
        await ann.does("join", group="#choir")
        await ann.does("leave", group="#choir")
        self.assertEqual(await bob.badge("@ann"), (1, 0))
        self.assertEqual(await bob.badge("#team"), (2, 1))
        self.assertEqual(await bob.badge("#choir"), (1, 0))
        total = await bob.does("unread")
        counts = [total[name] for name in ("unread", "mentions", "rooms", "muted")]
        self.assertEqual(counts, [4, 1, 3, 0])
        await bob.does("read", to="#team", seq=(await bob.room("#team"))["last_seq"])
        total = await bob.does("unread")
        self.assertEqual([total[name] for name in ("unread", "mentions", "rooms")], [2, 0, 2])

    async def test_marked_as_unread(self) -> None:
        """Bob has read Ann's message, and marks the room so as not to forget it. His phone shows
        the mark; reading there takes it away on both. Ann does not notice."""
        ann, bob = await self.people("ann", "bob")
        phone = await self.device("bob", "phone")
        seq = await ann.says("@bob", "pay the rent")
        await bob.does("read", to="@ann", seq=seq)
        await bob.does("mark", to="@ann")
        await phone.sees("marked", room="@ann")
        for device in (bob, phone):
            self.assertTrue((await device.room("@ann"))["marked"])
        self.assertEqual((await phone.does("unread"))["rooms"], 1)
        await phone.does("read", to="@ann", seq=seq)
        for device in (bob, phone):
            self.assertFalse((await device.room("@ann"))["marked"])
        await ann.has_not_seen("marked")


class Rooms(StoryCase):
    """How one orders one's rooms."""

    async def test_pinned(self) -> None:
        """The room with the latest message is first in Bob's list, but for the one that he
        pinned; his phone learns of that."""
        ann, bob, cat = await self.people("ann", "bob", "cat")
        phone = await self.device("bob", "phone")
        for friend in (ann, cat):
            await friend.says("@bob", "hello")
        self.assertEqual(await self._order(bob), ["@cat", "@ann"])
        await bob.does("prefer", to="@ann", pinned=True)
        await phone.sees("preferred", room="@ann", pinned=True)
        await cat.says("@bob", "hello again")
        self.assertEqual(await self._order(phone), ["@ann", "@cat"])
        await bob.does("prefer", to="@ann", pinned=False)
        self.assertEqual(await self._order(phone), ["@cat", "@ann"])

    async def test_muted_to_mentions(self) -> None:
        """The team talks too much: Bob wants to be notified only when he is called."""
        ann, bob = await self.people("ann", "bob")
        await self.gather("#team", ann, bob)
        await bob.does("prefer", to="#team", notify="mentions")
        await ann.says("#team", "lunch?")
        total = await bob.does("unread")
        counts = [total[name] for name in ("unread", "mentions", "rooms", "muted")]
        self.assertEqual(counts, [0, 0, 0, 1])
        await ann.says("#team", "@bob lunch?")
        total = await bob.does("unread")
        self.assertEqual((total["mentions"], total["rooms"], total["muted"]), (1, 1, 2))
        self.assertEqual(await bob.hears(), ["ann: lunch?", "ann: @bob lunch?"])

    async def test_archived_until_something_comes(self) -> None:
        """Bob puts a room away. It stays away while he writes there himself, and comes back with
        Ann's next message; one that he never wants to hear of stays away."""
        ann, bob = await self.people("ann", "bob")
        await ann.says("@bob", "bye")
        await bob.does("prefer", to="@ann", archived=True)
        self.assertTrue((await bob.room("@ann"))["archived"])
        await bob.says("@ann", "bye")
        self.assertTrue((await bob.room("@ann"))["archived"])
        await ann.says("@bob", "one more thing")
        self.assertFalse((await bob.room("@ann"))["archived"])
        await bob.does("prefer", to="@ann", archived=True, notify="none")
        await ann.says("@bob", "and another")
        self.assertTrue((await bob.room("@ann"))["archived"])
        self.assertEqual(await bob.reads_back("@ann", limit=1), ["ann: and another"])

    async def test_cleared_for_me(self) -> None:
        """Bob empties his room with Ann, on all his devices. He sees what comes afterwards; Ann
        still has everything."""
        ann, bob = await self.people("ann", "bob")
        phone = await self.device("bob", "phone")
        await ann.says("@bob", "our secret")
        await bob.says("@ann", "is safe")
        await bob.does("clear", to="@ann")
        await phone.sees("cleared", room="@ann")
        for device in (bob, phone):
            self.assertEqual(await device.reads_back("@ann"), [])
            self.assertEqual(await device.finds("secret"), [])
            self.assertEqual(await device.badge("@ann"), (0, 0))
        await ann.says("@bob", "hello?")
        self.assertEqual(await phone.reads_back("@ann"), ["ann: hello?"])
        self.assertEqual(await phone.badge("@ann"), (1, 0))
        everything = ["ann: our secret", "bob: is safe", "ann: hello?"]
        self.assertEqual(await ann.reads_back("@bob"), everything)

    async def _order(self, person: Person) -> list[str]:
        return [room["address"] for room in await person.rooms()]

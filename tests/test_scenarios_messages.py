"""Stories of messages: said, edited, recalled, answered, forwarded, pinned."""

from __future__ import annotations

from typing import Any

from tests.people import HOUR, Person, StoryCase


class Talk(StoryCase):
    """What people say to each other."""

    async def test_two_people_talk(self) -> None:
        """Ann says hello, Bob answers in Chinese, and both read it back alike."""
        ann, bob = await self.people("ann", "bob")
        self.assertEqual(await ann.says("@bob", "hello"), 1)
        self.assertEqual(await bob.says("@ann", "你好"), 2)
        self.assertEqual(await bob.hears(), ["ann: hello"])
        self.assertEqual(await ann.hears(), ["bob: 你好"])
        page = (await ann.does("history", to="@bob"))["entries"]
        self.assertEqual(
            [(e["seq"], e["from"], e["to"], e["text"]) for e in page],
            [(1, "ann", "@bob", "hello"), (2, "bob", "@ann", "你好")],
        )
        self.assertEqual(await bob.reads_back("@ann"), await ann.reads_back("@bob"))

    async def test_sent_again(self) -> None:
        """Ann's network breaks while she sends, and her client sends again with the same key:
        Bob gets it once."""
        ann, bob = await self.people("ann", "bob")
        first = await ann.says("@bob", "are you there?", key="k1")
        ann.goes()
        await ann.comes_back()
        again = await ann.does("say", to="@bob", text="are you there?", key="k1")
        self.assertEqual((again["seq"], again.get("duplicate")), (first, True))
        self.assertEqual(await bob.hears(), ["ann: are you there?"])
        await ann.cannot("conflict", "say", to="@ann", text="are you there?", key="k1")

    async def test_a_note_to_self(self) -> None:
        """Ann notes the milk; it is on her phone, and nobody else's."""
        ann, bob = await self.people("ann", "bob")
        phone = await self.device("ann", "phone")
        await ann.says("@ann", "buy milk")
        await phone.sees("message", to="@ann", text="buy milk")
        self.assertEqual(await phone.reads_back("@ann"), ["ann: buy milk"])
        self.assertEqual(await bob.finds("milk"), [])
        self.assertEqual((await phone.does("unread"))["unread"], 0)

    async def test_a_location(self) -> None:
        """Ann sends where she is. Bob sees it on a map or, at telnet, as words; nonsense
        coordinates are refused."""
        ann, bob = await self.people("ann", "bob")
        place = {"lat": 30.66, "lon": 104.06, "name": "Chengdu"}
        await ann.says("@bob", "I am here", kind="location", data=place)
        seen = await bob.sees("message", text="I am here")
        if not bob.terse:
            self.assertEqual((seen["kind"], seen["data"]), ("location", place))
        self.assertEqual(await bob.finds(has="location"), ["ann: I am here"])
        await ann.cannot(
            "bad-request", "say", to="@bob", text="?", kind="location", data={"lat": 91, "lon": 0}
        )

    async def test_an_ephemeral_message(self) -> None:
        """A message that is not to be kept reaches who is there and is in no history."""
        (bob,) = await self.live_people("bob")
        (ann,) = await self.people("ann")
        await ann.says("@bob", "kept")
        said = await ann.does("say", to="@bob", text="burn this", store=False)
        self.assertIsNone(said.get("seq"))
        self.assertEqual(await bob.hears(), ["ann: kept", "ann: burn this"])
        for person, other in ((ann, "@bob"), (bob, "@ann")):
            self.assertEqual(await person.reads_back(other), ["ann: kept"])
            self.assertEqual(await person.finds("burn"), [])
        self.assertEqual(await bob.badge("@ann"), (1, 0))


class Edits(StoryCase):
    """What becomes of a message."""

    async def test_a_typo(self) -> None:
        """Ann corrects a typo. Bob sees what it says now, and what it said before. Only she can
        do it, and not after days; search finds what it says now."""
        ann, bob = await self.people("ann", "bob")
        seq = await ann.says("@bob", "see you at tree")
        await ann.does("edit", to="@bob", seq=seq, text="see you at three")
        await bob.sees("edited", target=seq, text="see you at three")
        self.assertEqual(await bob.reads_back("@ann"), ["ann: see you at three"])
        self.assertTrue((await bob.looks_at("@ann", seq))["edited"])
        versions = (await bob.does("versions", to="@ann", seq=seq))["versions"]
        self.assertEqual([v["text"] for v in versions], ["see you at tree", "see you at three"])
        self.assertEqual(await bob.finds("three"), ["ann: see you at three"])
        self.assertEqual(await bob.finds("tree"), [])
        await bob.cannot("forbidden", "edit", to="@ann", seq=seq, text="see you never")
        self.later(25 * HOUR)
        await ann.cannot("forbidden", "edit", to="@bob", seq=seq, text="see you then")

    async def test_recalled(self) -> None:
        """Ann regrets what she said while Cat is away. It is gone everywhere: from the history,
        from Bob's answer that quoted it, from search, from its versions, from the pins, from the
        unread ones; and Cat never learns what it was."""
        ann, bob, cat = await self.people("ann", "bob", "cat")
        await self.gather("#team", ann, bob, cat)
        cat.goes()
        seq = await ann.says("#team", "the boss is a cabage")
        await ann.does("edit", to="#team", seq=seq, text="the boss is a cabbage, @cat")
        answer = await bob.says("#team", "he reads this", reply_to=seq)
        await bob.does("react", to="#team", seq=seq, emoji="😱")
        await ann.does("pin", to="#team", seq=seq)
        self.assertEqual((await ann.looks_at("#team", answer))["quote"]["from"], "ann")
        await ann.does("recall", to="#team", seq=seq)
        await bob.sees("recalled", to="#team", target=seq)
        await cat.comes_back()
        self.assertEqual(await cat.hears(), ["ann: [recalled]", "bob: he reads this"])
        for person in (ann, bob, cat):
            left = ["ann: [recalled]", "bob: he reads this"]
            self.assertEqual(await person.reads_back("#team"), left)
            quote = (await person.looks_at("#team", answer))["quote"]
            self.assertEqual((quote.get("recalled"), quote.get("text", "")), (True, ""))
            for word in ("cabbage", "cabage", "boss"):
                self.assertEqual(await person.finds(word), [])
            self.assertEqual((await person.does("pins", to="#team"))["pins"], [])
            await person.cannot("conflict", "versions", to="#team", seq=seq)
            everything = await person.does("history", to="#team")
            self.assertNotIn("cabbage", str(everything))
        self.assertEqual(await cat.badge("#team"), (1, 0))
        await ann.cannot("conflict", "edit", to="#team", seq=seq, text="the boss is nice")

    async def test_recalled_by_an_admin(self) -> None:
        """Tom writes an insult. Bob, a member, can do nothing; Ann, whose group it is, takes it
        away the next week. Tom cannot take away hers, nor his own so late."""
        ann, bob, tom = await self.people("ann", "bob", "tom")
        await self.gather("#team", ann, bob, tom)
        insult = await tom.says("#team", "you smell")
        other = await tom.says("#team", "all of you")
        hers = await ann.says("#team", "enough")
        await bob.cannot("forbidden", "recall", to="#team", seq=insult)
        await tom.cannot("forbidden", "recall", to="#team", seq=hers)
        self.later(7 * 24 * HOUR)
        await tom.cannot("forbidden", "recall", to="#team", seq=other)
        await ann.does("recall", to="#team", seq=insult)
        await tom.sees("recalled", sender="ann", target=insult)
        left = ["tom: [recalled]", "tom: all of you", "ann: enough"]
        self.assertEqual(await bob.reads_back("#team"), left)

    async def test_deleted_for_me_only(self) -> None:
        """Bob does not want to see a message any more. It is gone on his phone, too, and from
        his search; Ann sees it still."""
        ann, bob = await self.people("ann", "bob")
        phone = await self.device("bob", "phone")
        seq = await ann.says("@bob", "spoiler: he dies")
        await ann.says("@bob", "sorry")
        await bob.does("hide", to="@ann", seq=seq)
        await phone.sees("hidden", room="@ann", target=seq)
        for device in (bob, phone):
            self.assertEqual(await device.reads_back("@ann"), ["ann: sorry"])
            self.assertEqual(await device.finds("spoiler"), [])
        self.assertEqual(await ann.reads_back("@bob"), ["ann: spoiler: he dies", "ann: sorry"])
        self.assertEqual(await bob.badge("@ann"), (1, 0))


class Around(StoryCase):
    """What is done around a message."""

    async def test_forwarded(self) -> None:
        """Bob sends on to Cat what Ann told him; Cat sees that it was Ann's. Cat cannot read
        the room that it comes from."""
        ann, bob, cat = await self.people("ann", "bob", "cat")
        seq = await ann.says("@bob", "the key is under the mat")
        await bob.does("forward", to="@ann", seq=seq, into="@cat")
        seen = await cat.sees("message", sender="bob", text="the key is under the mat")
        self.assertEqual(seen["forwarded"]["from"], "ann")
        self.assertEqual(await cat.reads_back("@ann"), [])
        await self.gather("#secret", ann, entry="invited")
        await cat.cannot("not-found", "forward", to="#secret", seq=1, into="@bob")

    async def test_reactions(self) -> None:
        """Everybody likes the cake; Bob takes his heart back, so only his thumb is left."""
        ann, bob, cat = await self.people("ann", "bob", "cat")
        await self.gather("#team", ann, bob, cat)
        seq = await ann.says("#team", "there is cake")
        await bob.does("react", to="#team", seq=seq, emoji="👍")
        await bob.does("react", to="#team", seq=seq, emoji="❤")
        await cat.does("react", to="#team", seq=seq, emoji="👍")
        await bob.does("react", to="#team", seq=seq, emoji="❤", on=False)
        await ann.sees("reacted", sender="cat", target=seq, emoji="👍", on=True)
        await ann.sees("reacted", sender="bob", target=seq, emoji="❤", on=False)
        again = await bob.does("react", to="#team", seq=seq, emoji="👍")
        self.assertTrue(again["unchanged"])
        reactions = (await cat.does("reactions", to="#team", seq=seq))["reactions"]
        found = [(reaction["emoji"], reaction["user"]) for reaction in reactions]
        self.assertEqual(found, [("👍", "bob"), ("👍", "cat")])
        if not ann.terse:
            (shown,) = (await ann.looks_at("#team", seq))["reactions"]
            self.assertEqual((shown["emoji"], shown["count"]), ("👍", 2))

    async def test_called_by_name(self) -> None:
        """Ann calls Bob by name, and his badge says so; Cat's does not. When Ann, the owner,
        calls all, both badges do; when Bob does, it is but a word."""
        ann, bob, cat = await self.people("ann", "bob", "cat")
        await self.gather("#team", ann, bob, cat)
        await ann.says("#team", "@bob where are you?")
        self.assertEqual(await bob.badge("#team"), (1, 1))
        self.assertEqual(await cat.badge("#team"), (1, 0))
        await bob.says("#team", "@all here")
        self.assertEqual(await cat.badge("#team"), (2, 0))
        await ann.says("#team", "@all it begins")
        self.assertEqual(await bob.badge("#team"), (2, 2))
        self.assertEqual(await cat.badge("#team"), (3, 1))
        self.assertEqual(await ann.badge("#team"), (1, 0))
        if not cat.terse:
            called = await cat.sees("message", text="@all it begins")
            self.assertEqual(called["mentions"], ["all"])

    async def test_pinned(self) -> None:
        """Ann pins where they meet, so that it is found; Bob, a member, cannot, but between two
        both can. Then she takes the pin away."""
        ann, bob = await self.people("ann", "bob")
        await self.gather("#team", ann, bob)
        seq = await ann.says("#team", "we meet at the fountain")
        await bob.cannot("forbidden", "pin", to="#team", seq=seq)
        await ann.does("pin", to="#team", seq=seq)
        await bob.sees("pinned", to="#team", target=seq)
        self.assertEqual(await self._pins(bob, "#team"), ["we meet at the fountain"])
        await ann.does("edit", to="#team", seq=seq, text="we meet at the bridge")
        self.assertEqual(await self._pins(bob, "#team"), ["we meet at the bridge"])
        await ann.does("unpin", to="#team", seq=seq)
        await bob.sees("unpinned", to="#team", target=seq)
        self.assertEqual(await self._pins(bob, "#team"), [])
        seq = await ann.says("@bob", "my number is 7")
        await bob.does("pin", to="@ann", seq=seq)
        self.assertEqual(await self._pins(ann, "@bob"), ["my number is 7"])

    async def test_an_answer(self) -> None:
        """Bob answers a message of Ann's from long ago; who reads it sees what it was about, as
        that reads now."""
        ann, bob = await self.people("ann", "bob")
        seq = await ann.says("@bob", "tea or coffee")
        await ann.says("@bob", "anyway")
        answer = await bob.says("@ann", "tea", reply_to=seq)
        quote = (await ann.sees("message", text="tea"))["quote"]
        self.assertEqual(quote, {"seq": seq, "from": "ann", "text": "tea or coffee"})
        await ann.does("edit", to="@bob", seq=seq, text="tea, coffee or milk")
        quote = (await ann.looks_at("@bob", answer))["quote"]
        self.assertEqual(quote["text"], "tea, coffee or milk")

    async def _pins(self, person: Person, room: str) -> list[Any]:
        return [pin["text"] for pin in (await person.does("pins", to=room))["pins"]]

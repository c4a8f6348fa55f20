"""Stories of search, of the user's language, and of a long absence."""

from __future__ import annotations

import re

from tests.people import DAY, Person, StoryCase

_CHINESE = re.compile("[\u4e00-\u9fff]")


class Search(StoryCase):
    """Finding what was said."""

    async def test_two_characters(self) -> None:
        """Ann looks for 火锅 in all that she may read: in every room, newest first, also in the
        middle of a sentence; not what only has the two characters apart."""
        ann, 刘备, bob = await self.people("ann", "刘备", "bob")
        await self.gather("#成都", ann, 刘备, bob)
        await 刘备.says("#成都", "今晚吃火锅吗")
        await ann.says("@刘备", "火锅!")
        await bob.says("@ann", "锅里有火")
        await bob.says("@刘备", "不要告诉她火锅的事")
        await bob.says("#成都", "我爱吃火锅")
        found = ["bob: 我爱吃火锅", "ann: 火锅!", "刘备: 今晚吃火锅吗"]
        self.assertEqual(await ann.finds("火锅"), found)
        self.assertEqual(await ann.finds("火锅", to="#成都"), [found[0], found[2]])
        self.assertEqual(await ann.finds("火锅", by="刘备"), found[2:])
        self.assertEqual(await ann.finds("火锅", to="#成都", by="bob"), found[:1])
        self.assertEqual(await ann.finds("吃火锅"), [found[0], found[2]])
        self.assertEqual(await ann.finds("小火锅"), [])

    async def test_page_by_page(self) -> None:
        """There was much talk of trains. Bob reads it page by page, newest first, each once,
        and nothing else."""
        ann, bob = await self.people("ann", "bob")
        for number in range(7):
            await ann.says("@bob", f"train {number}")
            await ann.says("@bob", f"bus {number}")
        found = [f"ann: train {number}" for number in reversed(range(7))]
        self.assertEqual(await bob.finds("train", limit=3), found)
        self.assertEqual(await bob.finds("TRAIN", limit=50), found)
        self.assertEqual(await bob.finds('"train 4"'), ["ann: train 4"])

    async def test_at_what_time(self) -> None:
        """Bob looks for what was said about rain between two days, and for a link."""
        ann, bob = await self.people("ann", "bob")
        days = []
        for day in range(3):
            days.append(self.millis())
            await ann.says("@bob", f"rain on day {day}, see https://weather.example/{day}")
            self.later(DAY)
        await ann.says("@bob", "no more rain")
        found = [f"ann: rain on day {day}, see https://weather.example/{day}" for day in range(3)]
        self.assertEqual(await bob.finds("rain", after=days[1], before=days[2]), found[1:2])
        self.assertEqual(await bob.finds("rain", has="link"), found[::-1])

    async def test_not_over_the_wall(self) -> None:
        """Bob has left the team. He finds nothing of it any more; nor does Cat, who was never
        there, nor Dan anything from before he came into a group that keeps its past."""
        ann, bob, cat, dan = await self.people("ann", "bob", "cat", "dan")
        await self.gather("#team", ann, bob, history="joined")
        await ann.says("#team", "the treasure is in the garden")
        self.assertEqual(await bob.finds("treasure"), ["ann: the treasure is in the garden"])
        await bob.does("leave", group="#team")
        await dan.does("join", group="#team")
        for person in (bob, cat, dan):
            self.assertEqual(await person.finds("treasure"), [])
        await bob.cannot("not-a-member", "search", text="treasure", to="#team")
        await ann.says("#team", "treasure found")
        self.assertEqual(await dan.finds("treasure"), ["ann: treasure found"])
        self.assertEqual(await bob.finds("treasure"), [])
        await bob.does("join", group="#team")
        self.assertEqual(await bob.finds("treasure"), [])


class Language(StoryCase):
    """What the server says."""

    async def test_all_in_chinese(self) -> None:
        """刘备 reads Chinese and says so once. From then on errors and help are in Chinese, also
        when he comes back; the codes that his program knows are the same. Ann's stay English."""
        刘备, ann = await self.people("刘备", "ann")
        await 刘备.does("profile", language="zh")
        刘备.goes()
        await 刘备.comes_back()
        refusals: list[tuple[str, str, dict[str, str]]] = [
            ("not-found", "say", {"to": "#nowhere", "text": "喂"}),
            ("not-found", "say", {"to": "@nobody", "text": "喂"}),
            ("bad-request", "history", {"to": "nowhere"}),
            ("not-found", "join", {"token": "wrong"}),
            ("bad-request", "create", {"name": "#a b"}),
        ]
        for code, command, parameters in refusals:
            self._is_chinese(await 刘备.cannot(code, command, **parameters))
            self._is_english(await ann.cannot(code, command, **parameters))
        for line in (await 刘备.does("help"))["commands"]:
            self._is_chinese(line["help"])
        (line,) = (await ann.does("help", command="ping"))["commands"]
        self._is_english(line["help"])

    def _is_chinese(self, sentence: str) -> None:
        self.assertTrue(_CHINESE.search(sentence), sentence)

    def _is_english(self, sentence: str) -> None:
        self.assertFalse(_CHINESE.search(sentence), sentence)


class Absence(StoryCase):
    """Coming back after a week."""

    async def test_a_week_away(self) -> None:
        """Bob was in the mountains for a week. People wrote to him, in groups and alone, asked
        him to be a friend, invited him, took him out of a group. When he is back everything is
        there, once, in order, room by room; and when he looks again there is nothing new."""
        ann, bob, cat = await self.people("ann", "bob", "cat")
        await self.gather("#team", ann, bob)
        await self.gather("#choir", cat, bob)
        await ann.says("@bob", "have fun")
        self.assertEqual(await bob.hears(), ["ann: have fun"])
        await bob.forgets()
        bob.goes()
        for day in range(7):
            self.later(DAY)
            await ann.says("#team", f"team {day}")
            await ann.says("@bob", f"ann {day}")
            await cat.says("@bob", f"cat {day}")
        await cat.does("befriend", user="bob")
        await ann.does("create", name="#club", entry="invited")
        await ann.does("invite", group="#club", user="bob")
        await cat.does("kick", group="#choir", user="bob")
        await bob.comes_back()
        heard = await bob.hears()
        for name, who in (("team", "ann"), ("ann", "ann"), ("cat", "cat")):
            of_one = [line for line in heard if line.startswith(f"{who}: {name} ")]
            self.assertEqual(of_one, [f"{who}: {name} {day}" for day in range(7)])
        self.assertEqual(len(heard), 21)
        told = [await bob.sees(kind) for kind in ("befriended", "invited", "kicked")]
        self.assertEqual([event.get("user") for event in told], ["cat", "ann", "cat"])
        seqs = [event["seq"] for event in told]
        self.assertEqual(seqs, sorted(set(seqs)))
        await self._says_it_had_all(bob)
        bob.goes()
        await bob.comes_back()
        self.assertEqual(await bob.hears(), [])
        self.assertEqual([room["unread"] for room in await bob.rooms()], [7, 8, 7])

    async def test_a_phone_that_was_off(self) -> None:
        """Bob's laptop was on and had everything; his phone was off, and asks what it has
        missed from where it was: the same messages, in the same order, page after page."""
        ann, bob = await self.people("ann", "bob")
        phone = await self.device("bob", "phone")
        await self.gather("#team", ann, bob)
        phone.goes()
        said = [f"ann: {number}" for number in range(450)]
        for line in said:
            await ann.says("#team", line.removeprefix("ann: "))
        self.assertEqual(await bob.hears(), said)
        await phone.comes_back(replay=False)
        seq, found, more = 2, [], True
        while more:
            news = await phone.does("sync", since={"#team": seq})
            found += [f"{entry['from']}: {entry['text']}" for entry in news["entries"]]
            seq, more = news["entries"][-1]["seq"], news["more"]
        self.assertEqual(found, said)

    async def _says_it_had_all(self, person: Person) -> None:
        for room in (await person.does("rooms"))["rooms"]:
            await person.does("delivered", to=room["address"], seq=room["last_seq"])

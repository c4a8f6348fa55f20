"""Stories of friends and strangers, and of what people show of themselves."""

from __future__ import annotations

from tests.people import Person, StoryCase


class Friends(StoryCase):
    """How strangers become friends, and stop being so."""

    async def test_strangers_become_friends(self) -> None:
        """Ann asks Bob to be friends, with a word on who she is, while he is away. He finds it
        when he logs in, and accepts; she is told, and both have each other in their lists."""
        ann, bob = await self.people("ann", "bob")
        bob.goes()
        await ann.does("befriend", user="bob", words="we met at the sea")
        self.assertEqual(await self._friends(ann), {"bob": "asked"})
        await bob.comes_back()
        await bob.sees("befriended", to="@bob", by="ann", words="we met at the sea")
        (request,) = (await bob.does("friends"))["friends"]
        self.assertEqual(request["state"], "asking")
        self.assertEqual(request["words"], "we met at the sea")
        await bob.does("accept", user="ann")
        await ann.sees("accepted", to="@ann", user="bob")
        self.assertEqual(await self._friends(ann), {"bob": "friend"})
        self.assertEqual(await self._friends(bob), {"ann": "friend"})

    async def test_both_ask(self) -> None:
        """Bob asks Ann who has asked him: then they are friends, and nobody need accept."""
        ann, bob = await self.people("ann", "bob")
        await ann.does("befriend", user="bob")
        self.assertEqual((await bob.does("befriend", user="ann"))["state"], "friend")
        await ann.sees("accepted", user="bob")
        self.assertEqual(await self._friends(ann), {"bob": "friend"})

    async def test_a_request_is_refused(self) -> None:
        """Bob refuses. Ann is not told, and her asking again does not bother him."""
        ann, bob = await self.people("ann", "bob")
        await ann.does("befriend", user="bob")
        await bob.sees("befriended", by="ann")
        await bob.does("refuse", user="ann")
        await ann.does("befriend", user="bob", words="please!")
        await bob.has_not_seen("befriended")
        await ann.has_not_seen("refused")
        self.assertEqual(await self._friends(bob), {})
        self.assertEqual(await self._friends(ann), {"bob": "asked"})

    async def test_one_removes_the_other(self) -> None:
        """Bob calls Ann his neighbour, then takes her out of his list. She is out of it and he
        is out of hers; nobody told her. They may still write."""
        ann, bob = await self.people("ann", "bob")
        await self.friends(ann, bob)
        await bob.does("remark", user="ann", remark="my neighbour")
        self.assertEqual((await bob.does("user", user="ann"))["remark"], "my neighbour")
        self.assertFalse((await ann.does("user", user="bob")).get("remark"))
        await ann.forgets()
        await bob.does("unfriend", user="ann")
        await ann.has_not_seen("unfriended")
        self.assertEqual(await self._friends(ann), {})
        self.assertEqual(await self._friends(bob), {})
        await ann.says("@bob", "are you angry?")
        self.assertEqual(await bob.hears(), ["ann: are you angry?"])

    async def test_a_block(self) -> None:
        """Tom bothers Ann, and she blocks him. He can neither write, nor ask, nor invite her,
        and does not see that she is there; she cannot write to him either. What was said before
        is still to be read. When she has unblocked him he may write again, but is no friend."""
        ann, tom = await self.people("ann", "tom")
        await self.friends(tom, ann)
        await tom.says("@ann", "answer me")
        await ann.does("block", user="tom")
        self.assertEqual((await ann.does("blocks"))["users"], ["tom"])
        self.assertEqual(await self._friends(tom), {})
        await tom.cannot("blocked", "say", to="@ann", text="ANSWER ME")
        await ann.cannot("blocked", "say", to="@tom", text="no")
        await ann.forgets()
        await tom.asks("befriend", user="ann")
        await self.gather("#trap", tom)
        await tom.asks("invite", group="#trap", user="ann")
        await ann.has_not_seen("befriended")
        await ann.has_not_seen("invited")
        self.assertEqual(await self._friends(ann), {})
        self.assertIn(await tom.state_of("ann"), ("unknown", "offline"))
        self.assertEqual(await tom.reads_back("@ann"), ["tom: answer me"])
        await ann.does("unblock", user="tom")
        await tom.says("@ann", "thank you")
        self.assertEqual(await ann.hears(), ["tom: thank you"])
        self.assertNotIn("friend", (await self._friends(ann)).values())

    async def test_a_blocked_one_in_the_same_group(self) -> None:
        """A block is between two. In the group in which both are, both are heard."""
        ann, tom = await self.people("ann", "tom")
        await self.gather("#street", ann, tom)
        await ann.does("block", user="tom")
        await tom.says("#street", "bins are out")
        self.assertEqual(await ann.hears(), ["tom: bins are out"])

    async def test_only_friends_may_write(self) -> None:
        """Ann takes messages from friends only. Bob, a stranger, cannot write, but he may ask;
        once he is a friend he can."""
        ann, bob = await self.people("ann", "bob")
        await ann.does("profile", writers="friends")
        await bob.cannot("blocked", "say", to="@ann", text="hello?")
        await bob.does("befriend", user="ann")
        await bob.cannot("blocked", "say", to="@ann", text="hello?")
        await ann.does("accept", user="bob")
        await bob.says("@ann", "hello!")
        self.assertEqual(await ann.hears(), ["bob: hello!"])

    async def _friends(self, person: Person) -> dict[str, str]:
        friends = (await person.does("friends"))["friends"]
        return {friend["user"]: friend["state"] for friend in friends}


class Profiles(StoryCase):
    """What people show of themselves."""

    async def test_finding_people(self) -> None:
        """Zoe looks for people by how their names begin, page by page; 刘 alone finds 刘备. Bert
        does not want to be found, but his friend finds him still."""
        zoe, *_, bert = await self.people("zoe", "beate", "刘备", "Berta", "bea", "bert")
        await bert.does("profile", findable=False)
        self.assertEqual(await self._found(zoe, "be"), ["bea", "beate", "Berta"])
        page = await zoe.does("find", text="be", limit=2)
        self.assertTrue(page["more"])
        page = await zoe.does("find", text="be", limit=2, after=page["users"][-1]["user"])
        self.assertEqual([user["user"] for user in page["users"]], ["Berta"])
        self.assertFalse(page["more"])
        self.assertEqual(await self._found(zoe, "刘"), ["刘备"])
        self.assertEqual(await self._found(zoe, "bert"), ["Berta"])
        self.assertEqual(await self._found(zoe, "nobody"), [])
        await self.friends(zoe, bert)
        self.assertEqual(await self._found(zoe, "bert"), ["bert", "Berta"])

    async def test_profile_and_status(self) -> None:
        """Ann shows a longer name and that she is at the sea. Bob sees both; so does who reads
        the list of members. Her phone learns of it by itself."""
        ann, bob = await self.people("ann", "bob")
        phone = await self.device("ann", "phone")
        await self.gather("#team", ann, bob)
        await ann.does("profile", display="Ann of Green Gables")
        await ann.does("profile", status="at the sea")
        await phone.sees("updated", status="at the sea")
        seen = await bob.does("user", user="ann")
        self.assertEqual(seen["display"], "Ann of Green Gables")
        self.assertEqual(seen["status"], "at the sea")
        members = (await bob.does("members", group="#team"))["members"]
        self.assertEqual([m["display"] for m in members], ["Ann of Green Gables", ""])
        await ann.does("profile", status="")
        self.assertFalse((await bob.does("user", user="ann")).get("status"))

    async def _found(self, person: Person, text: str) -> list[str]:
        return [user["user"] for user in (await person.does("find", text=text))["users"]]

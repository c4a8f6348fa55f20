"""Stories of groups: who comes in, who writes, who decides, how it ends."""

from __future__ import annotations

from tests.people import DAY, HOUR, StoryCase


class Groups(StoryCase):
    """What people do in groups."""

    async def test_a_club_by_approval(self) -> None:
        """Ann's club takes whom she lets in. Bob asks with a few words, she sees them and lets
        him in; he sees what is said from then on and nothing of what was said before."""
        ann, bob, cat = await self.people("ann", "bob", "cat")
        await self.gather("#club", ann, entry="approval", history="joined")
        await ann.says("#club", "before Bob")
        asked = await bob.does("join", group="#club", words="Cat sent me")
        self.assertTrue(asked["requested"])
        await bob.cannot("not-a-member", "history", to="#club")
        await ann.sees("requested", group="#club", user="bob", words="Cat sent me")
        (request,) = (await ann.does("requests", group="#club"))["requests"]
        self.assertEqual((request["user"], request["words"]), ("bob", "Cat sent me"))
        await cat.cannot("not-a-member", "approve", group="#club", user="bob")
        await ann.does("approve", group="#club", user="bob")
        await bob.sees("approved", group="#club", user="ann")
        await ann.says("#club", "welcome")
        self.assertEqual(await bob.hears(), ["ann: welcome"])
        self.assertEqual(await bob.reads_back("#club"), ["ann: welcome"])
        self.assertEqual(await bob.finds("before"), [])
        self.assertEqual((await ann.does("requests", group="#club"))["requests"], [])
        await bob.cannot("forbidden", "approve", group="#club", user="cat")

    async def test_a_request_is_turned_down(self) -> None:
        """Bob asks to join, is turned down and told so; he may ask again, and takes that back."""
        ann, bob = await self.people("ann", "bob")
        await self.gather("#club", ann, entry="approval")
        await bob.does("join", group="#club")
        await ann.does("reject", group="#club", user="bob")
        await bob.sees("rejected", group="#club", user="ann")
        await bob.cannot("not-a-member", "say", to="#club", text="please")
        await bob.does("join", group="#club", words="please")
        await bob.does("decline", group="#club")
        self.assertEqual((await ann.does("requests", group="#club"))["requests"], [])
        await ann.cannot("not-found", "approve", group="#club", user="bob")

    async def test_a_secret_group(self) -> None:
        """Nobody may know of Ann's group. Bob comes by her invitation, Cat and Dan by a link for
        two, and Eve, who has the link too, comes too late and learns nothing of the group."""
        ann, bob, cat, dan, eve = await self.people("ann", "bob", "cat", "dan", "eve")
        await self.gather("#secret", ann, entry="invited")
        await bob.cannot("not-found", "about", group="#secret")
        await bob.cannot("not-found", "join", group="#secret")
        await ann.does("invite", group="#secret", user="bob")
        await bob.sees("invited", group="#secret", user="ann")
        await bob.does("join", group="#secret")
        await bob.cannot("forbidden", "invite", group="#secret", user="eve")
        link = await ann.does("link", group="#secret", uses=2)
        for friend in (cat, dan):
            joined = await friend.does("join", token=link["token"])
            self.assertEqual(joined["address"], "#secret")
            await ann.sees("joined", to="#secret", sender=friend.name)
        await eve.cannot("not-found", "join", token=link["token"])
        await eve.cannot("not-found", "about", group="#secret")
        self.assertEqual((await ann.does("links", group="#secret"))["links"], [])
        await dan.says("#secret", "psst")
        self.assertEqual(await bob.hears(), ["dan: psst"])
        self.assertEqual(await cat.hears(), ["dan: psst"])
        self.assertEqual(await eve.rooms(), [])

    async def test_a_link_runs_out(self) -> None:
        """A link is good for a day; on the next one nobody comes in by it. Another one is taken
        back before anybody has used it."""
        ann, bob = await self.people("ann", "bob")
        await self.gather("#team", ann, entry="invited")
        old = await ann.does("link", group="#team", uses=5, days=1)
        self.later(DAY + 1)
        await bob.cannot("not-found", "join", token=old["token"])
        new = await ann.does("link", group="#team", uses=5)
        await ann.does("unlink", group="#team", link=new["id"])
        await bob.cannot("not-found", "join", token=new["token"])
        self.assertEqual(await bob.rooms(), [])

    async def test_an_announcement_channel(self) -> None:
        """In a channel only admins write. Bob reads; when Ann makes him an admin he writes too,
        and when she lets everybody write, so does Cat."""
        ann, bob, cat = await self.people("ann", "bob", "cat")
        await self.gather("#news", ann, bob, cat, posting="admins")
        await ann.says("#news", "snow tomorrow")
        self.assertEqual(await bob.hears(), ["ann: snow tomorrow"])
        await bob.cannot("muted", "say", to="#news", text="really?")
        await ann.does("role", group="#news", user="bob", role="admin")
        await bob.sees("appointed", user="bob", role="admin")
        await bob.says("#news", "bring shovels")
        self.assertEqual(await cat.hears(), ["ann: snow tomorrow", "bob: bring shovels"])
        await cat.cannot("forbidden", "configure", group="#news", posting="members")
        await ann.does("configure", group="#news", posting="members")
        await cat.sees("configured", to="#news", posting="members")
        await cat.says("#news", "I have two")
        self.assertEqual(await ann.hears(), ["bob: bring shovels", "cat: I have two"])

    async def test_the_owner_hands_over(self) -> None:
        """Ann made the group and wants to leave. She cannot, until she has made Bob its owner;
        then she leaves, and Bob decides."""
        ann, bob, cat = await self.people("ann", "bob", "cat")
        await self.gather("#choir", ann, bob, cat)
        await ann.cannot("conflict", "leave", group="#choir")
        await ann.does("role", group="#choir", user="bob", role="owner")
        await bob.sees("appointed", user="bob", role="owner")
        await ann.cannot("forbidden", "dissolve", group="#choir")
        await ann.does("leave", group="#choir")
        await cat.sees("left", to="#choir", sender="ann")
        await ann.cannot("not-a-member", "say", to="#choir", text="bye")
        members = (await cat.does("members", group="#choir"))["members"]
        roles = {member["user"]: member["role"] for member in members}
        self.assertEqual(roles, {"bob": "owner", "cat": "member"})
        await bob.does("retitle", group="#choir", title="Choir of Bob")
        self.assertEqual((await cat.room("#choir"))["title"], "Choir of Bob")

    async def test_the_troublemaker(self) -> None:
        """Tom shouts. He is muted for an hour, leaves and comes back, and is muted still. After
        the hour he shouts again, is thrown out, is told so, and cannot come back: not by the
        open door, not by an invitation, not by a link. One day he is forgiven."""
        ann, bob, tom = await self.people("ann", "bob", "tom")
        await self.gather("#park", ann, bob, tom)
        await tom.says("#park", "AAAA")
        await ann.does("mute", group="#park", user="tom", until=self.millis() + HOUR * 1000)
        await tom.sees("muted", to="#park", user="tom")
        await tom.cannot("muted", "say", to="#park", text="BBBB")
        await tom.does("leave", group="#park")
        await tom.does("join", group="#park")
        await tom.cannot("muted", "say", to="#park", text="BBBB")
        self.later(HOUR)
        await tom.says("#park", "CCCC")
        await ann.does("kick", group="#park", user="tom", ban=True)
        await tom.sees("kicked", to="@tom", group="#park", user="ann", banned=True)
        await bob.sees("kicked", to="#park", user="tom", banned=True)
        await tom.cannot("not-a-member", "say", to="#park", text="DDDD")
        await tom.cannot("forbidden", "join", group="#park")
        link = await ann.does("link", group="#park", uses=9)
        await tom.cannot("forbidden", "join", token=link["token"])
        await bob.cannot("forbidden", "invite", group="#park", user="tom")
        await ann.says("#park", "quiet at last")
        self.assertEqual(await bob.hears(), ["tom: AAAA", "tom: CCCC", "ann: quiet at last"])
        self.assertEqual(await tom.finds("quiet"), [])
        await ann.does("unban", group="#park", user="tom")
        await tom.does("join", token=link["token"])
        await tom.says("#park", "sorry")

    async def test_everybody_is_quiet(self) -> None:
        """Ann mutes the whole group for a while; she can write and Bob cannot. It ends by
        itself."""
        ann, bob = await self.people("ann", "bob")
        await self.gather("#class", ann, bob)
        await ann.does("mute", group="#class", until=self.millis() + HOUR * 1000)
        await bob.sees("muted", to="#class")
        await bob.cannot("muted", "say", to="#class", text="but")
        await ann.says("#class", "listen")
        self.later(HOUR)
        await bob.says("#class", "finally")
        self.assertEqual(await ann.hears(), ["bob: finally"])

    async def test_nobody_decides_above_his_rank(self) -> None:
        """Bob and Cat are admins. They cannot throw each other out, nor Ann, whose group it is;
        Dan, a member, can throw out nobody."""
        ann, bob, cat, dan = await self.people("ann", "bob", "cat", "dan")
        await self.gather("#team", ann, bob, cat, dan)
        for admin in ("bob", "cat"):
            await ann.does("role", group="#team", user=admin, role="admin")
        await bob.cannot("forbidden", "kick", group="#team", user="cat")
        await cat.cannot("forbidden", "kick", group="#team", user="ann")
        await bob.cannot("forbidden", "role", group="#team", user="dan", role="admin")
        await dan.cannot("forbidden", "kick", group="#team", user="bob")
        await bob.does("kick", group="#team", user="dan")
        await dan.sees("kicked", to="@dan", group="#team", user="bob")
        await dan.does("join", group="#team")  # he was not banned

    async def test_the_end_of_a_group(self) -> None:
        """The party is over: Ann ends the group. Everybody is told; nobody can write or read
        there any more, and it is in nobody's list of rooms."""
        ann, bob, cat = await self.people("ann", "bob", "cat")
        await self.gather("#party", ann, bob, cat)
        await bob.says("#party", "last song")
        await bob.cannot("forbidden", "dissolve", group="#party")
        await ann.does("dissolve", group="#party")
        if bob.live:
            await bob.sees("dissolved", to="#party", sender="ann")
        for person in (ann, bob, cat):
            reply = await person.asks("say", to="#party", text="hello?")
            self.assertIn(reply.get("error"), ("not-found", "not-a-member"))
            reply = await person.asks("history", to="#party")
            self.assertIn(reply.get("error"), ("not-found", "not-a-member"))
            self.assertEqual(await person.rooms(), [])
            self.assertEqual(await person.finds("song"), [])

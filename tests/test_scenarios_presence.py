"""Stories of coming and going, and of one person's devices."""

from __future__ import annotations

from tests.people import LINGER, Person, StoryCase


class Presence(StoryCase):
    """What others see of who is there."""

    async def test_ann_comes_and_goes(self) -> None:
        """Ann is online, steps away from the keyboard, is invisible for a while, and comes back.
        Bob, her friend, sees each of it, and when she was last seen; invisible is as gone."""
        (ann,) = await self.live_people("ann")
        (bob,) = await self.people("bob")
        await self.friends(ann, bob)
        await self.passes()
        await self._sees(bob, "ann", "online")
        await ann.does("appear", state="away")
        await self.passes()
        await self._sees(bob, "ann", "away")
        await ann.does("appear", state="invisible")
        await self.passes(LINGER + 1)
        await self._sees(bob, "ann", "offline")
        (seen,) = (await bob.does("who", users=["ann"]))["users"]
        self.assertLess(abs(seen["seen"] - self.millis()), (LINGER + 3) * 1000)
        await ann.says("@bob", "nobody knows that I am here")
        await self.passes()
        await bob.has_not_seen("presence")
        self.assertEqual(await bob.state_of("ann"), "offline")
        await ann.does("appear", state="online")
        await self.passes()
        # She said before that she was away; that is another thing than to be invisible.
        self.assertIn(await bob.state_of("ann"), ("online", "away"))

    async def test_a_short_break(self) -> None:
        """Ann's train goes through a tunnel; Bob notices nothing. When she closes the laptop for
        good he sees that she has gone."""
        (ann,) = await self.live_people("ann")
        (bob,) = await self.people("bob")
        await self.friends(ann, bob)
        await self.passes()
        await bob.forgets()
        ann.goes()
        await self.passes(LINGER - 1)
        await ann.comes_back()
        await self.passes(LINGER + 1)
        await bob.has_not_seen("presence")
        ann.goes()
        await self.passes(LINGER + 1)
        await self._sees(bob, "ann", "offline")

    async def test_strangers_see_nothing(self) -> None:
        """Zoe does not know Ann, and does not learn whether she is there. When they have a
        group in common, and Zoe has it open, she does."""
        (ann,) = await self.live_people("ann")
        (zoe,) = await self.people("zoe")
        await self.passes()
        self.assertEqual(await zoe.state_of("ann"), "unknown")
        await self.gather("#team", ann, zoe)
        if zoe.live:
            await zoe.does("watch", to="#team")
        self.assertEqual(await zoe.state_of("ann"), "online")
        await ann.does("appear", state="away")
        await self.passes()
        await self._sees(zoe, "ann", "away")

    async def test_two_devices(self) -> None:
        """Ann is away at the laptop and there at the phone: she is online, and Bob, her friend,
        sees with which devices. When the phone goes she is away."""
        (laptop,) = await self.live_people("ann")
        phone = await self.device("ann", "phone", live=True)
        (bob,) = await self.people("bob")
        await self.friends(laptop, bob)
        await laptop.does("appear", state="away")
        await self.passes()
        (ann,) = (await bob.does("who", users=["ann"]))["users"]
        self.assertEqual(ann["state"], "online")
        self.assertIn("phone", ann["devices"])
        phone.goes()
        await self.passes()
        await self._sees(bob, "ann", "away")

    async def test_bob_is_writing(self) -> None:
        """Ann sees that Bob is writing to her, before he has sent it; nothing of it is kept."""
        (ann,) = await self.live_people("ann")
        (bob,) = await self.people("bob")
        await ann.says("@bob", "hello")
        await bob.does("typing", to="@ann")
        await ann.sees("typing", to="@ann", sender="bob")
        await bob.says("@ann", "hi")
        history = (await ann.does("history", to="@bob"))["entries"]
        self.assertEqual([entry["text"] for entry in history], ["hello", "hi"])

    async def _sees(self, person: Person, user: str, state: str) -> None:
        """Sees a change: by an event, or who has none by looking."""
        if person.live:
            await person.sees("presence", sender=user, state=state)
        self.assertEqual(await person.state_of(user), state)


class Devices(StoryCase):
    """One person's devices."""

    async def test_what_one_device_says_the_other_shows(self) -> None:
        """Ann writes at the laptop; her phone shows it as hers, and Bob's answer, too."""
        ann, bob = await self.people("ann", "bob")
        phone = await self.device("ann", "phone")
        await ann.says("@bob", "hello")
        await phone.sees("message", to="@bob", sender="ann", text="hello")
        await bob.says("@ann", "hi")
        for device in (ann, phone):
            await device.sees("message", sender="bob", text="hi")

    async def test_a_lost_phone(self) -> None:
        """Ann has left her phone on the bus. From the laptop she finds it among her sessions and
        ends it: the phone is logged out and cannot come back by itself."""
        (laptop,) = await self.live_people("ann")
        phone = await self.device("ann", "phone", live=True)
        sessions = (await laptop.does("sessions"))["sessions"]
        (lost,) = [session for session in sessions if session.get("device") == "phone"]
        tokens = (await phone.does("tokens"))["tokens"]
        (current,) = [token for token in tokens if token.get("current")]
        self.assertEqual(current["device"], "phone")
        await laptop.does("end", session=lost["id"])
        await phone.is_thrown_out()
        sessions = (await laptop.does("sessions"))["sessions"]
        self.assertEqual([session.get("device") for session in sessions], [""])
        tokens = (await laptop.does("tokens"))["tokens"]
        self.assertNotIn(current["id"], [token["id"] for token in tokens])

    async def test_a_stolen_token(self) -> None:
        """Ann's program runs at work, where she has left. At home she ends its token, and it can
        do nothing any more; the one at home goes on."""
        (home,) = await self.people("ann")
        work = Person(self, "ann", next(self.wires))
        token = (await work.does("login", name="ann", password="secret", device="work"))["token"]
        tokens = (await home.does("tokens"))["tokens"]
        (theirs,) = [token for token in tokens if token.get("device") == "work"]
        await home.does("revoke", token=theirs["id"])
        await work.is_thrown_out()
        thief = Person(self, "ann", next(self.wires))
        await thief.cannot("unauthorized", "login", token=token)
        await home.does("rooms")

"""Friends: asking, answering, ending it, blocking; over every wire, and after an absence."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, gatherResults

from chatd.bonds import REFUSED_FOR
from chatd.settings import Limits
from tests.bed import CalmCase, Frames


class People(CalmCase):
    """Alice and Bob, who know each other's names."""

    async def done(self, client: Any, command: str, /, **parameters: Any) -> dict[str, Any]:
        """The reply to a request that succeeds."""
        reply: dict[str, Any] = await client.ask(command, **parameters)
        self.assertTrue(reply["ok"], (command, reply))
        return reply

    async def code(self, client: Any, command: str, /, **parameters: Any) -> str:
        """The code with which a request is refused."""
        reply = await client.ask(command, **parameters)
        self.assertFalse(reply["ok"], (command, reply))
        return str(reply["error"])

    async def pair(self) -> tuple[Frames, Frames]:
        """Both of them, by WebSocket."""
        return await self.user("alice"), await self.user("bob")

    async def friends(self) -> tuple[Frames, Frames]:
        """Both of them, friends."""
        alice, bob = await self.pair()
        await self.done(alice, "befriend", user="bob")
        await self.done(bob, "accept", user="alice")
        return alice, bob

    async def states(self, client: Any) -> dict[str, str]:
        """The state of each of one's contacts, by name."""
        return {
            each["user"]: each["state"] for each in (await self.done(client, "friends"))["friends"]
        }

    async def inbox(self, client: Any, name: str) -> list[str]:
        """The kinds of the entries in one's inbox."""
        page = await self.done(client, "history", to=f"@{name}")
        return [entry["event"] for entry in page["entries"]]


class Asking(People):
    """From a stranger to a friend."""

    async def test_request_and_acceptance(self) -> None:
        """A request comes with its words to the one who is asked and to the asker's other
        devices, the acceptance likewise; both lists say so."""
        alice, bob = await self.pair()
        phone = await self.user("alice")
        asked = await self.done(alice, "befriend", user="@BOB", words="it's me")
        self.assertEqual((asked["user"], asked["state"], asked["seq"]), ("bob", "asked", 1))
        event = await bob.event()
        self.assertEqual(
            {name: event[name] for name in event if name != "at"},
            {
                "event": "befriended",
                "to": "@bob",
                "from": "bob",
                "seq": 1,
                "user": "alice",
                "by": "alice",
                "words": "it's me",
            },
        )
        told = await phone.event()
        self.assertEqual((told["to"], told["user"], told["by"]), ("@alice", "bob", "alice"))
        (waiting,) = (await self.done(bob, "friends"))["friends"]
        self.assertLessEqual(waiting.pop("since"), event["at"])
        self.assertEqual(waiting, {"user": "alice", "state": "asking", "words": "it's me"})
        self.assertEqual(await self.states(alice), {"bob": "asked"})
        accepted = await self.done(bob, "accept", user="alice")
        self.assertEqual(accepted["state"], "friend")
        for client in (alice, phone):
            event = await client.event()
            self.assertEqual((event["event"], event["user"]), ("accepted", "bob"))
        for client, name in ((alice, "bob"), (bob, "alice")):
            self.assertEqual(await self.states(client), {name: "friend"})

    async def test_after_an_absence(self) -> None:
        """A request and its answer wait in the inbox for those who were away."""
        alice, bob = await self.pair()
        bob.vanish()
        await self.done(alice, "befriend", user="bob", words="hello")
        bob = await self.user("bob")
        event = await bob.event()
        self.assertEqual((event["event"], event["user"], event["seq"]), ("befriended", "alice", 1))
        (room,) = (await self.done(bob, "rooms"))["rooms"]
        self.assertEqual((room["address"], room["last_seq"], room["read_seq"]), ("@bob", 1, 0))
        self.assertEqual(room["last"]["words"], "hello")
        await self.done(bob, "read", to="@bob", seq=1)
        alice.vanish()
        await self.done(bob, "accept", user="alice")
        alice = await self.user("alice")
        kinds = [(await alice.event())["event"] for _ in range(2)]
        self.assertEqual(kinds[-1], "accepted")

    async def test_mutual(self) -> None:
        """Two who ask each other are friends, with no more to answer."""
        alice, bob = await self.pair()
        await self.done(alice, "befriend", user="bob")
        tie = await self.done(bob, "befriend", user="alice", words="me too")
        self.assertEqual(tie["state"], "friend")
        self.assertEqual(await self.inbox(alice, "alice"), ["befriended", "accepted"])
        self.assertEqual(await self.code(bob, "refuse", user="alice"), "not-found")

    async def test_at_once(self) -> None:
        """Two who ask each other at the same moment, and each from two devices, are friends."""
        clients = [await self.user(name) for name in ("alice", "bob", "alice", "bob")]
        replies = await gatherResults(
            Deferred.fromCoroutine(self.done(client, "befriend", user=name))
            for client, name in zip(clients, ("bob", "alice", "bob", "alice"), strict=True)
        )
        self.assertEqual(sorted("seq" in reply for reply in replies), [False, False, True, True])
        for client, name in zip(clients, ("alice", "bob"), strict=False):
            self.assertEqual(await self.inbox(client, name), ["befriended", "accepted"])

    async def test_again(self) -> None:
        """What is so already is answered and told nobody."""
        alice, bob = await self.friends()
        for client, name, command in ((alice, "bob", "befriend"), (bob, "alice", "accept")):
            again = await self.done(client, command, user=name)
            self.assertEqual((again["state"], "seq" in again), ("friend", False))
        await self.done(alice, "block", user="bob")
        self.assertNotIn("seq", await self.done(alice, "block", user="bob"))
        self.assertEqual(await self.inbox(alice, "alice"), ["befriended", "accepted", "blocked"])

    async def test_refusal_is_not_told(self) -> None:
        """The asker hears nothing of a refusal and sees his request as before; asking again,
        even anew, reaches nobody for a month."""
        alice, bob = await self.pair()
        await self.done(alice, "befriend", user="bob")
        self.assertEqual((await self.done(bob, "refuse", user="alice"))["state"], "refused")
        self.assertEqual(await self.states(bob), {})
        self.assertEqual(await self.states(alice), {"bob": "asked"})
        self.assertEqual((await self.done(alice, "user", user="bob"))["state"], "asked")
        self.assertEqual((await self.done(alice, "befriend", user="bob"))["state"], "asked")
        await self.done(alice, "unfriend", user="bob")
        self.assertEqual((await self.done(alice, "befriend", user="bob"))["state"], "asked")
        self.assertEqual(await self.inbox(bob, "bob"), ["befriended", "refused"])
        self.assertEqual(await self.states(bob), {})
        now = self.node.now
        self.node.now = lambda: now() + REFUSED_FOR / 1000
        await self.done(alice, "befriend", user="bob")
        self.assertEqual(await self.states(bob), {"alice": "asking"})

    async def test_withdrawn(self) -> None:
        """A request that is withdrawn is on nobody's list, and cannot be accepted."""
        alice, bob = await self.pair()
        await self.done(alice, "befriend", user="bob")
        await self.done(alice, "unfriend", user="bob")
        self.assertEqual(await self.states(alice) | await self.states(bob), {})
        self.assertEqual(await self.code(bob, "accept", user="alice"), "not-found")

    async def test_nobody(self) -> None:
        """Nobody is his own friend, nor that of a name that is nobody's."""
        alice, _bob = await self.pair()
        for command in ("befriend", "accept", "refuse", "unfriend", "remark", "block", "unblock"):
            self.assertEqual(await self.code(alice, command, user="ALICE"), "forbidden")
            self.assertEqual(await self.code(alice, command, user="carol"), "not-found")
            self.assertEqual(await self.code(alice, command, user="no name"), "bad-request")

    async def test_words(self) -> None:
        """Words are one line of 256 characters at most."""
        alice, _bob = await self.pair()
        for words in ("x" * 257, "two\nlines", "\x1b[2J"):
            self.assertEqual(
                await self.code(alice, "befriend", user="bob", words=words), "bad-request"
            )
        await self.done(alice, "befriend", user="bob", words="好" * 256)

    async def test_lines(self) -> None:
        """A person at telnet asks, answers and lists."""
        alice, bob = await self.user("alice", self.lines()), await self.user("bob", self.lines())
        (asked,) = await alice.answer("/befriend @bob it's me, Alice")
        self.assertRegex(asked, r"^\+OK user=bob state=asked seq=1 at=\d+$")
        self.assertEqual(
            await bob.event(),
            '* befriended @bob bob seq=1 user=alice by=alice words="it\'s me, Alice"',
        )
        first, last = await bob.answer("/friends")
        self.assertRegex(first, r'^= alice state=asking since=\d+ words="it\'s me, Alice"$')
        self.assertEqual(last, "+OK more=false")
        (accepted,) = await bob.answer("/accept alice")
        self.assertTrue(accepted.startswith("+OK user=alice state=friend"))
        self.assertEqual(await alice.event(), "* accepted @alice alice seq=2 user=bob")
        self.assertEqual((await alice.answer("/remark bob my old friend"))[0][:4], "+OK ")
        first, _last = await alice.answer("/friends")
        self.assertRegex(
            first, r'^= bob state=friend since=\d+ remark="my old friend" presence=offline$'
        )

    async def test_http(self) -> None:
        """Over HTTP it is the same, and what happens reaches live sessions."""
        alice, bob = await self.user("alice", self.http()), await self.user("bob")
        await self.done(alice, "befriend", user="bob")
        self.assertEqual((await bob.event())["by"], "alice")
        await self.done(bob, "accept", user="alice")
        self.assertEqual(await self.states(alice), {"bob": "friend"})


class Ending(People):
    """No friends any more."""

    async def test_unfriended(self) -> None:
        """Whoever ends it, it is over for both; only one's own devices are told."""
        alice, bob = await self.friends()
        phone = await self.user("alice")
        tie = await self.done(alice, "unfriend", user="bob")
        self.assertEqual(tie["state"], "")
        while (event := await phone.event())["event"] != "unfriended":
            pass
        self.assertEqual(event["user"], "bob")
        self.assertEqual(await self.states(alice) | await self.states(bob), {})
        self.assertEqual(await self.inbox(bob, "bob"), ["befriended", "accepted"])
        self.assertEqual(await self.code(bob, "unfriend", user="alice"), "not-found")

    async def test_remarks(self) -> None:
        """A remark is shown to its author alone, in the list, on the card and to other devices."""
        alice, bob = await self.friends()
        phone = await self.user("alice")
        await self.done(alice, "remark", user="bob", remark="the boss")
        while (event := await phone.event())["event"] != "remarked":
            pass
        self.assertEqual((event["user"], event["remark"]), ("bob", "the boss"))
        (friend,) = (await self.done(alice, "friends"))["friends"]
        self.assertEqual(friend["remark"], "the boss")
        self.assertEqual((await self.done(alice, "user", user="bob"))["remark"], "the boss")
        (friend,) = (await self.done(bob, "friends"))["friends"]
        self.assertNotIn("remark", friend)
        self.assertNotIn("remarked", await self.inbox(bob, "bob"))
        await self.done(alice, "remark", user="bob")
        (friend,) = (await self.done(alice, "friends"))["friends"]
        self.assertNotIn("remark", friend)

    async def test_pages(self) -> None:
        """Lists come in pages, by name."""
        alice = await self.user("alice")
        for name in ("dora", "Carl", "eve"):
            await self.user(name)
            await self.done(alice, "befriend", user=name)
        first = await self.done(alice, "friends", limit=2)
        self.assertEqual([each["user"] for each in first["friends"]], ["Carl", "dora"])
        self.assertTrue(first["more"])
        second = await self.done(alice, "friends", after="DORA", limit=2)
        self.assertEqual([each["user"] for each in second["friends"]], ["eve"])
        self.assertFalse(second["more"])
        for name in ("dora", "Carl", "eve"):
            await self.done(alice, "block", user=name)
        first = await self.done(alice, "blocks", limit=2)
        self.assertEqual((first["users"], first["more"]), (["Carl", "dora"], True))
        second = await self.done(alice, "blocks", after="dora", limit=2)
        self.assertEqual((second["users"], second["more"]), (["eve"], False))


class Blocking(People):
    """Who is blocked reaches nobody."""

    async def test_everything_stops(self) -> None:
        """Neither writes to the other any more, from the next request on, though they did a
        moment ago; friendship is over, and only one's own devices are told."""
        alice, bob = await self.friends()
        await self.done(alice, "say", to="@bob", text="hi")
        await self.done(bob, "say", to="@alice", text="hi")
        self.assertTrue((await self.done(alice, "block", user="bob"))["blocked"])
        for command, parameters in (
            ("say", {"to": "@alice", "text": "why?"}),
            ("typing", {"to": "@alice"}),
            ("befriend", {"user": "alice"}),
        ):
            self.assertEqual(await self.code(bob, command, **parameters), "blocked")
        for command, parameters in (
            ("say", {"to": "@bob", "text": "because"}),
            ("typing", {"to": "@bob"}),
            ("befriend", {"user": "bob"}),
        ):
            self.assertEqual(await self.code(alice, command, **parameters), "blocked")
        self.assertEqual(await self.states(alice) | await self.states(bob), {})
        self.assertNotIn("blocked", await self.inbox(bob, "bob"))
        self.assertEqual((await self.done(alice, "blocks"))["users"], ["bob"])
        self.assertEqual((await self.done(bob, "blocks"))["users"], [])

    async def test_unblocked(self) -> None:
        """Who is not blocked any more writes and asks again, but is no friend."""
        alice, bob = await self.friends()
        await self.done(alice, "block", user="bob")
        self.assertEqual(await self.code(bob, "say", to="@alice", text="?"), "blocked")
        await self.done(alice, "unblock", user="bob")
        await self.done(bob, "say", to="@alice", text="hi")
        await self.done(bob, "befriend", user="alice")
        self.assertEqual(await self.states(alice), {"bob": "asking"})
        self.assertEqual(await self.code(alice, "unblock", user="bob"), "not-found")

    async def test_looks_like_any_refusal(self) -> None:
        """Who is blocked reads the same as a stranger to whom only friends may write."""
        alice, bob = await self.pair()
        await self.done(alice, "profile", writers="friends")
        closed = await bob.ask("say", to="@alice", text="hi")
        await self.done(alice, "profile", writers="everybody")
        await self.done(alice, "block", user="bob")
        blocked = await bob.ask("say", to="@alice", text="hi")
        for name in ("error", "message"):
            self.assertEqual(blocked[name], closed[name])
        self.assertNotIn("blocked", await self.done(bob, "user", user="alice"))


class Writers(People):
    """Who may write to me."""

    async def test_friends_alone(self) -> None:
        """From the moment I say so strangers cannot write, friends can; friendship and its end
        count at once."""
        alice, bob = await self.pair()
        await self.done(bob, "say", to="@alice", text="one")
        await self.done(alice, "profile", writers="friends")
        self.assertEqual(await self.code(bob, "say", to="@alice", text="two"), "blocked")
        await self.done(alice, "say", to="@bob", text="but I may")
        await self.done(bob, "befriend", user="alice")
        self.assertEqual(await self.code(bob, "say", to="@alice", text="three"), "blocked")
        await self.done(alice, "accept", user="bob")
        await self.done(bob, "say", to="@alice", text="four")
        await self.done(alice, "unfriend", user="bob")
        self.assertEqual(await self.code(bob, "say", to="@alice", text="five"), "blocked")
        await self.done(alice, "profile", writers="everybody")
        await self.done(bob, "say", to="@alice", text="six")


class Limited(People):
    """One has so many friends at most."""

    limits = Limits(friends=1)

    async def test_friends(self) -> None:
        """With as many friends and requests as there may be, one asks nobody else."""
        alice, _bob = await self.pair()
        await self.user("carol")
        await self.done(alice, "befriend", user="bob")
        self.assertEqual(await self.code(alice, "befriend", user="carol"), "too-large")
        await self.done(alice, "unfriend", user="bob")
        await self.done(alice, "befriend", user="carol")

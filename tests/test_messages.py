"""Replies, edits, recalls, reactions, forwards, mentions, pins, hidden and shed messages, over
every wire."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from chatd.mentions import candidates
from chatd.settings import Messages
from chatd.store.dialects import Dialect
from tests.bed import CalmCase, Frames

BIG = 2**63 - 1
DAY = 86_400


class MessagesCase(CalmCase):
    """Alice, who owns the group `team`, and Bob, its member, who talk to each other by WebSocket;
    the time is the test's."""

    def setUp(self) -> None:
        super().setUp()
        self.time = 1_763_622_149.0
        self.node.now = lambda: self.time

    async def people(self, *others: str) -> list[Any]:
        """Alice, Bob and others, all in the group."""
        clients = [await self.user(name) for name in ("alice", "bob", *others)]
        await self.ok(clients[0], "create", name="team")
        for client in clients[1:]:
            await self.ok(client, "join", group="team")
        return clients

    async def ok(self, client: Any, command: str, /, **parameters: Any) -> Any:
        """The reply to a request that succeeds."""
        reply = await client.ask(command, **parameters)
        self.assertTrue(reply["ok"], (command, parameters, reply))
        return reply

    async def refused(self, client: Any, command: str, /, **parameters: Any) -> str:
        """The code with which a request is refused."""
        reply = await client.ask(command, **parameters)
        self.assertFalse(reply["ok"], (command, parameters, reply))
        return str(reply["error"])

    async def say(self, client: Any, to: str, text: str, **parameters: Any) -> int:
        """The seq of a new message."""
        return int((await self.ok(client, "say", to=to, text=text, **parameters))["seq"])

    async def heard(self, client: Frames, kind: str) -> dict[str, Any]:
        """The next event of a kind; those before it are passed over."""
        while (event := await client.event())["event"] != kind:
            pass
        return event

    async def entries(self, client: Any, to: str) -> list[dict[str, Any]]:
        """A room's entries as history has them."""
        found: list[dict[str, Any]] = (await self.ok(client, "history", to=to, limit=200))[
            "entries"
        ]
        return found

    async def entry(self, client: Any, to: str, seq: int) -> dict[str, Any]:
        """One entry as history has it."""
        (found,) = [one for one in await self.entries(client, to) if one["seq"] == seq]
        return found

    async def everywhere(self) -> str:
        """All that the database holds, as text."""

        def dump(connection: Any) -> str:
            tables = connection.all("SELECT name FROM sqlite_schema WHERE type = 'table'")
            return repr([connection.all(f"SELECT * FROM {name}") for (name,) in tables])

        found: str = await self.node.store.read(dump)
        return found


class ReplyTests(MessagesCase):
    """Replies with a quote."""

    async def test_quote(self) -> None:
        """A reply quotes the present text, cut, live and when read, and stores none of it."""
        alice, bob = await self.people()
        first = await self.say(alice, "#team", "secret " * 50)
        await self.heard(bob, "message")
        seq = await self.say(alice, "#team", "yes", reply_to=first)
        quote = {"seq": first, "from": "alice", "text": ("secret " * 50)[:100]}
        self.assertEqual((await self.heard(bob, "message"))["quote"], quote)
        self.assertEqual((await self.entry(bob, "#team", seq))["quote"], quote)
        self.assertEqual((await self.everywhere()).count("secret " * 50), 1)
        self.assertEqual((await self.everywhere()).count("quote"), 0)
        await self.ok(alice, "edit", to="#team", seq=first, text="open")
        self.assertEqual((await self.entry(bob, "#team", seq))["quote"]["text"], "open")
        await self.ok(alice, "recall", to="#team", seq=first)
        gone = {"seq": first, "from": "alice", "text": "", "recalled": True}
        self.assertEqual((await self.entry(bob, "#team", seq))["quote"], gone)
        self.assertEqual((await self.ok(bob, "rooms"))["rooms"][0]["last"]["event"], "recalled")

    async def test_no_such_message(self) -> None:
        """What is not a message of that room cannot be replied to."""
        alice, bob = await self.people()
        there = await self.say(alice, "@bob", "psst")
        for seq in (0, 1, 2, there + 5, 99, BIG):  # 1 and 2: created, joined
            self.assertEqual(
                await self.refused(alice, "say", to="#team", text="x", reply_to=seq), "not-found"
            )
        self.assertEqual(
            await self.refused(alice, "say", to="#team", text="x", reply_to=2**63), "bad-request"
        )
        here = await self.say(alice, "#team", "x")
        await self.ok(alice, "recall", to="#team", seq=here)
        self.assertEqual(
            await self.refused(bob, "say", to="#team", text="x", reply_to=here), "conflict"
        )

    async def test_key(self) -> None:
        """A repeat of a reply whose target was recalled since is answered like the first."""
        alice, _ = await self.people()
        first = await self.say(alice, "#team", "x")
        seq = await self.say(alice, "#team", "y", reply_to=first, key="k")
        await self.ok(alice, "recall", to="#team", seq=first)
        again = await self.ok(alice, "say", to="#team", text="y", reply_to=first, key="k")
        self.assertEqual((again["seq"], again["duplicate"]), (seq, True))


class EditTests(MessagesCase):
    """Edits and their versions."""

    async def test_edit(self) -> None:
        """An edit shows its text live, in the message and in its own entry; what was there
        before is kept, and stands nowhere else."""
        alice, bob = await self.people()
        seq = await self.say(alice, "@bob", "one")
        self.time += 1
        done = await self.ok(alice, "edit", to="@bob", seq=seq, text="two")
        event = await self.heard(bob, "edited")
        self.assertEqual((event["seq"], event["target"], event["text"]), (done["seq"], seq, "two"))
        self.time += 1
        later = await self.ok(alice, "edit", to="@bob", seq=seq, text="three")
        for at in (done["seq"], later["seq"]):
            self.assertEqual((await self.entry(bob, "@alice", at))["text"], "three")
        shown = await self.entry(bob, "@alice", seq)
        self.assertEqual((shown["text"], shown["edited"]), ("three", later["at"]))
        found = (await self.ok(bob, "versions", to="@alice", seq=seq))["versions"]
        self.assertEqual(
            [(one["text"], one["at"]) for one in found],
            [("one", shown["at"]), ("two", done["at"]), ("three", later["at"])],
        )
        self.assertEqual((await self.everywhere()).count("three"), 1)

    async def test_same_again(self) -> None:
        """An edit that changes nothing leaves no entry."""
        alice, _ = await self.people()
        seq = await self.say(alice, "@bob", "one")
        again = await self.ok(alice, "edit", to="@bob", seq=seq, text="one")
        self.assertEqual((again.get("seq"), again["unchanged"]), (None, True))
        self.assertEqual(len(await self.entries(alice, "@bob")), 1)

    async def test_limits(self) -> None:
        """Only one's own messages, only for a time, only so often, only what is a message."""
        self.node.messages = Messages(edit_seconds=100)
        alice, bob = await self.people()
        seq = await self.say(alice, "#team", "one")
        self.assertEqual(
            await self.refused(bob, "edit", to="#team", seq=seq, text="x"), "forbidden"
        )
        for wrong in (1, 77, BIG):
            self.assertEqual(
                await self.refused(alice, "edit", to="#team", seq=wrong, text="x"), "not-found"
            )
        self.assertEqual(
            await self.refused(alice, "edit", to="#team", seq=seq, text="x" * 8001), "too-large"
        )
        for n in range(20):
            await self.ok(alice, "edit", to="#team", seq=seq, text=f"number {n}")
        self.assertEqual(
            await self.refused(alice, "edit", to="#team", seq=seq, text="x"), "too-large"
        )
        self.assertEqual(len((await self.ok(bob, "versions", to="#team", seq=seq))["versions"]), 21)
        other = await self.say(alice, "#team", "two")
        self.time += 99
        await self.ok(alice, "edit", to="#team", seq=other, text="in time")
        self.time += 1
        self.assertEqual(
            await self.refused(alice, "edit", to="#team", seq=other, text="late"), "forbidden"
        )

    async def test_never(self) -> None:
        """With 0 seconds nothing can be edited."""
        self.node.messages = Messages(edit_seconds=0)
        alice, _ = await self.people()
        seq = await self.say(alice, "#team", "one")
        self.assertEqual(
            await self.refused(alice, "edit", to="#team", seq=seq, text="x"), "forbidden"
        )

    async def test_data(self) -> None:
        """Data can be edited where there is some, in its kind's shape; else it stays."""
        alice, _ = await self.people()
        seq = await self.say(alice, "@bob", "x", kind="location", data={"lat": 1, "lon": 2})
        await self.ok(alice, "edit", to="@bob", seq=seq, text="y")
        self.assertEqual((await self.entry(alice, "@bob", seq))["data"], {"lat": 1, "lon": 2})
        await self.ok(alice, "edit", to="@bob", seq=seq, text="y", data={"lat": 3, "lon": 2})
        self.assertEqual((await self.entry(alice, "@bob", seq))["data"], {"lat": 3, "lon": 2})
        self.assertEqual(
            await self.refused(
                alice, "edit", to="@bob", seq=seq, text="y", data={"lat": 91, "lon": 0}
            ),
            "bad-request",
        )
        plain = await self.say(alice, "@bob", "plain")
        self.assertEqual(
            await self.refused(alice, "edit", to="@bob", seq=plain, text="y", data={}),
            "bad-request",
        )

    async def test_muted(self) -> None:
        """Who may not write may not edit or react either, but may recall."""
        alice, bob = await self.people()
        seq = await self.say(bob, "#team", "one")
        (session,) = [s for s in self.node.hub.sessions if s.user and s.user.name == "bob"]
        room = await self.node.group("team")
        self.node.hub.restand(room.id, session.user.id, muted_until=2**52)  # type: ignore[union-attr]
        self.assertEqual(await self.refused(bob, "edit", to="#team", seq=seq, text="x"), "muted")
        self.assertEqual(await self.refused(bob, "react", to="#team", seq=seq, emoji="x"), "muted")
        await self.ok(bob, "recall", to="#team", seq=seq)
        self.assertEqual((await self.heard(alice, "recalled"))["target"], seq)

    async def test_blocked(self) -> None:
        """To whom takes no messages nothing is told by an edit, a reaction or a pin either; one's
        own can be recalled, and a reaction taken back."""
        alice, bob = await self.people()
        seq = await self.say(alice, "@bob", "one")
        await self.ok(alice, "react", to="@bob", seq=seq, emoji="x")
        await self.node.store.write(
            lambda db: db.run(
                "INSERT INTO contacts (user_id, other_id, blocked)"
                " SELECT b.id, a.id, 1 FROM users a, users b WHERE a.name = 'alice'"
                " AND b.name = 'bob'"
            )
        )
        self.node.hub.reconsider()
        for command, more in (
            ("edit", {"text": "x"}),
            ("react", {"emoji": "y"}),
            ("pin", {}),
            ("forward", {"into": "@bob"}),
        ):
            code = await self.refused(alice, command, to="@bob", seq=seq, **more)
            self.assertEqual(code, "blocked", command)
        await self.ok(alice, "react", to="@bob", seq=seq, emoji="x", on=False)
        await self.ok(alice, "recall", to="@bob", seq=seq)
        self.assertEqual((await self.heard(bob, "recalled"))["target"], seq)


class RecallTests(MessagesCase):
    """Recalls."""

    async def test_gone(self) -> None:
        """Nothing of a recalled message is left in the database, nor in what anybody reads; others
        have nothing unread of it."""
        alice, bob, carol = await self.people("carol")
        words = ("Geheimnis", "versteckt", "verborgen")
        seq = await self.say(alice, "#team", f"{words[0]} @bob")
        await self.say(bob, "#team", "what?", reply_to=seq)
        await self.ok(alice, "edit", to="#team", seq=seq, text=words[1])
        await self.ok(alice, "edit", to="#team", seq=seq, text=words[2])
        await self.ok(bob, "react", to="#team", seq=seq, emoji="👍")
        await self.ok(alice, "pin", to="#team", seq=seq)
        unread = (await self.ok(carol, "rooms"))["rooms"][0]["unread"]
        done = await self.ok(alice, "recall", to="#team", seq=seq)
        event = await self.heard(bob, "recalled")
        self.assertEqual((event["seq"], event["target"]), (done["seq"], seq))
        everything = await self.everywhere() + json.dumps(await self.entries(bob, "#team"))
        for word in words:
            self.assertNotIn(word, everything)
        counts = await self.node.store.read(
            lambda db: [
                db.one(f"SELECT COUNT(*) FROM {table} WHERE seq = ?", (seq,))
                for table in ("versions", "mentions", "reactions", "pins")
            ]
        )
        self.assertEqual(counts, [(0,)] * 4)
        shown = await self.entry(bob, "#team", seq)
        self.assertEqual((shown["event"], shown["text"], shown["recalled"]), ("message", "", True))
        self.assertEqual((await self.ok(carol, "rooms"))["rooms"][0]["unread"], unread - 1)
        self.assertEqual((await self.ok(bob, "pins", to="#team"))["pins"], [])
        for command, more in (
            ("recall", {}),
            ("edit", {"text": "x"}),
            ("react", {"emoji": "x"}),
            ("react", {"emoji": "👍", "on": False}),
            ("pin", {}),
            ("forward", {"into": "@bob"}),
            ("versions", {}),
            ("reactions", {}),
        ):
            code = await self.refused(alice, command, to="#team", seq=seq, **more)
            self.assertEqual(code, "conflict", command)

    async def test_who(self) -> None:
        """One's own for a time; admins those of members at any time, but not the owner's; in a
        direct room nobody another's."""
        alice, bob, carol, dora = await self.people("carol", "dora")
        await self._appoint("carol")
        await self._appoint("dora")
        by = {
            name: await self.say(client, "#team", "x")
            for name, client in (("alice", alice), ("bob", bob), ("carol", carol))
        }
        late = await self.say(bob, "#team", "x")
        self.assertEqual(
            await self.refused(bob, "recall", to="#team", seq=by["carol"]), "forbidden"
        )
        self.assertEqual(
            await self.refused(carol, "recall", to="#team", seq=by["alice"]), "forbidden"
        )
        self.assertEqual(
            await self.refused(dora, "recall", to="#team", seq=by["carol"]), "forbidden"
        )
        self.time += DAY
        self.assertEqual(await self.refused(bob, "recall", to="#team", seq=late), "forbidden")
        for client, seq in ((carol, by["bob"]), (carol, by["carol"]), (alice, late)):
            await self.ok(client, "recall", to="#team", seq=seq)
        seq = await self.say(alice, "@bob", "x")
        self.assertEqual(await self.refused(bob, "recall", to="@alice", seq=seq), "forbidden")
        self.time += DAY
        self.assertEqual(await self.refused(alice, "recall", to="@bob", seq=seq), "forbidden")

    async def _appoint(self, name: str) -> None:
        await self.node.store.write(
            lambda db: db.run(
                "UPDATE members SET role = 'admin' WHERE user_id ="
                " (SELECT id FROM users WHERE name = ?)",
                (name,),
            )
        )

    async def test_offline(self) -> None:
        """Who was away gets the recall, and nothing of what was recalled."""
        alice, bob = await self.people()
        bob.vanish()
        seq = await self.say(alice, "@bob", "Geheimnis")
        await self.ok(alice, "recall", to="@bob", seq=seq)
        bob = await self.user("bob")
        while (event := await bob.event())["event"] != "recalled":
            self.assertNotIn("Geheimnis", json.dumps(event))
        self.assertEqual(event["target"], seq)

    async def test_key(self) -> None:
        """A repeat of the key of what was recalled is answered like the first, and says nothing
        again."""
        alice, _ = await self.people()
        seq = await self.say(alice, "@bob", "Geheimnis", key="k")
        await self.ok(alice, "recall", to="@bob", seq=seq)
        again = await self.ok(alice, "say", to="@bob", text="Geheimnis", key="k")
        self.assertEqual(again["seq"], seq)
        self.assertNotIn("Geheimnis", await self.everywhere())

    async def test_notes_to_self(self) -> None:
        """Notes to oneself can be edited, pinned and recalled."""
        alice = await self.user("alice")
        seq = await self.say(alice, "@alice", "buy milk")
        await self.ok(alice, "edit", to="@alice", seq=seq, text="buy bread")
        await self.ok(alice, "pin", to="@alice", seq=seq)
        self.assertEqual(
            (await self.ok(alice, "pins", to="@alice"))["pins"][0]["text"], "buy bread"
        )
        await self.ok(alice, "recall", to="@alice", seq=seq)
        self.assertTrue((await self.entry(alice, "@alice", seq))["recalled"])


class ReactionTests(MessagesCase):
    """Reactions."""

    async def test_react(self) -> None:
        """A reaction is an entry, counted in the message with the first who reacted; it can be
        taken back; a repeat changes nothing."""
        alice, bob, carol, dora, erin = await self.people("carol", "dora", "erin")
        seq = await self.say(alice, "#team", "x")
        for client in (bob, carol, dora, erin):
            self.time += 1
            await self.ok(client, "react", to="#team", seq=seq, emoji="👍")
        event = await self.heard(alice, "reacted")
        self.assertEqual(
            {name: event[name] for name in ("from", "target", "emoji", "on")},
            {"from": "bob", "target": seq, "emoji": "👍", "on": True},
        )
        await self.ok(alice, "react", to="#team", seq=seq, emoji="👀")
        before = len(await self.entries(alice, "#team"))
        self.assertTrue((await self.ok(bob, "react", to="#team", seq=seq, emoji="👍"))["unchanged"])
        off = await self.ok(bob, "react", to="#team", seq=seq, emoji="👀", on=False)
        self.assertTrue(off["unchanged"])
        self.assertEqual(len(await self.entries(alice, "#team")), before)
        self.assertEqual(
            (await self.entry(alice, "#team", seq))["reactions"],
            [
                {"emoji": "👍", "count": 4, "users": ["bob", "carol", "dora"]},
                {"emoji": "👀", "count": 1, "users": ["alice"]},
            ],
        )
        page = await self.ok(bob, "reactions", to="#team", seq=seq, limit=2)
        self.assertEqual((len(page["reactions"]), page["more"]), (2, True))
        last = page["reactions"][-1]
        rest = await self.ok(
            bob, "reactions", to="#team", seq=seq, after=f"{last['emoji']} {last['user']}"
        )
        names = [one["user"] for one in page["reactions"] + rest["reactions"]]
        self.assertEqual(sorted(names), ["alice", "bob", "carol", "dora", "erin"])
        await self.ok(alice, "react", to="#team", seq=seq, emoji="👀", on=False)
        await self.ok(bob, "react", to="#team", seq=seq, emoji="👍", on=False)
        self.assertEqual(
            (await self.entry(alice, "#team", seq))["reactions"],
            [{"emoji": "👍", "count": 3, "users": ["carol", "dora", "erin"]}],
        )

    async def test_survives_an_edit(self) -> None:
        """An edited message keeps its reactions, and its versions have none."""
        alice, bob = await self.people()
        seq = await self.say(alice, "@bob", "x")
        await self.ok(bob, "react", to="@alice", seq=seq, emoji="👍")
        await self.ok(alice, "edit", to="@bob", seq=seq, text="y")
        shown = await self.entry(bob, "@alice", seq)
        self.assertEqual((shown["text"], shown["reactions"][0]["count"]), ("y", 1))
        self.assertNotIn(
            "👍", str((await self.ok(bob, "versions", to="@alice", seq=seq))["versions"])
        )

    async def test_counts(self) -> None:
        """An event tells how many have reacted so now, however late it is read: the message may
        have been read with it or without it."""
        alice, bob = await self.people()
        seq = await self.say(alice, "@bob", "x")
        await self.ok(bob, "react", to="@alice", seq=seq, emoji="👍")
        self.assertEqual((await self.heard(alice, "reacted"))["count"], 1)
        await self.ok(alice, "react", to="@bob", seq=seq, emoji="👍")
        self.assertEqual((await self.heard(bob, "reacted"))["count"], 2)
        told = [one["count"] for one in await self.entries(bob, "@alice") if "emoji" in one]
        self.assertEqual(told, [2, 2])
        await self.ok(alice, "recall", to="@bob", seq=seq)
        told = [one["count"] for one in await self.entries(bob, "@alice") if "emoji" in one]
        self.assertEqual(told, [0, 0])

    async def test_limits(self) -> None:
        """Twenty emoji on a message, 32 bytes in one, no controls and no spaces."""
        alice, bob = await self.people()
        seq = await self.say(alice, "@bob", "x")
        for n in range(20):
            await self.ok(alice, "react", to="@bob", seq=seq, emoji=f"e{n}")
        self.assertEqual(
            await self.refused(bob, "react", to="@alice", seq=seq, emoji="e"), "too-large"
        )
        await self.ok(bob, "react", to="@alice", seq=seq, emoji="e3")
        for emoji in ("", "x" * 33, "x" * 10_240, "a b", " ", "\x1b", "\u2028", "\x9b", "\u3000"):
            code = await self.refused(bob, "react", to="@alice", seq=seq, emoji=emoji)
            self.assertEqual(code, "bad-request", repr(emoji))
        self.assertEqual(
            await self.refused(bob, "react", to="@alice", seq=seq, emoji="刘" * 11), "too-large"
        )
        await self.ok(bob, "react", to="@alice", seq=seq, emoji="e3", on=False)
        await self.ok(alice, "react", to="@bob", seq=seq, emoji="e3", on=False)
        await self.ok(bob, "react", to="@alice", seq=seq, emoji="👩‍👩‍👧‍👦")


class ForwardTests(MessagesCase):
    """Forwards."""

    async def test_forward(self) -> None:
        """A forward is a message of its own with the same text and data, and names who wrote it,
        also the second time."""
        alice, bob, carol = await self.people("carol")
        data = {"lat": 1.5, "lon": -2, "name": "home"}
        seq = await self.say(alice, "#team", "here", kind="location", data=data, reply_to=None)
        done = await self.ok(bob, "forward", to="#team", seq=seq, into="@carol", key="k")
        event = await self.heard(carol, "message")
        event = event if "forwarded" in event else await self.heard(carol, "message")
        self.assertEqual(event["forwarded"], {"from": "alice"})
        self.assertEqual((event["text"], event["kind"], event["data"]), ("here", "location", data))
        again = await self.ok(carol, "forward", to="@bob", seq=done["seq"], into="@alice")
        shown = await self.entry(alice, "@carol", again["seq"])
        self.assertEqual((shown["from"], shown["forwarded"]), ("carol", {"from": "alice"}))
        await self.ok(alice, "recall", to="#team", seq=seq)
        repeat = await self.ok(bob, "forward", to="#team", seq=seq, into="@carol", key="k")
        self.assertEqual((repeat["seq"], repeat["duplicate"]), (done["seq"], True))
        code = await self.refused(bob, "forward", to="#team", seq=seq, into="@carol", key="other")
        self.assertEqual(code, "conflict")

    async def test_rights(self) -> None:
        """One must be able to read there and to write here."""
        alice, _ = await self.people()
        carol = await self.user("carol")
        seq = await self.say(alice, "#team", "x")
        private = await self.say(alice, "@bob", "x")
        for to, into, number, code in (
            ("#team", "@alice", seq, "not-a-member"),
            ("@bob", "@alice", private, "not-found"),
            ("@alice", "@bob", 1, "not-found"),
            ("@nobody", "@bob", 1, "not-found"),
        ):
            found = await self.refused(carol, "forward", to=to, seq=number, into=into)
            self.assertEqual(found, code, (to, into))
        note = await self.say(carol, "@carol", "x")
        self.assertEqual(
            await self.refused(carol, "forward", to="@carol", seq=note, into="#team"),
            "not-a-member",
        )


class MentionTests(MessagesCase):
    """Mentions."""

    async def mentioned(self) -> list[tuple[int, str | None]]:
        """(seq, name) of all that is noted; None is everybody."""
        found: list[tuple[int, str | None]] = await self.node.store.read(
            lambda db: db.all(
                "SELECT m.seq, u.name FROM mentions m LEFT JOIN users u ON u.id = m.user_id"
                " ORDER BY 1, 2"
            )
        )
        return found

    async def test_names(self) -> None:
        """Members are mentioned by @name, with and without spaces around, or by a list; others,
        oneself and parts of words are not."""
        alice, bob, liu = await self.people("刘备")
        a = await self.say(alice, "#team", "@BOB and @alice, mail to x@bob.example, @bobby @carol")
        b = await self.say(bob, "#team", "你好@刘备明天 @bob")
        c = await self.say(liu, "#team", "hello", mentions=["bob", "ALICE", "bob"])
        d = await self.say(liu, "#team", "@alice", mentions=["alice"])
        self.assertEqual(
            await self.mentioned(),
            [(a, "bob"), (b, "刘备"), (c, "alice"), (c, "bob"), (d, "alice")],
        )
        self.assertEqual((await self.entry(bob, "#team", b))["mentions"], ["刘备"])
        self.assertEqual((await self.entry(bob, "#team", c))["mentions"], ["bob", "alice"])
        self.assertEqual(
            await self.refused(bob, "say", to="#team", text="x", mentions=["nobody"]), "not-found"
        )
        for wrong in (["a" * 65], ["bob"] * 51, "bob", [1], [""]):
            self.assertEqual(
                await self.refused(alice, "say", to="#team", text="x", mentions=wrong),
                "bad-request",
            )
        self.assertEqual(
            await self.refused(bob, "say", to="@alice", text="x", mentions=["alice"]), "bad-request"
        )
        await self.say(bob, "@alice", "@alice")
        self.assertEqual(len(await self.mentioned()), 5)

    async def test_all(self) -> None:
        """An admin calls everybody, but not twice within a minute; from others it is a text."""
        alice, bob = await self.people()
        plain = await self.say(bob, "#team", "@all hello")
        self.assertNotIn("mentions", await self.entry(bob, "#team", plain))
        self.assertEqual(
            await self.refused(bob, "say", to="#team", text="x", mentions=["all"]), "forbidden"
        )
        seq = await self.say(alice, "#team", "@all hello")
        self.assertEqual((await self.entry(bob, "#team", seq))["mentions"], ["all"])
        self.assertEqual(await self.mentioned(), [(seq, None)])
        self.time += 59
        reply = await alice.ask("say", to="#team", text="@all again")
        self.assertEqual((reply["error"], round(reply["retry_after"])), ("rate-limited", 1))
        self.time += 1
        await self.say(alice, "#team", "again", mentions=["all"])

    async def test_demoted(self) -> None:
        """Who is no admin any more at the moment of storing does not call everybody."""
        alice, _ = await self.people()
        await self.node.store.write(lambda db: db.run("UPDATE members SET role = 'member'"))
        self.assertEqual(await self.refused(alice, "say", to="#team", text="@all"), "forbidden")
        self.assertEqual(await self.mentioned(), [])


class Candidates(SynchronousTestCase):
    """Which names may be meant."""

    def test_candidates(self) -> None:
        """Names end where words do, and anywhere in scripts without spaces."""
        for text, expected in (
            ("@bob", [["bob"]]),
            ("hi @Bob!", [["bob"]]),
            ("@bob-x", [["bob-x", "bob-", "bob"]]),
            ("@bob。", [["bob"]]),
            ("@bob明天", [["bob明天", "bob明", "bob"]]),
            ("你@刘备", [["刘备", "刘"]]),
            ("a@b", []),
            ("@", []),
            ("@@x", [["x"]]),
            ("@ｂｏｂ", [["bob"]]),
            ("@e\u0301a b", [["éa"]]),
            ("@कि", [["कि"]]),
        ):
            self.assertEqual(candidates(text), expected, text)

    def test_bounded(self) -> None:
        """However many @ there are, only so many names are looked for."""
        found = candidates("@刘" * 4000 + "@" + "备" * 4000)
        self.assertLessEqual(sum(map(len, found)), 20 * 32)


class PinTests(MessagesCase):
    """Pins."""

    async def test_group(self) -> None:
        """Admins pin and unpin in a group; all see it, once."""
        alice, bob = await self.people()
        one, two = [await self.say(bob, "#team", text) for text in ("one", "two")]
        self.assertEqual(await self.refused(bob, "pin", to="#team", seq=one), "forbidden")
        await self.ok(alice, "pin", to="#team", seq=two)
        self.assertEqual((await self.heard(bob, "pinned"))["target"], two)
        self.time += 1
        await self.ok(alice, "pin", to="#team", seq=one)
        self.assertTrue((await self.ok(alice, "pin", to="#team", seq=one))["unchanged"])
        await self.ok(bob, "edit", to="#team", seq=two, text="zwei")
        found = (await self.ok(bob, "pins", to="#team"))["pins"]
        self.assertEqual([(p["seq"], p["text"]) for p in found], [(two, "zwei"), (one, "one")])
        self.assertEqual(await self.refused(bob, "unpin", to="#team", seq=one), "forbidden")
        await self.ok(alice, "unpin", to="#team", seq=two)
        self.assertEqual((await self.heard(bob, "unpinned"))["target"], two)
        self.assertTrue((await self.ok(alice, "unpin", to="#team", seq=two))["unchanged"])
        await self.ok(bob, "hide", to="#team", seq=one)
        self.assertEqual((await self.ok(bob, "pins", to="#team"))["pins"], [])
        self.assertEqual(len((await self.ok(alice, "pins", to="#team"))["pins"]), 1)

    async def test_most(self) -> None:
        """A room has fifty pins; in a direct room both pin."""
        alice, bob = await self.people()
        for n in range(51):
            await self.say(alice, "@bob", str(n))
        for seq in range(1, 51):
            await self.ok((alice, bob)[seq % 2], "pin", to=("@bob", "@alice")[seq % 2], seq=seq)
        self.assertEqual(await self.refused(bob, "pin", to="@alice", seq=51), "too-large")
        self.assertEqual(len((await self.ok(bob, "pins", to="@alice"))["pins"]), 50)


class HideTests(MessagesCase):
    """Messages deleted for oneself."""

    async def test_hide(self) -> None:
        """It is noted once, and told to one's own other devices in the inbox."""
        alice, bob = await self.people()
        phone = await self.user("bob")
        seq = await self.say(alice, "@bob", "x")
        await self.ok(bob, "hide", to="@alice", seq=seq)
        event = await self.heard(phone, "hidden")
        self.assertEqual(
            {name: event[name] for name in ("to", "from", "room", "target")},
            {"to": "@bob", "from": "bob", "room": "@alice", "target": seq},
        )
        self.assertTrue((await self.ok(bob, "hide", to="@alice", seq=seq))["unchanged"])
        self.assertEqual(await self.refused(bob, "hide", to="@alice", seq=99), "not-found")
        self.assertEqual((await self.entry(alice, "@bob", seq))["text"], "x")
        rows = await self.node.store.read(lambda db: db.all("SELECT seq FROM hidden"))
        self.assertEqual(rows, [(seq,)])


class PayloadTests(MessagesCase):
    """What a message carries besides its text."""

    async def test_kinds(self) -> None:
        """Data of the right shape is told as it was given; other data is refused."""
        alice, bob = await self.people()
        for kind, data in (
            ("location", {"lat": -90, "lon": 180}),
            ("location", {"lat": 30.66, "lon": 104.06, "name": "成都"}),
            ("file", {"file": "f1", "name": "a.txt", "size": 3, "type": "text/plain"}),
            ("image", {"file": "f1", "width": 3, "height": 4}),
            ("poll", {"question": "?", "answers": [1, [2, {"x": None}]]}),
            ("note", None),
        ):
            more = {} if data is None else {"data": data}
            await self.say(alice, "@bob", "what one sees", kind=kind, **more)
            event = await self.heard(bob, "message")
            self.assertEqual((event["kind"], event.get("data")), (kind, data))
        before = len(await self.entries(alice, "@bob"))
        for kind, wrong in (
            ("location", {"lat": 90.1, "lon": 0}),
            ("location", {"lat": "1", "lon": 0}),
            ("location", {"lat": 1}),
            ("location", {"lat": 1, "lon": 0, "name": "\x1b[2J"}),
            ("location", {"lat": 1, "lon": 0, "more": 1}),
            ("location", None),
            ("file", {}),
            ("file", {"file": ""}),
            ("file", {"file": "f1", "size": -1}),
            ("image", None),
            ("image", {"file": ["f1"]}),
            ("text", {}),
            ("poll", []),
            ("poll", "x"),
            ("Poll", {}),
            ("recalled", None),
            ("erased", {}),
            ("system", {}),
            ("message", {}),
        ):
            parameters: Any = {"to": "@bob", "text": "x", "kind": kind, "data": wrong}
            self.assertEqual(
                await self.refused(alice, "say", **parameters), "bad-request", (kind, wrong)
            )
        code = await self.refused(
            alice, "say", to="@bob", text="x", kind="poll", data={"x": "y" * 4096}
        )
        self.assertEqual(code, "too-large")
        self.assertEqual(
            await self.refused(alice, "say", to="@bob", text="", kind="poll", data={}),
            "bad-request",
        )
        self.assertEqual(len(await self.entries(alice, "@bob")), before)

    async def test_deep(self) -> None:
        """Data that is nested deeply is refused, however deeply, over every wire."""
        alice, _ = await self.people()
        line = await self.user("alice", self.lines())
        post = await self.user("alice", self.http())
        for depth, code in ((32, None), (33, "bad-request"), (900, "bad-request"), (10_000, None)):
            data = '{"a":' * depth + "1" + "}" * depth
            head = '{"cmd":"say","id":1,"to":"@bob","text":"x","kind":"poll","data":'
            if depth < 1500:
                line.line(head + data + "}")
                while not (told := await line.next()).startswith('{"reply"'):
                    pass
                self.assertEqual(json.loads(told).get("error"), code, depth)
            alice.frame((head + data + "}").encode())
            while "reply" not in (reply := await alice.next()):
                pass
            body = ('{"to":"@bob","text":"x","kind":"poll","data":' + data + "}").encode()
            posted = await post.post("say", body)
            expected = "bad-request" if depth == 10_000 else code
            self.assertEqual((reply.get("error"), posted.get("error")), (expected, expected), depth)
        self.assertEqual(len(await self.entries(alice, "@bob")), 3)


class ShedTests(MessagesCase):
    """Messages that are not kept."""

    async def test_not_kept(self) -> None:
        """It goes to who is online, the sender's other sessions too, without a seq; nothing of it
        is stored."""
        alice, bob = await self.people()
        phone = await self.user("alice")
        first = await self.say(bob, "#team", "kept")
        done = await self.ok(
            alice, "say", to="#team", text="Geheimnis", store=False, reply_to=first
        )
        self.assertEqual(sorted(done), ["at", "ok", "reply"])
        for client in (bob, phone):
            while (event := await self.heard(client, "message"))["text"] != "Geheimnis":
                pass
            self.assertNotIn("seq", event)
            self.assertEqual((event["store"], event["quote"]["text"]), (False, "kept"))
        self.assertNotIn("Geheimnis", await self.everywhere())
        self.assertEqual(len(await self.entries(bob, "#team")), 3)

    async def test_rights(self) -> None:
        """It takes no key, and the rights of a message that is kept."""
        alice, _ = await self.people()
        carol = await self.user("carol")
        self.assertEqual(
            await self.refused(alice, "say", to="#team", text="x", store=False, key="k"),
            "bad-request",
        )
        self.assertEqual(
            await self.refused(carol, "say", to="#team", text="x", store=False), "not-a-member"
        )


class LineTests(MessagesCase):
    """What a person at telnet sees and types."""

    async def test_lines(self) -> None:
        """Each event is one line that tells what it is, whatever stands in it."""
        alice, _ = await self.people()
        bob = await self.user("bob", self.lines())

        async def line(word: str) -> str:
            while word not in (found := await bob.event()):
                pass
            return str(found)

        first = await self.say(alice, "#team", "one\r\n* #team 9 <bob> forged")
        seq = await self.say(alice, "#team", "two", reply_to=first)
        shown = f"* #team {seq} <alice> [re {first} <alice> one\\r\\n* #team 9 <bob> forged] two"
        self.assertEqual(await line("two"), shown)
        done = await self.ok(alice, "edit", to="#team", seq=seq, text="three four")
        self.assertEqual(
            await line("three"),
            f'* edited #team alice seq={done["seq"]} target={seq} text="three four"',
        )
        await self.ok(alice, "say", to="#team", text="gone soon", store=False)
        self.assertEqual(await line("soon"), "* #team - <alice> gone soon")
        await self.ok(alice, "forward", to="#team", seq=seq, into="@bob")
        self.assertEqual(await line("[from"), "* @bob 1 <alice> [from alice] three four")
        await self.ok(alice, "recall", to="#team", seq=first)
        *_, answer = await bob.answer("/history #team")
        self.assertTrue(answer.startswith("+OK"))
        lines = await bob.answer("/history #team")
        self.assertIn(f"= #team {first} <alice> [recalled]", lines)
        self.assertIn(
            f"= #team {seq} <alice> [edited] [re {first} <alice> [recalled]] three four", lines
        )

    async def test_typed(self) -> None:
        """Data and lists are typed as JSON, and the text takes the rest of the line."""
        await self.people()
        bob = await self.user("bob", self.lines())
        line = '/say #team kind=location data={"lat": 1, "lon": 2} mentions=["alice"] I am here'
        self.assertTrue((await bob.answer(line))[-1].startswith("+OK seq="))
        shown = (await self.entries(bob, "#team"))[-1]
        self.assertEqual(
            (shown["text"], shown["data"], shown["mentions"]),
            ("I am here", {"lat": 1, "lon": 2}, ["alice"]),
        )
        for wrong in ('{"lat": 1', "{", "[", "x"):
            answer = await bob.answer(f"/say #team kind=location data={wrong} text")
            self.assertTrue(answer[-1].startswith("-ERR bad-request"), wrong)
        self.assertTrue((await bob.answer("/react #team 3 👍"))[-1].startswith("+OK seq="))
        self.assertTrue(
            (await bob.answer("/react #team 3 👍 off"))[-1].startswith("-ERR bad-request")
        )
        self.assertTrue((await bob.answer("/react #team 3 👍 on=false"))[-1].startswith("+OK seq="))


class CostTests(MessagesCase):
    """What a plain text costs, and a reaction."""

    def make_dialect(self) -> Dialect:
        found = super().make_dialect()
        self.statements: list[str] = []

        def opened(raw: Any) -> None:
            found.opened(raw)
            raw.set_trace_callback(self.statements.append)

        return dataclasses.replace(found, opened=opened)

    async def cost(self, work: Callable[[], Any]) -> list[str]:
        """The first words of the statements that some work takes."""
        self.node.indexer.stop()  # it would mix in its own
        await self.node.indexer.level()
        self.statements.clear()
        await work()
        return [sql.split()[0] for sql in self.statements]

    async def test_plain(self) -> None:
        """A plain text takes one INSERT and no read; a page takes a look at what one may see and
        a query, and where there are replies or edits another one."""
        alice, _ = await self.people()
        await self.say(alice, "#team", "x")
        await self.say(alice, "@bob", "x")
        one = ["BEGIN", "INSERT", "COMMIT"]
        for to, text in (("#team", "x"), ("@bob", "x"), ("@bob", "x@y")):
            self.assertEqual(await self.cost(partial(self.say, alice, to, text)), one)
        nobody = await self.cost(lambda: self.say(alice, "#team", "x @nobody"))
        self.assertEqual(nobody, ["SELECT", *one])
        self.assertEqual(await self.cost(lambda: self.entries(alice, "#team")), ["SELECT"] * 2)
        seq = await self.say(alice, "#team", "y", reply_to=3)
        await self.ok(alice, "edit", to="#team", seq=seq, text="z")
        self.assertEqual(await self.cost(lambda: self.entries(alice, "#team")), ["SELECT"] * 3)

    async def test_reaction(self) -> None:
        """A reaction asks for none of those that there are."""
        alice, bob, *others = await self.people("carol", "dora", "erin")
        seq = await self.say(alice, "#team", "x")
        for client in others:
            await self.ok(client, "react", to="#team", seq=seq, emoji="👍")
        for on in (True, False):
            await self.cost(partial(self.ok, bob, "react", to="#team", seq=seq, emoji="👍", on=on))
            asked = [sql for sql in self.statements if "SELECT" in sql and "reactions" in sql]
            self.assertEqual(asked, [])

"""The list of rooms, what is unread, what one wants of a room, and what one may see of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from chatd.store.connection import Connection
from tests.bed import NodeCase


class RoomsCase(NodeCase):
    """What the tests of rooms share."""

    def client(self) -> Any:
        """A new client."""
        return self.frames()

    async def enter(self, *names: str) -> list[Any]:
        """Clients of users, who get nothing replayed, so that no cursor moves by itself."""
        return [await self.user(name, self.client(), replay=False) for name in names]

    async def done(self, client: Any, command: str, **parameters: Any) -> Any:
        """The reply to a request that succeeds."""
        reply = await client.ask(command, **parameters)
        self.assertTrue(reply["ok"], reply)
        return reply

    async def refused(self, client: Any, command: str, **parameters: Any) -> str:
        """The code of a request that is refused."""
        reply = await client.ask(command, **parameters)
        self.assertFalse(reply["ok"], reply)
        return str(reply["error"])

    async def say(self, client: Any, to: str, *texts: str) -> None:
        """Says so much, one after the other."""
        for text in texts:
            await self.done(client, "say", to=to, text=text)

    async def line(self, client: Any, address: str) -> dict[str, Any]:
        """A room's line in the list."""
        listed = (await self.done(client, "rooms"))["rooms"]
        found: dict[str, Any] = {one["address"]: one for one in listed}[address]
        return found

    async def texts(self, client: Any, to: str, **parameters: Any) -> list[str]:
        """What the history has."""
        entries = (await self.done(client, "history", to=to, **parameters))["entries"]
        return [one.get("text", one["event"]) for one in entries]

    async def change(self, sql: str, *values: Any) -> None:
        """Does to the database what no command here does."""
        await self.node.store.write(lambda db: _run(db, sql, values))

    async def room_id(self, where: str) -> int:
        """The id of a room."""
        sql = f"SELECT id FROM rooms WHERE {where}"
        rows: list[Any] = await self.node.store.read(lambda db: db.all(sql))
        return int(rows[0][0])


def _run(connection: Connection, sql: str, values: tuple[Any, ...]) -> None:
    connection.run(sql, values)


class Unread(RoomsCase):
    """What is unread."""

    async def test_counts(self) -> None:
        """Unread are the messages of others: not one's own, none that was recalled or hidden,
        none from before joining, none that was cleared."""
        alice, bob = await self.enter("alice", "bob")
        await self.done(alice, "create", name="team")
        await self.say(alice, "#team", "before")
        await self.done(bob, "join", group="team")
        self.assertEqual((await self.line(bob, "#team"))["unread"], 0)
        await self.say(alice, "#team", "4", "5", "6", "7")
        await self.say(bob, "#team", "8")
        self.assertEqual((await self.line(bob, "#team"))["unread"], 4)
        self.assertEqual((await self.line(alice, "#team"))["unread"], 1)
        room_id = await self.room_id("name = 'team'")
        await self.change("UPDATE entries SET kind = 'erased' WHERE seq = 4")
        self.assertEqual((await self.line(bob, "#team"))["unread"], 3)
        await self.change("INSERT INTO hidden (user_id, room_id, seq) VALUES (2, ?, 5)", room_id)
        self.assertEqual((await self.line(bob, "#team"))["unread"], 2)
        self.assertEqual((await self.line(alice, "#team"))["unread"], 1)
        await self.done(bob, "read", to="#team", seq=6)
        self.assertEqual((await self.line(bob, "#team"))["unread"], 1)
        await self.done(bob, "clear", to="#team")
        self.assertEqual((await self.line(bob, "#team"))["unread"], 0)
        self.assertEqual((await self.line(alice, "#team"))["unread"], 1)

    async def test_mentions(self) -> None:
        """Mentions of oneself and of all are counted apart, each message once, by the same
        rules."""
        alice, bob = await self.enter("alice", "bob")
        await self.say(alice, "@bob", *"12345")
        await self.say(bob, "@alice", "6")
        room_id = await self.room_id("kind = 'direct'")
        for user_id, seq in ((2, 1), (2, 2), (0, 2), (0, 3), (1, 4), (2, 5), (0, 6)):
            await self.change("INSERT INTO mentions VALUES (?, ?, ?)", room_id, user_id, seq)
        for expected, change in (
            (4, "UPDATE entries SET kind = 'erased' WHERE seq = 3"),
            (3, "INSERT INTO hidden (user_id, room_id, seq) SELECT 2, MIN(id), 1 FROM rooms"),
            (2, "UPDATE cursors SET read_seq = 4, delivered_seq = 4 WHERE user_id = 2"),
            (1, "DELETE FROM mentions"),
            (0, "DELETE FROM mentions"),
        ):
            self.assertEqual((await self.line(bob, "@alice"))["mentions"], expected, change)
            await self.change("INSERT INTO cursors (user_id, room_id) VALUES (2, ?)"
                           " ON CONFLICT DO NOTHING", room_id)  # fmt: skip
            await self.change(change)

    async def test_totals(self) -> None:
        """In all, rooms that notify count; muted and archived ones count apart, and a marked room
        counts as one."""
        me, *others = await self.enter("me", "ann", "bob", "cat", "dan", "eve")
        for other, name in zip(others, ("ann", "bob", "cat", "dan", "eve"), strict=True):
            await self.say(other, "@me", "1", "2")
            if name == "eve":
                await self.done(me, "read", to="@eve", seq=2)
        self.assertEqual(await self._totals(me), (8, 0, 4, 0))
        await self.done(me, "prefer", to="@bob", notify="none")
        self.assertEqual(await self._totals(me), (6, 0, 3, 2))
        await self.done(me, "prefer", to="@cat", notify="mentions")
        self.assertEqual(await self._totals(me), (4, 0, 2, 4))
        await self.done(me, "prefer", to="@dan", archived=True)
        self.assertEqual(await self._totals(me), (2, 0, 1, 6))
        await self.done(me, "mark", to="@eve")
        self.assertEqual(await self._totals(me), (2, 0, 2, 6))
        await self.change("INSERT INTO mentions SELECT id, 1, 1 FROM rooms WHERE low_id <> high_id")
        self.assertEqual(await self._totals(me), (2, 2, 3, 6))

    async def _totals(self, client: Any) -> tuple[int, ...]:
        found = await self.done(client, "unread")
        return tuple(found[name] for name in ("unread", "mentions", "rooms", "muted"))


class Wishes(RoomsCase):
    """What one wants of a room."""

    async def test_preferences(self) -> None:
        """A room is as its user last wanted it, for that user alone, and the user's other devices
        learn it, the one that asked by its reply."""
        alice, bob = await self.enter("alice", "bob")
        (other,) = await self.enter("alice")
        await self.say(bob, "@alice", "hello")
        stored = await self.done(alice, "prefer", to="@bob", pinned=True, notify="mentions")
        heard = await self._event(other, "preferred")
        self.assertEqual((heard["to"], heard["from"], heard["seq"]), ("@alice", "alice", 1))
        self.assertEqual(stored["seq"], 1)
        wishes = (heard["room"], heard["pinned"], heard["notify"], heard.get("archived"))
        self.assertEqual(wishes, ("@bob", True, "mentions", None))
        await self.done(alice, "prefer", to="@bob", archived=True)
        line = await self.line(alice, "@bob")
        self.assertGreater(line["pinned"], 10**12)
        self.assertEqual((line["notify"], line["archived"]), ("mentions", True))
        await self.done(alice, "prefer", to="@bob", pinned=False, archived=False)
        for client, address, notify in ((alice, "@bob", "mentions"), (bob, "@alice", "all")):
            line = await self.line(client, address)
            found = (line["pinned"], line["notify"], line["archived"], line["marked"])
            self.assertEqual(found, (0, notify, False, False))
        self.assertEqual(await self.refused(alice, "prefer", to="@bob"), "bad-request")

    async def _event(self, client: Any, name: str) -> dict[str, Any]:
        while (event := await client.event())["event"] != name:
            pass
        found: dict[str, Any] = event
        return found

    async def test_archived_comes_back(self) -> None:
        """An archived room comes back with somebody else's next message: not with one's own, nor
        with an entry that is none, nor where it notifies of nothing."""
        alice, bob, carol = await self.enter("alice", "bob", "carol")
        await self.done(alice, "create", name="team")
        await self.done(bob, "join", group="team")
        await self.say(bob, "#team", "one")
        await self.done(alice, "prefer", to="#team", archived=True)
        await self.say(alice, "#team", "mine")
        await self.done(carol, "join", group="team")
        self.assertTrue((await self.line(alice, "#team"))["archived"])
        await self.say(bob, "#team", "two")
        self.assertFalse((await self.line(alice, "#team"))["archived"])
        await self.done(alice, "prefer", to="#team", archived=True, notify="none")
        await self.say(bob, "#team", "three")
        self.assertTrue((await self.line(alice, "#team"))["archived"])

    async def test_mark(self) -> None:
        """A marked room is unread until it is read, also where there is nothing new, and the other
        devices learn both."""
        alice, bob = await self.enter("alice", "bob")
        (other,) = await self.enter("alice")
        await self.say(bob, "@alice", "hello")
        await self.done(alice, "read", to="@bob", seq=1)
        await self.done(alice, "mark", to="@bob")
        self.assertEqual((await self._event(other, "marked"))["room"], "@bob")
        line = await self.line(alice, "@bob")
        self.assertEqual((line["marked"], line["unread"]), (True, 0))
        await self.done(alice, "delivered", to="@bob", seq=1)
        self.assertTrue((await self.line(alice, "@bob"))["marked"])
        bob.received = b""
        self.node.receipts._moves.clear()
        await self.done(alice, "read", to="@bob", seq=1)
        self.assertFalse((await self.line(alice, "@bob"))["marked"])
        self.node.receipts.tell()
        self.assertEqual((await self._event(other, "read"))["upto"], 1)
        await self.done(bob, "ping")
        self.assertNotIn(b'"read"', bob.received)

    async def test_clear(self) -> None:
        """What was cleared is gone for one user, on all devices: from the history, the list, what
        is unread and what is replayed; it counts as read. What comes then is there."""
        alice, bob = await self.enter("alice", "bob")
        (other,) = await self.enter("bob")
        await self.say(alice, "@bob", "1", "2")
        await self.done(bob, "mark", to="@alice")
        await self.done(bob, "clear", to="@alice")
        heard = await self._event(other, "cleared")
        self.assertEqual((heard["room"], heard["upto"]), ("@alice", 2))
        line = await self.line(bob, "@alice")
        found = [line[name] for name in ("last", "unread", "last_seq", "read_seq", "marked")]
        self.assertEqual(found, [None, 0, 2, 2, False])
        self.assertEqual(await self.texts(bob, "@alice"), [])
        self.assertEqual(await self.texts(bob, "@alice", after=0), [])
        self.assertEqual(await self.texts(alice, "@bob"), ["1", "2"])
        self.assertEqual((await self.line(alice, "@bob"))["last"]["text"], "2")
        await self.say(alice, "@bob", "3")
        self.assertEqual(await self.texts(bob, "@alice"), ["3"])
        self.assertEqual(await self.texts(bob, "@alice", before=3), [])
        self.assertEqual((await self.line(bob, "@alice"))["unread"], 1)
        fresh = await self.user("bob")
        self.assertEqual((await self._event(fresh, "message"))["text"], "3")


class Lists(RoomsCase):
    """The list of rooms."""

    async def test_order_and_pages(self) -> None:
        """Pinned rooms come first, the last pinned first, then those with the latest entry; pages
        make the whole list, and none is lost or told twice where rooms move up meanwhile."""
        names = ("ann", "bob", "cat", "dan", "eve")
        me, *others = await self.enter("me", *names)
        now = iter(range(10**12, 10**13))
        self.node.now = lambda: next(now)
        for other in others:
            await self.say(other, "@me", "hello")
        for name in ("bob", "ann"):
            await self.done(me, "prefer", to=f"@{name}", pinned=True)
        expected = ["@ann", "@bob", "@me", "@eve", "@dan", "@cat"]
        whole = await self.done(me, "rooms")
        self.assertEqual([one["address"] for one in whole["rooms"]], expected)
        self.assertEqual((whole.get("more"), whole.get("after")), (None, None))
        paged: list[str] = []
        after = ""
        while True:
            page = await self.done(me, "rooms", limit=2, after=after)
            paged += [one["address"] for one in page["rooms"]]
            if not page.get("more"):
                break
            after = page["after"]
            if len(paged) == 4:
                await self.say(others[3], "@me", "dan moves up, whom the page had")
        self.assertEqual(paged, [*expected[:4], *expected[4:][1:]])
        self.assertEqual(await self.refused(me, "rooms", after="1-2"), "bad-request")

    async def test_last(self) -> None:
        """The last entry is the last that the user sees, and the room stands in the list by
        that; a recalled text is not shown."""
        alice, bob, carol = await self.enter("alice", "bob", "carol")
        await self.say(bob, "@alice", "1", "2")
        await self.say(carol, "@alice", "between")
        await self.say(bob, "@alice", "3")
        room_id = await self.room_id("low_id = 1 AND high_id = 2")
        listed = (await self.done(alice, "rooms"))["rooms"]
        self.assertEqual([one["last"]["text"] for one in listed], ["3", "between"])
        for seq in (3, 2):
            await self.change("INSERT INTO hidden VALUES (1, ?, ?)", room_id, seq)
        listed = (await self.done(alice, "rooms"))["rooms"]
        self.assertEqual([one["last"]["text"] for one in listed], ["between", "1"])
        self.assertEqual((await self.line(bob, "@alice"))["last"]["text"], "3")
        await self.change("INSERT INTO hidden VALUES (1, ?, 1)", room_id)
        self.assertIsNone((await self.line(alice, "@bob"))["last"])
        self.assertEqual(await self.texts(alice, "@bob"), [])


class Visibility(RoomsCase):
    """What one may see of a group."""

    async def closed(self, *clients: Any) -> None:
        """A group of the first client's that shows new members what comes after their joining."""
        await self.done(clients[0], "create", name="team")
        await self.change("UPDATE rooms SET history = 'joined'")
        for client in clients[1:]:
            await self.done(client, "join", group="team")

    async def test_from_joining(self) -> None:
        """A newcomer sees the history from the joining on, or all of it, as the group is set; that
        may change, and holds for those who were there before it."""
        alice, bob = await self.enter("alice", "bob")
        await self.closed(alice)
        await self.say(alice, "#team", "before")
        await self.done(bob, "join", group="team")
        await self.say(alice, "#team", "after")
        late = ["joined", "after"]
        for rule, expected in (
            ("joined", late),
            ("all", ["created", "before", *late]),
            ("joined", late),
        ):
            await self.change("UPDATE rooms SET history = ?", rule)
            self.assertEqual(await self.texts(bob, "#team"), expected)
            self.assertEqual(await self.texts(bob, "#team", after=0), expected)
            self.assertEqual(await self.texts(bob, "#team", before=4), expected[:-1])
            self.assertEqual(await self.texts(bob, "#team", before=3), expected[:-2])
            self.assertEqual(await self._synced(bob, 0), (expected, None))
            self.assertEqual(
                await self.texts(alice, "#team"), ["created", "before", "joined", "after"]
            )

    async def _synced(self, client: Any, seq: int) -> tuple[list[str], Any]:
        reply = await self.done(client, "sync", since={"#team": seq})
        texts = [one.get("text", one["event"]) for one in reply["entries"]]
        return texts, reply.get("reset", {}).get("#team")

    async def test_sync_below_the_floor(self) -> None:
        """A client that has what its user may see no more is told to begin anew, and then gets
        what may be seen."""
        alice, bob = await self.enter("alice", "bob")
        await self.closed(alice, bob)
        await self.say(alice, "#team", "3", "4")
        await self.done(bob, "clear", to="#team")
        await self.say(alice, "#team", "5")
        self.assertEqual(await self._synced(bob, 3), ([], "not-visible"))
        self.assertEqual(await self._synced(bob, 0), (["5"], None))
        self.assertEqual(await self._synced(bob, 4), (["5"], None))
        self.assertEqual(await self._synced(bob, 5), ([], None))
        self.assertEqual(await self._synced(bob, 6), ([], "beyond-the-end"))

    async def test_hidden(self) -> None:
        """What a user has hidden is in no page, no catching up and no receipts of his; the others
        have it."""
        alice, bob = await self.enter("alice", "bob")
        await self.closed(alice, bob)
        await self.say(alice, "#team", "3", "4", "5")
        await self.change("INSERT INTO hidden SELECT 2, id, 4 FROM rooms")
        for parameters in ({}, {"after": 2}, {"before": 6, "limit": 2}):
            found = await self.texts(bob, "#team", **parameters)
            self.assertEqual(found[-2:], ["3", "5"], parameters)
        self.assertEqual(await self._synced(bob, 2), (["3", "5"], None))
        self.assertEqual(await self._synced(bob, 3), (["5"], None))
        self.assertEqual(await self.refused(bob, "receipts", to="#team", seq=4), "not-found")
        self.assertEqual(await self.texts(alice, "#team", after=2), ["3", "4", "5"])
        self.assertEqual(await self._synced(alice, 3), (["4", "5"], None))

    async def test_coming_back(self) -> None:
        """Who left and came back sees what came after the new joining; meanwhile nothing."""
        alice, bob = await self.enter("alice", "bob")
        await self.closed(alice, bob)
        await self.say(alice, "#team", "3")
        self.assertEqual(await self.texts(bob, "#team"), ["joined", "3"])
        await self.done(bob, "leave", group="team")
        await self.say(alice, "#team", "while away")
        for command, more in (("history", {}), ("receipts", {"seq": 3}), ("clear", {})):
            code = await self.refused(bob, command, to="#team", **more)
            self.assertEqual(code, "not-a-member", command)
        self.assertEqual(await self._synced(bob, 0), ([], "not-a-member"))
        self.assertNotIn("#team", [r["address"] for r in (await self.done(bob, "rooms"))["rooms"]])
        await self.done(bob, "join", group="team")
        self.assertEqual(await self.texts(bob, "#team"), ["joined"])
        self.assertEqual((await self.line(bob, "#team"))["unread"], 0)
        fresh = await self.user("bob")
        await self.say(alice, "#team", "back")
        event = await fresh.event()
        self.assertEqual((event["event"], event.get("text")), ("message", "back"))

    async def test_gone_meanwhile(self) -> None:
        """Who is sent away while a request is on its way sees nothing, not even where the members
        see from their joining on only."""
        alice, bob = await self.enter("alice", "bob")
        await self.closed(alice)
        await self.say(alice, "#team", "before")
        await self.done(bob, "join", group="team")
        await self.change("DELETE FROM members WHERE user_id = 2")
        for rule in ("joined", "all"):
            await self.change("UPDATE rooms SET history = ?", rule)
            self.assertEqual(await self.texts(bob, "#team"), [])
            self.assertEqual((await self._synced(bob, 0))[0], [])
            self.assertEqual(await self.refused(bob, "receipts", to="#team", seq=2), "not-found")


class Wires(RoomsCase):
    """The same over the other wires."""

    async def _use(self, client: Callable[[], Any]) -> None:
        me = await self.user("me", client())
        (other,) = await self.enter("other")
        await self.say(other, "@me", "1", "2")
        await self.done(me, "mark", to="@other")
        await self.done(me, "prefer", to="@other", pinned=True)
        line = await self.line(me, "@other")
        self.assertEqual((line["unread"], line["marked"]), (2, True))
        self.assertEqual((await self.done(me, "unread"))["unread"], 2)
        await self.done(me, "read", to="@other", seq=1)
        found = (await self.done(other, "receipts", to="@me", seq=1))["receipts"]
        self.assertEqual(found, [{"user": "me", "read": True}])
        await self.done(me, "clear", to="@other")
        self.assertEqual(await self.texts(me, "@other"), [])

    async def test_lines(self) -> None:
        """By lines."""
        await self._use(self.lines)

    async def test_http(self) -> None:
        """By HTTP."""
        await self._use(self.http)

"""Replay at login, the delivered cursor, slow readers: every entry once and in order."""

from __future__ import annotations

import dataclasses
import json
import sqlite3
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from chatd.backlog import PAGE
from chatd.heartbeat import BEATS
from chatd.store import batch
from chatd.store.dialects import Dialect
from tests import mariadb
from tests.bed import Frames, Lines, NodeCase


def spawn(work: Any) -> Deferred[Any]:
    """Lets a client act beside the test."""
    return Deferred.fromCoroutine(work)


class Delivery(NodeCase):
    """On SQLite; below the same on MariaDB."""

    async def _said(self, client: Any, to: str, texts: list[str]) -> None:
        for text in texts:
            said = await client.ask("say", to=to, text=text)
            assert said["ok"], said

    async def _poured(self, client: Frames, to: str, texts: list[str]) -> None:
        """Says them all at once; waits for the answers."""
        for number, text in enumerate(texts):
            client.frame(json.dumps({"cmd": "say", "id": number, "to": to, "text": text}).encode())
        answered = 0
        while answered < len(texts):
            answered += "reply" in await client.next()

    async def _events(self, client: Frames, count: int) -> list[tuple[int, str]]:
        """(seq, text) of the next messages."""
        found: list[tuple[int, str]] = []
        while len(found) < count:
            event = await client.event()
            if event["event"] == "message":
                found.append((event["seq"], event["text"]))
        return found

    async def _nothing_more(self, client: Frames) -> None:
        """Nothing but the reply to a ping comes, all that was under way having been done."""
        await self.node.store.idle()
        client.received = client.received  # what is there stays there
        reply = await client.ask("ping")
        self.assertTrue(reply["ok"])

    async def _leave(self, client: Frames) -> None:
        """Says goodbye, having read all."""
        await client.ask("ping")
        client.frame((1000).to_bytes(2, "big"), opcode=8)
        self.assertTrue(client.closed)

    async def test_missed_messages_are_replayed_once_in_order(self) -> None:
        """Who was away gets what was missed, in order, and not again after that."""
        alice, bob = await self.user("alice"), await self.user("bob")
        await self._said(alice, "@bob", ["before"])
        self.assertEqual(await self._events(bob, 1), [(1, "before")])
        await self._leave(bob)
        await self._said(alice, "@bob", [f"missed {n}" for n in range(5)])
        bob = await self.user("bob")
        expected = [(n + 2, f"missed {n}") for n in range(5)]
        self.assertEqual(await self._events(bob, 5), expected)
        await self._leave(bob)
        bob = await self.user("bob")
        await self._said(alice, "@bob", ["after"])
        self.assertEqual(await self._events(bob, 1), [(7, "after")])

    async def test_replay_is_longer_than_a_page(self) -> None:
        """A backlog of several pages comes whole."""
        alice = await self.user("alice")
        await self.user("bob")
        count = 2 * PAGE + 7
        await self._poured(alice, "@bob", [f"{n}" for n in range(count)])
        bob = self.frames()
        await bob.ask("login", name="bob", password="secret")
        self.assertEqual(await self._events(bob, count), [(n + 1, f"{n}") for n in range(count)])

    async def test_own_messages_are_not_replayed(self) -> None:
        """What a session said itself does not come back at its next login."""
        alice, bob = await self.user("alice"), await self.user("bob")
        await self._said(alice, "@bob", ["mine"])
        await self._leave(alice)
        alice = await self.user("alice")
        await self._said(bob, "@alice", ["yours"])
        self.assertEqual(await self._events(alice, 1), [(2, "yours")])

    async def _race(self, log_in: Any) -> None:
        """Messages pour in while a login replays; each comes once, in order."""
        alice = await self.user("alice")
        bob = await self.user("bob")
        await bob.ask("create", name="team")
        await alice.ask("join", group="#team")
        bob.vanish()
        backlog, live = PAGE + 20, 200
        await self._poured(alice, "#team", [f"{n}" for n in range(backlog)])
        talking = spawn(
            self._said(alice, "#team", [f"{n}" for n in range(backlog, backlog + live)])
        )
        seen: list[list[tuple[int, str]]] = []
        total = backlog + live
        for attempt in range(4):
            bob = self.frames()
            await log_in(bob)
            entries: list[tuple[int, str]] = []
            while not entries or entries[-1][1] != f"{total - 1}":
                entries += await self._events(bob, 1)
                if len(entries) == backlog // 2 and attempt < 3:
                    break  # this one goes away in the middle, with nothing acknowledged
            seen.append(entries)
            bob.transport.abortConnection()
        await talking
        for entries in seen:
            seqs = [seq for seq, _ in entries]
            self.assertEqual(seqs, list(range(seqs[0], seqs[0] + len(seqs))))
            self.assertEqual([text for _, text in entries], [f"{seq - 3}" for seq in seqs])
        self.assertEqual(seen[-1][-1][1], f"{total - 1}")

    async def test_no_gap_and_no_repeat_between_replay_and_live(self) -> None:
        """Messages sent while a login replays come once and in order."""

        async def log_in(bob: Frames) -> None:
            reply = await bob.ask("login", name="bob", password="secret", ack=True)
            assert reply["ok"], reply

        await self._race(log_in)

    async def test_explicit_acknowledgement(self) -> None:
        """With ack=true only `delivered` moves the cursor."""
        alice = await self.user("alice")
        bob = await self.user("bob", ack=True)
        await self._said(alice, "@bob", ["one", "two", "three"])
        await self._events(bob, 3)
        await bob.ask("delivered", to="@alice", seq=2)
        await bob.ask("ping")
        bob.vanish()
        bob = await self.user("bob")
        self.assertEqual(await self._events(bob, 1), [(3, "three")])

    async def test_unproved_messages_come_again(self) -> None:
        """What was written into a connection that broke is delivered again."""
        alice, bob = await self.user("alice"), await self.user("bob")
        await self._said(alice, "@bob", ["lost"])
        await self._events(bob, 1)
        bob.transport.abortConnection()
        bob = await self.user("bob")
        self.assertEqual(await self._events(bob, 1), [(1, "lost")])

    async def test_answered_ping_proves_delivery(self) -> None:
        """The answer to a ping proves what was written before it, and no more."""
        alice, bob = await self.user("alice"), await self.user("bob")
        await self._said(alice, "@bob", ["before the ping"])
        await self._events(bob, 1)
        session = next(s for s in self.node.hub.sessions if s.user and s.user.name == "bob")
        self.node.cursors.ask(session)
        await self._said(alice, "@bob", ["after the ping"])
        await self._events(bob, 1)
        bob.frame(session.question.to_bytes(8, "big"), opcode=10)
        bob.transport.abortConnection()
        bob = await self.user("bob")
        self.assertEqual(await self._events(bob, 1), [(2, "after the ping")])

    async def _written(self, answers: bool) -> tuple[Frames, Frames]:
        """Alice, and Bob to whom a message was written; whether he answers pings."""
        alice, bob = await self.user("alice"), await self.user("bob")
        if answers:
            await self._said(alice, "@bob", ["zero"])
            self.node.tick += 1
            await bob.ask("ping")
        await self._said(alice, "@bob", ["one"])
        return alice, bob

    def _request(self, client: Frames) -> None:
        """Sends a request a tick later; nothing is read, so pings are not answered."""
        self.node.tick += 1
        client.frame(b'{"cmd":"ping"}')
        self.node.hub.flush()

    async def _comes_again(self) -> bool:
        """Whether Bob's next login would bring what was written."""
        overview = await (await self.user("bob")).ask("rooms")
        return any(room["delivered_seq"] < room["last_seq"] for room in overview["rooms"])

    async def test_typing(self) -> None:
        """Who types is shown to the others, live alone: it is neither stored nor replayed."""
        alice, bob = await self.user("alice"), await self.user("bob")
        terminal = await self.user("bob", self.lines())
        await self._said(alice, "@bob", ["one"])
        other = await self.user("alice")
        self.assertTrue((await alice.ask("typing", to="@bob"))["ok"])
        self.assertEqual((await alice.ask("typing", to="@eve"))["error"], "not-found")
        await bob.event()
        self.assertEqual(await bob.event(), {"event": "typing", "to": "@bob", "from": "alice"})
        self.assertEqual(await terminal.event(), "* @bob 1 <alice> one")
        self.assertEqual(await terminal.event(), "* typing @bob alice")
        await other.ask("ping")
        self.assertNotIn(b"typing", other.received)
        self.assertEqual((await bob.ask("rooms"))["rooms"][0]["last_seq"], 1)

    async def test_a_request_is_no_proof(self) -> None:
        """A request may have been under way before what it would prove: only the answer to the
        ping that it leads to proves it, however many come."""
        _, bob = await self._written(answers=True)
        for _ in range(10):
            self._request(bob)
        bob.vanish()
        self.assertTrue(await self._comes_again())

    async def test_a_request_leads_to_a_proof(self) -> None:
        """A client that answers the ping that its request leads to does not get it again."""
        _, bob = await self._written(answers=True)
        self.node.tick += 1
        await bob.ask("ping")
        bob.vanish()
        self.assertFalse(await self._comes_again())

    async def test_a_client_that_answers_no_ping(self) -> None:
        """For a client that has never answered a ping, though it had the time, what its kernel
        has acknowledged counts when it sends a request."""
        for requests, again in ((3, True), (4, False)):
            _, bob = await self._written(answers=False)
            for _ in range(requests):
                self._request(bob)
            bob.vanish()
            self.assertEqual(await self._comes_again(), again)

    async def test_an_end_is_no_proof(self) -> None:
        """A connection that ends in good order without a goodbye proves nothing: a proxy may
        have ended it, also that of a client which never answered a ping."""
        for answers in (True, False):
            _, bob = await self._written(answers)
            self._request(bob)
            self.node.tick += 10
            bob.vanish()
            self.assertTrue(await self._comes_again())

    async def test_cursors_that_cannot_be_saved(self) -> None:
        """A login does not fail because cursors cannot be saved for now."""
        await self._written(answers=True)
        bob = self.node.hub.user(2)
        assert bob is not None
        self.node.cursors._moved[bob.id] = {1: 1}
        self.patch(batch, "MOST_WAITING", 0)
        await self.node.cursors.saved(bob.id)
        self.assertEqual(self.node.cursors._moved[bob.id], {1: 1})

    async def test_a_goodbye_is_proof(self) -> None:
        """A client that says goodbye has what its kernel has acknowledged."""
        _, bob = await self._written(answers=True)
        bob.frame((1000).to_bytes(2, "big"), opcode=8)
        self.assertFalse(await self._comes_again())

    async def test_a_goodbye_of_one_that_is_behind(self) -> None:
        """The goodbye of a client that has left a ping unanswered for long is no proof."""
        _, bob = await self._written(answers=True)
        for _ in range(4):
            self._request(bob)
        bob.frame((1000).to_bytes(2, "big"), opcode=8)
        self.assertTrue(await self._comes_again())

    async def test_a_listener_is_asked(self) -> None:
        """A client that only listens is asked for proof within two ticks."""
        _, bob = await self._written(answers=True)
        for _ in range(2 * BEATS):
            self.heartbeat.beat()
        opcode = 0
        while opcode != 9:
            opcode, payload = await bob.next_frame()
        bob.frame(payload, opcode=10)
        bob.vanish()
        self.assertFalse(await self._comes_again())

    async def test_nothing_is_proved_behind_a_close(self) -> None:
        """What is said after the server began to close a connection comes at the next login,
        though the client answers the close."""
        alice, bob = await self.user("alice"), await self.user("bob")
        link: Any = next(s.link for s in self.node.hub.sessions if s.user and s.user.name == "bob")
        link.close(1013, "for a test")
        await self._said(alice, "@bob", ["behind the close"])
        bob.frame(b"\x03\xf5", opcode=8)
        self.assertTrue(bob.closed)
        self.assertNotIn(b"behind", bob.received)
        bob = await self.user("bob")
        self.assertEqual(await self._events(bob, 1), [(1, "behind the close")])

    async def test_no_replay_when_not_wanted(self) -> None:
        """With replay=false only what is new comes; sync brings the rest."""
        alice = await self.user("alice")
        bob = await self.user("bob")
        bob.vanish()
        await self._said(alice, "@bob", ["one", "two"])
        bob = self.frames()
        await bob.ask("login", name="bob", password="secret", replay=False)
        await self._said(alice, "@bob", ["three"])
        self.assertEqual(await self._events(bob, 1), [(3, "three")])
        synced = await bob.ask("sync", since={"@alice": 1})
        self.assertEqual([e["text"] for e in synced["entries"]], ["two", "three"])

    async def test_slow_reader_is_fed_from_the_log(self) -> None:
        """A reader whose buffer is full gets nothing live; when it has read, it gets all that
        it missed, then live again, each once and in order."""
        alice, bob = await self.user("alice"), await self.user("bob")
        await self._said(alice, "@bob", ["0"])
        self.assertEqual(await self._events(bob, 1), [(1, "0")])
        link: Any = next(s.link for s in self.node.hub.sessions if s.user and s.user.name == "bob")
        link.pauseProducing()
        self.assertTrue(bob.transport.paused)
        await self._said(alice, "@bob", [f"{n}" for n in range(1, 50)])
        self.assertEqual(bob.received, b"")
        link.resumeProducing()
        self.assertFalse(bob.transport.paused)
        talking = spawn(self._said(alice, "@bob", [f"{n}" for n in range(50, 100)]))
        found = await self._events(bob, 99)
        await talking
        self.assertEqual(found, [(n + 1, f"{n}") for n in range(1, 100)])
        session = link.session
        await self.node.store.idle()
        await self._said(alice, "@bob", ["live"])
        await self._events(bob, 1)
        await self.node.store.published()
        self.assertIsNone(session.unproved and None)

    async def test_a_client_that_does_not_read_is_not_served(self) -> None:
        """Requests of a client whose buffer is full wait until it has read; none is lost."""
        alice: Lines = await self.user("alice", self.lines())
        link: Any = alice.protocol
        link.pauseProducing()
        alice.send(b"/ping\n" * 200)
        await self.node.store.idle()
        self.assertEqual(alice.received, b"")
        link.resumeProducing()
        for _ in range(200):
            self.assertTrue((await alice.next()).startswith("+OK at="))

    async def test_without_replay_no_cursor_moves(self) -> None:
        """A session that did not ask for what it missed proves nothing of it by what it gets
        live."""
        alice, bob = await self.user("alice"), await self.user("bob")
        bob.vanish()
        await self._said(alice, "@bob", ["one", "two"])
        bob = self.frames()
        await bob.ask("login", name="bob", password="secret", replay=False)
        await self._said(alice, "@bob", ["three"])
        await self._events(bob, 1)
        await bob.ask("ping")
        bob.vanish()
        bob = await self.user("bob")
        self.assertEqual(await self._events(bob, 3), [(1, "one"), (2, "two"), (3, "three")])

    async def test_what_somebody_else_stored_comes_from_the_log(self) -> None:
        """An entry that was stored past this node is brought from the log before the next one
        that follows it."""
        alice, bob = await self.user("alice"), await self.user("bob")
        await self._said(alice, "@bob", ["one"])
        await self._events(bob, 1)
        await self.node.store.write(
            lambda db: db.run(
                "INSERT INTO entries SELECT room_id, seq + 1, sender_id, ?, at, kind, ?"
                " FROM entries WHERE seq = 1",
                (b"elsewhere", '{"text":"two"}'),
            )
        )
        await self._said(alice, "@bob", ["three"])
        self.assertEqual(await self._events(bob, 2), [(2, "two"), (3, "three")])

    async def test_nothing_is_said_behind_the_end(self) -> None:
        """What is said while a group is dissolved is refused, or stands before the end."""
        alice, bob = await self.user("alice"), await self.user("bob")
        await alice.ask("create", name="team")
        await bob.ask("join", group="#team")
        alice.frame(b'{"cmd":"dissolve","id":1,"group":"#team"}')
        await alice.ask("ping")
        bob.frame(b'{"cmd":"say","id":1,"to":"#team","text":"too late"}')
        while (last := await bob.event())["event"] != "dissolved":
            pass
        await self.node.store.idle()
        query = "SELECT MAX(seq) FROM entries WHERE kind IN ('message', 'dissolved')"
        end = await self.node.store.read(lambda db: db.one(query))
        self.assertEqual(end, (last["seq"],))

    async def test_the_end_of_a_group_is_told_once(self) -> None:
        """A client that acknowledges by itself gets a group's end once, though there is no
        address left to acknowledge."""
        alice, bob = await self.user("alice"), await self.user("bob", ack=True)
        await alice.ask("create", name="team")
        await bob.ask("join", group="#team")
        bob.vanish()
        await alice.ask("dissolve", group="#team")
        for expected in ("dissolved", "message"):
            bob = await self.user("bob", ack=True)
            if expected == "message":
                await self._said(alice, "@bob", ["live"])
            self.assertEqual((await bob.event())["event"], expected)
            for _ in range(2):
                await bob.ask("ping")  # and answers ours, which may stand behind the first reply
            bob.vanish()

    async def test_the_end_of_a_group_takes_nothing_with_it(self) -> None:
        """What a client that acknowledges by itself missed in a group that has ended comes until
        it is proved to have arrived."""
        alice, bob = await self.user("alice"), await self.user("bob", ack=True)
        await alice.ask("create", name="team")
        await bob.ask("join", group="#team")
        bob.vanish()
        await self._said(alice, "#team", ["missed"])
        await alice.ask("dissolve", group="#team")
        for _ in range(2):
            bob = await self.user("bob", ack=True)
            self.assertEqual(await self._events(bob, 1), [(3, "missed")])
            self.assertEqual((await bob.event())["event"], "dissolved")
            await self.node.store.idle()
            bob.transport.abortConnection()

    async def test_the_makers_other_sessions_learn_of_a_group(self) -> None:
        """Who makes a group hears of it in the other sessions."""
        first, second = await self.user("alice"), await self.user("alice")
        await first.ask("create", name="team", title="The Team")
        event = await second.event()
        self.assertEqual((event["event"], event["to"], event["seq"]), ("created", "#team", 1))

    async def test_joining_while_others_log_in(self) -> None:
        """A membership that changes while its user logs in is not missed."""
        alice = await self.user("alice")
        await alice.ask("create", name="team")
        bob = await self.user("bob")
        other = self.frames()
        joining = spawn(bob.ask("join", group="#team"))
        logging_in = spawn(other.ask("login", name="bob", password="secret", replay=False))
        await joining
        await logging_in
        await self._said(alice, "#team", ["hello"])
        for client in (bob, other):
            self.assertEqual([text for _, text in await self._events(client, 1)], ["hello"])

    async def test_dissolved_group_is_told_to_those_away(self) -> None:
        """Who was away learns what was said last and that the group is gone."""
        alice, bob = await self.user("alice"), await self.user("bob")
        await alice.ask("create", name="team")
        await bob.ask("join", group="#team")
        bob.vanish()
        await self._said(alice, "#team", ["last words"])
        await alice.ask("dissolve", group="#team")
        bob = await self.user("bob")
        events = [await bob.event(), await bob.event()]
        self.assertEqual([e["event"] for e in events], ["message", "dissolved"])
        refused = await bob.ask("say", to="#team", text="anybody?")
        self.assertEqual(refused["error"], "not-found")

    async def test_line_client_gets_exactly_what_it_missed(self) -> None:
        """The same over lines: five messages while away, exactly those five after."""
        alice = await self.user("alice")
        bob: Lines = await self.user("bob", self.lines())
        await self._said(alice, "@bob", ["here"])
        self.assertEqual(await bob.event(), "* @bob 1 <alice> here")
        bob.vanish()
        await self._said(alice, "@bob", [f"missed {n}" for n in range(5)])
        bob = self.lines()
        bob.line("/login bob secret")
        events = [await bob.event() for _ in range(5)]
        self.assertEqual(events, [f"* @bob {n + 2} <alice> missed {n}" for n in range(5)])


class DeliveryOnMariaDB(Delivery):
    """The same on MariaDB."""

    def make_url(self) -> Any:
        from chatd.settings import store_url

        return store_url(mariadb.fresh_database(), "")


class Handed(NodeCase):
    """A connection that passes from one user to another while nothing can be stored."""

    def make_dialect(self) -> Dialect:
        plain = super().make_dialect()
        self.away = False
        full = sqlite3.OperationalError("database or disk is full")
        full.sqlite_errorcode = sqlite3.SQLITE_FULL

        def carry(cursor: sqlite3.Cursor, sql: str, rows: Any) -> None:
            if self.away and "INTO entries" in sql:
                raise full
            sqlite3.Cursor.executemany(cursor, sql, rows)

        kind = type("Cursor", (sqlite3.Cursor,), {"executemany": carry})

        class Raw(sqlite3.Connection):
            def cursor(self, *args: Any) -> Any:
                return super().cursor(kind)

        return dataclasses.replace(plain, connect={**plain.connect, "factory": Raw})

    async def test_what_was_said_before(self) -> None:
        """What one user said is heard by the next one, to whom it was said."""
        clock: Any = reactor
        alice, bob = await self.user("alice"), await self.user("bob")
        await alice.ask("say", to="@bob", text="one")
        self.away = True
        alice.frame(b'{"cmd":"say","to":"@bob","text":"two"}')
        bob.vanish()
        alice.frame(b'{"cmd":"logout"}')
        alice.frame(b'{"cmd":"login","name":"bob","password":"secret","replay":false}')
        while not (user := self.node.hub.user(2)) or not user.sessions:
            await deferLater(clock, 0)
        self.away = False
        event = await alice.event()
        self.assertEqual((event["seq"], event["text"]), (2, "two"))

"""Requests in order, replies in order, nobody hurt by another's fault."""

from __future__ import annotations

import json
import threading
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred

from chatd.settings import Limits
from chatd.store.connection import Connection
from tests.bed import NodeCase


class Order(NodeCase):
    """One session that sends without waiting."""

    async def test_replies_come_in_the_order_of_the_requests(self) -> None:
        """Quick and slow commands sent at once are answered in their order."""
        alice = await self.user("alice")
        await self.user("bob")
        commands = [
            b'{"cmd":"say","id":1,"to":"@bob","text":"one"}',
            b'{"cmd":"ping","id":2}',
            b'{"cmd":"history","id":3,"to":"@bob"}',
            b'{"cmd":"nope","id":4}',
            b'{"cmd":"say","id":5,"to":"@bob","text":"two"}',
            b'{"cmd":"say","id":6,"to":"@nobody","text":"three"}',
            b'{"cmd":"whoami","id":7}',
        ]
        for command in commands:
            alice.frame(command)
        replies = [(await alice.next())["reply"] for _ in commands]
        self.assertEqual(replies, [1, 2, 3, 4, 5, 6, 7])

    async def test_what_depends_on_an_earlier_request_finds_it_done(self) -> None:
        """A message sent right behind the join, without waiting for it, is accepted."""
        alice = await self.user("alice")
        await alice.ask("create", name="team")
        bob = await self.user("bob", self.lines())
        bob.send(b"/join #team\r\nhello\r\nagain\r\n/leave team\r\nnot here\r\n")
        replies: list[list[str]] = []
        while len(replies) < 5:
            line = await bob.next()
            if not line.startswith("* "):
                replies.append(line.split(" ")[:2])
        self.assertEqual([words[0] for words in replies], ["+OK"] * 4 + ["-ERR"])
        self.assertEqual(replies[-1][1], "not-a-member")
        texts = [e["text"] for e in (await alice.ask("history", to="#team"))["entries"][2:4]]
        self.assertEqual(texts, ["hello", "again"])

    async def test_messages_of_one_session_keep_their_order(self) -> None:
        """Messages sent without waiting stand in the log in the order they were sent, the
        first of a room among them."""
        alice = await self.user("alice")
        await self.user("bob")
        count = 40
        for number in range(count):
            alice.frame(b'{"cmd":"say","id":%d,"to":"@bob","text":"%d"}' % (number, number))
        replies = [await alice.next() for _ in range(count)]
        self.assertEqual([r["seq"] for r in replies], list(range(1, count + 1)))
        page = await alice.ask("history", to="@bob", limit=count)
        self.assertEqual([e["text"] for e in page["entries"]], [f"{n}" for n in range(count)])

    async def test_one_write_answers_a_batch(self) -> None:
        """The replies to messages that were stored together leave in one write."""
        alice = await self.user("alice")
        await self.user("bob")
        await alice.ask("say", to="@bob", text="the room is there")
        writes: list[int] = []
        write = alice.transport.write

        def count(data: bytes) -> None:
            writes.append(len(data))
            write(data)

        alice.transport.write = count
        for number in range(20):
            alice.frame(b'{"cmd":"say","id":%d,"to":"@bob","text":"x"}' % number)
        for _ in range(20):
            await alice.next()
        self.assertEqual(len(writes), 1)

    async def test_without_an_id_only_errors_are_answered(self) -> None:
        """A request without an id gets no reply, unless it is refused."""
        alice = await self.user("alice")
        alice.frame(b'{"cmd":"ping"}')
        alice.frame(b'{"cmd":"say","to":"@nobody","text":"x"}')
        reply = await alice.next()
        self.assertEqual((reply["reply"], reply["error"]), (None, "not-found"))

    async def test_a_command_that_fails_is_its_callers_trouble_alone(self) -> None:
        """A fault in the server is answered `internal` and logged; the session goes on."""
        alice = await self.user("alice")
        del self.node.guesses
        refused = await alice.ask("logout", everywhere=False)
        self.assertTrue(refused["ok"])
        refused = await alice.ask("login", name="alice", password="secret")
        self.assertEqual(refused["error"], "internal")
        self.assertEqual(len(self.flushLoggedErrors(AttributeError)), 1)
        self.assertTrue((await alice.ask("ping"))["ok"])

    async def test_every_session_is_answered_when_many_ask_at_once(self) -> None:
        """Requests of many sessions share batches, and each gets its own answer."""
        clients = [await self.user(f"u{n}") for n in range(8)]
        for number, client in enumerate(clients):
            for request_id in range(5):
                text = f'"id":{request_id},"to":"@u{(number + 1) % 8}","text":"from {number}"'
                client.frame(f'{{"cmd":"say",{text}}}'.encode())
        for client in clients:
            replies: list[tuple[int, int]] = []
            while len(replies) < 5:
                if "reply" in (found := await client.next()):
                    replies.append((found["reply"], found["seq"]))
            self.assertEqual(replies, [(n, n + 1) for n in range(5)])


class UnderWay(NodeCase):
    """A session may have only so many requests under way."""

    limits = Limits(requests_under_way=4)

    async def test_reading_stops_and_goes_on(self) -> None:
        """A client with too many requests under way is not read from until some are done;
        each is answered."""
        alice = await self.user("alice")
        await self.user("bob")
        for number in range(10):
            alice.frame(b'{"cmd":"say","id":%d,"to":"@bob","text":"x"}' % number)
        self.assertTrue(alice.transport.paused)
        replies = [(await alice.next())["reply"] for _ in range(10)]
        self.assertEqual(replies, list(range(10)))
        self.assertFalse(alice.transport.paused)


class Away(NodeCase):
    """Requests that wait behind one that waits for the database."""

    async def test_they_are_refused_together(self) -> None:
        """When the database has failed one, those that have waited behind it are refused, in
        their order; those that come now are tried."""
        bob = await self.user("bob")
        begun: Deferred[None] = Deferred()
        go = threading.Event()

        def hold(connection: Connection) -> bool:
            loop: Any = reactor
            loop.callFromThread(begun.callback, None)
            return go.wait(20)

        readers: Any = self.node.store._readers
        held = [self.node.store.read(lambda db: go.wait(20)) for _ in range(readers._pool.max - 1)]
        held.append(self.node.store.read(hold))
        await begun
        for number in range(3):
            bob.frame(json.dumps({"cmd": "history", "id": number, "to": "@bob"}).encode())
        self.node.tick += 1
        readers.health.failed(OSError("away"))
        bob.frame(json.dumps({"cmd": "history", "id": 3, "to": "@bob"}).encode())
        go.set()
        for one in held:
            await one
        readers.health.usable = False  # what was held has succeeded
        replies = [await bob.next() for _ in range(4)]
        self.assertEqual([reply["reply"] for reply in replies], [0, 1, 2, 3])
        outcomes = [reply.get("error", "ok") for reply in replies]
        self.assertEqual(outcomes, ["ok", "unavailable", "unavailable", "ok"])
        self.assertEqual(replies[1]["retry_after"], 1)

"""How much may be asked for: rates, mistakes, groups, passwords; and that new limits hold at
once."""

from __future__ import annotations

import gc
import threading
from typing import Any, Literal

import argon2
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import SynchronousTestCase

from chatd.auth import Passwords
from chatd.errors import CLOSE_CODES, SLOW_DOWN
from chatd.rates import Bucket, Buckets, Rate
from chatd.registry import COMMANDS
from chatd.settings import Limits
from tests.bed import Frames, NodeCase


class BucketTests(SynchronousTestCase):
    """A bucket that gets 10 a tick and holds 30."""

    def setUp(self) -> None:
        self.limits = Limits(session_rate=10, burst_seconds=3)
        self.rate = Rate(
            lambda now: (now.session_rate, now.session_rate * now.burst_seconds), self.limits
        )

    def test_it_begins_full_and_gets_no_fuller(self) -> None:
        """What is saved up is bounded, however long nothing is spent."""
        bucket = Bucket(self.rate, 0)
        self.assertEqual(bucket.left, 30)
        bucket.refill(1000)
        self.assertEqual(bucket.left, 30)

    def test_it_fills_by_the_ticks_that_passed(self) -> None:
        """Each tick brings the rate, counted once."""
        bucket = Bucket(self.rate, 0)
        bucket.left = 0
        for tick, left in ((1, 10), (1, 10), (2, 20), (5, 30)):
            bucket.refill(tick)
            self.assertEqual(bucket.left, left)

    def test_the_wait_pays_the_debt(self) -> None:
        """After the seconds that it names there is something again, and not before."""
        for debt in (0, 1, 9, 10, 25):
            bucket = Bucket(self.rate, 0)
            bucket.left = -debt
            seconds = int(bucket.wait())
            bucket.refill(seconds - 1)
            self.assertLessEqual(bucket.left, 0, debt)
            bucket.refill(seconds)
            self.assertGreater(bucket.left, 0, debt)

    def test_one_that_nobody_holds_is_kept_until_it_is_full(self) -> None:
        """Who goes and comes back finds what was left; a full bucket is forgotten."""
        buckets = Buckets(self.rate)
        buckets.of("a", 0).left = 5
        buckets.forget_full(1)
        self.assertEqual(buckets.of("a", 1).left, 5)
        buckets.forget_full(2)
        self.assertEqual(len(buckets), 1)
        buckets.forget_full(3)
        self.assertEqual(len(buckets), 0)

    def test_one_that_is_used_again_is_kept_again(self) -> None:
        """A bucket that was full for long, spent within one tick and let go, is not forgotten."""
        buckets = Buckets(self.rate)
        held = buckets.of("a", 0)
        buckets.forget_full(1)
        held.refill(2)
        held.left = 0
        del held
        buckets.forget_full(3)
        self.assertEqual(buckets.of("a", 3).left, 0)


class Rates(NodeCase):
    """Requests over the rate, on every wire."""

    limits = Limits(session_rate=10, user_rate=30, address_rate=50, burst_seconds=1)

    async def spend(self, client: Any, count: int) -> None:
        for _ in range(count):
            reply = await client.ask("ping")
            self.assertTrue(reply["ok"], reply)

    async def over(self, client: Any) -> None:
        reply = await client.ask("ping")
        self.assertEqual(reply.get("error"), "rate-limited", reply)
        self.assertEqual(reply["retry_after"], 1)

    async def test_a_session(self) -> None:
        """A session may ask at its rate; then it is refused until a second has passed, and
        another session is not."""
        for make in (self.frames, self.lines):
            one, other = make("198.51.100.1"), make("198.51.100.1")
            await self.spend(one, 10)
            await self.over(one)
            await self.over(one)
            await self.spend(other, 10)
            self.tick()
            await self.spend(one, 10)
            await self.over(one)
            one.vanish()
            other.vanish()
            self.tick(10)

    async def test_a_typed_line(self) -> None:
        """A person at telnet is told in a sentence how long to wait."""
        client = self.lines()
        for _ in range(10):
            self.assertTrue((await client.answer("/ping"))[-1].startswith("+OK"))
        (line,) = await client.answer("/ping")
        self.assertEqual(line, "-ERR rate-limited Too many requests. Wait 1 s. retry_after=1")

    async def test_bytes_that_are_no_request_cost_as_well(self) -> None:
        """What cannot be decoded is not free."""
        client = self.frames()
        for _ in range(10):
            client.frame(b"{")
        await self.over(client)

    async def test_in_its_turn(self) -> None:
        """The refusal of a request comes behind the replies to the earlier ones."""
        client = self.frames()
        for number in range(12):
            client.frame(b'{"cmd":"ping","id":%d}' % number)
        replies = [await client.next() for _ in range(12)]
        self.assertEqual([reply["reply"] for reply in replies], list(range(12)))
        self.assertEqual([reply["ok"] for reply in replies], [True] * 10 + [False] * 2)

    async def test_what_is_refused_is_not_run(self) -> None:
        """A refused command has done nothing."""
        alice = await self.user("alice")
        self.tick(10)
        await self.spend(alice, 10)
        refused = await alice.ask("create", name="team")
        self.assertEqual(refused["error"], "rate-limited")
        self.tick(1)
        self.assertTrue((await alice.ask("create", name="team"))["ok"])

    async def test_dear_commands_run_into_debt(self) -> None:
        """A command that costs more than is left is run once, and paid for by the next
        seconds."""
        alice = await self.user("alice")
        self.tick(10)
        await self.spend(alice, 9)
        self.assertEqual(COMMANDS["sync"].cost, 20)
        self.assertTrue((await alice.ask("sync", since={}))["ok"])
        refused = await alice.ask("ping")
        self.assertEqual((refused["error"], refused["retry_after"]), ("rate-limited", 2))
        self.tick(1)
        await self.over(alice)
        self.tick(1)
        await self.spend(alice, 1)

    async def test_an_address(self) -> None:
        """All from one address share a bucket, whatever they speak; others are not touched."""
        http = self.http()
        sessions: list[Any] = [self.lines(), self.lines(), self.frames(), self.frames(), http]
        for client in sessions:
            await self.spend(client, 10)
        late: list[Any] = [self.lines(), self.frames(), http]
        for client in late:
            await self.over(client)
        others: list[Any] = [self.lines("192.0.2.8"), self.http("192.0.2.8")]
        for client in others:
            await self.spend(client, 5)

    async def test_an_address_over_http_before_the_token(self) -> None:
        """A request over HTTP pays for the look at its token, be it good or not."""
        http = self.http()
        http.token = "no such token"
        for _ in range(50):
            self.assertEqual((await http.ask("ping"))["error"], "unauthorized")
        await self.over(http)

    async def test_an_address_of_ipv6(self) -> None:
        """The 64 bits that a site is given count as one address."""
        for n in range(5):
            await self.spend(self.lines(f"2001:db8:1:2::{n}"), 10)
        await self.over(self.frames("2001:db8:1:2:aaaa::1"))
        await self.spend(self.frames("2001:db8:1:3::1"), 1)

    async def test_this_machine(self) -> None:
        """Addresses of this machine have no address limits."""
        for host in ("127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"):
            for _ in range(3):
                await self.spend(self.lines(host), 10)
                await self.spend(self.frames(host), 10)
            await self.spend(self.http(host), 60)
        self.assertEqual(len(self.node.rates.places), 0)


class LongTexts(NodeCase):
    """What a text costs beyond its command."""

    limits = Limits(session_rate=100, burst_seconds=1)

    async def test_long_texts_cost(self) -> None:
        """Whoever says, edits or passes on what has thousands of words waits for it; usual texts
        cost no more than the command."""
        alice = await self.user("alice")
        long, usual = "上海" * 1000, "上海" * 100
        for command, given, waits in (
            ("say", {"to": "@alice", "text": long}, 0.05),
            ("edit", {"to": "@alice", "seq": 1, "text": long + "!"}, 5),
            ("forward", {"to": "@alice", "seq": 1, "into": "@alice"}, 0.05),
        ):
            self.tick(20)
            self.assertTrue((await alice.ask(command, **given))["ok"], command)
            refused = await alice.ask("ping")
            self.assertEqual(refused["error"], "rate-limited")
            self.assertGreater(refused["retry_after"], waits)
        self.tick(10)
        self.assertTrue((await alice.ask("say", to="@alice", text=usual))["ok"])
        for _ in range(99):
            self.assertTrue((await alice.ask("ping"))["ok"])


class Users(NodeCase):
    """The requests of all sessions of a user."""

    limits = Limits(session_rate=1000, user_rate=30, address_rate=1000, burst_seconds=1)

    async def spend(self, client: Any, count: int) -> None:
        for _ in range(count):
            reply = await client.ask("ping")
            self.assertTrue(reply["ok"], reply)

    async def over(self, client: Any) -> None:
        self.assertEqual((await client.ask("ping")).get("error"), "rate-limited")

    async def forgotten(self) -> None:
        """Nothing is kept of anybody."""
        await deferLater(reactor, 0)  # what gave us the last reply holds its session
        gc.collect()  # a refusal's traceback holds what it went through
        self.tick(2)
        self.assertEqual(len(self.node.rates.users), 0)
        self.assertEqual(len(self.node.rates.places), 0)

    async def test_on_every_wire(self) -> None:
        """Sessions of all wires share one bucket; another user has another."""
        alice = await self.user("alice")
        more = await self.user("alice", self.lines("198.51.100.1"))
        http = self.http("203.0.113.1")
        await self.user("alice", http)
        clients: tuple[Any, ...] = (alice, more, http)
        for client in clients:
            await self.spend(client, 10)
        for client in clients:
            await self.over(client)
        self.assertEqual(http.status, 429)
        bob = await self.user("bob")
        await self.spend(bob, 30)
        self.tick(1)
        await self.spend(http, 30)
        await self.over(more)

    async def test_over_http_alone(self) -> None:
        """Each request over HTTP has a session of its own; the user's bucket is one, and is
        forgotten."""
        clients = [self.http(f"203.0.113.{n}") for n in range(4)]
        await self.user("alice", clients[0])
        for client in clients:
            client.token = clients[0].token
        for client in clients[:3]:
            await self.spend(client, 10)
        await self.over(clients[3])
        await self.forgotten()

    async def test_who_comes_back(self) -> None:
        """Ending all sessions and logging in again gives nothing that was spent."""
        alice = await self.user("alice")
        await self.spend(alice, 30)
        alice.vanish()
        again = await self.user("alice")
        await self.over(again)

    async def test_nothing_is_left_of_those_who_went(self) -> None:
        """The buckets of addresses and users that are gone are dropped when they are full."""
        alice = await self.user("alice")
        self.tick(10)
        self.assertEqual(len(self.node.rates.users), 1)
        self.assertEqual(len(self.node.rates.places), 1)
        await self.spend(alice, 10)
        alice.vanish()
        gc.collect()
        self.assertEqual(len(self.node.rates.users), 1)
        await self.forgotten()


class NewLimits(NodeCase):
    """The limits are replaced while the daemon runs."""

    limits = Limits(session_rate=10, burst_seconds=1)

    async def test_rates(self) -> None:
        """A new rate holds from the next tick on, for sessions that are there, too."""
        client = self.frames()
        self.node.limits = Limits(session_rate=2, burst_seconds=1)
        self.tick()
        for _ in range(2):
            self.assertTrue((await client.ask("ping"))["ok"])
        self.assertFalse((await client.ask("ping"))["ok"])
        self.node.limits = Limits(session_rate=100, burst_seconds=1)
        self.tick()
        for _ in range(100):
            self.assertTrue((await client.ask("ping"))["ok"])
        self.assertFalse((await client.ask("ping"))["ok"])

    async def test_requests_under_way(self) -> None:
        """How many requests may be under way is read for each."""
        client = self.frames()
        self.node.limits = Limits(requests_under_way=3)
        for _ in range(3):
            client.frame(b'{"cmd":"login","token":"x"}')
        self.assertTrue(client.transport.paused)
        for _ in range(3):
            await client.next()

    async def test_bodies_and_heads(self) -> None:
        """So are the sizes of bodies and heads, on connections that are open."""
        client = self.raw_web()
        client.send(b"GET /healthz HTTP/1.1\r\n\r\n")
        self.node.limits = Limits(body_bytes=512, header_bytes=1024)
        client.send(b"GET /healthz HTTP/1.1\r\nX: " + b"x" * 1024 + b"\r\n\r\n")
        self.assertEqual(client.received.count(b"HTTP/1.1 200 "), 1)
        self.assertIn(b"HTTP/1.1 431 ", client.received)
        http = self.http()
        await http.post("ping", b" " * 513)
        self.assertEqual(http.status, 413)

    async def test_logins(self) -> None:
        """So are the times of logins, and the tries of passwords."""
        client = self.lines()
        self.node.limits = Limits(login_seconds=2, passwords_per_minute=1)
        for error in ("unauthorized", "rate-limited"):
            reply = await client.ask("login", name="alice", password="wrong")
            self.assertEqual(reply["error"], error)
        self.tick(4)
        self.assertTrue(client.closed)


class MistakesMade(NodeCase):
    """Refused requests, which are counted."""

    limits = Limits(mistakes_per_minute=6, session_rate=100, burst_seconds=1)
    mistakes = (
        ("bad-request", b"{"),
        ("unknown-command", b'{"cmd":"nope"}'),
        ("unauthorized", b'{"cmd":"say","to":"@a","text":"x"}'),
    )

    async def codes(self, client: Frames, payload: bytes, count: int) -> list[str]:
        for _ in range(count):
            client.frame(payload)
        return [(await client.next())["error"] for _ in range(count)]

    async def test_frames(self) -> None:
        """The last mistake that is allowed is answered, then the session is closed with a code
        that lets it come back."""
        for code, payload in self.mistakes:
            client = self.frames()
            self.assertEqual(await self.codes(client, payload, 5), [code] * 5)
            self.assertFalse(client.transport.disconnecting)
            client.frame(payload)
            client.frame(b'{"cmd":"ping","id":1}')
            self.assertEqual((await client.next())["error"], code)
            opcode, words = await client.next_frame()
            self.assertEqual((opcode, int.from_bytes(words[:2], "big")), (8, SLOW_DOWN))
            self.assertEqual(words[2:].decode(), CLOSE_CODES[SLOW_DOWN])
            self.assertEqual(client.received, b"")

    async def test_lines(self) -> None:
        """Lines are told the same, and what comes behind is not taken."""
        client = self.lines()
        client.send(b"/nope\r\n" * 6 + b"/ping\r\n")
        await client.until(lambda: client.closed or None)
        *errors, goodbye = client.received.decode().splitlines()
        self.assertEqual([line.split()[1] for line in errors], ["unknown-command"] * 6)
        self.assertEqual(goodbye, f'* closing code=4000 reason="{CLOSE_CODES[SLOW_DOWN]}"')

    async def test_what_waits_is_not_run(self) -> None:
        """Requests that wait behind the last mistake are dropped."""
        alice = await self.user("alice")
        alice.frame(b'{"cmd":"create","id":1,"name":"one"}')
        for _ in range(6):
            alice.frame(b'{"cmd":"nope"}')
        alice.frame(b'{"cmd":"create","id":2,"name":"two"}')
        while (await alice.next_frame())[0] != 8:
            pass
        await self.node.store.idle()
        bob = await self.user("bob", self.lines())
        self.assertTrue((await bob.ask("join", group="one"))["ok"])
        self.assertEqual((await bob.ask("join", group="two"))["error"], "not-found")

    async def test_over_the_rate(self) -> None:
        """Who goes on asking over the rate is closed."""
        client = self.frames()
        for _ in range(110):
            client.frame(b'{"cmd":"ping","id":1}')
        replies = 0
        while (frame := await client.next_frame())[0] == 1:
            replies += 1
        self.assertEqual((frame[0], replies), (8, 106))

    async def test_what_is_no_mistake(self) -> None:
        """Refusals that anybody may get do not count."""
        alice = await self.user("alice")
        for _ in range(20):
            reply = await alice.ask("say", to="#nowhere", text="x")
            self.assertEqual(reply["error"], "not-found")

    async def test_a_minute_forgives(self) -> None:
        """Mistakes within the rate never close a session."""
        client = self.frames()
        await self.user("alice", client)
        for _ in range(20):
            self.assertEqual(await self.codes(client, b"{", 1), ["bad-request"])
            self.tick(10)
            client.frame(b"", opcode=10)
            client.received = b""
        self.assertTrue((await client.ask("ping"))["ok"])


class Groups(NodeCase):
    """Of which a user may be in three."""

    limits = Limits(rooms=3)

    async def test_create_and_join(self) -> None:
        """One more is refused on every wire, until one is left."""
        owner = await self.user("owner")
        for name in ("a", "b", "c"):
            self.assertTrue((await owner.ask("create", name=name))["ok"])
        refused = await owner.ask("create", name="d")
        self.assertEqual(refused["error"], "too-large")
        self.assertIn("3 groups", refused["message"])
        clients: tuple[Any, ...] = (self.frames(), self.lines(), self.http())
        for client in clients:
            name = type(client).__name__
            await self.user(name, client)
            for group in ("a", "b"):
                self.assertTrue((await client.ask("join", group=group))["ok"])
            self.assertTrue((await client.ask("create", name=f"of-{name}"))["ok"])
            self.assertEqual((await client.ask("join", group="c"))["error"], "too-large")
            self.assertEqual((await client.ask("join", group="a"))["error"], "exists")
            self.assertTrue((await client.ask("leave", group="a"))["ok"])
            self.assertTrue((await client.ask("join", group="c"))["ok"])


class Stuck(argon2.PasswordHasher):
    """Takes until it is let go."""

    go = threading.Event()

    def verify(self, hash: str | bytes, password: str | bytes) -> Literal[True]:
        self.go.wait(60)
        return super().verify(hash, password)

    def hash(self, password: str | bytes, *, salt: bytes | None = None) -> str:
        if password == "x":
            self.go.wait(60)
        return super().hash(password, salt=salt)


class PasswordsAtOnce(NodeCase):
    """Of which there may be four."""

    limits = Limits(passwords_at_once=4)

    async def outcomes(self, command: str) -> list[str]:
        """The outcomes of six such commands, all there before the first password is hashed."""
        hasher = Stuck(time_cost=1, memory_cost=8, parallelism=1)
        hasher.go.clear()
        self.node.passwords.stop()
        self.node.passwords = Passwords(
            self.node.clock, lambda: self.node.limits.passwords_at_once, hasher
        )
        self.node.passwords.start()
        clients = [self.frames() for _ in range(6)]
        replies = [c.ask(command, name=f"u{n}", password="x") for n, c in enumerate(clients)]
        answers = [Deferred.fromCoroutine(reply) for reply in replies]
        refused = self.node.limits.passwords_at_once // (2 if command == "register" else 1)
        while sum(answer.called for answer in answers) < 6 - refused:
            await deferLater(reactor, 0)
        hasher.go.set()
        return sorted([(await answer).get("error", "ok") for answer in answers])

    async def test_logins(self) -> None:
        """More than four at once are refused; the number is read each time."""
        self.assertEqual(await self.outcomes("login"), ["unauthorized"] * 4 + ["unavailable"] * 2)
        self.node.limits = Limits(passwords_at_once=2)
        self.assertEqual(await self.outcomes("login"), ["unauthorized"] * 2 + ["unavailable"] * 4)

    async def test_new_accounts(self) -> None:
        """They get half, and one at least."""
        self.assertEqual(await self.outcomes("register"), ["ok"] * 2 + ["unavailable"] * 4)

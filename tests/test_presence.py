"""Presence: what is told of who is online, to whom, how often, and what is never told."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import deferLater

from chatd.errors import Unavailable
from chatd.settings import Heartbeat, Limits, Presence
from chatd.store import accounts
from chatd.store.connection import Connection
from tests.bed import CalmCase, Frames

LINGER = 3  # seconds
NOW = 1_763_622_149  # seconds since 1970


def befriend(connection: Connection, names: Iterable[tuple[str, str]], blocked: int = 0) -> None:
    """Makes friends of each two; `blocked`: the first of them has blocked the other."""
    ids: dict[str, int] = dict(connection.all("SELECT name, id FROM users"))
    rows = [(ids[one], ids[other], blocked) for one, other in names]
    rows += [(other, one, 0) for one, other, _ in rows]
    with connection.transaction():
        connection.many(
            "DELETE FROM contacts WHERE user_id = ? AND other_id = ?",
            [(one, other) for one, other, _ in rows],
        )
        connection.many(
            "INSERT INTO contacts (user_id, other_id, state, blocked) VALUES (?, ?, 'friend', ?)",
            rows,
        )


class PresenceCase(CalmCase):
    """A node whose wall clock moves with its ticks."""

    presence = Presence(linger_seconds=LINGER)
    pulse = Heartbeat(interval=3600, timeout=3600)
    limits = Limits(session_rate=100_000, user_rate=100_000, address_rate=1_000_000)

    def setUp(self) -> None:
        super().setUp()
        self.time = NOW
        self.node.now = lambda: self.time

    async def pass_by(self, seconds: int = 1) -> None:
        """So many ticks pass, each with what it leads to."""
        for _ in range(seconds):
            self.time += 1
            self.tick()
            await self.told()

    async def restart(self) -> None:
        """The node ends, and another one begins on its database."""
        ended = Deferred.fromCoroutine(self.node.stop())
        for client in self.clients:
            client.vanish()
        await ended
        done: Any = partial(succeed, None)
        self.node.stop = done  # type: ignore[method-assign]
        self.open()
        self.node.now = lambda: self.time

    async def told(self) -> None:
        """Waits until all of a tick was told."""
        while self.node.presence.telling:
            await deferLater(reactor, 0)
        self.node.hub.flush()

    async def friends(self, *names: str) -> list[Any]:
        """Friends of each other, online, who have been told so of each other."""
        clients = [await self.user(name) for name in names]
        pairs = [(one, other) for one in names for other in names if one < other]
        await self.node.store.write(befriend, pairs)
        await self.pass_by()
        for client in clients:
            self.news(client)
        return clients

    def news(self, client: Frames) -> list[tuple[str, str]]:
        """Takes the events of presence that came: (who, state) of each."""
        return [(event["from"], event["state"]) for event in self.events(client)]

    def events(self, client: Any) -> list[dict[str, Any]]:
        """Takes the events of presence that came."""
        found = []
        while (frame := client._take()) is not None:
            text = frame if isinstance(frame, str) else frame[1].decode(errors="replace")
            if '"event":"presence"' in text:
                found.append(json.loads(text))
        return found

    async def state(self, client: Any, *names: str) -> list[str]:
        """How a client sees users."""
        reply = await client.ask("who", users=names)
        self.assertTrue(reply["ok"], reply)
        return [person["state"] for person in reply["users"]]


class Friends(PresenceCase):
    """What friends are told."""

    async def test_coming_and_going(self) -> None:
        """Friends are told once when one comes, and once when one has gone for a while, with
        when that was; others are told nothing."""
        alice, bob, carol = await self.friends("alice", "bob", "carol")
        dave = await self.user("dave")
        await self.node.store.write(befriend, [("bob", "carol")])
        bob.vanish()
        gone = self.time + 1
        await self.pass_by(LINGER)
        self.assertEqual(self.news(alice), [])
        await self.pass_by()
        (event,) = self.events(alice)
        self.assertEqual(
            event,
            {
                "event": "presence",
                "from": "bob",
                "state": "offline",
                "at": self.time * 1000,
                "seen": gone * 1000,
            },
        )
        self.assertEqual(self.news(carol), [("bob", "offline")])
        bob = await self.user("bob")
        self.assertEqual(self.news(alice), [])
        await self.pass_by()
        (event,) = self.events(alice)
        self.assertEqual(
            event, {"event": "presence", "from": "bob", "state": "online", "at": self.time * 1000}
        )
        await self.pass_by(2 * LINGER)
        self.assertEqual(self.news(alice), [])
        self.assertEqual((self.news(dave), self.news(bob)), ([], []))

    async def test_a_reload_is_no_news(self) -> None:
        """Who comes back while he lingers was never away, however often; then the time begins
        anew."""
        alice, bob = await self.friends("alice", "bob")
        for _ in range(5):
            bob.vanish()
            await self.pass_by(LINGER)
            bob = await self.user("bob")
            await self.pass_by()
        self.assertEqual(self.news(alice), [])
        bob.vanish()
        await self.pass_by(LINGER)
        self.assertEqual(self.news(alice), [])
        await self.pass_by()
        self.assertEqual(self.news(alice), [("bob", "offline")])

    async def test_who_leaves_while_he_is_told_of(self) -> None:
        """Who changes and then leaves before it is told lingers as everybody does."""
        alice, bob = await self.friends("alice", "bob")
        await bob.ask("appear", state="away")
        self.tick()
        bob.vanish()
        await self.told()
        await self.pass_by(LINGER)
        self.assertEqual(self.news(alice), [])
        await self.pass_by()
        self.assertEqual(self.news(alice), [("bob", "offline")])

    async def test_a_tick_has_one_event(self) -> None:
        """Of what changes to and fro within a tick, the outcome alone is told."""
        alice, bob = await self.friends("alice", "bob")
        for _ in range(10):
            await bob.ask("appear", state="away")
            await bob.ask("appear", state="online")
        await self.pass_by()
        self.assertEqual(self.news(alice), [])
        for state in ("away", "online", "away"):
            await bob.ask("appear", state=state)
        await self.pass_by()
        self.assertEqual(self.news(alice), [("bob", "away")])

    async def test_several_devices(self) -> None:
        """One is away when all devices are, and offline when the last one has gone."""
        alice, bob = await self.friends("alice", "bob")
        phone = await self.user("bob", self.lines())
        seen = []
        for act in (
            lambda: bob.ask("appear", state="away"),
            lambda: phone.ask("appear", state="away"),
            lambda: bob.ask("appear", state="online"),
            lambda: bob.ask("logout"),
            lambda: phone.ask("appear", state="online"),
        ):
            await act()
            await self.pass_by()
            seen.append(self.news(alice))
        self.assertEqual(seen, [[], [("bob", "away")], [("bob", "online")], *_away_then_online()])
        phone.vanish()
        await self.pass_by(LINGER + 1)
        self.assertEqual(self.news(alice), [("bob", "offline")])

    async def test_a_session_says_it_for_itself(self) -> None:
        """Who logs out and in again is not away any more."""
        alice, bob = await self.friends("alice", "bob")
        await bob.ask("appear", state="away")
        await self.pass_by()
        await bob.ask("logout")
        await self.user("bob", bob)
        await self.pass_by()
        self.assertEqual(self.news(alice), [("bob", "away"), ("bob", "online")])

    async def test_those_blocked_are_not_told(self) -> None:
        """Whom one has blocked hears nothing; the other way round it goes on."""
        alice, bob = await self.friends("alice", "bob")
        await self.node.store.write(befriend, [("bob", "alice")], blocked=1)
        await bob.ask("appear", state="away")
        await alice.ask("appear", state="away")
        await self.pass_by()
        self.assertEqual((self.news(alice), self.news(bob)), ([], [("alice", "away")]))
        self.assertEqual(await self.state(alice, "bob"), ["unknown"])
        self.assertEqual(await self.state(bob, "alice"), ["away"])

    async def test_lines(self) -> None:
        """Over lines it is a line."""
        alice = await self.user("alice", self.lines())
        bob = await self.user("bob")
        await self.node.store.write(befriend, [("alice", "bob")])
        await self.pass_by()
        self.assertEqual(await alice.event(), "* presence bob state=online")
        bob.vanish()
        seen = (self.time + 1) * 1000
        await self.pass_by(LINGER + 1)
        self.assertEqual(await alice.event(), f"* presence bob state=offline seen={seen}")

    async def test_encoded_once(self) -> None:
        """An event is encoded once for each wire, however many get it; a reader who is slow goes
        without, and one whose backlog is read does not."""
        names = [f"user{n}" for n in range(20)]
        clients = await self.friends("bob", *names)
        for name in names:
            await self.user(name, self.lines())
        await self.pass_by()
        encoded: Counter[str] = Counter()
        for wire in {session.wire for session in self.node.hub.sessions}:
            self.patch(wire, "event", self.counted(wire.event, encoded))
        slow, behind = (self.session(clients[n]) for n in (1, 2))
        slow.link.crowded = True
        behind.behind = {}
        await clients[0].ask("appear", state="away")
        await self.pass_by()
        self.assertEqual(encoded, {"presence": 2})
        self.assertEqual(self.news(clients[1]), [])
        for client in clients[2:]:
            self.assertEqual(self.news(client), [("bob", "away")])

    def counted(
        self, encode: Callable[[dict[str, Any]], bytes], encoded: Counter[str]
    ) -> Callable[[dict[str, Any]], bytes]:
        def event(event: dict[str, Any]) -> bytes:
            encoded[event["event"]] += 1
            return encode(event)

        return event

    def session(self, client: Any) -> Any:
        """A WebSocket client's session."""
        return client.protocol._inner.session

    async def test_a_database_away(self) -> None:
        """Without the database nothing is told, and nothing wrong: what has changed is told when
        it is back, and what has not is not."""
        alice, bob, carol = await self.friends("alice", "bob", "carol")
        read = self.node.store.read

        def away(query: Any, *args: Any) -> Any:
            raise Unavailable("away")

        self.patch(self.node.store, "read", away)
        await bob.ask("appear", state="away")
        carol.vanish()
        await self.pass_by(2 * LINGER)
        self.assertEqual(self.node.presence.shown(self.session(bob).user.id), "online")
        self.node.store.read = read  # type: ignore[method-assign]
        carol = await self.user("carol")
        await self.pass_by()
        self.assertEqual(self.news(alice), [("bob", "away")])

    async def test_bounded(self) -> None:
        """Of very many who change in one tick, some are told of in the next ones; none is left
        out."""
        self.patch(_module(), "_AT_ONCE", 7)
        names = [f"user{n}" for n in range(20)]
        alice, *clients = await self.friends("alice", *names)
        await self.pass_by(10)
        self.news(alice)
        for client in clients:
            await client.ask("appear", state="away")
        counts = []
        for _ in range(4):
            await self.pass_by()
            counts.append(len(self.news(alice)))
        self.assertEqual(counts, [7, 7, 6, 0])


def _away_then_online() -> list[list[tuple[str, str]]]:
    return [[("bob", "away")], [("bob", "online")]]


def _module() -> Any:
    from chatd import presence

    return presence


class Rooms(PresenceCase):
    """What is told to those who have a room open."""

    async def team(self, *names: str) -> list[Any]:
        """Members of a group, told of nothing yet."""
        clients = [await self.user(name) for name in names]
        await clients[0].ask("create", name="team")
        for client in clients[1:]:
            await client.ask("join", group="team")
        await self.pass_by()
        for client in clients:
            self.news(client)
        return clients

    async def test_an_open_group(self) -> None:
        """Who has a group open is told of its members, and of none when another room is open."""
        alice, bob, carol = await self.team("alice", "bob", "carol")
        await carol.ask("create", name="other")
        told = []
        for to in ("#team", None, "#team", "@bob"):
            reply = await alice.ask("watch", **({"to": to} if to else {}))
            self.assertTrue(reply["ok"], reply)
            await self.turn(bob)
            told.append(self.news(alice))
        self.assertEqual(told, [[("bob", "away")], [], [("bob", "away")], []])
        self.assertEqual((self.news(bob), self.news(carol)), ([], []))

    async def turn(self, client: Any) -> None:
        """The client's user comes back, or goes away."""
        session = client.protocol._inner.session
        self.node.hub.sit(session, not session.away)
        await self.pass_by()

    async def test_no_room_of_others(self) -> None:
        """A group that one is not in, and one that there is not, cannot be opened."""
        alice, _ = await self.team("alice", "bob")
        dave = await self.user("dave")
        for to, code in (("#team", "not-a-member"), ("#no", "not-found"), ("@no", "not-found")):
            self.assertEqual((await dave.ask("watch", to=to))["error"], code)
        await self.turn(alice)
        self.assertEqual(self.news(dave), [])

    async def test_an_open_direct_room(self) -> None:
        """Who has a direct room open is told of the other one; with nothing said there yet, of
        nobody."""
        alice, bob = await self.user("alice"), await self.user("bob")
        await self.pass_by()
        await alice.ask("watch", to="@bob")
        await self.turn(bob)
        self.assertEqual(self.news(alice), [])
        await bob.ask("say", to="@alice", text="hello")
        await alice.ask("watch", to="@bob")
        await self.turn(bob)
        self.assertEqual(self.news(alice), [("bob", "online")])
        await alice.ask("watch", to="@alice")
        await self.turn(bob)
        self.assertEqual(self.news(alice), [])

    async def test_one_event_however_one_knows_him(self) -> None:
        """A friend in an open group is told of once, and oneself never."""
        alice, bob, _ = await self.team("alice", "bob", "carol")
        alice2 = await self.user("alice")
        await self.node.store.write(befriend, [("alice", "bob")])
        for client in (alice, alice2):
            await client.ask("watch", to="#team")
        await self.turn(bob)
        self.assertEqual(self.news(alice), [("bob", "away")])
        self.node.hub.sit(alice2.protocol._inner.session, True)
        await self.turn(alice)
        self.assertEqual((self.news(alice), self.news(alice2)), ([], [("bob", "away")]))

    async def test_encoded_once(self) -> None:
        """What many who have a group open are told is encoded once for a wire."""
        clients = await self.team(*[f"user{n}" for n in range(10)])
        encoded: list[str] = []
        wire = clients[0].protocol._inner.session.wire
        encode = wire.event

        def event(event: dict[str, Any]) -> bytes:
            encoded.append(event["event"])
            return bytes(encode(event))

        for client in clients:
            await client.ask("watch", to="#team")
        self.patch(wire, "event", event)
        for client in clients[:2]:
            self.node.hub.sit(client.protocol._inner.session, True)
        await self.pass_by()
        self.assertEqual(encoded, ["presence", "presence"])
        self.assertEqual(len(self.news(clients[9])), 2)
        self.assertEqual(self.news(clients[0]), [("user1", "away")])

    async def test_those_blocked_are_not_told(self) -> None:
        """Of several who change, one who blocked the watcher is left out, in a group and in a
        direct room."""
        alice, bob, carol, dave = await self.team("alice", "bob", "carol", "dave")
        await self.node.store.write(befriend, [("bob", "alice")], blocked=1)
        for client in (alice, dave):
            await client.ask("watch", to="#team")
        for client in (bob, carol):
            self.node.hub.sit(client.protocol._inner.session, True)
        await self.pass_by()
        self.assertEqual(self.news(alice), [("carol", "away")])
        self.assertCountEqual(self.news(dave), [("bob", "away"), ("carol", "away")])
        await alice.ask("say", to="@carol", text="hello")
        await self.node.store.write(befriend, [("carol", "alice")], blocked=1)
        await alice.ask("watch", to="@carol")
        await self.turn(carol)
        self.assertEqual(self.news(alice), [])

    async def test_nothing_stays_open(self) -> None:
        """Leaving, the group's end, logging out and the end of the session close the room."""
        alice, bob, carol = await self.team("alice", "bob", "carol")
        hub = self.node.hub

        async def end(client: Any, act: Callable[[], Awaitable[Any]] | None) -> None:
            await client.ask("watch", to="#team")
            self.assertTrue(hub.open_groups())
            await act() if act else client.vanish()
            self.assertEqual(hub.open_groups(), frozenset(), act)

        other = await self.user("bob")
        await end(bob, lambda: other.ask("leave", group="team"))
        await self.turn(carol)
        self.assertEqual(self.news(bob), [])
        await bob.ask("join", group="team")
        await end(bob, lambda: bob.ask("logout"))
        await alice.ask("say", to="@carol", text="hello")
        await carol.ask("watch", to="@alice")
        alices = self.node.hub.watchers(("user", alice.protocol._inner.session.user.id))
        self.assertEqual(len(list(alices)), 1)
        await carol.ask("logout")
        self.assertEqual(list(alices), [])
        await self.user("carol", carol)
        await end(carol, None)
        await end(alice, lambda: alice.ask("dissolve", group="team"))

    async def test_a_session_that_ended_watches_nothing(self) -> None:
        """A room that is opened by who has left meanwhile stays closed."""
        _, bob = await self.team("alice", "bob")
        bob.frame(b'{"cmd":"watch","to":"#team"}')
        bob.vanish()
        await self.node.store.idle()
        await self.pass_by()
        self.assertEqual(self.node.hub.open_groups(), frozenset())

    async def test_over_http(self) -> None:
        """A request by HTTP is answered, and nothing stays of it: nobody is online by it."""
        alice, _ = await self.friends("alice", "bob")
        http = self.http()
        await self.user("carol", http)
        await self.node.store.write(befriend, [("alice", "carol")])
        for command, parameters in (
            ("appear", {"state": "away"}),
            ("appear", {"state": "online"}),
            ("watch", {"to": "@carol"}),
        ):
            self.assertTrue((await http.ask(command, **parameters))["ok"], command)
        await self.pass_by(2)
        self.assertEqual(self.news(alice), [])
        self.assertEqual(await self.state(alice, "carol"), ["offline"])
        self.assertEqual(await self.state(http, "alice", "carol"), ["online", "offline"])


class Invisible(PresenceCase):
    """Those who do not want to be seen."""

    async def test_looks_like_going(self) -> None:
        """Becoming invisible looks to others as if one had gone, in all that is told; being
        seen again as if one came."""
        alice, bob, carol = await self.friends("alice", "bob", "carol")
        phone = await self.user("bob")
        await bob.ask("appear", state="invisible")
        carol.vanish()
        await self.pass_by(LINGER)
        phone.vanish()
        self.assertEqual(self.news(alice), [])
        await self.pass_by()
        told = {event.pop("from"): event for event in self.events(alice)}
        self.assertEqual(told["bob"], told["carol"])
        reply = await alice.ask("who", users=["bob", "carol"])
        seen = told["bob"]["seen"]
        for name, person in zip(("bob", "carol"), reply["users"], strict=True):
            self.assertEqual(person, {"user": name, "state": "offline", "seen": seen})
        await bob.ask("appear", state="online")
        await self.pass_by()
        self.assertEqual(self.news(alice), [("bob", "online")])

    async def test_leaks_nothing(self) -> None:
        """Nothing that an invisible user's devices do by themselves shows: new sessions, the end
        of sessions, going away and coming back, restarts; and it is seen in no list."""
        alice, bob = await self.friends("alice", "bob")
        await alice.ask("create", name="team")
        await bob.ask("join", group="team")
        await alice.ask("say", to="@bob", text="hello")
        await self.node.store.write(befriend, [("alice", "bob")])
        await bob.ask("appear", state="invisible")
        await self.pass_by(LINGER + 1)
        await alice.ask("watch", to="#team")
        alone = await self.person(alice)
        self.news(alice)
        phone = await self.user("bob", self.lines(), device="phone")
        for client, state in ((phone, "away"), (bob, "away"), (phone, "invisible")):
            await client.ask("appear", state=state)
            await self.pass_by(LINGER + 1)
        await bob.ask("delivered", to="@alice", seq=1)
        phone.vanish()
        bob.vanish()
        await self.pass_by(LINGER + 1)
        bob = await self.user("bob", device="web")
        await self.pass_by(400)
        self.assertEqual(self.news(alice), [])
        self.assertEqual(await self.person(alice), alone)
        members = await alice.ask("who", group="team")
        self.assertEqual(members["users"][1], alone)
        await self.restart()
        alice, bob = await self.user("alice"), await self.user("bob")
        await self.pass_by(LINGER + 1)
        self.assertEqual(await self.person(alice), alone)
        self.assertEqual(self.news(alice), [])
        self.assertEqual(await self.state(bob, "bob"), ["invisible"])

    async def person(self, client: Any) -> dict[str, Any]:
        """All that `who` tells of Bob."""
        (person,) = (await client.ask("who", users=["bob"]))["users"]
        return dict(person)

    async def test_devices_are_gone_at_once(self) -> None:
        """While one who became invisible lingers, his devices are not told."""
        alice = await self.user("alice")
        bob = await self.user("bob", device="web")
        await self.node.store.write(befriend, [("alice", "bob")])
        await self.pass_by()
        self.assertEqual((await self.person(alice))["devices"], ["web"])
        await bob.ask("appear", state="invisible")
        await self.pass_by()
        self.assertEqual(await self.person(alice), {"user": "bob", "state": "online"})

    async def test_all_devices_learn_it(self) -> None:
        """It is an entry of one's own inbox, once for a change; away is none."""
        bob, phone = await self.user("bob"), await self.user("bob")
        alice = await self.user("alice")
        for state in ("away", "invisible", "away", "invisible", "online", "online"):
            self.assertTrue((await bob.ask("appear", state=state))["ok"])
        self.assertEqual((await phone.event())["invisible"], True)
        entries = (await phone.ask("history", to="@bob"))["entries"]
        self.assertEqual(
            [(e["event"], e["from"], e["invisible"]) for e in entries],
            [("updated", "bob", True), ("updated", "bob", False)],
        )
        self.assertEqual((await alice.ask("history", to="@bob"))["entries"], [])

    async def test_away_leaves_it(self) -> None:
        """A client that goes away by itself, and is left, makes nobody visible."""
        alice, bob = await self.friends("alice", "bob")
        await bob.ask("appear", state="invisible")
        await bob.ask("appear", state="away")
        self.assertEqual(await self.state(bob, "bob"), ["invisible"])
        await self.pass_by(LINGER + 1)
        self.assertEqual(self.news(alice), [("bob", "offline")])

    async def test_over_http(self) -> None:
        """It can be said by HTTP, and holds for all devices."""
        alice, bob = await self.friends("alice", "bob")
        http = self.http()
        await self.user("bob", http)
        await http.ask("appear", state="invisible")
        await self.pass_by(LINGER + 1)
        self.assertEqual(self.news(alice), [("bob", "offline")])
        self.assertEqual(await self.state(bob, "bob"), ["invisible"])
        await http.ask("appear", state="online")
        await self.pass_by()
        self.assertEqual(self.news(alice), [("bob", "online")])

    async def test_logins_under_way(self) -> None:
        """Logins that read the database before their user became invisible do not show him, not
        even two of them together."""
        alice, http = await self.user("alice"), self.http()
        await self.user("bob", http)
        await self.node.store.write(befriend, [("alice", "bob")])
        log_in = self.node.store.log_in
        waiting: list[Any] = []
        let_go = 0

        async def late(login: Any) -> Any:
            account = await log_in(login)
            if login.token is None:
                waiting.append(account)
                number = len(waiting)
                while let_go < number:
                    await deferLater(reactor, 0)
            return account

        self.patch(self.node.store, "log_in", late)
        clients = [self.frames(), self.frames()]
        for number, client in enumerate(clients, 1):
            client.frame(b'{"cmd":"login","id":1,"name":"bob","password":"secret"}')
            while len(waiting) < number:
                await deferLater(reactor, 0)
        await http.ask("appear", state="invisible")
        for client in clients:
            let_go += 1
            self.assertTrue((await client.next())["ok"])
        await self.pass_by()
        self.assertEqual(self.news(alice), [])


class LastSeen(PresenceCase):
    """When somebody was last online."""

    async def seen(self, name: str) -> int:
        """What is kept of it."""
        sql = "SELECT seen_at FROM users WHERE name = ?"
        row = await self.node.store.read(lambda c: c.one(sql, (name,)))
        assert row is not None
        return int(row[0])

    async def test_what_is_kept(self) -> None:
        """It is kept at a login, every few minutes, when one has gone and when the node stops."""
        _, bob = await self.user("alice"), await self.user("bob")
        self.assertEqual(await self.seen("bob"), 0)
        await self.pass_by()
        self.assertEqual(await self.seen("bob"), self.time * 1000)
        await self.pass_by(299)
        self.assertEqual(await self.seen("bob"), self.time * 1000)
        bob.vanish()
        await self.pass_by()
        gone = self.time * 1000
        await self.pass_by(LINGER)
        self.assertEqual(await self.seen("bob"), gone)
        await self.pass_by(500)
        self.assertEqual(await self.seen("bob"), gone)
        self.time += 1
        end = self.time * 1000
        await self.restart()
        self.assertEqual((await self.seen("alice"), await self.seen("bob")), (end, gone))

    async def test_the_stop_of_those_who_linger(self) -> None:
        """Who lingers when the node stops was last seen when he left."""
        _, bob = await self.friends("alice", "bob")
        bob.vanish()
        await self.pass_by()
        gone = self.time * 1000
        self.time += 1
        await self.restart()
        self.assertEqual(await self.seen("bob"), gone)

    async def test_one_statement(self) -> None:
        """However many go in a tick, it is kept by one statement, and by a later one where the
        database was away; who asks gets the same time meanwhile."""
        names = [f"user{n}" for n in range(30)]
        alice, *clients = await self.friends("alice", *names)
        writes: list[dict[int, int]] = []
        write = self.node.store.write
        up = False

        def counted(statement: Any, *args: Any) -> Any:
            if statement.__name__ == "note_seen":
                writes.append(args[0])
                if not up:
                    raise Unavailable("away")
            return write(statement, *args)

        self.patch(self.node.store, "write", counted)
        for client in clients:
            client.vanish()
        gone = self.time + 1
        await self.pass_by(LINGER + 1)
        self.assertEqual([len(batch) for batch in writes], [30])
        self.assertEqual(len(self.news(alice)), 30)
        (person,) = (await alice.ask("who", users=["user3"]))["users"]
        self.assertEqual(person["seen"], gone * 1000)
        self.assertNotEqual(await self.seen("user3"), gone * 1000)
        up = True
        await self.pass_by(3)
        self.assertEqual([len(batch) for batch in writes], [30, 30])
        self.assertEqual(await self.seen("user3"), gone * 1000)


class Who(PresenceCase):
    """Who may see whom."""

    async def test_who_may_see_whom(self) -> None:
        """Friends, members of a group in common and the other one of a direct room are seen;
        strangers, those who are not there and those who blocked one are unknown, alike."""
        names = ("friend", "mate", "partner", "stranger", "blocker", "ex")
        people = {name: await self.user(name, device=f"{name}/1") for name in names}
        alice = await self.user("alice")
        await alice.ask("create", name="team")
        for name in ("mate", "blocker", "ex"):
            await people[name].ask("join", group="team")
        await people["ex"].ask("leave", group="team")
        await people["partner"].ask("say", to="@alice", text="hello")
        await self.node.store.write(befriend, [("alice", "friend")])
        await self.node.store.write(befriend, [("blocker", "alice")], blocked=1)
        await self.pass_by()
        reply = await alice.ask("who", users=[*names, "NoBody", "STRANGER", "Mate", "alice"])
        self.assertEqual(
            reply["users"],
            [
                {"user": "friend", "state": "online", "devices": ["friend/1"]},
                {"user": "mate", "state": "online"},
                {"user": "partner", "state": "online"},
                {"user": "stranger", "state": "unknown"},
                {"user": "blocker", "state": "unknown"},
                {"user": "ex", "state": "unknown"},
                {"user": "NoBody", "state": "unknown"},
                {"user": "STRANGER", "state": "unknown"},
                {"user": "mate", "state": "online"},
                {"user": "alice", "state": "online"},
            ],
        )
        members = (await alice.ask("who", group="#team"))["users"]
        states = {person["user"]: person["state"] for person in members}
        self.assertEqual(states, {"alice": "online", "blocker": "unknown", "mate": "online"})
        await alice.ask("dissolve", group="team")
        self.assertEqual(await self.state(alice, "mate"), ["unknown"])
        self.assertEqual((await alice.ask("who"))["error"], "bad-request")
        both = await alice.ask("who", users=["mate"], group="team")
        self.assertEqual(both["error"], "bad-request")

    async def test_pages(self) -> None:
        """A group of 10,000 is told page by page, each member once."""
        alice = await self.user("alice")
        await alice.ask("create", name="team")
        await self.node.store.write(_fill, 9_999)
        found: list[str] = []
        after = ""
        more, pages = True, 0
        while more:
            reply = await alice.ask("who", group="team", after=after, limit=1000)
            found += [person["user"] for person in reply["users"]]
            after, more, pages = found[-1], reply["more"], pages + 1
        self.assertEqual((len(found), len(set(found)), pages), (10_000, 10_000, 10))

    async def test_typed(self) -> None:
        """A person at telnet asks for a group, or for a list."""
        alice = await self.user("alice", self.lines())
        await alice.ask("create", name="team")
        await self.pass_by()
        line = "= alice state=online"
        self.assertEqual(await alice.answer("/who #team"), [line, "+OK more=false"])
        self.assertEqual(await alice.answer('/who users=["alice"]'), [line, "+OK more=false"])


def _fill(connection: Connection, count: int) -> None:
    with connection.transaction():
        ids = [accounts.add_user(connection, f"member{n}", "", "", 0) for n in range(count)]
        connection.many(
            "INSERT INTO members (user_id, room_id, role, joined_seq) VALUES (?, 1, 'member', 1)",
            [(user_id,) for user_id in ids],
        )


class Storm(PresenceCase):
    """The return of everybody after a restart."""

    USERS = 300
    FRIENDS = 10  # of each

    async def test_no_storm(self) -> None:
        """When 300 come back in ten seconds, nobody gets more than two frames for each whom he
        watches, and all are shown as online in the end; the database is asked once a tick."""
        names = [f"user{n}" for n in range(self.USERS)]
        tokens = await self.node.store.write(_make, names)
        pairs = [
            (name, names[(n + step) % self.USERS])
            for n, name in enumerate(names)
            for step in range(1, self.FRIENDS // 2 + 1)
        ]
        await self.node.store.write(befriend, pairs)
        reads: Counter[str] = Counter()
        read = self.node.store.read

        def counted(query: Any, *args: Any, **kwargs: Any) -> Any:
            reads[query.__name__] += 1
            return read(query, *args, **kwargs)

        self.patch(self.node.store, "read", counted)
        clients = {}
        for n, name in enumerate(names):
            clients[name] = client = self.frames()
            client.frame(json.dumps({"cmd": "login", "token": tokens[name]}).encode())
            if n % 30 == 29:
                while sum(1 for s in self.node.hub.sessions if s.user) <= n:
                    await deferLater(reactor, 0)
                await self.pass_by()
        watched = await clients["user0"].ask("watch", to="#nowhere")
        self.assertEqual(watched["error"], "not-found")
        await self.pass_by(3)
        self.assertEqual(reads["audience"], 10)
        for name, client in clients.items():
            news = Counter(self.news(client))
            friends = {one for pair in pairs if name in pair for one in pair} - {name}
            self.assertLessEqual({who for who, _ in news}, friends)
            self.assertLessEqual(sum(news.values()), len(friends))
            self.assertEqual(set(await self.state(client, *friends)), {"online"})


def _make(connection: Connection, names: list[str]) -> dict[str, str]:
    """Users, each with the token it gives."""
    tokens = {name: accounts.new_secret() for name in names}
    with connection.transaction():
        for name, token in tokens.items():
            user_id = accounts.add_user(connection, name, "", "", 0)
            connection.run(
                "INSERT INTO tokens (hash, user_id, device, created_at, expires_at)"
                " VALUES (?, ?, '', 0, ?)",
                (accounts.digest(token), user_id, 2**50),
            )
    return tokens

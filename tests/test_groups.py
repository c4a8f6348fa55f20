"""Groups over the wires: who comes in, what who may do there, and what the others hear of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from chatd.session import Session
from chatd.settings import Limits
from chatd.store.groups import NewGroup, make_group
from tests.bed import CalmCase, Frames, Http

FAR = 2**52  # ms


class GroupCase(CalmCase):
    """Alice, who owns the group `team`."""

    async def people(self, *names: str) -> list[Frames]:
        """A client for each."""
        return [await self.user(name) for name in names]

    async def ok(self, client: Any, command: str, /, **parameters: Any) -> dict[str, Any]:
        """The reply to a request that succeeds."""
        reply: dict[str, Any] = await client.ask(command, **parameters)
        self.assertTrue(reply["ok"], (command, parameters, reply))
        return reply

    async def code(self, client: Any, command: str, /, **parameters: Any) -> str:
        """What a request comes to: ok or a code."""
        reply = await client.ask(command, **parameters)
        return str(reply.get("error", "ok"))

    async def team(self, *names: str, **settings: Any) -> list[Frames]:
        """The group, and clients of its owner, Alice, and of members."""
        clients = await self.people("alice", *names)
        await self.ok(clients[0], "create", name="team", **settings)
        for client, name in zip(clients[1:], names, strict=True):
            await self.ok(clients[0], "invite", group="team", user=name)
            await self.ok(client, "join", group="team")
        return clients

    async def names(self, client: Any, **parameters: Any) -> dict[str, str]:
        """The members' roles by name."""
        found = await self.ok(client, "members", group="team", **parameters)
        return {member["user"]: member["role"] for member in found["members"]}

    async def event(self, client: Frames, name: str, to: str) -> dict[str, Any]:
        """The next event of that name in a room."""
        while True:
            found = await client.event()
            if (found["event"], found["to"]) == (name, to):
                return found

    async def kept(self) -> dict[str, int]:
        """How many rows there are of what a group leaves in other tables."""
        tables = ("links", "group_invitations", "mutes", "join_requests")
        return await self.node.store.read(
            lambda db: {table: db.all(f"SELECT COUNT(*) FROM {table}")[0][0] for table in tables}
        )

    async def http_user(self, name: str) -> Http:
        """A client of the HTTP API."""
        client: Http = await self.user(name, self.http())
        return client


class Entering(GroupCase):
    """The ways into a group."""

    async def test_created_as_asked(self) -> None:
        """A group is what its maker says; its log tells what is not usual."""
        (alice,) = await self.people("alice")
        told = {"title": "T", "description": "two\nlines", "entry": "approval"}
        other = await self.user("alice", self.frames())
        await self.ok(alice, "create", name="team", history="joined", posting="admins", **told)
        about = await self.ok(alice, "about", group="team")
        expected = {**told, "history": "joined", "posting": "admins", "role": "owner"}
        self.assertEqual({name: about[name] for name in expected}, expected)
        self.assertEqual(about["members"], 1)
        made = await self.event(other, "created", "#team")
        self.assertEqual({name: made[name] for name in told}, told)
        entries = (await self.ok(alice, "history", to="#team"))["entries"]
        self.assertEqual(entries, [made])

    async def test_created_again(self) -> None:
        """A repeat of a creation is answered as the first, until something has happened; another
        user's, and one of something else, is refused. Live sessions know the group then."""
        alice, bob = await self.people("alice", "bob")
        (alices,) = {session.user for session in self.node.hub.sessions if _is(session, "alice")}
        assert alices is not None
        # Stored, but its maker did not hear of it.
        room = await self.node.store.write(
            make_group, NewGroup("team", "T"), alices.party, self.node.keys(), 1
        )
        self.assertEqual(await self.code(alice, "say", to="#team", text="x"), "not-a-member")
        self.assertEqual(await self.code(bob, "create", name="team", title="T"), "exists")
        self.assertEqual(await self.code(alice, "create", name="team", title="U"), "exists")
        self.assertEqual(await self.code(alice, "create", name="team", title="T"), "ok")
        self.assertIn(room.id, alices.groups)
        self.assertEqual(await self.code(alice, "say", to="#team", text="x"), "ok")
        self.assertEqual(await self.code(alice, "create", name="team", title="T"), "exists")

    async def test_open(self) -> None:
        """Anybody joins an open group, members hear of it, and live and HTTP clients agree."""
        alice, bob = await self.people("alice", "bob")
        await self.ok(alice, "create", name="team")
        joined = await self.ok(bob, "join", group="#team")
        self.assertEqual((joined["address"], joined["seq"]), ("#team", 2))
        self.assertEqual((await self.event(alice, "joined", "#team"))["from"], "bob")
        carol = await self.http_user("carol")
        await self.ok(carol, "join", group="team")
        self.assertEqual((await self.event(bob, "joined", "#team"))["from"], "carol")
        everybody = {"alice": "owner", "bob": "member", "carol": "member"}
        for client in (alice, bob, carol):
            self.assertEqual(await self.names(client), everybody)

    async def test_invited_by_name(self) -> None:
        """Who is invited hears of it once, by whom, and may join; the invitation is used up."""
        alice, bob, carol = await self.people("alice", "bob", "carol")
        await self.ok(alice, "create", name="team", entry="invited")
        self.assertEqual(await self.code(bob, "join", group="team"), "not-found")
        for _ in range(2):
            await self.ok(alice, "invite", group="team", user="@bob")
        told = await self.event(bob, "invited", "@bob")
        self.assertEqual((told["from"], told["group"], told["user"]), ("bob", "#team", "alice"))
        self.assertTrue((await self.ok(bob, "about", group="team"))["invited"])
        self.assertEqual(await self.code(carol, "join", group="team"), "not-found")
        await self.ok(bob, "join", group="team")
        inbox = (await self.ok(bob, "history", to="@bob"))["entries"]
        self.assertEqual([entry["event"] for entry in inbox], ["invited"])
        await self.ok(bob, "leave", group="team")
        self.assertEqual(await self.code(bob, "join", group="team"), "not-found")

    async def test_who_invites(self) -> None:
        """Members invite where the group is open, admins everywhere; not who is blocked, banned or
        a member."""
        alice, bob, _, dave = await self.team("bob", "carol", "dave")
        eve, frank = await self.people("eve", "frank")
        await self.ok(bob, "invite", group="team", user="eve")
        for entry in ("approval", "invited"):
            await self.ok(alice, "configure", group="team", entry=entry)
            self.assertEqual(
                await self.code(bob, "invite", group="team", user="frank"), "forbidden"
            )
            self.assertEqual(await self.code(alice, "invite", group="team", user="carol"), "exists")
        await self.ok(alice, "kick", group="team", user="dave", ban=True)
        self.assertEqual(await self.code(alice, "invite", group="team", user="dave"), "forbidden")
        await self.node.store.write(_block, "frank", "alice")
        self.assertEqual(await self.code(alice, "invite", group="team", user="frank"), "blocked")
        self.assertEqual(await self.code(frank, "join", group="team"), "not-found")
        self.assertEqual(await self.code(dave, "join", group="team"), "not-found")
        self.assertEqual(await self.code(eve, "join", group="team"), "ok")

    async def test_declined(self) -> None:
        """Who declines is not invited any more."""
        alice, bob = await self.people("alice", "bob")
        await self.ok(alice, "create", name="team", entry="invited")
        await self.ok(alice, "invite", group="team", user="bob")
        self.assertEqual(await self.code(bob, "decline", group="team"), "ok")
        self.assertEqual(await self.code(bob, "decline", group="team"), "not-found")
        self.assertEqual(await self.code(bob, "join", group="team"), "not-found")

    async def test_approval(self) -> None:
        """Who asks waits: the owner and the admins hear of it once, list it, and let in or turn
        down; who asked hears what came of it."""
        alice, bob, mallory = await self.team("bob", "mallory", entry="approval")
        carol, dave = await self.people("carol", "dave")
        await self.ok(alice, "role", group="team", user="bob", role="admin")
        for client in (carol, carol, dave):
            asked = await self.ok(client, "join", group="team", words="let me in")
            self.assertEqual((asked["requested"], asked["address"]), (True, "#team"))
            self.assertNotIn("seq", asked)
        for client, name in ((alice, "alice"), (bob, "bob")):
            for who in ("carol", "dave"):
                told = await self.event(client, "requested", f"@{name}")
                self.assertEqual((told["user"], told["words"]), (who, "let me in"))
        self.assertEqual(await self.code(mallory, "requests", group="team"), "forbidden")
        listed = await self.ok(bob, "requests", group="team", limit=1)
        self.assertEqual(
            ([r["user"] for r in listed["requests"]], listed["more"]), (["carol"], True)
        )
        listed = await self.ok(bob, "requests", group="team", after="CAROL")
        self.assertEqual(
            ([r["user"] for r in listed["requests"]], listed["more"]), (["dave"], False)
        )
        await self.ok(bob, "approve", group="team", user="carol")
        joined = await self.event(carol, "joined", "#team")
        self.assertEqual((joined["from"], joined["by"]), ("carol", "bob"))
        self.assertEqual((await self.event(carol, "approved", "@carol"))["user"], "bob")
        await self.ok(carol, "say", to="#team", text="thanks")
        await self.ok(alice, "reject", group="team", user="dave")
        self.assertEqual((await self.event(dave, "rejected", "@dave"))["user"], "alice")
        self.assertEqual(await self.code(dave, "say", to="#team", text="x"), "not-a-member")
        for command in ("approve", "reject"):
            self.assertEqual(await self.code(bob, command, group="team", user="dave"), "not-found")

    async def test_links(self) -> None:
        """By a link one joins whatever the rules are, so often and so long as it says, until it is
        ended; the token is shown once."""
        alice, bob, carol, dave = await self.people("alice", "bob", "carol", "dave")
        await self.ok(alice, "create", name="team", entry="invited")
        made = await self.ok(alice, "link", group="team", uses=2)
        (line,) = (await self.ok(alice, "links", group="team"))["links"]
        self.assertEqual((line["id"], line["by"], line["uses"]), (made["id"], "alice", 2))
        self.assertNotIn(made["token"], str(line))
        token = made["token"]
        self.assertEqual(await self.code(bob, "join", token=token, group="other"), "not-found")
        self.assertEqual((await self.ok(bob, "join", token=token))["address"], "#team")
        self.assertEqual(await self.code(bob, "join", token=token), "exists")
        self.assertEqual(await self.code(carol, "join", token=token, group="TEAM"), "ok")
        self.assertEqual(await self.code(dave, "join", token=token), "not-found")
        self.assertEqual((await self.ok(alice, "links", group="team"))["links"], [])
        for end in (self._unlink, self._expire):
            made = await self.ok(alice, "link", group="team", uses=2, days=1)
            await end(alice, made)
            self.assertEqual(await self.code(dave, "join", token=made["token"]), "not-found")

    async def _unlink(self, alice: Any, made: dict[str, Any]) -> None:
        self.assertEqual(await self.code(alice, "unlink", group="team", link=made["id"]), "ok")

    async def _expire(self, alice: Any, made: dict[str, Any]) -> None:
        day, now = 24 * 60 * 60, self.node.now
        self.node.now = lambda: now() + day
        self.addCleanup(setattr, self.node, "now", now)

    async def test_cleaning(self) -> None:
        """What has expired is cleaned away, what has not stays."""
        alice, *_ = await self.team("bob", "carol", entry="invited")
        await self.people("dave")
        await self.ok(alice, "link", group="team", days=365)
        await self.ok(alice, "link", group="team", days=2)
        await self.ok(alice, "invite", group="team", user="dave")
        soon = self.node.millis() + 60_000
        await self.ok(alice, "mute", group="team", user="bob", until=soon)
        await self.ok(alice, "mute", group="team", user="carol", until=FAR)
        self.assertEqual(
            await self.kept(), {"links": 2, "group_invitations": 1, "mutes": 2, "join_requests": 0}
        )
        day, now = 24 * 60 * 60, self.node.now
        for days, kept in ((1, (2, 1, 1, 0)), (3, (1, 1, 1, 0)), (31, (1, 0, 1, 0))):
            self.node.now = partial(_later, now, days * day)
            await self.heartbeat._clean()
            self.assertEqual(tuple((await self.kept()).values()), kept)
        self.node.now = now

    async def test_hidden(self) -> None:
        """To who is not invited, a group by invitation answers like one that is not there,
        whatever is asked."""
        alice, bob = await self.people("alice", "bob")
        await self.ok(alice, "create", name="team", entry="invited")
        mallory = await self.http_user("mallory")
        for client in (bob, mallory):
            for command, parameters in (
                *(("join", {}), ("about", {}), ("members", {}), ("leave", {}), ("decline", {})),
                *(("kick", {"user": "alice"}), ("invite", {"user": "bob"}), ("links", {})),
            ):
                answers = [
                    (await client.ask(command, group=name, **parameters))
                    for name in ("Team", "Nope")
                ]
                told = [(a["error"], a["message"].replace("Nope", "Team")) for a in answers]
                self.assertEqual(told[0], told[1], command)
                self.assertEqual(told[0][0], "not-found")
            for command, parameters in (("history", {}), ("say", {"text": "x"})):
                answers = [
                    (await client.ask(command, to=to, **parameters)) for to in ("#Team", "#Nope")
                ]
                told = [(a["error"], a["message"].replace("Nope", "Team")) for a in answers]
                self.assertEqual(told[0], told[1], command)

    async def test_what_others_see(self) -> None:
        """Who is no member sees what a group is for and how many are in it, no more."""
        _, bob = await self.team("bob", title="T", description="D")
        (carol,) = await self.people("carol")
        seen = await self.ok(carol, "about", group="team")
        self.assertEqual(
            {name: value for name, value in seen.items() if name not in ("reply", "ok")},
            {"address": "#team", "title": "T", "description": "D", "entry": "open", "members": 2},
        )
        self.assertEqual((await self.ok(bob, "about", group="team"))["role"], "member")

    async def test_titles(self) -> None:
        """A title has nothing unseen and nothing that moves other characters, like other names that
        people see."""
        (alice,) = await self.people("alice")
        for title in ("team\u200b", "\u202emaet", "a\u2066b"):
            self.assertEqual(
                await self.code(alice, "create", name="one", title=title), "bad-request"
            )
        await self.ok(alice, "create", name="team", title="  our   team ")
        about = await self.ok(alice, "about", group="team")
        self.assertEqual(about["title"], "our team")
        self.assertEqual(
            await self.code(alice, "retitle", group="team", title="\u200b"), "bad-request"
        )

    async def test_requests_of_the_blocked(self) -> None:
        """Who has blocked somebody hears of no request of theirs; the others do, and if there are
        none nothing is asked."""
        alice, bob = await self.team("bob", entry="approval")
        await self.ok(alice, "role", group="team", user="bob", role="admin")
        (dave,) = await self.people("dave")
        await self.ok(alice, "block", user="dave")
        self.assertTrue((await self.ok(dave, "join", group="team"))["requested"])
        self.assertEqual((await self.event(bob, "requested", "@bob"))["user"], "dave")
        await self.ok(dave, "decline", group="team")
        await self.ok(bob, "block", user="dave")
        self.assertEqual(await self.code(dave, "join", group="team"), "blocked")
        kinds = [
            entry["event"] for entry in (await self.ok(alice, "history", to="@alice"))["entries"]
        ]
        self.assertNotIn("requested", kinds)
        self.assertEqual((await self.kept())["join_requests"], 0)


class Full(GroupCase):
    """Limits."""

    limits = Limits(members=3, rooms=2)

    async def test_limits(self) -> None:
        """A full group takes nobody, by no way; nobody is in more groups than allowed, by his own
        or another's doing; what was refused spends no link and no request."""
        alice, bob, carol, dave = await self.people("alice", "bob", "carol", "dave")
        await self.ok(alice, "create", name="team")
        token = (await self.ok(alice, "link", group="team"))["token"]
        await self.ok(bob, "join", group="team")
        await self.ok(carol, "join", group="team")
        self.assertEqual(await self.code(dave, "join", group="team"), "too-large")
        self.assertEqual(await self.code(dave, "join", token=token), "too-large")
        await self.ok(alice, "configure", group="team", entry="approval")
        await self.ok(dave, "join", group="team")
        self.assertEqual(await self.code(alice, "approve", group="team", user="dave"), "too-large")
        await self.ok(carol, "leave", group="team")
        for name in ("one", "two"):
            await self.ok(dave, "create", name=name)
        self.assertEqual(await self.code(dave, "create", name="three"), "too-large")
        self.assertEqual(await self.code(dave, "join", token=token), "too-large")
        self.assertEqual(await self.code(alice, "approve", group="team", user="dave"), "too-large")
        await self.ok(dave, "dissolve", group="one")
        await self.ok(alice, "approve", group="team", user="dave")
        await self.ok(bob, "leave", group="team")
        await self.ok(carol, "join", token=token)


class Inside(GroupCase):
    """What members do to each other."""

    async def test_roles(self) -> None:
        """The owner appoints and transfers; the others hear of it, and rights follow at once, over
        live sessions and HTTP alike."""
        alice, bob, carol = await self.team("bob", "carol")
        await self.people("dave")
        bobs = await self.http_user("bob")
        change = {"group": "team", "title": "x"}
        for client in (bob, bobs):
            self.assertEqual(await self.code(client, "retitle", **change), "forbidden")
        await self.ok(alice, "role", group="team", user="bob", role="admin")
        told = await self.event(carol, "appointed", "#team")
        self.assertEqual((told["from"], told["user"], told["role"]), ("alice", "bob", "admin"))
        for client in (bob, bobs):
            self.assertEqual(await self.code(client, "retitle", **change), "ok")
        self.assertEqual(
            await self.code(bob, "role", group="team", user="carol", role="admin"), "forbidden"
        )
        self.assertEqual(
            await self.code(alice, "role", group="team", user="bob", role="admin"), "conflict"
        )
        self.assertEqual(
            await self.code(alice, "role", group="team", user="nobody", role="admin"), "not-found"
        )
        await self.ok(alice, "role", group="team", user="bob", role="owner")
        self.assertEqual(
            await self.names(carol), {"alice": "admin", "bob": "owner", "carol": "member"}
        )
        self.assertEqual(await self.code(alice, "dissolve", group="team"), "forbidden")
        self.assertEqual(await self.code(bob, "leave", group="team"), "conflict")
        self.assertEqual(await self.code(alice, "leave", group="team"), "ok")
        self.assertEqual(await self.code(bobs, "dissolve", group="team"), "ok")

    async def test_kick(self) -> None:
        """Who is kicked gets nothing more from there, hears of it in the inbox as well, and may
        come back unless banned; a ban is listed and can be ended."""
        alice, bob, carol = await self.team("bob", "carol")
        await self.ok(alice, "kick", group="team", user="bob")
        for live in (bob, carol):
            told = await self.event(live, "kicked", "#team")
            self.assertEqual((told["from"], told["user"]), ("alice", "bob"))
        told = await self.event(bob, "kicked", "@bob")
        self.assertEqual((told["from"], told["group"], told["user"]), ("bob", "#team", "alice"))
        await self.ok(alice, "say", to="#team", text="he is gone")
        bobs = await self.http_user("bob")
        for client in (bob, bobs):
            self.assertEqual(await self.code(client, "history", to="#team"), "not-a-member")
        await self.ok(bob, "join", group="team")
        await self.ok(alice, "kick", group="team", user="bob", ban=True)
        self.assertTrue((await self.event(carol, "kicked", "#team"))["banned"])
        self.assertEqual(await self.code(bob, "join", group="team"), "forbidden")
        token = (await self.ok(alice, "link", group="team"))["token"]
        self.assertEqual(await self.code(bobs, "join", token=token), "forbidden")
        await self.people("dave")
        await self.ok(alice, "kick", group="team", user="dave", ban=True)
        dave = await self.http_user("dave")
        self.assertEqual((await self.ok(dave, "rooms"))["rooms"], [])
        await self.ok(alice, "unban", group="team", user="dave")
        (ban,) = (await self.ok(alice, "bans", group="team"))["bans"]
        self.assertEqual((ban["user"], ban["by"]), ("bob", "alice"))
        kicking = {"group": "team", "user": "bob", "ban": True}
        self.assertEqual(await self.code(alice, "kick", **kicking), "conflict")
        await self.ok(alice, "unban", group="team", user="bob")
        self.assertEqual(await self.code(alice, "unban", group="team", user="bob"), "not-found")
        self.assertEqual(await self.code(bob, "join", token=token), "ok")
        heard = [event async for event in self._events(bob)]
        self.assertNotIn("he is gone", str(heard))

    async def _events(self, client: Frames) -> Any:
        """What has come to a client before the answer to a request."""
        client.frame(b'{"cmd": "ping", "id": "last"}')
        while (found := await client.next()).get("reply") != "last":
            yield found

    async def test_what_ends_with_membership(self) -> None:
        """Who leaves or is kicked, or is no admin any more, leaves no way in behind."""
        alice, bob = await self.team("bob")
        carol, _ = await self.people("carol", "dave")
        await self.ok(alice, "role", group="team", user="bob", role="admin")
        await self.ok(alice, "configure", group="team", entry="invited")
        for ending in ("kick", "role", "leave"):
            token = (await self.ok(bob, "link", group="team"))["token"]
            await self.ok(bob, "invite", group="team", user="carol")
            if ending == "kick":
                await self.ok(alice, "kick", group="team", user="bob")
            elif ending == "role":
                await self.ok(alice, "role", group="team", user="bob", role="member")
            else:
                await self.ok(bob, "leave", group="team")
            self.assertEqual(await self.code(carol, "join", token=token), "not-found", ending)
            self.assertEqual(await self.code(carol, "join", group="team"), "not-found", ending)
            if ending == "kick":
                await self.ok(alice, "invite", group="team", user="bob")
                await self.ok(bob, "join", group="team")
            if ending != "leave":
                await self.ok(alice, "role", group="team", user="bob", role="admin")

    async def test_mute(self) -> None:
        """A muted member writes no more until the time, whatever the wire; leaving and coming back
        does not help; ended, the member writes again."""
        alice, bob, carol = await self.team("bob", "carol")
        bobs = await self.http_user("bob")
        await self.ok(alice, "mute", group="team", user="bob", until=FAR)
        told = await self.event(carol, "muted", "#team")
        self.assertEqual((told["user"], told["until"]), ("bob", FAR))
        for client in (bob, bobs):
            self.assertEqual(await self.code(client, "say", to="#team", text="x"), "muted")
        self.assertEqual(await self.code(carol, "say", to="#team", text="x"), "ok")
        await self.ok(bob, "leave", group="team")
        await self.ok(bobs, "join", group="team")
        self.assertEqual((await self.event(bob, "joined", "#team"))["muted_until"], FAR)
        for client in (bob, bobs):
            self.assertEqual(await self.code(client, "say", to="#team", text="x"), "muted")
        members = (await self.ok(carol, "members", group="team"))["members"]
        self.assertEqual([m["muted_until"] for m in members], [0, FAR, 0])
        self.assertEqual(await self.code(alice, "mute", group="team", user="bob"), "bad-request")
        self.assertEqual(await self.code(bob, "say", to="#team", text="x"), "muted")
        await self.ok(alice, "mute", group="team", user="bob", until=0)
        for client in (bob, bobs):
            self.assertEqual(await self.code(client, "say", to="#team", text="x"), "ok")

    async def test_mute_runs_out(self) -> None:
        """When its time has come, a mute ends by itself."""
        alice, bob = await self.team("bob")
        now = self.node.now
        await self.ok(alice, "mute", group="team", user="bob", until=int(now() * 1000) + 60_000)
        self.assertEqual(await self.code(bob, "say", to="#team", text="x"), "muted")
        self.node.now = lambda: now() + 61
        self.assertEqual(await self.code(bob, "say", to="#team", text="x"), "ok")
        members = (await self.ok(alice, "members", group="team"))["members"]
        self.assertEqual([m["muted_until"] for m in members], [0, 0])

    async def test_mute_all(self) -> None:
        """With everybody muted only admins write, until it is ended; who joins is muted, too."""
        alice, bob, carol = await self.team("bob", "carol")
        await self.ok(alice, "role", group="team", user="carol", role="admin")
        await self.ok(alice, "mute", group="team", until=FAR)
        self.assertNotIn("user", await self.event(bob, "muted", "#team"))
        (dave,) = await self.people("dave")
        await self.ok(dave, "join", group="team")
        for client, code in ((alice, "ok"), (bob, "muted"), (carol, "ok"), (dave, "muted")):
            self.assertEqual(await self.code(client, "say", to="#team", text="x"), code)
        self.assertEqual((await self.ok(bob, "about", group="team"))["muted_until"], FAR)
        await self.ok(carol, "mute", group="team", until=0)
        self.assertEqual(await self.code(bob, "say", to="#team", text="x"), "ok")

    async def test_channel(self) -> None:
        """Where only admins may write, members read; a node that did not know the group's rules
        learns them from who joins."""
        alice, bob = await self.team("bob", posting="admins")
        self.assertEqual(await self.code(bob, "say", to="#team", text="x"), "muted")
        self.assertEqual(await self.code(alice, "say", to="#team", text="news"), "ok")
        self.assertEqual((await self.event(bob, "message", "#team"))["text"], "news")
        self.node.hub._rules.clear()  # as after a restart
        (carol,) = await self.people("carol")
        await self.ok(carol, "join", group="team")
        self.assertEqual(await self.code(carol, "say", to="#team", text="x"), "muted")
        await self.ok(alice, "configure", group="team", posting="members")
        self.assertEqual((await self.event(carol, "configured", "#team"))["posting"], "members")
        self.assertEqual(await self.code(carol, "say", to="#team", text="x"), "ok")

    async def test_retitle(self) -> None:
        """A title and a description change alone or together, and the list of rooms shows it; to
        change nothing is a mistake."""
        alice, bob = await self.team("bob", title="Old", description="D")
        await self.ok(alice, "retitle", group="team", title="New")
        told = await self.event(bob, "retitled", "#team")
        self.assertEqual((told["title"], told.get("description")), ("New", None))
        about = await self.ok(bob, "about", group="team")
        self.assertEqual((about["title"], about["description"]), ("New", "D"))
        (room,) = (await self.ok(bob, "rooms"))["rooms"][:1]
        self.assertEqual(room["title"], "New")
        for command in ("retitle", "configure"):
            self.assertEqual(await self.code(alice, command, group="team"), "bad-request")

    async def test_members_by_role(self) -> None:
        """The list of members can be of one role, in pages."""
        alice, *_ = await self.team("bob", "carol", "dave")
        for name in ("bob", "dave"):
            await self.ok(alice, "role", group="team", user=name, role="admin")
        self.assertEqual(await self.names(alice, role="admin"), {"bob": "admin", "dave": "admin"})
        self.assertEqual(await self.names(alice, role="admin", limit=1), {"bob": "admin"})
        self.assertEqual(await self.names(alice, role="admin", after="bob"), {"dave": "admin"})
        (line, *_) = (await self.ok(alice, "members", group="team"))["members"]
        entries = (await self.ok(alice, "history", to="#team"))["entries"]
        self.assertEqual(line["joined"], entries[0]["at"])

    async def test_dissolved(self) -> None:
        """A dissolved group is gone for everybody, with its links, invitations and requests."""
        alice, bob = await self.team("bob", entry="approval")
        carol, dave = await self.people("carol", "dave")
        token = (await self.ok(alice, "link", group="team"))["token"]
        await self.ok(alice, "invite", group="team", user="carol")
        await self.ok(dave, "join", group="team")
        await self.ok(alice, "mute", group="team", user="bob", until=FAR)
        self.assertEqual(sum((await self.kept()).values()), 4)
        await self.ok(alice, "dissolve", group="team")
        self.assertEqual((await self.event(bob, "dissolved", "#team"))["from"], "alice")
        for client in (alice, bob, carol, dave):
            self.assertEqual(await self.code(client, "join", group="team"), "not-found")
            self.assertEqual(await self.code(client, "join", token=token), "not-found")
            self.assertEqual(await self.code(client, "about", group="team"), "not-found")
        self.assertEqual(sum((await self.kept()).values()), 0)


def _is(session: Session, name: str) -> bool:
    return session.user is not None and session.user.name == name


def _later(now: Callable[[], float], seconds: int) -> float:
    return now() + seconds


def _block(db: Any, name: str, other: str) -> None:
    db.run(
        "INSERT INTO contacts (user_id, other_id, blocked) SELECT u.id, o.id, 1"
        " FROM users u, users o WHERE u.name = ? AND o.name = ?",
        (name, other),
    )

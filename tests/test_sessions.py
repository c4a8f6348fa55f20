"""Sessions: the list of one's devices, ending one, one for each kind of device."""

from __future__ import annotations

from typing import Any

from twisted.internet import reactor
from twisted.internet.task import deferLater

from chatd.errors import LOGGED_OUT, REPLACED
from chatd.session import Session
from chatd.settings import Accounts
from tests.bed import CalmCase, Frames, Lines


class SessionCase(CalmCase):
    """Alice and her devices."""

    async def devices(self, client: Any) -> list[tuple[str, bool]]:
        """(device, whether it is the one that asks) of each session in the list."""
        reply = await client.ask("sessions")
        self.assertTrue(reply["ok"], reply)
        return [(line["device"], line["current"]) for line in reply["sessions"]]

    async def id_of(self, client: Any, device: str) -> str:
        """The id of a session, by its device."""
        lines = (await client.ask("sessions"))["sessions"]
        (found,) = (line["id"] for line in lines if line["device"] == device)
        return str(found)

    async def close_code(self, client: Frames) -> int:
        """With which code a WebSocket is closed; events before that are passed over."""
        while (frame := await client.next_frame())[0] != 8:
            pass
        return int.from_bytes(frame[1][:2], "big")

    def here(self, name: str = "alice") -> list[Session]:
        """The user's sessions whose connection stands."""
        return [s for s in self.node.hub.sessions if s.user and s.user.name == name]


class Listing(SessionCase):
    """`sessions`."""

    async def test_the_list(self) -> None:
        """Every session of one's own is in the list with its device, place and state, the present
        one first; those of others are not."""
        alice = await self.user("alice", device="web/Firefox")
        self.tick(5)
        await self.user("alice", self.lines(host="198.51.100.9"), device="phone")
        await self.user("bob", device="bobs")
        await alice.ask("appear", state="away")
        self.node.now = lambda: 1_763_622_149.5
        mine, phone = (await alice.ask("sessions"))["sessions"]
        self.assertEqual(
            mine | {"id": ""},
            {
                "id": "",
                "device": "web/Firefox",
                "address": "192.0.2.7",
                "since": 1_763_622_144_500,
                "state": "away",
                "current": True,
            },
        )
        self.assertEqual(mine["id"], (await alice.ask("whoami"))["session"])
        self.assertEqual(
            phone | {"id": ""},
            {
                "id": "",
                "device": "phone",
                "address": "198.51.100.9",
                "since": 1_763_622_149_500,
                "state": "online",
                "current": False,
            },
        )

    async def test_the_device_of_a_token(self) -> None:
        """A login by token is on the token's device, whatever it says; after a logout it is
        none."""
        first = self.frames()
        known = await first.ask("register", name="alice", password="secret", device="laptop")
        second = self.frames()
        await second.ask("login", token=known["token"], device="other")
        self.assertEqual(await self.devices(second), [("laptop", True), ("laptop", False)])
        await second.ask("logout")
        first.vanish()
        await second.ask("login", name="alice", password="secret")
        self.assertEqual(await self.devices(second), [("", True)])

    async def test_over_http(self) -> None:
        """A request by HTTP is a session of its own, in the list while it lasts."""
        await self.user("alice", device="web")
        http = self.http()
        await self.user("alice", http, device="script")
        for _ in range(2):
            self.assertEqual(await self.devices(http), [("script", True), ("web", False)])


class Ending(SessionCase):
    """`end`."""

    async def test_it_does_not_come_back(self) -> None:
        """The session is closed with the code of a revoked token, and the token is none."""
        alice = await self.user("alice", device="web")
        phone = self.frames()
        known = await phone.ask("login", name="alice", password="secret", device="phone")
        ended = await alice.ask("end", session=await self.id_of(alice, "phone"))
        self.assertTrue(ended["ok"], ended)
        self.assertEqual(await self.close_code(phone), LOGGED_OUT)
        again = await self.frames().ask("login", token=known["token"])
        self.assertEqual(again["error"], "unauthorized")
        tokens = (await alice.ask("tokens"))["tokens"]
        self.assertEqual([token["device"] for token in tokens], ["web"])

    async def test_a_token_of_several(self) -> None:
        """The other sessions with the same token end, too, as with revoke."""
        alice, phone = await self.user("alice"), self.frames()
        known = await phone.ask("login", name="alice", password="secret", device="phone")
        tab = self.frames()
        await tab.ask("login", token=known["token"])
        await alice.ask("end", session=(await tab.ask("whoami"))["session"])
        self.assertEqual(await self.close_code(phone), LOGGED_OUT)
        self.assertEqual(await self.close_code(tab), LOGGED_OUT)

    async def test_with_one_s_own_token(self) -> None:
        """A session that has the token of the one that asks ends alone: the token goes on."""
        alice = self.frames()
        known = await alice.ask("register", name="alice", password="secret", device="web")
        tab = self.frames()
        await tab.ask("login", token=known["token"])
        await alice.ask("end", session=(await tab.ask("whoami"))["session"])
        self.assertEqual(await self.close_code(tab), LOGGED_OUT)
        self.tick(2)
        await self.node.store.idle()
        self.assertTrue((await alice.ask("tokens"))["tokens"])
        self.assertFalse(alice.closed)

    async def test_what_cannot_be_ended(self) -> None:
        """Sessions of others, and those that are no more, are not there; one's own is left by
        logging out."""
        alice, bob = await self.user("alice"), await self.user("bob")
        of_bob = (await bob.ask("whoami"))["session"]
        mine = (await alice.ask("whoami"))["session"]
        for session, code in ((of_bob, "not-found"), ("0" * 16, "not-found"), (mine, "conflict")):
            self.assertEqual((await alice.ask("end", session=session))["error"], code)
        self.assertTrue((await bob.ask("ping"))["ok"])
        phone = await self.user("alice", device="phone")
        session = await self.id_of(alice, "phone")
        await phone.ask("logout")
        self.assertEqual((await alice.ask("end", session=session))["error"], "not-found")

    async def test_over_http(self) -> None:
        """By HTTP any session can be ended; with the token of the request it ends alone."""
        alice, http = await self.user("alice", device="web"), self.http()
        await self.user("alice", http)
        await http.ask("end", session=await self.id_of(http, "web"))
        self.assertEqual(await self.close_code(alice), LOGGED_OUT)
        self.assertTrue((await http.ask("tokens"))["ok"])


class OneOfAKind(SessionCase):
    """`accounts.one_session_per_device`."""

    accounts = Accounts(one_session_per_device=True)

    async def test_the_newest_wins(self) -> None:
        """A login ends the user's other sessions on the same kind of device, whatever stands
        behind a slash or a space; its token stays good."""
        old = self.frames()
        known = await old.ask("register", name="alice", password="secret", device="web/Firefox 140")
        tv = await self.user("alice", device="tv")
        phone = await self.user("alice", self.lines(), device="Phone of Alice")
        bob = await self.user("bob", device="web/Firefox 140")
        new = await self.user("alice", device="WEB/Chrome")
        self.assertEqual(await self.close_code(old), REPLACED)
        self.assertEqual(len(self.here()), 4)  # the old one's client has not said goodbye
        old.vanish()
        await self.user("alice", self.lines(), device="phone")
        self.assertIn("* closing code=4102", await phone.event())
        kinds = sorted(session.device_kind for session in self.here())
        self.assertEqual(kinds, ["phone", "tv", "web"])
        for client in (tv, bob, new):
            self.assertTrue((await client.ask("ping"))["ok"])
        again = self.frames()
        self.assertTrue((await again.ask("login", token=known["token"]))["ok"])
        self.assertEqual(await self.close_code(new), REPLACED)

    async def test_no_device(self) -> None:
        """Sessions that do not say what they are end none and are not ended; nor are those that
        say nothing before the slash."""
        clients = [await self.user("alice", device=device) for device in ("", "", "/x", "/x", " ")]
        for client in clients:
            self.assertTrue((await client.ask("ping"))["ok"])

    async def test_requests_by_http(self) -> None:
        """A request is no session that stays: it ends none."""
        alice, http = await self.user("alice", device="web"), self.http()
        await self.user("alice", http, device="web")
        self.assertTrue((await http.ask("whoami"))["ok"])
        self.assertTrue((await alice.ask("ping"))["ok"])

    async def test_a_refused_login_ends_none(self) -> None:
        """Whoever does not get in ends nobody's session."""
        alice = await self.user("alice", device="web")
        refused = await self.frames().ask("login", name="alice", password="wrong", device="web")
        self.assertEqual(refused["error"], "unauthorized")
        self.assertTrue((await alice.ask("ping"))["ok"])

    async def test_races(self) -> None:
        """Of many logins at the same time one session is left."""
        clients: list[Lines] = [self.lines() for _ in range(10)]
        await self.user("alice")
        for client in clients:
            client.line("/login alice secret device=web/9")
        while sum(client.closed for client in clients) < 9:
            await deferLater(reactor, 0)
        (left,) = (client for client in clients if not client.closed)
        self.assertTrue((await left.ask("ping"))["ok"])
        self.assertEqual([s.device for s in self.here() if s.device], ["web/9"])


class ManyOfAKind(SessionCase):
    """Without the setting."""

    async def test_all_stay(self) -> None:
        """Nobody is ended by a login unless the operator wants it; he may from one moment to the
        next."""
        first = await self.user("alice", device="web")
        second = await self.user("alice", device="web")
        self.assertTrue((await first.ask("ping"))["ok"])
        self.node.accounts = Accounts(one_session_per_device=True)
        await self.user("alice", device="web")
        for client in (first, second):
            self.assertEqual(await self.close_code(client), REPLACED)

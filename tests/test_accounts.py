"""Who somebody is: registration, every kind of login, tokens, the brake on guessing."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from functools import cache
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, eventAsText, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from chatd.auth import SiteTokens, Throttle
from chatd.errors import LOGGED_OUT, Refused
from chatd.settings import Accounts, Limits
from chatd.store import accounts as statements
from chatd.store.accounts import digest, token_id
from tests.bed import Frames, NodeCase

HOUR = 3_600_000  # ms


class AccountCase(NodeCase):
    """A node, and ways to look at what it answers."""

    async def refused(self, code: str, client: Any, command: str, **parameters: Any) -> Any:
        """The request is refused with the code; the whole reply."""
        reply = await client.ask(command, **parameters)
        self.assertEqual((reply["ok"], reply.get("error")), (False, code), reply)
        return reply

    async def done(self, client: Any, command: str, **parameters: Any) -> Any:
        """The request succeeds; the reply."""
        reply = await client.ask(command, **parameters)
        self.assertTrue(reply["ok"], reply)
        return reply

    async def closed(self, client: Frames) -> int:
        """The code with which the server closes the client's connection."""
        while True:
            opcode, payload = await client.next_frame()
            if opcode == 8:
                return int.from_bytes(payload[:2], "big")

    async def names(self) -> list[str]:
        """Everybody's name."""
        return [row[0] for row in await self.node.store.read(statements.list_users)]


class OpenTests(AccountCase):
    """Anybody may register."""

    async def test_register(self) -> None:
        """Registering makes an account and logs in; the name is taken then, in any case."""
        alice = self.frames()
        known = await self.done(alice, "register", name="Ålice", password="geheim")
        self.assertEqual(known["user"], "Ålice")
        self.assertGreater(known["expires"], self.node.millis())
        self.assertEqual((await alice.ask("whoami"))["user"], "Ålice")
        await self.refused("exists", self.frames(), "register", name="åLICE", password="x")
        await self.refused("conflict", alice, "register", name="another", password="x")
        self.assertEqual(await self.names(), ["Ålice"])

    async def test_password(self) -> None:
        """Name, in any case, and password log in; a wrong password and an unknown name get
        the same answer."""
        await self.user("Bob")
        known = await self.done(self.frames(), "login", name="bOB", password="secret")
        self.assertEqual(known["user"], "Bob")
        client = self.frames()
        replies = [
            await self.refused("unauthorized", client, "login", name=name, password=word)
            for name, word in (("bob", "Secret"), ("nobody", "secret"))
        ]
        for reply in replies:
            del reply["reply"]
        self.assertEqual(replies[0], replies[1])
        self.assertEqual((await client.ask("whoami")).get("user"), None)

    async def test_one_proof(self) -> None:
        """A login has one proof, no more and no less."""
        client = self.frames()
        for proof in (
            {},
            {"name": "bob"},
            {"password": "x"},
            {"name": "bob", "token": "x"},
            {"name": "bob", "password": "x", "token": "x"},
            {"api_key": "x"},
            {"name": "bob", "jwt": "x"},
        ):
            await self.refused("bad-request", client, "login", **proof)

    async def test_disabled(self) -> None:
        """A disabled account takes no proof of any kind; enabled again it does, but for the token
        that it had."""
        bob = self.frames()
        token = (await self.done(bob, "register", name="bob", password="pw"))["token"]
        key = await self.node.store.write(statements.add_api_key, "site", ["login-as"], 0)
        party = await self.node.find_user("bob")
        await self.node.store.write(statements.disable, party.id, 1)
        client = self.frames()
        proofs: tuple[dict[str, str], ...] = (
            {"name": "bob", "password": "pw"},
            {"name": "bob", "api_key": key},
        )
        for proof in proofs:
            await self.refused("forbidden", client, "login", **proof)
        await self.refused("unauthorized", client, "login", token=token)
        web = self.http()
        web.token = token
        await self.refused("unauthorized", web, "whoami")
        await self.node.store.write(statements.enable, party.id)
        for proof in proofs:
            await self.done(self.frames(), "login", **proof)
        await self.refused("unauthorized", self.frames(), "login", token=token)

    async def test_whoami(self) -> None:
        """Every wire tells who one is; over HTTP a key is its scopes."""
        for client in (self.frames(), self.lines(), self.http()):
            nobody = await self.done(client, "whoami")
            self.assertNotIn("user", nobody)
            await self.user("bob", client)
            self.assertEqual((await self.done(client, "whoami"))["user"], "bob")
        web = self.http()
        web.token = await self.node.store.write(
            statements.add_api_key, "site", ["push", "login-as"], 0
        )
        found = await self.done(web, "whoami")
        self.assertEqual(found["scopes"], ["login-as", "push"])
        self.assertNotIn("user", found)
        web.token = "no-such-key"
        await self.refused("unauthorized", web, "whoami")
        self.assertEqual(web.status, 401)

    async def test_secrets_stay_secret(self) -> None:
        """No password, right or wrong, and no token gets into a reply it was not made for, or
        into the log."""
        logged: list[str] = []

        @implementer(ILogObserver)
        def observe(event: Any) -> None:
            logged.append(eventAsText(event) + repr(event))

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)
        client = self.frames()
        known = await self.done(client, "register", name="bob", password="pw-right-1")
        replies = [
            await self.frames().ask("login", name="bob", password="pw-wrong-2"),
            await self.frames().ask("login", token="tk-wrong-3"),
            await self.frames().ask("login", name="b b", password="pw-wrong-4"),
            await self.frames().ask("login", name="bob", password="pw-right-1", zzz=1),
            await self.lines().ask("register", name="bob", password="pw-wrong-5"),
            await client.ask("tokens"),
        ]
        lines = await self.lines().answer("/login bob pw-wrong-6 device=\x07")
        told = repr((replies, lines, logged))
        for secret in ("pw-", "tk-wrong", known["token"]):
            self.assertNotIn(secret, told)


class ClosedTests(AccountCase):
    """Nobody may register."""

    accounts = Accounts(registration="closed")

    async def test_register(self) -> None:
        """Registering is forbidden, with an invitation too; nobody is made."""
        invitation = await _invite(self, 5)
        for extra in ({}, {"invitation": invitation}):
            await self.refused(
                "forbidden", self.frames(), "register", name="a", password="b", **extra
            )
        self.assertEqual(await self.names(), [])


class InvitationTests(AccountCase):
    """Whoever was invited may register."""

    accounts = Accounts(registration="invitation")

    async def test_register(self) -> None:
        """An invitation is good for as many accounts as it says; a taken name spends none; none,
        an unknown, a spent and an expired one are refused."""
        invitation = await _invite(self, 2)

        async def register(code: str | None, name: str, **invited: str) -> None:
            client = self.frames()
            if code is None:
                await self.done(client, "register", name=name, password="pw", **invited)
            else:
                await self.refused(code, client, "register", name=name, password="pw", **invited)

        await register("forbidden", "one")
        await register("forbidden", "one", invitation="made-up")
        await register(None, "one", invitation=invitation)
        await register("exists", "One", invitation=invitation)
        await register(None, "two", invitation=invitation)
        await register("forbidden", "three", invitation=invitation)
        expired = await _invite(self, 2, -1)
        await register("forbidden", "three", invitation=expired)
        self.assertEqual(sorted(await self.names()), ["one", "two"])


async def _invite(case: NodeCase, uses: int, expires_in: int = HOUR) -> str:
    now = case.node.millis()
    return await case.node.store.write(statements.add_invitation, uses, now + expires_in, now)


class TokenTests(AccountCase):
    """Tokens: where one is logged in, or can come back."""

    async def test_login(self) -> None:
        """A token logs in again and again, and is not replaced; an unknown one does not."""
        known = await self.done(self.frames(), "register", name="bob", password="pw")
        for _ in range(2):
            again = await self.done(self.frames(), "login", token=known["token"])
            self.assertEqual(
                [again[name] for name in ("user", "token", "expires")],
                ["bob", known["token"], known["expires"]],
            )
        await self.refused("unauthorized", self.frames(), "login", token=known["token"][:-1])

    async def test_expired(self) -> None:
        """A token ends when it said it would, and not before."""
        known = await self.done(self.frames(), "register", name="bob", password="pw")
        self.node.now = lambda: (known["expires"] - 1) / 1000
        await self.done(self.frames(), "login", token=known["token"])
        self.node.now = lambda: (known["expires"] + 1) / 1000
        await self.refused("unauthorized", self.frames(), "login", token=known["token"])

    async def test_list_and_revoke(self) -> None:
        """The list shows one's own tokens by device, not the tokens; a revoked one's sessions
        are closed with 4100, the others are not; nobody revokes another's."""
        laptop, phone, other = self.frames(), self.frames(), self.frames()
        await self.done(laptop, "register", name="bob", password="pw", device="laptop")
        known = await self.done(phone, "login", name="bob", password="pw", device="phone")
        await self.user("eve", other)
        tokens = (await self.done(laptop, "tokens"))["tokens"]
        self.assertEqual(
            {(t["device"], t["current"]) for t in tokens}, {("laptop", True), ("phone", False)}
        )
        (named,) = (t["id"] for t in tokens if t["device"] == "phone")
        self.assertEqual(named, token_id(digest(known["token"])))
        await self.refused("not-found", other, "revoke", token=named)
        await self.done(laptop, "revoke", token=named)
        self.assertEqual(await self.closed(phone), LOGGED_OUT)
        await self.refused("unauthorized", self.frames(), "login", token=known["token"])
        await self.refused("not-found", laptop, "revoke", token=named)
        self.assertEqual((await self.done(laptop, "whoami"))["user"], "bob")

    async def test_logout(self) -> None:
        """A logout ends this token and the sessions that have it, and leaves the connection to
        the next user; another device stays."""
        here, same, elsewhere = self.frames(), self.frames(), self.frames()
        token = (await self.done(here, "register", name="bob", password="pw"))["token"]
        await self.done(same, "login", token=token)
        await self.done(elsewhere, "login", name="bob", password="pw")
        await self.done(here, "logout")
        self.assertEqual(await self.closed(same), LOGGED_OUT)
        await self.refused("unauthorized", here, "rooms")
        await self.refused("unauthorized", self.frames(), "login", token=token)
        self.assertEqual((await self.done(elsewhere, "whoami"))["user"], "bob")
        await self.user("eve", here)

    async def test_logout_everywhere(self) -> None:
        """A logout everywhere ends all tokens and closes all other sessions, on every wire."""
        here, elsewhere, lines = self.frames(), self.frames(), self.lines()
        await self.user("bob", here)
        await self.user("bob", elsewhere)
        await self.user("bob", lines)
        web = await self.user("bob", self.http())
        await self.done(here, "logout", everywhere=True)
        self.assertEqual(await self.closed(elsewhere), LOGGED_OUT)
        self.assertIn(f"code={LOGGED_OUT}", await lines.event())
        await self.refused("unauthorized", web, "whoami")
        await self.user("bob", here)

    async def test_http_logout(self) -> None:
        """A logout over HTTP ends the token that it came with, and closes its sessions."""
        live, web = self.frames(), self.http()
        web.token = (await self.done(live, "register", name="bob", password="pw"))["token"]
        await self.done(web, "logout")
        self.assertEqual(await self.closed(live), LOGGED_OUT)
        await self.refused("unauthorized", web, "whoami")


class KeyTests(AccountCase):
    """A back end says who its users are."""

    async def test_login_as(self) -> None:
        """A key with the scope logs in anybody, and makes the user at the first login."""
        key = await self.node.store.write(statements.add_api_key, "site", ["login-as"], 0)
        for name in ("dora", "DORA"):
            known = await self.done(self.frames(), "login", name=name, api_key=key)
            self.assertEqual(known["user"], "dora")
        self.assertEqual(await self.names(), ["dora"])
        await self.refused("unauthorized", self.frames(), "login", name="dora", password="x")

    async def test_refused(self) -> None:
        """An unknown key, a revoked one and one without the scope log nobody in, and make
        nobody."""
        weak = await self.node.store.write(statements.add_api_key, "weak", ["push"], 0)
        gone = await self.node.store.write(statements.add_api_key, "gone", ["login-as"], 0)
        await self.node.store.write(statements.revoke_api_key, "gone")
        for key in (weak, gone, "made-up"):
            await self.refused("unauthorized", self.frames(), "login", name="dora", api_key=key)
        self.assertEqual(await self.names(), [])


SECRET = "0123456789abcdef-0123456789abcdef"


class HS256Tests(AccountCase):
    """JWTs signed with a shared secret, for an audience, by an issuer."""

    site_tokens = SiteTokens("HS256", SECRET, "sub", "chat", "site")

    def claims(self, **other: Any) -> dict[str, Any]:
        """Good claims, but for some; None leaves one out."""
        good = {"sub": "dora", "exp": time.time() + 600, "aud": "chat", "iss": "site"}
        return {name: value for name, value in {**good, **other}.items() if value is not None}

    async def test_good(self) -> None:
        """A good JWT logs in whom it names, who is made at the first login."""
        for _ in range(2):
            token = jwt.encode(self.claims(), SECRET, "HS256")
            known = await self.done(self.frames(), "login", jwt=token)
            self.assertEqual(known["user"], "dora")
        self.assertEqual(await self.names(), ["dora"])

    async def test_bad(self) -> None:
        """A JWT is refused that is expired or has no end, is meant for others or by others, whose
        user is no string, that is signed by another, by another algorithm, or not at all."""
        long = SECRET * 2
        bad = {
            "expired": jwt.encode(self.claims(exp=time.time() - 60), SECRET, "HS256"),
            "endless": jwt.encode(self.claims(exp=None), SECRET, "HS256"),
            "audience": jwt.encode(self.claims(aud="shop"), SECRET, "HS256"),
            "no audience": jwt.encode(self.claims(aud=None), SECRET, "HS256"),
            "issuer": jwt.encode(self.claims(iss="evil"), SECRET, "HS256"),
            "no issuer": jwt.encode(self.claims(iss=None), SECRET, "HS256"),
            "nobody": jwt.encode(self.claims(sub=None), SECRET, "HS256"),
            "signature": jwt.encode(self.claims(), long, "HS256"),
            "algorithm": jwt.encode(self.claims(), long, "HS512"),
            "none": jwt.encode(self.claims(), "", "none"),
            "no JWT": "made-up",
            "not yet": jwt.encode(self.claims(nbf=time.time() + 60), SECRET, "HS256"),
        }
        for what, token in bad.items():
            reply = await self.frames().ask("login", jwt=token)
            self.assertEqual(reply.get("error"), "unauthorized", what)
        self.assertEqual(await self.names(), [])

    async def test_no_name(self) -> None:
        """A claim that cannot be a name is refused."""
        token = jwt.encode(self.claims(sub="no name"), SECRET, "HS256")
        await self.refused("bad-request", self.frames(), "login", jwt=token)


class OtherClaimTests(AccountCase):
    """The user's name is in a claim of the site's choice."""

    site_tokens = SiteTokens("HS256", SECRET, "uid", "", "")

    async def test_claim(self) -> None:
        """The claim names the user if it is a string, `sub` does not; where no audience is set
        any will do."""
        claims = {"sub": "eve", "exp": time.time() + 600, "aud": "whoever"}
        good = jwt.encode({**claims, "uid": "dora"}, SECRET, "HS256")
        known = await self.done(self.frames(), "login", jwt=good)
        self.assertEqual(known["user"], "dora")
        for wrong in (7, None, ["dora"], {"name": "dora"}, True):
            token = jwt.encode({**claims, "uid": wrong}, SECRET, "HS256")
            await self.refused("unauthorized", self.frames(), "login", jwt=token)


@cache
def _key_pair() -> tuple[bytes, bytes]:
    """A private and a public RSA key in PEM."""
    key = rsa.generate_private_key(65537, 2048)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return private, public


class RS256Tests(AccountCase):
    """JWTs signed with a private key."""

    def setUp(self) -> None:
        self.private, self.public = _key_pair()
        self.site_tokens = SiteTokens("RS256", self.public.decode(), "sub", "", "")
        super().setUp()

    async def test_signatures(self) -> None:
        """The private key's signature is good; another key's is not, and neither is one made
        with the public key as if it were a shared secret."""
        claims = {"sub": "dora", "exp": time.time() + 600}
        known = await self.done(
            self.frames(), "login", jwt=jwt.encode(claims, self.private, "RS256")
        )
        self.assertEqual(known["user"], "dora")
        other = rsa.generate_private_key(65537, 2048)
        bad = {
            "another": jwt.encode(claims, other, "RS256"),
            "confused": _signed_with_public_key(claims, self.public),
            "none": jwt.encode(claims, "", "none"),
            "larger hash": jwt.encode(claims, self.private, "RS512"),
        }
        for what, token in bad.items():
            reply = await self.frames().ask("login", jwt=token)
            self.assertEqual(reply.get("error"), "unauthorized", what)

    async def test_off(self) -> None:
        """Where no key is configured, no JWT logs in."""
        self.node.site_tokens = None
        token = jwt.encode({"sub": "dora", "exp": time.time() + 600}, self.private, "RS256")
        reply = await self.frames().ask("login", jwt=token)
        self.assertFalse(reply["ok"])
        self.assertIn(reply["error"], ("unauthorized", "forbidden", "bad-request"))


def _signed_with_public_key(claims: dict[str, Any], public: bytes) -> str:
    """A JWT by HS256, made by hand: the library refuses such a key."""

    def part(data: bytes) -> bytes:
        return base64.urlsafe_b64encode(data).rstrip(b"=")

    head = part(json.dumps({"alg": "HS256", "typ": "JWT"}).encode())
    signed = head + b"." + part(json.dumps(claims).encode())
    return (signed + b"." + part(hmac.digest(public, signed, hashlib.sha256))).decode()


class GuessingTests(AccountCase):
    """A brake on guessing passwords, on the node."""

    limits = Limits(passwords_per_minute=3)

    async def test_per_account(self) -> None:
        """After so many wrong passwords an account takes none for a while, which is told; other
        accounts are not held up, nor is another proof."""
        known = await self.done(self.frames(), "register", name="bob", password="secret")
        await self.user("eve")
        limits = {"guess": 3, "account": 30, "address": 30}
        self.node.guesses = Throttle(limits.__getitem__, Clock().seconds)
        client = self.frames()
        for name in ("bob", "BOB", "bob"):
            await self.refused("unauthorized", client, "login", name=name, password="guess")
        for word in ("guess", "secret"):
            reply = await self.refused("rate-limited", client, "login", name="bob", password=word)
            self.assertGreater(reply["retry_after"], 0)
            self.assertLessEqual(reply["retry_after"], 20)
        await self.done(self.frames(), "login", name="eve", password="secret")
        await self.done(self.frames(), "login", token=known["token"])
        web = self.http()
        await self.refused("rate-limited", web, "login", name="bob", password="secret")
        self.assertEqual(web.status, 429)

    async def test_per_site(self) -> None:
        """All addresses of an IPv6 site have the tries of one."""
        await self.user("bob")
        limits = {"guess": 3, "account": 30, "address": 30}
        self.node.guesses = Throttle(limits.__getitem__, Clock().seconds)
        for number in range(3):
            client = self.frames(f"2001:db8:1:2::{number}")
            await self.refused("unauthorized", client, "login", name="bob", password="guess")
        client = self.frames("2001:db8:1:2:9::")
        await self.refused("rate-limited", client, "login", name="bob", password="guess")
        client = self.frames("2001:db8:1:3::")
        await self.refused("unauthorized", client, "login", name="bob", password="guess")

    async def test_good_ones_are_free(self) -> None:
        """Right passwords do not count, however many."""
        await self.user("bob")
        for _ in range(8):
            await self.done(self.frames(), "login", name="bob", password="secret")


class ThrottleTests(SynchronousTestCase):
    """The buckets, by a clock of the test's."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.throttle = Throttle({"account": 3, "address": 30}.__getitem__, self.clock.seconds)

    def left(self, *keys: tuple[str, str]) -> int:
        """How many tries there are now; takes them."""
        for count in range(100):
            try:
                self.throttle.take(*keys)
            except Refused:
                return count
        raise AssertionError("there is no end")

    def test_refill(self) -> None:
        """So many tries at once, then one for each part of a minute, never more than at first."""
        bob = ("account", "bob")
        self.assertEqual(self.left(bob), 3)
        refused = self.assertRaises(Refused, self.throttle.take, bob)
        self.assertEqual((refused.code, refused.retry_after), ("rate-limited", 20.0))
        self.clock.advance(19.9)
        self.assertEqual(self.left(bob), 0)
        self.clock.advance(0.2)
        self.assertEqual(self.left(bob), 1)
        self.clock.advance(3600)
        self.assertEqual(self.left(bob), 3)

    def test_keys_are_apart(self) -> None:
        """Accounts and addresses have buckets of their own; a try that one refuses takes
        nothing from the other."""
        here = ("address", "192.0.2.1")
        self.assertEqual(self.left(("account", "bob"), here), 3)
        self.assertEqual(self.left(("account", "bob"), here), 0)
        self.assertEqual(self.left(("account", "eve"), here), 3)
        self.assertEqual(self.left(here), 24)

    def test_give_back(self) -> None:
        """A good try is given back, but no more than was there at first."""
        bob = ("account", "bob")
        self.throttle.take(bob)
        for _ in range(5):
            self.throttle.give_back(bob)
        self.assertEqual(self.left(bob), 3)

    def test_forget(self) -> None:
        """What is full again needs no memory; what is not is kept."""
        self.throttle.take(("account", "bob"))
        self.clock.advance(19)
        self.left(("account", "eve"))
        self.throttle.forget_full()
        self.clock.advance(1.1)
        self.throttle.forget_full()
        self.assertEqual(self.left(("account", "eve")), 0)
        self.assertEqual(self.left(("account", "bob")), 3)

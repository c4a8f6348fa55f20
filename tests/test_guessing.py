"""A guess at a password tells nothing about who has an account: what it costs is counted, not
timed."""

from __future__ import annotations

import dataclasses
import sqlite3
from collections.abc import Callable
from typing import Any

import argon2
from twisted.internet import reactor
from twisted.internet.task import Clock

from chatd.auth import Passwords, Throttle
from chatd.settings import Limits
from chatd.store import accounts
from chatd.store.dialects import Dialect
from tests.bed import Client, Http, NodeCase
from tests.test_commands import TextLines


class CountingHasher(argon2.PasswordHasher):
    """A hasher that notes the parameters of the hashes that it verifies."""

    def __init__(self) -> None:
        super().__init__(time_cost=1, memory_cost=8, parallelism=1)
        self.verified: list[argon2.Parameters] = []

    def verify(self, hash: str | bytes, password: str | bytes) -> Any:
        self.verified.append(argon2.extract_parameters(str(hash)))
        return super().verify(hash, password)


# Name and what its account is like.
WRONG = {
    "nobody": "no such account",
    "bob": "another password",
    "BOB": "another password",
    "dora": "no password: others vouch for her",
    "gone": "disabled",
}


class GuessTests(NodeCase):
    """Logins by password that fail, over every wire."""

    limits = Limits(passwords_per_minute=5)

    def make_dialect(self) -> Dialect:
        plain = super().make_dialect()
        self.statements: list[str] = []

        def opened(raw: sqlite3.Connection) -> None:
            plain.opened(raw)
            raw.set_trace_callback(self.statements.append)

        return dataclasses.replace(plain, opened=opened)

    def open(self) -> None:
        super().open()
        self.hasher = CountingHasher()
        self.node.passwords.stop()
        self.node.passwords = Passwords(reactor, lambda: 200, self.hasher)
        self.node.passwords.start()

    async def build(self) -> None:
        """Bob, who has a password, Dora, who has none, and one who is disabled."""
        key = await self.node.store.write(accounts.add_api_key, "site", ["login-as"], 0)
        for name in ("bob", "gone"):
            await self.frames().ask("register", name=name, password="secret", replay=False)
        await self.frames().ask("login", name="dora", api_key=key, replay=False)
        gone = await self.node.find_user("gone")
        await self.node.store.write(accounts.disable, gone.id, 1)

    def wires(self) -> tuple[Callable[[], Any], ...]:
        return (self.frames, self.lines, self.typed, self.http)

    def typed(self) -> TextLines:
        """A new client that types."""
        client = TextLines(self.lines_factory.buildProtocol(None))
        self.clients.append(client)
        return client

    async def guess(self, client: Any, name: str, password: str) -> dict[str, Any]:
        """What the server says and does about one guess."""
        self.statements.clear()
        self.hasher.verified.clear()
        reply = await client.ask("login", name=name, password=password)
        reply.pop("reply", None)
        return {
            "reply": reply,
            "status": client.status if isinstance(client, Http) else None,
            "closed": isinstance(client, Client) and client.closed,
            "verified": list(self.hasher.verified),
            "statements": [statement.split("WHERE")[0] for statement in self.statements],
        }

    async def test_same_for_all(self) -> None:
        """Whether a name has an account, a password, or is disabled: a wrong password makes the
        same statements, as many verifications of the same cost, gets the same answer and leaves
        the connection as it is."""
        await self.build()
        for connect in self.wires():
            self.node.guesses = Throttle(self.node.guesses._per_minute, Clock().seconds)
            outcomes = [await self.guess(connect(), name, "guess") for name in WRONG]
            self.assertEqual(outcomes, [outcomes[0]] * len(outcomes))
            self.assertEqual(outcomes[0]["reply"]["error"], "unauthorized")
            self.assertEqual(len(outcomes[0]["verified"]), 1)
            self.assertEqual(len(outcomes[0]["statements"]), 1)
            self.assertFalse(outcomes[0]["closed"])

    async def test_disabled(self) -> None:
        """That an account is disabled learns only who knows its password."""
        await self.build()
        for connect in self.wires():
            found = [await self.guess(connect(), "gone", word) for word in ("secret", "guess")]
            codes = [outcome["reply"]["error"] for outcome in found]
            self.assertEqual(codes, ["forbidden", "unauthorized"])

    async def test_braked_alike(self) -> None:
        """Guesses at an account and at no account are braked after as many tries, in the same
        words."""
        await self.build()
        client = self.frames()
        self.node.guesses = Throttle(self.node.guesses._per_minute, Clock().seconds)
        tries = {
            name: [await self.guess(client, name, "guess") for _ in range(7)]
            for name in ("nobody", "bob", "dora", "gone")
        }
        codes = [outcome["reply"]["error"] for outcome in tries["nobody"]]
        self.assertEqual(codes, ["unauthorized"] * 5 + ["rate-limited"] * 2)
        for name, outcomes in tries.items():
            self.assertEqual(outcomes, tries["nobody"], name)

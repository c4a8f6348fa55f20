"""Sessions end with their token, whoever ends that: another session, chatctl, another process,
the calendar."""

from __future__ import annotations

import importlib
from contextlib import closing
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred, ensureDeferred

from chatd.errors import LOGGED_OUT, Unavailable
from chatd.heartbeat import BEATS
from chatd.settings import StoreURL, store_url
from chatd.store import accounts, revocations
from chatd.store.accounts import Login, digest
from chatd.store.connection import Connection
from chatd.store.dialects import dialect
from tests import mariadb
from tests.bed import Frames, Lines, NodeCase
from tests.daemon import Closed, DaemonCase, Nc, chatctl, password
from tests.test_handover import SteppedStore

HOUR = 3_600_000  # ms


class NotingStore(SteppedStore):
    """A stepped store that notes which queries were made."""

    def __init__(self, store: Any) -> None:
        super().__init__(store)
        self.queries: list[Any] = []

    def read(self, query: Any, *args: Any, **kwargs: Any) -> Deferred[Any]:
        self.queries.append(query)
        return super().read(query, *args, **kwargs)


class RevocationCase(NodeCase):
    """A node, and another process's connection to its database."""

    def setUp(self) -> None:
        super().setUp()
        spoken = dialect(self.url)
        raw = importlib.import_module(spoken.module).connect(**spoken.connect)
        self.addCleanup(closing(raw).__exit__)
        spoken.opened(raw)
        self.db = Connection(raw, spoken)

    def open(self) -> None:
        super().open()
        stepped: Any = NotingStore(self.node.store)
        self.stepped: NotingStore = stepped
        self.node.store = stepped
        self.node.revocations._store = stepped

    async def look(self) -> None:
        """What the heartbeat starts once a tick."""
        await self.node.revocations.look(self.node.millis())

    def id_of(self, name: str) -> int:
        party = accounts.find_user(self.db, name)
        assert party
        return party.id

    async def closed(self, client: Any) -> bool:
        """Whether the server has closed the connection, with the code of a logout; a client
        that was not is served."""
        if isinstance(client, Lines):
            self.node.hub.flush()
            return f"* closing code={LOGGED_OUT}".encode() in client.received
        while frame := client._take():
            if frame[0] == 8:
                self.assertEqual(int.from_bytes(frame[1][:2], "big"), LOGGED_OUT)
                return True
        self.assertTrue((await client.ask("rooms"))["ok"])
        return False


class Contract:
    """What holds on both databases."""

    async def test_every_way(self: Any) -> None:
        """Whatever ends a user's tokens ends his sessions on every wire at the next look;
        another user's go on."""
        eve = await self.user("eve")
        ways = {
            "disable": accounts.disable,
            "logout": accounts.revoke_all,
            "password": lambda db, who, now: accounts.change_password(db, who, "argon", now),
        }
        for way, end in ways.items():
            frames, lines = await self.user(way), await self.user(way, self.lines())
            await self.look()
            self.assertEqual([await self.closed(c) for c in (frames, lines)], [False, False])
            end(self.db, self.id_of(way), self.node.millis())
            await self.look()
            self.assertEqual([await self.closed(c) for c in (frames, lines)], [True, True], way)
            self.assertFalse(await self.closed(eve))

    async def test_one_token(self: Any) -> None:
        """A token that another process ends takes its sessions along, and not those of the
        user's other tokens."""
        one, same, other = self.frames(), self.frames(), await self.user("bob")
        known = await one.ask("login", name="bob", password="secret")
        self.assertTrue((await same.ask("login", token=known["token"]))["ok"])
        named, now = digest(known["token"]), self.node.millis()
        accounts.revoke_token(self.db, self.id_of("bob"), named, now)
        await self.look()
        found = [await self.closed(client) for client in (one, same, other)]
        self.assertEqual(found, [True, True, False])

    async def test_by_id(self: Any) -> None:
        """The same by the token's id."""
        one, other = self.frames(), await self.user("bob")
        known = await one.ask("login", name="bob", password="secret")
        named = accounts.token_id(digest(known["token"]))
        accounts.revoke_by_id(self.db, self.id_of("bob"), named, self.node.millis())
        await self.look()
        self.assertEqual([await self.closed(one), await self.closed(other)], [True, False])

    async def test_new_login(self: Any) -> None:
        """Who logs in after the revocation stays, however often the node looks."""
        await self.user("bob")
        accounts.revoke_all(self.db, self.id_of("bob"), self.node.millis())
        again = await self.user("bob")
        for _ in range(3):
            await self.look()
            self.assertFalse(await self.closed(again))

    async def test_late_row(self: Any) -> None:
        """A row that becomes visible after rows with higher ids is not missed."""
        bob = await self.user("bob")
        add = "INSERT INTO revocations (id, user_id, at) VALUES (?, ?, 0)"
        self.db.run(add, (1000, 2**40))
        await self.look()
        self.db.run("DELETE FROM tokens WHERE user_id = ?", (self.id_of("bob"),))
        self.db.run(add, (999, self.id_of("bob")))
        await self.look()
        self.assertTrue(await self.closed(bob))

    async def test_forgotten(self: Any) -> None:
        """Rows are kept for an hour, and deleted with the expired tokens."""
        for at in (1, HOUR, 2 * HOUR):
            revocations.note(self.db, 7, at)
        accounts.forget_expired(self.db, 2 * HOUR)
        self.assertEqual(self.db.all("SELECT at FROM revocations"), [(2 * HOUR,)])

    async def test_together(self: Any) -> None:
        """A revocation and its row are stored together or not at all."""
        await self.user("bob")
        who, tokens = self.id_of("bob"), self.db.all("SELECT hash FROM tokens")
        self.db.run("ALTER TABLE revocations RENAME TO elsewhere")
        for end in (
            lambda: accounts.disable(self.db, who, 1),
            lambda: accounts.revoke_all(self.db, who, 1),
            lambda: accounts.revoke_token(self.db, who, bytes(tokens[0][0]), 1),
            lambda: accounts.change_password(self.db, who, "argon", 1),
        ):
            self.assertRaises(self.db.dialect.errors, end)
        self.db.run("ALTER TABLE elsewhere RENAME TO revocations")
        self.assertEqual(self.db.all("SELECT hash FROM tokens"), tokens)
        found = self.db.one("SELECT disabled_at FROM users WHERE password <> 'argon'")
        self.assertEqual(found, (None,))


class OnSQLite(Contract, RevocationCase):
    """The contract on SQLite."""


class OnMariaDB(Contract, RevocationCase):
    """The contract on MariaDB."""

    def make_url(self) -> StoreURL:
        return store_url(mariadb.fresh_database(), "")


class LookTests(RevocationCase):
    """When the node looks, and at what."""

    async def test_the_heartbeat_looks(self) -> None:
        """A tick of the heartbeat is enough."""
        bob = await self.user("bob")
        accounts.disable(self.db, self.id_of("bob"), self.node.millis())
        for _ in range(BEATS):
            self.heartbeat.beat()
        await bob.until(lambda: b"\x88" in bob.received or None)
        self.assertTrue(await self.closed(bob))

    async def test_api_key_and_site(self) -> None:
        """A session that a back end vouched for ends as any other."""
        key = accounts.add_api_key(self.db, "site", ["login-as"], 1)
        dora = self.frames()
        self.assertTrue((await dora.ask("login", name="dora", api_key=key))["ok"])
        accounts.disable(self.db, self.id_of("dora"), 1)
        await self.look()
        self.assertTrue(await self.closed(dora))

    async def test_own_token(self) -> None:
        """Who ends the token of the very session loses it at the next look."""
        bob = await self.user("bob")
        ((stored,),) = self.db.all("SELECT hash FROM tokens")
        self.assertTrue((await bob.ask("revoke", token=accounts.token_id(stored)))["ok"])
        await self.look()
        self.assertTrue(await self.closed(bob))

    async def test_logged_out_here(self) -> None:
        """A session that logged out stays open for the next user."""
        bob = await self.user("bob")
        await bob.ask("logout")
        await self.look()
        await self.user("eve", bob)
        await self.look()
        self.assertFalse(await self.closed(bob))

    async def test_entering_meanwhile(self) -> None:
        """A login that read its token before the revocation and enters after the look is found
        by the next one."""
        known = await self.frames().ask("register", name="bob", password="secret")

        async def revoked_and_looked() -> None:
            accounts.revoke_all(self.db, self.id_of("bob"), 1)
            await self.look()

        self.stepped.after["log_in"] = revoked_and_looked
        late = self.frames()
        await late.ask("login", token=known["token"])
        self.assertFalse(await self.closed(late))
        await self.look()
        self.assertTrue(await self.closed(late))

    async def test_logging_in_while_looking(self) -> None:
        """A session that enters while the node looks is not closed for being unknown."""
        bob = await self.user("bob")
        accounts.revoke_all(self.db, self.id_of("bob"), 1)
        again: list[Frames] = []

        async def enter() -> None:
            again.append(await self.user("bob"))

        self.stepped.after[revocations.standing] = enter
        await self.look()
        self.assertTrue(await self.closed(bob))
        self.assertFalse(await self.closed(again[0]))

    async def test_another_user_meanwhile(self) -> None:
        """A session whose client became another user while the node looked is left alone."""
        bob = await self.user("bob")
        accounts.revoke_all(self.db, self.id_of("bob"), 1)

        async def change() -> None:
            await bob.ask("logout")
            await self.user("eve", bob)

        self.stepped.before[revocations.standing] = change
        await self.look()
        self.assertFalse(await self.closed(bob))

    async def test_one_at_a_time(self) -> None:
        """While a look waits for the database no other begins."""
        going_on: Deferred[None] = Deferred()

        async def wait() -> None:
            await going_on

        self.stepped.queries.clear()
        self.stepped.before[revocations.noted_after] = wait
        first = ensureDeferred(self.look())
        await self.look()
        self.assertEqual(self.stepped.queries, [revocations.noted_after])
        going_on.callback(None)
        await first
        await self.look()
        self.assertEqual(self.stepped.queries, [revocations.noted_after] * 2)

    async def test_outage(self) -> None:
        """What was revoked while the database could not be read is found when it can; more
        failed looks than a window has do not make it forget."""
        bob = await self.user("bob")
        accounts.disable(self.db, self.id_of("bob"), 1)

        async def fail() -> None:
            raise Unavailable("away")

        for query in (revocations.noted_after, revocations.standing) * 70:
            self.stepped.before[query] = fail
            await self.look()
            self.assertFalse(await self.closed(bob))
            self.stepped.before.clear()
        await self.look()
        self.assertTrue(await self.closed(bob))

    async def test_cost(self) -> None:
        """A look is one query, and another while somebody who is online had a token revoked in
        the last 60 looks."""
        await self.user("bob")
        accounts.revoke_all(self.db, 2**40, 1)
        self.stepped.queries.clear()
        await self.look()
        self.assertEqual(self.stepped.queries, [revocations.noted_after])
        accounts.revoke_token(self.db, self.id_of("bob"), b"another", 1)
        counts = []
        for _ in range(100):
            self.stepped.queries.clear()
            await self.look()
            counts.append(len(self.stepped.queries))
        self.assertEqual(counts, [2] * 60 + [1] * 40)

    async def test_expired(self) -> None:
        """A session ends with its token's time, and not before."""
        frames, lines = self.frames(), self.lines()
        known = await frames.ask("register", name="bob", password="secret")
        await lines.ask("login", token=known["token"])
        for early, expected in ((1, [False, False]), (0, [True, True])):
            seconds = (known["expires"] - early) / 1000
            self.node.now = partial(float, seconds)
            for _ in range(BEATS):
                self.heartbeat.beat()
            self.assertEqual([await self.closed(frames), await self.closed(lines)], expected)

    async def test_password_changed_meanwhile(self) -> None:
        """A login whose password was checked before it was changed is refused, and gets no
        token."""
        await self.user("bob")
        new = await self.node.passwords.hash("new")
        found = accounts.password_of(self.db, "bob")
        assert found
        login = Login(1, user_id=found[0], password=found[1], issue=b"x" * 32, expires=2**50)
        accounts.change_password(self.db, found[0], new, 1)
        (refused,) = accounts.log_in(self.db, [login])
        self.assertEqual(getattr(refused, "code", None), "unauthorized")
        self.assertEqual(self.db.all("SELECT * FROM tokens"), [])
        known = await self.frames().ask("login", name="bob", password="new")
        self.assertTrue(known["ok"], known)


class DaemonTests(DaemonCase):
    """chatctl and a running daemon."""

    def test_chatctl(self) -> None:
        """What chatctl does to an account ends its sessions, whatever they logged in with; the
        others go on."""
        daemon = self.daemon()
        web, where = daemon.web_port, ("--state", str(self.state))
        key = chatctl("key", "add", "site", "--scope", "login-as", *where).strip()
        for verb, *stdin in (("disable",), ("logout",), ("password", "new\n")):
            sessions = [self.user(verb, web), self.browser(web), self.browser(web)]
            token = sessions[1].ask("login", name=verb, password=password(verb))["token"]
            self.assertTrue(sessions[2].ask("login", name=verb, api_key=key)["ok"])
            line = self.terminal(Nc, "127.0.0.1", str(daemon.line_port))
            self.assertIn("+OK", line.answer(f"/login token={token}")[-1])
            more = ["--password-stdin"] if stdin else []
            chatctl("user", verb, verb, *more, *where, stdin="".join(stdin))
            for session in sessions:
                closed = self.assertRaises(Closed, session.event)
                self.assertEqual(closed.code, LOGGED_OUT)
            self.assertIn(f"closing code={LOGGED_OUT}", line.event())
        daemon.stop()
        self.assert_clean(daemon)

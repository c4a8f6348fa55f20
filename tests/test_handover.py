"""The hand-over from replay to live, step by step: the test decides what happens between a
look at the database and its use."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from twisted.internet.defer import Deferred

from chatd.session import Session
from chatd.store.log import read_after
from chatd.store.rooms import progress
from chatd.store.store import Store
from tests.bed import Frames, NodeCase

Step = Callable[[], Awaitable[None]]


class SteppedStore:
    """The real store, but with the test's steps before and after its answers."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.before: dict[Any, Step] = {}
        self.after: dict[Any, Step] = {}
        self.level: Deferred[None] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def read(self, query: Any, *args: Any, **kwargs: Any) -> Deferred[Any]:
        work = self._store.read(query, *args, **kwargs)
        return Deferred.fromCoroutine(self._stepped(query, work))

    def log_in(self, login: Any) -> Deferred[Any]:
        return Deferred.fromCoroutine(self._stepped("log_in", self._store.log_in(login)))

    def published(self) -> Deferred[None]:
        return self._store.published() if self.level is None else self.level

    async def _stepped(self, what: Any, work: Deferred[Any]) -> Any:
        if step := self.before.pop(what, None):
            await step()
        result = await work
        if step := self.after.pop(what, None):
            await step()
        return result


class HandOver(NodeCase):
    """Alice talks to bob while bob's login replays."""

    def open(self) -> None:
        super().open()
        stepped: Any = SteppedStore(self.node.store)
        self.stepped = stepped
        self.node.store = stepped
        self.node.backlog._store = stepped

    async def _away(self, *texts: str) -> None:
        """Alice is here, bob was and is not; `texts` were said since."""
        self.alice = await self.user("alice")
        bob = await self.user("bob")
        bob.vanish()
        await self._say(*texts)

    async def _say(self, *texts: str) -> None:
        for text in texts:
            said = await self.alice.ask("say", to="@bob", text=text)
            assert said["ok"], said

    async def _back(self) -> Frames:
        bob = self.frames()
        assert (await bob.ask("login", name="bob", password="secret"))["ok"]
        return bob

    async def _expect(self, bob: Frames, *texts: str) -> None:
        """Bob gets these messages, and the next one said comes right behind them."""
        found = [(await bob.event())["text"] for _ in texts]
        self.assertEqual(found, list(texts))
        await self.node.store.idle()
        await self._say("end")
        self.assertEqual((await bob.event())["text"], "end")

    def _session(self) -> Session:
        return next(s for s in self.node.hub.sessions if s.user and s.user.name == "bob")

    async def test_said_before_the_cursors_are_read(self) -> None:
        """What is published before the login has read its cursors comes once, in its place."""
        await self._away("one", "two")

        async def step() -> None:
            await self._say("three")

        self.stepped.before[progress] = step
        await self._expect(await self._back(), "one", "two", "three")

    async def test_said_after_the_cursors_were_read(self) -> None:
        """What is published after the login has read its cursors comes once, in its place."""
        await self._away("one", "two")

        async def step() -> None:
            await self._say("three")

        self.stepped.after[progress] = step
        await self._expect(await self._back(), "one", "two", "three")

    async def test_first_words_while_the_cursors_are_read(self) -> None:
        """The first message of a room that the login's look at the rooms missed comes too."""
        await self._away()

        async def step() -> None:
            await self._say("first", "second")

        self.stepped.after[progress] = step
        await self._expect(await self._back(), "first", "second")

    async def test_said_after_the_last_page_was_read(self) -> None:
        """What is published between the reading of the last page and its writing comes once."""
        await self._away("one", "two")

        async def step() -> None:
            await self._say("three")

        self.stepped.after[read_after] = step
        await self._expect(await self._back(), "one", "two", "three")

    async def test_stored_but_not_yet_published(self) -> None:
        """What the log brings before it is published is not written again when it is."""
        await self._away("one")
        publish = self.node.publisher.publish
        held: list[Any] = []
        log: Any = self.stepped._store._log
        log._publish = held.append
        await self._say("two")
        self.stepped.level = Deferred()
        bob = await self._back()
        self.assertEqual([(await bob.event())["text"] for _ in "12"], ["one", "two"])
        await bob.ask("ping")  # by now the page is done with
        log._publish = publish
        for stored in held:
            publish(stored)
        self.stepped.level.callback(None)
        self.stepped.level = None
        await self._expect(bob)

    async def _level(self) -> Frames:
        """Bob has replayed, and is not yet known to be past all that was stored."""
        await self._away("one")
        self.stepped.level = Deferred()
        bob = await self._back()
        self.assertEqual((await bob.event())["text"], "one")
        await self._say("live")
        self.assertEqual((await bob.event())["text"], "live")
        return bob

    async def test_own_words_while_loading(self) -> None:
        """What the session itself says before its replay is done does not come as an event."""
        await self._away("one")
        bob = self.frames()

        async def speak() -> None:
            bob.frame(b'{"cmd":"say","id":77,"to":"@alice","text":"mine"}')
            await self._say("theirs")

        self.stepped.before[progress] = speak
        assert (await bob.ask("login", name="bob", password="secret"))["ok"]
        await self._expect(bob, "one", "theirs")

    async def test_revoked_while_logging_in(self) -> None:
        """A token that is revoked between the login's look at it and its entering is refused."""
        await self._away()
        first = self.frames()
        known = await first.ask("login", name="bob", password="secret")

        async def revoke() -> None:
            assert (await first.ask("logout", everywhere=True))["ok"]

        self.stepped.after["log_in"] = revoke
        refused = await self.frames().ask("login", token=known["token"])
        self.assertEqual(refused["error"], "unauthorized")

    async def test_no_backlog_to_be_had(self) -> None:
        """A session whose backlog cannot be read is closed, to come again."""
        await self._away("one")

        async def fail() -> None:
            raise ValueError("for a test")

        self.stepped.after[progress] = fail
        bob = self.frames()
        await bob.ask("login", name="bob", password="secret")
        opcode, payload = await bob.next_frame()
        self.assertEqual((opcode, int.from_bytes(payload[:2], "big")), (8, 1013))
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    async def test_slow_right_after_replay(self) -> None:
        """A reader that gets slow right after its replay gets nothing live, and then each
        entry once."""
        bob = await self._level()
        link: Any = self._session().link
        link.pauseProducing()
        await self._say("while paused")
        self.assertEqual(bob.received, b"")
        self.stepped.level, level = None, self.stepped.level
        level.callback(None)
        link.resumeProducing()
        await self._expect(bob, "while paused")

    async def test_live_again(self) -> None:
        """Once past all that was stored, nothing is left of the replay."""
        bob = await self._level()
        self.stepped.level, level = None, self.stepped.level
        level.callback(None)
        await self._say("more")
        self.assertEqual((await bob.event())["text"], "more")
        self.assertIsNone(self._session().behind)

    async def test_joined_while_logging_in(self) -> None:
        """A group joined between the login's look at the memberships and its entering is not
        missed."""
        await self._away()
        await self.alice.ask("create", name="team")
        first = await self._back()

        async def join() -> None:
            assert (await first.ask("join", group="#team"))["ok"]
            first.vanish()

        self.stepped.after["log_in"] = join
        bob = await self._back()
        await self.alice.ask("say", to="#team", text="welcome")
        self.assertEqual((await bob.event())["text"], "welcome")

    async def test_gone_while_the_page_was_read(self) -> None:
        """A client that goes away amid its replay gets the rest at its next login."""
        await self._away("one", "two")
        gone = self.frames()

        async def go() -> None:
            gone.transport.abortConnection()

        self.stepped.after[read_after] = go
        await gone.ask("login", name="bob", password="secret")
        await gone.until(lambda: gone.closed or None)
        await self._expect(await self._back(), "one", "two")

    async def test_logged_out_while_the_page_was_read(self) -> None:
        """After a logout amid a replay nothing of the user is written any more."""
        await self._away("one", "two")
        bob = self.frames()

        left: Deferred[None] = Deferred()

        async def log_out() -> None:
            self.node.hub.leave(self._session())
            left.callback(None)

        self.stepped.after[read_after] = log_out
        await bob.ask("login", name="bob", password="secret")
        await left
        await self.node.store.idle()
        await bob.ask("ping")
        self.assertEqual(bob.received, b"")

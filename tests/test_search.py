"""Search: the index behind the log, and what is found in it, on both databases."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from random import Random
from typing import Any

import msgspec
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, deferLater

from chatd import indexer
from chatd.indexer import Indexer
from chatd.model import Party, Room
from chatd.store.connection import Connection
from chatd.store.dialects import Dialect
from chatd.store.groups import dissolve
from chatd.store.log import Stored
from chatd.store.membership import leave
from chatd.store.postings import behind, by, has, index, reindex, unindex
from chatd.store.rooms import add_member
from chatd.store.search import Found, Key, Query, search
from chatd.words import phrases, probes, spelled
from tests.bed import CalmCase
from tests.stores import NOW, Held, MariaDBCase, Node, SQLiteCase, StoreCase, Wire, once, throw

CORPUS = (
    "我家在上海东边。",
    "海上有一条船",
    "上，海",
    "上 x 海",
    "今天天气很好",
    "今日は天気がいいですね",
    "東京タワーに行った",
    "오늘 날씨가 좋아요",
    "Hello, world!",
    "hello big world",
    "ＨＥＬＬＯ，ｗｏｒｌｄ",
    "Le café est fermé",
    "用Python3写的 https://example.org/上海",
    "thumbs 👍🏽 up",
    "100% sure_thing; DROP TABLE entries",
    "ﾊﾝｶｸｶﾅ",
)
EXPECTED: dict[str, set[int]] = {
    "上海": {0, 12},
    "海上": {1},
    "上": {0, 1, 2, 3, 12},
    "上 海": {0, 1, 2, 3, 12},
    "船": {1},
    "天气": {4},
    "天気": {5},
    "今": {4, 5},
    "今天天气很好": {4},
    "天天气": {4},
    "天气天": set(),
    "タワー": {6},
    "東京": {6},
    "날씨": {7},
    "날씨가 오늘": {7},
    "hello": {8, 9, 10},
    "HELLO WORLD": {8, 9, 10},
    '"hello world"': {8, 10},
    "ｈｅｌｌｏ": {8, 9, 10},
    "hell": set(),
    "cafe": {11},
    "FERMÉ café": {11},
    "python3": {12},
    "用python3写": {12},
    "python3 写 上海": {12},
    "👍": {13},
    "👍🏻 up": {13},
    "%": set(),
    "100%": {14},
    "sure_thing": {14},
    "sure thing": {14},
    "'; DROP TABLE entries; --": {14},
    "ハンカク": {15},
    "hello 上海": set(),
}


CLOCK: Any = reactor


class Killed(Exception):
    """The process dies here."""


def _noted(noted: list[Deferred[None]], what: str, work: Coroutine[Any, Any, None]) -> None:
    noted.append(Deferred.fromCoroutine(work))


def _spawned(what: str, work: Coroutine[Any, Any, None]) -> None:
    Deferred.fromCoroutine(work)  # trial fails a test that leaves an unhandled failure


class SearchCase(StoreCase):
    """Rooms, their index, and a way to ask."""

    def index(self) -> None:
        """Indexes all there is."""
        after: int | None = 0
        while after is not None:
            rooms, after = behind(self.db, after, 3)
            while rooms:
                rooms = index(self.db, rooms)

    def member(self, room: Room, user: Party, history: str = "all") -> None:
        """The user joins a group."""
        self.db.run("UPDATE rooms SET history = ? WHERE id = ?", (history, room.id))
        seq = self.db.all("SELECT MAX(seq) FROM entries WHERE room_id = ?", (room.id,))[0][0] + 1
        self.db.run(
            "INSERT INTO entries (room_id, seq, sender_id, idempotency_key, at, kind, body)"
            " VALUES (?, ?, ?, ?, ?, 'joined', '{}')",
            (room.id, seq, user.id, b"joined%d" % next(self.numbers), NOW + next(self.numbers)),
        )
        add_member(self.db, room.id, user.id, "member", seq)

    def query(self, user: Party, text: str, *marks: bytes, **more: Any) -> Query:
        """What a user asks for."""
        wanted = phrases(text)
        return Query(user.id, wanted, [*probes(wanted), *marks], **more)

    def pages(self, query: Query, limit: int) -> Iterable[Found]:
        """All answers, page by page."""
        rest: Key | None = query.start
        while rest is not None:
            page = search(self.db, msgspec.structs.replace(query, start=rest), limit)
            self.assertLessEqual(len(page.entries), limit)
            self.assertTrue(page.rest is None or page.rest < rest)
            yield page
            rest = page.rest

    def hits(self, query: Query, limit: int = 50) -> list[tuple[int, int]]:
        """(room's id, seq) of all hits, in the order in which they are told."""
        return [
            (entry.room_id, entry.seq)
            for page in self.pages(query, limit)
            for entry in page.entries
        ]

    def find(self, user: Party, text: str, *marks: bytes, **more: Any) -> list[str]:
        """The texts of all hits, newest first."""
        return [
            entry.body["text"]
            for page in self.pages(self.query(user, text, *marks, **more), 50)
            for entry in page.entries
        ]

    def postings(self) -> list[Any]:
        """The whole index."""
        return self.db.all("SELECT room_id, token, at, seq FROM postings ORDER BY 1, 2, 3, 4")

    def built_anew(self) -> list[Any]:
        """The index as it should be."""
        self.db.run("DELETE FROM postings")
        self.db.run("DELETE FROM indexed")
        self.index()
        return self.postings()


class CorpusTests(SearchCase):
    """What is found."""

    def test_corpus(self) -> None:
        """Every query finds the texts that it should, and no others."""
        user = self.user()
        room = self.pair(user, user)
        self.say(room, user, *CORPUS)
        self.index()
        for text, expected in EXPECTED.items():
            wanted = [CORPUS[n] for n in sorted(expected, reverse=True)]
            if phrases(text):
                self.assertEqual(self.find(user, text), wanted, text)

    def test_random_texts(self) -> None:
        """Searches find what a look at every text finds, in the order of time."""
        chance = Random(7)
        one, other = self.users(2)
        rooms = [self.pair(one, one), self.pair(one, other), self.group(one)]
        said: list[tuple[int, str, int]] = []
        for _ in range(300):
            room, text = chance.choice(rooms), "".join(chance.choices("上海天a b,", k=6))
            sender = chance.choice((one, other)) if room.kind == "direct" else one
            self.say(room, sender, text)
            said.append((room.id, text, sender.id))
        self.index()
        for _ in range(100):
            query = "".join(chance.choices('上海天ab "', k=chance.randrange(1, 6)))
            wanted = phrases(query)
            if not wanted:
                continue
            only = chance.choice((None, one, other))
            found = [
                (room, text)
                for room, text, sender_id in reversed(said)
                if all(phrase in spelled(text) for phrase in wanted)
                and (only is None or only.id == sender_id)
            ]
            marks = [by(only.id)] if only else []
            asked = self.query(one, query, *marks)
            entries = [
                e for page in self.pages(asked, chance.randrange(1, 9)) for e in page.entries
            ]
            self.assertEqual([(e.room_id, e.body["text"]) for e in entries], found, query)

    def test_filters(self) -> None:
        """Hits may be sought in a room, of a user, with a link or a kind, in a span of time."""
        one, other = self.users(2)
        room, mine = self.pair(one, other), self.pair(one, one)
        self.say(room, one, "tea one", "tea http://a.b")
        self.say(room, other, "tea two")
        self.say(mine, one, "tea mine")
        times = [row[0] for row in self.db.all("SELECT at FROM entries ORDER BY at")]
        body = msgspec.json.encode({"text": "tea cup", "kind": "image"}).decode()
        self.db.run("UPDATE entries SET body = ? WHERE room_id = ? AND seq = 3", (body, room.id))
        self.index()
        everything = ["tea mine", "tea cup", "tea http://a.b", "tea one"]
        self.assertEqual(self.find(one, "tea"), everything)
        self.assertEqual(self.find(one, "tea", room_id=room.id), everything[1:])
        self.assertEqual(self.find(one, "tea", by(other.id)), ["tea cup"])
        self.assertEqual(self.find(one, "tea", has("image")), ["tea cup"])
        self.assertEqual(self.find(one, "", has("link")), ["tea http://a.b"])
        self.assertEqual(self.find(one, "", by(one.id), has("image")), [])
        self.assertEqual(
            self.find(one, "tea", after=times[1], start=(times[3], 0, 0)), everything[1:3]
        )

    def test_events_name_their_rooms(self) -> None:
        """A hit is an entry as the log tells it."""
        one, other = self.users(2)
        group = self.group(one, "team")
        for room, sender in (
            (self.pair(one, other), other),
            (self.pair(one, one), one),
            (group, one),
        ):
            self.say(room, sender, "tea")
        self.index()
        entries = search(self.db, self.query(one, "tea"), 9).entries
        told = [(entry.to, entry.sender, entry.kind) for entry in entries]
        direct = (f"@{one.name}", other, "message")
        self.assertEqual(
            told, [("#team", one, "message"), (f"@{one.name}", one, "message"), direct]
        )


class RightsTests(SearchCase):
    """Who finds what."""

    def test_only_members(self) -> None:
        """A stranger finds nothing of a group, a direct room or an inbox."""
        one, other, stranger = self.users(3)
        group = self.group(one)
        for room in (group, self.pair(one, other), self.pair(one, one)):
            self.say(room, one, "tea")
        self.index()
        self.assertEqual(len(self.find(one, "tea")), 3)
        self.assertEqual(len(self.find(other, "tea")), 1)
        self.assertEqual(self.find(stranger, "tea"), [])
        self.assertEqual(self.find(stranger, "tea", room_id=group.id), [])

    def test_left(self) -> None:
        """Who leaves a group finds nothing of it; who comes back finds what one may see."""
        owner, user = self.users(2)
        group = self.group(owner)
        self.member(group, user)
        self.say(group, owner, "tea one")
        self.index()
        leave(self.db, group.id, user.id)
        self.assertEqual(self.find(user, "tea"), [])
        self.member(group, user)
        self.assertEqual(self.find(user, "tea"), ["tea one"])

    def test_dissolved(self) -> None:
        """Nothing is found in a group that is no more."""
        owner = self.user()
        group = self.group(owner)
        self.say(group, owner, "tea")
        self.index()
        dissolve(self.db, group.id, owner.id, NOW)
        self.assertEqual(self.find(owner, "tea"), [])

    def test_joined_later(self) -> None:
        """Where a group's history begins with joining, what came before is not found."""
        owner, user = self.users(2)
        group = self.group(owner)
        self.say(group, owner, "tea before", "tea and cake before")
        self.member(group, user, "joined")
        self.say(group, owner, "tea after", "tea and cake after")
        self.index()
        self.assertEqual(self.find(user, "tea"), ["tea and cake after", "tea after"])
        self.assertEqual(self.find(user, "tea cake"), ["tea and cake after"])
        self.assertEqual(len(self.find(owner, "tea")), 4)
        self.db.run("UPDATE rooms SET history = 'all'")
        self.assertEqual(len(self.find(user, "tea")), 4)

    def test_long_before(self) -> None:
        """What was said long before somebody joined costs that one's search nothing."""
        owner, user = self.users(2)
        group = self.group(owner)
        self.say(group, owner, *["tea"] * 300)
        self.db.run("UPDATE entries SET at = at - 100000000 WHERE room_id = ?", (group.id,))
        self.member(group, user, "joined")
        self.say(group, owner, "tea after")
        self.index()
        query = self.query(user, "tea")
        self.assertEqual(self.find(user, "tea"), ["tea after"])
        before = self.effort(lambda: search(self.db, query, 20))
        self.db.run("DELETE FROM postings WHERE seq < 100")
        self.assertEqual(self.effort(lambda: search(self.db, query, 20)), before)

    def test_cleared(self) -> None:
        """What a user has cleared is found by the others alone."""
        one, other = self.users(2)
        room = self.pair(one, other)
        self.say(room, one, "tea one", "tea two", "tea three")
        self.index()
        self.db.run(
            "INSERT INTO cursors (user_id, room_id, cleared_seq) VALUES (?, ?, 2)",
            (one.id, room.id),
        )
        self.assertEqual(self.find(one, "tea"), ["tea three"])
        self.assertEqual(len(self.find(other, "tea")), 3)

    def test_hidden(self) -> None:
        """What a user has hidden is found by the others alone."""
        one, other = self.users(2)
        room = self.pair(one, other)
        self.say(room, one, "tea one", "tea two")
        self.index()
        self.db.run(
            "INSERT INTO hidden (user_id, room_id, seq) VALUES (?, ?, 1)", (one.id, room.id)
        )
        self.assertEqual(self.find(one, "tea"), ["tea two"])
        self.assertEqual(len(self.find(other, "tea")), 2)

    def test_only_messages(self) -> None:
        """Other entries are not found, nor is what was erased, whatever the index says."""
        user = self.user()
        room = self.pair(user, user)
        self.say(room, user, "tea one", "tea two")
        self.index()
        self.db.run("UPDATE entries SET kind = 'erased' WHERE seq = 1")
        self.assertEqual(self.find(user, "tea"), ["tea two"])
        self.db.run("UPDATE entries SET kind = 'retitled'")
        self.db.run("DELETE FROM postings")
        self.db.run("DELETE FROM indexed")
        self.index()
        self.assertEqual(self.postings(), [])


class PagingTests(SearchCase):
    """Page after page."""

    def test_each_once(self) -> None:
        """Every hit comes once, newest first, whatever the size of a page, while others are said;
        also where many were said at the same time."""
        user = self.user()
        rooms = [self.group(user) for _ in range(5)]
        chance = Random(3)
        for number in range(200):
            self.say(chance.choice(rooms), user, f"tea {number}")
        self.db.run("UPDATE entries SET at = at - at % 16")
        self.index()
        for limit in (1, 7, 50):
            expected = [
                (room_id, seq)
                for _, room_id, seq in self.db.all(
                    "SELECT at, room_id, seq FROM entries WHERE kind = 'message'"
                    " ORDER BY at DESC, room_id DESC, seq DESC"
                )
            ]
            found: list[tuple[int, int]] = []
            for page in self.pages(self.query(user, "tea"), limit):
                found += [(entry.room_id, entry.seq) for entry in page.entries]
                if len(found) % 2:
                    self.say(chance.choice(rooms), user, "tea late")
                    self.index()
            self.assertEqual(found, expected)

    def test_never_together(self) -> None:
        """Two words that are common and never meet cost one request no more than a bound, and
        asking again comes to an end."""
        user = self.user()
        room = self.group(user)
        rows = [
            (room.id, word, NOW + n, n)
            for n in range(2, 30_002)
            for word in ((b"tea", b"cup")[n % 2], b"all")
        ]
        for start in range(0, len(rows), 10_000):
            self.db.insert_all(
                "INSERT INTO postings (room_id, token, at, seq) VALUES (?, ?, ?, ?)",
                rows[start : start + 10_000],
            )
        query = self.query(user, "tea cup")
        page = search(self.db, query, 20)
        self.assertEqual(page.entries, [])
        self.assertIsNotNone(page.rest)
        one = self.effort(lambda: search(self.db, query, 20))
        rows_read = 15_000 if self.dialect.one_statement else 500_000  # SQLite counts steps
        self.assertLess(one, 4 * rows_read)
        self.assertEqual(self.hits(query), [])

    def test_long_texts(self) -> None:
        """One request compares few long texts with a phrase, and asking again comes to all."""
        user = self.user()
        room = self.group(user)
        self.say(room, user, "cup tea", *("tea cup " * 900 for _ in range(40)), "cup tea")
        self.index()
        pages = [*self.pages(self.query(user, '"cup tea" tea cup'), 50)]
        self.assertGreaterEqual(len(pages), 4)
        self.assertLessEqual(max(len(page.entries) for page in pages), 10)
        self.assertEqual(sum(len(page.entries) for page in pages), 42)

    def test_far_apart(self) -> None:
        """A hit behind many that are none is found in the end."""
        user = self.user()
        room = self.group(user)
        self.say(room, user, "tea and cup")
        self.say(room, user, *(("tea", "cup")[n % 2] for n in range(400)))
        self.index()
        self.assertEqual(self.find(user, "tea cup"), ["tea and cup"])
        self.assertEqual(self.find(user, '"tea and cup"'), ["tea and cup"])


class HostileTests(SearchCase):
    """Queries that nobody means well."""

    def test_answered(self) -> None:
        """Any query is answered, and finds what is there and nothing else."""
        user = self.user()
        self.say(self.pair(user, user), user, "tea", "x" * 8000)
        self.index()
        texts = (
            *("x" * 10_000, "上" * 10_000, "a " * 200, "上 " * 200, '"' * 999, '" tea'),
            *(
                "' OR 1=1 --",
                "tea%",
                "_ea",
                "t?a",
                "tea\\",
                "\0tea",
                "%s %(x)s {tea}",
                "?" * 50 + "tea",
            ),
            *("\ud800tea", "te\x1ba", "tea\u202e", "İ" * 500, "\u0301" * 500, "ﷺ" * 100),
        )
        for text in texts:
            found = self.find(user, text) if phrases(text) else []
            self.assertLessEqual(set(found), {"tea", "x" * 8000}, text[:20])
        self.assertEqual(self.find(user, "?" * 50 + "tea"), ["tea"])
        self.assertEqual(self.find(user, "x" * 8000), ["x" * 8000])
        self.assertEqual(self.find(user, "x" * 10_000), [])

    def test_texts(self) -> None:
        """Any text can be indexed, edited and recalled."""
        user = self.user()
        room = self.pair(user, user)
        texts = ("\0", "\ufffd", "上" * 4000, "😂" * 2000, "".join(map(chr, range(0x4E00, 0x6000))))
        self.say(room, user, *texts)
        self.index()
        for number, text in enumerate(texts, 1):
            with self.db.transaction():
                self.db.run("UPDATE entries SET kind = 'erased' WHERE seq = ?", (number,))
                unindex(self.db, room.id, number, {"text": text})
        self.assertEqual(self.postings(), [])


class ChangeTests(SearchCase):
    """Edits and recalls."""

    def edit(self, connection: Connection, room: Room, seq: int, old: str, new: str) -> None:
        """What the effect of an edit does."""
        body = msgspec.json.encode({"text": new}).decode()
        connection.run(
            "UPDATE entries SET body = ? WHERE room_id = ? AND seq = ?", (body, room.id, seq)
        )
        reindex(connection, room.id, seq, {"text": old}, {"text": new})

    def recall(self, connection: Connection, room: Room, seq: int, old: str) -> None:
        """What the effect of a recall does."""
        connection.run(
            "UPDATE entries SET kind = 'erased', body = '{}' WHERE room_id = ? AND seq = ?",
            (room.id, seq),
        )
        unindex(connection, room.id, seq, {"text": old, "kind": "note"})

    def test_edit(self) -> None:
        """An edited message is found by its new words alone."""
        user = self.user()
        room = self.pair(user, user)
        self.say(room, user, "green tea http://a.b", "tea")
        self.index()
        with self.db.transaction():
            self.edit(self.db, room, 1, "green tea http://a.b", "green coffee")
        self.assertEqual(self.find(user, "green"), ["green coffee"])
        self.assertEqual(self.find(user, "coffee", by(user.id)), ["green coffee"])
        self.assertEqual(self.find(user, "tea"), ["tea"])
        self.assertEqual(self.postings(), self.built_anew())

    def test_recall(self) -> None:
        """A recalled message leaves nothing in the index."""
        user = self.user()
        room = self.pair(user, user)
        self.say(room, user, "secret 上海")
        body = msgspec.json.encode({"text": "secret 上海", "kind": "note"}).decode()
        self.db.run("UPDATE entries SET body = ? WHERE room_id = ?", (body, room.id))
        self.index()
        with self.db.transaction():
            self.recall(self.db, room, 1, "secret 上海")
        self.assertEqual(self.postings(), [])
        self.assertEqual(self.find(user, "secret"), [])

    def test_before_it_is_indexed(self) -> None:
        """What is changed before it is indexed is indexed as it is then."""
        user = self.user()
        room = self.pair(user, user)
        self.say(room, user, "first")
        self.index()
        before = self.postings()
        self.say(room, user, "one tea", "two tea")
        with self.db.transaction():
            self.edit(self.db, room, 2, "one tea", "one coffee")
            self.recall(self.db, room, 3, "two tea")
        self.assertEqual(self.postings(), before)
        self.index()
        self.assertEqual(self.find(user, "one"), ["one coffee"])
        self.assertEqual(self.find(user, "tea"), [])
        self.assertEqual(self.postings(), self.built_anew())

    def blocked(self, begun: list[str]) -> bool:
        """Whether what has begun with these statements waits for another transaction."""
        raise NotImplementedError

    async def race(self, change: Callable[[Connection, Room], None], begin: str) -> None:
        """Changes a message while another connection is about to do something of its indexing,
        and then again lets the change wait for the indexing."""
        user = self.user()
        room = self.pair(user, user)
        self.say(room, user, "old tea", "other tea")
        wire = Wire()
        other_wire = Wire()
        one, other = self.node(self.wired(wire)), self.node(self.wired(other_wire))
        held = Held(wire, begin)
        indexing = one.write(index, [room.id])
        await held.there
        begun: list[str] = []
        other_wire.before = begun.append
        draft = self.draft(room, user, kind="edited", effect=lambda db, seq: change(db, room))
        changing: Deferred[Stored] = other.append(draft)
        while not changing.called and not self.blocked(begun):
            await deferLater(reactor, 0)
        held.go()
        await indexing
        await changing
        self.index()
        self.assertEqual(self.postings(), self.built_anew())
        self.assertEqual(self.find(user, "old"), [])

    async def test_edit_while_it_is_indexed(self) -> None:
        """An edit comes before the indexing or after it, and what is found is the new text."""
        edit = lambda db, room: self.edit(db, room, 1, "old tea", "new tea")  # noqa: E731
        await self.race(edit, "INSERT INTO postings")

    async def test_edit_as_the_indexing_begins(self) -> None:
        """The same where the edit may be first."""
        edit = lambda db, room: self.edit(db, room, 1, "old tea", "new tea")  # noqa: E731
        await self.race(edit, "SELECT room_id, seq FROM indexed")

    async def test_recall_while_it_is_indexed(self) -> None:
        """A recall comes before the indexing or after it, and nothing is found."""
        recall = lambda db, room: self.recall(db, room, 1, "old tea")  # noqa: E731
        await self.race(recall, "INSERT INTO postings")


class IndexerTests(SearchCase):
    """Behind the log."""

    def setUp(self) -> None:
        super().setUp()
        self.patch(indexer, "GATHERING", 0)
        self.patch(indexer, "_AGAIN", 0.01)

    def indexer(self, node: Node) -> Indexer:
        """A node's indexer; what fails in it fails the test."""
        made = Indexer(node, CLOCK, _spawned)
        self.addCleanup(made.stop)
        return made

    async def test_follows(self) -> None:
        """What is said is indexed without being asked for; other entries pass by."""
        user = self.user()
        room = self.pair(user, user)
        node = self.node()
        following = self.indexer(node)
        node.hear = lambda pairs: following.note({draft.room.id for draft, _ in pairs})
        for text in ("tea one", "tea two"):
            await node.append(self.draft(room, user, text))
        await node.append(self.draft(room, user, "tea none", kind="note"))
        await following.level()
        self.assertEqual(self.find(user, "tea"), ["tea two", "tea one"])

    async def test_start(self) -> None:
        """At its start it finds all rooms that are behind, however many there are, and looks into
        no other."""
        user = self.user()
        rooms = [self.group(user) for _ in range(7)]
        self.index()
        for room in rooms[::2]:
            self.say(room, user, "tea")
        self.patch(indexer, "_LOOK", 3)
        self.patch(indexer, "_ROOMS", 2)
        wire = Wire()
        seen: list[str] = []
        wire.after = seen.append
        following = self.indexer(self.node(self.wired(wire)))
        following.start()
        await following.level()
        self.assertEqual(len(self.find(user, "tea")), 4)
        self.assertEqual(sum(sql.startswith("SELECT seq, sender_id") for sql in seen), 4)
        self.assertEqual(sum("LEFT JOIN indexed" in sql for sql in seen), 4)

    async def test_small_transactions(self) -> None:
        """A transaction is bounded, whatever there is to do, and the next goes on behind it."""
        user = self.user()
        room = self.pair(user, user)
        letters = " ".join("abcdefghijklmnopqrstuvwxyz")
        self.say(room, user, *(f"{n} 上海天气很好{n} {letters}" for n in range(250)))
        left = index(self.db, [room.id])
        self.assertEqual(left, [room.id])
        count = self.single("SELECT COUNT(*) FROM postings")
        self.assertTrue(1500 <= count < 1550, count)
        self.index()
        postings = self.postings()
        self.assertEqual(postings, self.built_anew())
        self.assertEqual(len(self.find(user, "上海")), 250)

    async def test_long_texts(self) -> None:
        """A transaction has few long texts, also where they have few words."""
        user = self.user()
        rooms = [self.pair(user, user), self.group(user)]
        for room in rooms:
            self.say(room, user, *("tea " * 1900 for _ in range(3)))
        self.index()
        self.db.run("DELETE FROM postings")
        self.db.run("DELETE FROM indexed")
        ids = [room.id for room in rooms]
        self.assertEqual(index(self.db, ids), ids)
        self.assertEqual(self.single("SELECT SUM(seq) FROM indexed"), 2)
        self.index()
        self.assertEqual(len(self.find(user, "tea")), 6)

    async def test_slow_database(self) -> None:
        """Where transactions take long they become smaller, and larger where they do not."""
        user = self.user()
        room = self.pair(user, user)
        self.say(room, user, *("上海天气很好" for _ in range(200)))
        self.patch(indexer, "_LEAST", 100)
        wire = Wire()
        following = self.indexer(self.node(self.wired(wire)))
        transactions = []
        for hold in (1e9, 1e9, 1e-9, 1e-9):  # the first of two finds its size
            self.patch(indexer, "_HOLD", hold)
            self.db.run("DELETE FROM postings")
            self.db.run("DELETE FROM indexed")
            seen: list[str] = []
            wire.after = seen.append
            following.note([room.id])
            await following.level()
            transactions.append(sum("INTO indexed" in sql for sql in seen))
            self.assertEqual(len(self.find(user, "上海")), 200)
        self.assertLessEqual(transactions[1], 3)
        self.assertGreaterEqual(transactions[3], 20)

    async def test_rests(self) -> None:
        """After a transaction it rests as long as that took, four times as long amid news."""
        user = self.user()
        rooms = [self.pair(user, user), self.group(user)]
        self.patch(indexer, "_ROOMS", 1)
        rests = []
        for news in (False, True):
            for room in rooms:
                self.say(room, user, "tea")
            clock, wire = Clock(), Wire()
            following = Indexer(self.node(self.wired(wire)), clock, _spawned)
            held = Held(wire, "INSERT INTO postings")
            following.note([room.id for room in rooms])
            clock.advance(0)
            await held.there
            clock.advance(2)
            if news:
                following.note([rooms[1].id])
            held.go()
            while not clock.getDelayedCalls():
                await deferLater(CLOCK, 0)
            rests.append(clock.getDelayedCalls()[0].getTime() - clock.seconds())
            following.stop()
        self.assertEqual(rests, [2, 8])

    async def test_killed(self) -> None:
        """A node that dies between or within two transactions leaves nothing missing and nothing
        doubled to the next."""
        user = self.user()
        rooms = [self.group(user) for _ in range(3)]
        for room in rooms:
            self.say(room, user, *(f"{n} 上海天气很好{n}" for n in range(80)))
        for begin in ("INSERT INTO postings", "INSERT INTO indexed", "COMMIT"):
            wire = Wire()
            node = self.node(self.wired(wire))
            died: list[Deferred[None]] = []
            following = Indexer(node, CLOCK, partial(_noted, died))
            wire.before = once(begin, lambda: throw(Killed()))
            following.note([room.id for room in rooms])
            await self.assertFailure(died[0], Killed)
            index(self.db, [rooms[0].id])
        last = self.indexer(self.node())
        last.start()
        await last.level()
        postings = self.postings()
        self.assertEqual(postings, self.built_anew())
        self.assertEqual(len(self.find(user, "上海")), 240)

    async def test_database_away(self) -> None:
        """A database that cannot be used is tried again, and nothing is lost."""
        user = self.user()
        room = self.pair(user, user)
        self.say(room, user, "tea")
        wire = Wire()
        following = self.indexer(self.node(self.wired(wire)))
        wire.before = once("INSERT INTO postings", lambda: throw(self.unusable()))
        following.note([room.id])
        await following.level()
        self.assertEqual(self.find(user, "tea"), ["tea"])

    async def test_stop(self) -> None:
        """Stopped, it begins nothing more and leaves no timer."""
        user = self.user()
        room = self.pair(user, user)
        self.say(room, user, "tea")
        self.patch(indexer, "GATHERING", 1000)
        following = self.indexer(self.node())
        following.note([room.id])
        following.stop()
        await following.level()
        following.note([room.id])
        await following.level()
        self.assertEqual(self.postings(), [])

    async def test_stop_amid_work(self) -> None:
        """What was begun is finished, and no more."""
        user = self.user()
        rooms = [self.pair(user, user), self.group(user)]
        for room in rooms:
            self.say(room, user, "tea")
        self.patch(indexer, "_ROOMS", 1)
        wire = Wire()
        following = self.indexer(self.node(self.wired(wire)))
        held = Held(wire, "INSERT INTO postings")
        following.note([room.id for room in rooms])
        await held.there
        following.stop()
        held.go()
        await following.level()
        self.assertEqual(len(self.find(user, "tea")), 1)


class SQLiteCorpus(SQLiteCase, CorpusTests):
    """On SQLite."""


class MariaDBCorpus(MariaDBCase, CorpusTests):
    """On MariaDB."""


class SQLiteRights(SQLiteCase, RightsTests):
    """On SQLite."""


class MariaDBRights(MariaDBCase, RightsTests):
    """On MariaDB."""


class SQLitePaging(SQLiteCase, PagingTests):
    """On SQLite."""


class MariaDBPaging(MariaDBCase, PagingTests):
    """On MariaDB."""


class SQLiteHostile(SQLiteCase, HostileTests):
    """On SQLite."""


class MariaDBHostile(MariaDBCase, HostileTests):
    """On MariaDB."""


class SQLiteChanges(SQLiteCase, ChangeTests):
    """On SQLite."""

    def blocked(self, begun: list[str]) -> bool:
        return self.dialect.begin in begun


class MariaDBChanges(MariaDBCase, ChangeTests):
    """On MariaDB."""

    def blocked(self, begun: list[str]) -> bool:
        status: str = self.db.all("SHOW ENGINE INNODB STATUS")[0][2]
        return "LOCK WAIT" in status


class SQLiteIndexer(SQLiteCase, IndexerTests):
    """On SQLite."""


class MariaDBIndexer(MariaDBCase, IndexerTests):
    """On MariaDB."""


del CorpusTests, RightsTests, PagingTests, HostileTests, ChangeTests, IndexerTests


class CommandTests(CalmCase):
    """The command, over the wires."""

    def setUp(self) -> None:
        self.patch(indexer, "GATHERING", 0)
        self.seen: list[str] = []
        super().setUp()

    def make_dialect(self) -> Dialect:
        wire = Wire()
        wire.before = lambda sql: self.seen.append(sql)
        return _wired(super().make_dialect(), wire)

    async def said(self, client: Any, to: str, *texts: str, **more: Any) -> list[dict[str, Any]]:
        """Says texts; the replies, when all is indexed."""
        replies = [await client.ask("say", to=to, text=text, **more) for text in texts]
        await self.node.indexer.level()
        return replies

    async def test_found(self) -> None:
        """What is said is found a moment later, over every wire, by those who may read it."""
        alice, bob = await self.user("alice"), await self.user("bob", self.lines())
        await self.said(alice, "@bob", "我家在上海东边。")
        await self.said(bob, "@alice", "Shanghai! https://sh.cn", kind="note")
        by_http = await self.user("bob", self.http())
        for client in (alice, bob, by_http):
            found = await client.ask("search", text="上海")
            self.assertEqual([e["text"] for e in found["entries"]], ["我家在上海东边。"])
            self.assertEqual((found["more"], "next" in found), (False, False))
        await bob.answer("/search 上海")
        lines = await bob.answer("/search has=link SHANGHAI sh")
        self.assertEqual(lines, ["= @alice 2 <bob> Shanghai! https://sh.cn", "+OK more=false"])
        for filters in ({"has": "link"}, {"by": "@BOB"}, {"has": "note", "to": "@bob"}):
            found = await alice.ask("search", **filters)
            self.assertEqual([e["seq"] for e in found["entries"]], [2], filters)
            self.assertEqual(found["entries"][0]["from"], "bob")

    async def test_times_and_pages(self) -> None:
        """A span of time is from `after` on and before `before`; `next` goes on."""
        alice = await self.user("alice")
        millis = iter(range(1_000_000, 2_000_000, 1000))
        self.node.now = lambda: next(millis)
        at = [one["at"] for one in await self.said(alice, "@alice", *["tea"] * 5)]
        found = await alice.ask("search", text="tea", after=at[1], before=at[3])
        self.assertEqual([e["seq"] for e in found["entries"]], [3, 2])
        seqs: list[int] = []
        more: dict[str, str] = {}
        while True:
            found = await alice.ask("search", text="tea", limit=2, **more)
            seqs += [e["seq"] for e in found["entries"]]
            if not found["more"]:
                break
            more = {"next": found["next"]}
        self.assertEqual(seqs, [5, 4, 3, 2, 1])

    async def test_refused(self) -> None:
        """Who and what is unknown, and where one is not, is told so; so is a query of nothing."""
        alice, bob = await self.user("alice"), await self.user("bob")
        await bob.ask("create", name="team")
        for parameters, code in (
            ({"text": "tea", "by": "nobody"}, "not-found"),
            ({"text": "tea", "by": "a b"}, "bad-request"),
            ({"text": "tea", "to": "@nobody"}, "not-found"),
            ({"text": "tea", "to": "#nothing"}, "not-found"),
            ({"text": "tea", "to": "#team"}, "not-a-member"),
            ({"text": "?!"}, "bad-request"),
            ({}, "bad-request"),
            ({"text": "x" * 513}, "bad-request"),
            ({"text": "tea\0"}, "bad-request"),
            ({"text": "tea", "next": "1.2"}, "bad-request"),
            ({"text": "tea", "next": "1.9223372036854775808.1"}, "bad-request"),
            ({"text": "tea", "has": "A"}, "bad-request"),
            ({"text": "tea", "limit": 51}, "bad-request"),
            ({"text": "tea", "before": 2**63}, "bad-request"),
        ):
            reply = await alice.ask("search", **parameters)
            self.assertEqual(reply.get("error"), code, parameters)
        for parameters in (
            {"text": "tea", "to": "@bob"},  # they never spoke
            {"text": "tea", "next": f"{'9' * 16}.{2**63 - 1}.{2**63 - 1}"},
            {"text": "tea", "before": 2**53, "after": 2**53},
        ):
            reply = await alice.ask("search", **parameters)
            self.assertEqual((reply["ok"], reply["entries"]), (True, []), parameters)

    async def test_sending_does_not_wait(self) -> None:
        """A message is acknowledged before anything is done for the index."""
        alice = await self.user("alice")
        await self.said(alice, "@alice", "tea")
        self.seen.clear()
        await alice.ask("say", to="@alice", text="more tea")
        alone = [sql for sql in self.seen if "postings" not in sql and "indexed" not in sql]
        self.assertEqual([sql.split()[0] for sql in alone][:3], ["BEGIN", "INSERT", "COMMIT"])
        self.assertEqual(self.seen[:3], alone[:3])
        await self.node.indexer.level()
        self.assertTrue(any("INTO postings" in sql for sql in self.seen))

    async def test_after_a_restart(self) -> None:
        """What one process said and did not index, the next one finds at its start."""
        alice = await self.user("alice")
        self.patch(indexer, "GATHERING", 1000)
        await alice.ask("say", to="@alice", text="tea")
        self.patch(indexer, "GATHERING", 0)
        self.open()
        await self.node.indexer.level()
        again = await self.user("alice")
        self.assertEqual(len((await again.ask("search", text="tea"))["entries"]), 1)


def _wired(dialect: Dialect, wire: Wire) -> Dialect:
    case = SQLiteCase()
    case.dialect = dialect
    return case.wired(wire)

"""Names that cannot be read, mix scripts or look like another are refused to those who register."""

from __future__ import annotations

import sys
import unicodedata
from typing import TYPE_CHECKING, Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, gatherResults
from twisted.trial.unittest import SynchronousTestCase

from chatd.errors import Refused
from chatd.lookalikes import new_name, skeleton
from chatd.model import fold, normalise
from chatd.store import accounts, groups
from chatd.store.accounts import Login, Registration
from chatd.store.groups import NewGroup
from tests.bed import NodeCase
from tests.stores import HOUR, NOW, MariaDBCase, SQLiteCase, Wire, once

if TYPE_CHECKING:
    from tests.stores import StoreCase as Contract
else:
    Contract = object

NAME_CHARS = 32
COLUMN_CHARS = 128  # of users.skeleton
# Default_Ignorable_Code_Point (DerivedCoreProperties.txt, Unicode 17).
IGNORABLE = (
    *(0xAD, 0x34F, 0x61C, 0x3164, 0xFEFF, 0xFFA0, *range(0x115F, 0x1161), *range(0x17B4, 0x17B6)),
    *(*range(0x180B, 0x1810), *range(0x200B, 0x2010), *range(0x202A, 0x202F)),
    *(*range(0x2060, 0x2070), *range(0xFE00, 0xFE10), *range(0xFFF0, 0xFFF9)),
    *(*range(0x1BCA0, 0x1BCA4), *range(0x1D173, 0x1D17B), *range(0xE0000, 0xE1000)),
)
BLANK = (0x2800, 0x3000, 0x1160, 0x16FE4, 0x13441, 0x13442)
HONEST = (
    *("alice", "Bob_2", "x.y-z", "Ñandú", "Łukasz", "Đặng.Thị", "Þór"),
    *("Иван", "Ёлка", "Щука7", "Їжак", "Ґава", "Μαρία", "Ὀδυσσεύς", "Հայկ", "გიორგი", "ⴰⵎⴰⵣⵉⵖ"),
    *("刘备", "劉備", "関羽2号", "刘Bei", "さくら", "サッカー部", "日本語の名", "Tokyo東京タワー"),
    *(
        "佐々木",
        "ㄅㄆㄇ",
        "注音ㄓㄨ",
        "김철수",
        "金철수",
        "Kim철수",
        "שלום",
        "שָׁלוֹם",
        "محمد",
        "مُحَمَّد",
    ),
    *("ناهید", "नमस्ते", "हिन्दी", "বাংলা", "தமிழ்", "తెలుగు", "ಕನ್ನಡ", "മലയാളം", "සිංහල", "ਪੰਜਾਬੀ"),
    *("สมชาย", "น้ำใจ", "ລາວ", "ខ្មែរ", "မြန်မာ", "བོད", "ᠮᠣᠩᠭᠣᠯ", "አማርኛ", "ᏣᎳᎩ", "ꦗꦮ"),
)
MIXED = (
    *(
        "pаypal",
        "аlice",
        "Bоb",
        "αlice",
        "aliceж",
        "刘й",
        "さαくら",
        "김さ",
        "ㄅあ",
        "ㄅ김",
        "אalef",
        "सa",
    ),
    *("Ивan", "Աbc", "aᏟe", "ⲟk", "ⴰa"),
)
ALIKE = (
    *(("сосо", "coco"), ("СОСО", "coco"), ("Сосо", "COCO"), ("ΗΟΤ", "hot"), ("ІСЕ", "ice")),
    *(("рор", "pop"), ("ѕ", "s"), ("ıan", "ian"), ("ɡoo", "goo"), ("æon", "aeon"), ("ᎪᎪ", "aa")),
    *(("ali̇ce", "alice"), ("İlker", "ilker"), ("ẏị̇", "ẏị"), ("ȷ̇o", "jo"), ("аррӏе", "apple")),
    *(("сё", "cë"), ("カ", "力"), ("ニ", "二"), ("ロ", "口"), ("ヘ", "へ")),
)
DIFFERENT = (
    *(("user10", "userlO"), ("rn", "m"), ("vv", "w"), ("1", "l"), ("0", "O"), ("ali", "all")),
    *(("nandu", "ñandu"), ("刘备", "刘禅"), ("Иван", "Иванов"), ("e", "é"), ("lukasz", "łukasz")),
    *(("未", "末"), ("あ", "お"), ("мама", "mama")),
)


class Legible(SynchronousTestCase):
    """What may stand in a name at all."""

    def refused(self, name: str) -> None:
        with self.assertRaises(Refused, msg=ascii(name)) as caught:
            normalise(name)
        self.assertEqual(caught.exception.code, "bad-request")

    def test_invisible(self) -> None:
        """Whatever is shown as nothing, or as a blank, is refused, wherever it stands."""
        for number in (*IGNORABLE, *BLANK):
            for name in (f"a{chr(number)}b", f"ab{chr(number)}", f"{chr(number)}ab", chr(number)):
                self.refused(name)

    def test_categories(self) -> None:
        """Of all characters none is let in that is a control, a format, a blank, a surrogate or
        of private use."""
        for number in range(sys.maxunicode + 1):
            char = chr(number)
            if unicodedata.category(char) in ("Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp", "Zs", "Me"):
                self.refused(f"a{char}b")

    def test_marks(self) -> None:
        """Marks are let in as far as scripts need them; piles of them are refused."""
        for name in (
            "a\u0300\u0301\u0302\u0303",
            "ệ",
            "שָׁ֑",
            "aa\u0300b\u0300c\u0300d\u0300e\u0300f\u0300",
        ):
            normalise(name)
        zalgo = "Z\u0351\u036b\u0343\u036a\u0302\u036b\u033d"
        for name in (
            zalgo,
            "a\u0300\u0301\u0302\u0303\u0304",
            "e\u0301\u0301",
            "é\u0301",
            "x\u0335\u0335",
        ):
            self.refused(name)

    def test_honest(self) -> None:
        """Names in the scripts of the world are let in, and are their own look-alikes only."""
        skeletons = {skeleton(new_name(name)): name for name in HONEST}
        self.assertEqual(len(skeletons), len(HONEST))

    def test_mixed(self) -> None:
        """Scripts that nobody writes together are refused in one name."""
        for name in MIXED:
            error = self.assertRaises(Refused, new_name, name)
            self.assertEqual(error.code, "bad-request", name)
            self.assertIn("mixes", error.sentence, name)


class Skeletons(SynchronousTestCase):
    """What a name looks like."""

    def test_alike(self) -> None:
        """Names that look alike have one skeleton."""
        for one, other in (*ALIKE, ("pаypal", "paypal"), ("аlice", "alice"), ("ＰＡＹ", "pay")):
            found = [skeleton(normalise(name)) for name in (one, other)]
            self.assertEqual(found[0], found[1], (one, other))

    def test_different(self) -> None:
        """Names that do not have two; ASCII is never taken for other ASCII."""
        for one, other in DIFFERENT:
            found = [skeleton(normalise(name)) for name in (one, other)]
            self.assertNotEqual(found[0], found[1], (one, other))

    @given(st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=126), max_size=32))
    def test_ascii(self, name: str) -> None:
        """The skeleton of an ASCII name is the folded name."""
        self.assertEqual(skeleton(name), fold(name))

    def test_fits(self) -> None:
        """The skeleton of the longest name fits into its column, whatever it is made of."""
        for number in range(0x80, sys.maxunicode + 1):
            char = chr(number)
            if char.isalnum() and unicodedata.is_normalized("NFKC", char):
                self.assertLessEqual(len(skeleton(char)) * NAME_CHARS, COLUMN_CHARS, char)


class Stored(Contract):
    """The contract of the store; run on every database."""

    def registering(self, name: str) -> Login:
        """A registration without an invitation."""
        token = f"token of {name}"
        new = Registration(name, "", "hash")
        return Login(NOW, registration=new, issue=accounts.digest(token), expires=NOW + HOUR)

    def log_in(self, *logins: Login) -> list[str]:
        """What becomes of each login: a name, or an error's code."""
        found = accounts.log_in(self.db, logins)
        return [one.code if isinstance(one, Refused) else one.user.name for one in found]

    def test_register(self) -> None:
        """A name that looks like one that is taken cannot be registered; the refusal names both."""
        self.assertEqual(self.log_in(self.registering("coco")), ["coco"])
        (refused,) = accounts.log_in(self.db, [self.registering("сосо")])
        assert isinstance(refused, Refused)
        self.assertEqual(refused.code, "exists")
        self.assertEqual(refused.sentence, "сосо looks like coco, a name that is taken.")
        self.assertEqual(
            self.log_in(self.registering("userlO"), self.registering("user10")),
            ["userlO", "user10"],
        )

    def test_in_one_batch(self) -> None:
        """Of two look-alikes in one batch the first has the name."""
        batch = [self.registering(name) for name in ("сосо", "coco", "dada")]
        self.assertEqual(self.log_in(*batch), ["сосо", "exists", "dada"])

    def test_again(self) -> None:
        """A registration whose answer was lost is found again, not taken for a look-alike."""
        for _ in range(2):
            self.assertEqual(self.log_in(self.registering("сосо")), ["сосо"])

    def test_operator(self) -> None:
        """Accounts that an operator makes are compared as well, with a password or without."""
        accounts.add_user(self.db, "coco", "", "hash", NOW)
        for add in (
            lambda: accounts.add_user(self.db, "сосо", "", "hash", NOW),
            lambda: accounts.add_user_without_password(self.db, "сосо", "", NOW),
        ):
            with self.assertRaises(self.dialect.errors) as caught:
                add()
            self.assertTrue(self.dialect.duplicate(caught.exception))

    def test_vouched(self) -> None:
        """A site decides on the names of those whom it vouches for: they may look like others,
        and keep nobody from a name."""
        accounts.add_user(self.db, "coco", "", "hash", NOW)
        site = [
            Login(NOW, name=name, issue=name.encode(), expires=NOW + 1) for name in ("сосо", "dodo")
        ]
        self.assertEqual(self.log_in(*site), ["сосо", "dodo"])
        self.assertEqual(self.log_in(self.registering("ԁоԁо")), ["ԁоԁо"])

    def test_groups(self) -> None:
        """Groups are compared with groups, also with those that are no more, and not with
        users; a repeat finds its own."""
        owner = self.user("coco")
        room = groups.make_group(self.db, _new("coco"), owner, b"key", NOW)
        error = self.assertRaises(
            Refused, groups.make_group, self.db, _new("сосо"), owner, b"other", NOW
        )
        self.assertEqual(error.sentence, "#сосо looks like #coco, a group that there is, or was.")
        groups.dissolve(self.db, room.id, owner.id, NOW)
        error = self.assertRaises(
            Refused, groups.make_group, self.db, _new("сосо"), owner, b"other", NOW
        )
        self.assertEqual(error.code, "exists")
        made = [groups.make_group(self.db, _new("ԁоԁо"), owner, b"key 2", NOW).id for _ in range(2)]
        self.assertEqual(made[0], made[1])


def _new(name: str) -> NewGroup:
    return NewGroup(name, "", "", "open", "all", "members")


class StoredOnSQLite(Stored, SQLiteCase):
    """The contract on SQLite."""


class StoredOnMariaDB(Stored, MariaDBCase):
    """The contract on MariaDB, and what only a server can do."""

    async def test_between_two_statements(self) -> None:
        """A look-alike that another node registers meanwhile has the name: the index decides."""
        wire = Wire()
        node, other = self.node(self.wired(wire)), self.connect()

        def meanwhile() -> None:
            accounts.add_user(other, "сосо", "", "hash", NOW)

        wire.before = once("INSERT INTO users", meanwhile)
        outcome = await node.log_in(self.registering("coco")).addErrback(lambda f: f.value)
        assert isinstance(outcome, Refused)
        self.assertEqual(outcome.code, "exists")
        self.assertIn("looks like сосо", outcome.sentence)

    async def test_together(self) -> None:
        """Of two that register look-alikes on two nodes at the same moment one gets the name."""
        nodes = self.node(), self.node()
        for number in range(5):
            names = f"coco{number}", f"сосо{number}"
            tries = [
                node.log_in(self.registering(name)).addBoth(_outcome)
                for node, name in zip(nodes, names, strict=True)
            ]
            self.assertIn(await gatherResults(tries), (["in", "exists"], ["exists", "in"]))


def _outcome(result: Any) -> str:
    refused = getattr(result, "value", None)
    return refused.code if isinstance(refused, Refused) else "in"


class Commands(NodeCase):
    """What those who register are told."""

    async def test_register(self) -> None:
        """A look-alike is refused, a mixture as well; neither can be a group."""
        client = self.frames()
        await self.user("coco")
        for name, code, words in (
            ("сосо", "exists", "сосо looks like coco"),
            ("cосо", "bad-request", "mixes several"),
            ("co\u200bco", "bad-request", "1 to 32 letters"),
        ):
            reply = await client.ask("register", name=name, password="x")
            self.assertEqual(reply["error"], code, name)
            self.assertIn(words, reply["message"])
        await self.user("dada", client)
        self.assertTrue((await client.ask("create", name="team"))["ok"])
        self.assertEqual((await client.ask("create", name="tеam"))["error"], "bad-request")
        self.assertTrue((await client.ask("create", name="#coco"))["ok"])
        self.assertEqual((await client.ask("create", name="#сосо"))["error"], "exists")

    async def test_both_at_once(self) -> None:
        """Of two clients that register look-alikes at once one is let in."""
        one, other = self.frames(), self.frames()
        asked = [
            client.ask("register", name=name, password="x")
            for client, name in ((one, "coco"), (other, "сосо"))
        ]
        replies = await gatherResults([Deferred.fromCoroutine(one) for one in asked])
        self.assertEqual(sorted(reply["ok"] for reply in replies), [False, True])

"""Which words a text has, and what a query asks for."""

from __future__ import annotations

import unicodedata
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as some
from twisted.trial.unittest import SynchronousTestCase

from chatd.words import TOKEN_BYTES, has_link, phrases, probes, spelled, tokens

# Characters of which much goes wrong: width, case, accents, marks, joiners, scripts, separators.
ODD = "aÀßİıſΣςΆёйオｵｶﾞが上海한ㅎ각กำ๏कि😂👍🏽\u200d\ufe0f🇨٣Ⅷ²ﬁ _-.'\"|\u3000\u0301\0\n1９"
TEXTS = some.text(alphabet=some.one_of(some.sampled_from(ODD), some.characters(codec="utf-8")))


def words(text: str) -> set[str]:
    """The tokens, to be read."""
    return {token.decode() for token in tokens(text)}


class TextTests(SynchronousTestCase):
    """What the index has of a text."""

    def test_words(self) -> None:
        """Runs of letters and digits are words; what stands between them is nothing."""
        self.assertEqual(
            words("Hello, wörld! a_b 3.14"), {*["hello", "world", "a", "b", "3", "14"]}
        )
        self.assertEqual(words(" .,!?_-'\"|()*%\n\t\0"), set())

    def test_case_and_width(self) -> None:
        """Case and width make no difference."""
        self.assertEqual(words("ＨＥＬＬＯ Straße"), words("hello STRASSE"))
        self.assertEqual(words("ｶﾞｷﾞ"), words("ガギ"))
        self.assertEqual(words("Ⅷ ﬁne ℡"), {"viii", "fine", "tel"})

    def test_piles(self) -> None:
        """Marks in such numbers that sorting them would take long are no one word."""
        for base in ("א", "क"):
            cut = spelled(base + "\u05b0\u0591" * 4000).split()
            self.assertLessEqual(max(map(len, cut)), 70)
        self.assertEqual(words("😂" * 200), {"😂"})

    def test_accents(self) -> None:
        """Accents of Latin and Greek letters make no difference; what tells other letters apart
        does."""
        self.assertEqual(words("Café ΆΛΦΑ"), words("cafe αλφα"))
        self.assertEqual(words("cafe\u0301"), {"cafe"})
        self.assertNotEqual(words("が"), words("か"))
        self.assertNotEqual(words("й"), words("и"))

    def test_chinese_japanese_korean(self) -> None:
        """Each character is a token, and each two neighbours."""
        self.assertEqual(words("上海东"), {"上", "海", "东", "上海", "海东"})
        self.assertEqual(words("カタひ"), {"カ", "タ", "ひ", "カタ", "タひ"})
        self.assertEqual(words("한국어"), {"한", "국", "어", "한국", "국어"})
        self.assertEqual(words("𠮷野家"), {"𠮷", "野", "家", "𠮷野", "野家"})

    def test_neighbours_only(self) -> None:
        """What stands between two characters keeps them apart."""
        for text in ("上，海", "上 海", "上a海", "上\n海", "上😂海"):
            self.assertNotIn("上海", words(text), text)

    def test_mixed(self) -> None:
        """Scripts that meet without a space are told apart."""
        self.assertEqual(words("用Python3写"), {"用", "python3", "写"})

    def test_marks_belong_to_words(self) -> None:
        """Vowel signs do not cut a word."""
        self.assertEqual(words("हिन्दी में"), {"हिन्दी", "में"})

    def test_emoji(self) -> None:
        """An emoji is a token, in whatever colour or form."""
        self.assertEqual(words("ok👍🏽👍 ❤️"), {"ok", "👍", "❤"})

    def test_long_words_are_cut(self) -> None:
        """A token is whole characters of at most 48 bytes."""
        self.assertEqual(words("a" * 100), {"a" * 48})
        self.assertEqual(words("я" * 100), {"я" * 24})
        self.assertEqual(words("ab" + "я" * 100), {"ab" + "я" * 23})
        self.assertEqual(words("a" + "я" * 100), {"a" + "я" * 23})

    def test_links(self) -> None:
        """A link begins with its scheme and has a host."""
        for text in ("see https://example.org/x", "HTTP://a", "（http://例子）"):
            self.assertTrue(has_link(text), text)
        for text in ("", "http://", "https:// x", "xhttp://a", "example.org"):
            self.assertFalse(has_link(text), text)

    @given(TEXTS)
    def test_any_text(self, text: str) -> None:
        """Any text has tokens that fit the index; how its characters are composed makes no
        difference."""
        found = tokens(text)
        for token in found:
            self.assertTrue(0 < len(token) <= TOKEN_BYTES, token)
            self.assertNotIn(0, token)
            token.decode()
        self.assertEqual(tokens(unicodedata.normalize("NFD", text)), found)
        self.assertEqual(tokens(unicodedata.normalize("NFC", text)), found)


class QueryTests(SynchronousTestCase):
    """What a query asks for."""

    def test_words_and_phrases(self) -> None:
        """Each word is a phrase, and so is what stands in quotes."""
        self.assertEqual(phrases('One "two  three" 四五 one'), [" one ", " two three ", " 四 五 "])
        self.assertEqual(phrases('foo-bar say"so now'), [" foo bar ", " say ", " so ", " now "])

    def test_nothing(self) -> None:
        """Where there is no letter, there is nothing to look for."""
        for query in ("", "  ", '""', '"', "?!", "%_", "\0\x1b", "' --;"):
            self.assertEqual((phrases(query), probes(phrases(query))), ([], []), query)

    def test_adjacency(self) -> None:
        """A phrase is in a text only where its parts are neighbours."""
        (shanghai,) = phrases("上海")
        self.assertIn(shanghai, spelled("我家在上海东边。"))
        for text in ("海上", "上x海", "上 海", "上，海"):
            self.assertNotIn(shanghai, spelled(text), text)
        (hello,) = phrases('"hello world"')
        self.assertIn(hello, spelled("Oh, HELLO -- World!"))
        for text in ("world hello", "hello big world", "othello world", "hello worlds"):
            self.assertNotIn(hello, spelled(text), text)

    def test_few_probes(self) -> None:
        """However long a query is, few tokens are looked up: the longest, and pairs rather than
        characters."""
        query = "上海天气 a bb ccc dddd"
        self.assertEqual(
            [probe.decode() for probe in probes(phrases(query))], ["上海", "天气", "dddd", "ccc"]
        )
        self.assertEqual([p.decode() for p in probes(phrases("上海天"))], ["上海", "海天"])
        self.assertEqual([p.decode() for p in probes(phrases("上"))], ["上"])
        self.assertLessEqual(len(probes(phrases(" ".join(map(str, range(200)))))), 4)

    @given(TEXTS)
    def test_a_text_finds_itself(self, text: str) -> None:
        """Whatever is taken from a text as a query finds that text."""
        for query in (text, f'"{text}"'):
            wanted = phrases(query)
            self.assertLessEqual(set(probes(wanted)), tokens(text))
            if '"' not in text:
                self.assertTrue(all(phrase in spelled(text) for phrase in wanted))

    @given(some.lists(some.sampled_from(["上", "海", "한", "😂", "，", " ", "\n"])))
    def test_parts_of_a_text(self, parts: list[str]) -> None:
        """Any two neighbouring parts of a text are found in it."""
        text = "".join(parts)
        for first, second in pairwise(parts):
            for phrase in phrases(f'"{first}{second}"'):
                self.assertIn(phrase, spelled(text))

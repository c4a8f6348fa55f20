"""The wires alone: what they make of good and bad input, and that what they write is safe."""

from __future__ import annotations

import json
import re
from typing import Any

from msgspec import Struct, field
from twisted.trial.unittest import SynchronousTestCase

from chatd.commands.rooms import Page, RoomLine, Rooms, Synced
from chatd.dispatcher import Malformed
from chatd.errors import Refused
from chatd.frontends.websocket import frame
from chatd.wire import json as json_wire
from chatd.wire import text as text_wire
from chatd.wire.json import JsonWire
from chatd.wire.text import TextWire, visible

DIRTY = (  # what must never reach a terminal, and how it is shown
    ("\n", "\\n"),
    ("\r", "\\r"),
    ("\\", "\\\\"),
    ("\x00", "\\x00"),
    ("\x08", "\\x08"),
    ("\x1b[2J", "\\x1b[2J"),
    ("\x7f", "\\x7f"),
    ("\x9b31m", "\\x9b31m"),
    ("\x85", "\\x85"),
    ("\u2028", "\\u2028"),
    ("\u2029", "\\u2029"),
    ("\u202e", "\\u202e"),
    ("\u2066", "\\u2066"),
    ("\u061c", "\\u061c"),
)
FOUL = "".join(char for char, _ in DIRTY)


class Said(Struct):
    """A result with all that a result can hold."""

    seq: int = 1
    text: str = FOUL
    spaced: str = f"a {FOUL}"
    empty: str = ""
    absent: str | None = None
    yes: bool = True
    fields: dict[str, Any] = field(default_factory=lambda: {"a": FOUL})


def event(text: str) -> dict[str, Any]:
    """A message as the log tells it."""
    return {"event": "message", "to": "#team", "seq": 7, "from": "bob", "at": 3, "text": text}


class JsonRequests(SynchronousTestCase):
    """What JSON stands for."""

    def _refused(self, data: bytes | str, request_id: Any, *words: str) -> str:
        request = json_wire.decode(data)
        self.assertIsInstance(request, Malformed, data[:80])
        self.assertEqual(request.id, request_id, data[:80])
        self.assertEqual(request.error.code, "bad-request", data[:80])
        for word in words:
            self.assertIn(word, request.error.sentence, data[:80])
        sentence: str = request.error.sentence
        return sentence

    def test_request(self) -> None:
        """Bytes and text give the same request, its fields in any order."""
        one = json_wire.decode(b'{"cmd":"say","id":"\xe5\x88\x98","to":"@bob","text":"hi"}')
        other = json_wire.decode('{"text":"hi","to":"@bob","id":"\\u5218","cmd":"say"}')
        self.assertEqual(one, other)
        self.assertEqual((one.id, one.to, one.text), ("刘", "@bob", "hi"))

    def test_ids(self) -> None:
        """An id is a string, an integer of 64 bits, or absent; nothing else is echoed."""
        for good in (0, -1, 2**63 - 1, -(2**63), "", "x" * 1000, "\x00", None):
            request = json_wire.decode(json.dumps({"cmd": "ping", "id": good}))
            self.assertEqual(request.id, good)
        for bad in (
            "1.5",
            "1.0",
            "1e2",
            "1e400",
            "[1]",
            "{}",
            "true",
            "9" * 1000,
            "-" + "9" * 5000,
        ):
            self._refused(f'{{"cmd":"ping","id":{bad}}}', None, " in id")

    def test_the_last_of_duplicate_keys_counts(self) -> None:
        """Of two ids the last is echoed; two commands are refused."""
        self.assertEqual(json_wire.decode('{"cmd":"ping","id":1,"id":2}').id, 2)
        self._refused('{"cmd":"ping","cmd":"whoami","id":2}', 2, "whoami")

    def test_not_json(self) -> None:
        """What is no JSON is called so."""
        for data in (
            b"",
            b"{",
            b"{cmd:ping}",
            b'{"cmd":"ping"}x',
            b'{"cmd":NaN}',
            b"\x00",
            b"\xff",
        ):
            self._refused(data, None, "not JSON")
        for data in (b'{"cmd":"ping","id":"\xc0\xaf"}', b'{"cmd":"ping","id":"\xed\xa0\x80"}'):
            self._refused(data, None, "not JSON")  # overlong, a surrogate in UTF-8
        self._refused('{"cmd":"ping","id":"\\ud800"}', None, "not JSON")
        self._refused("\ud800", None, "not JSON")

    def test_depth(self) -> None:
        """Ten thousand brackets are refused wherever they stand."""
        deep = "[" * 10_000
        self._refused(deep, None, "object")
        self._refused('{"cmd":"ping","id":' + deep, None, "id")
        for data in (
            '{"a":' * 10_000,
            '{"cmd":"ping","x":' + deep,
            '{"cmd":"sync","since":' + deep,
        ):
            self._refused(data, None)

    def test_the_sentence_is_short_and_clean(self) -> None:
        """What a client sent is quoted short, without control characters or direction marks."""
        for name in ("a\\u001b[31m", "\\u0000", "\\u202e", "\\n", "x" * 60_000):
            sentence = self._refused(f'{{"cmd":"ping","id":1,"{name}":2}}', 1, "unknown field")
            self.assertTrue(sentence.isprintable(), sentence[:300])
            self.assertLess(len(sentence), 500)

    def test_the_sentence_says_what_was_expected(self) -> None:
        """The parameter is named, and what it should be; patterns are put into words."""
        say = '{"cmd":"say","id":1,"to":"@bob","text":"hi"'
        self._refused('{"cmd":"say","id":1}', 1, "missing", "`to`", "Usage: /say TO")
        self._refused('{"cmd":"say","id":1,"to":5,"text":""}', 1, "Expected `str`", "`int`", "to")
        self._refused('{"cmd":"say","id":1,"to":"bob","text":""}', 1, "@user or #group", "in to")
        self._refused('{"cmd":"say","id":1,"to":"@bob","text":""}', 1, "length >= 1", "in text")
        self._refused(say + ',"kind":"A B"}', 1, "small letters", "in kind")
        self._refused(say + ',"key":"\\u0007"}', 1, "Control characters", "in key")
        self._refused('{"cmd":"search","id":1,"next":"x"}', 1, "earlier answer", "in next")
        self._refused('{"cmd":"rooms","id":1,"after":"x"}', 1, "earlier answer", "in after")
        react = '{"cmd":"react","id":1,"to":"@bob","seq":1,"emoji":"a b"}'
        self._refused(react, 1, "without a space", "in emoji")
        self._refused('{"cmd":"sync","id":1,"since":{"bob":1}}', 1, "@user or #group", "since")
        self._refused('{"id":1}', 1, '"cmd" is missing')
        self._refused('{"cmd":["ping"],"id":1}', 1, '"cmd" is a string')
        for data, got in (("[]", "array"), ("null", "null"), ("5", "int"), ('"x"', "str")):
            self._refused(data, None, "Expected `object`", got)

    def test_unknown_commands(self) -> None:
        """A near name is proposed, and whatever was sent is quoted short and clean."""
        for name, words in (("pingg", "Did you mean ping?"), ("x" * 60_000, "help lists")):
            found = json_wire.decode(json.dumps({"cmd": name, "id": 3}))
            self.assertEqual((found.id, found.error.code), (3, "unknown-command"))
            self.assertIn(words, found.error.sentence)
            self.assertLess(len(found.error.sentence), 200)
        for name in ("", "\x1b[2J", "\x00", "\u202e", "__class__", "help\n"):
            found = json_wire.decode(json.dumps({"cmd": name}))
            self.assertEqual(found.error.code, "unknown-command")
            self.assertTrue(found.error.sentence.isprintable())


class TypedRequests(SynchronousTestCase):
    """What a typed line stands for."""

    def _refused(self, line: str, code: str, *words: str) -> None:
        request = text_wire.decode(line)
        self.assertIsInstance(request, Malformed, line[:80])
        self.assertEqual((request.id, request.error.code), (None, code), line[:80])
        for word in words:
            self.assertIn(word, request.error.sentence, line[:80])
        self.assertTrue(request.error.sentence.isprintable(), line[:80])

    def test_parameters(self) -> None:
        """Parameters go by position or by name, and the text takes the rest of the line."""
        for line in (
            "/say #team key=k hello  there ",
            "/say key=k #team hello  there ",
            "/say  to=#team   key=k   text=hello  there ",
        ):
            said = text_wire.decode(line)
            self.assertEqual((said.to, said.key, said.text), ("#team", "k", "hello  there "), line)
        self.assertEqual(text_wire.decode("/say @bob a=b key=k").text, "a=b key=k")
        self.assertEqual(text_wire.decode("/history @bob limit=7").limit, 7)
        self.assertIs(text_wire.decode("/login a b replay=false").replay, False)
        self.assertEqual(text_wire.decode('/sync {"@bob": 3, "#team": 4}').since["#team"], 4)

    def test_quoted(self) -> None:
        """The value of a named parameter may stand in quotes, as JSON writes it; what is no
        such string is the value as it stands, as is what goes by position or to the line's end."""
        changed = text_wire.decode('/profile display="Ann \\"A\\" Lee" findable=false by the sea')
        self.assertEqual(changed.display, 'Ann "A" Lee')
        self.assertEqual((changed.findable, changed.status), (False, "by the sea"))
        for typed in ('"abc', '"a"b', '"a\\"'):
            self.assertEqual(text_wire.decode(f"/login ann password={typed}").password, typed)
        self.assertEqual(text_wire.decode('/login ann "abc"').password, '"abc"')
        self.assertEqual(text_wire.decode('/say @bob text="hi"').text, '"hi"')

    def test_no_slash(self) -> None:
        """A line without a slash, or with two, is said to wherever the session is."""
        for line, text in (("hello", "hello"), ("//etc", "/etc"), (" /x", " /x"), ("//", "/")):
            said = text_wire.decode(line)
            self.assertEqual((type(said).__name__, said.to, said.text), ("say", "", text))

    def test_json(self) -> None:
        """A line that begins with a brace is JSON."""
        self.assertEqual(text_wire.decode('{"cmd":"ping","id":4}').id, 4)
        self._refused("{", "bad-request", "not JSON")

    def test_refusals(self) -> None:
        """A line that is no request is refused with what was expected."""
        for line, code, words in (
            ("/", "unknown-command", "help lists"),
            ("/ ping", "unknown-command", "help lists"),
            ("/sy", "unknown-command", "Did you mean say?"),
            ("/ping\r", "unknown-command", "'ping\\r'"),
            ("/\x1b[2J", "unknown-command", "\\x1b"),
            ("/ping x", "bad-request", "'x' is too much. Usage: /ping"),
            ("/ping id=5", "bad-request", "'id=5' is too much"),
            ("/ping \x1b", "bad-request", "'\\x1b' is too much"),
            ("/say", "bad-request", "missing"),
            ("/say @bob", "bad-request", "`text`"),
            ("/say bob hi", "bad-request", "@user or #group"),
            ("/say @bob \x1b[2J", "bad-request", "Control characters"),
            ("a\x08", "bad-request", "Control characters"),
            ("a\x00", "bad-request", "Control characters"),
            ("/role #team bob king", "bad-request", "USER admin|member|owner"),
            ("/configure team entry=shut", "bad-request", "[entry=approval|invited|open]"),
            ("/profile language=zh_CN", "bad-request", "form that is expected in language"),
            ("/history @bob limit=x", "bad-request", "Expected `int`"),
            ("/history @bob limit=0", "bad-request", ">= 1"),
            ("/history @bob limit=201", "bad-request", "<= 200"),
            ("/history @bob limit=NaN", "bad-request", "Expected `int`"),
            ("/history @bob limit=1e400", "bad-request", "in limit"),
            ("/history @bob limit=1.5", "bad-request", "in limit"),
            ("/history @bob limit=" + "9" * 1000, "bad-request", "in limit"),
            ("/history @bob limit=" + "9" * 5000, "bad-request", "in limit"),
            ("/login a b replay=maybe", "bad-request", "Expected `bool`"),
            ("/sync {", "bad-request", "not JSON"),
            ("/sync 5", "bad-request", "Expected `object`"),
            ("/sync " + "[" * 10_000, "bad-request", "too deeply"),
            ('/sync {"@bob":' + "9" * 5000 + "}", "bad-request", "out of range"),
            ('/sync {"a\x7f":1}', "bad-request", "@user or #group"),
        ):
            self._refused(line, code, words)


class Lines(SynchronousTestCase):
    """What the text wire writes."""

    wire = TextWire()

    def _lines(self, data: bytes) -> list[str]:
        """The lines, each of which must be safe."""
        text = data.decode()
        self.assertTrue(text.endswith("\r\n"))
        lines = text.removesuffix("\r\n").split("\r\n")
        for line in lines:
            self.assertIsNone(
                re.search("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]", line), line
            )
        return lines

    def test_visible(self) -> None:
        """Everything that acts on a terminal is shown instead; all else stays, tab too."""
        for dirty, shown in DIRTY:
            self.assertEqual(visible(f"a{dirty}b"), f"a{shown}b")
        for clean in ("a\tb", "刘备", "e\u0301", "\u200d", "שלום", "/:;\"'"):
            self.assertEqual(visible(clean), clean)

    def test_message(self) -> None:
        """A message is one line, whatever its text holds."""
        self.assertEqual(self.wire.event(event("a\nb\\")), b"* #team 7 <bob> a\\nb\\\\\r\n")
        (line,) = self._lines(self.wire.event(event(FOUL)))
        self.assertTrue(line.startswith("* #team 7 <bob> \\n\\r\\\\\\x00"), line)

    def test_forgery(self) -> None:
        """No text can forge an answer, or another's message."""
        lines = self._lines(self.wire.event(event("x\r\n+OK seq=1\r\n* #team 8 <alice> y")))
        self.assertEqual(len(lines), 1)

    def test_reply(self) -> None:
        """A reply is one +OK line with the fields that have a value."""
        (line,) = self._lines(self.wire.reply(None, Said()))
        self.assertTrue(line.startswith("+OK seq=1 text="), line)
        self.assertIn(' empty="" yes=true fields={', line)
        self.assertNotIn("absent", line)

    def test_list(self) -> None:
        """Each element of a list has a line of its own before the only +OK line."""
        last = event("+OK\n-ERR " + FOUL)
        rooms = Rooms(
            [RoomLine("#team", "group", FOUL, 7, 6, 5, 1, 0, False, 0, "all", False, last)] * 2
        )
        page = Page([event(FOUL), {**event(""), "event": "joined"}], True)
        synced = Synced([event(FOUL)], False, {"@" + FOUL: "not-found"})
        for result, elements in ((rooms, 2), (page, 2), (synced, 1)):
            lines = self._lines(self.wire.reply(None, result))
            self.assertEqual([line[:2] for line in lines], ["= "] * elements + ["+O"])
        self.assertEqual(lines[-1][:4], "+OK ")

    def test_error(self) -> None:
        """A refusal is one -ERR line with its code, sentence and when to come back."""
        plain = self.wire.error(7, Refused("exists", "The name is taken."))
        self.assertEqual(plain, b"-ERR exists The name is taken.\r\n")
        busy = self.wire.error(None, Refused("unavailable", "Later.", 1.5))
        self.assertEqual(busy, b"-ERR unavailable Later. retry_after=1.5\r\n")
        (line,) = self._lines(self.wire.error(None, Refused("not-found", FOUL)))
        self.assertTrue(line.startswith("-ERR not-found \\n"), line)


class Json(SynchronousTestCase):
    """What the JSON wire writes."""

    wire = JsonWire(lambda payload: payload + b"\n")

    def test_reply(self) -> None:
        """A reply repeats the id; without an id there is none."""
        result = Rooms([])
        for request_id in (7, "刘\n\x00", 0, "", -(2**63)):
            reply = json.loads(self.wire.reply(request_id, result))
            self.assertEqual(reply, {"reply": request_id, "ok": True, "rooms": []})
        self.assertEqual(self.wire.reply(None, result), b"")
        self.assertEqual(json.loads(self.wire.reply(1, Struct())), {"reply": 1, "ok": True})

    def test_error(self) -> None:
        """A refusal repeats the id, or has null; it says when to come back, if ever."""
        refused = json.loads(self.wire.error(None, Refused("exists", "Taken.")))
        expected = {"reply": None, "ok": False, "error": "exists", "message": "Taken."}
        self.assertEqual(refused, expected)
        later = json.loads(self.wire.error("a", Refused("unavailable", "Later.", 1.5)))
        self.assertEqual((later["reply"], later["retry_after"]), ("a", 1.5))

    def test_one_line(self) -> None:
        """An event is one line without raw control characters, whatever its text holds."""
        line = self.wire.event(event(FOUL))
        self.assertEqual(line.count(b"\n"), 1)
        self.assertIsNone(re.search(rb"[\x00-\x1f]", line[:-1]))
        self.assertEqual(json.loads(line), event(FOUL))


class FrameHeaders(SynchronousTestCase):
    """The frame around a payload (RFC 6455 §5.2)."""

    def test_sizes(self) -> None:
        """The length has 7, 16 or 64 bits, whichever is the least that holds it."""
        for size, head in (
            (0, b"\x81\x00"),
            (1, b"\x81\x01"),
            (125, b"\x81\x7d"),
            (126, b"\x81\x7e\x00\x7e"),
            (65535, b"\x81\x7e\xff\xff"),
            (65536, b"\x81\x7f\x00\x00\x00\x00\x00\x01\x00\x00"),
        ):
            self.assertEqual(frame(b"x" * size), head + b"x" * size)

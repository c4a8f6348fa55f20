"""Bad input at every front end: each gets its answer, the session goes on or is closed with a
code, nothing is logged as a fault, nobody else notices."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.task import Clock
from twisted.logger import LogEvent, LogLevel, globalLogPublisher

from chatd.frontends.web import WebFactory
from chatd.settings import Limits
from tests.bed import UPGRADE, CalmCase, Client, Frames, Http, Lines, NodeCase, masked

DEEP = b"[" * 10_000
DIGITS = b"9" * 1000
PING = b'{"cmd":"ping","id":"still there"}'

# JSON objects, as a frame or as a line: (what, request, error code, id in the reply, a word of
# the sentence). The session is logged in.
REQUESTS: tuple[tuple[str, bytes, str, Any, str], ...] = (
    ("not JSON", b"{cmd: ping}", "bad-request", None, "not JSON"),
    ("cut off", b'{"cmd":"ping","id":1', "bad-request", None, "not JSON"),
    ("more behind it", b'{"cmd":"ping","id":1} x', "bad-request", None, "not JSON"),
    ("two objects", b'{"cmd":"ping","id":1}{"cmd":"ping","id":2}', "bad-request", None, "not JSON"),
    ("empty", b"{}", "bad-request", None, '"cmd" is missing'),
    ("deep id", b'{"cmd":"ping","id":' + DEEP, "bad-request", None, "id"),
    ("deep field", b'{"cmd":"ping","id":1,"x":' + DEEP, "bad-request", None, "x"),
    ("deep objects", b'{"x":' * 4000, "bad-request", None, "too deeply"),
    ("huge id", b'{"cmd":"ping","id":' + DIGITS + b"}", "bad-request", None, "in id"),
    ("huge field", b'{"cmd":"read","id":1,"to":"@a","seq":%s}' % DIGITS, "bad-request", 1, "seq"),
    ("huger", b'{"cmd":"read","id":1,"to":"@a","seq":%s}' % (DIGITS * 5), "bad-request", 1, "seq"),
    ("huge cmd", b'{"cmd":' + DIGITS + b',"id":1}', "bad-request", 1, '"cmd" is a string'),
    ("1e400", b'{"cmd":"read","id":1,"to":"@a","seq":1e400}', "bad-request", 1, "seq"),
    ("1e400 as id", b'{"cmd":"ping","id":1e400}', "bad-request", None, "in id"),
    ("NaN", b'{"cmd":"ping","id":NaN}', "bad-request", None, "not JSON"),
    ("Infinity", b'{"cmd":"read","id":1,"to":"@a","seq":-Infinity}', "bad-request", None, "JSON"),
    ("id: float", b'{"cmd":"ping","id":1.5}', "bad-request", None, "in id"),
    ("id: list", b'{"cmd":"ping","id":[1]}', "bad-request", None, "in id"),
    ("id: object", b'{"cmd":"ping","id":{"a":1}}', "bad-request", None, "in id"),
    ("id: bool", b'{"cmd":"ping","id":true}', "bad-request", None, "in id"),
    ("wrong type", b'{"cmd":"read","id":1,"to":"@a","seq":"5"}', "bad-request", 1, "`int`"),
    ("null", b'{"cmd":"read","id":1,"to":null,"seq":5}', "bad-request", 1, "`str`"),
    ("below the range", b'{"cmd":"read","id":1,"to":"@a","seq":-1}', "bad-request", 1, ">= 0"),
    ("over the range", b'{"cmd":"history","id":1,"to":"@a","limit":201}', "bad-request", 1, "200"),
    ("cmd: null", b'{"cmd":null,"id":1}', "bad-request", 1, '"cmd" is missing'),
    ("cmd: list", b'{"cmd":["ping"],"id":1}', "bad-request", 1, '"cmd" is a string'),
    ("two cmds", b'{"cmd":"ping","id":1,"cmd":"whoami"}', "bad-request", 1, "whoami"),
    ("unknown", b'{"cmd":"pingg","id":1}', "unknown-command", 1, "Did you mean ping?"),
    ("private", b'{"cmd":"__init__","id":1}', "unknown-command", 1, "__init__"),
    ("ESC in cmd", b'{"cmd":"\\u001b[2J","id":1}', "unknown-command", 1, "\\x1b[2J"),
    ("missing", b'{"cmd":"say","id":1,"to":"@alice"}', "bad-request", 1, "`text`"),
    ("surplus", b'{"cmd":"ping","id":1,"x\\u001b":1}', "bad-request", 1, "`x\\x1b`"),
    ("NUL", b'{"cmd":"ping","id":"\x00"}', "bad-request", None, "not JSON"),
    ("lone surrogate", b'{"cmd":"ping","id":"\\ud800"}', "bad-request", None, "not JSON"),
    ("\\u0000", b'{"cmd":"say","id":1,"to":"@a","text":"\\u0000"}', "bad-request", 1, "Control"),
    ("ESC", b'{"cmd":"say","id":1,"to":"@a","text":"\\u001b[2J"}', "bad-request", 1, "in text"),
    ("backspace", b'{"cmd":"say","id":1,"to":"@a","text":"a\\b"}', "bad-request", 1, "in text"),
    ("C1", b'{"cmd":"say","id":1,"to":"@a","text":"\xc2\x9b2J"}', "bad-request", 1, "in text"),
    ("empty text", b'{"cmd":"say","id":1,"to":"@a","text":""}', "bad-request", 1, ">= 1"),
    ("no address", b'{"cmd":"say","id":1,"to":"a","text":"x"}', "bad-request", 1, "@user"),
    ("bare @", b'{"cmd":"say","id":1,"to":"@","text":"x"}', "bad-request", 1, "@user"),
    ("ESC in to", b'{"cmd":"say","id":1,"to":"@\\u001b","text":"x"}', "bad-request", 1, "@user"),
    ("no name", b'{"cmd":"say","id":1,"to":"@a!","text":"x"}', "bad-request", 1, "A name is"),
    ("key in sync", b'{"cmd":"sync","id":1,"since":{"a":1}}', "bad-request", 1, "@user or #group"),
    ("both", b'{"cmd":"history","id":1,"to":"@a","before":1,"after":1}', "bad-request", 1, "both"),
)

# Of the other kinds of JSON, as a frame: on the line they are something to say.
OTHER_JSON: tuple[tuple[str, bytes, str], ...] = (
    ("nothing", b"", "not JSON"),
    ("blank", b" ", "not JSON"),
    ("null", b"null", "Expected `object`"),
    ("number", b"5", "Expected `object`"),
    ("digits", DIGITS * 5, "out of range"),
    ("string", b'"ping"', "Expected `object`"),
    ("list", b'["ping"]', "Expected `object`"),
    ("brackets", DEEP, "Expected `object`"),
    ("words", b"/ping", "not JSON"),
    ("byte order mark", b"\xef\xbb\xbf" + PING, "not JSON"),
)

# Typed lines: (what, line, error code, a word of the sentence). The session is logged in.
LINES: tuple[tuple[str, bytes, str, str], ...] = (
    ("unknown", b"/sy", "unknown-command", "Did you mean say?"),
    ("nameless", b"/", "unknown-command", "help lists"),
    ("missing", b"/say @alice", "bad-request", "`text`"),
    ("surplus", b"/ping x", "bad-request", "too much"),
    ("unknown name", b"/ping x=1", "bad-request", "too much"),
    ("wrong type", b"/history @alice limit=x", "bad-request", "`int`"),
    ("huge", b"/history @alice limit=" + DIGITS, "bad-request", "in limit"),
    ("huger", b"/history @alice limit=" + DIGITS * 5, "bad-request", "in limit"),
    ("1e400", b"/history @alice limit=1e400", "bad-request", "in limit"),
    ("NaN", b"/history @alice limit=NaN", "bad-request", "in limit"),
    ("deep", b"/sync " + DEEP, "bad-request", "too deeply"),
    ("not JSON", b"/sync {a", "bad-request", "not JSON"),
    ("NUL", b"a\x00b", "bad-request", "Control"),
    ("ESC", b"/say @alice \x1b[2J", "bad-request", "Control"),
    ("backspace", b"helo\x08lo", "bad-request", "Control"),
    ("C1", b"\xc2\x9b2J", "bad-request", "Control"),
    ("ESC in a name", b"/help \x1b[2J", "not-found", "help alone"),
    ("ESC in a command", b"/\x1b[2J", "unknown-command", "\\x1b"),
    ("ESC in an address", b"/history @\x1b[2J", "bad-request", "@user or #group"),
    ("CR inside a command", b"/ping\r\r\n/ping", "unknown-command", "ping\\\\r"),
    ("no UTF-8", b"caf\xe9", "bad-request", "byte 4"),
    ("overlong", b"\xc0\xaf", "bad-request", "UTF-8"),
    ("surrogate", b"\xed\xa0\x80", "bad-request", "UTF-8"),
    ("beyond Unicode", b"\xf4\x90\x80\x80", "bad-request", "UTF-8"),
    ("UTF-8 cut off", b"/help \xe5\x88", "bad-request", "UTF-8"),
    ("binary", bytes(range(128, 255)), "bad-request", "UTF-8"),
)

# Bodies for the HTTP API: (what, command, body, status, error code, a word of the sentence).
POSTS: tuple[tuple[str, str, bytes, int, str, str], ...] = (
    ("unknown command", "pingg", b"{}", 404, "unknown-command", "Did you mean ping?"),
    ("no command", "", b"{}", 404, "unknown-command", "help lists"),
    ("deeper path", "ping/x", b"{}", 404, "unknown-command", "ping/x"),
    ("escaped path", "%ff%00%1b", b"{}", 404, "unknown-command", "help lists"),
    ("not JSON", "ping", b"x", 400, "bad-request", "not JSON"),
    ("cut off", "ping", b"{", 400, "bad-request", "not JSON"),
    ("list", "ping", b"[]", 400, "bad-request", "Expected `object`"),
    ("null", "ping", b"null", 400, "bad-request", "Expected `object`"),
    ("deep", "ping", b'{"x":' + DEEP, 400, "bad-request", "x"),
    ("deep since", "sync", b'{"since":' + b'{"@a":' * 10_000, 400, "bad-request", "Expected"),
    ("huge", "read", b'{"to":"@a","seq":%s}' % DIGITS, 400, "bad-request", "in seq"),
    ("huger", "read", b'{"to":"@a","seq":%s}' % (DIGITS * 5), 400, "bad-request", "in seq"),
    ("1e400", "read", b'{"to":"@a","seq":1e400}', 400, "bad-request", "in seq"),
    ("NaN", "read", b'{"to":"@a","seq":NaN}', 400, "bad-request", "not JSON"),
    ("no UTF-8", "help", b'{"command":"\xff"}', 400, "bad-request", "not JSON"),
    ("lone surrogate", "help", b'{"command":"\\ud800"}', 400, "bad-request", "not JSON"),
    ("missing", "history", b"{}", 400, "bad-request", "`to`"),
    ("surplus", "ping", b'{"x\\u001b":1}', 400, "bad-request", "`x\\x1b`"),
    ("another command", "ping", b'{"cmd":"whoami"}', 400, "bad-request", "whoami"),
    ("ESC", "say", b'{"to":"@a","text":"\\u001b"}', 400, "bad-request", "Control"),
    ("bad name", "register", b'{"name":"a b","password":"x"}', 400, "bad-request", "A name is"),
    ("nobody", "rooms", b"{}", 401, "unauthorized", "Log in first."),
)

# Frames that end a session: (what, bytes, close code).
FATAL: tuple[tuple[str, bytes, int], ...] = (
    ("not masked", b"\x81\x02{}", 1002),
    ("RSV1", masked(PING, rsv=4), 1002),
    ("RSV2", masked(PING, rsv=2), 1002),
    ("RSV3", masked(PING, rsv=1), 1002),
    *((f"opcode {code}", masked(PING, code), 1002) for code in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)),
    ("continuation of nothing", masked(PING, 0), 1002),
    ("message inside a message", masked(b"{", fin=False) + masked(PING), 1002),
    ("fragmented ping", masked(b"x", 9, fin=False), 1002),
    ("long ping", masked(b"x" * 126, 9), 1002),
    ("long close", masked(b"\x03\xe8" + b"x" * 124, 8), 1002),
    ("size in too many bytes", b"\x81\xfe\x00\x02\0\0\0\0{}", 1002),
    ("size in far too many bytes", b"\x81\xff\0\0\0\0\0\0\0\x02\0\0\0\0{}", 1002),
    ("size beyond 63 bits", b"\x81\xff\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\0", 1002),
    ("half a close code", masked(b"\x03", 8), 1002),
    *(
        (f"close code {code}", masked(code.to_bytes(2, "big"), 8), 1002)
        for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2999, 5000, 65535)
    ),
    ("close reason", masked(b"\x03\xe8\xff", 8), 1007),
    ("no UTF-8", masked(b'{"cmd":"\xff"}'), 1007),
    ("overlong", masked(b"\xc0\xaf"), 1007),
    ("surrogate", masked(b"\xed\xa0\x80"), 1007),
    ("UTF-8 cut off", masked(b"\xe5\x88"), 1007),
    ("UTF-8 cut off in a fragment", masked(b"\xe5", fin=False) + masked(b"\xff", 0), 1007),
    ("frame over the limit", masked(PING.ljust(65_537)), 1009),
    ("head of a huge frame", b"\x81\xff\0\0\0\x01\0\0\0\0\0\0\0\0", 1009),
    ("message over the limit", masked(b" " * 65_536, fin=False) + masked(b"x", 0), 1009),
)

NEGOTIATIONS = (  # of telnet (RFC 854, 855, 1073)
    b"\xff\xfb\x01",  # WILL ECHO
    b"\xff\xfc\x01",  # WONT
    b"\xff\xfd\x0a",  # DO, an option that is the byte LF
    b"\xff\xfe\xff",  # DONT, an option that is the byte IAC
    b"\xff\xfa\x1f\x00\x0a\x00\x0d\xff\xf0",  # SB NAWS, 10 columns and 13 rows
    b"\xff\xfa\x18\x00xterm\xff\xff\xf0\xff\xf0",  # SB TERMINAL-TYPE with an IAC in its data
    b"\xff\xf1",  # NOP
    b"\xff\xff",  # the byte 255, which UTF-8 does not have
    b"\xff\xf4\xff\xfd\x06",  # IP, DO TIMING-MARK: what telnet sends for Ctrl-C
)
TIMING_MARK, NO_MARK = b"\xff\xfd\x06", b"\xff\xfc\x06\xff\xfd\x00"


class BadInput(CalmCase):
    """Sends bad input, then looks who is still there."""

    def setUp(self) -> None:
        super().setUp()
        self.witness = self.frames()

    def flush(self) -> None:
        """What the sessions have been answered leaves."""
        self.node.hub.flush()

    def frames_of(self, client: Frames) -> list[tuple[int, bytes]]:
        """The frames that the client has got."""
        self.flush()
        found = []
        while client.received:
            found.append(self.successResultOf(client.next_frame()))
        return found

    def one_reply(self, client: Frames, what: str) -> dict[str, Any]:
        """The one reply that the client has got."""
        ((opcode, payload),) = self.frames_of(client)
        self.assertEqual(opcode, 1, what)
        reply: dict[str, Any] = json.loads(payload)
        return reply

    def one_line(self, client: Lines, what: str) -> str:
        """The one line that the client has got."""
        self.flush()
        line = self.successResultOf(client.next())
        self.assertEqual(client.received, b"", what)
        return line

    def check_refusal(self, reply: dict[str, Any], code: str, words: str, what: str) -> None:
        """The reply is a refusal in a sentence that can be shown to people."""
        self.assertIs(reply["ok"], False, what)
        self.assertEqual(reply["error"], code, (what, reply))
        self.assertIn(words, reply["message"], what)
        self.assertTrue(reply["message"].isprintable(), what)
        self.assertRegex(reply["message"], r"^[A-Z\"'].*\S$", what)

    def goes_on(self, client: Client, what: str) -> None:
        """The client's session answers a ping, and so does the witness, who got nothing else."""
        self.assertFalse(client.closed, what)
        if isinstance(client, Frames):
            client.frame(PING)
            self.assertEqual(self.one_reply(client, what)["reply"], "still there", what)
        if isinstance(client, Lines):
            client.line("/ping")
            self.assertTrue(self.one_line(client, what).startswith("+OK at="), what)
        self.untouched(what)

    def untouched(self, what: str) -> None:
        """The witness answers a ping and got nothing else; no fault was logged."""
        self.assertEqual(self.frames_of(self.witness), [], what)
        self.witness.frame(PING)
        reply = self.one_reply(self.witness, what)
        self.assertEqual((reply["reply"], reply["ok"]), ("still there", True), what)
        self.calm()

    def closed_with(self, client: Frames, code: int, what: str) -> None:
        """The server closes with that code and a reason, and the connection ends when the
        client answers."""
        (*_, (opcode, payload)) = self.frames_of(client)
        found = int.from_bytes(payload[:2], "big")
        self.assertEqual((opcode, found), (8, code), what)
        self.assertTrue(payload[2:].decode().isprintable() and payload[2:], what)
        if not client.closed:
            client.frame(payload[:2], 8)
        self.assertTrue(client.closed, what)
        self.untouched(what)


class JsonRequests(BadInput):
    """The same bad JSON as frames and as lines."""

    limits = Limits(line_bytes=65_536, mistakes_per_minute=10_000)

    async def test_frames(self) -> None:
        """Each bad request in a text frame is refused with its id; the session goes on."""
        client = await self.user("alice")
        others = tuple((*row[:2], "bad-request", None, row[2]) for row in OTHER_JSON)
        for what, request, code, request_id, words in REQUESTS + others:
            client.frame(request)
            reply = self.one_reply(client, what)
            self.check_refusal(reply, code, words, what)
            self.assertEqual(reply["reply"], request_id, what)
            self.goes_on(client, what)

    async def test_fragments(self) -> None:
        """The same, in fragments: what is not read by the short way is answered alike."""
        client = await self.user("alice")
        for what, request, code, request_id, words in REQUESTS:
            half = len(request) // 2
            client.frame(request[:half], 1, fin=False)
            client.frame(request[half:], 0)
            reply = self.one_reply(client, what)
            self.check_refusal(reply, code, words, what)
            self.assertEqual(reply["reply"], request_id, what)
            self.goes_on(client, what)

    async def test_lines(self) -> None:
        """Each bad request as a JSON line is refused in one JSON line; the session goes on."""
        client = await self.user("alice", self.lines())
        for what, request, code, request_id, words in REQUESTS:
            client.send(request + b"\r\n")
            reply = json.loads(self.one_line(client, what))
            self.check_refusal(reply, code, words, what)
            self.assertEqual(reply["reply"], request_id, what)
            self.goes_on(client, what)

    async def test_without_id(self) -> None:
        """A request without an id gets no reply, but for errors."""
        client = await self.user("alice")
        client.frame(b'{"cmd":"ping"}')
        self.assertEqual(self.frames_of(client), [])
        client.frame(b'{"cmd":"pingg"}')
        self.assertIsNone(self.one_reply(client, "unknown")["reply"])
        client.frame(b'{"cmd":"history","to":"@nobody","before":1,"after":2}')
        self.assertIsNone(self.one_reply(client, "refused by the command")["reply"])

    def test_duplicate_ids(self) -> None:
        """Of two ids the last is echoed, once."""
        client = self.frames()
        client.frame(b'{"cmd":"ping","id":1,"id":2}')
        self.assertEqual(self.one_reply(client, "two ids")["reply"], 2)

    async def test_many(self) -> None:
        """A thousand bad requests in one chunk are answered one by one, in their order, and
        not all in one turn: others are served in between."""
        client = self.frames()
        client.send(b"".join(masked(b'{"cmd":"x","id":%d}' % n) for n in range(1000)))
        self.assertTrue(client.transport.paused)
        self.untouched("amid many")
        replies = [await client.next() for _ in range(1000)]
        self.assertEqual([reply["reply"] for reply in replies], list(range(1000)))
        self.goes_on(client, "many")


class TypedLines(BadInput):
    """Bad lines at the line front end."""

    limits = Limits(line_bytes=16_384, mistakes_per_minute=10_000)

    async def test_lines(self) -> None:
        """Each bad line is refused in one -ERR line; the session goes on."""
        client = await self.user("alice", self.lines())
        for what, line, code, words in LINES:
            client.send(line.partition(b"\n")[0] + b"\n")
            refusal = self.one_line(client, what)
            self.assertTrue(refusal.startswith(f"-ERR {code} "), (what, refusal))
            self.assertIn(words, refusal, what)
            self.assertTrue(refusal.isprintable(), what)
            self.goes_on(client, what)

    def test_nobody(self) -> None:
        """One who is not logged in is told so, whatever the line without a slash is."""
        client = self.lines()
        for line in ("hello", "//", " ", "\t", "刘"):
            client.line(line)
            refusal = self.one_line(client, line)
            self.assertEqual(refusal, "-ERR unauthorized Log in first.")
            self.goes_on(client, line)

    def test_blank(self) -> None:
        """Blank lines are passed over, however they end."""
        client = self.lines()
        client.send(b"\n\r\n\n\n\r\n")
        self.flush()
        self.assertEqual(client.received, b"")
        self.goes_on(client, "blank")

    def test_carriage_return_alone(self) -> None:
        """A carriage return alone ends no line; at the end of one, one of it is dropped."""
        client = self.lines()
        client.send(b"/ping\r")
        self.flush()
        self.assertEqual(client.received, b"")
        client.send(b"\n")
        self.assertTrue(self.one_line(client, "CR, then LF").startswith("+OK at="))
        client.send(b"/help\r/ping\r\n")
        self.assertIn("'help\\\\r/ping'", self.one_line(client, "CR inside"))
        self.goes_on(client, "CR")

    def test_broken_utf8_in_json(self) -> None:
        """A JSON line that is not UTF-8 is refused in JSON, also when the events are text."""
        client = self.lines()
        client.send(b'{"cmd":"ping","id":"\xe9"}\n')
        reply = json.loads(self.one_line(client, "no UTF-8"))
        self.check_refusal(reply, "bad-request", "UTF-8", "no UTF-8")
        self.goes_on(client, "no UTF-8")

    def test_cut_at_every_byte(self) -> None:
        """A line is the same wherever it is cut, within a character too."""
        client = self.lines()
        line = "/刘备ß\r\n".encode()
        for cut in range(len(line) + 1):
            client.send(line[:cut])
            client.send(line[cut:])
            self.assertIn("'刘备ß'", self.one_line(client, f"cut at {cut}"))
        for byte in line:
            client.send(bytes([byte]))
        self.assertIn("'刘备ß'", self.one_line(client, "byte by byte"))
        self.goes_on(client, "cut")

    def test_negotiation(self) -> None:
        """Telnet's negotiation is passed over wherever it stands and wherever it is cut; of
        it, only a timing mark is answered, once."""
        client = self.lines()
        line = "/刘备\r\n".encode()
        for negotiation in NEGOTIATIONS:
            for place in range(len(line)):
                whole = line[:place] + negotiation + line[place:]
                for cut in range(len(whole)):
                    client.send(whole[:cut])
                    client.send(whole[cut:])
                    marks = client.received.count(NO_MARK)
                    self.assertEqual(marks, TIMING_MARK in negotiation, f"{whole!r} cut at {cut}")
                    client.received = client.received.replace(NO_MARK, b"")
                    answer = self.one_line(client, f"{whole!r} cut at {cut}")
                    self.assertIn("no command '刘备'", answer, f"{whole!r} cut at {cut}")
        for byte in b"".join(NEGOTIATIONS) + line:
            client.send(bytes([byte]))
        client.received = client.received.replace(NO_MARK, b"")
        self.assertIn("no command '刘备'", self.one_line(client, "byte by byte"))
        self.goes_on(client, "negotiation")


class LineLimit(BadInput):
    """The limit on a line."""

    def _too_long(self, client: Lines, what: str) -> None:
        self.assertEqual(
            self.one_line(client, what), "-ERR too-large A line has at most 8192 bytes."
        )
        self.assertTrue(client.closed, what)
        self.untouched(what)

    def test_exactly(self) -> None:
        """A line of 8192 bytes is a line, whatever ends it and wherever it is cut."""
        client = self.lines()
        line = b"/" + b"x" * 8191
        for chunks in ((line + b"\n",), (line + b"\r\n",), (line, b"\r", b"\n"), (line, b"\n")):
            for chunk in chunks:
                client.send(chunk)
            self.assertIn("-ERR unknown-command", self.one_line(client, str(len(chunks))))
            self.goes_on(client, "8192")

    def test_one_more(self) -> None:
        """With one byte more, ended or not, the line is refused and the connection closed."""
        line = b"/" + b"x" * 8192
        for chunks in ((line + b"\n",), (line + b"\r\n",), (line,), (line[:8000], line[8000:])):
            client = self.lines()
            for chunk in chunks:
                client.send(chunk)
            self._too_long(client, str(len(chunks)))

    def test_json(self) -> None:
        """A JSON line that is too long is refused in JSON, then the connection is closed."""
        for end in (b"", b'"}\n'):
            client = self.lines()
            client.send(b'{"cmd":"help","id":1,"command":"' + b"x" * 8192 + end)
            reply = json.loads(self.one_line(client, "JSON"))
            self.check_refusal(reply, "too-large", "8192 bytes", "JSON")
            self.assertTrue(client.closed)
        self.untouched("JSON")

    def test_what_is_behind(self) -> None:
        """Lines before the one that is too long are answered, those behind it are not."""
        client = self.lines()
        client.send(b"/sy\n" + b"x" * 8193 + b"\n/sy\n")
        self.flush()
        first, second, rest = client.received.split(b"\r\n")
        self.assertEqual((first[:20], second[:14]), (b"-ERR unknown-command", b"-ERR too-large"))
        self.assertEqual(rest, b"")
        self.untouched("behind")

    def test_endless_negotiation(self) -> None:
        """A negotiation that never ends is a line that is too long, not one to look through
        again and again."""
        for negotiation in (b"\xff\xfa", b"\xff\xfa\n", b"\xff\xfa\xff\xff"):
            client = self.lines()
            client.send(negotiation * 50_000)
            self._too_long(client, repr(negotiation))
        client = self.lines()
        client.send(b"\xff\xfa" + b"\n" * 8190)
        client.send(b"\n")
        self._too_long(client, "in pieces")


class Framing(BadInput):
    """Frames that are broken, cut, fragmented or at the limit."""

    def test_fatal(self) -> None:
        """A frame that breaks the framing or a limit closes the connection with the code for
        it, and no request behind it is answered."""
        for what, data, code in FATAL:
            client = self.frames()
            client.send(data + masked(PING))
            for opcode, payload in self.frames_of_all_but_close(client, what):
                self.fail(f"{what}: {opcode} {payload!r}")
            self.closed_with(client, code, what)

    def frames_of_all_but_close(self, client: Frames, what: str) -> list[tuple[int, bytes]]:
        """The frames before the last, which stays to be read."""
        found = self.frames_of(client)
        self.assertTrue(found, what)
        opcode, payload = found[-1]
        client.received = bytes([0x80 | opcode, len(payload)]) + payload
        return found[:-1]

    def test_answers_before_the_close(self) -> None:
        """What was asked before the fatal frame is answered before the close, behind which
        nothing may come (RFC 6455 §5.5.1)."""
        for what, data, code in FATAL:
            client = self.frames()
            client.send(masked(PING) + data)
            frames = self.frames_of(client)
            self.assertEqual([opcode for opcode, _ in frames], [1, 8], what)
            self.assertEqual(int.from_bytes(frames[1][1][:2], "big"), code, what)
            client.vanish()
        self.untouched("answers")

    def test_fatal_in_bytes(self) -> None:
        """The same when the bytes come one by one."""
        for what, data, code in FATAL:
            if len(data) > 200:
                continue
            client = self.frames()
            for byte in data:
                if not client.closed:
                    client.send(bytes([byte]))
            self.closed_with(client, code, what)

    def test_close(self) -> None:
        """A proper close is answered with the same, and the connection ends."""
        closes = [code.to_bytes(2, "big") for code in (1000, 1001, 1003, 1007, 1011, 3000, 4999)]
        for close in (b"", *closes, *(close + "tschüß".encode() for close in closes)):
            client = self.frames()
            client.frame(close, 8)
            self.assertEqual(self.frames_of(client), [(8, close)])
            self.assertTrue(client.closed)
        self.untouched("close")

    def test_close_that_is_not_answered(self) -> None:
        """A client that does not answer the close is dropped."""
        clock = Clock()
        patched = self.patch(self.node, "clock", clock)
        try:
            client = self.frames()
            client.frame(b"", 3)
        finally:
            patched.restore()  # the node stops by the real one
        self.assertFalse(client.closed)
        clock.advance(3)
        self.assertTrue(client.closed)
        self.untouched("no answer")

    def test_binary(self) -> None:
        """A binary frame is refused, whatever is in it; the session goes on."""
        client = self.frames()
        for payload in (b"", b"\x00\xff\x1b", PING, b"\xc0\xaf", b"x" * 65_536):
            client.frame(payload, 2)
            reply = self.one_reply(client, "binary")
            self.check_refusal(reply, "bad-request", "text frame", "binary")
            self.assertIsNone(reply["reply"])
            self.goes_on(client, "binary")

    def test_limit(self) -> None:
        """A frame of exactly the limit is taken, whole or in fragments or cut."""
        client = self.frames()
        request = PING.ljust(65_536)
        data = masked(request)
        for chunks in (
            (data,),
            (data[:1], data[1:]),
            (data[:-1], data[-1:]),
            (masked(request[:40_000], 1, fin=False), masked(request[40_000:], 0)),
        ):
            for chunk in chunks:
                client.send(chunk)
            self.assertEqual(self.one_reply(client, "limit")["reply"], "still there")
        self.goes_on(client, "limit")

    def test_cut_at_every_byte(self) -> None:
        """A frame is the same wherever it is cut, within a character too, whatever its size
        is written in."""
        client = self.frames()
        for size in (60, 126, 200):
            request = '{"cmd":"help","id":"刘","command":"刘备"}'.encode().ljust(size)
            data = masked(request)
            for cut in range(len(data) + 1):
                client.send(data[:cut])
                client.send(data[cut:])
                reply = self.one_reply(client, f"cut at {cut}")
                self.assertEqual((reply["reply"], reply["error"]), ("刘", "not-found"), cut)
            two = data + masked(request)
            for cut in range(len(two) + 1):
                client.send(two[:cut])
                client.send(two[cut:])
                self.assertEqual(len(self.frames_of(client)), 2, f"two, cut at {cut}")
        self.goes_on(client, "cut")

    def test_fragments(self) -> None:
        """A message in frames of one byte, of none, and with pings in between, is one
        request; the pings are answered at once."""
        client = self.frames()
        request = '{"cmd":"help","id":"刘","command":"刘备"}'.encode()
        client.frame(b"", 1, fin=False)
        for byte in request:
            client.frame(bytes([byte]), 0, fin=False)
            client.frame(b"", 0, fin=False)
            client.frame(bytes([byte]), 9)
            self.assertEqual(self.frames_of(client), [(10, bytes([byte]))])
        client.frame(b"", 0)
        reply = self.one_reply(client, "fragments")
        self.assertEqual((reply["reply"], reply["error"]), ("刘", "not-found"))
        self.goes_on(client, "fragments")

    def test_pongs(self) -> None:
        """Pongs that nobody asked for are passed over; pings of 0 and 125 bytes answered."""
        client = self.frames()
        client.frame(b"", 10)
        client.frame(b"x" * 125, 10)
        self.assertEqual(self.frames_of(client), [])
        client.frame(b"", 9)
        client.frame(b"x" * 125, 9)
        self.assertEqual(self.frames_of(client), [(10, b""), (10, b"x" * 125)])
        self.goes_on(client, "pongs")


class SmallFrames(BadInput):
    """A limit on frames that those read by the short way can pass."""

    limits = Limits(frame_bytes=512)

    def test_limit(self) -> None:
        """A whole text frame of exactly the limit is taken; one of a byte more is fatal."""
        client = self.frames()
        client.frame(PING.ljust(512))
        self.assertEqual(self.one_reply(client, "limit")["reply"], "still there")
        client.frame(PING.ljust(513))
        self.closed_with(client, 1009, "one more")


class Names(BadInput):
    """Names and texts at their limits."""

    def test_bad(self) -> None:
        """What cannot be a name is refused on every wire; the sentence says what can."""
        frames, lines = self.frames(), self.lines()
        for name in (
            "x" * 33,
            "刘" * 33,
            "a b",
            "a!",
            "@a",
            "a\x08",
            "\x1b[2J",
            "a\x00",
            "\u202ea",
            "\u200ba",
            "\u0301a",  # a mark without a letter
            "a\n",
            "😀",
            "\ufdfa" * 2,  # 18 letters each, when normalised
        ):
            for command in ("register", "login"):
                request = {"cmd": command, "id": 1, "name": name, "password": "x"}
                frames.frame(json.dumps(request).encode())
                reply = self.one_reply(frames, ascii(name))
                self.check_refusal(reply, "bad-request", "A name ", ascii(name))
                if not {" ", "\n"} & set(name):
                    lines.line(f"/{command} name={name} password=x")
                    refusal = self.one_line(lines, ascii(name))
                    self.assertIn("-ERR bad-request A name ", refusal)
        for name, words in (("", "length >= 1"), ("x" * 65, "length <= 64")):
            frames.frame(json.dumps({"cmd": "register", "name": name, "password": "x"}).encode())
            self.check_refusal(self.one_reply(frames, name), "bad-request", words, name)
        self.goes_on(frames, "names")
        self.goes_on(lines, "names")

    async def test_good(self) -> None:
        """Names of 1 and of 32 characters, of any script, with marks, are taken."""
        for name in ("刘备", "x" * 32, "刘" * 32, "a", "हिन्दी", "Ångström", "_-.", "e\u0301"):
            client = await self.user(name)
            whoami = await client.ask("whoami")
            self.assertTrue(whoami["ok"])
            self.assertEqual(len(whoami["user"]), len(name) - (name == "e\u0301"))

    async def test_equal(self) -> None:
        """Names that look alike after NFKC and casefold are one."""
        await self.user("alice")
        client = self.frames()
        for name in ("Ａlice", "ALICE", "ａｌｉｃｅ", "aliⅽe"):
            taken = await client.ask("register", name=name, password="x")
            self.check_refusal(taken, "exists", "taken", name)
        known = await client.ask("login", name="Ａｌｉｃｅ", password="secret")
        self.assertEqual(known["user"], "alice")

    async def test_text(self) -> None:
        """A text of exactly the limit is taken, one of a character more is too large; a
        character is one in any script."""
        await self.user("bob")
        frames, lines = await self.user("alice"), await self.user("alice", self.lines())
        post: Http = self.http()
        await self.user("alice", post)
        for client in (frames, lines, post):
            said = await client.ask("say", to="@bob", text="x" * 8000)
            self.assertTrue(said["ok"])
            refused = await client.ask("say", to="@bob", text="x" * 8001)
            self.check_refusal(refused, "too-large", "8000 characters", "text")
            refused = await client.ask("say", to="@bob", text="a\bb")
            self.check_refusal(refused, "bad-request", "Control characters", "text")
        for client in (frames, post):
            self.assertTrue((await client.ask("say", to="@bob", text="刘" * 8000))["ok"])
            refused = await client.ask("say", to="@bob", text="刘" * 8001)
            self.check_refusal(refused, "too-large", "8000 characters", "text")
        (answer,) = await lines.answer("/say @bob " + "x" * 8000)
        self.assertTrue(answer.startswith("+OK seq="))
        (answer,) = await lines.answer("/say @bob " + "x" * 8001)
        self.assertTrue(answer.startswith("-ERR too-large "))
        self.untouched("text")


class Posts(BadInput):
    """Bad requests at the HTTP API."""

    async def test_posts(self) -> None:
        """Each bad body or command has its status, error code and sentence, as JSON."""
        client = self.http()
        for what, command, body, status, code, words in POSTS:
            reply = await client.post(command, body)
            self.assertEqual(client.status, status, (what, reply))
            self.check_refusal(reply, code, words, what)
            self.untouched(what)

    async def test_authorization(self) -> None:
        """An Authorization that is not a good Bearer is refused, whatever is in it."""
        for header in (
            b"",
            b"x",
            b"Basic YWxpY2U6c2VjcmV0",
            b"Bearer",
            b"Bearer ",
            b"Bearer wrong",
            b"Bearer \xff\xfe",
            b"bearer " + b"x" * 8000,
        ):
            status, reply = await self._post(b"Authorization: " + header + b"\r\n", b"{}")
            self.assertEqual(status, 401, header[:20])
            self.check_refusal(reply, "unauthorized", ".", str(header[:20]))
        self.untouched("authorization")

    async def test_scheme(self) -> None:
        """A good token is taken as Bearer, in whatever case, and as nothing else."""
        alice = self.http()
        await self.user("alice", alice)
        for scheme, expected in (("Bearer", 200), ("bEARER", 200), ("Basic", 401), ("Token", 401)):
            head = f"Authorization: {scheme} {alice.token}\r\n"
            status, _ = await self._post(head.encode(), b"")
            self.assertEqual(status, expected, scheme)

    async def test_content_type(self) -> None:
        """The Content-Type does not matter, and a body may be absent."""
        for head in (b"Content-Type: text/plain\r\n", b"Content-Type: \xff\r\n", b""):
            status, reply = await self._post(head, b"")
            self.assertEqual((status, reply["ok"]), (200, True))

    async def _post(self, head: bytes, body: bytes) -> tuple[int, dict[str, Any]]:
        client = self.raw_web()
        client.send(
            b"POST /api/v1/ping HTTP/1.0\r\n%sContent-Length: %d\r\n\r\n" % (head, len(body)) + body
        )
        await client.until(lambda: client.closed or None)
        head, _, answer = client.received.partition(b"\r\n\r\n")
        status = int(head.split()[1])
        return status, {"ok": status == 200, **json.loads(answer)}

    def _status(self, client: Client) -> int:
        """The status of the one answer there is."""
        self.assertEqual(client.received.count(b"HTTP/1."), 1, client.received[:300])
        return int(client.received.split()[1])

    def test_body_limit(self) -> None:
        """A body of exactly the limit is read; of one more byte, announced or chunked, it is
        refused before it is all there, once, and the connection closed."""
        limit = self.limits.body_bytes
        post = b"POST /api/v1/ping HTTP/1.1\r\nHost: chat.test\r\n"
        body = b"{}".ljust(limit)
        client = self.raw_web()
        client.send(post + b"Content-Length: %d\r\n\r\n" % limit + body)
        self.assertEqual(self._status(client), 200)
        client = self.raw_web()
        client.send(post + b"Transfer-Encoding: chunked\r\n\r\n")
        client.send(b"%x\r\n%b\r\n0\r\n\r\n" % (limit, body))
        self.assertEqual(self._status(client), 200)
        for data in (
            b"Content-Length: %d\r\n\r\n" % (limit + 1),
            b"Content-Length: %d\r\n\r\n" % (limit + 1) + body + b" ",
            b"Content-Length: " + DIGITS + b"\r\n\r\n",
            b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % limit + body + b"\r\n1\r\n ",
            b"Transfer-Encoding: chunked\r\n\r\n" + b"1000\r\n%b\r\n" % (b" " * 4096) * 17,
        ):
            client = self.raw_web()
            client.send(post + data)
            self.assertEqual(self._status(client), 413, data[:40])
            reply = json.loads(client.received.partition(b"\r\n\r\n")[2])
            self.check_refusal(reply, "too-large", f"{limit} bytes", str(data[:40]))
            self.assertTrue(client.closed)
        self.untouched("body")

    def test_body_limit_on_a_slow_connection(self) -> None:
        """What arrives while the refusal of a body is on its way is not refused again."""
        client = self.raw_web()
        lingering = self.patch(client.transport, "lose", lambda reason: None)
        chunk = b"1000\r\n%b\r\n" % (b" " * 4096)
        client.send(
            b"POST /api/v1/ping HTTP/1.1\r\nHost: chat.test\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 20 + b"0\r\n\r\n"
        )
        self.assertEqual(self._status(client), 413)
        lingering.restore()
        client.vanish()
        self.untouched("slow")

    def test_broken_requests(self) -> None:
        """A request that is not HTTP is answered with 400 and the connection closed."""
        post = b"POST /api/v1/ping HTTP/1.1\r\nHost: chat.test\r\n"
        for data in (
            b"\r\n\r\n\r\n\r\n",
            b"GET\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",  # TLS
            b"\x00\xff\x1b\r\n\r\n",
            b"GET / HTTP/9.9\r\n\r\n",
            b"GET / x y z\r\n\r\n",
            b"GET /\xff HTTP/1.1\r\nHost: chat.test\r\n\r\n",
            post + b"no colon\r\n\r\n",
            post + b": no name\r\n\r\n",
            post + b"Content-Length: x\r\n\r\n",
            post + b"Content-Length: -1\r\n\r\n",
            post + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n",
            post + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n",
            post + b"Transfer-Encoding: gzip\r\n\r\n",
            post + b"Transfer-Encoding: chunked\r\n\r\nx\r\n",
            post + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n",
            post + b"X: y\r\n" * 501 + b"\r\n",
        ):
            client = self.raw_web()
            client.send(data)
            self.assertEqual(self._status(client), 400, data[:80])
            self.assertTrue(client.closed, data[:80])
            self.untouched(repr(data[:80]))

    def test_methods(self) -> None:
        """Methods that a resource does not have are refused with 405, in a sentence."""
        for path, fine in ((b"/api/v1/ping", (b"POST",)), (b"/healthz", (b"GET", b"HEAD"))):
            for method in (b"HEAD", b"GET", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"TRACE"):
                client = self.raw_web()
                client.send(method + b" " + path + b" HTTP/1.1\r\nHost: chat.test\r\n\r\n")
                expected = 200 if method in fine else 405
                self.assertEqual(self._status(client), expected, method + path)
                if expected == 405 and method != b"HEAD":
                    reply = json.loads(client.received.partition(b"\r\n\r\n")[2])
                    self.check_refusal(reply, "bad-request", fine[0].decode(), repr(method))
                self.untouched(repr(method))

    def test_head_is_not_logged(self) -> None:
        """HEAD gets the head of what GET gets, and leaves nothing in the log."""
        events: list[LogEvent] = []
        note: Any = events.append
        globalLogPublisher.addObserver(note)
        self.addCleanup(globalLogPublisher.removeObserver, note)
        for path in (b"/healthz", b"/x", b"/api/v1/ping", b"/metrics"):
            client = self.raw_web()
            client.send(b"HEAD " + path + b" HTTP/1.1\r\nHost: chat.test\r\n\r\n")
            head, end, body = client.received.partition(b"\r\n\r\n")
            self.assertRegex(head.lower(), rb"content-length: [1-9]", path)
            self.assertEqual((end, body), (b"\r\n\r\n", b""), path)
        self.assertEqual([e["log_format"] for e in events if e["log_level"] > LogLevel.debug], [])

    def test_absurd_length(self) -> None:
        """A Content-Length that Python takes for no number is too large like any other."""
        client = self.raw_web()
        head = b"POST /api/v1/ping HTTP/1.1\r\nHost: chat.test\r\nContent-Length: "
        client.send(head + b"9" * 5000 + b"\r\n\r\n")
        self.assertEqual(self._status(client), 413)
        self.untouched("length")

    def test_odd_methods(self) -> None:
        """A method that nobody knows is refused without a fault of the server."""
        for method in (b"\xff", b"\x1b", b"X", b"__class__", b"post", b"P" * 5000):
            client = self.raw_web()
            client.send(method + b" /api/v1/ping HTTP/1.1\r\nHost: chat.test\r\n\r\n")
            self.assertIn(self._status(client), (400, 405), method[:20])
            self.untouched(repr(method[:20]))

    def test_paths(self) -> None:
        """Where nothing is, the answer is 404, whatever the path holds."""
        for path in (b"/", b"/x", b"/%00%ff", b"//ws", b"/WS", b"/api", b"/api/"):
            client = self.raw_web()
            client.send(b"GET " + path + b" HTTP/1.1\r\nHost: chat.test\r\n\r\n")
            self.assertEqual(self._status(client), 404, path)
            self.untouched(repr(path))
        for path in (b"/api/v1", b"/api/v2/ping", b"/api/v1/ping%2f", b"/api/../ping"):
            client = self.raw_web()
            client.send(b"POST " + path + b" HTTP/1.1\r\nHost: chat.test\r\n\r\n")
            self.assertEqual(self._status(client), 404, path)
            self.untouched(repr(path))

    def test_connection_goes_on(self) -> None:
        """After a refusal the next request on the connection is answered."""
        client = self.raw_web()
        for status, body in ((400, b"{"), (200, b"{}"), (400, b"[]"), (200, b"")):
            client.received = b""
            client.send(
                b"POST /api/v1/ping HTTP/1.1\r\nHost: chat.test\r\n"
                b"Content-Length: %d\r\n\r\n" % len(body) + body
            )
            self.assertEqual(self._status(client), status)
        self.assertFalse(client.closed)


class Handshakes(BadInput):
    """Heads of requests at the web port."""

    def test_head_limit(self) -> None:
        """A head of exactly the limit is read; one byte more is answered with 431, ended or
        not, and the connection closed."""
        limit = self.limits.header_bytes
        start = UPGRADE.removesuffix(b"\r\n\r\n") + b"\r\nX: "
        head = start.ljust(limit, b"x")
        client = self.raw_web()
        client.send(head + b"\r\n\r\n")
        self.assertTrue(client.received.startswith(b"HTTP/1.1 101 "))
        for chunks in ((head + b"x\r\n\r\n",), (head, b"x"), (head + b"x",), (b"x" * 9000,) * 2):
            client = self.raw_web()
            for chunk in chunks:
                client.send(chunk)
            self.assertTrue(client.received.startswith(b"HTTP/1.1 431 "), client.received)
            self.assertTrue(client.closed)
        self.untouched("head")

    def test_cut_at_every_byte(self) -> None:
        """A head and the frame behind it are the same wherever they are cut."""
        whole = UPGRADE + masked(PING)
        for cut in range(len(whole) + 1):
            client = self.raw_web()
            client.send(whole[:cut])
            client.send(whole[cut:])
            self.flush()
            head, _, answer = client.received.partition(b"\r\n\r\n")
            self.assertTrue(head.startswith(b"HTTP/1.1 101 "), cut)
            self.assertIn(b'"still there"', answer, cut)
            client.vanish()
        self.untouched("cut")

    def test_bad_handshakes(self) -> None:
        """A handshake that is not one of WebSocket is refused, and the connection closed."""
        for old, new, status in (
            (b"GET", b"POST", 405),
            (b"GET", b"\xff", 405),
            (b"HTTP/1.1", b"HTTP/1.0", 505),
            (b"Host: chat.test\r\n", b"", 400),
            (b"Host: chat.test", b"Host: chat.test:x", 400),
            (b"Host: chat.test", b"Host: chat.test\r\nHost: other.test", 400),
            (b"Upgrade: websocket", b"Upgrade: h2c", 400),
            (b"Upgrade: websocket\r\n", b"", 426),
            (b"Connection: Upgrade", b"Connection: close", 400),
            (b"Version: 13", b"Version: 99", 426),
            (b"Version: 13", b"Version: \xb2", 400),
            (b"Version: 13", b"Version: " + DIGITS * 5, 400),
            (b"dGhlIHNhbXBsZSBub25jZQ==", b"short", 400),
            (b"dGhlIHNhbXBsZSBub25jZQ==", b"\xff" * 24, 400),
            (b"Host:", b"Origin: http://other.test\r\nHost:", 403),
            (b"Host:", b"Origin: http://chat.test:81\r\nHost:", 403),
            (b"Host:", b"Origin: null\r\nHost:", 403),
            (b"Host:", b"Origin: file:///tmp/x\r\nHost:", 403),
            (b"Host:", b"Origin: http://[\r\nHost:", 400),
            (b"Host:", b"Origin: http://a:x\r\nHost:", 400),
            (b"Host:", b"Origin: \xff\x1b\r\nHost:", 400),
            (b"Host:", b"Origin: http://a.test\r\nOrigin: http://chat.test\r\nHost:", 400),
        ):
            client = self.raw_web()
            client.send(UPGRADE.replace(old, new, 1))
            self.assertTrue(client.received.startswith(b"HTTP/1.1 "), (new, client.received))
            self.assertEqual(int(client.received.split()[1]), status, (new, client.received[:200]))
            self.assertTrue(client.closed, new)
            self.untouched(repr(new))

    def test_own_origin(self) -> None:
        """A page of the host itself may connect."""
        client = self.raw_web()
        client.send(UPGRADE.replace(b"Host:", b"Origin: http://Chat.test\r\nHost:"))
        self.assertTrue(client.received.startswith(b"HTTP/1.1 101 "), client.received)


class Deadline(NodeCase):
    """The time a head may take."""

    def setUp(self) -> None:
        super().setUp()
        self.clock = Clock()
        self.patch(self.node, "clock", self.clock)
        self.factory = WebFactory(self.node, self.fail, self.fail)

    def test_head_that_never_ends(self) -> None:
        """A head that is not there in time ends the connection; bytes that drip do not buy
        more time."""
        client = Client(self.factory.buildProtocol(None))
        for _ in range(4):
            client.send(b"GET ")
            self.clock.advance(1)
            self.assertFalse(client.closed)
        self.clock.advance(1)
        self.assertTrue(client.closed)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_nothing_is_left(self) -> None:
        """No timer outlives a client that goes, or that is refused."""
        client = Client(self.factory.buildProtocol(None))
        client.vanish()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        client = Client(self.factory.buildProtocol(None))
        client.send(b"x" * 20_000)
        self.assertTrue(client.closed)
        self.assertEqual(self.clock.getDelayedCalls(), [])

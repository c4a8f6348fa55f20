"""Whatever bytes arrive, in whatever chunks: an answer or a close, never a fault."""

from __future__ import annotations

import json
import re
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from msgspec import inspect
from twisted.trial.unittest import SynchronousTestCase

from chatd.commands.rooms import Page
from chatd.dispatcher import Malformed
from chatd.errors import Refused
from chatd.registry import COMMANDS
from chatd.settings import Limits
from chatd.wire import json as json_wire
from chatd.wire import text as text_wire
from chatd.wire.json import JsonWire
from chatd.wire.text import TextWire, visible
from tests.bed import UPGRADE, CalmCase, Client, Frames, Lines, masked
from tests.profiles import search

MANY = search(500)
SOME = search(200)

NO_MARK = b"\xff\xfc\x06\xff\xfd\x00"  # telnet's timing mark is answered so
PING = b'{"cmd":"ping","id":"still there"}'
CONTROLS = "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]"  # of which no text has any
UNSAFE = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")

characters = st.characters(exclude_categories=["Cs"])
texts = st.text(characters, max_size=40)
dirty = st.text(
    st.sampled_from("\\\n\r\t\x00\x08\x1b\x7f\x85\x9b\u2028\u202e\u2066 \"'nrxu0123abé刘😀"),
    max_size=20,
)
anything = st.one_of(texts, dirty)

leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([0, 1, -1, 2**31, 2**53, 2**63 - 1, 2**63, 2**64, -(2**63), 10**100]),
    st.floats(),
    anything,
    st.sampled_from(["@alice", "#team", "@", "#", "alice", "text", "true"]),
)
values = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(anything, inner, max_size=4)
    ),
    max_leaves=8,
)

held = st.recursive(  # what a result can hold
    st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**63 - 1), anything),
    lambda inner: st.dictionaries(anything, inner, max_size=4),
    max_leaves=6,
)


def fitting(kind: inspect.Type) -> st.SearchStrategy[Any]:
    """Values of a parameter's type, within its bounds."""
    if isinstance(kind, inspect.Metadata):
        return fitting(kind.type)
    if isinstance(kind, inspect.UnionType):
        return st.one_of(*map(fitting, kind.types))
    if isinstance(kind, inspect.DictType):
        return st.dictionaries(fitting(kind.key_type), fitting(kind.value_type), max_size=3)
    if isinstance(kind, inspect.ListType | inspect.VarTupleType):
        return st.lists(fitting(kind.item_type), max_size=3)
    if isinstance(kind, inspect.AnyType):
        return held
    if isinstance(kind, inspect.LiteralType):
        return st.sampled_from(kind.values)
    if isinstance(kind, inspect.IntType):
        return st.integers(kind.ge, kind.le)
    if isinstance(kind, inspect.StrType):
        least, most = kind.min_length or 0, kind.max_length or 80
        if kind.pattern is None:
            return st.text(characters, min_size=least, max_size=most)
        return st.from_regex(kind.pattern, alphabet=characters).filter(
            lambda text: least <= len(text) <= most
        )
    if isinstance(kind, inspect.LiteralType):
        return st.sampled_from(kind.values)
    return {inspect.BoolType: st.booleans(), inspect.NoneType: st.none()}[type(kind)]


FITTING = {
    (command.name, parameter.name): fitting(inspect.type_info(parameter.type))
    for command in COMMANDS.values()
    for parameter in command.parameters
}

# Registering or logging in takes a thread, and what it does outlives an example.
names = st.sampled_from(sorted(COMMANDS.keys() - {"register", "login"}))


@st.composite
def fitting_requests(draw: st.DrawFn) -> dict[str, Any]:
    """A request of any command with all that it needs, in the right shapes."""
    command = COMMANDS[draw(st.sampled_from(sorted(COMMANDS)))]
    request: dict[str, Any] = {"cmd": command.name, "id": draw(st.integers(0, 9))}
    for parameter in command.parameters:
        if parameter.required or draw(st.booleans()):
            request[parameter.name] = draw(FITTING[command.name, parameter.name])
    return request


@st.composite
def requests(draw: st.DrawFn, commands: st.SearchStrategy[str] = names) -> dict[str, Any]:
    """A request of which some fields are as they should be and others are not."""
    name = draw(commands)
    fields = [p.name for p in COMMANDS[name].parameters]
    request: dict[str, Any] = {"cmd": name, "id": draw(st.one_of(st.integers(0, 9), values))}
    for field in fields:
        if draw(st.booleans()):
            request[field] = draw(st.one_of(FITTING[name, field], values))
    if draw(st.integers(0, 4)) == 0:
        request[draw(anything)] = draw(values)
    if draw(st.integers(0, 4)) == 0:
        request["cmd"] = draw(values)
    return request


@st.composite
def mutated(draw: st.DrawFn, data: st.SearchStrategy[bytes]) -> bytes:
    """Bytes of which a few are replaced, removed or added."""
    found = bytearray(draw(data))
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(0, len(found)))
        found[place : place + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return bytes(found)


@st.composite
def chunked(draw: st.DrawFn, data: st.SearchStrategy[bytes]) -> list[bytes]:
    """Bytes in chunks, none of which is empty."""
    whole = draw(data)
    cuts = sorted(draw(st.sets(st.integers(1, max(1, len(whole) - 1)), max_size=5)))
    chunks = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    return [chunk for chunk in chunks if chunk]


def encoded(request: dict[str, Any]) -> bytes:
    """A request as JSON, also where there is no JSON for it (NaN)."""
    return json.dumps(request).encode()


def typed(request: dict[str, Any]) -> bytes:
    """A request as one types it."""
    fields = {name: value for name, value in request.items() if name not in ("cmd", "id")}
    words = [f"{name}={value}" for name, value in fields.items()]
    return " ".join([f"/{request['cmd']}", *words]).encode(errors="replace")


deep = st.builds(
    lambda start, nested: start + nested * 10_000,
    st.sampled_from(
        [b"", b'{"cmd":"ping","id":', b'{"cmd":"ping","x":', b'{"cmd":"sync","since":']
    ),
    st.sampled_from([b"[", b'{"@a":', b'[{"":']),
)
jsons = mutated(requests().map(encoded))
typeds = mutated(requests().map(typed))
payloads = st.one_of(st.binary(max_size=60), jsons, anything.map(str.encode))

telnet = st.sampled_from(
    [
        b"\xff",
        b"\xff\xfb\x01",
        b"\xff\xfd\x06",
        b"\xff\xfa\x1f\n\n\xff\xf0",
        b"\xff\xfa",
        b"\xff\xf0",
    ]
)
line_bytes = st.lists(
    st.one_of(
        st.binary(max_size=40),
        jsons,
        typeds,
        telnet,
        st.sampled_from([b"\n", b"\r\n", b"\r", b"\x00", b"/ping\n", b"x" * 400, b"/json on\n"]),
    ),
    max_size=10,
).map(b"".join)
frames = st.builds(
    masked,
    payloads,
    st.sampled_from([0, 1, 1, 1, 2, 8, 9, 10]),
    st.booleans(),
    st.sampled_from([0, 0, 0, 0, 0, 4]),
    st.binary(min_size=4, max_size=4),
)
headers = st.builds(  # any opcode and bits, any size in any form, masked or not
    lambda first, second, rest: bytes((first, second)) + rest,
    st.integers(0, 255),
    st.sampled_from([0, 1, 125, 126, 127, 128, 129, 253, 254, 255]),
    st.one_of(st.binary(max_size=14), st.sampled_from([b"\0" * 14, b"\xff" * 14, b"\x80" * 14])),
)
frame_bytes = st.one_of(
    st.binary(max_size=80),
    st.lists(st.one_of(frames, headers), min_size=1, max_size=4).map(b"".join),
    mutated(st.lists(frames, min_size=1, max_size=4).map(b"".join)),
    st.lists(frames, max_size=6).map(b"".join),
)
posts = st.builds(
    lambda method, path, head, body: (
        b"%s %s HTTP/1.1\r\nHost: chat.test\r\n%s\r\n\r\n%s" % (method, path, head, body)
    ),
    st.sampled_from([b"GET", b"POST", b"HEAD", b"PUT", b"OPTIONS", b"\xff"]),
    st.sampled_from([b"/", b"/ws", b"/api/v1/ping", b"/api/v1/say", b"/healthz", b"*"]),
    st.sampled_from(
        [b"X: y", b"Content-Length: 9", b"Transfer-Encoding: chunked", b"Expect: 100-continue"]
    ),
    st.one_of(payloads, st.just(b"2\r\n{}\r\n0\r\n\r\n")),
)
heads = st.one_of(
    st.binary(max_size=80).map(lambda data: data + b"\r\n\r\n"),
    mutated(st.just(UPGRADE)),
    posts,
    mutated(posts),
)


class Requests(SynchronousTestCase):
    """What the wires read."""

    def _check(self, request: Any) -> None:
        if not isinstance(request, Malformed):
            self.assertIn(type(request).__name__, COMMANDS)
            return
        self.assertIn(request.error.code, ("bad-request", "unknown-command"))
        self.assertRegex(request.error.sentence, r"^\S.*\S$")
        self.assertTrue(request.error.sentence.isprintable(), request.error.sentence)
        self.assertIsInstance(request.id, int | str | None)

    @MANY
    @given(st.one_of(st.binary(), jsons, deep))
    def test_json(self, data: bytes) -> None:
        """Any bytes are a request, or malformed with a sentence that can be shown."""
        self._check(json_wire.decode(data))

    @MANY
    @given(fitting_requests())
    def test_fitting(self, request: dict[str, Any]) -> None:
        """A command with what it needs, in the right shapes, is a request for just that."""
        decoded = json_wire.decode(encoded(request))
        self.assertNotIsInstance(decoded, Malformed)
        self.assertEqual(type(decoded), COMMANDS[request["cmd"]].request)
        for name, value in request.items():
            if name != "cmd":
                self.assertEqual(getattr(decoded, name), value)

    @MANY
    @given(st.one_of(st.text(), anything, jsons.map(lambda data: data.decode(errors="replace"))))
    def test_text(self, line: str) -> None:
        """Any text is a request, or malformed with a sentence that can be shown; as JSON and
        as a typed line, a command's arguments too."""
        self._check(json_wire.decode(line))
        self._check(text_wire.decode(line))
        for name in ("say", "sync", "history", "login", "rooms"):
            self._check(text_wire.decode(f"/{name} {line}"))

    @MANY
    @given(typeds.map(lambda data: data.decode(errors="replace")))
    def test_typed(self, line: str) -> None:
        """A command with fields that are wrong is a request, or malformed."""
        self._check(text_wire.decode(line))

    @MANY
    @given(anything.filter(bool), st.one_of(st.text(), st.integers(-(2**63), 2**63 - 1)))
    def test_text_round_trip(self, text: str, request_id: Any) -> None:
        """A text that JSON's wire takes comes back from it as it was, and so does the id."""
        try:
            data = json.dumps(
                {"cmd": "say", "id": request_id, "to": "@bob", "text": text}, ensure_ascii=False
            ).encode()
        except UnicodeEncodeError:
            return
        request = json_wire.decode(data)
        self.assertEqual(request.id, request_id)
        if isinstance(request, Malformed):
            self.assertRegex(text, CONTROLS)
            return
        self.assertNotRegex(text, CONTROLS)
        self.assertEqual(request.text, text)
        event = {"event": "message", "text": request.text}
        self.assertEqual(json.loads(JsonWire(bytes).event(event)), event)
        reply = JsonWire(bytes).reply(request_id, Page([event], False))
        self.assertEqual(json.loads(reply)["reply"], request_id)
        self.assertEqual(json.loads(reply)["entries"], [event])


class Answers(SynchronousTestCase):
    """What the text wire writes."""

    wire = TextWire()

    @MANY
    @given(st.one_of(st.text(), anything))
    def test_one_safe_line(self, text: str) -> None:
        """A message is one line without controls, whatever its text is."""
        event = {"event": "message", "to": "#team", "seq": 7, "from": "bob", "text": text}
        line = self.wire.event(event).decode()
        self.assertTrue(line.endswith("\r\n"))
        self.assertIsNone(UNSAFE.search(line[:-2]), line)
        self.assertTrue(line.startswith("* #team 7 <bob> "))

    @MANY
    @given(st.one_of(st.text(), anything))
    def test_reversible(self, text: str) -> None:
        """What is shown for a text says which text it was."""
        shown = visible(text)
        self.assertIsNone(UNSAFE.search(shown), shown)
        back = re.sub(
            r"\\(\\|n|r|x(..)|u(....))",
            lambda found: (
                {"\\": "\\", "n": "\n", "r": "\r"}.get(found[1])
                or chr(int(found[2] or found[3], 16))
            ),
            shown,
        )
        self.assertEqual(back, text)

    @MANY
    @given(st.dictionaries(st.sampled_from(["seq", "title", "reset"]), held), st.lists(held))
    def test_reply(self, fields: dict[str, Any], elements: list[Any]) -> None:
        """A reply is a safe line for each element and one +OK line, whatever they hold."""
        rows = [{"name": element, **fields} for element in elements]
        lines = self.wire.reply(None, {**fields, "rows": rows}).decode().split("\r\n")
        self.assertEqual([line[:2] for line in lines], ["= "] * len(rows) + ["+O", ""])
        for line in lines:
            self.assertIsNone(UNSAFE.search(line), line)

    @MANY
    @given(st.one_of(st.text(), anything), st.sampled_from([None, 1.5]))
    def test_error(self, sentence: str, retry_after: float | None) -> None:
        """A refusal is one safe -ERR line, whatever its sentence quotes."""
        refused = Refused("not-found", sentence, retry_after)
        line = self.wire.error(None, refused).decode()
        self.assertTrue(line.startswith("-ERR not-found ") and line.endswith("\r\n"))
        self.assertIsNone(UNSAFE.search(line[:-2]), line)


class FrontEnds(CalmCase):
    """Arbitrary bytes at the front ends of a node."""

    limits = Limits(line_bytes=512, frame_bytes=512, header_bytes=1024, body_bytes=512)

    def setUp(self) -> None:
        super().setUp()
        self.witness = self.frames()

    def setup_example(self) -> None:
        """Before each example: the clients of one that failed are gone."""
        for client in self.clients:
            if client is not self.witness:
                client.vanish()
        self.clients = [self.witness]
        self.node.hub.flush()
        self.witness.received = b""

    def _arrive(self, client: Client, chunks: list[bytes]) -> None:
        """The chunks arrive, as long as the connection is open."""
        for chunk in chunks:
            if not client.closed:
                client.send(chunk)
        self.node.hub.flush()

    def _check(self, client: Client) -> None:
        """Nothing was logged and nobody else noticed; then the client is forgotten."""
        client.vanish()
        self.calm()
        self.assertEqual(self.witness.received, b"")
        self.witness.frame(PING)
        self.node.hub.flush()
        _, reply = self.successResultOf(self.witness.next_frame())
        self.assertIs(json.loads(reply)["ok"], True)
        self.assertEqual(self.node.hub.sessions, {self.witness_session()})

    def witness_session(self) -> Any:
        """The session of the witness."""
        return self.witness.protocol._inner.session

    def _lines_answer(self, client: Lines) -> None:
        """Every line is of a known form; the connection is closed, or answers a ping."""
        *lines, rest = client.received.replace(NO_MARK, b"").split(b"\n")
        self.assertEqual(rest, b"")
        for line in lines:
            self.assertRegex(line, rb'^(\+OK|-ERR [a-z-]+ .|= |\* |{"(reply|event)":)')
            self.assertIsNone(UNSAFE.search(line.decode().removesuffix("\r")))
            self.assertNotIn(b"internal", line[:14])
        if client.closed:
            return
        client.received = b""
        client.send(b"\xff\xf0" * 2 + b"\n" + PING + b"\n")  # ends what was begun
        self.node.hub.flush()
        self.assertTrue(client.closed or b'"still there","ok":true' in client.received)

    @SOME
    @given(chunked(line_bytes))
    def test_lines(self, chunks: list[bytes]) -> None:
        """Any bytes at the line port are answered in lines, or end in a close."""
        client = self.lines()
        self._arrive(client, chunks)
        self._lines_answer(client)
        self._check(client)

    def _frames_answer(self, client: Frames) -> None:
        """Every frame is a reply, a pong or a close for a reason of the client's. Notes in
        `closing` whether the last is a close; without one the connection is open."""
        opcode = 0
        while client.received:
            opcode, payload = self.successResultOf(client.next_frame())
            self.assertIn(opcode, (1, 8, 10))
            if opcode == 1:
                self.assertNotEqual(json.loads(payload).get("error"), "internal")
            if opcode == 8 and not client.closed:  # else it is the answer to the client's own
                self.assertIn(int.from_bytes(payload[:2], "big"), (1002, 1007, 1009))
        self.closing = opcode == 8
        self.assertTrue(self.closing or not client.closed)

    @SOME
    @given(chunked(frame_bytes))
    def test_frames(self, chunks: list[bytes]) -> None:
        """Any bytes after the handshake are answered in frames, or end in a close that has
        a code for what the client did wrong."""
        client = self.frames()
        self._arrive(client, chunks)
        self._frames_answer(client)
        if not self.closing:  # this ends what was begun, and is no frame
            self._arrive(client, [b"\xff" * 1200])
            self._frames_answer(client)
            self.assertTrue(self.closing)
        self._check(client)

    @SOME
    @given(st.lists(payloads, max_size=5))
    def test_payloads(self, payloads: list[bytes]) -> None:
        """Any payload in a good frame has its answer, or, if it is not UTF-8 or too large,
        the close for that; else the session goes on."""
        client = self.frames()
        for payload in payloads:
            if not client.closed:
                client.frame(payload)
        self.node.hub.flush()
        self._frames_answer(client)
        broken = [payload for payload in payloads if len(payload) > 512 or not _is_text(payload)]
        self.assertEqual(self.closing, bool(broken))
        if not broken:
            client.frame(PING)
            self.node.hub.flush()
            _, reply = self.successResultOf(client.next_frame())
            self.assertEqual(json.loads(reply)["reply"], "still there")
        self._check(client)

    @SOME
    @given(st.lists(st.binary(max_size=60), max_size=5))
    def test_binary(self, payloads: list[bytes]) -> None:
        """Any binary frame is refused, and the session goes on."""
        client = self.frames()
        for payload in payloads:
            client.frame(payload, 2)
        client.frame(PING)
        self.node.hub.flush()
        for _ in payloads:
            _, reply = self.successResultOf(client.next_frame())
            self.assertEqual(json.loads(reply)["error"], "bad-request")
        _, reply = self.successResultOf(client.next_frame())
        self.assertEqual(json.loads(reply)["reply"], "still there")
        self._check(client)

    @SOME
    @given(requests())
    def test_requests(self, request: dict[str, Any]) -> None:
        """A command with fields that are wrong has one answer on both wires, with the same
        error."""
        data = encoded(request)
        if len(data) > 512:
            return
        frames, lines = self.frames(), self.lines()
        frames.frame(data)
        lines.send(data + b"\n")
        self.node.hub.flush()
        if frames.received:
            _, answer = self.successResultOf(frames.next_frame())
            reply, other = json.loads(answer), json.loads(lines.received)
            self.assertEqual(reply.get("error"), other.get("error"))
            self.assertEqual(reply["reply"], other["reply"])
            self.assertNotEqual(reply.get("error"), "internal")
        else:
            self.assertIsNone(request["id"])
            self.assertEqual(lines.received, b"")
        lines.vanish()
        self._check(frames)

    @SOME
    @given(chunked(heads))
    def test_heads(self, chunks: list[bytes]) -> None:
        """Any bytes at the web port are answered with HTTP, wait for more, or are closed; it
        is never a fault of the server."""
        client = self.raw_web()
        self._arrive(client, chunks)
        if client.received:
            self.assertRegex(client.received, rb"^HTTP/1\.[01] [1-4]\d\d |^HTTP/1\.1 50[15] ")
        self.assertNotIn(b"HTTP/1.1 500 ", client.received)
        self._check(client)


def _is_text(payload: bytes) -> bool:
    try:
        payload.decode()
    except UnicodeDecodeError:
        return False
    return True

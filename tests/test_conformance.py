"""The cases 1 to 7 of the Autobahn testsuite, by its numbers, against the WebSocket front end.

The suite's peer echoes; chatd does not. So a text that is to come back is the id of a ping, and
what comes back for a binary message is that it is refused. Each case is sent whole, frame by
frame, octet by octet and cut at random: the outcome may not depend on it.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.trial.unittest import SynchronousTestCase

from chatd.settings import Limits
from tests.bed import CalmCase, Frames, masked

MASK = b"\x37\xfa\x21\x3d"
HEADER = 6  # octets, of a small masked frame
BEFORE, BEHIND = b'{"cmd":"ping","id":"', b'"}'  # of a text that is to come back
OCTET_BY_OCTET = 2000  # octets; a longer case is cut in larger pieces

Reply = tuple[str, bytes]
REFUSED = ("refused", b"")  # what is no request


@dataclass(frozen=True, slots=True)
class Case:
    """What the client sends, frame by frame; the replies before the connection ends; `close`,
    the close frame that comes back: its payload, or its code where a sentence is behind it. One
    without a `close` lasts until the client closes. `fails_at`: at that octet, not before."""

    number: str
    frames: tuple[bytes, ...]
    replies: tuple[Reply, ...] = ()
    close: bytes | int | None = None
    fails_at: int | None = None


def frame(payload: bytes, opcode: int = 1, fin: bool = True, rsv: int = 0) -> bytes:
    """A client's frame."""
    return masked(payload, opcode, fin, rsv, MASK)


def request(text: bytes) -> bytes:
    """A request whose reply has the text."""
    return BEFORE + text + BEHIND


def fragments(*pieces: bytes) -> list[bytes]:
    """A text message in frames."""
    last = len(pieces) - 1
    return [frame(piece, 0 if n else 1, n == last) for n, piece in enumerate(pieces)]


def octets(data: bytes) -> list[bytes]:
    """One by one."""
    return [data[n : n + 1] for n in range(len(data))]


def closing(number: int, reason: bytes = b"") -> bytes:
    """A close frame."""
    return frame(number.to_bytes(2, "big") + reason, 8)


HELLO = frame(request(b"Hello, world!"))
HELLO_BACK = ("echo", b"Hello, world!")
ODD = b"\x00\xff\xfe\xfd\xfc\xfb\x00\xff"
NORMAL = b"\x03\xe8"
BYE = frame(NORMAL, 8)


def framing() -> Iterator[Case]:
    """1: sizes of text and binary messages; the last of each is sent in pieces of 997."""
    for number, size in enumerate((0, 125, 126, 127, 128, 65_535, 65_536, 65_536), 1):
        text = b"*" * (size - len(BEFORE + BEHIND))
        reply = ("echo", text) if size else REFUSED
        yield Case(f"1.1.{number}", (frame(request(text) if size else b""),), (reply,))
        yield Case(f"1.2.{number}", (frame(b"\xfe" * size, 2),), (REFUSED,))


def pings() -> Iterator[Case]:
    """2: pings are answered with their payload, pongs are not."""
    ten = [b"payload-%d" % n for n in range(10)]
    every = tuple(frame(payload, 9) for payload in ten)
    pongs = tuple(("pong", payload) for payload in ten)
    for number, payload in enumerate((b"", b"Hello, world!", ODD, b"\xfe" * 125), 1):
        yield Case(f"2.{number}", (frame(payload, 9),), (("pong", payload),))
    yield Case("2.5", (frame(b"\xfe" * 126, 9),), (), 1002)
    yield Case("2.6", (frame(b"\xfe" * 125, 9),), (("pong", b"\xfe" * 125),))
    yield Case("2.7", (frame(b"", 10),))
    yield Case("2.8", (frame(b"unsolicited pong payload", 10),))
    unasked = (frame(b"unsolicited pong payload", 10), frame(b"ping payload", 9))
    yield Case("2.9", unasked, (("pong", b"ping payload"),))
    yield Case("2.10", every, pongs)
    yield Case("2.11", every, pongs)


def reserved_bits() -> Iterator[Case]:
    """3: none has a meaning here."""
    ping = frame(b"", 9)
    yield Case("3.1", (frame(request(b"x"), rsv=1),), (), 1002)
    for number, rsv in enumerate((2, 3, 4), 2):
        bad = frame(request(b"x"), rsv=rsv)
        yield Case(f"3.{number}", (HELLO, bad, ping), (HELLO_BACK,), 1002)
    yield Case("3.5", (frame(ODD, 2, rsv=5),), (), 1002)
    yield Case("3.6", (frame(b"Hello, world!", 9, rsv=6),), (), 1002)
    yield Case("3.7", (frame(NORMAL, 8, rsv=7),), (), 1002)


def opcodes() -> Iterator[Case]:
    """4: those that have no meaning."""
    ping = frame(b"", 9)
    for section, first in ((1, 3), (2, 11)):
        yield Case(f"4.{section}.1", (frame(b"", first),), (), 1002)
        yield Case(f"4.{section}.2", (frame(b"reserved opcode payload", first + 1),), (), 1002)
        for number, payload in ((3, b""), (4, b"reserved opcode"), (5, b"reserved opcode")):
            frames = (HELLO, frame(payload, first + number - 1), ping)
            yield Case(f"4.{section}.{number}", frames, (HELLO_BACK,), 1002)


def fragmentation() -> Iterator[Case]:
    """5: fragments, with pings in between, and those that continue nothing."""
    one, two = fragments(BEFORE + b"fragment1", b"fragment2" + BEHIND)
    both, pong = ("echo", b"fragment1fragment2"), ("pong", b"ping payload")
    nothing = frame(b"non-continuation payload", 0)
    unfinished = frame(b"non-continuation payload", 0, fin=False)
    yield Case("5.1", (frame(b"fragment1", 9, fin=False), frame(b"fragment2", 0)), (), 1002)
    yield Case("5.2", (frame(b"fragment1", 10, fin=False), frame(b"fragment2", 0)), (), 1002)
    for number in (3, 4, 5):
        yield Case(f"5.{number}", (one, two), (both,))
    for number in (6, 7, 8):
        yield Case(f"5.{number}", (one, frame(b"ping payload", 9), two), (pong, both))
    for number in (9, 10, 11):
        yield Case(f"5.{number}", (nothing, HELLO), (), 1002)
    for number in (12, 13, 14):
        yield Case(f"5.{number}", (unfinished, HELLO), (), 1002)
    yield Case("5.15", (one, two, unfinished, HELLO), (both,), 1002)
    yield Case("5.16", (unfinished, one, two) * 2, (), 1002)
    yield Case("5.17", (nothing, one, two) * 2, (), 1002)
    yield Case("5.18", (one, frame(b"fragment2")), (), 1002)
    names = [b"fragment%d" % n for n in range(1, 6)]
    five = fragments(BEFORE + names[0], *names[1:4], names[4] + BEHIND)
    legal = (*five[:2], frame(b"pongme 1!", 9), *five[2:4], frame(b"pongme 2!", 9), five[4])
    replies = (("pong", b"pongme 1!"), ("pong", b"pongme 2!"), ("echo", b"".join(names)))
    yield Case("5.19", legal, replies)
    yield Case("5.20", legal, replies)


KOSME = bytes.fromhex("cebae1bdb9cf83cebcceb5")
UMLAUTS = "Hello-µ@ßöäüàá-UTF-8!!".encode()


def utf8() -> Iterator[Case]:
    """6.1 to 6.4: UTF-8 in empty fragments, cut within characters; broken, in fragments."""
    yield Case("6.1.1", (frame(b""),), (REFUSED,))
    yield Case("6.1.2", tuple(fragments(b"", b"", b"")), (REFUSED,))
    middle = request(b"middle frame payload")
    yield Case("6.1.3", tuple(fragments(b"", middle, b"")), (("echo", b"middle frame payload"),))
    head, tail = BEFORE + UMLAUTS[:12], UMLAUTS[12:] + BEHIND
    yield Case("6.2.1", (frame(request(UMLAUTS)),), (("echo", UMLAUTS),))
    yield Case("6.2.2", tuple(fragments(head, tail)), (("echo", UMLAUTS),))
    yield Case("6.2.3", tuple(fragments(*octets(request(UMLAUTS)))), (("echo", UMLAUTS),))
    yield Case("6.2.4", tuple(fragments(*octets(request(KOSME)))), (("echo", KOSME),))
    surrogate = KOSME + b"\xed\xa0\x80" + b"edited"
    ones = tuple(fragments(*octets(surrogate)))
    yield Case("6.3.1", (frame(surrogate),), (), 1007, HEADER + 13)
    yield Case("6.3.2", ones, (), 1007, 13 * (HEADER + 1))
    beyond = KOSME + b"\xf4\x90\x80\x80" + b"edited"
    three = tuple(fragments(KOSME, beyond[11:15], beyond[15:]))
    yield Case("6.4.1", three, (), 1007, HEADER + 11 + HEADER + 2)
    three = tuple(fragments(beyond[:12], beyond[12:13], beyond[13:]))
    yield Case("6.4.2", three, (), 1007, HEADER + 12 + HEADER + 1)
    yield Case("6.4.3", (frame(beyond),), (), 1007, HEADER + 13)
    yield Case("6.4.4", (frame(beyond),), (), 1007, HEADER + 13)


Text = tuple[bool, bytes]  # whether it is UTF-8


def good(*texts: bytes) -> list[Text]:
    return [(True, text) for text in texts]


def bad(*texts: bytes) -> list[Text]:
    return [(False, text) for text in texts]


def hexed(digits: str) -> list[bytes]:
    """Texts in hexadecimal digits."""
    return [bytes.fromhex(word) for word in digits.split()]


CUT_OFF = hexed("c0 e080 f08080 f8808080 fc80808080 df efbf f7bfbf fbbfbfbf fdbfbfbfbf")
NO_CHARACTERS = [plane << 16 | last for plane in range(17) for last in (0xFFFE, 0xFFFF)]
UTF8: tuple[list[Text], ...] = (  # 6.5 to 6.23, after Markus Kuhn's UTF-8 stress test
    good(*(b"hello%bworld" % c for c in hexed("24 c2a2 e282ac f0a4ada2")), KOSME),
    [(size in (2, 5, 7, 9, 11), KOSME[:size]) for size in range(1, 12)],
    good(*hexed("00 c280 e0a080 f0908080")),
    bad(*hexed("f888808080 fc8480808080")),
    good(*hexed("7f dfbf efbfbf f48fbfbf")),
    bad(*hexed("f7bfbfbf fbbfbfbfbf fdbfbfbfbfbf")),
    good(*hexed("ed9fbf ee8080 efbfbd f48fbfbf")) + bad(*hexed("f4908080")),
    bad(
        *hexed("80 bf 80bf 80bf80 80bf80bf 80bf80bf80 80bf80bf80bf"),
        bytes(range(0x80, 0xBF)),
    ),
    bad(
        *(
            b"".join(bytes((octet, 0x20)) for octet in range(first, last))
            for first, last in (
                (0xC0, 0xDF),
                (0xE0, 0xEF),
                (0xF0, 0xF7),
                (0xF8, 0xFB),
                (0xFC, 0xFD),
            )
        )
    ),
    bad(*CUT_OFF),
    bad(b"".join(CUT_OFF)),
    bad(*hexed("fe ff fefeffff")),
    bad(*hexed("c0af e080af f08080af f8808080af fc80808080af")),
    bad(*hexed("c1bf e09fbf f08fbfbf f887bfbfbf fc83bfbfbfbf")),
    bad(*hexed("c080 e08080 f0808080 f880808080 fc8080808080")),
    bad(*hexed("eda080 edadbf edae80 edafbf edb080 edbe80 edbfbf")),
    bad(
        *hexed("eda080edb080 eda080edbfbf edadbfedb080 edadbfedbfbf"),
        *hexed("edae80edb080 edae80edbfbf edafbfedb080 edafbfedbfbf"),
    ),
    good(*(chr(number).encode() for number in NO_CHARACTERS)),
    good(*hexed("efbfb9 efbfba efbfbb efbfbc efbfbd efbfbe efbfbf")),
)


def utf8_table() -> Iterator[Case]:
    """6.5 to 6.23: what is UTF-8 and what is not, each text in one frame."""
    for section, texts in enumerate(UTF8, 5):
        for number, (valid, text) in enumerate(texts, 1):
            reply = ("echo", text) if text >= b" " else REFUSED  # JSON has no control characters
            sent = frame(request(text)) if valid else frame(text)
            yield Case(f"6.{section}.{number}", (sent,), (reply,) * valid, None if valid else 1007)


def closes() -> Iterator[Case]:
    """7: what comes behind a close is nothing; codes and reasons, good and bad."""
    ping, one, two = frame(b"", 9), *fragments(BEFORE + b"fragment1", b"fragment2" + BEHIND)
    size = 256 * 1024 - len(BEFORE + BEHIND)
    large = (b"BAsd7&jh23" * size)[:size]
    yield Case("7.1.1", (HELLO, BYE), (HELLO_BACK,), NORMAL)
    yield Case("7.1.2", (BYE, BYE), (), NORMAL)
    yield Case("7.1.3", (BYE, ping), (), NORMAL)
    yield Case("7.1.4", (BYE, HELLO), (), NORMAL)
    yield Case("7.1.5", (one, BYE, two), (), NORMAL)
    frames = (frame(request(large)), HELLO, BYE, ping)
    yield Case("7.1.6", frames, (("echo", large), HELLO_BACK), NORMAL)
    yield Case("7.3.1", (frame(b"", 8),), (), b"")
    yield Case("7.3.2", (frame(b"a", 8),), (), 1002)
    yield Case("7.3.3", (BYE,), (), NORMAL)
    yield Case("7.3.4", (closing(1000, b"Hello World!"),), (), NORMAL + b"Hello World!")
    yield Case("7.3.5", (closing(1000, b"*" * 123),), (), NORMAL + b"*" * 123)
    yield Case("7.3.6", (closing(1000, b"*" * 124),), (), 1002)
    yield Case("7.5.1", (closing(1000, KOSME + b"\xed\xa0\x80edited"),), (), 1007)
    taken = (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999)
    for number, code in enumerate(taken, 1):
        yield Case(f"7.7.{number}", (closing(code),), (), code.to_bytes(2, "big"))
    for number, code in enumerate((0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999), 1):
        yield Case(f"7.9.{number}", (closing(code),), (), 1002)
    yield Case("7.13.1", (closing(5000),), (), 1002)
    yield Case("7.13.2", (closing(65_535),), (), 1002)


SECTIONS = (framing, pings, reserved_bits, opcodes, fragmentation, utf8, utf8_table, closes)


def cuts(case: Case) -> Iterator[tuple[str, list[bytes]]]:
    """(how, pieces) in which a case's octets arrive."""
    data = b"".join(case.frames)
    yield "whole", [data]
    yield "by frame", list(case.frames)
    if len(data) <= OCTET_BY_OCTET:
        yield "by octet", octets(data)
    yield "by 997", [data[start : start + 997] for start in range(0, len(data), 997)]
    dice = random.Random(case.number)
    for _ in range(3):
        places = sorted(dice.randrange(len(data) + 1) for _ in range(dice.randrange(1, 8)))
        ends = zip([0, *places], [*places, len(data)], strict=True)
        yield f"at {places}", [data[start:end] for start, end in ends]


class Conformance(CalmCase):
    """The cases."""

    limits = Limits(frame_bytes=2**20)
    ignored: frozenset[str] = frozenset()
    offer = b""

    def _check(self, section: Iterator[Case]) -> None:
        for case in section:
            if case.number in self.ignored:
                continue
            for how, pieces in cuts(case):
                self._play(case, pieces, f"{case.number} {how}")
        self.calm()

    def _play(self, case: Case, pieces: list[bytes], what: str) -> None:
        client = self.frames(offer=self.offer)
        sent = 0
        for piece in pieces:
            if client.closed:
                break
            client.send(piece)
            sent += len(piece)
            if case.fails_at is not None:
                self.assertEqual(bool(client.received), sent >= case.fails_at, f"{what}, {sent}")
        expected = case.close
        if expected is None:
            self.assertFalse(client.closed, what)
            client.send(BYE)
            expected = NORMAL
        *replies, (opcode, payload) = self._received(client)
        self.assertEqual([_reply(*found) for found in replies], list(case.replies), what)
        self.assertEqual(opcode, 8, what)
        if isinstance(expected, bytes):
            self.assertEqual(payload, expected, what)
            self.assertTrue(client.closed, what)
            return
        self.assertEqual(int.from_bytes(payload[:2], "big"), expected, what)
        if not client.closed:
            client.send(frame(payload[:2], 8))
        self.assertTrue(client.closed, what)
        self.assertEqual(self._received(client), [], what)

    def _received(self, client: Frames) -> list[tuple[int, bytes]]:
        self.node.hub.flush()
        found = []
        while client.received:
            found.append(self.successResultOf(client.next_frame()))
        return found

    def test_1_framing(self) -> None:
        """Messages of every size come through."""
        self._check(framing())

    def test_2_pings(self) -> None:
        """Pings are answered."""
        self._check(pings())

    def test_3_reserved_bits(self) -> None:
        """A reserved bit ends the connection."""
        self._check(reserved_bits())

    def test_4_opcodes(self) -> None:
        """An unknown opcode ends the connection."""
        self._check(opcodes())

    def test_5_fragmentation(self) -> None:
        """Fragments make a message, or end the connection."""
        self._check(fragmentation())

    def test_6_utf8(self) -> None:
        """What is not UTF-8 ends the connection, at the octet that shows it."""
        self._check(utf8())
        self._check(utf8_table())

    def test_7_closes(self) -> None:
        """A close is answered with its code, a bad one with 1002 or 1007."""
        self._check(closes())


class Streams(CalmCase):
    """Frames of all kinds behind one another."""

    compression = True

    async def test_cuts(self) -> None:
        """What comes back does not depend on how the octets arrive: what is read by the short
        way is answered like what Autobahn reads."""
        for seed in range(300):
            dice = random.Random(seed)
            data = b"".join(_any_frames(dice) for _ in range(dice.randrange(1, 12)))
            places = sorted(dice.randrange(len(data)) for _ in range(dice.randrange(1, 9)))
            ends = zip([0, *places], [*places, len(data)], strict=True)
            whole = await self._reaction([data])
            self.assertEqual(whole, await self._reaction(octets(data)), f"{seed} by octet")
            cut = [data[start:end] for start, end in ends]
            self.assertEqual(whole, await self._reaction(cut), f"{seed} at {places}")
        self.calm()

    def test_a_rest_that_looks_like_a_frame(self) -> None:
        """What comes behind half a head is the rest of it, and not a frame of its own."""
        client = self.frames()
        half = masked(b"{", mask=b"\x81\xa0\0\0")
        client.send(half[:1])
        client.send(half[1:] + HELLO)
        self.node.hub.flush()
        _, payload = self.successResultOf(client.next_frame())
        self.assertIn("truncated", json.loads(payload)["message"])
        self.assertEqual(_reply(*self.successResultOf(client.next_frame())), HELLO_BACK)

    async def _reaction(self, pieces: list[bytes]) -> tuple[list[bytes], list[bytes], int | None]:
        """The ids of the replies, the pongs and the code of the close: between the first two
        there is no order."""
        client = self.frames(offer=WithCompression.offer)
        for piece in pieces:
            if not client.closed:
                client.send(piece)
            while client.transport.paused and not client.closed:
                await deferLater(reactor, 0)  # the rest of it has to wait for others
        self.node.hub.flush()
        found: dict[int, list[bytes]] = {1: [], 8: [], 10: []}
        while client.received:
            opcode, payload = self.successResultOf(client.next_frame())
            found[opcode].append(payload)
        self.assertLessEqual(len(found[8]), 1)
        client.vanish()
        code = int.from_bytes(found[8][0][:2], "big") if found[8] else None
        return [payload[:30] for payload in found[1]], found[10], code


def _any_frames(dice: random.Random) -> bytes:
    """A message or a control frame, good or, one in ten, damaged."""
    text = dice.choice((b"x", KOSME, UMLAUTS, b"y" * 200, b"\xff"))
    asked = request(text) if dice.randrange(9) else text
    middle = dice.randrange(len(asked) + 1)
    squeezed = zlib.compress(asked, wbits=-12)
    one, two = fragments(asked[:middle], asked[middle:])
    kinds = (
        frame(asked),
        frame(asked),
        one + two,
        one + frame(text[:125], 9) + two,
        frame(squeezed, rsv=4),
        frame(squeezed[:9], fin=False, rsv=4) + frame(squeezed[9:], 0),
        frame(text[:125], dice.choice((9, 10))),
        frame(asked, 2),
    )
    data = bytearray(dice.choice(kinds))
    if not dice.randrange(10):
        data[dice.randrange(min(8, len(data)))] ^= 1 << dice.randrange(8)
    return bytes(data)


class WithCompression(Conformance):
    """The same where compression was agreed on, but 3.4: there the bit means something."""

    compression = True
    offer = b"permessage-deflate; client_max_window_bits"
    ignored = frozenset(("3.4",))


def _reply(opcode: int, payload: bytes) -> Reply:
    if opcode == 10:
        return "pong", payload
    reply = json.loads(payload)
    if reply["ok"]:
        return "echo", reply["reply"].encode()
    assert reply["reply"] is None and reply["error"] == "bad-request", reply
    return REFUSED


class Table(SynchronousTestCase):
    """The table itself, and Autobahn without its native code."""

    def test_complete(self) -> None:
        """It has all 246 cases of the suite's sections 1 to 7, each once."""
        numbers = [case.number for section in SECTIONS for case in section()]
        self.assertEqual((len(numbers), len(set(numbers))), (246, 246))
        valid = sum(valid for texts in UTF8 for valid, _ in texts)
        self.assertEqual((valid, sum(len(texts) for texts in UTF8)), (63, 132))

    def test_missing_native_code(self) -> None:
        """Where the native code was not built the front end takes the code in Python; it does
        not start where it was told to have the native code."""
        program = "import sys; sys.modules['_nvx_utf8validator'] = None\n"
        program += "import chatd.frontends.websocket, autobahn.websocket\n"
        program += "print('native' if autobahn.websocket.USES_NVX else 'Python')"
        for setting, told in (("", "Python"), ("1", "AUTOBAHN_USE_NVX=1")):
            environment = {**os.environ, "AUTOBAHN_USE_NVX": setting}
            words = [sys.executable, "-c", program]
            done = subprocess.run(words, env=environment, capture_output=True, text=True)
            self.assertEqual(bool(done.returncode), bool(setting), done.stderr[-2000:])
            self.assertIn(told, done.stdout + done.stderr)

    def test_without_native_code(self) -> None:
        """Autobahn's code in Python, which it takes where its native code is missing or
        switched off, does the same."""
        environment = {**os.environ, "AUTOBAHN_USE_NVX": "0"}
        words = [
            sys.executable,
            "-m",
            "twisted.trial",
            "--temp-directory",
            os.path.abspath(self.mktemp()),
        ]
        words += [f"{__name__}.Conformance"]
        root = Path(__file__).parents[1]
        done = subprocess.run(words, cwd=root, env=environment, capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stdout[-2000:])
        self.assertIn("PASSED (successes=7)", done.stdout)

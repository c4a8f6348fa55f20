"""The WebSocket front end: compression, frames a second, Autobahn's options, handshakes."""

from __future__ import annotations

import contextlib
import json
import random
import socket
import ssl
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import msgspec
from autobahn.twisted.websocket import WebSocketServerFactory
from autobahn.websocket.protocol import WebSocketServerProtocol
from twisted.internet import reactor
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import ConnectionLost
from twisted.internet.task import deferLater
from twisted.logger import LogEvent, LogLevel, globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from chatd.errors import CLOSE_CODES
from chatd.frontends import link
from chatd.frontends.link import TransportLink
from chatd.frontends.websocket import ChatProtocol
from chatd.settings import Limits
from chatd.wire import deflate
from tests.bed import UPGRADE, CalmCase, Client, Frames, masked
from tests.certificate import self_signed

PING = b'{"cmd":"ping","id":"still there"}'
RSV1 = 4
NOT_NOW = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
CHROME = b"permessage-deflate; client_max_window_bits"
FIREFOX = b"permessage-deflate"
AGREED = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
AGREED += "; server_max_window_bits=12"

# (offer, what is agreed; None where the connection goes on without)
OFFERS: tuple[tuple[bytes, str | None], ...] = (
    (CHROME, f"{AGREED}; client_max_window_bits=12"),
    (FIREFOX, AGREED),
    (b"Permessage-Deflate", AGREED),
    (b"permessage-deflate; client_max_window_bits=15", f"{AGREED}; client_max_window_bits=12"),
    (b"permessage-deflate; client_max_window_bits=12", f"{AGREED}; client_max_window_bits=12"),
    (b'permessage-deflate; client_max_window_bits="12"', f"{AGREED}; client_max_window_bits=12"),
    (b"permessage-deflate; client_max_window_bits=11", AGREED),
    (b"permessage-deflate; client_max_window_bits=8", AGREED),
    (b"permessage-deflate; client_no_context_takeover", AGREED),
    (b"permessage-deflate; server_no_context_takeover", AGREED),
    (b"permessage-deflate; server_max_window_bits=15", AGREED),
    (b"permessage-deflate; server_max_window_bits=12", AGREED),
    (b"permessage-deflate; server_max_window_bits=11", None),
    (b"permessage-deflate; server_max_window_bits=9", None),
    (b"permessage-deflate; server_max_window_bits=8", None),
    (b"permessage-deflate; server_max_window_bits=8, permessage-deflate", AGREED),
    (b"x-webkit-deflate-frame, permessage-deflate", AGREED),
    (b"permessage-deflate; server_max_window_bits", None),
    (b"permessage-deflate; server_max_window_bits=", None),
    (b"permessage-deflate; server_max_window_bits=7", None),
    (b"permessage-deflate; server_max_window_bits=16", None),
    (b"permessage-deflate; server_max_window_bits=012", None),
    (b"permessage-deflate; server_max_window_bits=+12", None),
    (b"permessage-deflate; server_max_window_bits=\xb2", None),
    (b"permessage-deflate; server_max_window_bits=" + b"9" * 5000, None),
    (b"permessage-deflate; client_max_window_bits=x", None),
    (b"permessage-deflate; client_max_window_bits; client_max_window_bits", None),
    (b"permessage-deflate; client_no_context_takeover=1", None),
    (b"permessage-deflate; server_no_context_takeover=true", None),
    (b"permessage-deflate; unheard-of", None),
    (b"permessage-deflate;", None),
    (b"permessage-bzip2, permessage-snappy, permessage-brotli", None),
    (b"; ; =, ,,", None),
)


def deflated(data: bytes, bits: int = 12, flush: int = zlib.Z_SYNC_FLUSH) -> bytes:
    """A compressed message's payload (RFC 7692 §7.2.1)."""
    stream = zlib.compressobj(9, zlib.DEFLATED, -bits)
    return (stream.compress(data) + stream.flush(flush)).removesuffix(b"\0\0\xff\xff")


def small(data: bytes) -> bytes:
    """A compressed text frame."""
    return masked(deflated(data), rsv=RSV1)


class Streams:
    """zlib as `chatd.wire.deflate` sees it, which counts."""

    DEFLATED, MAX_WBITS, Z_SYNC_FLUSH = zlib.DEFLATED, zlib.MAX_WBITS, zlib.Z_SYNC_FLUSH
    error = zlib.error

    def __init__(self) -> None:
        self.compressors = 0
        self.inflated = 0

    def compressobj(self, level: int, method: int, bits: int, memory: int) -> Any:
        """A compressor."""
        self.compressors += 1
        return zlib.compressobj(level, method, bits, memory)

    def decompressobj(self, bits: int) -> Any:
        """A decompressor."""
        return _Counting(self, zlib.decompressobj(bits))


class _Counting:
    def __init__(self, streams: Streams, stream: Any) -> None:
        self._streams = streams
        self._stream = stream

    def decompress(self, data: bytes, most: int) -> bytes:
        """As zlib's."""
        inflated: bytes = self._stream.decompress(data, most)
        self._streams.inflated += len(inflated)
        return inflated

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class WebSocketCase(CalmCase):
    """Clients of the WebSocket, and what they got."""

    def setUp(self) -> None:
        super().setUp()
        self.witness = self.frames()

    def got(self, client: Frames) -> list[tuple[int, bytes]]:
        """The frames that the client has got."""
        self.node.hub.flush()
        found = []
        while client.received:
            found.append(self.successResultOf(client.next_frame()))
        return found

    def replies(self, client: Frames) -> list[Any]:
        """The replies that the client has got; there is nothing else."""
        frames = self.got(client)
        self.assertEqual({opcode for opcode, _ in frames} - {1}, set())
        return [json.loads(payload) for _, payload in frames]

    def others_are_served(self, what: str = "") -> None:
        """Another client is answered, and no fault was logged."""
        self.witness.frame(PING)
        self.assertEqual([r["reply"] for r in self.replies(self.witness)], ["still there"], what)
        self.calm()

    def closed_with(self, client: Frames, code: int, what: str = "") -> str:
        """The last frame is a close with that code, and the connection ends when it is
        answered. Its reason."""
        opcode, payload = self.got(client)[-1]
        self.assertEqual((opcode, int.from_bytes(payload[:2], "big")), (8, code), (what, payload))
        if not client.closed:
            client.frame(payload[:2], 8)
        self.assertTrue(client.closed, what)
        self.others_are_served(what)
        return payload[2:].decode()


class Negotiation(WebSocketCase):
    """What is agreed on for an offer."""

    compression = True

    def test_offers(self) -> None:
        """Each offer gets its answer, the connection serves in any case."""
        for offer, agreed in OFFERS:
            client = self.frames(offer=offer)
            found = [
                line.partition(": ")[2]
                for line in client.head.decode().split("\r\n")
                if line.startswith("Sec-WebSocket-Extensions")
            ]
            self.assertEqual(found, [agreed] if agreed else [], offer)
            client.frame(PING)
            self.assertEqual([r["reply"] for r in self.replies(client)], ["still there"], offer)
            client.send(small(PING))
            if agreed:
                self.assertEqual(len(self.replies(client)), 1, offer)
            else:
                self.closed_with(client, 1002, str(offer))


class Off(WebSocketCase):
    """The default."""

    def test_offers(self) -> None:
        """Every offer is passed over."""
        for offer, _ in OFFERS:
            client = self.frames(offer=offer)
            self.assertNotIn(b"Extensions", client.head, offer)
            client.send(small(PING))
            self.closed_with(client, 1002, str(offer))


class Compression(WebSocketCase):
    """Compressed messages in both directions."""

    compression = True
    limits = Limits(frame_bytes=4096)

    def test_requests(self) -> None:
        """A compressed request is answered like any other, however it was made and cut."""
        long = PING.ljust(4096)
        stored = b"\x00%b%b%b\x00" % (
            len(PING).to_bytes(2, "little"),
            (len(PING) ^ 0xFFFF).to_bytes(2, "little"),
            PING,
        )
        half = len(deflated(PING)) // 2
        one, two = deflated(PING)[:half], deflated(PING)[half:]
        for what, data in (
            ("whole", small(PING)),
            ("of the limit", small(long)),
            ("fragments", masked(one, fin=False, rsv=RSV1) + masked(two, 0)),
            ("a ping amid", masked(one, fin=False, rsv=RSV1) + masked(b"", 9) + masked(two, 0)),
            (
                "empty ones",
                masked(b"", fin=False, rsv=RSV1) + small(PING).replace(b"\xc1", b"\x80", 1),
            ),
            ("stored", masked(stored, rsv=RSV1)),
            ("a last block", masked(deflated(PING, flush=zlib.Z_FINISH) + b"\0", rsv=RSV1)),
            ("a last block alone", masked(deflated(PING, flush=zlib.Z_FINISH), rsv=RSV1)),
            ("two blocks", masked(deflated(PING, flush=zlib.Z_FULL_FLUSH), rsv=RSV1)),
        ):
            for size in (len(data), 1, 7):
                client = self.frames(offer=CHROME)
                for start in range(0, len(data), size):
                    client.send(data[start : start + size])
                found = [frame for frame in self.got(client) if frame[0] == 1]
                self.assertEqual(len(found), 1, (what, size))
                self.assertEqual(json.loads(found[0][1])["reply"], "still there", (what, size))
                self.assertIsNone(client.protocol._inner._perMessageCompress._stream, what)

    def test_order(self) -> None:
        """Compressed and plain requests in one chunk are answered in their order."""
        client = self.frames(offer=CHROME)
        requests = [b'{"cmd":"ping","id":%d}' % number for number in range(20)]
        frames = [small(r) if n % 3 else masked(r) for n, r in enumerate(requests)]
        client.send(b"".join(frames))
        self.assertEqual([reply["reply"] for reply in self.replies(client)], list(range(20)))

    def test_a_binary_message(self) -> None:
        """It is refused like one that is not compressed."""
        client = self.frames(offer=CHROME)
        client.send(masked(deflated(PING), 2, rsv=RSV1))
        (reply,) = self.replies(client)
        self.assertEqual((reply["reply"], reply["error"]), (None, "bad-request"))

    def test_an_empty_message(self) -> None:
        """It is no request; the session goes on."""
        client = self.frames(offer=CHROME)
        for payload in (b"\0", b""):
            client.send(masked(payload, rsv=RSV1))
            (reply,) = self.replies(client)
            self.assertEqual(reply["error"], "bad-request")

    def test_bombs(self) -> None:
        """A message that inflates over the limit is closed with 1009, and hardly more than the
        limit is ever inflated."""
        streams = Streams()
        self.patch(deflate, "zlib", streams)
        zeros = zlib.compressobj(9, zlib.DEFLATED, -12)
        megabyte = zeros.compress(bytes(2**20)) + zeros.flush(zlib.Z_FULL_FLUSH)
        piece = zeros.compress(bytes(1000)) + zeros.flush(zlib.Z_FULL_FLUSH)
        for what, data in (
            ("22 bytes", masked(deflated(bytes(4097)), rsv=RSV1)),
            ("a megabyte", masked(megabyte, rsv=RSV1)),
            ("binary", masked(megabyte, 2, rsv=RSV1)),
            (
                "fragments",
                masked(megabyte, fin=False, rsv=RSV1) + masked(megabyte, 0, fin=False) * 9,
            ),
            ("many", masked(piece, fin=False, rsv=RSV1) + masked(piece, 0, fin=False) * 9),
        ):
            for size in (1024, 1):  # as much as is taken in a turn, and byte by byte
                client = self.frames(offer=CHROME)
                before = streams.inflated
                for start in range(0, len(data), size):
                    if not client.closed:
                        client.send(data[start : start + size])
                self.assertLessEqual(streams.inflated - before, 4097, (what, size))
                self.assertIsNone(client.protocol._inner._perMessageCompress._stream, what)
                self.closed_with(client, 1009, what)
        self.assertLess(len(masked(deflated(bytes(4097)), rsv=RSV1)), 32)

    async def test_data_behind_the_last_block(self) -> None:
        """It is not gathered, however much comes: the message is broken."""
        client = self.frames(offer=CHROME)
        client.send(masked(deflated(PING, flush=zlib.Z_FINISH), fin=False, rsv=RSV1))
        client.send(masked(b"x" * 4000, 0, fin=False) * 9)
        while client.transport.paused:
            await deferLater(reactor, 0)
        self.closed_with(client, 1007)

    def test_garbage(self) -> None:
        """What is no deflate data, or stands for no UTF-8, is closed with 1007; whatever comes,
        the server makes no mistake."""
        for what, data in (
            ("a bad block", b"\xff\xff\xff"),
            ("a bad length", b"\x00\x01\x00\x00\x00x"),
            ("a block cut off", b"\x00\x0a\x00\xf5\xffabc"),
            ("far back", b"\x4b\x04\x73\x00\x00"[:2] + b"\xff" * 8),
            ("zlib's header", zlib.compress(PING)),
            ("no UTF-8", deflated(b'{"cmd":"\xff"}')),
            ("UTF-8 cut off", deflated(b"\xe5\x88")),
        ):
            client = self.frames(offer=CHROME)
            client.send(masked(data, rsv=RSV1) + masked(PING))
            self.closed_with(client, 1007, what)
        dice = random.Random(7692)
        for _ in range(300):
            broken = bytearray(deflated(PING * 3))
            for _ in range(dice.randrange(1, 4)):
                broken[dice.randrange(len(broken))] = dice.randrange(256)
            client = self.frames(offer=CHROME)
            client.send(masked(bytes(broken[: dice.randrange(len(broken) + 1)]), rsv=RSV1))
            ((opcode, payload),) = self.got(client)
            if opcode == 8:
                self.assertIn(int.from_bytes(payload[:2], "big"), (1007, 1009), broken.hex())
            client.vanish()
        self.others_are_served()

    def test_misplaced(self) -> None:
        """The bit in a control frame or a continuation breaks the framing."""
        first = masked(deflated(PING)[:9], fin=False, rsv=RSV1)
        for data in (masked(b"", 9, rsv=RSV1), first + masked(b"x", 0, rsv=RSV1)):
            client = self.frames(offer=CHROME)
            client.send(data)
            self.closed_with(client, 1002)

    async def test_events(self) -> None:
        """An event is compressed once for all who agreed on it, and not for the others."""
        alice = await self.user("alice", self.frames())
        await alice.ask("create", name="team")
        smalls = []
        for name, offer in (("bob", CHROME), ("eve", FIREFOX), ("tom", CHROME), ("bob", FIREFOX)):
            client = await self.user(name, self.frames(offer=offer))
            await client.ask("join", group="#team")
            smalls.append(client)
        plain = await self.user("zoe", self.frames())
        await plain.ask("join", group="#team")
        streams = Streams()
        for client in smalls:
            client.received, client.compressed = b"", 0
        self.patch(deflate, "zlib", streams)
        await alice.ask("say", to="#team", text="刘备 " * 100)
        for client in (*smalls, plain):
            while (event := await client.event())["event"] != "message":
                pass
            self.assertEqual(event["text"], "刘备 " * 100)
        self.assertEqual(streams.compressors, 1)
        self.assertEqual([client.compressed for client in smalls], [1] * 4)
        self.assertEqual(plain.compressed, 0)

    async def test_short_ones(self) -> None:
        """What is short, or would not shrink, is not compressed."""
        await self.user("bob", self.frames())
        client = await self.user("alice", self.frames(offer=CHROME))
        client.compressed = 0
        await client.ask("ping")
        self.assertEqual(client.compressed, 0)
        await client.ask("help")
        self.assertEqual(client.compressed, 1)
        self.assertIsNone(deflate.compressed(random.Random(4).randbytes(3000)))
        self.assertIsNone(deflate.compressed(b"x" * 199))
        self.assertIsNotNone(deflate.compressed(b"x" * 200))


class LargeMessages(WebSocketCase):
    """A larger limit."""

    compression = True
    limits = Limits(frame_bytes=2**21)

    def test_the_window(self) -> None:
        """A client that was told to have a window of 4 KB has sent no good data where it looks
        farther back; one that could not be told has the largest. Ours is 4 KB for both."""
        noise = random.Random(1).randbytes(3000).hex()
        far = json.dumps({"cmd": "ping", "id": noise * 2}).encode()
        for bits, offer, taken in ((15, FIREFOX, True), (12, CHROME, True), (15, CHROME, False)):
            client = self.frames(offer=offer)
            data = masked(deflated(far, bits), rsv=RSV1)
            for start in range(0, len(data), 100):
                if not client.closed:
                    client.send(data[start : start + 100])
            if taken:
                (reply,) = self.replies(client)
                self.assertEqual((reply["reply"], client.compressed), (noise * 2, 1))
            else:
                self.closed_with(client, 1007)

    def test_a_large_bomb(self) -> None:
        """A megabyte that stands for a gigabyte is stopped at the limit, which is 2 MiB here."""
        streams = Streams()
        self.patch(deflate, "zlib", streams)
        zeros = zlib.compressobj(9, zlib.DEFLATED, -12)
        megabyte = zeros.compress(bytes(2**20)) + zeros.flush(zlib.Z_FULL_FLUSH)
        bomb = megabyte * 1024
        self.assertGreater(len(bomb), 2**20)
        client = self.frames(offer=CHROME)
        client.send(masked(bomb, rsv=RSV1))
        self.assertLessEqual(streams.inflated, 2**21 + 1)
        self.closed_with(client, 1009)


FLOODS: tuple[tuple[str, bytes], ...] = (  # (what, the frames of which too many come)
    ("pings", masked(b"", 9)),
    ("pings of 125 bytes", masked(b"x" * 125, 9)),
    ("pongs", masked(b"x", 10)),
    ("empty fragments", masked(b"", 0, fin=False)),
    ("fragments", masked(b"x", 0, fin=False)),
    ("messages of two frames", masked(b"{", fin=False) + masked(b"}", 0)),
)


class Frequency(WebSocketCase):
    """Frames that are no whole message, by the second."""

    limits = Limits(frames_per_second=50)

    def _client(self, what: str) -> Frames:
        client = self.frames()
        if what.endswith("fragments"):
            client.frame(b"", fin=False)  # counts, too
        return client

    def test_floods(self) -> None:
        """One more than may come in a second is closed with 1008 and a sentence."""
        for what, frame in FLOODS:
            self.node.tick += 1
            client = self._client(what)
            each = 2 if what.startswith("messages") else 1
            before = 1 if what.endswith("fragments") else 0
            client.send(frame * ((50 - before) // each))
            self.assertNotIn(8, [opcode for opcode, _ in self.got(client)], what)
            client.send(frame)
            self.assertEqual(self.closed_with(client, 1008, what), CLOSE_CODES[1008], what)

    def test_the_next_second(self) -> None:
        """Each tick allows as many again, and no more however long nothing came."""
        client = self.frames()
        for _ in range(5):
            client.send(masked(b"", 9) * 50)
            self.node.tick += 1
        self.assertEqual(len(self.got(client)), 250)
        self.node.tick += 100
        client.send(masked(b"", 9) * 51)
        self.closed_with(client, 1008)

    def test_the_limit_at_the_time(self) -> None:
        """A limit that is changed holds for the connections that are there."""
        client = self.frames()
        self.node.limits = msgspec.structs.replace(self.limits, frames_per_second=3)
        client.send(masked(b"", 9) * 3)
        self.assertEqual(len(self.got(client)), 3)
        client.send(masked(b"", 9))
        self.closed_with(client, 1008)

    def test_whole_messages(self) -> None:
        """They do not count, however they are cut: that is a matter of requests."""
        client = self.frames()
        for frame in (masked(PING), masked(PING, 2)):
            for _ in range(60):
                client.send(frame[:9])
                client.send(frame[9:])
        self.assertEqual(len(self.replies(client)), 120)

    async def test_answers(self) -> None:
        """Pongs that answer a ping of the server's do not count, once for each."""
        client = await self.user("alice", self.frames())
        (session,) = (s for s in self.node.hub.sessions if s.user)
        for _ in range(60):
            self.node.cursors.ask(session)
            opcode, payload = await client.next_frame()
            self.assertEqual(opcode, 9)
            client.frame(payload, 10)
        self.assertEqual(self.got(client), [])
        client.send(masked(payload, 10) * 51)
        self.closed_with(client, 1008)

    def test_a_large_flood(self) -> None:
        """Of 200,000 pings those of one second are answered; others are served meanwhile."""
        client = self.frames()
        pongs = 0
        for _ in range(200):
            client.send(masked(b"x" * 8, 9) * 1000)
            pongs += sum(opcode == 10 for opcode, _ in self.got(client))
            self.others_are_served()
        self.assertEqual(pongs, 50)

    def test_what_comes_after_the_close(self) -> None:
        """Who goes on all the same is not even looked at."""
        client = self.frames()
        client.send(masked(b"", 9) * 101)
        inner: Any = client.protocol._inner
        seen = inner._frames
        client.send(masked(b"", 9) * 1000)
        self.assertEqual(inner._frames, seen)
        self.others_are_served()


class Bounds(WebSocketCase):
    """What a client can make the server keep, where it may send as many frames as it likes."""

    limits = Limits(frames_per_second=1_000_000)

    async def _send(self, client: Frames, data: bytes) -> None:
        client.send(data)
        while client.transport.paused:
            await deferLater(reactor, 0)

    async def test_fragments(self) -> None:
        """Fragments of one byte take no more room than one of all their bytes; with one byte
        over the limit the message is closed with 1009."""
        client = self.frames()
        await self._send(client, masked(b" ", fin=False) + masked(b" ", 0, fin=False) * 65_535)
        self.assertEqual(self.got(client), [])
        self.assertLess(sys.getsizeof(client.protocol._inner.message_data), 80_000)
        await self._send(client, masked(b" ", 0, fin=False) * 35_000)
        self.closed_with(client, 1009)

    async def test_nothing_is_logged(self) -> None:
        """What clients do wrong leaves nothing in the log at the usual level."""
        events: list[LogEvent] = []
        note: Any = events.append
        globalLogPublisher.addObserver(note)
        self.addCleanup(globalLogPublisher.removeObserver, note)
        wrong = (b"\xff" * 10, masked(b"\xff"), masked(b" " * 70_000), masked(b"x", rsv=4))
        for data in (*wrong, masked(b"x" * 126, 9), masked(b"x" * 300, 9), masked(b"\x00", 8)):
            client = self.frames()
            client.send(data)
            client.transport.lose(Failure(ConnectionLost()))
        levels = (LogLevel.warn, LogLevel.error, LogLevel.critical)
        found = [event["log_format"] for event in events if event.get("log_level") in levels]
        self.assertEqual(found, [])

    async def test_empty_fragments(self) -> None:
        """Empty fragments take no room."""
        client = self.frames()
        await self._send(client, masked(b"", fin=False) + masked(b"", 0, fin=False) * 100_000)
        self.assertLess(sys.getsizeof(client.protocol._inner.message_data), 200)
        await self._send(client, masked(PING, 0))
        self.assertEqual([reply["reply"] for reply in self.replies(client)], ["still there"])

    async def test_a_frame_byte_by_byte(self) -> None:
        """Nor does a frame that comes byte by byte take more."""
        client = self.frames()
        for byte in masked(PING.ljust(20_000))[:-1]:
            client.send(bytes((byte,)))
        self.assertLess(sys.getsizeof(client.protocol._inner.message_data), 25_000)

    async def test_what_comes_after_a_failure(self) -> None:
        """Of a message that was over the limit nothing is kept, however much comes until the
        client answers the close."""
        client = self.frames()
        await self._send(client, b"\x81\xff" + (2**40).to_bytes(8, "big") + bytes(2**20))
        self.assertEqual(len(client.protocol._inner.message_data), 0)
        self.assertEqual(len(client.protocol._inner.data), 0)
        ((opcode, payload),) = self.got(client)
        self.assertEqual((opcode, payload[:2]), (8, (1009).to_bytes(2, "big")))

    async def test_pongs_that_nobody_reads(self) -> None:
        """A client that pings and does not read is read no further once as much as may wait
        for it does; then it goes on, and every ping is answered."""
        await self._ping_without_reading("tcp:0:interface=127.0.0.1", None)

    async def test_the_same_over_tls(self) -> None:
        """Where the transport tells only once that its buffer is full."""
        directory = Path(self.mktemp())
        directory.mkdir(parents=True)
        certificate, key = self_signed(directory)
        trusting = ssl.create_default_context(cafile=certificate)
        endpoint = f"ssl:0:interface=127.0.0.1:privateKey={key}:certKey={certificate}"
        await self._ping_without_reading(endpoint, trusting)

    async def _ping_without_reading(self, endpoint: str, tls: ssl.SSLContext | None) -> None:
        web: Any = self.web
        port = await serverFromString(reactor, endpoint).listen(web)
        self.addCleanup(port.stopListening)
        client = socket.create_connection(("127.0.0.1", port.getHost().port))
        self.addCleanup(client.close)
        client.setblocking(False)
        if tls is not None:
            client = tls.wrap_socket(
                client, server_hostname="localhost", do_handshake_on_connect=False
            )
            await self._patiently(client.do_handshake)
        await self._patiently(client.send, UPGRADE)
        while len(self.node.hub.sessions) < 2:
            await deferLater(reactor, 0)
        own = self.witness.protocol._inner
        (session,) = (s for s in self.node.hub.sessions if s.link is not own)
        transport = cast(TransportLink, session.link).transport
        pings, sent = masked(b"x" * 125, 9) * 500, 0
        while not session.paused:
            with contextlib.suppress(*NOT_NOW):
                sent += client.send(pings[sent % len(pings) :])
            self.assertLess(sent, 2**26)
            await deferLater(reactor, 0)
        for _ in range(50):
            await deferLater(reactor, 0)
        held = link._buffered(link._socket(transport))
        self.assertLess(held, self.limits.outbound_bytes + 2 * 65_536)
        self.others_are_served()
        pongs = b""
        while pongs.count(b"\x8a\x7d") < sent // 131:
            pongs += await self._patiently(client.recv, 2**16)
        self.assertFalse(session.paused)

    async def _patiently(self, act: Callable[..., Any], *words: Any) -> Any:
        while True:
            try:
                return act(*words)
            except NOT_NOW:
                await deferLater(reactor, 0)


# Every option that Autobahn knows of, and what chatd decided.
OPTIONS: dict[str, Any] = {
    "versions": [13],
    "webStatus": False,
    "utf8validateIncoming": True,
    "requireMaskedClientFrames": True,
    "maskServerFrames": False,
    "applyMask": True,
    "maxFramePayloadSize": 4711,  # limits.frame_bytes
    "maxMessagePayloadSize": 4711,
    "autoFragmentSize": 0,
    "failByDrop": False,
    "echoCloseCodeReason": True,
    "openHandshakeTimeout": 0,
    "closeHandshakeTimeout": 0,
    "tcpNoDelay": True,
    "serveFlashSocketPolicy": False,
    "flashSocketPolicy": "",
    "autoPingInterval": 0,
    "autoPingTimeout": 0,
    "autoPingSize": 12,
    "autoPingRestartOnAnyTraffic": True,
    "allowedOrigins": ["*"],
    "allowNullOrigin": True,
    "maxConnections": 0,
    "trustXForwardedFor": 0,
    "logOctets": False,
    "logFrames": False,
    "trackTimings": False,
}
FUNCTIONS = {"perMessageCompressionAccept", "allowedOriginsPatterns"}


class Options(CalmCase):
    """Autobahn's options, whose defaults are open."""

    limits = Limits(frame_bytes=4711)

    def test_all_are_known(self) -> None:
        """Whoever takes an Autobahn with an option more has to decide about it."""
        blank: Any = WebSocketServerFactory.__new__(WebSocketServerFactory)
        blank.resetProtocolOptions()
        known = set(vars(blank)) | set(WebSocketServerProtocol.CONFIG_ATTRS)
        self.assertEqual(known, set(OPTIONS) | FUNCTIONS)

    def test_all_are_set(self) -> None:
        """Each is an attribute of our own class, not one that Autobahn copies or defaults to."""
        protocol = self.frames().protocol._inner
        for name, value in OPTIONS.items():
            self.assertEqual(getattr(protocol, name), value, name)
            self.assertNotIn(name, vars(protocol))
            self.assertIn(name, {**vars(ChatProtocol), **vars(type(protocol))})
        for name in FUNCTIONS:
            self.assertIn(name, vars(ChatProtocol))
        self.assertIsNone(protocol.perMessageCompressionAccept(["anything"]))
        self.assertEqual(protocol.CONFIG_ATTRS, ())


class Idle(CalmCase):
    """What an idle connection holds."""

    def test_attributes(self) -> None:
        """Nothing of the handshake, and nothing per connection that could be shared: what
        Autobahn keeps anew has to be looked at."""
        protocol = self.frames().protocol._inner
        kept = {
            name
            for name, value in vars(protocol).items()
            if sys.getsizeof(value) > 40 and value is not protocol.traffic
        }
        shared = {"factory", "transport", "session"}
        autobahns = {"_results", "_valid_events", "is_closed", "is_open", "peer", "utf8validator"}
        self.assertEqual(kept, shared | autobahns)


class Handshakes(WebSocketCase):
    """Requests for /ws that make no WebSocket."""

    def _answer(self, head: bytes) -> Client:
        client = self.raw_web()
        client.send(head)
        return client

    def test_absurd(self) -> None:
        """Each is refused in one answer with a sentence; then the connection ends."""
        many = ", ".join(f"p{number}" for number in range(100)).encode()
        for status, old, new in (
            (400, b"Host: chat.test\r\n", b""),
            (400, b"Host: chat.test", b"Host: chat.test\r\nHost: chat.test"),
            (400, b"Host: chat.test", b"Host: chat.test\r\n folded"),
            (400, b"Host: chat.test", b"Host: chat.test\r\n\tX-Folded: yes"),
            (400, b"Host: chat.test", b"X: y\r\n Host: chat.test"),
            (400, b"Host: chat.test", b"Host : chat.test"),
            (400, b"Host: chat.test", b" Host: chat.test"),
            (400, b"Host: chat.test", b"Host: chat.test\r\nno colon"),
            (400, b"Host: chat.test", b"Host: chat.test\r\n: nameless"),
            (400, b"Host: chat.test", b"Host: chat.test\r\nX: \x1b[2J"),
            (400, b"Host: chat.test", b"Host: chat.test\r\nX: a\x85Y: b"),
            (400, b"Host: chat.test", b"Host: chat.test\r\nX: a\x0bY: b"),
            (400, b"Host: chat.test", b"Host: chat.test\nX: y"),
            (400, b"Host: chat.test", b"Host: chat.test\rX: y"),
            (400, b"Host: chat.test", b"Host: chat.test\0"),
            (400, b"Host: chat.test", b"Host: chat.test:\xb2"),
            (400, b"Host:", b"Transfer-Encoding: chunked\r\nHost:"),
            (400, b"Host:", b"Content-Length: 5\r\nHost:"),
            (426, b"Version: 13", b"Version: 8"),
            (426, b"Version: 13", b"Version: 14"),
            (400, b"Version: 13", b"Version: 13, 8"),
            (400, b"Version: 13", b"Version: 13\r\nSec-WebSocket-Version: 13"),
            (400, b"Sec-WebSocket-Version: 13\r\n", b""),
            (426, b"Upgrade: websocket\r\n", b""),
            (400, b"Connection: Upgrade\r\n", b""),
            (400, b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", b""),
            (400, b"ZQ==", b"ZQ==\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="),
            (400, b"dGhlIHNhbXBsZSBub25jZQ==", b""),
            (400, b"dGhlIHNhbXBsZSBub25jZQ==", b"dGhlIHNhbXBsZSBub25j"),
            (400, b"dGhlIHNhbXBsZSBub25jZQ==", b"dGhlIHNhbXBsZSBub25jZWE="),
            (400, b"dGhlIHNhbXBsZSBub25jZQ==", b"dGhlIHNhbXBsZSBub25!ZQ=="),
            (400, b"dGhlIHNhbXBsZSBub25jZQ==", b"dGhlIHNhbXBsZSBub25jZQ==" * 500),
            (400, b"Host:", b"Sec-WebSocket-Protocol: " + many + b", p7\r\nHost:"),
            (400, b"Host:", b"Sec-WebSocket-Extensions: x\r\nSec-WebSocket-Extensions: y\r\nHost:"),
            (405, b"GET", b"POST"),
            (405, b"GET", b"get"),
            (505, b"HTTP/1.1", b"HTTP/1.0"),
            (505, b"HTTP/1.1", b"HTTP/2.0"),
            (400, b"/ws", b"/ws?a b"),
            (400, b"/ws", b"/ws?#x"),
        ):
            changed = UPGRADE.replace(old, new, 1)
            self.assertNotEqual(changed, UPGRADE)
            client = self._answer(changed + masked(PING))
            head, _, body = client.received.partition(b"\r\n\r\n")
            self.assertTrue(client.closed, new)
            fields = dict(line.split(b": ") for line in head.split(b"\r\n")[1:])
            self.assertEqual(int(head.split()[1]), status, (new, head))
            self.assertIn(b"Content-Length", fields, (new, head))
            self.assertEqual(int(fields[b"Content-Length"]), len(body), new)
            self.assertEqual(fields[b"Connection"], b"close")
            self.assertTrue(body.strip().decode("ascii").isprintable(), new)
            self.assertLess(len(client.received), 500, new)
            self.assertEqual(fields.get(b"Allow"), b"GET" if status == 405 else None)
            wanted = b"13" if status == 426 else None
            self.assertEqual(fields.get(b"Sec-WebSocket-Version"), wanted, new)
            self.assertTrue(client.closed, new)
            self.others_are_served(repr(new))

    def test_unusual(self) -> None:
        """Each is as good as any."""
        many = ", ".join(f"p{number}" for number in range(100)).encode()
        for old, new in (
            (b"/ws", b"/ws?x=1&y=%ff"),
            (b"Host: chat.test", b"host:chat.test:8080"),
            (b"Host: chat.test", b"Host: [::1]:8080"),
            (b"Host: chat.test", b"Host: chat.test\r\nX:\r\nX: caf\xe9\r\nX: \t"),
            (b"websocket", b"h2c, WebSocket"),
            (b"Connection: Upgrade", b"Connection: keep-alive, upgrade"),
            (b"Host:", b"Content-Length: 0\r\nHost:"),
            (b"Host:", b"Sec-WebSocket-Protocol: " + many + b"\r\nHost:"),
        ):
            client = self._answer(UPGRADE.replace(old, new, 1) + masked(PING))
            self.node.hub.flush()
            self.assertTrue(client.received.startswith(b"HTTP/1.1 101 "), new)
            self.assertIn(b"still there", client.received, new)
            self.assertNotIn(b"Protocol:", client.received, new)

    def test_what_comes_after_a_refusal(self) -> None:
        """It is not kept, though the connection may last as long as TLS takes to end it."""
        client = self.raw_web()
        lingering = self.patch(client.transport, "lose", lambda reason: None)
        client.send(UPGRADE.replace(b"GET", b"POST"))
        inner = client.protocol._inner
        before = len(inner.data)
        client.send(b"x" * 100_000)
        self.assertEqual(len(inner.data), before)
        self.assertEqual(client.received.count(b"HTTP/1.1"), 1)
        lingering.restore()
        client.transport.abortConnection()


class Closed(WebSocketCase):
    """After the close."""

    def test_what_comes_then(self) -> None:
        """It is not kept, though the connection may last as long as TLS takes to end it."""
        client = self.frames()
        lingering = self.patch(client.transport, "lose", lambda reason: None)
        client.frame(b"", 8)
        client.send(masked(PING) * 3000)
        inner = client.protocol._inner
        self.assertEqual((len(inner.data), len(inner._unread)), (0, 0))
        self.assertEqual(self.got(client), [(8, b"")])
        lingering.restore()
        client.transport.abortConnection()


class Header(SynchronousTestCase):
    """Parts of the answer to an offer."""

    def test_no_offer(self) -> None:
        """Where nothing is offered nothing is agreed on."""
        self.assertIsNone(deflate.answer([]))

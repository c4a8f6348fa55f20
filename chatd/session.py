"""A session: one client's connection, as the inside sees it."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Protocol

from chatd.errors import Refused
from chatd.model import Party, Room, Standing
from chatd.rates import Bucket


class Wire(Protocol):
    """One way to put replies and events into bytes. Wires are shared by all sessions that
    use them, so that an event is encoded once for each wire."""

    def reply(self, request_id: Any, result: Any) -> bytes:
        """A command's result; empty if nobody waits for it."""

    def error(self, request_id: Any, error: Refused) -> bytes:
        """A refusal."""

    def event(self, event: dict[str, Any]) -> bytes:
        """An event."""


class Link(Protocol):
    """The connection beneath a session. `live`: events can be sent over it. `pings`: its
    client answers pings. `crowded`: much waits to be sent."""

    live: ClassVar[bool]
    pings: ClassVar[bool]
    crowded: bool

    def send(self, data: bytes) -> None:
        """Sends what a wire encoded, at once if nothing waits to be sent."""

    def close(self, code: int, reason: str) -> None:
        """Says goodbye with a close code of PROTOCOL, then closes."""

    def abort(self) -> None:
        """Drops the connection without waiting for the peer."""

    def ping(self, payload: bytes) -> None:
        """Asks the peer for a sign of life, where its client can answer with the payload."""

    def pending(self) -> int:
        """The bytes sent that the peer's kernel has not acknowledged."""

    def hold(self, on: bool) -> None:
        """Stops or goes on reading from the peer."""

    def finished(self) -> None:
        """Every request has been answered, of a session that was `finishing`."""


class User:
    """A user with sessions on this node; `groups` holds the user's standing by room id, `peers`
    the rooms found so far by address, `open` the ids of those between two where the other one
    takes messages, `bucket` what all sessions together may ask for."""

    __slots__ = ("bucket", "groups", "id", "name", "open", "party", "peers", "sessions")

    def __init__(self, party: Party, groups: Mapping[int, Standing] = MappingProxyType({})) -> None:
        self.party = party
        self.id = party.id
        self.name = party.name
        self.groups = dict(groups)
        self.sessions: list[Session] = []
        self.peers: dict[str, Room] | None = None
        self.open: set[int] | None = None
        self.bucket: Bucket | None = None


class Gap:
    """Where a session stands in a room whose entries come to it from the log.

    It has got the entries up to `position`; of those fanned out without it, `seen` is the
    last; `own` are those that came from the session itself, which got the reply. Once `level`,
    it takes live entries again, but for those that it already has.
    """

    __slots__ = ("level", "own", "position", "room", "seen")

    def __init__(self, room: Room, position: int, seen: int = 0) -> None:
        self.room = room
        self.position = position
        self.seen = seen
        self.own: set[int] = set()
        self.level = False

    def holds_back(self, seq: int) -> bool:
        """Whether a live entry is not to be written."""
        if self.level and seq > self.position:
            self.position = seq
            return False
        self.seen = max(self.seen, seq)
        return True


class Session:
    """Who is connected, since when, what is on its way to them.

    `outbox` is what the present turn of the event loop has for the client. `behind` holds the
    rooms whose entries come from the log for now instead of live. It gains every room that
    has news while the session is `loading` (its backlog is not known yet) or `paused` (its
    buffer is full). `unproved` holds the last seqs written, by room id, that the client has
    not been seen to have received; `asked` those of them written before the last ping, whose
    number is `question`, in the tick `asked_in`; `answers`: it has answered one. `drained` is what
    was pending when the heartbeat last looked.
    `over` holds the replayed groups that are no more: no client can acknowledge them by address.
    `token` is the digest of the token that the client logged in with or got, `expires` (ms) its
    end and so the session's.
    `bucket` and `place` hold what the session and all from its place may ask for, `mistakes`
    what it may get wrong.
    """

    __slots__ = (
        "acknowledging",
        "address",
        "answers",
        "asked",
        "asked_in",
        "behind",
        "bucket",
        "busy",
        "drained",
        "ended",
        "expires",
        "feeding",
        "finishing",
        "heard",
        "held",
        "id",
        "link",
        "loading",
        "mistakes",
        "outbox",
        "over",
        "paused",
        "pinged",
        "place",
        "question",
        "replies",
        "requests",
        "room",
        "scopes",
        "since",
        "token",
        "unproved",
        "user",
        "wire",
    )

    def __init__(self, link: Link, wire: Wire, address: str, tick: int) -> None:
        self.id = secrets.token_hex(8)
        self.link = link
        self.wire = wire
        self.address = address
        self.since = tick
        self.heard = tick
        self.pinged = 0
        self.bucket: Bucket | None = None
        self.place: Bucket | None = None
        self.mistakes: Bucket | None = None
        self.user: User | None = None
        self.token = b""
        self.expires = 0
        self.scopes: frozenset[str] = frozenset()
        self.room = ""
        self.acknowledging = False
        self.over: frozenset[int] = frozenset()
        self.outbox: list[bytes] | None = None
        self.behind: dict[int, Gap] | None = None
        self.loading = False
        self.paused = False
        self.feeding = False
        self.unproved: dict[int, int] | None = None
        self.asked: dict[int, int] | None = None
        self.question = 0
        self.asked_in = 0
        self.answers = False
        self.drained = 0
        self.requests: Any = None
        self.replies: Any = None
        self.busy = False
        self.held = False
        self.finishing = False
        self.ended = False

    def holds_back(self, room: Room, seq: int, own: bool) -> bool:
        """Whether a live entry must not be written now, because the log will bring it or has
        brought it; `own`: it came from this session."""
        behind = self.behind
        assert behind is not None
        gap = behind.get(room.id)
        if gap is None and self.lagging:
            gap = behind[room.id] = Gap(room, seq - 1)
        if gap is None:
            return False
        gap.level = gap.level and not self.lagging
        held = gap.holds_back(seq)
        if held and own:
            gap.own.add(seq)
        return held

    def gaps(self) -> dict[int, Gap]:
        """The rooms it is behind in; from here on it may be."""
        if self.behind is None:
            self.behind = {}
        return self.behind

    def wrote(self, room_id: int, seq: int) -> None:
        """Notes that a room's entries up to `seq` are on their way to the client."""
        if self.unproved is None:
            self.unproved = {room_id: seq}
        else:
            self.unproved[room_id] = seq

    @property
    def lagging(self) -> bool:
        """Whether no live entry is written for now, in any room."""
        return self.loading or self.paused

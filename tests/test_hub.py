"""Fan-out: whom an event reaches, what it costs."""

from __future__ import annotations

from collections import Counter
from typing import Any, ClassVar

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from chatd.errors import Refused
from chatd.hub import Hub
from chatd.model import UNMUTED, Entry, Membership, Party, Room
from chatd.session import Gap, Session

ALICE, BOB = Party(1, "alice"), Party(2, "bob")
DIRECT = Room(7, "direct", low=ALICE, high=BOB)
TEAM = Room(8, "group", "team")


class CountingWire:
    """A wire that counts what it encodes."""

    def __init__(self) -> None:
        self.encoded = 0

    def reply(self, request_id: Any, result: Any) -> bytes:
        return b""

    def error(self, request_id: Any, error: Refused) -> bytes:
        return b""

    def event(self, event: dict[str, Any]) -> bytes:
        self.encoded += 1
        return f"{event['to']} {event.get('seq', event['event'])};".encode()


class RecordingLink:
    """A link that keeps each send apart."""

    live: ClassVar[bool] = True
    pings: ClassVar[bool] = True

    def __init__(self) -> None:
        self.crowded = False
        self.sent: list[bytes] = []

    def send(self, data: bytes) -> None:
        self.sent.append(data)

    def close(self, code: int, reason: str) -> None:
        pass

    def abort(self) -> None:
        pass

    def ping(self, payload: bytes) -> None:
        pass

    def pending(self) -> int:
        return 0

    def hold(self, on: bool) -> None:
        pass

    def finished(self) -> None:
        pass


def entries(room: Room, sender: Party, *seqs: int) -> list[Entry]:
    """Messages of those numbers."""
    to = room.address_from(sender.id)
    return [Entry(room.id, seq, "message", to, sender, 0, {"text": "x"}) for seq in seqs]


class FanOut(SynchronousTestCase):
    """One hub, sessions that only record."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.hub = Hub(self.clock)
        self.wire = CountingWire()

    def session(self, party: Party, *groups: Room, wire: CountingWire | None = None) -> Session:
        session = Session(RecordingLink(), wire or self.wire, "", 0)
        self.hub.open(session)
        self.hub.enter(session, party, [Membership(room, UNMUTED["member"]) for room in groups])
        return session

    def sent(self, session: Session) -> list[bytes]:
        link: Any = session.link
        return list(link.sent)

    def test_an_event_is_encoded_once_for_each_wire(self) -> None:
        """However many sessions get it, an event is encoded once for each wire."""
        other = CountingWire()
        for number in range(50):
            self.session(Party(number, f"u{number}"), TEAM)
            self.session(Party(number, f"u{number}"), TEAM, wire=other)
        self.hub.fan_out(TEAM, entries(TEAM, ALICE, 1, 2), [None, None])
        self.assertEqual((self.wire.encoded, other.encoded), (2, 2))

    def test_hints_are_shed_first(self) -> None:
        """What is not kept goes to the others in a room that keep up, encoded once: not to the
        one it tells of, nor to sessions that are behind, or whose buffer has begun to fill."""
        alice, bob, late, slow, crowded = (
            self.session(Party(number, f"u{number}"), TEAM) for number in (1, 2, 3, 4, 5)
        )
        late.behind = {TEAM.id: Gap(TEAM, 7)}
        slow.paused = True
        slow.gaps()[TEAM.id] = Gap(TEAM, 7)
        crowded.link.crowded = True
        self.hub.hint(TEAM, {"event": "typing", "to": "#team", "from": "u1"}, 1)
        self.hub.flush()
        told = [self.sent(session) for session in (alice, bob, late, slow, crowded)]
        self.assertEqual(told, [[], [b"#team typing;"], [], [], []])
        self.hub.fan_out(TEAM, entries(TEAM, ALICE, 8), [None])
        self.hub.flush()
        self.assertEqual(self.sent(crowded), [b"#team 8;"])
        self.assertEqual(self.wire.encoded, 2)

    def test_one_send_for_each_session_and_turn(self) -> None:
        """What one turn has for a session leaves in one send, whichever rooms it is from."""
        session = self.session(BOB, TEAM)
        self.hub.fan_out(TEAM, entries(TEAM, ALICE, 1, 2, 3), [None] * 3)
        self.hub.fan_out(DIRECT, entries(DIRECT, ALICE, 1), [None])
        self.hub.send(session, b"reply;")
        self.clock.advance(0)
        self.assertEqual(self.sent(session), [b"#team 1;#team 2;#team 3;@bob 1;reply;"])

    def test_no_deferred_call_for_each_session(self) -> None:
        """A turn's sends cost one delayed call, however many sessions get something."""
        for number in range(50):
            self.session(Party(number, f"u{number}"), TEAM)
        self.hub.fan_out(TEAM, entries(TEAM, ALICE, 1), [None])
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)

    def test_the_session_that_sent_gets_no_event(self) -> None:
        """The sender's session gets the reply alone, its other sessions the event."""
        sender, second = self.session(ALICE, TEAM), self.session(ALICE, TEAM)
        self.hub.fan_out(TEAM, entries(TEAM, ALICE, 1, 2), [sender, None])
        self.clock.advance(0)
        self.assertEqual(self.sent(sender), [b"#team 2;"])
        self.assertEqual(self.sent(second), [b"#team 1;#team 2;"])

    def test_a_direct_room_reaches_two_users(self) -> None:
        """Both users' sessions get what is said between them, nobody else's."""
        alice, bob = self.session(ALICE), self.session(BOB)
        carol = self.session(Party(3, "carol"))
        self.hub.fan_out(DIRECT, entries(DIRECT, ALICE, 1), [None])
        self.clock.advance(0)
        self.assertEqual([self.sent(s) for s in (alice, bob, carol)], [[b"@bob 1;"]] * 2 + [[]])

    def test_an_inbox_reaches_its_user_once(self) -> None:
        """A note to oneself reaches each of the user's sessions once."""
        inbox = Room(9, "inbox", low=ALICE, high=ALICE)
        session = self.session(ALICE)
        self.hub.fan_out(inbox, entries(inbox, ALICE, 1), [None])
        self.clock.advance(0)
        self.assertEqual(self.sent(session), [b"@alice 1;"])

    def test_nothing_is_left_of_who_went(self) -> None:
        """When everybody has gone, the hub holds no user, group or session."""
        sessions = [self.session(ALICE, TEAM), self.session(ALICE), self.session(BOB, TEAM)]
        for session in sessions:
            self.hub.close(session)
        left = Counter(
            {"users": len(self.hub._users), "groups": len(self.hub._groups)}
            | {"sessions": len(self.hub.sessions)}
        )
        self.assertEqual(left.total(), 0)

    def test_a_closed_session_is_not_written_to(self) -> None:
        """What was on its way to a session that went is dropped."""
        session = self.session(BOB, TEAM)
        self.hub.fan_out(TEAM, entries(TEAM, ALICE, 1), [None])
        self.hub.close(session)
        self.clock.advance(0)
        self.assertEqual(self.sent(session), [])

    def test_membership_moves_the_audience(self) -> None:
        """Who joins gets what comes after, who leaves does not."""
        session = self.session(BOB)
        self.hub.join(Membership(TEAM, UNMUTED["member"]), BOB.id)
        self.hub.fan_out(TEAM, entries(TEAM, ALICE, 1), [None])
        self.hub.part(TEAM.id, BOB.id)
        self.hub.fan_out(TEAM, entries(TEAM, ALICE, 2), [None])
        self.clock.advance(0)
        self.assertEqual(self.sent(session), [b"#team 1;"])

    def test_what_was_written_is_remembered_until_proved(self) -> None:
        """A session knows how far it has been written to, in each room."""
        session = self.session(BOB, TEAM)
        self.hub.fan_out(TEAM, entries(TEAM, ALICE, 4, 5), [None, None])
        self.hub.fan_out(DIRECT, entries(DIRECT, ALICE, 9), [None])
        self.assertEqual(session.unproved, {TEAM.id: 5, DIRECT.id: 9})

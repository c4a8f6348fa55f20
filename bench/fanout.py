"""The load from a few members of a group to all: a slot is free when everyone has it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.load import DELIVERY, Ear, Speaker, sampled, verify_kept
from bench.talk import BenchError, Connection


@dataclass(slots=True)
class Replies:
    """Cuts the replies out of what a sender hears, for the seqs of its messages."""

    speaker: Speaker
    chunks: list[bytes] = field(default_factory=list)
    rest: bytes = b""
    count: int = 0

    def take(self) -> list[int]:
        """The seqs acknowledged in the chunks since the last time."""
        messages, self.rest = self.speaker.connection.wire.cut(self.rest + b"".join(self.chunks))
        self.chunks.clear()
        replies = [json.loads(message) for message in messages if b'"reply":' in message]
        for reply in replies:
            if not reply["ok"]:
                raise BenchError(f"say: {reply}")
        self.count += len(replies)
        return [reply["seq"] for reply in replies]


class Fanout:
    """A load (see load.Load) of one group.

    A connection is at position n when it has seen n entries of the room's log, as events or
    as replies. `level` counts the connections at each position: the lowest is known without
    looking at all of them, and a message is complete when all are past it.
    """

    def __init__(
        self, senders: Sequence[Speaker], members: Sequence[Connection], first: int
    ) -> None:
        """`members` are all connections, the senders' too; `first` is the next entry's seq."""
        self.senders, self.first = senders, first
        self.wire = senders[0].connection.wire
        self.ears = {
            member.sock.fileno(): Ear(member, DELIVERY, keep=sampled(place, len(members)))
            for place, member in enumerate(members)
        }
        self.replies = {s.connection.sock.fileno(): Replies(s) for s in senders}
        for number, replies in self.replies.items():
            self.ears[number].kept = replies.chunks = [replies.speaker.connection.rest]
        self.level = {0: len(members)}
        self.done = 0
        self.speaker_of: dict[int, Speaker] = {}
        self.messages = self.deliveries = 0
        self.latencies: list[float] = []
        self.sending = True

    def ready(self, number: int) -> None:
        ear = self.ears[number]
        before = ear.count
        heard = ear.take()
        self.deliveries += heard
        if replies := self.replies.get(number):
            before += replies.count
            heard += self._acknowledged(replies)
        if heard:
            self._moved(before, before + heard, sender=replies is not None)

    def _acknowledged(self, replies: Replies) -> int:
        seqs = replies.take()
        for seq in seqs:
            self.speaker_of[seq - self.first] = replies.speaker
        return len(seqs)

    def _moved(self, before: int, after: int, sender: bool) -> None:
        level = self.level
        level[before] -= 1
        level[after] = level.get(after, 0) + 1
        if sender or not level[before]:
            self._advance()

    def _advance(self) -> None:
        """Complete what is behind everybody, in the order of the log."""
        level = self.level
        while not level.get(self.done) and self.done in self.speaker_of:
            level.pop(self.done, None)
            self._completed(self.speaker_of.pop(self.done))
            self.done += 1

    def _completed(self, speaker: Speaker) -> None:
        self.messages += 1
        self.latencies += speaker.completed(1)
        if self.sending:
            speaker.say(1)

    def verify(self) -> None:
        total = sum(speaker.sent for speaker in self.senders)
        own = {s.connection.sock.fileno(): s.sent for s in self.senders}
        for number, ear in self.ears.items():
            expected = total - own.get(number, 0)
            if ear.count != expected:
                raise BenchError(f"a member should have {expected} messages, has {ear.count}")
            if number not in own:
                verify_kept(ear, self.wire)

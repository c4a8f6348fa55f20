"""The load from user to user: a slot is free when acknowledged and delivered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.load import DELIVERY, Ear, Speaker, sampled, verify_kept
from bench.talk import BenchError, Connection

ACKNOWLEDGED = b'"seq":'  # a sender hears replies only, and of those only `say`'s have it


@dataclass(slots=True)
class Pair:
    """Who says it, who counts the acknowledgements, who counts the deliveries."""

    speaker: Speaker
    acknowledged: Ear
    delivered: Ear
    done: int = 0


class Pairs:
    """A load (see load.Load) of senders with one receiver each."""

    def __init__(self, ends: Sequence[tuple[Speaker, Connection]]) -> None:
        self.pairs = [
            Pair(
                speaker,
                Ear(speaker.connection, ACKNOWLEDGED),
                Ear(receiver, DELIVERY, keep=sampled(place, len(ends))),
            )
            for place, (speaker, receiver) in enumerate(ends)
        ]
        self.senders = [pair.speaker for pair in self.pairs]
        self.wire = self.senders[0].connection.wire
        self.ears: dict[int, Ear] = {}
        self.pair_of: dict[int, Pair] = {}
        for pair in self.pairs:
            for ear in (pair.acknowledged, pair.delivered):
                self.ears[ear.sock.fileno()] = ear
                self.pair_of[ear.sock.fileno()] = pair
        self.messages = self.deliveries = 0
        self.latencies: list[float] = []
        self.sending = True

    def ready(self, number: int) -> None:
        self.ears[number].take()
        pair = self.pair_of[number]
        freed = min(pair.acknowledged.count, pair.delivered.count) - pair.done
        if freed:
            self._completed(pair, freed)

    def _completed(self, pair: Pair, freed: int) -> None:
        pair.done += freed
        self.messages += freed
        self.deliveries += freed
        self.latencies += pair.speaker.completed(freed)
        if self.sending:
            pair.speaker.say(freed)

    def verify(self) -> None:
        for pair in self.pairs:
            counts = pair.speaker.sent, pair.acknowledged.count, pair.delivered.count
            if len(set(counts)) != 1:
                raise BenchError("sent, acknowledged, delivered: {}, {}, {}".format(*counts))
            verify_kept(pair.delivered, self.wire)

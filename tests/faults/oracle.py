"""Knows what was said and acknowledged, and holds it against the store and every subscriber."""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

MOST_COMPLAINTS = 20


@dataclass(frozen=True, slots=True)
class Row:
    """A stored entry; `text` is "" for what is no message."""

    room: str
    seq: int
    sender: str
    key: str
    text: str


@dataclass(frozen=True, slots=True)
class Said:
    """What a client wants stored, once."""

    sender: str
    room: str
    text: str


def room_of(me: str, to: str) -> str:
    """One name for a room, whoever of its two names an address in it."""
    return to if to.startswith("#") else "@" + "+".join(sorted((me, to[1:])))


def _seqs() -> array[int]:
    return array("q")


@dataclass(slots=True)
class Heard:
    """What one session got, by room, in the order of arrival: seqs of events, and seqs that
    first tries were acknowledged with."""

    events: dict[str, array[int]] = field(default_factory=lambda: defaultdict(_seqs))
    acks: dict[str, array[int]] = field(default_factory=lambda: defaultdict(_seqs))


class View:
    """What one user saw over all sessions; what comes again counts once."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.sessions: list[Heard] = []
        self.seen: dict[str, list[str | None]] = defaultdict(list)  # by seq
        self.since: dict[str, int] = {}  # where the user joined: later entries must be seen
        self.contradictions: list[str] = []

    def begin(self) -> Heard:
        """A new session."""
        self.sessions.append(Heard())
        return self.sessions[-1]

    def saw(self, room: str, seq: int, text: str) -> None:
        """An entry arrived, or the acknowledgement of an own one."""
        seen = self.seen[room]
        if seq >= len(seen):
            seen += [None] * (seq + 1 - len(seen))
        known = seen[seq]
        if known is None:
            seen[seq] = text
        elif known != text:
            self.contradictions.append(f"{self.name}: {room} {seq} is {known!r} and {text!r}")

    def has(self, room: str, seq: int) -> bool:
        """Whether the entry arrived."""
        seen = self.seen[room]
        return seq < len(seen) and seen[seq] is not None


class Ledger:
    """What was said, and which place was acknowledged."""

    def __init__(self) -> None:
        self.said: dict[str, Said] = {}
        self.acknowledged: dict[str, int] = {}
        self.contradictions: list[str] = []

    def say(self, key: str, said: Said) -> None:
        """A client wants this stored, under a key of its own."""
        self.said[key] = said

    def acknowledge(self, key: str, seq: int) -> None:
        """The server says where it is stored."""
        known = self.acknowledged.setdefault(key, seq)
        if known != seq:
            self.contradictions.append(f"{key} was acknowledged as {known} and as {seq}")


@dataclass(slots=True)
class Verdict:
    """Counts, and the first complaints in words. Lost: acknowledged and not stored so, or
    stored and not seen by a subscriber. Doubled: stored twice, or told twice in a session.
    Reordered: a hole or another order than the log's."""

    messages: int = 0
    acknowledged: int = 0
    lost: int = 0
    doubled: int = 0
    reordered: int = 0
    complaints: list[str] = field(default_factory=list)

    def lose(self, sentence: str) -> None:
        """Something is not where it must be."""
        self.lost += 1
        self._complain(sentence)

    def double(self, sentence: str) -> None:
        """Something is there more than once."""
        self.doubled += 1
        self._complain(sentence)

    def reorder(self, sentence: str) -> None:
        """Something is in another place than it must be."""
        self.reordered += 1
        self._complain(sentence)

    def _complain(self, sentence: str) -> None:
        if len(self.complaints) < MOST_COMPLAINTS:
            self.complaints.append(sentence)


def judge(ledger: Ledger, rows: Iterable[Row], views: Sequence[View]) -> Verdict:
    """Everything that must hold at the end, when all has been acknowledged and delivered."""
    verdict = Verdict(messages=len(ledger.said), acknowledged=len(ledger.acknowledged))
    logs: dict[str, dict[int, Row]] = defaultdict(dict)
    keys: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        logs[row.room][row.seq] = row
        keys[row.sender, row.key].append(row)
    for sentence in ledger.contradictions:
        verdict.double(sentence)
    _judge_store(verdict, ledger, logs, keys)
    for view in views:
        _judge_view(verdict, view, logs)
    return verdict


def _judge_store(
    verdict: Verdict,
    ledger: Ledger,
    logs: Mapping[str, Mapping[int, Row]],
    keys: Mapping[tuple[str, str], Sequence[Row]],
) -> None:
    for room, log in logs.items():
        if sorted(log) != list(range(1, len(log) + 1)):
            verdict.reorder(f"{room} has holes: {len(log)} entries up to {max(log)}")
    for (sender, key), found in keys.items():
        if len(found) > 1:
            verdict.double(f"{sender}'s {key} is stored {len(found)} times")
    texts: dict[str, int] = defaultdict(int)
    for log in logs.values():
        for row in log.values():
            texts[row.text] += bool(row.text)
    for text, times in texts.items():
        if times > 1:
            verdict.double(f"{text!r} is stored {times} times")
    for key, seq in ledger.acknowledged.items():
        said = ledger.said[key]
        stored = logs[said.room].get(seq) if said.room in logs else None
        if stored is None or (stored.sender, stored.key, stored.text) != (
            said.sender,
            key,
            said.text,
        ):
            verdict.lose(f"{key}, acknowledged as {said.room} {seq}, is not there: {stored}")


def _judge_view(verdict: Verdict, view: View, logs: Mapping[str, Mapping[int, Row]]) -> None:
    for sentence in view.contradictions:
        verdict.reorder(sentence)
    for room, since in view.since.items():
        for seq, row in logs.get(room, {}).items():
            if seq > since and row.text and not view.has(room, seq):
                verdict.lose(f"{view.name} never saw {room} {seq}")
    for room, seen in view.seen.items():
        for seq, text in enumerate(seen):
            if text is None:
                continue
            stored = logs.get(room, {}).get(seq)
            if stored is None:
                verdict.lose(f"{view.name} saw {room} {seq}, which is not stored")
            elif stored.text != text:
                verdict.reorder(f"{view.name} saw {text!r} as {room} {seq}: {stored.text!r}")
    for session in view.sessions:
        for room, seqs in session.events.items():
            _judge_order(verdict, view.name, room, seqs, logs.get(room, {}))
        for room, seqs in session.acks.items():
            if any(seq <= before for before, seq in pairwise(seqs)):
                verdict.reorder(f"{view.name}'s own in {room} are not stored in order")


def _judge_order(
    verdict: Verdict, name: str, room: str, seqs: Sequence[int], log: Mapping[int, Row]
) -> None:
    """A session gets each entry once and in order; only its user's own ones may be left out,
    for it had their acknowledgements instead."""
    for before, seq in pairwise(seqs):
        if seq == before:
            verdict.double(f"{name} got {room} {seq} twice in a session")
        elif seq < before:
            verdict.reorder(f"{name} got {room} {seq} behind {before}")
        for skipped in range(before + 1, seq):
            if skipped in log and log[skipped].sender != name:
                verdict.reorder(f"{name} got {room} {seq} behind {before}, without {skipped}")

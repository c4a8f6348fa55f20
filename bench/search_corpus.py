"""A million messages to search in: rooms of uneven size, words of two languages by Zipf's law."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate, count
from random import Random
from typing import Any

import msgspec

from chatd.store.connection import Connection

ROOMS = 1000
READERS = {"5 rooms": 5, "50 rooms": 50, "500 rooms": 500}
_SENDERS = 2000
_WORDS = 50_000  # of each language
_CHARACTERS = 3500  # of which Chinese words are made
_SPAN = 1000  # ms between two messages
_BEGIN = 1_700_000_000_000  # ms
_BATCH = 1000  # rows in one INSERT

_ENTRY = (
    "INSERT INTO entries (room_id, seq, sender_id, idempotency_key, at, kind, body)"
    " VALUES (?, ?, ?, ?, ?, 'message', ?)"
)


@dataclass(frozen=True, slots=True)
class Language:
    """Words, the commonest first."""

    words: Sequence[str]
    weights: Sequence[float]
    between: str

    def text(self, chance: Random) -> str:
        """A message of some ten words."""
        size = max(1, int(chance.gauss(9, 5)))
        return self.between.join(chance.choices(self.words, cum_weights=self.weights, k=size))


@cache
def languages() -> tuple[Language, Language]:
    """English in look, and Chinese."""
    chance = Random(1)
    weights = list(accumulate(1 / (rank + 2) for rank in range(_WORDS)))
    return (
        Language(list(_distinct(chance, _latin)), weights, " "),
        Language(list(_distinct(chance, _chinese)), weights, ""),
    )


def _distinct(chance: Random, make: Any) -> Iterator[str]:
    seen: set[str] = set()
    while len(seen) < _WORDS:
        word = make(chance)
        if word not in seen:
            seen.add(word)
            yield word


def _latin(chance: Random) -> str:
    syllables = chance.choices((1, 2, 3, 4), (1, 4, 4, 1))[0]
    return "".join(
        chance.choice("bcdfghjklmnprstvwz") + chance.choice("aeiou") + chance.choice(" nrs").strip()
        for _ in range(syllables)
    )


def _chinese(chance: Random) -> str:
    size = chance.choices((1, 2, 3, 4), (1, 8, 2, 1))[0]
    # Some characters stand in many words.
    return "".join(chr(0x4E00 + int(_CHARACTERS * chance.random() ** 2)) for _ in range(size))


def fill(connection: Connection, messages: int) -> None:
    """Users, groups, members, and so many messages in the order of time."""
    chance = Random(2)
    with connection.transaction():
        _people(connection)
    sizes = list(accumulate(1 / (room + 3) for room in range(ROOMS)))
    seqs = [count(1) for _ in range(ROOMS)]
    spoken = languages()
    for start in range(0, messages, _BATCH):
        rows = []
        for number in range(start, min(start + _BATCH, messages)):
            room = chance.choices(range(ROOMS), cum_weights=sizes)[0]
            body = {"text": spoken[(room + (number % 10 == 0)) % 2].text(chance)}
            rows.append(
                (
                    *(room + 1, next(seqs[room]), 1 + number % _SENDERS, b"k%d" % number),
                    *(_BEGIN + number * _SPAN, msgspec.json.encode(body).decode()),
                )
            )
        connection.insert_all(_ENTRY, rows)


def _people(connection: Connection) -> None:
    connection.many(
        "INSERT INTO users (id, name, name_key, created_at) VALUES (?, ?, ?, 0)",
        [(n, f"user{n}", f"user{n}") for n in range(1, _SENDERS + 1)],
    )
    connection.many(
        "INSERT INTO rooms (id, kind, name, name_key, created_at) VALUES (?, 'group', ?, ?, 0)",
        [(n, f"room{n}", f"room{n}") for n in range(1, ROOMS + 1)],
    )
    # Readers are the first users; the rooms of each are large and small ones.
    connection.many(
        "INSERT INTO members (user_id, room_id, role, joined_seq) VALUES (?, ?, 'member', 0)",
        [
            (user, 1 + place * ROOMS // many)
            for user, many in enumerate(READERS.values(), 1)
            for place in range(many)
        ],
    )

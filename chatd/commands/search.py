"""The command that finds messages by their words."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct

from chatd.errors import Refused
from chatd.model import TEXT_PATTERN, Address, Millis, Name, normalise
from chatd.node import Context
from chatd.registry import USERS, command
from chatd.store.postings import by as said_by
from chatd.store.postings import has as marked
from chatd.store.search import FIRST, Key, Query
from chatd.store.search import search as find
from chatd.words import phrases, probes

Wanted = Annotated[
    str,
    Meta(
        max_length=512,
        pattern=TEXT_PATTERN,
        description='words, and "phrases" in double quotes',
        extra={"rest": True},
    ),
]
Has = Annotated[
    str,
    Meta(
        pattern=r"^[a-z][a-z0-9-]{0,15}\Z",
        description="link, or a kind of message, as say was given it",
    ),
]
Place = Annotated[
    str,
    Meta(pattern=r"^\d{1,16}\.\d{1,19}\.\d{1,19}\Z", description="next of the answer before"),
]
Most = Annotated[int, Meta(ge=1, le=50, description="how many at most")]


class Hits(Struct, frozen=True, omit_defaults=True):
    """Messages as events, newest first. `more`: there may be further ones; ask again with `next`.
    An answer may have few or none and there may be more all the same."""

    entries: list[dict[str, Any]]
    more: bool
    next: str | None = None


@command(USERS, cost=20)
async def search(
    ctx: Context,
    text: Wanted = "",
    to: Address | None = None,
    by: Name | None = None,
    has: Has | None = None,
    before: Millis | None = None,
    after: Millis | None = None,
    next: Place | None = None,
    limit: Most = 20,
) -> Hits:
    """Finds messages in all that you may read, newest first: those with all the words and
    "quoted phrases", in any script, without regard to case, width or accents.

    They may be sought in one room (to), of one user (by), with a link or of a kind (has), from a
    time on (after) and earlier than a time (before). What was said is found a moment later.
    """
    user = ctx.user
    wanted = phrases(text)
    tokens = probes(wanted)
    if by is not None:
        tokens.append(said_by((await ctx.node.find_user(normalise(by.removeprefix("@")))).id))
    if has is not None:
        tokens.append(marked(has))
    if not tokens:
        raise Refused("bad-request", "Say what to search for: a word, by whom, or what it has.")
    room = await ctx.node.room(user, to) if to is not None else None
    if to is not None and room is None:
        return Hits([], False)
    start = min(_key(next), FIRST if before is None else (before, 0, 0))
    query = Query(user.id, wanted, tokens, after or 0, start, room.id if room else None)
    found = await ctx.node.store.read(find, query, limit)
    rest = None if found.rest is None else ".".join(map(str, found.rest))
    return Hits([entry.event() for entry in found.entries], rest is not None, rest)


def _key(place: str | None) -> Key:
    if place is None:
        return FIRST
    at, room_id, seq = map(int, place.split("."))
    if max(room_id, seq) >= 2**63:
        raise Refused("bad-request", "Such a next was never given.")
    return (at, room_id, seq)

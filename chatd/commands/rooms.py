"""Commands about rooms: read back, catch up, list them, move cursors."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct

from chatd.errors import Refused
from chatd.model import Address, Entry, Kind, Millis, Room, Seq
from chatd.node import Context
from chatd.registry import USERS, command
from chatd.store.log import read_after, read_before, read_ends
from chatd.store.rooms import Cursor, overview

Limit = Annotated[int, Meta(ge=1, le=200, description="how many at most")]
Since = Annotated[
    dict[Address, Seq], Meta(max_length=1000, description="the last seq had, by address")
]

_SYNC_AT_ONCE = 200  # entries of each room in one answer
_SYNC_IN_ALL = 1000  # entries in one answer


class Page(Struct, frozen=True):
    """Entries as events, oldest first; `more`: there are further ones in that direction."""

    entries: list[dict[str, Any]]
    more: bool


class Synced(Struct, frozen=True, omit_defaults=True):
    """Entries as events, room by room, each room's oldest first. `more`: ask again from
    where these end. `reset`: rooms that cannot be continued, each with the reason."""

    entries: list[dict[str, Any]]
    more: bool
    reset: dict[str, str] = {}


class RoomLine(Struct, frozen=True):
    """A room in the list: its address, where its log ends, what of it was read, how many
    messages of others were not (counted among the last 1000 entries), its last entry."""

    address: str
    kind: Kind
    title: str
    last_seq: int
    read_seq: int
    delivered_seq: int
    unread: int
    last: dict[str, Any] | None


class Rooms(Struct, frozen=True):
    """The user's rooms, the one with the latest entry first."""

    rooms: list[RoomLine]


class Moved(Struct, frozen=True):
    """The seq that the cursor was moved to, if it was not further already."""

    seq: int


@command(USERS, cost=5)
async def history(
    ctx: Context,
    to: Address,
    before: Seq | None = None,
    after: Seq | None = None,
    limit: Limit = 50,
) -> Page:
    """Reads a room's entries: the last ones, those before a seq, or those after one."""
    if before is not None and after is not None:
        raise Refused("bad-request", "Give before or after, not both.")
    room = await ctx.node.room(ctx.user, to)
    if room is None:
        return Page([], False)
    if after is not None:
        found = await ctx.node.store.read(read_after, room, after, limit + 1)
        page = found[:limit]
    else:
        end = 2**63 - 1 if before is None else before
        found = await ctx.node.store.read(read_before, room, end, limit + 1)
        page = found[-limit:]
    return Page([entry.event() for entry in page], len(found) > limit)


@command(USERS, cost=20)
async def rooms(ctx: Context, since: Millis = 0) -> Rooms:
    """Lists your rooms with the number of unread messages and the last entry of each; with
    since (ms), only those with an entry at or after that time."""
    user = ctx.user
    found = await ctx.node.store.read(overview, user.id, since)
    lines = [
        RoomLine(
            address=here.progress.room.address_from(user.id),
            kind=here.progress.room.kind,
            title=here.progress.room.title,
            last_seq=here.progress.end,
            read_seq=here.progress.read,
            delivered_seq=here.progress.delivered,
            unread=here.unread,
            last=here.last.event() if here.last else None,
        )
        for here in found
    ]
    return Rooms(lines)


@command(USERS, cost=20)
async def sync(ctx: Context, since: Since) -> Synced:
    """Catches up: all entries of the given rooms after the given seqs."""
    entries: list[Entry] = []
    reset: dict[str, str] = {}
    more = False
    for address, seq in since.items():
        if len(entries) >= _SYNC_IN_ALL:
            more = True
            break
        try:
            room = await ctx.node.room(ctx.user, address)
        except Refused as refused:
            reset[address] = refused.code
            continue
        if room is None:
            continue
        found = await ctx.node.store.read(read_after, room, seq, _SYNC_AT_ONCE + 1)
        if not found and await _beyond(ctx, room, seq):
            reset[address] = "beyond-the-end"
        more = more or len(found) > _SYNC_AT_ONCE
        entries += found[:_SYNC_AT_ONCE]
    return Synced([entry.event() for entry in entries], more, reset)


async def _beyond(ctx: Context, room: Room, seq: int) -> bool:
    ends = await ctx.node.store.read(read_ends, {room.id})
    return ends.get(room.id, 0) < seq


@command(USERS, cost=2)
async def delivered(ctx: Context, to: Address, seq: Seq) -> Moved:
    """Tells that the entries up to seq have arrived; they are not replayed again."""
    return await _advance(ctx, to, delivered=seq)


@command(USERS, cost=2)
async def read(ctx: Context, to: Address, seq: Seq) -> Moved:
    """Tells that the entries up to seq were read; they are unread no more."""
    return await _advance(ctx, to, read=seq)


async def _advance(ctx: Context, to: str, delivered: int = 0, read: int = 0) -> Moved:
    user = ctx.user
    room = await ctx.node.room(user, to)
    if room is None:
        raise Refused("not-found", "Nothing was said between you and {to} yet.", to=to)
    ends = await ctx.node.store.read(read_ends, {room.id})
    seq = min(max(delivered, read), ends.get(room.id, 0))
    await ctx.node.store.advance(Cursor(user.id, room.id, seq, seq if read else 0))
    return Moved(seq)

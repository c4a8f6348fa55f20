"""Commands about rooms: read back, catch up, list them."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct

from chatd.errors import Refused
from chatd.model import Address, Entry, Kind, Millis, Seq
from chatd.node import Context
from chatd.registry import USERS, command
from chatd.store.history import news, page_after, page_before
from chatd.store.overview import Overview, Totals, overview, totals
from chatd.store.places import Notify

Limit = Annotated[int, Meta(ge=1, le=200, description="how many at most")]
RoomsLimit = Annotated[int, Meta(ge=1, le=1000, description="how many at most")]
Place = Annotated[
    str,
    Meta(pattern=r"^([0-9]{1,18}(-[0-9]{1,18}){2})?\Z", description="where the last page ended"),
]
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
    where these end. `reset`: rooms that cannot be continued, each with the reason:
    drop what you have of them and ask from 0. `not-visible`: you may not see any more what is
    behind that seq, because you cleared the room or came to it anew."""

    entries: list[dict[str, Any]]
    more: bool
    reset: dict[str, str] = {}


class RoomLine(Struct, frozen=True):
    """A room in the list: its address, where its log ends, what of it was read, how many
    messages of others were not (counted among the last 1000 entries) and how many of those, ever,
    mention the user; since when (ms) it is `pinned`, 0 if it is not; what the user wants of it, see
    `prefer`; whether it is `marked` as unread; its last entry, of those that the user sees."""

    address: str
    kind: Kind
    title: str
    last_seq: int
    read_seq: int
    delivered_seq: int
    unread: int
    mentions: int
    marked: bool
    pinned: int
    notify: Notify
    archived: bool
    last: dict[str, Any] | None


class Rooms(Struct, frozen=True, omit_defaults=True):
    """The user's rooms: pinned ones first, then the one with the latest entry. `more`: ask again
    with this `after`. Rooms with news meanwhile move ahead and are told as events."""

    rooms: list[RoomLine]
    more: bool = False
    after: str = ""


@command(USERS, cost=5)
async def history(
    ctx: Context,
    to: Address,
    before: Seq | None = None,
    after: Seq | None = None,
    limit: Limit = 50,
) -> Page:
    """Reads a room's entries: the last ones, those before a seq, or those after one. What you
    cleared or hid, and in some groups what was before you joined, is not there."""
    if before is not None and after is not None:
        raise Refused("bad-request", "Give before or after, not both.")
    room = await ctx.node.room(ctx.user, to)
    if room is None:
        return Page([], False)
    if after is not None:
        found = await ctx.node.store.read(page_after, room, ctx.user.id, after, limit + 1)
        page = found[:limit]
    else:
        end = 2**63 - 1 if before is None else before
        found = await ctx.node.store.read(page_before, room, ctx.user.id, end, limit + 1)
        page = found[-limit:]
    return Page([entry.event() for entry in page], len(found) > limit)


@command(USERS, cost=20)
async def rooms(
    ctx: Context, since: Millis = 0, after: Place = "", limit: RoomsLimit = 200
) -> Rooms:
    """Lists your rooms with the number of unread messages and the last entry of each; with
    since (ms), only those with an entry at or after that time."""
    user = ctx.user
    place = _place(after) if after else None
    found = await ctx.node.store.read(overview, user.id, since, place, limit + 1)
    lines = [_line(here, user.id) for here in found[:limit]]
    if len(found) <= limit:
        return Rooms(lines)
    return Rooms(lines, True, "-".join(map(str, found[limit - 1].place)))


def _place(text: str) -> tuple[int, int, int]:
    pinned_at, last_at, room_id = map(int, text.split("-"))
    return pinned_at, last_at, room_id


def _line(here: Overview, user_id: int) -> RoomLine:
    room = here.progress.room
    return RoomLine(
        address=room.address_from(user_id),
        kind=room.kind,
        title=room.title,
        last_seq=here.progress.end,
        read_seq=here.progress.read,
        delivered_seq=here.progress.delivered,
        unread=here.unread,
        mentions=here.mentions,
        marked=here.marked,
        pinned=here.pinned_at,
        notify=here.notify,
        archived=here.archived,
        last=here.last.event() if here.last else None,
    )


@command(USERS, cost=10)
async def unread(ctx: Context) -> Totals:
    """Counts what is unread in all your rooms."""
    return await ctx.node.store.read(totals, ctx.user.id)


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
        found = await ctx.node.store.read(news, room, ctx.user.id, seq, _SYNC_AT_ONCE + 1)
        if 0 < seq < found.floor:
            reset[address] = "not-visible"
            continue
        if not found.entries and found.end < seq:
            reset[address] = "beyond-the-end"
        more = more or len(found.entries) > _SYNC_AT_ONCE
        entries += found.entries[:_SYNC_AT_ONCE]
    return Synced([entry.event() for entry in entries], more, reset)

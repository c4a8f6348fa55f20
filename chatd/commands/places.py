"""Commands about one's place in a room: cursors, receipts, preferences."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct
from msgspec.structs import replace

from chatd.commands.groups import After
from chatd.commands.messages import spoken
from chatd.errors import Refused
from chatd.model import Address, Room, Seq
from chatd.node import Context
from chatd.registry import USERS, command
from chatd.store import places
from chatd.store.log import Effect, Stored
from chatd.store.places import Notify, Receipt
from chatd.store.rooms import Cursor

Limit = Annotated[int, Meta(ge=1, le=200, description="how many at most")]


class Moved(Struct, frozen=True):
    """The seq that the cursor was moved to, if it was not further already."""

    seq: int


class Receipts(Struct, frozen=True):
    """Whom an entry has reached, by name; `more`: ask again with the last one's name as
    `after`."""

    receipts: list[Receipt]
    more: bool


@command(USERS, cost=2)
async def delivered(ctx: Context, to: Address, seq: Seq) -> Moved:
    """Tells that the entries up to seq have arrived; they are not replayed again."""
    return await _advance(ctx, to, seq, False)


@command(USERS, cost=2)
async def read(ctx: Context, to: Address, seq: Seq) -> Moved:
    """Tells that the entries up to seq were read; they are unread no more, nor is the room
    marked."""
    return await _advance(ctx, to, seq, True)


@command(USERS, cost=3)
async def receipts(
    ctx: Context, to: Address, seq: Seq, after: After = "", limit: Limit = 100
) -> Receipts:
    """Lists whom an entry has reached and who has read it, but you, its sender, who came later
    and who does not tell; in groups up to limits.receipt_members."""
    room, most = await spoken(ctx, to), ctx.node.limits.receipt_members
    found = await ctx.node.store.read(
        places.receipts, room, ctx.user.id, seq, after, limit + 1, most
    )
    return Receipts(found[:limit], len(found) > limit)


@command(USERS, cost=3)
async def mark(ctx: Context, to: Address) -> Stored:
    """Marks a room as unread, for you alone, until you read there."""
    room, user = await spoken(ctx, to), ctx.user
    return await _change(ctx, room, "marked", {}, lambda db, seq: places.mark(db, room.id, user.id))


@command(USERS, cost=3)
async def prefer(
    ctx: Context,
    to: Address,
    pinned: bool | None = None,
    notify: Notify | None = None,
    archived: bool | None = None,
) -> Stored:
    """Changes how you want a room: pinned before the others, what it may notify you of,
    archived. An archived room comes back with somebody else's next message, unless it notifies
    you of nothing."""
    room, user = await spoken(ctx, to), ctx.user
    wishes = {"pinned": pinned, "notify": notify, "archived": archived}
    given = {name: wish for name, wish in wishes.items() if wish is not None}
    if not given:
        raise Refused("bad-request", "Give pinned, notify or archived.")
    pinned_at = None if pinned is None else ctx.node.millis() * pinned
    return await _change(
        ctx,
        room,
        "preferred",
        given,
        lambda db, seq: places.prefer(db, room.id, user.id, pinned_at, notify, archived),
    )


@command(USERS, cost=3)
async def clear(ctx: Context, to: Address) -> Stored:
    """Empties a room for you alone: what is there now counts as read, and you see it no more."""
    room, user = await spoken(ctx, to), ctx.user
    here = await ctx.node.store.read(places.place, room, user.id)
    stored = await _change(
        ctx,
        room,
        "cleared",
        {"upto": here.end},
        lambda db, seq: places.clear(db, room.id, user.id, here.end),
    )
    ctx.node.receipts.note(Cursor(user.id, room.id, here.end, here.end), ctx.session, here)
    return stored


async def _advance(ctx: Context, to: str, seq: int, read: bool) -> Moved:
    user, room = ctx.user, await spoken(ctx, to)
    here = await ctx.node.store.read(places.place, room, user.id)
    seq = min(seq, here.end)
    if (read and here.marked) or seq > (here.read if read else here.delivered):
        cursor = Cursor(user.id, room.id, seq, seq if read else 0)
        await ctx.node.store.advance(cursor)
        ctx.node.receipts.note(cursor, ctx.session, here)
    return Moved(seq)


async def _change(
    ctx: Context, room: Room, kind: str, body: dict[str, Any], effect: Effect
) -> Stored:
    """Changes the user's place in a room; the user's other devices learn it from the inbox."""
    body = {"room": room.address_from(ctx.user.id), **body}
    draft = await ctx.node.tell(ctx.user.party, kind, body)
    return await ctx.node.submit(replace(draft, origin=ctx.session), effect)

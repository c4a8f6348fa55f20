"""Commands about groups: create, join, leave, members, dissolve."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct
from twisted.internet.defer import Deferred

from chatd.errors import Refused
from chatd.lookalikes import new_name
from chatd.model import Entry, Group, Membership, Room, Title, group_name
from chatd.node import Context
from chatd.registry import USERS, command
from chatd.store import rooms as statements
from chatd.store.log import Effect, Stored
from chatd.store.rooms import Member

Limit = Annotated[int, Meta(ge=1, le=1000, description="how many at most")]
After = Annotated[str, Meta(max_length=64, description="the name to begin behind")]


class Created(Struct, frozen=True):
    """The address of the new group."""

    address: str


class Members(Struct, frozen=True):
    """A page of members by name; `more`: ask again with the last one's name as `after`."""

    members: list[Member]
    more: bool


@command(USERS, cost=10)
async def create(ctx: Context, name: Group, title: Title = "") -> Created:
    """Makes a group; you are its owner."""
    user, node = ctx.user, ctx.node
    wanted, at = new_name(name.removeprefix("#")), node.millis()
    _room_for_one_more(ctx)
    room = await node.store.write(statements.make_group, wanted, title, user.party, node.keys(), at)
    node.hub.join(Membership(room, "owner"), user.id)
    body = {"title": title} if title else {}
    made = Entry(room.id, 1, "created", f"#{room.name}", user.party, at, body)
    node.hub.fan_out(room, [made], [ctx.session])
    ctx.session.room = f"#{room.name}"
    return Created(f"#{room.name}")


@command(USERS, cost=5)
async def join(ctx: Context, group: Group) -> Stored:
    """Joins a group. You get what is said from now on; history reads what was said before."""
    user = ctx.user
    room = await ctx.node.group(group_name(group))
    if room.id in user.groups:
        raise Refused("exists", "You are in #{name} already.", name=room.name)
    _room_for_one_more(ctx)
    ctx.session.room = f"#{room.name}"
    return await _append(
        ctx, room, "joined", lambda db, seq: statements.join(db, room.id, user.id, seq)
    )


@command(USERS, cost=5)
async def leave(ctx: Context, group: Group) -> Stored:
    """Leaves a group. Its owner cannot leave, but dissolve it."""
    user = ctx.user
    room = await _mine(ctx, group)
    return await _append(ctx, room, "left", lambda db, seq: statements.leave(db, room.id, user.id))


@command(USERS, cost=5)
async def members(ctx: Context, group: Group, after: After = "", limit: Limit = 200) -> Members:
    """Lists who is in a group, by name."""
    room = await _mine(ctx, group)
    found = await ctx.node.store.read(statements.members, room.id, after, limit + 1)
    return Members(found[:limit], len(found) > limit)


@command(USERS, cost=10)
async def dissolve(ctx: Context, group: Group) -> Stored:
    """Ends a group for all its members. Only the owner may."""
    user = ctx.user
    room = await _mine(ctx, group)
    if user.groups[room.id] != "owner":
        raise Refused("forbidden", "Only the owner can dissolve #{name}.", name=room.name)
    now = ctx.node.millis()
    ctx.node.dissolving.add(room.id)  # nothing is said behind the end
    try:
        return await _append(
            ctx, room, "dissolved", lambda db, seq: statements.dissolve(db, room.id, now)
        )
    finally:
        ctx.node.dissolving.discard(room.id)


def _room_for_one_more(ctx: Context) -> None:
    most = ctx.node.limits.rooms
    if len(ctx.user.groups) >= most:
        raise Refused(
            "too-large", "One may be in {most} groups at most. Leave one first.", most=most
        )


async def _mine(ctx: Context, group: str) -> Room:
    room = await ctx.node.room(ctx.user, f"#{group_name(group)}")
    assert room is not None  # a group is there, or refused
    return room


def _append(ctx: Context, room: Room, kind: str, effect: Effect) -> Deferred[Stored]:
    # Awaited by the commands: the session's next request depends on the membership.
    return ctx.node.append(ctx.session, ctx.user, room, kind, {}, effect=effect)

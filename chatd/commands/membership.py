"""Commands about who is in a group: leave, kick, let come back, give roles, silence."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct

from chatd.commands.accounts import Done
from chatd.commands.groups import After, Limit, append, my_group
from chatd.errors import Refused
from chatd.model import Group, Millis, Party, Role, fold, user_name
from chatd.node import Context
from chatd.registry import USERS, command
from chatd.store import membership as statements
from chatd.store.log import Stored
from chatd.store.membership import Ban
from chatd.store.rooms import role_of

Who = Annotated[str, Meta(min_length=1, max_length=65, description="a user: @name, or the name")]
ForGood = Annotated[bool, Meta(description="and lets nobody take the user in again")]
Given = Annotated[Role, Meta(description="owner: you become an admin")]
Until = Annotated[Millis, Meta(description="until when, ms since 1970 UTC; 0 ends it")]


class Bans(Struct, frozen=True):
    """A page of who is banned by name; `more`: ask again with the last one's name as `after`."""

    bans: list[Ban]
    more: bool


@command(USERS, cost=5)
async def leave(ctx: Context, group: Group) -> Stored:
    """Leaves a group. Its owner cannot leave, but makes somebody else owner, or dissolves it."""
    user = ctx.user
    room = await my_group(ctx, group)
    return await append(ctx, room, "left", {}, lambda db, _: statements.leave(db, room.id, user.id))


@command(USERS, cost=5)
async def kick(ctx: Context, group: Group, user: Who, ban: ForGood = False) -> Stored:
    """Takes a member of a lower role out of a group. With ban the user cannot come back, and need
    not be a member. Admins may."""
    me, node = ctx.user, ctx.node
    room = await my_group(ctx, group)
    whom = await find(ctx, user)
    now = node.millis()
    banned = {"banned": True} if ban else {}
    notice = {"group": f"#{room.name}", "user": me.name, **banned}
    # Only who was in the group is told, or anybody could write so into everybody's inbox.
    inside = await node.store.read(role_of, room.id, whom.id) is not None
    notices = (await node.tell(whom, "kicked", notice),) if inside else ()
    return await append(
        ctx,
        room,
        "kicked",
        {"user": whom.name, **banned},
        lambda db, _: statements.kick(db, room.id, me.id, whom, ban, now),
        whom,
        notices,
    )


@command(USERS, cost=5)
async def unban(ctx: Context, group: Group, user: Who) -> Done:
    """Lets a user come back who was banned. Admins may."""
    room = await my_group(ctx, group)
    whom = await find(ctx, user)
    await ctx.node.store.write(statements.unban, room.id, ctx.user.id, whom)
    return Done()


@command(USERS, cost=5)
async def bans(ctx: Context, group: Group, after: After = "", limit: Limit = 200) -> Bans:
    """Lists who cannot come back into a group, by name. Admins may."""
    room = await my_group(ctx, group)
    found = await ctx.node.store.read(statements.bans, room.id, ctx.user.id, fold(after), limit + 1)
    return Bans(found[:limit], len(found) > limit)


@command(USERS, cost=5)
async def role(ctx: Context, group: Group, user: Who, role: Given) -> Stored:
    """Gives a member a role. Only the owner may; a new owner takes the place of the old one."""
    me = ctx.user
    room = await my_group(ctx, group)
    whom = await find(ctx, user)
    return await append(
        ctx,
        room,
        "appointed",
        {"user": whom.name, "role": role},
        lambda db, _: statements.appoint(db, room.id, me.id, whom, role),
        whom,
    )


@command(USERS, cost=5)
async def mute(
    ctx: Context, group: Group, user: Who | None = None, until: Until | None = None
) -> Stored:
    """Lets a member of a lower role write no more until a time, which outlasts leaving and coming
    back; without user, everybody but the admins. Admins may."""
    if until is None:  # or /mute #team bob would let him write
        raise Refused("bad-request", "Say until when, in ms since 1970 UTC; 0 ends it.")
    me = ctx.user
    room = await my_group(ctx, group)
    whom = None if user is None else await find(ctx, user)
    end = until if until > ctx.node.millis() else 0
    body: dict[str, Any] = {"until": end} if whom is None else {"user": whom.name, "until": end}
    return await append(
        ctx,
        room,
        "muted",
        body,
        lambda db, _: statements.mute(db, room.id, me.id, whom, end),
        whom,
    )


async def find(ctx: Context, user: str) -> Party:
    """The user of a name. Raises `Refused` of `not-found`."""
    return await ctx.node.find_user(user_name(user))

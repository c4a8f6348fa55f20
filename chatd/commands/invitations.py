"""Commands about the ways into a group: join, invitations, links, requests to join."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Annotated, Any

from msgspec import Meta, Struct

from chatd.commands.accounts import Done
from chatd.commands.groups import After, Limit, append, my_group
from chatd.commands.membership import Who, find
from chatd.errors import Refused
from chatd.model import LINE_PATTERN, Group, Room, Secret, fold, group_name
from chatd.node import Context
from chatd.registry import USERS, command
from chatd.store import groups, membership
from chatd.store import invitations as statements
from chatd.store.accounts import digest, new_secret, token_id
from chatd.store.connection import Connection
from chatd.store.invitations import Repeated
from chatd.store.log import Effect, Stored
from chatd.store.membership import Most

Words = Annotated[
    str,
    Meta(
        max_length=256,
        pattern=LINE_PATTERN,
        description="to those who approve",
        extra={"rest": True},
    ),
]
LinkToken = Annotated[Secret, Meta(description="of a link; it names the group")]
Uses = Annotated[int, Meta(ge=1, le=100_000, description="how many may join by it")]
Days = Annotated[int, Meta(ge=1, le=365, description="how long it is good")]
LinkId = Annotated[str, Meta(min_length=16, max_length=16, description="a link's id")]

_DAY = 24 * 60 * 60 * 1000  # ms


class Joined(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Where and when (ms) one joined; `requested`: one did not, but admins have been asked."""

    seq: int = 0
    at: int = 0
    address: str
    requested: bool = False


class Linked(Struct, frozen=True):
    """A link's token, which is not shown again, its id, and when it expires (ms)."""

    token: str
    id: str
    expires: int


class Links(Struct, frozen=True):
    """A group's links, newest first."""

    links: list[statements.Link]


class Requests(Struct, frozen=True):
    """A page of who asks to join by name; `more`: ask again with the last one's name as
    `after`."""

    requests: list[statements.Request]
    more: bool


@command(USERS, cost=10)
async def join(
    ctx: Context, group: Group | None = None, token: LinkToken | None = None, words: Words = ""
) -> Joined:
    """Joins a group that is open, or into which one was invited by name or by a link's token. Where
    members are approved, asks to join, with words for the admins; a repeat changes nothing.

    You get what is said from now on; history reads what was said before, if the group allows it.
    """
    user, node = ctx.user, ctx.node
    if token is not None:
        link = digest(token)
        return await _join(ctx, await _linked(ctx, link, group), link)
    if group is None:
        raise Refused("bad-request", "Say which group, or give a link's token.")
    view = await node.view(user, group)
    if view.role is None and view.entry == "approval" and not view.invited:
        if not view.requested:
            await _ask(ctx, view.room, words)
        return Joined(address=f"#{view.room.name}", requested=True)
    return await _join(ctx, view.room)


async def _linked(ctx: Context, link: bytes, group: str | None) -> Room:
    room = await ctx.node.store.read(statements.find_link, link, ctx.node.millis())
    if room is None or (group is not None and fold(group_name(group)) != fold(room.name)):
        raise Refused("not-found", "The link is unknown, used up or has expired.")
    return room


async def _join(ctx: Context, room: Room, link: bytes = b"") -> Joined:
    user, now = ctx.user, ctx.node.millis()
    most = _most(ctx)
    body: dict[str, Any] = {}
    stored = await append(
        ctx,
        room,
        "joined",
        body,
        _completing(
            body, {}, lambda db, seq: membership.join(db, room.id, user.id, seq, now, link, most)
        ),
    )
    ctx.session.room = f"#{room.name}"
    return Joined(seq=stored.seq, at=stored.at, address=f"#{room.name}")


def _most(ctx: Context) -> Most:
    return Most(ctx.node.limits.members, ctx.node.limits.rooms)


def _completing(
    body: dict[str, Any],
    given: dict[str, Any],
    enter: Callable[[Connection, int], dict[str, Any]],
) -> Effect:
    """An effect that adds to the event what it finds; run again, what it finds then."""

    def effect(connection: Connection, seq: int) -> None:
        found = enter(connection, seq)
        body.clear()
        body.update(given | found)

    return effect


async def _ask(ctx: Context, room: Room, words: str) -> None:
    user, node, now = ctx.user, ctx.node, ctx.node.millis()
    body = {"group": f"#{room.name}", "user": user.name, **({"words": words} if words else {})}
    admins = await node.store.read(groups.admins, room.id, user.id)
    if not admins:
        raise Refused("blocked", "Nobody in #{name} takes requests from you.", name=room.name)
    first, *others = [await node.tell(admin, "requested", body) for admin in admins]
    with suppress(Repeated):  # another session of the user's was faster
        await node.submit(
            first,
            lambda db, _: statements.ask(db, room.id, user.id, words, now),
            *others,
            locks=(room.id,),
        )


@command(USERS, cost=5)
async def invite(ctx: Context, group: Group, user: Who) -> Done:
    """Invites a user into a group. Members may where it is open, admins everywhere."""
    me, node = ctx.user, ctx.node
    room = await my_group(ctx, group)
    whom = await find(ctx, user)
    now = node.millis()
    notice = await node.tell(whom, "invited", {"group": f"#{room.name}", "user": me.name})
    with suppress(Repeated):  # the invitation stands
        await node.submit(
            notice,
            lambda db, _: statements.invite(db, room.id, me.id, whom, now),
            locks=(room.id,),
        )
    return Done()


@command(USERS, cost=5)
async def decline(ctx: Context, group: Group) -> Done:
    """Turns an invitation into a group down, or takes one's request to join back."""
    user, node = ctx.user, ctx.node
    view = await node.view(user, group)
    if not await node.store.write(statements.decline, view.room.id, user.id):
        raise Refused("not-found", "You are not invited into #{name}.", name=view.room.name)
    return Done()


@command(USERS, cost=5)
async def link(ctx: Context, group: Group, uses: Uses = 1, days: Days = 7) -> Linked:
    """Makes a token by which so many users may join, whatever the rules are. Admins may."""
    node, token = ctx.node, new_secret()
    room = await my_group(ctx, group)
    now = node.millis()
    expires = now + days * _DAY
    made = digest(token)
    await node.store.write(statements.make_link, room.id, ctx.user.id, made, uses, now, expires)
    return Linked(token, token_id(made), expires)


@command(USERS, cost=5)
async def links(ctx: Context, group: Group) -> Links:
    """Lists a group's links that can still be used. Admins may."""
    room = await my_group(ctx, group)
    found = await ctx.node.store.read(statements.links, room.id, ctx.user.id, ctx.node.millis())
    return Links(found)


@command(USERS, cost=5)
async def unlink(ctx: Context, group: Group, link: LinkId) -> Done:
    """Ends a link: nobody joins by it any more. Admins may."""
    room = await my_group(ctx, group)
    await ctx.node.store.write(statements.unlink, room.id, ctx.user.id, link)
    return Done()


@command(USERS, cost=5)
async def requests(ctx: Context, group: Group, after: After = "", limit: Limit = 200) -> Requests:
    """Lists who asks to join a group, by name. Admins may."""
    room = await my_group(ctx, group)
    found = await ctx.node.store.read(
        statements.requests, room.id, ctx.user.id, fold(after), limit + 1
    )
    return Requests(found[:limit], len(found) > limit)


@command(USERS, cost=5)
async def approve(ctx: Context, group: Group, user: Who) -> Stored:
    """Lets a user in who asked to join. Admins may."""
    me, node = ctx.user, ctx.node
    room = await my_group(ctx, group)
    whom = await find(ctx, user)
    now, most = node.millis(), _most(ctx)
    given = {"by": me.name}
    draft = node.draft(room, whom, "joined", given)
    notice = await node.tell(whom, "approved", {"group": f"#{room.name}", "user": me.name})
    effect = _completing(
        draft.body,
        dict(given),
        lambda db, seq: membership.approve(db, room.id, me.id, whom.id, seq, now, most),
    )
    return await node.submit(draft, effect, notice)


@command(USERS, cost=5)
async def reject(ctx: Context, group: Group, user: Who) -> Done:
    """Turns a request to join down. Admins may."""
    me, node = ctx.user, ctx.node
    room = await my_group(ctx, group)
    whom = await find(ctx, user)
    notice = await node.tell(whom, "rejected", {"group": f"#{room.name}", "user": me.name})
    await node.submit(
        notice,
        lambda db, _: statements.reject(db, room.id, me.id, whom.id),
        locks=(room.id,),
    )
    return Done()

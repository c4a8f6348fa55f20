"""Commands about groups: make, look at, change and dissolve them, list who is in them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct
from twisted.internet.defer import Deferred

from chatd import displays
from chatd.errors import Refused
from chatd.lookalikes import new_name
from chatd.model import (
    UNMUTED,
    Description,
    Entry,
    EntryRule,
    Group,
    HistoryRule,
    Membership,
    Party,
    Posting,
    Role,
    Room,
    Rules,
    Title,
    group_name,
)
from chatd.node import Context
from chatd.registry import USERS, command
from chatd.rights import may
from chatd.store import groups as statements
from chatd.store.groups import Member, NewGroup
from chatd.store.log import Draft, Effect, Stored

Limit = Annotated[int, Meta(ge=1, le=1000, description="how many at most")]
After = Annotated[str, Meta(max_length=64, description="the name to begin behind")]
Entering = Annotated[EntryRule, Meta(description="who may join: all, who is let in, who is asked")]
Shown = Annotated[HistoryRule, Meta(description="what members may read: all, or since they joined")]
Writers = Annotated[Posting, Meta(description="who may write")]


class Created(Struct, frozen=True):
    """The address of the new group."""

    address: str


class About(Struct, frozen=True, omit_defaults=True):
    """A group: what it is for, who may join, how many are in it. For its members also what they may
    read, who may write, until when (ms) only admins may, and one's own role; `invited` and
    `requested` for who is to join or has asked to."""

    address: str
    title: str
    description: str
    entry: EntryRule
    members: int
    history: HistoryRule | None = None
    posting: Posting | None = None
    muted_until: int | None = None
    role: Role | None = None
    invited: bool = False
    requested: bool = False


class MemberLine(Struct, frozen=True):
    """A member: muted until a time (ms), 0 if not; when the member joined (ms). `presence` is
    unknown of who blocked you; `seen`: when one who is offline was last online (ms)."""

    user: str
    display: str
    role: Role
    muted_until: int
    joined: int
    presence: Literal["online", "away", "offline", "unknown"]
    seen: int | None = None


class Members(Struct, frozen=True):
    """A page of members by name; `more`: ask again with the last one's name as `after`."""

    members: list[MemberLine]
    more: bool


@command(USERS, cost=10)
async def create(
    ctx: Context,
    name: Group,
    title: Title = "",
    description: Description = "",
    entry: Entering = "open",
    history: Shown = "all",
    posting: Writers = "members",
) -> Created:
    """Makes a group; you are its owner. A repeat, before anything happened there, is answered
    alike."""
    user, node = ctx.user, ctx.node
    title = displays.shown(title, 128)
    new = NewGroup(new_name(name.removeprefix("#")), title, description, entry, history, posting)
    at = node.millis()
    room = await node.store.write(
        statements.make_group, new, user.party, node.keys(), at, node.limits.rooms
    )
    ctx.session.room = f"#{room.name}"
    known = node.hub.user(user.id)
    if known is not None and room.id not in known.groups:
        node.hub.join(Membership(room, UNMUTED["owner"], Rules(posting)), user.id)
        made = Entry(room.id, 1, "created", f"#{room.name}", user.party, at, new.body())
        node.hub.fan_out(room, [made], [ctx.session])
    return Created(f"#{room.name}")


@command(USERS, cost=5)
async def about(ctx: Context, group: Group) -> About:
    """Tells what a group is."""
    view = await ctx.node.view(ctx.user, group)
    inside = view.role is not None
    return About(
        address=f"#{view.room.name}",
        title=view.room.title,
        description=view.description,
        entry=view.entry,
        members=await ctx.node.store.read(statements.count_members, view.room.id),
        history=view.history if inside else None,
        posting=view.posting if inside else None,
        muted_until=view.muted_until if inside else None,
        role=view.role,
        invited=view.invited,
        requested=view.requested,
    )


@command(USERS, cost=5)
async def retitle(
    ctx: Context, group: Group, title: Title | None = None, description: Description | None = None
) -> Stored:
    """Gives a group another title or description. Admins may."""
    shown = None if title is None else displays.shown(title, 128)
    return await _change(ctx, group, "retitle", {"title": shown, "description": description})


@command(USERS, cost=5)
async def configure(
    ctx: Context,
    group: Group,
    entry: Entering | None = None,
    history: Shown | None = None,
    posting: Writers | None = None,
) -> Stored:
    """Changes who may join a group, what its members may read, or who may write. Admins may."""
    given = {"entry": entry, "history": history, "posting": posting}
    return await _change(ctx, group, "configure", given)


async def _change(ctx: Context, group: str, action: str, given: Mapping[str, str | None]) -> Stored:
    changed = {column: value for column, value in given.items() if value is not None}
    if not changed:
        raise Refused("bad-request", "Say what is to change: {names}.", names=", ".join(given))
    user = ctx.user
    room = await my_group(ctx, group)
    return await append(
        ctx,
        room,
        f"{action}d",
        dict(changed),
        lambda db, _: statements.change(db, room.id, user.id, action, changed),
    )


@command(USERS, cost=5)
async def members(
    ctx: Context, group: Group, after: After = "", limit: Limit = 200, role: Role | None = None
) -> Members:
    """Lists who is in a group, by name; with role, only those who have it."""
    node = ctx.node
    room = await my_group(ctx, group)
    found = await node.store.read(
        statements.members, room.id, ctx.user.id, node.millis(), after, limit + 1, role
    )
    return Members([_line(ctx, member) for member in found[:limit]], len(found) > limit)


def _line(ctx: Context, member: Member) -> MemberLine:
    presence, user_id = ctx.node.presence, member.party.id
    return MemberLine(
        user=member.party.name,
        display=member.display,
        role=member.role,
        muted_until=member.muted_until,
        joined=member.joined,
        presence="unknown" if member.hidden else presence.shown(user_id),
        seen=None if member.hidden else presence.seen(user_id, member.seen_at),
    )


@command(USERS, cost=10)
async def dissolve(ctx: Context, group: Group) -> Stored:
    """Ends a group for all its members. Only the owner may."""
    user, node = ctx.user, ctx.node
    room = await my_group(ctx, group)
    if not may(user.groups[room.id].role, "dissolve"):  # or anybody could keep others from writing
        raise Refused("forbidden", "Only the owner can dissolve #{name}.", name=room.name)
    now = node.millis()
    node.dissolving.add(room.id)  # nothing is said behind the end
    try:
        return await append(
            ctx, room, "dissolved", {}, lambda db, _: statements.dissolve(db, room.id, user.id, now)
        )
    finally:
        node.dissolving.discard(room.id)


async def my_group(ctx: Context, group: str) -> Room:
    """The group of a name. Raises `Refused` as `Node.room` does."""
    room = await ctx.node.room(ctx.user, f"#{group_name(group)}")
    assert room is not None  # a group is there, or refused
    return room


def append(
    ctx: Context,
    room: Room,
    kind: str,
    body: dict[str, Any],
    effect: Effect,
    subject: Party | None = None,
    companions: tuple[Draft, ...] = (),
) -> Deferred[Stored]:
    """Puts an entry into a group's log. To be awaited: the session's next request depends on
    what it changes."""
    return ctx.node.append(
        ctx.session,
        ctx.user,
        room,
        kind,
        body,
        effect=effect,
        subject=subject,
        companions=companions,
    )

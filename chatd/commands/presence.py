"""Commands about presence: who is here, how one appears, whom one watches."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from chatd.commands.accounts import Done
from chatd.commands.groups import After, Limit
from chatd.errors import Refused
from chatd.model import Address, Group, Name, fold, group_name, user_name
from chatd.node import Context
from chatd.registry import USERS, command
from chatd.store import presence as statements
from chatd.store.presence import Known

Names = Annotated[tuple[Name, ...], Meta(max_length=200, description="names")]
Appearance = Annotated[
    Literal["online", "away", "invisible"], Meta(description="how others are to see you")
]
Shown = Literal["online", "away", "offline", "invisible", "unknown"]


class Person(Struct, frozen=True, omit_defaults=True):
    """How somebody is seen. `seen`: when one who is offline was last online (ms). `devices`, of
    yourself and of friends: those that are online. `unknown`: it is not for you to know."""

    user: str
    state: Shown
    seen: int | None = None
    devices: list[str] = []


class People(Struct, frozen=True):
    """The people asked for; `more`: ask again with the last one's name as `after`."""

    users: list[Person]
    more: bool


@command(USERS, cost=5)
async def appear(ctx: Context, state: Appearance) -> Done:
    """Says how you appear: online, away or invisible. Away is this session, and leaves it as it
    is whether you are invisible. Invisible are you, from all devices and until you say online;
    others see you as offline, last seen when you became so."""
    user, node = ctx.user, ctx.node
    invisible = user.invisible if state == "away" else state == "invisible"
    if invisible != user.invisible:
        draft = await node.tell(user.party, "updated", {"invisible": invisible})
        await node.submit(draft, lambda db, seq: statements.set_invisible(db, user.id, invisible))
    node.hub.sit(ctx.session, state == "away")
    return Done()


@command(USERS, cost=2)
async def watch(ctx: Context, to: Address | None = None) -> Done:
    """Tells that this session has a room open, instead of the one before: it gets the presence
    of the people there. Without an address it has none open. Ask who for how they are now."""
    user, session = ctx.user, ctx.session
    room = None if to is None else await ctx.node.room(user, to)
    if session.user is not user or not session.link.live:
        return Done()
    if room is None or room.kind == "inbox":
        ctx.node.hub.watch(session, None)
    elif room.kind == "group":
        ctx.node.hub.watch(session, ("group", room.id))
    else:
        ctx.node.hub.watch(session, ("user", room.other(user.id).id))
    return Done()


@command(USERS, cost=10)
async def who(
    ctx: Context,
    group: Group | None = None,
    users: Names = (),
    after: After = "",
    limit: Limit = 200,
) -> People:
    """Tells who is online: the members of a group, by name, or the users of a list. You may know
    it of friends, of people in your groups, and of those with whom you have a direct room."""
    if (group is None) != bool(users):
        raise Refused("bad-request", "Give a group or users.")
    if group is None:
        return await _by_name(ctx, [user_name(name) for name in users])
    room = await ctx.node.room(ctx.user, f"#{group_name(group)}")
    assert room is not None  # a group is there, or refused
    read = ctx.node.store.read
    found = await read(statements.members, ctx.user.id, room.id, after, limit + 1)
    return People([_person(ctx, known) for known in found[:limit]], len(found) > limit)


async def _by_name(ctx: Context, names: list[str]) -> People:
    found = await ctx.node.store.read(statements.by_name, ctx.user.id, names)
    people = []
    for name in names:
        known = found.get(fold(name))
        # The name as it was asked for: who may not know does not learn whether there is one.
        visible = known is not None and known.visible
        people.append(_person(ctx, known) if known and visible else Person(name, "unknown"))
    return People(people, False)


def _person(ctx: Context, known: Known) -> Person:
    user, presence = ctx.user, ctx.node.presence
    if known.id == user.id:
        return _oneself(ctx, known)
    if not known.visible:
        return Person(known.name, "unknown")
    state, seen = presence.shown(known.id), presence.seen(known.id, known.seen)
    return Person(known.name, state, seen, presence.devices(known.id) if known.friend else [])


def _oneself(ctx: Context, known: Known) -> Person:
    """One knows of oneself how it is, not what others are shown."""
    online = ctx.node.hub.user(known.id)
    devices = online.devices if online else []
    if ctx.user.invisible:
        return Person(known.name, "invisible", devices=devices)
    if online is None:
        return Person(known.name, "offline", ctx.node.presence.seen(known.id, known.seen))
    return Person(known.name, "away" if online.away else "online", devices=devices)

"""Commands about friends: ask, accept, refuse, end it, remark, list; block and unblock."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct
from msgspec.structs import replace

from chatd import bonds
from chatd.bonds import Change, State, Step
from chatd.errors import Refused, Unavailable
from chatd.model import LINE_PATTERN, Party, Username, fold, user_name
from chatd.node import Context
from chatd.registry import USERS, command
from chatd.store import contacts
from chatd.store.contacts import Changed, Contact
from chatd.store.log import Stored

Words = Annotated[
    str,
    Meta(
        max_length=256,
        pattern=LINE_PATTERN,
        description="one line that says who you are",
        extra={"rest": True},
    ),
]
Remark = Annotated[
    str,
    Meta(
        max_length=64,
        pattern=LINE_PATTERN,
        description="what you call them; empty: nothing",
        extra={"rest": True},
    ),
]
After = Annotated[str, Meta(max_length=64, description="the name to begin behind")]
Limit = Annotated[int, Meta(ge=1, le=1000, description="how many at most")]

_TRIES = 10  # how often the other one may change something at the same moment


class Tie(Struct, frozen=True, omit_defaults=True):
    """What the other user is to you now: `friend`, `asked` (by you), `asking` (you), `refused` (by
    you), or nothing. `seq` and `at` are of the entry in your inbox that tells of it; they are
    missing where nothing has changed."""

    user: str
    state: State
    blocked: bool = False
    seq: int = 0
    at: int = 0


class Friend(Struct, frozen=True, omit_defaults=True):
    """A friend, or somebody who has `asked` or was asked (`asking`: they ask you); since when (ms),
    and with which words. `remark` is what you call them. Of friends: their `presence`, the names
    of the `devices` that are online, when one who is offline was last `seen` (ms)."""

    user: str
    state: State
    since: int
    display: str = ""
    remark: str = ""
    words: str = ""
    presence: Literal["", "online", "away", "offline"] = ""
    seen: int | None = None
    devices: list[str] = []


class Friends(Struct, frozen=True):
    """A page of friends and open requests by name; `more`: ask again with the last one's name as
    `after`."""

    friends: list[Friend]
    more: bool


class Blocks(Struct, frozen=True):
    """A page of names; `more`: ask again with the last one as `after`."""

    users: list[str]
    more: bool


@command(USERS, cost=20)
async def befriend(ctx: Context, user: Username, words: Words = "") -> Tie:
    """Asks somebody to be friends. If they have asked you, you are from now on.

    Who was asked is told once, and not again for a month after a refusal.
    """
    now = ctx.node.millis()
    return await _change(ctx, user, lambda bond: bonds.ask(bond, words, now), words)


@command(USERS, cost=20)
async def accept(ctx: Context, user: Username) -> Tie:
    """Accepts a request: you are friends from now on."""
    return await _change(ctx, user, partial(bonds.accept, now=ctx.node.millis()))


@command(USERS, cost=20)
async def refuse(ctx: Context, user: Username) -> Tie:
    """Refuses a request. Who has asked is not told."""
    return await _change(ctx, user, partial(bonds.refuse, now=ctx.node.millis()))


@command(USERS, cost=20)
async def unfriend(ctx: Context, user: Username) -> Tie:
    """Ends a friendship, or withdraws your request. The other one is not told."""
    return await _change(ctx, user, bonds.unfriend)


@command(USERS, cost=20)
async def remark(ctx: Context, user: Username, remark: Remark = "") -> Tie:
    """Notes what you call a friend, for yourself."""
    return await _change(ctx, user, lambda bond: bonds.remark(bond, remark))


@command(USERS, cost=20)
async def friends(ctx: Context, after: After = "", limit: Limit = 200) -> Friends:
    """Lists your friends, and the requests that wait for an answer, by name."""
    found = await ctx.node.store.read(contacts.friends, ctx.user.id, after, limit + 1)
    return Friends([_friend(ctx, contact) for contact in found[:limit]], len(found) > limit)


def _friend(ctx: Context, contact: Contact) -> Friend:
    line = Friend(
        contact.party.name,
        contact.state,
        contact.since,
        contact.display,
        contact.remark,
        contact.words,
    )
    if contact.state != "friend":
        return line
    presence, user_id = ctx.node.presence, contact.party.id
    return replace(
        line,
        presence=presence.shown(user_id),
        seen=presence.seen(user_id, contact.seen_at),
        devices=presence.devices(user_id),
    )


@command(USERS, cost=20)
async def block(ctx: Context, user: Username) -> Tie:
    """Takes no messages, requests and invitations from somebody any more, and sends none.
    Friendship and requests end."""
    return await _change(ctx, user, bonds.block)


@command(USERS, cost=20)
async def unblock(ctx: Context, user: Username) -> Tie:
    """Takes messages and requests from somebody again."""
    return await _change(ctx, user, bonds.unblock)


@command(USERS, cost=20)
async def blocks(ctx: Context, after: After = "", limit: Limit = 200) -> Blocks:
    """Lists whom you have blocked, by name."""
    found = await ctx.node.store.read(contacts.blocks, ctx.user.id, after, limit + 1)
    return Blocks(found[:limit], len(found) > limit)


async def _change(ctx: Context, name: str, step: Step, words: str = "") -> Tie:
    """Takes a step from the state as it is, and again if it changes at the same moment."""
    user = ctx.user
    wanted = user_name(name)
    if fold(wanted) == fold(user.name):
        raise Refused("forbidden", "That is you.")
    other = await ctx.node.find_user(wanted)
    for _ in range(_TRIES):
        before = await ctx.node.store.read(contacts.bond, user.id, other)
        change = step(before)
        mine = change.bond.mine
        if not change.kind:
            return Tie(other.name, mine.state, mine.blocked)
        try:
            stored = await _store(ctx, other, before, change, words)
        except Changed:
            continue
        return Tie(other.name, mine.state, mine.blocked, stored.seq, stored.at)
    raise Unavailable("Both of you change this at once. Try again.")


async def _store(
    ctx: Context, other: Party, before: bonds.Bond, change: Change, words: str
) -> Stored:
    user, node = ctx.user, ctx.node
    inbox = await node.room(user, f"@{user.name}", create=True)
    assert inbox is not None
    told = {"user": user.name, **_more(change, user.name, words)}
    theirs = await node.tell(other, change.kind, told, subject=user.party)
    return await node.append(
        ctx.session,
        user,
        inbox,
        change.kind,
        {**told, "user": other.name},
        effect=lambda db, seq: contacts.settle(
            db, user.id, other, before, change, node.limits.friends
        ),
        subject=other,
        companions=(theirs,) if change.told else (),
        locks=(theirs.room.id,),  # its owner's side may change, too
    )


def _more(change: Change, by: str, words: str) -> dict[str, Any]:
    """What the entry says besides about whom it is."""
    if change.kind == "remarked":
        return {"remark": change.bond.mine.remark}
    if change.kind != "befriended":
        return {}
    return {"by": by, "words": words} if words else {"by": by}

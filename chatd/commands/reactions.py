"""Commands about reactions to messages."""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta, Struct
from twisted.internet.defer import Deferred

from chatd.commands.edits import Changed, changed, open_to
from chatd.commands.messages import spoken
from chatd.errors import Refused
from chatd.model import Address, Seq
from chatd.node import Context
from chatd.registry import USERS, command
from chatd.store import reactions as statements
from chatd.store.connection import Connection
from chatd.store.messages import Change
from chatd.store.reactions import Reaction

EMOJI_BYTES: Final = 32

Emoji = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=EMOJI_BYTES,
        pattern=r"^[^\s\x00-\x20\x7f-\xa0]+\Z",
        description="an emoji, or a short word",
    ),
]
After = Annotated[str, Meta(max_length=128, description="the emoji and name to begin behind")]
Limit = Annotated[int, Meta(ge=1, le=1000, description="how many at most")]


class Reactions(Struct, frozen=True):
    """Who reacted, by emoji and name; `more`: ask again with the last one's `emoji user` as
    `after`."""

    reactions: list[Reaction]
    more: bool


@command(USERS, cost=5)
async def react(
    ctx: Context, to: Address, seq: Seq, emoji: Emoji, on: bool = True
) -> Deferred[Changed]:
    """Reacts to a message with an emoji, or takes that back."""
    if len(emoji.encode()) > EMOJI_BYTES:
        raise Refused("too-large", "An emoji has at most {most} bytes.", most=EMOJI_BYTES)
    room = await (open_to if on else spoken)(ctx, to)
    change = Change(room, ctx.user.party, seq, ctx.node.millis())

    body = {"target": seq, "emoji": emoji, "on": on}

    def effect(connection: Connection, _: int) -> None:
        body["count"] = statements.react(connection, change, emoji, on)

    return changed(ctx.node.append(ctx.session, ctx.user, room, "reacted", body, effect=effect))


@command(USERS, cost=5)
async def reactions(
    ctx: Context, to: Address, seq: Seq, after: After = "", limit: Limit = 200
) -> Reactions:
    """Lists who reacted to a message."""
    room = await spoken(ctx, to)
    emoji, _, name = after.partition(" ")
    found = await ctx.node.store.read(
        statements.reactions, room, ctx.user.id, seq, (emoji, name), limit + 1
    )
    return Reactions(found[:limit], len(found) > limit)

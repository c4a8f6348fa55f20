"""Commands about messages: say, and tell that one is writing."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta
from twisted.internet.defer import Deferred

from chatd.commands.accounts import Done
from chatd.errors import Refused
from chatd.model import Address, Key, Seq, Text
from chatd.node import Context
from chatd.registry import USERS, command
from chatd.store.log import Stored

MessageKind = Annotated[
    str, Meta(pattern=r"^[a-z][a-z0-9-]{0,15}\Z", description="what the text is")
]


@command(USERS)
async def say(
    ctx: Context,
    to: Address,
    text: Text,
    key: Key | None = None,
    reply_to: Seq | None = None,
    kind: MessageKind = "text",
) -> Deferred[Stored]:
    """Sends a message to @user or #group. The answer comes when it is stored.

    A repeat with the same key, from any session and at any time, is answered with the first
    one's seq and duplicate=true.
    """
    user = ctx.user
    if len(text) > ctx.node.limits.text_chars:
        raise Refused(
            "too-large", "A text has at most {most} characters.", most=ctx.node.limits.text_chars
        )
    body: dict[str, Any] = {"text": text}
    if kind != "text":
        body["kind"] = kind
    if reply_to is not None:
        body["reply_to"] = reply_to
    to = to or ctx.session.room
    if not to:
        raise Refused("bad-request", "Say where: /say @NAME TEXT, or /join a #group first.")
    room = await ctx.node.writable(user, to)
    ctx.session.room = to
    return ctx.node.append(ctx.session, user, room, "message", body, key)


@command(USERS)
async def typing(ctx: Context, to: Address) -> Done:
    """Tells the others in a room that you are writing. It is neither stored nor replayed."""
    user = ctx.user
    room = await ctx.node.room(user, to)
    if room is not None:
        await ctx.node.writable(user, to)
        event = {"event": "typing", "to": room.address_from(user.id), "from": user.name}
        ctx.node.hub.hint(room, event, user.id)
    return Done()

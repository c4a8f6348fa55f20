"""Commands about messages: say, pass on, and tell that one is writing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct
from twisted.internet.defer import Deferred

from chatd import payloads
from chatd.commands.accounts import Done
from chatd.errors import Refused
from chatd.mentions import ALL, MOST, candidates
from chatd.model import Address, Key, Name, Party, Room, Seq, Text, fold, normalise
from chatd.node import Context
from chatd.registry import USERS, command
from chatd.rights import may
from chatd.store import mentions as mentioning
from chatd.store.connection import Connection
from chatd.store.log import Effect, Stored
from chatd.store.messages import copied, quoted
from chatd.words import burden

MessageKind = Annotated[
    str,
    Meta(
        pattern=r"^[a-z][a-z0-9-]{0,15}\Z",
        description="text, image, file, location, or a word of your own",
    ),
]
Data = Annotated[
    dict[str, Any], Meta(description="what a message has besides its text, by its kind")
]
Names = Annotated[list[Name], Meta(max_length=MOST, description='names of members, or "all" alone')]
Keep = Annotated[bool, Meta(description="false: only for who is online, and not kept")]


class Sent(Struct, frozen=True):
    """When it was sent (ms): it is not kept, so it has no seq."""

    at: int


@command(USERS)
async def say(
    ctx: Context,
    to: Address,
    text: Text,
    key: Key | None = None,
    reply_to: Seq | None = None,
    kind: MessageKind = "text",
    data: Data | None = None,
    mentions: Names | None = None,
    store: Keep = True,
) -> Deferred[Stored] | Sent:
    """Sends a message to @user or #group. The answer comes when it is stored.

    A repeat with the same key, from any session and at any time, is answered with the first
    one's seq and duplicate=true. reply_to is the seq of a message there. In a group @name in the
    text mentions a member, and an admin's @all everybody, as mentions does. With store=false it
    goes to those who are online, and the answer has no seq.
    """
    user = ctx.user
    check_text(ctx, text)
    body: dict[str, Any] = {"text": text}
    if kind != "text" or data is not None:
        _add_data(ctx, body, kind, data)
    to = to or ctx.session.room
    if not to:
        raise Refused("bad-request", "Say where: /say @NAME TEXT, or /join a #group first.")
    room = await ctx.node.writable(user, to)
    ctx.session.room = to
    if not store:
        return await _shed(ctx, room, body, key, reply_to)
    effect = None
    if reply_to is not None or mentions or ("@" in text and room.kind == "group"):
        effect = await _effect(ctx, room, body, reply_to, mentions or ())
    return ctx.node.append(ctx.session, user, room, "message", body, key, effect)


def check_text(ctx: Context, text: str, times: int = 1) -> None:
    """Takes what a long text costs, so many times. Raises `Refused` of `too-large` for one that is
    too long."""
    most = ctx.node.limits.text_chars
    if len(text) > most:
        raise Refused("too-large", "A text has at most {most} characters.", most=most)
    ctx.owe(times * burden(text))


def check_size(ctx: Context, data: dict[str, Any] | None) -> None:
    """Raises `Refused` of `too-large` for data that is too long."""
    most = ctx.node.limits.data_bytes
    if data is not None and len(msgspec.json.encode(data)) > most:
        raise Refused("too-large", "A message's data has at most {most} bytes.", most=most)


def _add_data(ctx: Context, body: dict[str, Any], kind: str, data: dict[str, Any] | None) -> None:
    payloads.check(kind, data)
    check_size(ctx, data)
    body["kind"] = kind
    if data is not None:
        body["data"] = data


async def _shed(
    ctx: Context, room: Room, body: dict[str, Any], key: str | None, reply_to: int | None
) -> Sent:
    """Sends to who is online what is not kept."""
    if key is not None:
        raise Refused("bad-request", "What is not stored has no key.")
    node, user = ctx.node, ctx.user
    if reply_to is not None:
        body["reply_to"] = reply_to
        body["quote"] = await node.store.read(quoted, room, user.id, reply_to)
    at = node.millis()
    event = {"event": "message", "to": room.address_from(user.id), "from": user.name, "at": at}
    node.hub.hint(room, {**event, **body, "store": False}, but=ctx.session)
    return Sent(at)


async def _effect(
    ctx: Context, room: Room, body: dict[str, Any], reply_to: int | None, names: Sequence[str]
) -> Effect | None:
    """What is stored with a message that replies or mentions; what it adds to the body."""
    user, at = ctx.user, ctx.node.millis()
    pause = ctx.node.messages.call_all_seconds * 1000
    called, parties = await _mentioned(ctx, room, body["text"], names)
    if called or parties:
        body["mentions"] = [ALL] if called else [party.name for party in parties]
    if reply_to is not None:
        body["reply_to"] = reply_to
    elif not (called or parties):
        return None

    def effect(connection: Connection, seq: int) -> None:
        if reply_to is not None:
            body["quote"] = quoted(connection, room, user.id, reply_to)
        if called:
            mentioning.call_all(connection, room.id, user.id, seq, at, pause)
        else:
            mentioning.mention(connection, room.id, seq, [party.id for party in parties])

    return effect


async def _mentioned(
    ctx: Context, room: Room, text: str, names: Sequence[str]
) -> tuple[bool, list[Party]]:
    """Whether everybody in a group is mentioned, and else who."""
    if room.kind != "group":
        if names:
            raise Refused("bad-request", "Mentions are for groups.")
        return False, []
    wanted = [fold(normalise(name)) for name in names]
    found = candidates(text) if "@" in text else []
    if may(ctx.user.groups[room.id].role, "call all"):
        if ALL in wanted or any(ALL in keys for keys in found):
            return True, []
    elif ALL in wanted:
        raise Refused("forbidden", "Only admins of the group may do this.")
    asked = sorted({*wanted, *(key for keys in found for key in keys)})
    known = await ctx.node.store.read(mentioning.named, room, asked) if asked else {}
    for key in wanted:
        if key not in known:
            raise Refused("not-found", "@{name} is not in the group.", name=key)
    meant = (next((key for key in keys if key in known), None) for keys in found)
    parties = [known[key] for key in (*wanted, *meant) if key is not None]
    others = dict.fromkeys(party for party in parties if party.id != ctx.user.id)
    return False, list(others)[:MOST]


@command(USERS, cost=5)
async def forward(
    ctx: Context, to: Address, seq: Seq, into: Address, key: Key | None = None
) -> Deferred[Stored]:
    """Sends the message seq of @user or #group into another room, where its first sender is
    named. The key is as for say."""
    user, node = ctx.user, ctx.node
    source = await spoken(ctx, to)
    try:
        body = await node.store.read(copied, source, user.id, seq)
    except Refused:
        if key is None:
            raise
        body = {}  # it may be a repeat; else the effect refuses
    room = await node.writable(user, into)
    ctx.owe(burden(body.get("text", "")))

    def effect(connection: Connection, _: int) -> None:
        if copied(connection, source, user.id, seq, lock=True) != body:
            raise Refused("conflict", "The message has just changed. Try again.")

    return node.append(ctx.session, user, room, "message", body, key, effect)


async def spoken(ctx: Context, to: str) -> Room:
    """The room at an address. Raises `Refused` of `not-found` where nothing was ever said."""
    room = await ctx.node.room(ctx.user, to)
    if room is None:
        raise Refused("not-found", "Nothing was said between you and {to} yet.", to=to)
    return room


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

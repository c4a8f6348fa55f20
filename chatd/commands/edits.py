"""Commands that change messages: edit, recall, hide; and what they said before."""

from __future__ import annotations

from typing import Any

from msgspec import Struct
from msgspec.structs import replace
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from chatd.commands.messages import Data, check_size, check_text, spoken
from chatd.model import Address, Room, Seq, Text
from chatd.node import Context
from chatd.registry import USERS, command
from chatd.store import messages as statements
from chatd.store.connection import Connection
from chatd.store.log import Stored
from chatd.store.messages import Change, Unchanged, Version

_AT_ONCE = 8  # an edit changes the index while the log waits, and takes one text out of it


class Changed(Struct, frozen=True, omit_defaults=True):
    """Where the entry that tells of it stands, and since when (ms); `unchanged`: it was so
    already, and there is no entry."""

    seq: int = 0
    at: int = 0
    unchanged: bool = False


class Versions(Struct, frozen=True):
    """What a message said, earliest first; the last is what it says now."""

    versions: list[Version]


def changed(stored: Deferred[Stored]) -> Deferred[Changed]:
    """The result of a command that may find nothing to do."""
    return stored.addCallbacks(lambda done: Changed(done.seq, done.at), _unchanged)


def _unchanged(failure: Failure) -> Changed:
    failure.trap(Unchanged)
    return Changed(unchanged=True)


async def open_to(ctx: Context, to: str) -> Room:
    """The room at an address, in which something was said and the user may write now."""
    await spoken(ctx, to)
    return await ctx.node.writable(ctx.user, to)


@command(USERS, cost=5)
async def edit(
    ctx: Context, to: Address, seq: Seq, text: Text, data: Data | None = None
) -> Deferred[Changed]:
    """Gives a message of yours another text, and other data if given. What it said before is
    kept; whom it mentioned stays."""
    check_text(ctx, text, _AT_ONCE)
    check_size(ctx, data)
    room = await open_to(ctx, to)
    change = _change(ctx, room, seq, ctx.node.messages.edit_seconds)
    body: dict[str, Any] = {"target": seq}

    def effect(connection: Connection, _: int) -> None:
        body.update(statements.edit(connection, change, text, data))

    return changed(ctx.node.append(ctx.session, ctx.user, room, "edited", body, effect=effect))


@command(USERS, cost=5)
async def versions(ctx: Context, to: Address, seq: Seq) -> Versions:
    """Lists what a message said before it was edited, and what it says now."""
    room = await spoken(ctx, to)
    return Versions(await ctx.node.store.read(statements.versions, room, ctx.user.id, seq))


@command(USERS, cost=5)
async def recall(ctx: Context, to: Address, seq: Seq) -> Deferred[Changed]:
    """Takes a message away from everybody; its text is deleted. In a group admins may do it to
    members' messages, too, and at any time."""
    room = await spoken(ctx, to)
    change = _change(ctx, room, seq, ctx.node.messages.recall_seconds)

    def effect(connection: Connection, _: int) -> None:
        statements.recall(connection, change)

    body = {"target": seq}
    return changed(ctx.node.append(ctx.session, ctx.user, room, "recalled", body, effect=effect))


def _change(ctx: Context, room: Room, seq: int, seconds: int) -> Change:
    at = ctx.node.millis()
    return Change(room, ctx.user.party, seq, at, at - 1000 * seconds)


@command(USERS, cost=5)
async def hide(ctx: Context, to: Address, seq: Seq) -> Deferred[Changed]:
    """Takes a message out of your own view, on all your devices; others see it still."""
    user, node = ctx.user, ctx.node
    room = await spoken(ctx, to)
    await node.store.read(statements.seen, room, user.id, seq)  # before an inbox is made for it
    body = {"room": room.address_from(user.id), "target": seq}
    draft = replace(await node.tell(user.party, "hidden", body), origin=ctx.session)

    def effect(connection: Connection, _: int) -> None:
        statements.hide(connection, room, user.id, seq)

    return changed(node.submit(draft, effect))

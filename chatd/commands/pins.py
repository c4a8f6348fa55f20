"""Commands about pinned messages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import Struct
from twisted.internet.defer import Deferred

from chatd.commands.edits import Changed, changed, open_to
from chatd.commands.messages import spoken
from chatd.model import Address, Room, Seq
from chatd.node import Context
from chatd.registry import USERS, command
from chatd.store import pins as statements
from chatd.store.connection import Connection
from chatd.store.messages import Change


class Pins(Struct, frozen=True):
    """A room's pinned messages as events, the one pinned first first."""

    pins: list[dict[str, Any]]


@command(USERS, cost=5)
async def pin(ctx: Context, to: Address, seq: Seq) -> Deferred[Changed]:
    """Pins a message, for all in the room. In a group admins may."""
    return _tell(ctx, await open_to(ctx, to), "pinned", seq, statements.pin)


@command(USERS, cost=5)
async def unpin(ctx: Context, to: Address, seq: Seq) -> Deferred[Changed]:
    """Takes a pin away."""
    return _tell(ctx, await spoken(ctx, to), "unpinned", seq, statements.unpin)


def _tell(
    ctx: Context, room: Room, kind: str, seq: int, act: Callable[[Connection, Change], None]
) -> Deferred[Changed]:
    change = Change(room, ctx.user.party, seq, ctx.node.millis())

    def effect(connection: Connection, _: int) -> None:
        act(connection, change)

    body = {"target": seq}
    return changed(ctx.node.append(ctx.session, ctx.user, room, kind, body, effect=effect))


@command(USERS, cost=5)
async def pins(ctx: Context, to: Address) -> Pins:
    """Lists a room's pinned messages."""
    room = await spoken(ctx, to)
    found = await ctx.node.store.read(statements.pins, room, ctx.user.id)
    return Pins([entry.event() for entry in found])

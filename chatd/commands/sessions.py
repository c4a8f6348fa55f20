"""Commands about sessions: list the places where one is online now, end one of them."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from chatd.commands.accounts import Done
from chatd.errors import Refused
from chatd.node import Context
from chatd.registry import USERS, command
from chatd.revocations import log_out
from chatd.session import Session
from chatd.store import accounts as statements

SessionId = Annotated[str, Meta(min_length=16, max_length=16, description="a session's id")]


class SessionLine(Struct, frozen=True):
    """A session of yours: its device, the address it comes from, and since when it is connected
    (ms)."""

    id: str
    device: str
    address: str
    since: int
    state: Literal["online", "away"]
    current: bool


class Sessions(Struct, frozen=True):
    """Your sessions, this one first."""

    sessions: list[SessionLine]


@command(USERS, cost=2)
async def sessions(ctx: Context) -> Sessions:
    """Lists your sessions: the devices that you are online with now."""
    others = (session for session in _mine(ctx) if session is not ctx.session)
    return Sessions([_line(ctx, session) for session in (ctx.session, *others)])


@command(USERS, cost=5)
async def end(ctx: Context, session: SessionId) -> Done:
    """Ends one of your sessions, and its token, or the device would come back at once. A session
    that has the token of this one ends alone; logout with everywhere ends all."""
    node, user_id = ctx.node, ctx.user.id
    found = next((mine for mine in _mine(ctx) if mine.id == session), None)
    if found is None:
        raise Refused("not-found", "You have no session of that id; sessions lists them.")
    if found is ctx.session:
        raise Refused("conflict", "That is this session; log out to end it.")
    if found.token == ctx.session.token:
        log_out(found)
        return Done()
    token = found.token
    await node.store.write(statements.revoke_token, user_id, token, node.millis())
    node.close_sessions(user_id, token, but=ctx.session)
    return Done()


def _mine(ctx: Context) -> list[Session]:
    user = ctx.node.hub.user(ctx.user.id)
    return user.sessions if user else []


def _line(ctx: Context, session: Session) -> SessionLine:
    node = ctx.node
    return SessionLine(
        session.id,
        session.device,
        session.address,
        node.millis() - (node.tick - session.since) * 1000,
        "away" if session.away else "online",
        session is ctx.session,
    )

"""Commands about the connection itself: help, ping, whoami."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from chatd.errors import Refused
from chatd.node import Context
from chatd.registry import ANYBODY, COMMANDS, command

CommandName = Annotated[str, Meta(max_length=64, description="the name of a command")]


class CommandHelp(Struct, frozen=True):
    """One command: how to type it, and what it does."""

    usage: str
    help: str


class Help(Struct, frozen=True):
    """The commands that were asked for."""

    commands: list[CommandHelp]


class Pong(Struct, frozen=True):
    """The server's clock, in ms since 1970 UTC."""

    at: int


class Identity(Struct, frozen=True, omit_defaults=True):
    """Who one is: a user in a session, or a back end by the scopes of its API key."""

    session: str
    user: str | None = None
    scopes: list[str] = []


@command(ANYBODY, "help")
def help_(ctx: Context, command: CommandName | None = None) -> Help:
    """Lists the commands, or explains one."""
    if command is None:
        lines = [(c, " ".join(c.help.partition("\n\n")[0].split())) for c in COMMANDS.values()]
    elif command.lstrip("/") in COMMANDS:
        found = COMMANDS[command.lstrip("/")]
        lines = [(found, " ".join(found.help.split()))]
    else:
        raise Refused("not-found", "There is no such command; help alone lists them all.")
    return Help([CommandHelp(c.usage(), text) for c, text in lines])


@command(ANYBODY)
def ping(ctx: Context) -> Pong:
    """Answers, and tells the server's time."""
    return Pong(ctx.node.millis())


@command(ANYBODY)
def whoami(ctx: Context) -> Identity:
    """Tells who the server takes you for."""
    session = ctx.session
    user = session.user.name if session.user else None
    return Identity(session.id, user, sorted(session.scopes))

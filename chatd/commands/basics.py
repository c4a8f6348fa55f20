"""Commands about the connection itself: help, language, ping, whoami."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from chatd.errors import Phrase, Refused
from chatd.languages import SPOKEN, pick, translated
from chatd.model import LanguageName
from chatd.node import Context
from chatd.registry import ANYBODY, COMMANDS, Command, command

CommandName = Annotated[str, Meta(max_length=64, description="the name of a command")]


class CommandHelp(Struct, frozen=True):
    """One command: how to type it, and what it does."""

    usage: str
    help: str


class Help(Struct, frozen=True):
    """The commands that were asked for."""

    commands: list[CommandHelp]


class Language(Struct, frozen=True):
    """The language of the server's sentences from here on."""

    language: str


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
    language = ctx.session.language
    if command is None:
        return Help([_line(c, Phrase(c.summary()), language) for c in COMMANDS.values()])
    found = COMMANDS.get(command.lstrip("/"))
    if found is None:
        raise Refused("not-found", "There is no such command; help alone lists them all.")
    told = Phrase(found.summary())
    if found.details():
        told = Phrase("{summary} {details}", summary=told, details=Phrase(found.details()))
    return Help([_line(found, told, language)])


def _line(command: Command, told: Phrase, language: str) -> CommandHelp:
    return CommandHelp(command.usage(), translated(told.template, told.fields, language))


@command(ANYBODY, "language")
def language_(ctx: Context, name: LanguageName) -> Language:
    """Chooses the language of what the server tells you on this connection: en or zh. It comes
    before your own setting; an empty name goes back to that."""
    ctx.session.chosen = pick(name)
    return Language(ctx.session.language or SPOKEN[0])


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

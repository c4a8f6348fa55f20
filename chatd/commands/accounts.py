"""Commands about accounts: register, log in and out, tokens."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from chatd import displays
from chatd.doors import place_of
from chatd.errors import Refused
from chatd.languages import pick
from chatd.lookalikes import new_name
from chatd.model import Display, LanguageName, Name, Password, Secret, fold, normalise
from chatd.node import Context
from chatd.registry import ANYBODY, USERS, command
from chatd.store import accounts as statements
from chatd.store.accounts import Account, Login, Registration, Token, digest, new_secret

Device = Annotated[
    str,
    Meta(max_length=64, pattern=r"^[^\x00-\x1f\x7f-\x9f]*\Z", description="what the client is"),
]
Invitation = Annotated[str, Meta(min_length=1, max_length=4096, description="who lets you in")]
SiteToken = Annotated[
    str, Meta(min_length=1, max_length=4096, description="of the site that embeds this server")
]
BackEndKey = Annotated[
    str, Meta(min_length=1, max_length=4096, description="of a back end, with scope login-as")
]
Replay = Annotated[bool, Meta(description="send what has come since you were last here")]
Ack = Annotated[bool, Meta(description="only `delivered` and `read` say what arrived")]
Everywhere = Annotated[bool, Meta(description="end all your tokens and sessions")]
TokenId = Annotated[str, Meta(min_length=16, max_length=16, description="a token's id")]

_DAY = 24 * 60 * 60 * 1000  # ms


class LoggedIn(Struct, frozen=True):
    """Who one is now, the token to log in with next time, when it expires (ms), and the id
    of this session."""

    user: str
    token: str
    expires: int
    session: str


class Tokens(Struct, frozen=True):
    """The user's tokens, newest first."""

    tokens: list[Token]


class Done(Struct, frozen=True):
    """Nothing more to tell."""


@command(ANYBODY, cost=10)
async def register(
    ctx: Context,
    name: Name,
    password: Password,
    display: Display = "",
    invitation: Invitation | None = None,
    device: Device = "",
    replay: Replay = True,
    ack: Ack = False,
    language: LanguageName = "",
) -> LoggedIn:
    """Makes an account and logs in. The server may want an invitation, or take nobody."""
    _choose(ctx, language)
    rule = ctx.node.accounts.registration
    if rule == "closed":
        raise Refused("forbidden", "Accounts are made by the operator of this server.")
    if rule == "invitation" and invitation is None:
        raise Refused("forbidden", "This server wants an invitation: invitation=TOKEN.")
    _nobody_yet(ctx)
    spent = digest(invitation) if rule == "invitation" and invitation else None
    shown, display = new_name(name), displays.shown(display, 64)
    ctx.node.guesses.take(("new", _place(ctx)))
    await ctx.node.store.read(statements.check_free, shown)
    hashed = await ctx.node.passwords.hash(password)
    new = Registration(shown, display, hashed, spent)
    return await _log_in(ctx, device, replay, ack, registration=new)


@command(ANYBODY, cost=10)
async def login(
    ctx: Context,
    name: Name | None = None,
    password: Password | None = None,
    token: Secret | None = None,
    jwt: SiteToken | None = None,
    api_key: BackEndKey | None = None,
    device: Device = "",
    replay: Replay = True,
    ack: Ack = False,
    language: LanguageName = "",
) -> LoggedIn:
    """Logs in: with name and password, token, jwt, or api_key and name.

    With replay you get all that has come since you were last here, then what comes live. With
    ack the server takes a message as delivered only when you say so.
    """
    _choose(ctx, language)
    _nobody_yet(ctx)
    given = [value is not None for value in (password, token, jwt, api_key)]
    if sum(given) != 1 or (name is None) != (token is not None or jwt is not None):
        raise Refused(
            "bad-request", "Give name and password, or token, or jwt, or api_key and name."
        )
    if token is not None:
        return await _by_token(ctx, token, replay, ack)
    if jwt is not None:
        return await _log_in(ctx, device, replay, ack, name=_site_name(ctx, jwt))
    assert name is not None
    if api_key is not None:
        shown = normalise(name)
        return await _log_in(ctx, device, replay, ack, name=shown, api_key=digest(api_key))
    user_id, stored = await _check_password(ctx, name, password or "")
    return await _log_in(ctx, device, replay, ack, user_id=user_id, password=stored)


def _choose(ctx: Context, language: str) -> None:
    """Before anything may be refused: in that language, then."""
    if language:
        ctx.session.chosen = pick(language)


def _nobody_yet(ctx: Context) -> None:
    if ctx.session.user is not None:
        raise Refused("conflict", "You are {name}; log out first.", name=ctx.session.user.name)


def _site_name(ctx: Context, jwt: str) -> str:
    if ctx.node.site_tokens is None:
        raise Refused("unauthorized", "This server takes no JWTs.")
    return normalise(ctx.node.site_tokens.name(jwt))


def _place(ctx: Context) -> str:
    return place_of(ctx.session.address) or ctx.session.address


async def _check_password(ctx: Context, name: str, password: str) -> tuple[int, str]:
    """The id of the user whose password this is, and the hash that it fits; wrong tries are
    counted for the account and for the address, which many may share."""
    shown = normalise(name)
    account, address = fold(shown), _place(ctx)
    keys = (("guess", f"{account} {address}"), ("account", account), ("address", address))
    ctx.node.guesses.take(*keys)
    found = await ctx.node.store.read(statements.password_of, shown)
    right = await ctx.node.passwords.verify(found[1] if found else None, password)
    if found is None or not right:
        raise Refused("unauthorized", "The name or the password is wrong.")
    ctx.node.guesses.give_back(*keys)
    return found


async def _by_token(ctx: Context, token: str, replay: bool, ack: bool) -> LoggedIn:
    login = Login(ctx.node.millis(), token=digest(token))
    ctx.session.acknowledging = ack
    account = await ctx.node.log_in(ctx.session, login, replay)
    return _logged_in(ctx, account, token)


async def _log_in(
    ctx: Context,
    device: str,
    replay: bool,
    ack: bool,
    *,
    user_id: int | None = None,
    password: str = "",
    name: str | None = None,
    api_key: bytes | None = None,
    registration: Registration | None = None,
) -> LoggedIn:
    token = new_secret()
    now = ctx.node.millis()
    login = Login(
        now,
        user_id=user_id,
        password=password,
        name=name,
        api_key=api_key,
        registration=registration,
        issue=digest(token),
        device=device,
        expires=now + ctx.node.accounts.token_days * _DAY,
    )
    ctx.session.acknowledging = ack
    account = await ctx.node.log_in(ctx.session, login, replay)
    return _logged_in(ctx, account, token)


def _logged_in(ctx: Context, account: Account, token: str) -> LoggedIn:
    return LoggedIn(account.user.name, token, account.expires, ctx.session.id)


@command(USERS, cost=5)
async def logout(ctx: Context, everywhere: Everywhere = False) -> Done:
    """Ends this session's token; with everywhere, all your tokens and sessions."""
    user, session, node = ctx.user, ctx.session, ctx.node
    node.cursors.closed(session)
    if everywhere:
        await node.store.write(statements.revoke_all, user.id, node.millis())
        node.close_sessions(user.id, None, but=session)
    else:
        token = session.token
        await node.store.write(statements.revoke_token, user.id, token, node.millis())
        node.close_sessions(user.id, token, but=session)
    node.hub.leave(session)
    session.since = node.tick
    return Done()


@command(USERS, cost=5)
async def tokens(ctx: Context) -> Tokens:
    """Lists your tokens: the places where you are logged in or can come back without a
    password."""
    now = ctx.node.millis()
    found = await ctx.node.store.read(statements.list_tokens, ctx.user.id, ctx.session.token, now)
    return Tokens(found)


@command(USERS, cost=5)
async def revoke(ctx: Context, token: TokenId) -> Done:
    """Ends one of your tokens, and the sessions that logged in with it."""
    user, node = ctx.user, ctx.node
    ended = await node.store.write(statements.revoke_by_id, user.id, token, node.millis())
    if ended is None:
        raise Refused("not-found", "You have no token of that id; tokens lists them.")
    node.close_sessions(user.id, ended, but=ctx.session)
    return Done()

"""The verbs about accounts, API keys and invitations; help shows their docstrings."""

from __future__ import annotations

import argparse
import getpass
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Final

import argon2
import msgspec
from msgspec import Meta

from chatd import displays
from chatd.client.output import Answer, Table, iso
from chatd.errors import Refused
from chatd.lookalikes import new_name
from chatd.model import LINE_PATTERN, Display, Party, Password, normalise
from chatd.store import accounts
from chatd.store.connection import Connection
from chatd.store.fsck import differences

KeyName = Annotated[str, Meta(min_length=1, max_length=64, pattern=LINE_PATTERN)]

_DAY: Final = 24 * 60 * 60 * 1000  # ms
_ENDED: Final = "with all tokens revoked and sessions ended"


def user_add(connection: Connection, args: argparse.Namespace) -> Answer:
    """Make an account."""
    name = new_name(args.name)
    sentence = "A display name is one line of up to 64 characters."
    display = displays.shown(_checked(args.display, Display, sentence), 64)
    taken = f"The name {name} is taken: choose another, `chatctl user list` shows all."
    accounts.check_free(connection, name)  # before anybody is asked for a password
    password = None if args.no_password else _hashed_password(args)
    with _unique(connection, taken):
        if password is None:
            accounts.add_user_without_password(connection, name, display, _now())
        else:
            accounts.add_user(connection, name, display, password, _now())
    return Answer({"name": name, "display": display}, f"{name} has an account now.")


def user_list(connection: Connection, _args: argparse.Namespace) -> Table:
    """List the accounts."""
    return Table(("name", "display", "created", "disabled"), accounts.list_users(connection))


def user_password(connection: Connection, args: argparse.Namespace) -> Answer:
    """Set the password of an account, revoke its tokens and end its sessions."""
    user = _user(connection, args.name)
    accounts.change_password(connection, user.id, _hashed_password(args), _now())
    return Answer({"name": user.name}, f"{user.name} has a new password, {_ENDED}.")


def user_disable(connection: Connection, args: argparse.Namespace) -> Answer:
    """Let nobody log in to an account, revoke its tokens and end its sessions."""
    user, now = _user(connection, args.name), _now()
    accounts.disable(connection, user.id, now)
    sentence = f"{user.name} cannot log in any more, {_ENDED}."
    return Answer({"name": user.name, "disabled": now}, sentence)


def user_enable(connection: Connection, args: argparse.Namespace) -> Answer:
    """Let a disabled account log in again."""
    user = _user(connection, args.name)
    accounts.enable(connection, user.id)
    return Answer({"name": user.name, "disabled": None}, f"{user.name} may log in.")


def user_logout(connection: Connection, args: argparse.Namespace) -> Answer:
    """Revoke all tokens of an account and end its sessions."""
    user = _user(connection, args.name)
    accounts.revoke_all(connection, user.id, _now())
    return Answer({"name": user.name}, f"{user.name} has to log in again, {_ENDED}.")


def key_add(connection: Connection, args: argparse.Namespace) -> Answer:
    """Make an API key and print it, this once."""
    name, scopes = _key_name(args.name), sorted(set(args.scope))
    with _unique(connection, f"There is a key {name} already: revoke it, or choose another name."):
        key = accounts.add_api_key(connection, name, scopes, _now())
    sentence = f"The key {name} ({', '.join(scopes)}); it cannot be shown again:"
    return Answer({"name": name, "scopes": scopes, "key": key}, sentence, key)


def key_list(connection: Connection, _args: argparse.Namespace) -> Table:
    """List the API keys."""
    rows = accounts.list_api_keys(connection)
    return Table(("name", "scopes", "created"), [(n, s.split(), at) for n, s, at in rows])


def key_revoke(connection: Connection, args: argparse.Namespace) -> Answer:
    """Delete an API key."""
    name = _key_name(args.name)
    if not accounts.revoke_api_key(connection, name):
        raise Refused("not-found", f"There is no key {name}; `chatctl key list` shows all.")
    return Answer({"name": name}, f"The key {name} is revoked.")


def invite_add(connection: Connection, args: argparse.Namespace) -> Answer:
    """Make an invitation and print its token, this once."""
    now = _now()
    expires = now + args.days * _DAY
    token = accounts.add_invitation(connection, args.uses, expires, now)
    named = accounts.token_id(accounts.digest(token))
    value = {"id": named, "expires": expires, "uses_left": args.uses, "token": token}
    uses = f"uses: {args.uses}, until {iso(expires)}"
    return Answer(value, f"The invitation {named} ({uses}); it cannot be shown again:", token)


def invite_list(connection: Connection, _args: argparse.Namespace) -> Table:
    """List the invitations."""
    columns = ("id", "created", "expires", "uses_left")
    return Table(columns, accounts.list_invitations(connection))


def invite_revoke(connection: Connection, args: argparse.Namespace) -> Answer:
    """Delete an invitation."""
    if not args.token.isascii() or not accounts.revoke_invitation(connection, args.token):
        raise Refused("not-found", "There is no such invitation; `chatctl invite list` shows all.")
    return Answer({"revoked": True}, "The invitation is revoked.")


def fsck(connection: Connection, _args: argparse.Namespace) -> Table:
    """Recompute cursors, counts, numbering and membership from the logs; changes nothing."""
    columns = ("check", "room", "seq", "what")
    with connection.snapshot():
        rows = [msgspec.structs.astuple(each) for each in differences(connection, _now())]
    return Table(columns, rows, "The database agrees with its logs.", bad=bool(rows))


def _user(connection: Connection, given: str) -> Party:
    name = normalise(given)
    user = accounts.find_user(connection, name)
    if user is None:
        raise Refused("not-found", f"There is no user {name}; `chatctl user list` shows all.")
    return user


def _key_name(given: str) -> str:
    return _checked(given, KeyName, "A key's name is one line of 1 to 64 characters.")


def _checked(text: str, kind: Any, sentence: str) -> str:
    try:
        text.encode()  # an argument need not be UTF-8
        return str(msgspec.convert(text, kind))
    except (UnicodeEncodeError, msgspec.ValidationError):
        raise Refused("bad-request", sentence) from None


@contextmanager
def _unique(connection: Connection, sentence: str) -> Iterator[None]:
    try:
        yield
    except connection.dialect.errors as error:
        if not connection.dialect.duplicate(error):
            raise
        raise Refused("exists", sentence) from error


def _hashed_password(args: argparse.Namespace) -> str:
    try:
        password = _piped_password() if args.password_stdin else _typed_password()
    except (OSError, EOFError, UnicodeDecodeError):  # not to be taken for the database's
        password = ""
    sentence = "A password is one line of 1 to 256 characters, in UTF-8."
    return argon2.PasswordHasher().hash(_checked(password, Password, sentence))


def _piped_password() -> str:
    line = sys.stdin.readline(1024) if sys.stdin else ""  # no password is as long
    return line.removesuffix("\n").removesuffix("\r")


def _typed_password() -> str:
    if not sys.stdin or not sys.stdin.isatty():
        sentence = "There is no terminal to ask for the password: give --password-stdin."
        raise Refused("bad-request", sentence)
    password = getpass.getpass("Password: ")
    if getpass.getpass("The same again: ") != password:
        raise Refused("bad-request", "The two passwords differ; nothing was changed.")
    return password


def _now() -> int:
    return int(time.time() * 1000)

"""The program `chatctl`: reads the command line, runs one verb, tells what came of it."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from chatd.client import database, verbs
from chatd.client.output import Answer, Table, printable, show, write
from chatd.config import (
    ConfigError,
    StoreURL,
    create_state_directory,
    load,
    state_directory,
    store_url,
    warnings,
)
from chatd.errors import Refused, Unavailable
from chatd.store.accounts import SCOPES
from chatd.store.connection import Connection

Run = Callable[[StoreURL, argparse.Namespace], Answer | Table]
OnAccounts = Callable[[Connection, argparse.Namespace], Answer | Table]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; `argv` is without the program's name, None means the process's own.

    Returns the exit status: 0 done, 1 refused or differences found, 69 no database, 78 wrong
    configuration (the last two as in sysexits.h). Wrong usage raises SystemExit(2), as argparse
    does.
    """
    args = _parser().parse_args(_dashes_kept(sys.argv[1:] if argv is None else argv))
    try:
        answer = _run(args)
    except ConfigError as error:
        return _failed(os.EX_CONFIG, *error.mistakes)
    except Unavailable as error:
        return _failed(os.EX_UNAVAILABLE, error.sentence)
    except Refused as error:
        return _failed(1, error.sentence)
    except KeyboardInterrupt:
        return _failed(130, "Interrupted.")  # 128 + SIGINT, as shells have it
    try:
        show(answer, "json" in args)
    except OSError as error:
        return _unheard(error)
    return int(isinstance(answer, Table) and answer.bad)


def _run(args: argparse.Namespace) -> Answer | Table:
    for warning in warnings(os.environ):
        write(sys.stderr, f"{warning}.")
    config = load(vars(args).get("config"), os.environ, vars(args))
    state = state_directory(config.state, os.environ)
    if not config.store.url:
        create_state_directory(state)
    url = store_url(config.store.url, state)
    run: Run = args.run
    with database.explained(url):
        return run(url, args)


def _failed(status: int, *sentences: str) -> int:
    write(sys.stderr, *sentences)
    return status


def _unheard(error: OSError) -> int:
    # What is still buffered would fail again, with a traceback, when Python flushes it at exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if isinstance(error, BrokenPipeError):
        return 1  # whoever read has seen enough
    return _failed(1, f"It is done, but the result cannot be written: {error.strerror}.")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        super().error(printable(message))


_AddVerb = Callable[..., argparse.ArgumentParser]


def _dashes_kept(argv: Sequence[str]) -> list[str]:
    """Move tokens that begin with a dash to where argparse takes them for no option."""
    tokens = [arg for arg in argv if re.fullmatch(r"-[\w-]{42}", arg, re.ASCII)]
    return [*(arg for arg in argv if arg not in tokens), *(["--", *tokens] if tokens else [])]


def _parser() -> _Parser:
    options = _options()
    about = "Administer chatd's accounts, API keys, invitations and schema, on its database."
    parser = _Parser(prog="chatctl", description=about, parents=[options])
    nouns = parser.add_subparsers(metavar="NOUN", required=True)
    for noun, about, add_verbs in (
        ("user", "accounts", _add_user_verbs),
        ("key", "API keys of back ends", _add_key_verbs),
        ("invite", "invitations to register", _add_invite_verbs),
        ("db", "the database's schema", _add_db_verbs),
    ):
        parsers = nouns.add_parser(noun, help=about, parents=[options])
        add_verbs(_adding(parsers.add_subparsers(metavar="VERB", required=True), options))
    told = verbs.fsck.__doc__
    fsck = nouns.add_parser("fsck", help=told, description=told, parents=[options])
    fsck.set_defaults(run=_fsck)
    return parser


def _options() -> _Parser:
    # SUPPRESS: without it a verb's default would undo what stands before the verb.
    options = _Parser(add_help=False, argument_default=argparse.SUPPRESS)
    options.add_argument("--config", metavar="FILE", help="the daemon's configuration (TOML)")
    options.add_argument("--state", metavar="DIR", help="the daemon's state directory")
    options.add_argument("--store", metavar="URL", help="the database: sqlite:/// or mysql://")
    options.add_argument("--json", action="store_true", help="write JSON; times in ms since 1970")
    return options


def _adding(parsers: argparse._SubParsersAction[_Parser], options: _Parser) -> _AddVerb:
    def add(name: str, verb: Callable[..., Answer | Table], run: Run) -> argparse.ArgumentParser:
        about = verb.__doc__
        parser = parsers.add_parser(name, help=about, description=about, parents=[options])
        parser.set_defaults(run=run)
        return parser

    return add


def _add_user_verbs(add: _AddVerb) -> None:
    new = _on_accounts(add, "add", verbs.user_add)
    new.add_argument("--display", metavar="TEXT", default="", help="the name that people see")
    source = new.add_mutually_exclusive_group()
    source.add_argument("--no-password", action="store_true", help="for logins by JWT or API key")
    password = _on_accounts(add, "password", verbs.user_password)
    for place in (source, password):
        place.add_argument("--password-stdin", action="store_true", help="read a line, do not ask")
    disable = _on_accounts(add, "disable", verbs.user_disable)
    enable = _on_accounts(add, "enable", verbs.user_enable)
    logout = _on_accounts(add, "logout", verbs.user_logout)
    for named in (new, password, disable, enable, logout):
        named.add_argument("name", metavar="NAME")
    _on_accounts(add, "list", verbs.user_list)


def _add_key_verbs(add: _AddVerb) -> None:
    new = _on_accounts(add, "add", verbs.key_add)
    about = f"what it is for, may be repeated: {', '.join(SCOPES)}"
    new.add_argument(
        "--scope", action="append", required=True, choices=SCOPES, metavar="SCOPE", help=about
    )
    for named in (new, _on_accounts(add, "revoke", verbs.key_revoke)):
        named.add_argument("name", metavar="NAME")
    _on_accounts(add, "list", verbs.key_list)


def _add_invite_verbs(add: _AddVerb) -> None:
    new = _on_accounts(add, "add", verbs.invite_add)
    new.add_argument("--uses", type=_number(1_000_000), default=1, help="registrations (1)")
    new.add_argument("--days", type=_number(3650), default=7, help="until it expires (7)")
    revoke = _on_accounts(add, "revoke", verbs.invite_revoke)
    revoke.add_argument("token", metavar="TOKEN", help="the token, or its id in the list")
    _on_accounts(add, "list", verbs.invite_list)


def _add_db_verbs(add: _AddVerb) -> None:
    add("upgrade", database.upgrade, lambda url, _args: database.upgrade(url))
    add("status", database.status, lambda url, _args: database.status(url))


def _on_accounts(add: _AddVerb, name: str, verb: OnAccounts) -> argparse.ArgumentParser:
    def run(url: StoreURL, args: argparse.Namespace) -> Answer | Table:
        database.prepare(url)
        with database.connected(url) as connection:
            return verb(connection, args)

    return add(name, verb, run)


def _fsck(url: StoreURL, args: argparse.Namespace) -> Answer | Table:
    database.require(url)
    with database.connected(url, patient=True) as connection:
        return verbs.fsck(connection, args)


def _number(most: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not re.fullmatch("[0-9]{1,9}", text) or not 1 <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to {most}")
        return int(text)

    return read


if __name__ == "__main__":
    sys.exit(main())

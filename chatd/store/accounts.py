"""Statements about users, their tokens, API keys and invitations.

Secrets are stored as SHA-256 of 256 random bits, which needs no salt; passwords as argon2id.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from chatd.errors import Refused
from chatd.lookalikes import skeleton
from chatd.model import UNMUTED, Membership, Party, Room, Rules, Standing, fold
from chatd.store import revocations
from chatd.store.connection import Connection, Row, marks

SCOPES = ("login-as", "push")
"""What an API key may be for: saying who a client is, and pushing."""


def digest(secret: str) -> bytes:
    """The form in which a token, key or invitation is stored."""
    return hashlib.sha256(secret.encode()).digest()


def new_secret() -> str:
    """A fresh token, key or invitation: 256 random bits."""
    return secrets.token_urlsafe(32)


class Registration(Struct, frozen=True):
    """A new account: `invitation` is the digest of a token that must still be good."""

    name: str
    display: str
    password: str
    invitation: bytes | None = None


class Login(Struct, frozen=True):
    """A proof of who somebody is, already checked as far as that needs no database, and the
    token to issue.

    Exactly one of `token` (digest), `user_id` (whose password was right, if the account still
    has the hash `password`), `name` (vouched for by a JWT, or by the API key whose digest is
    `api_key`) and `registration` is set. `issue` is the digest of the new token, `expires` its
    end in ms; not used with `token`.
    """

    now: int
    token: bytes | None = None
    user_id: int | None = None
    password: str = ""
    name: str | None = None
    api_key: bytes | None = None
    registration: Registration | None = None
    issue: bytes = b""
    device: str = ""
    expires: int = 0


class Account(Struct, frozen=True):
    """Who logged in: the groups the user is in, when the token expires (ms), what the client
    is, whether the user is shown to others as offline, and the user's language, "" where there is
    none."""

    user: Party
    memberships: tuple[Membership, ...]
    expires: int
    device: str
    invisible: bool
    language: str


class ApiKey(Struct, frozen=True):
    """A back end's key, as it is kept."""

    name: str
    scopes: frozenset[str]


class Token(Struct, frozen=True):
    """A login token, as its owner may see it; times in ms."""

    id: str
    device: str
    created: int
    expires: int
    current: bool = False


_USER = "SELECT id, name, disabled_at, language, invisible FROM users WHERE "


class _Issued(Struct, frozen=True):
    """What is kept of a token: its end in ms, and what its client is."""

    expires: int
    device: str


_NEVER = _Issued(0, "")


def log_in(connection: Connection, logins: Sequence[Login]) -> list[Account | Refused]:
    """Answers a batch of logins in one transaction: finds the users, makes those who are
    vouched for or register, issues tokens, reads memberships."""
    try:
        return _log_in(connection, logins)
    except connection.dialect.errors as error:
        if not connection.dialect.duplicate(error):
            raise
        # Another node took a name after we had seen it free; now we see that it is taken.
        return _log_in(connection, logins)


def _log_in(connection: Connection, logins: Sequence[Login]) -> list[Account | Refused]:
    with connection.transaction():
        keys = _scopes(connection, {lo.api_key for lo in logins if lo.api_key})
        users, issued = _by_token(connection, [lo.token for lo in logins if lo.token])
        by_password = _by_password(connection, {lo.user_id for lo in logins if lo.user_id})
        by_name = _vouched(connection, [lo for lo in logins if lo.name and _allowed(lo, keys)])
        found: list[Row | Refused] = []
        for login in logins:
            if login.registration:
                found.append(_register(connection, login, login.registration))
            elif login.token:
                expired = issued.get(login.token, _NEVER).expires <= login.now
                found.append(_BAD_TOKEN if expired else users[login.token])
            elif login.user_id:
                found.append(by_password.get((login.user_id, login.password), _BAD_PASSWORD))
            elif not _allowed(login, keys):
                found.append(_BAD_KEY)
            else:
                found.append(by_name[fold(login.name or "")])
        answers = [_DISABLED if not isinstance(row, Refused) and row[2] else row for row in found]
        _issue(connection, logins, answers)
        known = {row[0] for row in answers if not isinstance(row, Refused)}
        groups = memberships(connection, known)
    return [
        row if isinstance(row, Refused) else _account(row, login, groups, issued)
        for login, row in zip(logins, answers, strict=True)
    ]


def _account(
    row: Row,
    login: Login,
    groups: Mapping[int, tuple[Membership, ...]],
    issued: Mapping[bytes, _Issued],
) -> Account:
    token = issued[login.token] if login.token else _Issued(login.expires, login.device)
    party, memberships = Party(row[0], row[1]), groups.get(row[0], ())
    return Account(party, memberships, token.expires, token.device, bool(row[4]), row[3])


def refreshed(connection: Connection, account: Account) -> Account:
    """The account with what may have changed since it was read."""
    user_id = account.user.id
    row = connection.one("SELECT invisible FROM users WHERE id = ?", (user_id,))
    groups = memberships(connection, {user_id})
    invisible = bool(row and row[0])
    return replace(account, memberships=groups.get(user_id, ()), invisible=invisible)


_BAD_TOKEN = Refused("unauthorized", "The token is unknown or has expired. Log in again.")
_BAD_PASSWORD = Refused("unauthorized", "The password was changed meanwhile. Log in again.")
_BAD_KEY = Refused("unauthorized", "The API key is unknown, or lacks the scope login-as.")
_DISABLED = Refused("forbidden", "This account is disabled.")


def _allowed(login: Login, keys: dict[bytes, frozenset[str]]) -> bool:
    return login.api_key is None or "login-as" in keys.get(login.api_key, ())


def _scopes(connection: Connection, digests: set[bytes]) -> dict[bytes, frozenset[str]]:
    if not digests:
        return {}
    sql = f"SELECT hash, scopes FROM api_keys WHERE hash IN ({marks(digests)})"
    return {bytes(d): frozenset(s.split()) for d, s in connection.all(sql, list(digests))}


def _by_token(
    connection: Connection, digests: Sequence[bytes]
) -> tuple[dict[bytes, Row], dict[bytes, _Issued]]:
    if not digests:
        return {}, {}
    rows = connection.all(
        "SELECT t.hash, t.expires_at, t.device, u.id, u.name, u.disabled_at, u.language,"
        " u.invisible FROM tokens t"
        f" JOIN users u ON u.id = t.user_id WHERE t.hash IN ({marks(digests)})",
        digests,
    )
    users = {bytes(row[0]): row[3:] for row in rows}
    return users, {bytes(row[0]): _Issued(row[1], row[2]) for row in rows}


def _by_password(connection: Connection, user_ids: set[int]) -> dict[tuple[int, str], Row]:
    """The users, by id and password hash."""
    if not user_ids:
        return {}
    # Locked: else a password changed now would leave the token that is about to be issued.
    rows = connection.all(
        "SELECT id, name, disabled_at, language, invisible, password FROM users"
        f" WHERE id IN ({marks(user_ids)})" + connection.dialect.locking,
        list(user_ids),
    )
    return {(row[0], row[5]): row[:5] for row in rows}


def _by_name(connection: Connection, keys: Iterable[str]) -> dict[object, Row]:
    wanted = list(keys)
    if not wanted:
        return {}
    rows = connection.all(
        "SELECT name_key, id, name, disabled_at, language, invisible FROM users"
        f" WHERE name_key IN ({marks(wanted)})",
        wanted,
    )
    return {row[0]: row[1:] for row in rows}


def _vouched(connection: Connection, logins: Sequence[Login]) -> dict[object, Row]:
    """The users that trusted parties named, by folded name; made where they are missing."""
    named = {fold(login.name or ""): login for login in logins}
    rows = _by_name(connection, named)
    missing = [key for key in named if key not in rows]
    if not missing:
        return rows
    connection.many(
        "INSERT IGNORE INTO users (name, name_key, display, created_at) VALUES (?, ?, ?, ?)",
        [(named[key].name, key, "", named[key].now) for key in missing],
    )
    return rows | _by_name(connection, missing)


def _register(connection: Connection, login: Login, new: Registration) -> Row | Refused:
    taken = _holder(connection, new.name)
    if taken and connection.one("SELECT 1 FROM tokens WHERE hash = ?", (login.issue,)):
        return taken  # this very registration, whose commit went through unheard
    if taken:
        return _taken(new.name, taken[1])
    if new.invitation is not None and not _spend(connection, new.invitation, login.now):
        return Refused("forbidden", "The invitation is unknown, used up or has expired.")
    user_id = add_user(connection, new.name, new.display, new.password, login.now)
    return (user_id, new.name, None, "", 0)


def _holder(connection: Connection, name: str) -> Row | None:
    """The user who has a name, or one that looks like it."""
    return connection.one(f"{_USER} name_key = ? OR skeleton = ?", (fold(name), skeleton(name)))


def _taken(name: str, by: str) -> Refused:
    if fold(name) == fold(by):
        return Refused("exists", "The name {name} is taken.", name=name)
    return Refused(
        "exists", "{name} looks like {other}, a name that is taken.", name=name, other=by
    )


def check_free(connection: Connection, name: str) -> None:
    """Raises `Refused` of `exists` if somebody has that normalised name, or one that looks like
    it."""
    taken = _holder(connection, name)
    if taken:
        raise _taken(name, taken[1])


def _spend(connection: Connection, invitation: bytes, now: int) -> bool:
    return bool(
        connection.run(
            "UPDATE invitations SET uses_left = uses_left - 1"
            " WHERE hash = ? AND uses_left > 0 AND expires_at > ?",
            (invitation, now),
        )
    )


def _issue(
    connection: Connection, logins: Sequence[Login], answers: Sequence[Row | Refused]
) -> None:
    # IGNORE: after a lost commit answer the whole batch is run again.
    connection.many(
        "INSERT IGNORE INTO tokens (hash, user_id, device, created_at, expires_at)"
        " VALUES (?, ?, ?, ?, ?)",
        [
            (login.issue, row[0], login.device, login.now, login.expires)
            for login, row in zip(logins, answers, strict=True)
            if login.issue and not isinstance(row, Refused)
        ],
    )


def memberships(connection: Connection, user_ids: set[int]) -> dict[int, tuple[Membership, ...]]:
    """The groups that stand, and the users' roles in them."""
    if not user_ids:
        return {}
    found: dict[int, tuple[Membership, ...]] = {}
    for user_id, role, until, room_id, name, title, *rules in connection.all(
        "SELECT m.user_id, m.role, u.until, r.id, r.name, r.title, r.posting, r.muted_until"
        " FROM members m JOIN rooms r ON r.id = m.room_id"
        " LEFT JOIN mutes u ON u.room_id = m.room_id AND u.user_id = m.user_id"
        f" WHERE m.user_id IN ({marks(user_ids)}) AND r.dissolved_at IS NULL",
        list(user_ids),
    ):
        standing = Standing(role, until) if until else UNMUTED[role]
        member = Membership(Room(room_id, "group", name, title), standing, Rules(*rules))
        found[user_id] = (*found.get(user_id, ()), member)
    return found


def add_user(connection: Connection, name: str, display: str, password: str, now: int) -> int:
    """Makes an account; its id. `name` is normalised, `password` an argon2id hash. Fails with
    the driver's error of a duplicate if the name is taken, or looks like one that is."""
    return connection.insert(
        "INSERT INTO users (name, name_key, skeleton, display, password, created_at)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        (name, fold(name), skeleton(name), display, password, now),
    )


def add_user_without_password(connection: Connection, name: str, display: str, now: int) -> int:
    """Makes an account for somebody a JWT or an API key vouches for; else as `add_user`."""
    return connection.insert(
        "INSERT INTO users (name, name_key, skeleton, display, created_at) VALUES (?, ?, ?, ?, ?)",
        (name, fold(name), skeleton(name), display, now),
    )


def find_user(connection: Connection, name: str) -> Party | None:
    """The user of a normalised name."""
    row = connection.one(f"{_USER} name_key = ?", (fold(name),))
    return Party(row[0], row[1]) if row else None


def password_of(connection: Connection, name: str) -> tuple[int, str] | None:
    """The user's id and password hash, if there is such a user and it has a password."""
    row = connection.one(
        "SELECT id, password FROM users WHERE name_key = ? AND password IS NOT NULL", (fold(name),)
    )
    return (row[0], row[1]) if row else None


def change_password(connection: Connection, user_id: int, password: str, now: int) -> None:
    """Replaces the password by an argon2id hash, and ends all tokens of the user: whoever has
    the old one may have logged in with it."""
    with connection.transaction():
        connection.run("UPDATE users SET password = ? WHERE id = ?", (password, user_id))
        _end_tokens(connection, user_id, now)


def disable(connection: Connection, user_id: int, now: int) -> None:
    """Disables an account, and ends all tokens of the user."""
    with connection.transaction():
        connection.run("UPDATE users SET disabled_at = ? WHERE id = ?", (now, user_id))
        _end_tokens(connection, user_id, now)


def enable(connection: Connection, user_id: int) -> None:
    """Lets a disabled account log in again."""
    connection.run("UPDATE users SET disabled_at = NULL WHERE id = ?", (user_id,))


def list_users(connection: Connection) -> list[Row]:
    """(name, display, created_at, disabled_at) of everybody, by name."""
    return connection.all(
        "SELECT name, display, created_at, disabled_at FROM users ORDER BY name_key"
    )


def list_tokens(connection: Connection, user_id: int, current: bytes, now: int) -> list[Token]:
    """The user's tokens that have not expired, newest first."""
    rows = connection.all(
        "SELECT hash, device, created_at, expires_at FROM tokens"
        " WHERE user_id = ? AND expires_at > ? ORDER BY created_at DESC",
        (user_id, now),
    )
    return [Token(token_id(h), d, c, e, bytes(h) == current) for h, d, c, e in rows]


def token_id(digest: bytes) -> str:
    """What names a token without giving it away."""
    return bytes(digest[:8]).hex()


def revoke_token(connection: Connection, user_id: int, digest: bytes, now: int) -> None:
    """Ends one token."""
    with connection.transaction():
        connection.run("DELETE FROM tokens WHERE user_id = ? AND hash = ?", (user_id, digest))
        revocations.note(connection, user_id, now)


def revoke_by_id(connection: Connection, user_id: int, named: str, now: int) -> bytes | None:
    """Ends the user's token of that id; its digest, if there is one."""
    for (stored,) in connection.all("SELECT hash FROM tokens WHERE user_id = ?", (user_id,)):
        if token_id(stored) == named:
            revoke_token(connection, user_id, bytes(stored), now)
            return bytes(stored)
    return None


def revoke_all(connection: Connection, user_id: int, now: int) -> None:
    """Ends all tokens of a user."""
    with connection.transaction():
        _end_tokens(connection, user_id, now)


def _end_tokens(connection: Connection, user_id: int, now: int) -> None:
    connection.run("DELETE FROM tokens WHERE user_id = ?", (user_id,))
    revocations.note(connection, user_id, now)


def forget_expired(connection: Connection, now: int) -> None:
    """Deletes tokens and invitations that can no longer be used, and old revocations."""
    connection.run("DELETE FROM tokens WHERE expires_at <= ?", (now,))
    connection.run("DELETE FROM invitations WHERE expires_at <= ? OR uses_left <= 0", (now,))
    revocations.forget(connection, now)


def add_api_key(connection: Connection, name: str, scopes: Iterable[str], now: int) -> str:
    """Makes an API key, which is returned and cannot be read again. Fails with the driver's
    error of a duplicate if the name is taken."""
    key = new_secret()
    connection.run(
        "INSERT INTO api_keys (hash, name, scopes, created_at) VALUES (?, ?, ?, ?)",
        (digest(key), name, " ".join(sorted(scopes)), now),
    )
    return key


def find_api_key(connection: Connection, digest: bytes) -> ApiKey | None:
    """The API key of that digest."""
    row = connection.one("SELECT name, scopes FROM api_keys WHERE hash = ?", (digest,))
    return ApiKey(row[0], frozenset(row[1].split())) if row else None


def list_api_keys(connection: Connection) -> list[Row]:
    """(name, scopes, created_at) of all keys, by name."""
    return connection.all("SELECT name, scopes, created_at FROM api_keys ORDER BY name")


def revoke_api_key(connection: Connection, name: str) -> bool:
    """Deletes a key; whether there was one."""
    return bool(connection.run("DELETE FROM api_keys WHERE name = ?", (name,)))


def add_invitation(connection: Connection, uses: int, expires: int, now: int) -> str:
    """Makes an invitation token for `uses` registrations until `expires` (ms)."""
    token = new_secret()
    connection.run(
        "INSERT INTO invitations (hash, created_at, expires_at, uses_left) VALUES (?, ?, ?, ?)",
        (digest(token), now, expires, uses),
    )
    return token


def list_invitations(connection: Connection) -> list[Row]:
    """(id, created_at, expires_at, uses_left) of all invitations, oldest first."""
    rows = connection.all(
        "SELECT hash, created_at, expires_at, uses_left FROM invitations ORDER BY created_at, hash"
    )
    return [(token_id(stored), *rest) for stored, *rest in rows]


def revoke_invitation(connection: Connection, named: str) -> bool:
    """Deletes the invitation of that token or id; whether there was one."""
    for (stored,) in connection.all("SELECT hash FROM invitations"):
        if named == token_id(stored) or digest(named) == bytes(stored):
            return bool(connection.run("DELETE FROM invitations WHERE hash = ?", (stored,)))
    return False

"""Statements about the ways into a group: invitations, links, requests to join.

A link is stored as the digest of its token, as other secrets are.
"""

from __future__ import annotations

from msgspec import Struct

from chatd.errors import Refused
from chatd.model import Party, Room
from chatd.rights import may
from chatd.store.accounts import token_id
from chatd.store.connection import Connection
from chatd.store.contacts import check_open
from chatd.store.groups import held
from chatd.store.membership import check_new, is_banned, is_invited, take_request
from chatd.store.rooms import authorise, role_of

_LINKS = 100  # that may be good at a time, of a group


class Repeated(Refused):
    """What was asked for stands already."""

    def __init__(self) -> None:
        super().__init__("exists", "That was asked for already.")


class Link(Struct, frozen=True):
    """A link, as admins see it: its id, who made it, times in ms, how often it may be used
    still."""

    id: str
    by: str
    created: int
    expires: int
    uses: int


class Request(Struct, frozen=True):
    """Who asks to join, in what words, since when (ms)."""

    user: str
    display: str
    words: str
    at: int


def invite(connection: Connection, room_id: int, by_id: int, user: Party, now: int) -> None:
    """Lets somebody join a group. Raises `Refused` as `authorise` does, `Repeated`, or `Refused`
    of `exists` for a member, `forbidden`, `blocked`."""
    role = authorise(connection, room_id, by_id, "invite")
    ((entry,),) = connection.all("SELECT entry FROM rooms WHERE id = ?", (room_id,))
    if entry != "open" and not may(role, "invite past the rules"):
        raise Refused("forbidden", "Only admins may invite into this group.")
    if role_of(connection, room_id, user.id) is not None:
        raise Refused("exists", "@{name} is in the group already.", name=user.name)
    if is_banned(connection, room_id, user.id):
        raise Refused("forbidden", "@{name} is banned from the group.", name=user.name)
    check_open(connection, by_id, user)
    if is_invited(connection, room_id, user.id, now):
        raise Repeated
    _end_invitation(connection, room_id, user.id)
    connection.run(
        "INSERT INTO group_invitations (user_id, room_id, by_id, at) VALUES (?, ?, ?, ?)",
        (user.id, room_id, by_id, now),
    )


def _end_invitation(connection: Connection, room_id: int, user_id: int) -> int:
    return connection.run(
        "DELETE FROM group_invitations WHERE user_id = ? AND room_id = ?", (user_id, room_id)
    )


def decline(connection: Connection, room_id: int, user_id: int) -> bool:
    """Ends a user's invitation and request to join; whether there was one."""
    with held(connection, room_id):
        invited = _end_invitation(connection, room_id, user_id)
        sql = "DELETE FROM join_requests WHERE room_id = ? AND user_id = ?"
        asked = connection.run(sql, (room_id, user_id))
    return bool(invited or asked)


def ask(connection: Connection, room_id: int, user_id: int, words: str, now: int) -> None:
    """Notes a request to join. Raises `Repeated`, or `Refused` of `not-found`, `exists`,
    `forbidden` for who is banned, `conflict` where requests are not taken."""
    row = connection.one(
        "SELECT entry FROM rooms WHERE id = ? AND dissolved_at IS NULL", (room_id,)
    )
    if row is None:
        raise Refused("not-found", "The group was dissolved.")
    check_new(connection, room_id, user_id)
    if row[0] != "approval":
        raise Refused("conflict", "The group takes no requests any more.")
    if connection.one(
        "SELECT 1 FROM join_requests WHERE room_id = ? AND user_id = ?", (room_id, user_id)
    ):
        raise Repeated
    connection.run(
        "INSERT INTO join_requests (room_id, user_id, words, at) VALUES (?, ?, ?, ?)",
        (room_id, user_id, words, now),
    )


def reject(connection: Connection, room_id: int, by_id: int, user_id: int) -> None:
    """Ends a request to join. Raises `Refused` as `authorise` does, or of `not-found`."""
    authorise(connection, room_id, by_id, "approve")
    take_request(connection, room_id, user_id)


def requests(
    connection: Connection, room_id: int, by_id: int, after: str, limit: int
) -> list[Request]:
    """A page of requests to join by name, beginning behind the folded name `after`. Raises
    `Refused` as `authorise` does."""
    authorise(connection, room_id, by_id, "approve")
    rows = connection.all(
        "SELECT u.name, u.display, q.words, q.at FROM join_requests q"
        " JOIN users u ON u.id = q.user_id WHERE q.room_id = ? AND u.name_key > ?"
        " ORDER BY u.name_key LIMIT ?",
        (room_id, after, limit),
    )
    return [Request(*row) for row in rows]


def make_link(
    connection: Connection, room_id: int, by_id: int, link: bytes, uses: int, now: int, expires: int
) -> None:
    """Makes a link of a digest. Raises `Refused` as `authorise` does, or of `too-large`."""
    with held(connection, room_id):
        authorise(connection, room_id, by_id, "link")
        ((others,),) = connection.all(
            "SELECT COUNT(*) FROM links WHERE room_id = ? AND hash <> ?"
            " AND uses_left > 0 AND expires_at > ?",
            (room_id, link, now),
        )
        if others >= _LINKS:
            raise Refused("too-large", "A group has at most {most} links.", most=_LINKS)
        connection.run(
            "INSERT IGNORE INTO links (hash, room_id, by_id, created_at, expires_at, uses_left)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (link, room_id, by_id, now, expires, uses),
        )


def find_link(connection: Connection, link: bytes, now: int) -> Room | None:
    """The group that a link of that digest lets into."""
    row = connection.one(
        "SELECT r.id, r.name, r.title FROM links k JOIN rooms r ON r.id = k.room_id"
        " WHERE k.hash = ? AND k.uses_left > 0 AND k.expires_at > ? AND r.dissolved_at IS NULL",
        (link, now),
    )
    return Room(row[0], "group", row[1], row[2]) if row else None


def links(connection: Connection, room_id: int, by_id: int, now: int) -> list[Link]:
    """A group's links that are good, newest first. Raises `Refused` as `authorise` does."""
    authorise(connection, room_id, by_id, "link")
    rows = connection.all(
        "SELECT k.hash, u.name, k.created_at, k.expires_at, k.uses_left FROM links k"
        " JOIN users u ON u.id = k.by_id WHERE k.room_id = ? AND k.uses_left > 0"
        " AND k.expires_at > ? ORDER BY k.created_at DESC, k.hash",
        (room_id, now),
    )
    return [Link(token_id(row[0]), *row[1:]) for row in rows]


def unlink(connection: Connection, room_id: int, by_id: int, named: str) -> None:
    """Ends the link of that id. Raises `Refused` as `authorise` does, or of `not-found`."""
    with held(connection, room_id):
        authorise(connection, room_id, by_id, "link")
        for (stored,) in connection.all("SELECT hash FROM links WHERE room_id = ?", (room_id,)):
            if token_id(stored) == named:
                connection.run("DELETE FROM links WHERE hash = ?", (stored,))
                return
    raise Refused("not-found", "The group has no link of that id; links lists them.")

"""Statements about membership: who comes, goes, is sent away, is given a role, is silenced.

Those with a `seq` are effects of an entry: they run under the lock of the group's row, and refuse
before they change anything.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from chatd.errors import Refused
from chatd.model import Party, Role
from chatd.store.connection import Connection
from chatd.store.groups import INVITED_FOR, check_groups, count_members, held
from chatd.store.rooms import add_member, authorise, role_of


class Most(Struct, frozen=True):
    """How many may be in a group, and in how many groups one may be."""

    members: int = 2**31
    groups: int = 2**31


UNLIMITED = Most()


class Ban(Struct, frozen=True):
    """Who may not come back, who said so, and when (ms)."""

    user: str
    by: str
    at: int


def join(
    connection: Connection,
    room_id: int,
    user_id: int,
    seq: int,
    now: int = 0,
    link: bytes = b"",
    most: Most = UNLIMITED,
) -> dict[str, Any]:
    """Lets a user in who comes by himself: by the digest of a link, invited, or into an open
    group. Gives what a hub has to know. Raises `Refused` of `not-found`, `exists`, `forbidden` for
    who is banned, `too-large`, `conflict` where one has to ask."""
    row = connection.one(
        "SELECT entry FROM rooms WHERE id = ? AND dissolved_at IS NULL", (room_id,)
    )
    if row is None:
        raise Refused("not-found", "The group was dissolved.")
    check_new(connection, room_id, user_id)
    _check_most(connection, room_id, user_id, most)
    if link:
        _spend(connection, room_id, link, now)
    elif row[0] != "open" and not is_invited(connection, room_id, user_id, now):
        raise Refused("conflict", "The group does not take everybody. Ask to join.")
    return _enter(connection, room_id, user_id, seq, now)


def approve(
    connection: Connection,
    room_id: int,
    by_id: int,
    user_id: int,
    seq: int,
    now: int,
    most: Most = UNLIMITED,
) -> dict[str, Any]:
    """Lets a user in who asked. Gives and raises as `join` does; of `not-found` if there is no
    request."""
    authorise(connection, room_id, by_id, "approve")
    _check_most(connection, room_id, user_id, most)
    take_request(connection, room_id, user_id)
    return _enter(connection, room_id, user_id, seq, now)


def take_request(connection: Connection, room_id: int, user_id: int) -> None:
    """Ends a request to join. Raises `Refused` of `not-found` if somebody else did."""
    if not connection.run(
        "DELETE FROM join_requests WHERE room_id = ? AND user_id = ?", (room_id, user_id)
    ):
        raise Refused("not-found", "There is no such request to join.")


def check_new(connection: Connection, room_id: int, user_id: int) -> None:
    """Raises `Refused` of `exists` for a member, of `forbidden` for who is banned."""
    if role_of(connection, room_id, user_id) is not None:
        raise Refused("exists", "You are in the group already.")
    if is_banned(connection, room_id, user_id):
        raise Refused("forbidden", "You may not come back into the group.")


def is_banned(connection: Connection, room_id: int, user_id: int) -> bool:
    """Whether a user may not come into a group."""
    sql = "SELECT 1 FROM bans WHERE room_id = ? AND user_id = ?"
    return connection.one(sql, (room_id, user_id)) is not None


def is_invited(connection: Connection, room_id: int, user_id: int, now: int) -> bool:
    """Whether a user has an invitation that is still good."""
    sql = "SELECT 1 FROM group_invitations WHERE user_id = ? AND room_id = ? AND at > ?"
    return connection.one(sql, (user_id, room_id, now - INVITED_FOR)) is not None


def _check_most(connection: Connection, room_id: int, user_id: int, most: Most) -> None:
    if count_members(connection, room_id) >= most.members:
        raise Refused("too-large", "A group has at most {most} members.", most=most.members)
    check_groups(connection, user_id, most.groups)


def _spend(connection: Connection, room_id: int, link: bytes, now: int) -> None:
    if not connection.run(
        "UPDATE links SET uses_left = uses_left - 1"
        " WHERE hash = ? AND room_id = ? AND uses_left > 0 AND expires_at > ?",
        (link, room_id, now),
    ):
        raise Refused("not-found", "The link is unknown, used up or has expired.")


def _enter(
    connection: Connection, room_id: int, user_id: int, seq: int, now: int
) -> dict[str, Any]:
    """Adds a member, who may still be muted from before; what differs from the usual of that and
    of the group's rules."""
    add_member(connection, room_id, user_id, "member", seq)
    _forget_pending(connection, room_id, user_id)
    (row,) = connection.all(
        "SELECT r.posting, r.muted_until, x.until FROM rooms r"
        " LEFT JOIN mutes x ON x.room_id = r.id AND x.user_id = ? AND x.until > ? WHERE r.id = ?",
        (user_id, now, room_id),
    )
    posting, all_until, until = row
    rules = {"posting": posting, "muted_until": all_until if all_until > now else 0}
    usual = rules == {"posting": "members", "muted_until": 0}
    return ({"muted_until": until} if until else {}) | ({} if usual else {"rules": rules})


def _forget_pending(connection: Connection, room_id: int, user_id: int) -> None:
    for table in ("join_requests", "group_invitations"):
        connection.run(f"DELETE FROM {table} WHERE room_id = ? AND user_id = ?", (room_id, user_id))


def leave(connection: Connection, room_id: int, user_id: int) -> None:
    """Takes a user out of a group. Raises `Refused` of `not-a-member`, or of `conflict` for
    the owner, without whom nobody could dissolve it."""
    role = role_of(connection, room_id, user_id)
    if role is None:
        raise Refused("not-a-member", "You are not in the group.")
    if role == "owner":
        raise Refused(
            "conflict", "The owner cannot leave; make somebody else owner, or dissolve the group."
        )
    _remove(connection, room_id, user_id)


def _remove(connection: Connection, room_id: int, user_id: int) -> None:
    connection.run("DELETE FROM members WHERE user_id = ? AND room_id = ?", (user_id, room_id))
    _forget_pending(connection, room_id, user_id)
    _forget_offers(connection, room_id, user_id)


def _forget_offers(connection: Connection, room_id: int, user_id: int) -> None:
    """The ways in that a user gave to others, and perhaps to himself."""
    for table in ("group_invitations", "links"):
        connection.run(f"DELETE FROM {table} WHERE room_id = ? AND by_id = ?", (room_id, user_id))


def kick(
    connection: Connection, room_id: int, by_id: int, user: Party, ban: bool, now: int
) -> None:
    """Takes another out of a group; with `ban` for good, and then one who is not in it, too.
    Raises `Refused` as `authorise` does, or of `not-found`, or of `conflict` for who is banned."""
    authorise(connection, room_id, by_id, "ban" if ban else "kick", user.id)
    inside = role_of(connection, room_id, user.id) is not None
    if not inside and not ban:
        raise _not_here(user)
    if not inside and is_banned(connection, room_id, user.id):
        raise Refused("conflict", "@{name} is banned already.", name=user.name)
    _remove(connection, room_id, user.id)
    if ban:
        connection.run(
            "INSERT IGNORE INTO bans (room_id, user_id, by_id, at) VALUES (?, ?, ?, ?)",
            (room_id, user.id, by_id, now),
        )


def _not_here(user: Party) -> Refused:
    return Refused("not-found", "@{name} is not in the group.", name=user.name)


def unban(connection: Connection, room_id: int, by_id: int, user: Party) -> None:
    """Lets somebody come back. Raises `Refused` as `authorise` does, or of `not-found`."""
    with held(connection, room_id):
        authorise(connection, room_id, by_id, "ban")
        sql = "DELETE FROM bans WHERE room_id = ? AND user_id = ?"
        if not connection.run(sql, (room_id, user.id)):
            raise Refused("not-found", "@{name} is not banned.", name=user.name)


def bans(connection: Connection, room_id: int, by_id: int, after: str, limit: int) -> list[Ban]:
    """A page of who is banned by name, beginning behind the folded name `after`. Raises
    `Refused` as `authorise` does."""
    authorise(connection, room_id, by_id, "ban")
    rows = connection.all(
        "SELECT u.name, a.name, b.at FROM bans b JOIN users u ON u.id = b.user_id"
        " JOIN users a ON a.id = b.by_id WHERE b.room_id = ? AND u.name_key > ?"
        " ORDER BY u.name_key LIMIT ?",
        (room_id, after, limit),
    )
    return [Ban(*row) for row in rows]


def appoint(connection: Connection, room_id: int, by_id: int, user: Party, role: Role) -> None:
    """Gives a member another role; where that is the owner's, the old owner becomes an admin.
    Raises `Refused` as `authorise` does, of `not-found`, or of `conflict` for the same role."""
    authorise(connection, room_id, by_id, "appoint", user.id)
    before = role_of(connection, room_id, user.id)
    if before is None:
        raise _not_here(user)
    if before == role:
        raise Refused("conflict", "@{name} has that role already.", name=user.name)
    if role == "owner":
        _set_role(connection, room_id, by_id, "admin")
    if role == "member":
        _forget_offers(connection, room_id, user.id)
    _set_role(connection, room_id, user.id, role)


def _set_role(connection: Connection, room_id: int, user_id: int, role: Role) -> None:
    connection.run(
        "UPDATE members SET role = ? WHERE user_id = ? AND room_id = ?", (role, user_id, room_id)
    )


def mute(connection: Connection, room_id: int, by_id: int, user: Party | None, until: int) -> None:
    """Lets a member, or all but the admins, write no more until a time in ms; 0: lets them write
    again. Raises `Refused` as `authorise` does, or of `not-found`."""
    authorise(connection, room_id, by_id, "mute", user.id if user else None)
    if user is None:
        connection.run("UPDATE rooms SET muted_until = ? WHERE id = ?", (until, room_id))
        return
    if role_of(connection, room_id, user.id) is None:
        raise _not_here(user)
    connection.run("DELETE FROM mutes WHERE room_id = ? AND user_id = ?", (room_id, user.id))
    if until:
        connection.run(
            "INSERT INTO mutes (room_id, user_id, until) VALUES (?, ?, ?)",
            (room_id, user.id, until),
        )

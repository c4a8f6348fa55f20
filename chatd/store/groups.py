"""Statements about groups: made, seen, changed, dissolved; who is in them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
from msgspec import Struct

from chatd.errors import Refused
from chatd.lookalikes import skeleton
from chatd.model import EntryRule, HistoryRule, Party, Posting, Role, Room, fold
from chatd.store.connection import Connection, Row
from chatd.store.rooms import add_member, authorise

INVITED_FOR = 30 * 24 * 60 * 60 * 1000  # ms that an invitation is good for
_ASKED = 20  # of the owner and the admins are told of a request to join


class NewGroup(Struct, frozen=True):
    """What a group is to be."""

    name: str
    title: str = ""
    description: str = ""
    entry: EntryRule = "open"
    history: HistoryRule = "all"
    posting: Posting = "members"

    def body(self) -> dict[str, Any]:
        """What the first entry says: all that is not the default."""
        given = msgspec.structs.asdict(self)
        return {
            field: given[field]
            for field, usual in zip(
                self.__struct_fields__[1:], self.__struct_defaults__, strict=True
            )
            if given[field] != usual
        }


class View(Struct, frozen=True):
    """A group as a user finds it; `role` is None for who is no member."""

    room: Room
    description: str
    entry: EntryRule
    history: HistoryRule
    posting: Posting
    muted_until: int
    role: Role | None
    invited: bool
    requested: bool

    @property
    def hidden(self) -> bool:
        """Whether the user may not know that there is such a group."""
        return self.entry == "invited" and self.role is None and not self.invited


class Member(Struct, frozen=True):
    """A member of a group: muted until a time in ms, 0 if not; in the group since `joined`. Who
    asks may know whether one who is not `hidden` is online, or was last at `seen_at` (ms)."""

    party: Party
    display: str
    role: Role
    muted_until: int
    joined: int
    seen_at: int
    hidden: bool


def make_group(
    connection: Connection, new: NewGroup, owner: Party, key: bytes, now: int, most: int = 2**31
) -> Room:
    """Makes a group, its owner and the first entry of its log. Raises `Refused` of `exists`, or of
    `too-large` for who is in `most` groups. What the owner made just so before, and nothing has
    happened in, is that group: its maker may not have heard of it."""
    try:
        with connection.transaction():
            check_groups(connection, owner.id, most)
            room_id = _insert_group(connection, new, owner, key, now)
    except connection.dialect.errors as error:
        if not connection.dialect.duplicate(error):
            raise
        return _made_before(connection, new, owner)
    return Room(room_id, "group", new.name, new.title)


def _insert_group(connection: Connection, new: NewGroup, owner: Party, key: bytes, now: int) -> int:
    room_id = connection.insert(
        "INSERT INTO rooms (kind, name, name_key, skeleton, title, description, entry, history,"
        " posting, created_at) VALUES ('group', ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *(new.name, fold(new.name), skeleton(new.name), new.title, new.description),
            *(new.entry, new.history, new.posting, now),
        ),
    )
    connection.run(
        "INSERT INTO entries (room_id, seq, sender_id, idempotency_key, at, kind, body)"
        " VALUES (?, 1, ?, ?, ?, 'created', ?)",
        (room_id, owner.id, key, now, _encoded(new)),
    )
    add_member(connection, room_id, owner.id, "owner", 1)
    return room_id


def _encoded(new: NewGroup) -> str:
    return msgspec.json.encode(new.body()).decode()


def _made_before(connection: Connection, new: NewGroup, owner: Party) -> Room:
    row = connection.one(
        "SELECT r.id, r.name, r.title FROM rooms r"
        " JOIN entries e ON e.room_id = r.id AND e.seq = 1 AND e.sender_id = ? AND e.body = ?"
        " WHERE r.name_key = ? AND r.name = ? AND r.dissolved_at IS NULL"
        " AND NOT EXISTS (SELECT 1 FROM entries o WHERE o.room_id = r.id AND o.seq = 2)",
        (owner.id, _encoded(new), fold(new.name), new.name),
    )
    if row is None:
        raise _taken(connection, new.name)
    return Room(row[0], "group", row[1], row[2])


def _taken(connection: Connection, name: str) -> Refused:
    row = connection.one(
        "SELECT name FROM rooms WHERE skeleton = ? AND name_key <> ?", (skeleton(name), fold(name))
    )
    if row is None:
        return Refused("exists", "There is, or was, a group #{name}.", name=name)
    sentence = "#{name} looks like #{other}, a group that there is, or was."
    return Refused("exists", sentence, name=name, other=row[0])


def check_groups(connection: Connection, user_id: int, most: int) -> None:
    """Raises `Refused` of `too-large` for who is in `most` groups already."""
    rows = connection.all(
        "SELECT COUNT(*) FROM members m JOIN rooms r ON r.id = m.room_id"
        " WHERE m.user_id = ? AND r.dissolved_at IS NULL",
        (user_id,),
    )
    if rows[0][0] >= most:
        raise Refused(
            "too-large", "One may be in {most} groups at most. Leave one first.", most=most
        )


_VIEW = (
    "SELECT r.id, r.name, r.title, r.description, r.entry, r.history, r.posting, r.muted_until,"
    " m.role, i.at, q.at FROM rooms r"
    " LEFT JOIN members m ON m.user_id = ? AND m.room_id = r.id"
    " LEFT JOIN group_invitations i ON i.user_id = ? AND i.room_id = r.id AND i.at > ?"
    " LEFT JOIN join_requests q ON q.user_id = ? AND q.room_id = r.id"
    " WHERE r.name_key = ? AND r.dissolved_at IS NULL"
)


def view(connection: Connection, name: str, user_id: int, now: int) -> View | None:
    """The group of a normalised name, as a user finds it."""
    row = connection.one(_VIEW, (user_id, user_id, now - INVITED_FOR, user_id, fold(name)))
    if row is None:
        return None
    room_id, shown, title, description, entry, history, posting, until, role, at, asked = row
    return View(
        room=Room(room_id, "group", shown, title),
        description=description,
        entry=entry,
        history=history,
        posting=posting,
        muted_until=until,
        role=role,
        invited=at is not None,
        requested=asked is not None,
    )


def count_members(connection: Connection, room_id: int) -> int:
    """How many are in a group."""
    rows = connection.all("SELECT COUNT(*) FROM members WHERE room_id = ?", (room_id,))
    return int(rows[0][0])


def members(
    connection: Connection,
    room_id: int,
    viewer: int,
    now: int,
    after: str,
    limit: int,
    role: Role | None = None,
) -> list[Member]:
    """A page of a group's members by name, beginning behind the name `after`, for the user
    `viewer`; those of one role if that is asked."""
    of_role, roles = (" AND m.role = ?", (role,)) if role else ("", ())
    rows = connection.all(
        "SELECT u.id, u.name, u.display, m.role, x.until, e.at, u.seen_at, c.blocked FROM members m"
        " JOIN users u ON u.id = m.user_id"
        " LEFT JOIN contacts c ON c.user_id = m.user_id AND c.other_id = ?"
        " LEFT JOIN mutes x ON x.room_id = m.room_id AND x.user_id = m.user_id AND x.until > ?"
        " LEFT JOIN entries e ON e.room_id = m.room_id AND e.seq = m.joined_seq"
        f" WHERE m.room_id = ? AND m.name_key > ?{of_role} ORDER BY m.name_key LIMIT ?",
        (viewer, now, room_id, fold(after), *roles, limit),
    )
    return [_member(row) for row in rows]


def _member(row: Row) -> Member:
    user_id, name, display, role, until, joined, seen_at, blocked = row
    party = Party(user_id, name)
    return Member(party, display, role, until or 0, joined or 0, seen_at, bool(blocked))


def admins(connection: Connection, room_id: int, user_id: int) -> list[Party]:
    """The owner and admins of a group who are told of a user's request: not those who have blocked
    the user, and no more than a few."""
    rows = connection.all(
        "SELECT u.id, u.name FROM members m JOIN users u ON u.id = m.user_id"
        " WHERE m.room_id = ? AND m.role IN ('owner', 'admin') AND NOT EXISTS (SELECT 1"
        " FROM contacts c WHERE c.user_id = m.user_id AND c.other_id = ? AND c.blocked = 1)"
        " ORDER BY m.role DESC, m.name_key LIMIT ?",
        (room_id, user_id, _ASKED),
    )
    return [Party(*row) for row in rows]


@contextmanager
def held(connection: Connection, room_id: int) -> Iterator[None]:
    """A transaction in which nobody else changes the group, for what is no entry of its log."""
    with connection.transaction():
        connection.one("SELECT id FROM rooms WHERE id = ?" + connection.dialect.locking, (room_id,))
        yield


def change(
    connection: Connection, room_id: int, user_id: int, action: str, changed: dict[str, str]
) -> None:
    """Gives columns of a group other values, if the user's role is enough for the action."""
    authorise(connection, room_id, user_id, action)
    columns = ", ".join(f"{column} = ?" for column in changed)
    connection.run(f"UPDATE rooms SET {columns} WHERE id = ?", (*changed.values(), room_id))


def dissolve(connection: Connection, room_id: int, user_id: int, now: int) -> None:
    """Ends a group: its members get no more than what is in its log. Its name is not given
    again: clients know entries by address and seq. Raises `Refused` as `authorise` does."""
    authorise(connection, room_id, user_id, "dissolve")
    connection.run("UPDATE rooms SET dissolved_at = ? WHERE id = ?", (now, room_id))
    for table in ("bans", "group_invitations", "join_requests", "links", "mutes"):
        connection.run(f"DELETE FROM {table} WHERE room_id = ?", (room_id,))


def forget_expired(connection: Connection, now: int) -> None:
    """Deletes invitations, links and mutes whose time has passed."""
    connection.run("DELETE FROM group_invitations WHERE at <= ?", (now - INVITED_FOR,))
    connection.run("DELETE FROM links WHERE expires_at <= ? OR uses_left <= 0", (now,))
    connection.run("DELETE FROM mutes WHERE until <= ?", (now,))

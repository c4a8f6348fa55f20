"""Statements about presence: whom it is told, what is kept of it, and who may see it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from msgspec import Struct

from chatd.model import fold
from chatd.store.connection import Connection, Row, marks

_AT_ONCE = 500  # users in one statement


class Audience(Struct, frozen=True):
    """Who is to be told of some users, each by id: friends, and the groups that somebody has
    open. `blocked` holds (user, other one that the user blocked)."""

    friends: dict[int, list[int]]
    groups: dict[int, list[int]]
    blocked: set[tuple[int, int]]


class Known(Struct, frozen=True):
    """A user as another one knows him: `seen` is when he was last online (ms), 0 if never.
    `visible`: the other one may see his presence."""

    id: int
    name: str
    seen: int
    visible: bool
    friend: bool


def audience(
    connection: Connection, user_ids: Collection[int], open_groups: Collection[int]
) -> Audience:
    """Who is to be told of these users, where those groups are open."""
    found = Audience({}, {}, set())
    wanted = list(user_ids)
    for user_id, other_id, blocked in connection.all(
        "SELECT user_id, other_id, blocked FROM contacts"
        f" WHERE user_id IN ({marks(wanted)}) AND (state = 'friend' OR blocked = 1)",
        wanted,
    ):
        if blocked:
            found.blocked.add((user_id, other_id))
        else:
            found.friends.setdefault(user_id, []).append(other_id)
    if not open_groups:
        return found
    for user_id, room_id in connection.all(
        f"SELECT user_id, room_id FROM members WHERE user_id IN ({marks(wanted)})", wanted
    ):
        if room_id in open_groups:
            found.groups.setdefault(user_id, []).append(room_id)
    return found


def note_seen(connection: Connection, seen: Mapping[int, int]) -> None:
    """Notes when users were last seen (ms, by id)."""
    by_time: dict[int, list[int]] = {}
    for user_id, at in seen.items():
        by_time.setdefault(at, []).append(user_id)
    with connection.transaction():
        for at, user_ids in by_time.items():
            for some in _slices(user_ids):
                sql = f"UPDATE users SET seen_at = ? WHERE id IN ({marks(some)})"
                connection.run(sql, (at, *some))


def _slices(user_ids: Sequence[int]) -> Iterator[Sequence[int]]:
    for start in range(0, len(user_ids), _AT_ONCE):
        yield user_ids[start : start + _AT_ONCE]


def set_invisible(connection: Connection, user_id: int, invisible: bool) -> None:
    """Whether a user is shown to others as offline."""
    connection.run("UPDATE users SET invisible = ? WHERE id = ?", (int(invisible), user_id))


_KNOWN = (
    "SELECT u.id, u.name, u.seen_at, COALESCE(c.blocked, 0), COALESCE(c.state, ''){more}"
    " FROM {source} LEFT JOIN contacts c ON c.user_id = u.id AND c.other_id = ?"
)
_SHARED = (
    ", EXISTS (SELECT 1 FROM members a JOIN members b ON b.room_id = a.room_id"
    " JOIN rooms r ON r.id = a.room_id"
    " WHERE a.user_id = ? AND b.user_id = u.id AND r.dissolved_at IS NULL)"
    " OR EXISTS (SELECT 1 FROM rooms r WHERE (r.low_id = ? AND r.high_id = u.id)"
    " OR (r.low_id = u.id AND r.high_id = ?))"
)
_BY_NAME = _KNOWN.format(source="users u", more=_SHARED)
_MEMBERS = _KNOWN.format(source="members m JOIN users u ON u.id = m.user_id", more=", 1")


def by_name(connection: Connection, viewer_id: int, names: Sequence[str]) -> dict[str, Known]:
    """The users of normalised names, by folded name, as the viewer knows them: friends, members
    of a group in common and the other one of a direct room are visible, unless they blocked the
    viewer."""
    keys = [fold(name) for name in names]
    rows = connection.all(
        f"{_BY_NAME} WHERE u.name_key IN ({marks(keys)})", (*[viewer_id] * 4, *keys)
    )
    return {fold(row[1]): _known(row, viewer_id) for row in rows}


def members(
    connection: Connection, viewer_id: int, room_id: int, after: str, limit: int
) -> list[Known]:
    """A page of a group's members by name, beginning behind the name `after`, as the viewer, who
    is one of them, knows them."""
    rows = connection.all(
        f"{_MEMBERS} WHERE m.room_id = ? AND m.name_key > ? ORDER BY m.name_key LIMIT ?",
        (viewer_id, room_id, fold(after), limit),
    )
    return [_known(row, viewer_id) for row in rows]


def _known(row: Row, viewer_id: int) -> Known:
    user_id, name, seen, blocked, state, related = row
    friend = state == "friend" and not blocked
    visible = user_id == viewer_id or (not blocked and bool(friend or related))
    return Known(user_id, name, seen, visible, friend)

"""Creates what people want of a chat: profiles, contacts, rules of groups, edits, search."""

# Each step looks whether an interrupted upgrade has done it: MySQL commits each by itself.

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0003"
down_revision = "0002"

BIGINT = sa.BigInteger()
HASH = sa.LargeBinary().with_variant(mysql.VARBINARY(32), "mysql", "mariadb")
BODY = sa.Text().with_variant(mysql.MEDIUMTEXT(), "mysql", "mariadb")
# As long as a token may be, and compared byte by byte.
WORD = sa.LargeBinary().with_variant(mysql.VARBINARY(48), "mysql", "mariadb")


def upgrade() -> None:
    """Create the columns, tables and indices that are missing."""
    _people()
    _groups()
    _places()
    _messages()
    _search()


def _people() -> None:
    _add("users", "status", sa.String(128), "")
    _add("users", "language", sa.String(16), "")
    _add("users", "seen_at", BIGINT, 0)
    _add("users", "invisible", sa.Integer(), 0)
    _add("users", "writers", sa.String(16), "everybody")
    _add("users", "findable", sa.Integer(), 1)
    _add("users", "receipts", sa.Integer(), 1)
    _add("users", "skeleton", sa.String(128), None)
    _index("users_skeleton", "users", "skeleton", unique=True)
    _keep("users", "password IS NOT NULL")  # others are vouched for, by whoever decides on names
    # One row for each side: `state` is friend, asked (user_id did), asking (other_id
    # did) or refused (user_id did).
    _table(
        "contacts",
        _key("user_id", BIGINT),
        _key("other_id", BIGINT),
        _column("state", sa.String(8), ""),
        _column("blocked", sa.Integer(), 0),
        _column("remark", sa.String(64), ""),
        _column("words", sa.String(256), ""),
        _column("at", BIGINT, 0),
    )


def _groups() -> None:
    _add("rooms", "description", sa.String(1024), "")
    _add("rooms", "entry", sa.String(16), "open")
    _add("rooms", "history", sa.String(16), "all")
    _add("rooms", "posting", sa.String(16), "members")
    _add("rooms", "muted_until", BIGINT, 0)
    _add("rooms", "called_at", BIGINT, 0)
    _add("rooms", "skeleton", sa.String(128), None)
    _index("rooms_skeleton", "rooms", "skeleton", unique=True)
    _keep("rooms", "kind = 'group'")
    # A page of members is a range of the index, however many there are.
    _add("members", "name_key", sa.String(128), "")
    op.execute(
        "UPDATE members SET name_key = (SELECT u.name_key FROM users u"
        " WHERE u.id = members.user_id) WHERE name_key = ''"
    )
    _index("members_room_id_name_key", "members", "room_id", "name_key", "role")
    # Apart from `members`, or to leave and come back would end it.
    _table("mutes", _key("room_id", BIGINT), _key("user_id", BIGINT), _column("until", BIGINT))
    _table(
        "bans",
        _key("room_id", BIGINT),
        _key("user_id", BIGINT),
        _column("by_id", BIGINT),
        _column("at", BIGINT),
    )
    _table(
        "join_requests",
        _key("room_id", BIGINT),
        _key("user_id", BIGINT),
        _column("words", sa.String(256), ""),
        _column("at", BIGINT),
    )
    _table(
        "group_invitations",
        _key("user_id", BIGINT),
        _key("room_id", BIGINT),
        _column("by_id", BIGINT),
        _column("at", BIGINT),
    )
    _index("group_invitations_room_id", "group_invitations", "room_id")
    _table(
        "links",
        _key("hash", HASH),
        _column("room_id", BIGINT),
        _column("by_id", BIGINT),
        _column("created_at", BIGINT),
        _column("expires_at", BIGINT),
        _column("uses_left", sa.Integer()),
    )
    _index("links_room_id", "links", "room_id")


def _places() -> None:
    """A user's place in a room is a row of `cursors`."""
    _add("cursors", "cleared_seq", BIGINT, 0)
    _add("cursors", "marked", sa.Integer(), 0)
    _add("cursors", "pinned_at", BIGINT, 0)
    _add("cursors", "notify", sa.String(16), "all")
    _add("cursors", "archived", sa.Integer(), 0)
    _add("cursors", "archived_seq", BIGINT, 0)
    _index("cursors_room_id", "cursors", "room_id")


def _messages() -> None:
    _table(
        "versions",
        _key("room_id", BIGINT),
        _key("seq", BIGINT),
        _key("version", sa.Integer()),
        _column("at", BIGINT),
        _column("body", BODY),
    )
    _table(
        "reactions",
        _key("room_id", BIGINT),
        _key("seq", BIGINT),
        _key("emoji", sa.String(32)),
        _key("user_id", BIGINT),
        _column("at", BIGINT),
    )
    _table(
        "pins",
        _key("room_id", BIGINT),
        _key("seq", BIGINT),
        _column("by_id", BIGINT),
        _column("at", BIGINT),
    )
    # user_id 0: everybody in the room.
    _table("mentions", _key("room_id", BIGINT), _key("user_id", BIGINT), _key("seq", BIGINT))
    _table("hidden", _key("user_id", BIGINT), _key("room_id", BIGINT), _key("seq", BIGINT))


def _search() -> None:
    # A word of a room is one range, in the order in which a search tells it. Where a page that is
    # not in memory is dear, the rooms of a word stand together; where there is but one writer,
    # the words of a room, since they are written together.
    place = [_key("room_id", BIGINT), _key("token", WORD)]
    if op.get_bind().dialect.name != "sqlite":
        place.reverse()
    _table("postings", *place, _key("at", BIGINT), _key("seq", BIGINT))
    _table("indexed", _key("room_id", BIGINT), _column("seq", BIGINT))


def _table(name: str, *columns: sa.Column[Any]) -> None:
    op.create_table(
        name,
        *columns,
        if_not_exists=True,
        mysql_engine="InnoDB",
        mysql_default_charset="utf8mb4",
        mysql_collate="utf8mb4_bin",
        sqlite_with_rowid=False,
    )


def _column(
    name: str, kind: sa.types.TypeEngine[Any], default: str | int | None = None
) -> sa.Column[Any]:
    server_default = None if default is None else str(default)
    return sa.Column(name, kind, nullable=False, server_default=server_default)


def _key(name: str, kind: sa.types.TypeEngine[Any]) -> sa.Column[Any]:
    return sa.Column(name, kind, primary_key=True, autoincrement=False)


def _add(table: str, name: str, kind: sa.types.TypeEngine[Any], default: str | int | None) -> None:
    """A column for old rows, too: they have the default, or null where it is None."""
    if name in {column["name"] for column in sa.inspect(op.get_bind()).get_columns(table)}:
        return
    column = _column(name, kind, default)
    column.nullable = default is None
    op.add_column(table, column)


def _keep(table: str, which: str) -> None:
    """The skeletons of old ASCII names: nobody may come and look like them."""
    rows = op.get_bind().execute(
        sa.text(f"SELECT id, name_key FROM {table} WHERE skeleton IS NULL AND {which}")
    )
    update = sa.text(f"UPDATE {table} SET skeleton = :name WHERE id = :id")
    names = [{"id": id_, "name": name} for id_, name in rows if name.isascii()]
    if names:
        op.get_bind().execute(update, names)


def _index(name: str, table: str, *columns: str, unique: bool = False) -> None:
    # MySQL has no CREATE INDEX IF NOT EXISTS (MariaDB and SQLite have).
    if not sa.inspect(op.get_bind()).has_index(table, name):
        op.create_index(name, table, [*columns], unique=unique)

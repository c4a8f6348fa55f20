"""Creates the accounts, the rooms and their logs."""

# MySQL commits each statement by itself, so the revision may be killed between any two of them:
# each creates only what is missing, and running the revision again finishes it.

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0001"
down_revision = None

BIGINT = sa.BigInteger()
# SQLite numbers rows by itself only in a column declared INTEGER PRIMARY KEY.
AUTO_ID = BIGINT.with_variant(sa.Integer(), "sqlite")
HASH = sa.LargeBinary().with_variant(mysql.VARBINARY(32), "mysql", "mariadb")
KEY = sa.LargeBinary().with_variant(mysql.VARBINARY(256), "mysql", "mariadb")
BODY = sa.Text().with_variant(mysql.MEDIUMTEXT(), "mysql", "mariadb")


def upgrade() -> None:
    """Create the tables and indices."""
    _accounts()
    _rooms()
    _entries()


def _accounts() -> None:
    _table(
        "users",
        sa.Column("id", AUTO_ID, primary_key=True, autoincrement=True),
        _column("name", sa.String(32)),
        _column("name_key", sa.String(128)),
        _column("display", sa.String(64), server_default=""),
        _column("password", sa.String(255), nullable=True),
        _column("created_at", BIGINT),
        _column("disabled_at", BIGINT, nullable=True),
        sa.UniqueConstraint("name_key", name="users_name_key"),
        sqlite_autoincrement=True,
    )
    _table(
        "tokens",
        _key("hash", HASH),
        _column("user_id", BIGINT),
        _column("device", sa.String(64), server_default=""),
        _column("created_at", BIGINT),
        _column("expires_at", BIGINT),
        sqlite_with_rowid=False,
    )
    _index("tokens_user_id", "tokens", "user_id")
    _table(
        "api_keys",
        _key("hash", HASH),
        _column("name", sa.String(64)),
        _column("scopes", sa.String(255)),
        _column("created_at", BIGINT),
        sa.UniqueConstraint("name", name="api_keys_name"),
        sqlite_with_rowid=False,
    )
    _table(
        "invitations",
        _key("hash", HASH),
        _column("created_at", BIGINT),
        _column("expires_at", BIGINT),
        _column("uses_left", sa.Integer()),
        sqlite_with_rowid=False,
    )


def _rooms() -> None:
    _table(
        "rooms",
        sa.Column("id", AUTO_ID, primary_key=True, autoincrement=True),
        _column("kind", sa.String(8)),
        _column("name", sa.String(32), nullable=True),
        _column("name_key", sa.String(128), nullable=True),
        _column("title", sa.String(128), server_default=""),
        _column("low_id", BIGINT, nullable=True),
        _column("high_id", BIGINT, nullable=True),
        _column("created_at", BIGINT),
        _column("dissolved_at", BIGINT, nullable=True),
        sa.UniqueConstraint("name_key", name="rooms_name_key"),
        sa.UniqueConstraint("low_id", "high_id", name="rooms_pair"),
        sqlite_autoincrement=True,
    )
    _index("rooms_high_id", "rooms", "high_id")
    _table(
        "members",
        _key("user_id", BIGINT),
        _key("room_id", BIGINT),
        _column("role", sa.String(8)),
        _column("joined_seq", BIGINT),
        sqlite_with_rowid=False,
    )
    _index("members_room_id", "members", "room_id")
    _table(
        "cursors",
        _key("user_id", BIGINT),
        _key("room_id", BIGINT),
        _column("delivered_seq", BIGINT, server_default=sa.text("0")),
        _column("read_seq", BIGINT, server_default=sa.text("0")),
        sqlite_with_rowid=False,
    )


def _entries() -> None:
    # The primary key is the table: a room's history is one range of it, in both databases.
    _table(
        "entries",
        _key("room_id", BIGINT),
        _key("seq", BIGINT),
        _column("sender_id", BIGINT),
        _column("idempotency_key", KEY),
        _column("at", BIGINT),
        _column("kind", sa.String(16)),
        _column("body", BODY),
        sa.UniqueConstraint("sender_id", "idempotency_key", name="entries_sender_key"),
        sqlite_with_rowid=False,
    )


def _table(name: str, *parts: sa.Column[Any] | sa.UniqueConstraint, **options: bool) -> None:
    op.create_table(
        name,
        *parts,
        if_not_exists=True,
        mysql_engine="InnoDB",
        mysql_default_charset="utf8mb4",
        mysql_collate="utf8mb4_bin",
        **options,
    )


def _column(
    name: str,
    kind: sa.types.TypeEngine[Any],
    *,
    nullable: bool = False,
    server_default: str | sa.TextClause | None = None,
) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=nullable, server_default=server_default)


def _key(name: str, kind: sa.types.TypeEngine[Any]) -> sa.Column[Any]:
    return sa.Column(name, kind, primary_key=True, autoincrement=False)


def _index(name: str, table: str, column: str) -> None:
    # MySQL has no CREATE INDEX IF NOT EXISTS (MariaDB and SQLite have).
    if not sa.inspect(op.get_bind()).has_index(table, name):
        op.create_index(name, table, [column])

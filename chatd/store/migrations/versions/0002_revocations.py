"""Creates the list of users to look at because tokens of theirs were revoked."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

BIGINT = sa.BigInteger()


def upgrade() -> None:
    """Create the table, unless an interrupted upgrade has done so."""
    op.create_table(
        "revocations",
        # SQLite numbers rows by itself only in a column declared INTEGER PRIMARY KEY.
        sa.Column("id", BIGINT.with_variant(sa.Integer(), "sqlite"), primary_key=True),
        sa.Column("user_id", BIGINT, nullable=False),
        sa.Column("at", BIGINT, nullable=False),
        if_not_exists=True,
        mysql_engine="InnoDB",
        mysql_default_charset="utf8mb4",
        mysql_collate="utf8mb4_bin",
        sqlite_autoincrement=True,  # a node remembers ids: none may come again
    )

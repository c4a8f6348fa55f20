"""Statements about revocations: a list of users whose open sessions are to be looked at.

Whoever ends a token adds a row in the same transaction. A row says no more than "look at this
user", so to look too often does no harm.
"""

from __future__ import annotations

from collections.abc import Collection

from chatd.store.connection import Connection, marks

KEPT: int = 60 * 60 * 1000  # ms: a node that did not reach the database for as long may miss rows


def note(connection: Connection, user_id: int, now: int) -> None:
    """Adds a user; belongs into the transaction that ends the token."""
    connection.run("INSERT INTO revocations (user_id, at) VALUES (?, ?)", (user_id, now))


def noted_after(connection: Connection, last: int) -> dict[int, int]:
    """The users in rows with an id above `last`, each with the highest of its ids."""
    sql = "SELECT user_id, MAX(id) FROM revocations WHERE id > ? GROUP BY user_id"
    return dict(connection.all(sql, (last,)))


def standing(connection: Connection, user_ids: Collection[int], now: int) -> set[bytes]:
    """The digests of these users' tokens that are good at a time in ms."""
    rows = connection.all(
        "SELECT t.hash FROM tokens t JOIN users u ON u.id = t.user_id"
        f" WHERE t.user_id IN ({marks(user_ids)}) AND t.expires_at > ? AND u.disabled_at IS NULL",
        [*user_ids, now],
    )
    return {bytes(row[0]) for row in rows}


def forget(connection: Connection, now: int) -> None:
    """Deletes rows that every node has seen."""
    connection.run("DELETE FROM revocations WHERE at <= ?", (now - KEPT,))

"""What an entry shows of another one: the quote of a reply, the present text of what was edited.

The log does not hold it: a text stands in its own entry alone, so that it is gone everywhere when
it is recalled.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from chatd.model import Entry
from chatd.store.connection import Connection, marks

ERASED: Final = "erased"  # the kind of a message that was recalled

_QUOTED = 100  # characters


def complete(connection: Connection, room_id: int, entries: Sequence[Entry]) -> list[Entry]:
    """Entries just read of a room, with what they show of others: one more query, and none where
    nothing is a reply or an edit."""
    targets = sorted({seq for entry in entries if (seq := _target(entry))})
    if not targets:
        return list(entries)
    rows = connection.all(
        "SELECT e.seq, u.name, e.body FROM entries e LEFT JOIN users u ON u.id = e.sender_id"
        f" WHERE e.room_id = ? AND e.seq IN ({marks(targets)})"
        f" AND e.kind IN ('message', '{ERASED}')",
        (room_id, *targets),
    )
    found = {seq: (name or "", msgspec.json.decode(body)) for seq, name, body in rows}
    return [_completed(entry, found) for entry in entries]


def quote(seq: int, name: str, body: dict[str, Any]) -> dict[str, Any]:
    """What a reply shows of the message `seq` that `name` sent."""
    shown = {"seq": seq, "from": name, "text": body["text"][:_QUOTED]}
    return {**shown, "recalled": True} if "recalled" in body else shown


def present(body: dict[str, Any]) -> dict[str, Any]:
    """What an edit shows of a message."""
    return {name: body[name] for name in ("text", "data", "recalled") if name in body}


def _target(entry: Entry) -> int | None:
    if entry.kind == "message":
        return entry.body.get("reply_to")
    return entry.body.get("target") if entry.kind == "edited" else None


def _completed(entry: Entry, found: dict[int, tuple[str, dict[str, Any]]]) -> Entry:
    target = _target(entry)
    if target is None or target not in found:
        return entry
    name, body = found[target]
    more = {"quote": quote(target, name, body)} if entry.kind == "message" else present(body)
    return replace(entry, body={**entry.body, **more})

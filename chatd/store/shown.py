"""What an entry shows of another one: the quote of a reply, the present text of what was edited,
how many have reacted.

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

Found = dict[tuple[int, int], tuple[str, dict[str, Any]]]  # a room's id and a seq: name, body


def complete(connection: Connection, entries: Sequence[Entry]) -> list[Entry]:
    """Entries just read, with what they show of others in their rooms: one more query, and none
    where nothing is a reply, an edit or a reaction."""
    wanted: dict[int, list[int]] = {}
    for entry in entries:
        if target := _target(entry):
            wanted.setdefault(entry.room_id, []).append(target)
    found = _messages(connection, wanted) if wanted else {}
    return [_completed(entry, found) for entry in entries]


def _messages(connection: Connection, wanted: dict[int, list[int]]) -> Found:
    places = " OR ".join(
        f"(e.room_id = ? AND e.seq IN ({marks(seqs)}))" for seqs in wanted.values()
    )
    rows = connection.all(
        "SELECT e.room_id, e.seq, u.name, e.body FROM entries e"
        f" LEFT JOIN users u ON u.id = e.sender_id WHERE ({places})"
        f" AND e.kind IN ('message', '{ERASED}')",
        [value for room_id, seqs in wanted.items() for value in (room_id, *seqs)],
    )
    return {
        (room_id, seq): (name or "", msgspec.json.decode(body)) for room_id, seq, name, body in rows
    }


def quote(seq: int, name: str, body: dict[str, Any]) -> dict[str, Any]:
    """What a reply shows of the message `seq` that `name` sent."""
    shown = {"seq": seq, "from": name, "text": body["text"][:_QUOTED]}
    return {**shown, "recalled": True} if "recalled" in body else shown


def present(body: dict[str, Any]) -> dict[str, Any]:
    """What an edit shows of a message."""
    return {name: body[name] for name in ("text", "data", "recalled") if name in body}


def count(body: dict[str, Any], emoji: str) -> int:
    """How many have reacted to a message with an emoji."""
    return next((one["count"] for one in body.get("reactions", ()) if one["emoji"] == emoji), 0)


def _target(entry: Entry) -> int | None:
    if entry.kind == "message":
        return entry.body.get("reply_to")
    return entry.body.get("target") if entry.kind in ("edited", "reacted") else None


def _completed(entry: Entry, found: Found) -> Entry:
    target = _target(entry) or 0
    place = (entry.room_id, target)
    if place in found:
        return replace(entry, body={**entry.body, **_more(entry, target, *found[place])})
    return entry


def _more(entry: Entry, target: int, name: str, body: dict[str, Any]) -> dict[str, Any]:
    if entry.kind == "message":
        return {"quote": quote(target, name, body)}
    if entry.kind == "reacted":
        return {"count": count(body, entry.body["emoji"])}
    return present(body)

"""What happens here when a batch is stored: entries fan out, and what they change takes effect."""

from __future__ import annotations

from collections.abc import Sequence

from chatd.backlog import Backlog
from chatd.hub import Hub
from chatd.indexer import Indexer
from chatd.languages import pick
from chatd.model import Membership, Party, Rules, Standing
from chatd.receipts import Receipts
from chatd.session import Session
from chatd.store.log import Draft

_ROOMS_KEPT = 200_000  # whose last fanned-out seq is remembered: about 20 MB

# What changes who gets a group's entries, or may write there; who may write to whom.
_CHANGING = {
    "group": frozenset(
        ("joined", "left", "kicked", "appointed", "muted", "configured", "dissolved")
    ),
    "inbox": frozenset(("accepted", "unfriended", "blocked", "unblocked", "updated")),
}
_NEVER: frozenset[str] = frozenset()


class Publisher:
    """Tells the sessions of this node, and the parts that follow the log."""

    def __init__(self, hub: Hub, backlog: Backlog, receipts: Receipts, indexer: Indexer) -> None:
        self._hub = hub
        self._backlog = backlog
        self._receipts = receipts
        self._indexer = indexer
        self._fanned: dict[int, int] = {}

    def publish(self, stored: Sequence[tuple[Draft, int]]) -> None:
        """Fans out what a batch stored, room by room, in the order of the log."""
        by_room: dict[int, list[tuple[Draft, int]]] = {}
        for draft, seq in stored:
            by_room.setdefault(draft.room.id, []).append((draft, seq))
        self._indexer.note(by_room)
        for pairs in by_room.values():
            changing = _CHANGING.get(pairs[0][0].room.kind, _NEVER)
            if changing.isdisjoint(draft.kind for draft, _ in pairs):
                self._fan_out(pairs)
                continue
            for pair in pairs:
                self._apply(pair)

    def _fan_out(self, pairs: Sequence[tuple[Draft, int]]) -> None:
        room, first, last = pairs[0][0].room, pairs[0][1], pairs[-1][1]
        before = self._fanned.get(room.id, first - 1)
        if before != first - 1 or last - first != len(pairs) - 1:
            # Stored by somebody else, or by a batch that failed: the log has what is missing.
            for session in self._hub.audience(room):
                self._backlog.fall_behind(session, room, before)
        if len(self._fanned) > _ROOMS_KEPT:
            self._fanned.clear()
        self._fanned[room.id] = last
        entries = [draft.entry(seq) for draft, seq in pairs]
        self._hub.fan_out(room, entries, [_origin(draft) for draft, _ in pairs])

    def _apply(self, pair: tuple[Draft, int]) -> None:
        draft = pair[0]
        self._receipts.forget(draft.room.id)
        if draft.kind == "joined":
            self._join(draft)
        self._fan_out([pair])
        match draft.kind:
            case "left":
                self._hub.part(draft.room.id, draft.sender.id)
            case "kicked":
                self._hub.part(draft.room.id, _subject(draft).id)
            case "appointed":
                self._appoint(draft)
            case "muted":
                self._mute(draft)
            case "configured":
                if "posting" in draft.body:
                    self._hub.change_rules(draft.room.id, posting=draft.body["posting"])
            case "dissolved":
                self._hub.dissolve(draft.room.id)
            case "accepted" | "unfriended" | "blocked" | "unblocked":
                self._hub.reconsider(draft.sender.id)
                self._hub.reconsider(_subject(draft).id)
            case "updated":
                self._update(draft)

    def _update(self, draft: Draft) -> None:
        user = self._hub.user(draft.sender.id)
        if "writers" in draft.body:
            self._hub.reconsider()
        if "invisible" in draft.body:
            self._hub.appear(draft.sender, draft.body["invisible"])
        if "language" in draft.body and user is not None:
            user.language = pick(draft.body["language"])

    def _join(self, draft: Draft) -> None:
        standing = Standing("member", draft.body.get("muted_until", 0))
        rules = Rules(**draft.body.get("rules", {}))
        self._hub.join(Membership(draft.room, standing, rules), draft.sender.id)

    def _appoint(self, draft: Draft) -> None:
        role = draft.body["role"]
        if role == "owner":  # there is one
            self._hub.restand(draft.room.id, draft.sender.id, role="admin")
        self._hub.restand(draft.room.id, _subject(draft).id, role=role)

    def _mute(self, draft: Draft) -> None:
        until = draft.body["until"]
        if draft.subject is None:
            self._hub.change_rules(draft.room.id, muted_until=until)
        else:
            self._hub.restand(draft.room.id, draft.subject.id, muted_until=until)


def _subject(draft: Draft) -> Party:
    assert draft.subject is not None, draft.kind
    return draft.subject


def _origin(draft: Draft) -> Session | None:
    """The session that gets the reply, unless somebody else has logged in there meanwhile."""
    user = draft.origin.user if draft.origin is not None else None
    return draft.origin if user is not None and user.id == draft.sender.id else None

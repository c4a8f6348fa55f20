"""Who is connected to this node, and the fan-out of events to them.

A room's audience is derived: the sessions in a group's set, or those of the two users of a
direct room. An event is encoded once for each wire; what one turn of the event loop has for
a session leaves in one send.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from msgspec.structs import replace
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from chatd.model import Entry, Membership, Party, Room, Rules, Standing
from chatd.session import Session, User, Wire

_USUAL = Rules()


class Hub:
    """The sessions of this node, by user and by group; `relations` counts the changes in who may
    write to whom."""

    _log = Logger()

    def __init__(self, clock: IReactorTime) -> None:
        self.clock = clock
        self.sessions: set[Session] = set()
        self._users: dict[int, User] = {}
        self._groups: dict[int, dict[Session, None]] = {}
        self._unsent: list[Session] = []
        self._entering = 0
        self._moved: set[int] = set()
        self._revoked: set[tuple[int, bytes | None]] = set()
        self._dissolved: set[int] = set()
        self._rules: dict[int, Rules] = {}
        self._changes = 0
        self.relations = 0

    # -- coming and going

    def open(self, session: Session) -> None:
        """A client has connected."""
        self.sessions.add(session)

    def close(self, session: Session) -> None:
        """The connection is gone."""
        session.ended = True
        self.sessions.discard(session)
        self.leave(session)

    @contextmanager
    def entering(self) -> Iterator[Callable[[int], bool]]:
        """Around a login's look at the database. Gives `moved(user_id)`: whether a membership
        of the user, or a group's rules, changed since it was asked last, so that what was read
        may be old."""
        self._entering += 1
        changes = self._changes

        def has_moved(user_id: int) -> bool:
            nonlocal changes
            moved = user_id in self._moved or changes != self._changes
            self._moved.discard(user_id)
            changes = self._changes
            return moved

        try:
            yield has_moved
        finally:
            self._entering -= 1
            if not self._entering:
                self._moved.clear()
                self._revoked.clear()

    def revoke(self, user_id: int, token: bytes | None) -> None:
        """A token of the user's, or all (None), are no longer good."""
        if self._entering:
            self._revoked.add((user_id, token))

    def revoked(self, user_id: int, token: bytes) -> bool:
        """Whether that happened while logins were looking at the database."""
        return not self._revoked.isdisjoint(((user_id, token), (user_id, None)))

    def enter(self, session: Session, party: Party, memberships: Iterable[Membership]) -> User:
        """The session's client has proved to be that user."""
        user = self._users.get(party.id)
        if user is None:
            user = self._users[party.id] = User(party)
        user.sessions.append(session)
        session.user = user
        if session.paused:
            session.gaps()
        before = user.groups
        user.groups = self.standings(memberships)
        for room_id in before.keys() - user.groups.keys():
            self._remove(room_id, user)
        for room_id in user.groups:
            self._add(room_id, user)
        return user

    def standings(self, memberships: Iterable[Membership]) -> dict[int, Standing]:
        """What a user may do, by group, of memberships just read; the groups' rules are noted."""
        standing = {}
        for member in memberships:
            if member.room.id not in self._dissolved:
                standing[member.room.id] = member.standing
                self._set_rules(member.room.id, member.rules)
        return standing

    def leave(self, session: Session) -> None:
        """The session's client is nobody again."""
        user = session.user
        if user is None:
            return
        session.user = None
        session.behind = None
        session.loading = False
        session.unproved = session.asked = None
        session.over = frozenset()
        if not session.link.live:
            return  # one request's session never entered
        user.sessions.remove(session)
        for room_id in user.groups:
            self._drop(room_id, session)
        if not user.sessions:
            del self._users[user.id]

    def user(self, user_id: int) -> User | None:
        """The user, if online here."""
        return self._users.get(user_id)

    def _drop(self, room_id: int, session: Session) -> None:
        group = self._groups.get(room_id)
        if group is None:
            return
        group.pop(session, None)
        if not group:
            del self._groups[room_id]

    # -- membership follows the log

    def join(self, member: Membership, user_id: int) -> None:
        """A user has become a member of a group."""
        self._note_move(user_id)
        user = self._users.get(user_id)
        if user is None:
            return
        user.groups[member.room.id] = member.standing
        self._add(member.room.id, user)

    def part(self, room_id: int, user_id: int) -> None:
        """A user is no member any more."""
        self._note_move(user_id)
        user = self._users.get(user_id)
        if user is None or user.groups.pop(room_id, None) is None:
            return
        self._remove(room_id, user)

    def restand(self, room_id: int, user_id: int, **changed: Any) -> None:
        """A member's role, or until when the member is muted, has changed."""
        self._note_move(user_id)
        user = self._users.get(user_id)
        if user is not None and room_id in user.groups:
            user.groups[room_id] = replace(user.groups[room_id], **changed)

    def rules(self, room_id: int) -> Rules | None:
        """A group's rules, where they are not the usual."""
        return self._rules.get(room_id)

    def change_rules(self, room_id: int, **changed: Any) -> None:
        """A group's rules have changed."""
        self._changes += 1
        self._set_rules(room_id, replace(self._rules.get(room_id, _USUAL), **changed))

    def _set_rules(self, room_id: int, rules: Rules) -> None:
        if rules == _USUAL:
            self._rules.pop(room_id, None)
        else:
            self._rules[room_id] = rules

    def reconsider(self, user_id: int | None = None) -> None:
        """Whom a user may write to has changed; None: of everybody."""
        self.relations += 1
        for user in self._users.values() if user_id is None else [self._users.get(user_id)]:
            if user is not None:
                user.open = None

    def dissolve(self, room_id: int) -> None:
        """A group is no more."""
        self._dissolved.add(room_id)
        self._rules.pop(room_id, None)
        for session in self._groups.pop(room_id, ()):
            if session.user is not None:
                session.user.groups.pop(room_id, None)
                session.user.peers = None

    def _add(self, room_id: int, user: User) -> None:
        self._groups.setdefault(room_id, {}).update(dict.fromkeys(user.sessions))

    def _remove(self, room_id: int, user: User) -> None:
        user.peers = None
        for session in user.sessions:
            self._drop(room_id, session)
            if session.behind is not None:
                session.behind.pop(room_id, None)

    def _note_move(self, user_id: int) -> None:
        if self._entering:
            self._moved.add(user_id)

    # -- sending

    def audience(self, room: Room) -> Iterable[Session]:
        """The sessions that get what happens in a room."""
        if room.low is None or room.high is None:
            return self._groups.get(room.id, ())
        low, high = self._users.get(room.low.id), self._users.get(room.high.id)
        if low is high or high is None:
            return low.sessions if low else ()
        return [*low.sessions, *high.sessions] if low else high.sessions

    def fan_out(
        self, room: Room, entries: Sequence[Entry], origins: Sequence[Session | None]
    ) -> None:
        """Writes consecutive entries of a room to its audience, but each not to the session
        it came from, nor to those that get it from the log."""
        events = [entry.event() for entry in entries]
        frames: dict[Wire, list[bytes]] = {}
        joined: dict[Wire, bytes] = {}
        last = entries[-1].seq
        for session in self.audience(room):
            wire = session.wire
            if wire not in joined:
                frames[wire] = [wire.event(event) for event in events]
                joined[wire] = b"".join(frames[wire])
            if session.behind is None and session not in origins:
                self.send(session, joined[wire])
            elif not self._send_wanted(session, room, entries, origins, frames[wire]):
                continue
            session.wrote(room.id, last)

    def _send_wanted(
        self,
        session: Session,
        room: Room,
        entries: Sequence[Entry],
        origins: Sequence[Session | None],
        frames: Sequence[bytes],
    ) -> bool:
        """Sends those frames that the session is to get live; whether it is up to date then."""
        level = True
        for entry, origin, frame in zip(entries, origins, frames, strict=True):
            own = origin is session
            level = session.behind is None or not session.holds_back(room, entry.seq, own)
            if level and not own:
                self.send(session, frame)
        return level

    def hint(self, room: Room, event: dict[str, Any], by: int) -> None:
        """Sends an event that is not kept to those in a room but the user with that id. A session
        that does not keep up goes without: such events are the first to be shed."""
        frames: dict[Wire, bytes] = {}
        for session in self.audience(room):
            user = session.user
            if user is None or user.id == by or session.behind is not None or session.link.crowded:
                continue
            if session.wire not in frames:
                frames[session.wire] = session.wire.event(event)
            self.send(session, frames[session.wire])

    def send(self, session: Session, data: bytes) -> None:
        """Adds to what leaves for the session at the end of the turn."""
        if session.outbox is not None:
            session.outbox.append(data)
            return
        session.outbox = [data]
        if not self._unsent:
            self.clock.callLater(0, self.flush)
        self._unsent.append(session)

    def flush(self) -> None:
        """Sends what this turn of the event loop has for the sessions."""
        unsent, self._unsent = self._unsent, []
        for session in unsent:
            outbox, session.outbox = session.outbox, None
            if not outbox or session.ended:
                continue
            try:
                session.link.send(outbox[0] if len(outbox) == 1 else b"".join(outbox))
            except Exception:  # the border: the others' outboxes are still to be sent
                self._log.failure("a session could not be written to")
                self.drop(session)

    def drop(self, session: Session) -> None:
        """Ends a session whose link failed."""
        try:
            session.link.abort()
        except Exception:  # the border: who drops it has others to see to
            self._log.failure("a connection could not be dropped")

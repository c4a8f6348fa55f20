"""One daemon process: the services a command may use, and what ties them together."""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine
from random import random
from typing import Any

import argon2
import msgspec
from msgspec.structs import replace
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from chatd.auth import Passwords, SiteTokens, Throttle
from chatd.backlog import Backlog
from chatd.cursors import Cursors
from chatd.doors import Doors, place_of
from chatd.errors import CLOSE_CODES, REPLACED, SERVICE_RESTART, Refused, Template
from chatd.hub import Hub
from chatd.indexer import Indexer
from chatd.languages import pick
from chatd.model import Party, Room, fold, group_name, normalise
from chatd.presence import Presence
from chatd.publisher import Publisher
from chatd.rates import Bucket, Rates
from chatd.receipts import Receipts
from chatd.revocations import Revocations, log_out
from chatd.rights import may
from chatd.session import Link, Session, User, Wire
from chatd.settings import Accounts, Heartbeat, Limits, Messages
from chatd.settings import Presence as PresenceSettings
from chatd.store import accounts, groups
from chatd.store.accounts import Account, Login
from chatd.store.contacts import check_open
from chatd.store.dialects import Dialect
from chatd.store.groups import View
from chatd.store.log import Draft, Effect, Keys, Stored
from chatd.store.rooms import find_group, find_pair, make_pair
from chatd.store.store import Store

_NOTHING: dict[str, Any] = {}
_PRESENCE = PresenceSettings()
_PEERS_KEPT = 1000  # rooms a user's cache of addresses may hold: about 200 KB
_RETRY_AFTER = 5.0  # seconds over which clients come back after a restart
_ANSWERS = 5.5  # seconds for what is under way at the end: a query has five
_GOODBYE = 2.0  # seconds that clients get to answer a close
_GOODBYE_STEP = 0.05


class Node:
    """The services: `store`, `hub`, `publisher`, `presence`, `backlog`, `cursors`, `receipts`,
    `revocations`, `passwords`, `site_tokens` (None where JWT logins are off) and `guesses`; `now()`
    is the wall clock in seconds."""

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        now: Callable[[], float],
        dialect: Dialect,
        connections: int,
        accounts_settings: Accounts,
        limits: Limits,
        pulse: Heartbeat,
        site_tokens: SiteTokens | None = None,
        descriptors: int = sys.maxsize,
        hasher: argon2.PasswordHasher | None = None,
        messages: Messages | None = None,
        presence: PresenceSettings = _PRESENCE,
    ) -> None:
        self.clock: IReactorTime = reactor
        self.now = now
        self.accounts = accounts_settings
        self.limits = limits
        self.messages = messages or Messages()
        self.pulse = pulse
        self.site_tokens = site_tokens
        self.hub = Hub(reactor)
        self.store = Store(
            reactor,
            dialect,
            connections,
            lambda stored: self.publisher.publish(stored),
            self.hub.flush,
        )
        self.receipts = Receipts(
            self.store, self.hub, self.spawn, lambda: self.limits.receipt_members, self.millis
        )
        self.cursors = Cursors(self.store, self.spawn, lambda: self.tick, self.receipts.note)
        self.backlog = Backlog(self.store, self.hub, self.cursors, self.spawn)
        self.presence = Presence(reactor, self.store, self.hub, self.spawn, presence)
        self.revocations = Revocations(self.store, self.hub)
        self.indexer = Indexer(self.store, self.clock, self.spawn)
        self.publisher = Publisher(self.hub, self.backlog, self.receipts, self.indexer)
        self.dissolving: set[int] = set()
        self.passwords = Passwords(reactor, lambda: self.limits.passwords_at_once, hasher)
        self.guesses = Throttle(self._tries_per_minute, now)
        self.doors = Doors(descriptors)
        self.rates = Rates(limits)
        self.keys = Keys()
        self.tick = 0
        self.stopping = False
        self.answering = 0  # HTTP requests under way

    # -- life

    def start(self) -> None:
        """Starts the threads that the services need."""
        self.store.start()
        self.passwords.start()
        self.indexer.start()

    async def stop(self) -> None:
        """Tells the clients, finishes and answers what they asked, closes them, then the
        store."""
        self.stopping = True
        self.indexer.stop()
        for session in self.hub.sessions:
            event = {"event": "going-away", "retry_after": round(random() * _RETRY_AFTER, 2)}
            self.hub.send(session, session.wire.event(event))
        answered_by = self.clock.seconds() + _ANSWERS
        self.store.hurry()
        self.passwords.hurry()
        await self.store.idle()
        while self._under_way() and self.clock.seconds() < answered_by:
            await deferLater(self.clock, _GOODBYE_STEP)
        self.hub.flush()
        for session in list(self.hub.sessions):
            self.cursors.ended(session)
            self.cursors.ask(session)
            session.link.close(SERVICE_RESTART, RESTARTS)
        for _ in range(int(_GOODBYE / _GOODBYE_STEP)):
            await deferLater(self.clock, _GOODBYE_STEP)
            if not self.hub.sessions:
                break
        for session in list(self.hub.sessions):
            session.link.abort()
        if self.store.usable:
            self.cursors.save()
            await self.presence.stop(self.millis())
        await self.indexer.level()
        await self.store.stop()
        self.passwords.stop()

    def _under_way(self) -> bool:
        return self.answering > 0 or any(session.busy for session in self.hub.sessions)

    def reload(self, limits: Limits, pulse: Heartbeat) -> None:
        """Goes on with other limits and another pulse."""
        self.limits = limits
        self.pulse = pulse

    def spawn(self, what: str, work: Coroutine[Any, Any, None]) -> None:
        """Runs something that nobody waits for; a fault is logged."""
        Deferred.fromCoroutine(work).addErrback(
            lambda failure: self.log.failure("{what} failed", failure, what=what)
        )

    def keep_house(self) -> None:
        """Begins a tick: saves and forgets what may be."""
        self.tick += 1
        self.rates.begin(self.tick, self.limits)
        self.cursors.save()
        self.receipts.tell()
        self.presence.look(self.tick, self.millis())
        self.guesses.forget_full()

    def _tries_per_minute(self, kind: str) -> int:
        return self.limits.passwords_per_minute * _TRIES[kind]

    # -- people

    def session(self, link: Link, wire: Wire, address: str) -> Session:
        """A session of nobody yet."""
        session = Session(link, wire, address, self.tick)
        session.bucket = Bucket(self.rates.session, self.tick)
        self.locate(session, address)
        return session

    def locate(self, session: Session, address: str) -> None:
        """Says where a session's client is."""
        session.address = address
        place = place_of(address)
        if place is not None:
            session.place = self.rates.places.of(place, self.tick)

    async def log_in(self, session: Session, login: Login, replay: bool) -> Account:
        """Makes the session its user's. A session with a link gets events from here on,
        with `replay` beginning behind the user's delivered cursors."""
        if not replay:
            session.acknowledging = True  # it has not got what lies before what it gets
        with self.hub.entering() as moved:
            account = await self.store.log_in(login)
            user = account.user
            if replay:
                await self.cursors.saved(user.id)
            while moved(user.id):
                account = await self.store.read(accounts.refreshed, account)
            if session.ended or session.user is not None:
                raise Refused("conflict", "The session ended, or was logged in meanwhile.")
            session.token, session.expires = login.token or login.issue, account.expires
            if self.hub.revoked(user.id, session.token):
                raise Refused("unauthorized", "The token was revoked. Log in again.")
            session.device = sys.intern(account.device)  # many have the same
            if not session.link.live:
                standings = self.hub.standings(account.memberships)
                session.user = User(user, standings, account.invisible)
                session.user.language = pick(account.language)
                session.user.bucket = self.rates.users.of(user.id, self.tick)
                return account
            if replay:
                self.backlog.begin(session)
            entered = self.hub.enter(session, user, account.memberships, account.invisible)
            entered.language = pick(account.language)
            entered.bucket = self.rates.users.of(user.id, self.tick)
        if self.accounts.one_session_per_device:
            _replace_others(session, entered)
        if replay:
            self.backlog.replay(session)
        return account

    def close_sessions(self, user_id: int, token: bytes | None, but: Session) -> None:
        """Closes the user's sessions that logged in with a token, or all, but one."""
        self.hub.revoke(user_id, token)
        user = self.hub.user(user_id)
        for session in list(user.sessions if user else ()):
            if session is not but and (token is None or session.token == token):
                log_out(session)

    # -- rooms

    async def room(self, user: User, address: str, create: bool = False) -> Room | None:
        """The room at an address, as `user` means it; for `@name` None where the two never
        spoke, unless it is to be made. Raises `Refused` of `not-found`, or of `not-a-member`
        for a group that the user is not in, but may know of."""
        room = user.peers.get(address) if user.peers else None
        if room is None:
            room = await self._find_room(user, address, create)
        if room is None:
            return None
        if room.kind == "group" and room.id not in user.groups:
            await self.view(user, address)
            raise Refused("not-a-member", "You are not in #{name}.", name=room.name)
        if room.id in self.dissolving:
            raise Refused("not-found", "#{name} is being dissolved.", name=room.name)
        if user.peers is None or len(user.peers) >= _PEERS_KEPT:
            user.peers = {}
        user.peers[address] = room
        return room

    async def _find_room(self, user: User, address: str, create: bool) -> Room | None:
        name = normalise(address[1:])
        if address.startswith("#"):
            return await self.group(name)
        other = user.party if fold(name) == fold(user.name) else await self.find_user(name)
        room = await self.store.read(find_pair, user.party, other)
        if room is None and create:
            await self._check_open(user, other)
            room = await self.store.write(make_pair, user.party, other, self.millis())
        return room

    async def writable(self, user: User, address: str) -> Room:
        """The room at an address, made where it is missing, in which `user` may write now. Raises
        `Refused` as `room` does, of `muted`, and of `blocked` where the other one takes no
        messages from the user."""
        room = await self.room(user, address, create=True)
        assert room is not None
        if room.kind == "group":
            self._check_unmuted(user, room)
        elif room.kind == "direct" and (user.open is None or room.id not in user.open):
            seen = self.hub.relations
            await self._check_open(user, room.other(user.id))
            if seen == self.hub.relations:
                user.open = (user.open or set()) | {room.id}
        return room

    def _check_unmuted(self, user: User, room: Room) -> None:
        standing, rules = user.groups[room.id], self.hub.rules(room.id)
        if rules is None and not standing.muted_until:
            return
        if may(standing.role, "write when muted"):
            return
        now = self.millis()
        if rules is not None and rules.posting == "admins":
            raise Refused("muted", "Only admins may write in #{name}.", name=room.name)
        until = max(standing.muted_until, 0 if rules is None else rules.muted_until)
        if until > now:
            wait = (until - now) / 1000
            raise Refused("muted", "You may not write in #{name} for now.", wait, name=room.name)

    async def _check_open(self, user: User, other: Party) -> None:
        if other.id != user.id:
            await self.store.read(check_open, user.id, other)

    async def tell(
        self, party: Party, kind: str, body: dict[str, Any], subject: Party | None = None
    ) -> Draft:
        """A draft for a user's inbox, which is made where it is missing."""
        room = await self.store.read(find_pair, party, party)
        if room is None:
            room = await self.store.write(make_pair, party, party, self.millis())
        return replace(self.draft(room, party, kind, body), subject=subject)

    async def group(self, name: str) -> Room:
        """The group of a normalised name. Raises `Refused` of `not-found`."""
        room = await self.store.read(find_group, name)
        if room is None:
            raise _no_group(name)
        return room

    async def view(self, user: User, group: str) -> View:
        """A group as `user` finds it. Raises `Refused` of `not-found`, where the user may not
        know of it, too."""
        name = group_name(group)
        view = await self.store.read(groups.view, name, user.id, self.millis())
        if view is None or view.hidden:
            raise _no_group(name)
        return view

    async def find_user(self, name: str) -> Party:
        """The user of a normalised name. Raises `Refused` of `not-found`."""
        party = await self.store.read(accounts.find_user, name)
        if party is None:
            raise Refused("not-found", "There is no user @{name}.", name=name)
        return party

    def millis(self) -> int:
        """The time in ms since 1970 UTC."""
        return int(self.now() * 1000)

    def append(
        self,
        session: Session,
        user: User,
        room: Room,
        kind: str,
        body: dict[str, Any],
        key: str | None = None,
        effect: Effect | None = None,
        subject: Party | None = None,
        companions: tuple[Draft, ...] = (),
        locks: tuple[int, ...] = (),
        shown: dict[str, Any] = _NOTHING,
    ) -> Deferred[Stored]:
        """Puts an entry into the room's log; it fans out when it has committed. `shown` is what
        the event has besides the body, and the log has not; for the rest see `Draft`."""
        return self.store.append(
            Draft(
                room=room,
                sender=user.party,
                kind=kind,
                body={**body, **shown} if shown else body,
                encoded=msgspec.json.encode(body).decode(),
                key=key.encode() if key else self.keys(),
                at=self.millis(),
                origin=session,
                effect=effect,
                subject=subject,
                companions=companions,
                locks=locks,
            )
        )

    def draft(self, room: Room, sender: Party, kind: str, body: dict[str, Any]) -> Draft:
        """An entry that comes from no session: all that are the sender's get the event."""
        encoded = msgspec.json.encode(body).decode()
        return Draft(room, sender, kind, body, encoded, self.keys(), self.millis())

    def submit(
        self, draft: Draft, effect: Effect, *companions: Draft, locks: tuple[int, ...] = ()
    ) -> Deferred[Stored]:
        """Stores what `tell` or `draft` made, with what happens in the same transaction."""
        return self.store.append(replace(draft, effect=effect, companions=companions, locks=locks))


def _no_group(name: str) -> Refused:
    return Refused("not-found", "There is no group #{name}.", name=name)


def _replace_others(session: Session, user: User) -> None:
    """Closes the user's other sessions on the same kind of device; their tokens stay good."""
    kind = session.device_kind
    for other in list(user.sessions if kind else ()):
        if other is not session and other.device_kind == kind:
            other.link.close(REPLACED, CLOSE_CODES[REPLACED])


RESTARTS: Template = "The server restarts."

# Wrong passwords, by what they count for, in multiples of `passwords_per_minute`: many share an
# address, and an account is tried from everywhere; "new" are registrations from an address.
_TRIES = {"guess": 1, "address": 10, "account": 10, "new": 50}


class Context:
    """What a command gets: the session that asks, and the node."""

    __slots__ = ("node", "session")

    def __init__(self, node: Node, session: Session) -> None:
        self.node = node
        self.session = session

    @property
    def user(self) -> User:
        """Who asks. Raises `Refused` of `unauthorized` where nobody is logged in."""
        if self.session.user is None:
            raise Refused("unauthorized", "Log in first.")
        return self.session.user

    def owe(self, cost: int) -> None:
        """Takes what this request costs beyond its command's cost; next ones wait for a debt."""
        session, user = self.session, self.session.user
        for bucket in (session.bucket, None if user is None else user.bucket, session.place):
            if bucket is not None:
                bucket.left -= cost

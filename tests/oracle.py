"""What a chat must be after every request: people, groups, messages and places in plain Python,
told by docs/protocol.md, without a database, batches or caches.
"""

from __future__ import annotations

import pickle
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

DAY = 86_400_000  # ms
SEEN = 8  # unread messages are counted among so many entries, for the tests
EDIT = 3_600_000  # ms in which messages may be edited or recalled
CALL = 60_000  # ms between two calls of @all
RANKS = ("member", "admin", "owner")
OWN = ("friend", "asked")

Fields = dict[str, Any]


class Refusal(Exception):
    """A request is refused; the one argument is the code."""


def demand(condition: object, code: str) -> None:
    """Refuses with a code unless the condition holds."""
    if not condition:
        raise Refusal(code)


@dataclass
class Entry:
    """An entry of a log; `reactions` are by emoji and user, with the time."""

    seq: int
    kind: str
    sender: str
    at: int
    body: Fields
    versions: list[str] = field(default_factory=list)
    reactions: dict[str, dict[str, int]] = field(default_factory=dict)
    pinned: int = 0
    recalled: bool = False


@dataclass
class Way:
    """A link into a group."""

    by: str
    uses: int
    expires: int


@dataclass
class Group:
    """A group's rules, and who is what in it: `members` with role and the seq of joining."""

    entry: str
    history: str
    posting: str
    muted: int = 0
    called: int = 0
    dissolved: bool = False
    members: dict[str, tuple[str, int]] = field(default_factory=dict)
    bans: set[str] = field(default_factory=set)
    mutes: dict[str, int] = field(default_factory=dict)
    requests: dict[str, str] = field(default_factory=dict)
    invitations: dict[str, tuple[str, int]] = field(default_factory=dict)
    links: dict[str, Way] = field(default_factory=dict)

    def role(self, user: str) -> str:
        """The user's role, "" for who is not in it."""
        return self.members[user][0] if user in self.members else ""

    def rank(self, user: str) -> int:
        """How high that is, -1 for who is not in it."""
        return RANKS.index(self.role(user)) if user in self.members else -1

    def forget_offers(self, user: str) -> None:
        """The ways in that a user gave are closed."""
        self.invitations = {u: given for u, given in self.invitations.items() if given[0] != user}
        self.links = {name: way for name, way in self.links.items() if way.by != user}


@dataclass
class Place:
    """A user's place in a room."""

    delivered: int = 0
    read: int = 0
    cleared: int = 0
    marked: bool = False
    pinned: int = 0
    notify: str = "all"
    archived: bool = False
    archived_seq: int = 0
    hidden: set[int] = field(default_factory=set)


@dataclass
class Side:
    """What one user is to another; `at`: since when, or when a request was told."""

    state: str = ""
    blocked: bool = False
    words: str = ""
    at: int = 0


class World:
    """All of it. `do` is a request; `pairs` are the rooms of two that were made, which is not
    for the oracle to say. With `before`, what a request looks at first it sees there."""

    def __init__(self, users: tuple[str, ...], now: int) -> None:
        self.users = users
        self.now = now
        self.groups: dict[str, Group] = {}
        self.logs: dict[str, list[Entry]] = {}
        self.places: defaultdict[tuple[str, str], Place] = defaultdict(Place)
        self.sides: defaultdict[tuple[str, str], Side] = defaultdict(Side)
        self.writers = dict.fromkeys(users, "everybody")
        self.receipts = dict.fromkeys(users, True)
        self.pairs: set[str] = set()
        self.heard: dict[str, list[tuple[str, int, str]]] = {user: [] for user in users}
        self.actor = ""
        self.before: World | None = None

    def copy(self) -> World:
        """Another one, as it is now."""
        same: World = pickle.loads(pickle.dumps(self))
        return same

    @property
    def seen(self) -> World:
        """What a request sees that looks before it acts."""
        return self.before or self

    def do(self, user: str, command: str, **fields: Any) -> Fields:
        """What the reply must have. Raises `Refusal`."""
        self.actor = user
        found: Fields = getattr(self, f"do_{command}")(user, **fields)
        return found

    # -- rooms

    def key(self, user: str, to: str) -> str:
        """The room that an address means to a user."""
        if to.startswith("#"):
            return to
        return "|".join(sorted((user, to[1:]), key=self.users.index))

    def pair(self, key: str) -> list[str]:
        """The users of a direct room, or of an inbox."""
        return key.split("|")

    def address(self, key: str, user: str) -> str:
        """How a room is called by a user."""
        if key.startswith("#"):
            return key
        low, high = self.pair(key)
        return f"@{low if user == high else high}"

    def view(self, user: str, to: str) -> Group:
        """A group that the user may know of."""
        group = self.groups.get(to)
        if group is None or group.dissolved:
            raise Refusal("not-found")
        hidden = group.entry == "invited" and user not in group.members
        demand(not hidden or self.invited(user, group), "not-found")
        return group

    def invited(self, user: str, group: Group) -> bool:
        """Whether an invitation is good."""
        return user in group.invitations and group.invitations[user][1] > self.now - 30 * DAY

    def room(self, user: str, to: str) -> str:
        """The room of an address, where something was said."""
        key = self.key(user, to)
        if to.startswith("#"):
            demand(user in self.view(user, to).members, "not-a-member")
        else:
            demand(to[1:] in self.users and key in self.pairs, "not-found")
        return key

    def mine(self, user: str, to: str) -> Group:
        """A group that the user is in."""
        return self.groups[self.room(user, to)]

    def open(self, user: str, other: str) -> bool:
        """Whether one may write to the other."""
        theirs = self.sides[other, user]
        friends = self.writers[other] == "everybody" or theirs.state == "friend"
        return other == user or not (
            self.sides[user, other].blocked or theirs.blocked or not friends
        )

    def writable(self, user: str, to: str) -> str:
        """The room of an address, if the user may write there."""
        key = self.key(user, to)
        if to.startswith("#"):
            group = self.mine(user, to)
            until = max(group.mutes.get(user, 0), group.muted)
            free = group.posting == "members" and until <= self.now
            demand(group.rank(user) > 0 or free, "muted")
            return key
        demand(to[1:] in self.users, "not-found")
        demand(self.open(user, to[1:]), "blocked")
        return key

    def spoken(self, user: str, to: str) -> str:
        """The same, where something was said already."""
        self.room(user, to)
        return self.writable(user, to)

    def rooms(self, user: str) -> Iterator[str]:
        """Those that a user has, in some of which nothing was said."""
        for key in self.groups.keys() | self.pairs:
            group = self.groups.get(key)
            if group is not None and group.dissolved:
                continue
            if user in (group.members if group else self.pair(key)):
                yield key

    def floor(self, user: str, key: str) -> int:
        """The last seq that the user may not see."""
        group, cleared = self.groups.get(key), self.places[user, key].cleared
        if group is None:
            return cleared
        joined = group.members[user][1] - 1 if group.history == "joined" else 0
        return max(cleared, joined)

    def visible(self, user: str, key: str) -> list[Entry]:
        """What of a room the user sees."""
        floor, hidden = self.floor(user, key), self.places[user, key].hidden
        return [e for e in self.logs.get(key, ()) if e.seq > floor and e.seq not in hidden]

    # -- logs

    def add(self, key: str, kind: str, sender: str, **body: Any) -> Fields:
        """An entry; those in the room hear of it, but who asked for it and gets the reply."""
        log = self.logs.setdefault(key, [])
        seq = len(log) + 1
        log.append(Entry(seq, kind, sender, self.now, body))
        if key in self.groups:
            self.hear(key, seq)
        else:
            for user in {*self.pair(key)}:
                self._hear(user, key, log[-1])
        return {"seq": seq, "at": self.now}

    def hear(self, key: str, seq: int) -> None:
        """The members of a group hear of an entry."""
        for user in self.groups[key].members:
            self._hear(user, key, self.logs[key][seq - 1])

    def _hear(self, user: str, key: str, entry: Entry) -> None:
        if not user == entry.sender == self.actor:
            self.heard[user].append((key, entry.seq, entry.kind))

    def tell(self, owner: str, kind: str, **body: Any) -> Fields:
        """An entry in somebody's inbox."""
        return self.add(f"{owner}|{owner}", kind, owner, **body)

    def find(self, user: str, key: str, seq: int, recalled: bool = False) -> Entry:
        """A message that the user may read."""
        group = self.groups.get(key)
        if group is not None:
            demand(not group.dissolved, "not-found")
            demand(user in group.members, "not-a-member")
        log = self.logs.get(key, [])
        demand(self.floor(user, key) < seq <= len(log), "not-found")
        entry = log[seq - 1]
        demand(entry.kind == "message", "not-found")
        demand(recalled or not entry.recalled, "conflict")
        return entry

    def stored(self, entry: Entry) -> Fields:
        """An entry's body, as it is stored."""
        if entry.recalled:
            return {"text": "", "recalled": True}
        shown = [
            {
                "emoji": emoji,
                "count": len(by),
                "users": sorted(by, key=lambda u: (by[u], self.users.index(u)))[:3],
            }
            for emoji, by in entry.reactions.items()
        ]
        return entry.body | ({"reactions": shown} if shown else {})

    def event(self, key: str, entry: Entry) -> Fields:
        """The event that tells of an entry now."""
        body = self.stored(entry)
        target = body.get("reply_to") if entry.kind == "message" else None
        if target:
            other = self.logs[key][target - 1]
            quote = {"seq": target, "from": other.sender, **self.said(other)}
            body = body | {"quote": quote}
        if entry.kind == "edited":
            body = body | self.said(self.logs[key][body["target"] - 1])
        if entry.kind == "reacted":
            by = self.logs[key][body["target"] - 1].reactions.get(body["emoji"], ())
            body = body | {"count": len(by)}
        head = {"event": entry.kind, "seq": entry.seq, "from": entry.sender, "at": entry.at}
        return head | {"to": self.address(key, entry.sender)} | body

    def said(self, entry: Entry) -> Fields:
        """What is shown elsewhere of a message."""
        return {k: v for k, v in self.stored(entry).items() if k in ("text", "recalled")}

    # -- groups

    def allowed(self, user: str, group: Group, role: str, other: str = "") -> None:
        """Refuses who has not the role, or not a higher one than the other."""
        demand(not group.dissolved, "not-found")
        demand(user in group.members, "not-a-member")
        demand(group.rank(user) >= RANKS.index(role), "forbidden")
        demand(not other or group.rank(user) > group.rank(other), "forbidden")

    def do_create(self, user: str, name: str, **rules: Any) -> Fields:
        usual: Fields = {"entry": "open", "history": "all", "posting": "members"}
        body = {k: v for k, v in rules.items() if v != usual[k]}
        key = f"#{name}"
        if key in self.groups:
            first = self.logs[key][0]
            same = first.sender == user and first.body == body and len(self.logs[key]) == 1
            demand(same and not self.groups[key].dissolved, "exists")
            return {}
        self.groups[key] = Group(**(usual | rules))
        self.enter(key, user, "created", "owner", body)
        return {}

    def enter(self, key: str, user: str, kind: str, role: str, body: Fields) -> Fields:
        """A user comes into a group."""
        group, place = self.groups[key], self.places[user, key]
        seq = len(self.logs.get(key, ())) + 1
        group.members[user] = (role, seq)
        group.requests.pop(user, None)
        group.invitations.pop(user, None)
        place.delivered, place.read = max(place.delivered, seq), max(place.read, seq)
        place.marked = False
        return self.add(key, kind, user, **body)

    def do_join(self, user: str, group: str = "", token: str = "") -> Fields:
        if token:
            key, way = next(
                ((k, g.links[token]) for k, g in self.groups.items() if token in g.links),
                ("", None),
            )
            demand(way and way.uses > 0 and way.expires > self.now, "not-found")
            demand(group in ("", key), "not-found")
            assert way is not None
            self.check_new(user, self.groups[key])
            way.uses -= 1
            return self.enter(key, user, "joined", "member", {})
        there = self.view(user, group)
        invited = self.invited(user, there)
        if user not in there.members and there.entry == "approval" and not invited:
            return self.ask(user, group, there)
        self.check_new(user, there)
        demand(there.entry == "open" or invited, "conflict")
        return self.enter(group, user, "joined", "member", {})

    def ask(self, user: str, key: str, group: Group) -> Fields:
        """A user asks to be let in."""
        if user not in group.requests:
            self.check_new(user, group)
            group.requests[user] = ""
            for admin in self.seen.groups[key].members:
                if self.seen.groups[key].rank(admin) > 0:
                    self.tell(admin, "requested", group=key, user=user)
        return {"requested": True}

    def check_new(self, user: str, group: Group) -> None:
        """Refuses who is in it, or may not come back."""
        demand(user not in group.members, "exists")
        demand(user not in group.bans, "forbidden")

    def do_leave(self, user: str, group: str) -> Fields:
        there = self.mine(user, group)
        demand(there.role(user) != "owner", "conflict")
        return self.part(group, user, "left", user, {})

    def part(self, key: str, user: str, kind: str, by: str, body: Fields) -> Fields:
        """A user is taken out of a group."""
        group = self.groups[key]
        added = self.add(key, kind, by, **body)
        for pending in (group.members, group.requests, group.invitations):
            pending.pop(user, None)
        group.forget_offers(user)
        return added

    def do_kick(self, user: str, group: str, whom: str, ban: bool) -> Fields:
        there = self.mine(user, group)
        self.allowed(user, there, "admin", whom)
        demand(ban or whom in there.members, "not-found")
        demand(whom in there.members or whom not in there.bans, "conflict")
        banned = {"banned": True} if ban else {}
        if whom in self.seen.groups[group].members:
            self.tell(whom, "kicked", group=group, user=user, **banned)
        if ban:
            there.bans.add(whom)
        return self.part(group, whom, "kicked", user, {"user": whom, **banned})

    def do_unban(self, user: str, group: str, whom: str) -> Fields:
        there = self.mine(user, group)
        self.allowed(user, there, "admin")
        demand(whom in there.bans, "not-found")
        there.bans.discard(whom)
        return {}

    def do_role(self, user: str, group: str, whom: str, role: str) -> Fields:
        there = self.mine(user, group)
        self.allowed(user, there, "owner", whom)
        demand(whom in there.members, "not-found")
        demand(there.role(whom) != role, "conflict")
        if role == "owner":
            there.members[user] = ("admin", there.members[user][1])
        if role == "member":
            there.forget_offers(whom)
        there.members[whom] = (role, there.members[whom][1])
        return self.add(group, "appointed", user, user=whom, role=role)

    def do_mute(self, user: str, group: str, until: int, whom: str = "") -> Fields:
        there = self.mine(user, group)
        self.allowed(user, there, "admin", whom)
        demand(not whom or whom in there.members, "not-found")
        end = until if until > self.now else 0
        if whom:
            there.mutes[whom] = end
            return self.add(group, "muted", user, user=whom, until=end)
        there.muted = end
        return self.add(group, "muted", user, until=end)

    def do_configure(self, user: str, group: str, **rules: str) -> Fields:
        there = self.mine(user, group)
        self.allowed(user, there, "admin")
        for name, value in rules.items():
            setattr(there, name, value)
        return self.add(group, "configured", user, **rules)

    def do_dissolve(self, user: str, group: str) -> Fields:
        there = self.mine(user, group)
        self.allowed(user, there, "owner")
        there.dissolved = True
        for pending in (there.bans, there.mutes, there.requests, there.invitations, there.links):
            pending.clear()
        return self.add(group, "dissolved", user)

    def do_invite(self, user: str, group: str, whom: str) -> Fields:
        there = self.mine(user, group)
        self.allowed(user, there, "member" if there.entry == "open" else "admin")
        self.check_new(whom, there)
        demand(self.open(user, whom), "blocked")
        if not self.invited(whom, there):
            there.invitations[whom] = (user, self.now)
            self.tell(whom, "invited", group=group, user=user)
        return {}

    def do_decline(self, user: str, group: str) -> Fields:
        there = self.view(user, group)
        asked = there.requests.pop(user, None)
        demand(there.invitations.pop(user, None) or asked is not None, "not-found")
        return {}

    def do_link(self, user: str, group: str, uses: int, days: int) -> Fields:
        there = self.mine(user, group)
        self.allowed(user, there, "admin")
        expires = self.now + days * DAY
        there.links["new"] = Way(user, uses, expires)
        return {"expires": expires}

    def do_unlink(self, user: str, group: str, token: str) -> Fields:
        there = self.mine(user, group)
        self.allowed(user, there, "admin")
        demand(there.links.pop(token, None), "not-found")
        return {}

    def do_approve(self, user: str, group: str, whom: str) -> Fields:
        there = self.mine(user, group)
        self.allowed(user, there, "admin")
        demand(whom in there.requests, "not-found")
        self.tell(whom, "approved", group=group, user=user)
        return self.enter(group, whom, "joined", "member", {"by": user})

    def do_reject(self, user: str, group: str, whom: str) -> Fields:
        there = self.mine(user, group)
        self.allowed(user, there, "admin")
        demand(there.requests.pop(whom, None) is not None, "not-found")
        self.tell(whom, "rejected", group=group, user=user)
        return {}

    # -- messages

    def do_say(self, user: str, to: str, text: str, reply_to: int = 0) -> Fields:
        key = self.seen.writable(user, to)
        body: Fields = {"text": text}
        if reply_to:
            self.find(user, key, reply_to)
            body["reply_to"] = reply_to
        group = self.groups.get(key)
        if group is not None and (mentions := self.mentions(user, key, text)):
            body["mentions"] = mentions
            if mentions == ["all"]:
                self.allowed(user, group, "admin")
                demand(self.now >= group.called + CALL, "rate-limited")
                group.called = self.now
        return self.add(key, "message", user, **body)

    def mentions(self, user: str, key: str, text: str) -> list[str]:
        """Whom a text mentions."""
        group, names = self.seen.groups[key], re.findall(r"@(\w+)", text)
        if "all" in names and group.rank(user) > 0:
            return ["all"]
        return [n for n in dict.fromkeys(names) if n in group.members and n != user]

    def do_edit(self, user: str, to: str, seq: int, text: str) -> Fields:
        key = self.seen.spoken(user, to)
        entry = self.find(user, key, seq)
        demand(entry.sender == user and entry.at > self.now - EDIT, "forbidden")
        if entry.body["text"] == text:
            return {"unchanged": True}
        entry.versions.append(entry.body["text"])
        entry.body |= {"text": text, "edited": self.now}
        return self.add(key, "edited", user, target=seq)

    def do_recall(self, user: str, to: str, seq: int) -> Fields:
        key = self.seen.room(user, to)
        entry, group = self.find(user, key, seq), self.groups.get(key)
        if entry.sender != user:
            demand(group is not None, "forbidden")
            assert group is not None
            self.allowed(user, group, "admin", entry.sender)
        elif group is None or group.rank(user) < 1:
            demand(entry.at > self.now - EDIT, "forbidden")
        entry.recalled, entry.pinned = True, 0
        entry.versions, entry.reactions, entry.body = [], {}, {}
        return self.add(key, "recalled", user, target=seq)

    def do_react(self, user: str, to: str, seq: int, emoji: str, on: bool) -> Fields:
        key = self.seen.spoken(user, to) if on else self.seen.room(user, to)
        entry = self.find(user, key, seq)
        by = entry.reactions.get(emoji, {})
        if (user in by) == on:
            return {"unchanged": True}
        if on:
            entry.reactions.setdefault(emoji, {})[user] = self.now
        else:
            del by[user]
            if not by:
                del entry.reactions[emoji]
        return self.add(key, "reacted", user, target=seq, emoji=emoji, on=on)

    def do_pin(self, user: str, to: str, seq: int) -> Fields:
        key = self.seen.spoken(user, to)
        entry = self.find(user, key, seq)
        if key in self.groups:
            self.allowed(user, self.groups[key], "admin")
        if entry.pinned:
            return {"unchanged": True}
        entry.pinned = self.now
        return self.add(key, "pinned", user, target=seq)

    def do_unpin(self, user: str, to: str, seq: int) -> Fields:
        key = self.seen.room(user, to)
        if key in self.groups:
            self.allowed(user, self.groups[key], "admin")
        log = self.logs.get(key, [])
        if not 0 < seq <= len(log) or not log[seq - 1].pinned:
            return {"unchanged": True}
        log[seq - 1].pinned = 0
        return self.add(key, "unpinned", user, target=seq)

    def do_hide(self, user: str, to: str, seq: int) -> Fields:
        key = self.room(user, to)
        self.find(user, key, seq, recalled=True)
        hidden = self.places[user, key].hidden
        if seq in hidden:
            return {"unchanged": True}
        hidden.add(seq)
        return self.tell(user, "hidden", room=to, target=seq)

    # -- places

    def do_clear(self, user: str, to: str) -> Fields:
        key = self.room(user, to)
        end, place = len(self.seen.logs.get(key, ())), self.places[user, key]
        place.delivered, place.read = max(place.delivered, end), max(place.read, end)
        place.cleared, place.marked = max(place.cleared, end), False
        return self.tell(user, "cleared", room=to, upto=end)

    def do_mark(self, user: str, to: str) -> Fields:
        self.places[user, self.room(user, to)].marked = True
        return self.tell(user, "marked", room=to)

    def do_prefer(self, user: str, to: str, **wishes: Any) -> Fields:
        key = self.room(user, to)
        place = self.places[user, key]
        if "pinned" in wishes:
            place.pinned = self.now * wishes["pinned"]
        if "notify" in wishes:
            place.notify = wishes["notify"]
        if "archived" in wishes:
            place.archived = wishes["archived"]
            place.archived_seq = len(self.logs.get(key, ())) * wishes["archived"]
        return self.tell(user, "preferred", room=to, **wishes)

    def do_read(self, user: str, to: str, seq: int) -> Fields:
        place = self.places[user, self.room(user, to)]
        found = self.do_delivered(user, to, seq)
        place.read, place.marked = max(place.read, found["seq"]), False
        return found

    def do_delivered(self, user: str, to: str, seq: int) -> Fields:
        key = self.room(user, to)
        place, upto = self.places[user, key], min(seq, len(self.logs.get(key, ())))
        place.delivered = max(place.delivered, upto)
        return {"seq": upto}

    # -- people

    def both(self, user: str, other: str) -> tuple[Side, Side]:
        """What two are to each other."""
        demand(user != other, "forbidden")
        return self.sides[user, other], self.sides[other, user]

    def tie(self, user: str, other: str, kind: str = "", **body: Any) -> Fields:
        """The reply, and the entry in one's own inbox where something has changed."""
        mine = self.sides[user, other]
        told = self.tell(user, kind, user=other, **body) if kind else {}
        now = {"state": mine.state, "blocked": mine.blocked}
        return {k: v for k, v in now.items() if v} | told

    def do_befriend(self, user: str, other: str, words: str) -> Fields:
        mine, theirs = self.both(user, other)
        demand(not (mine.blocked or theirs.blocked), "blocked")
        if theirs.state == "asked":  # also if that was refused
            return self.befriended(user, other)
        body = {"by": user, **({"words": words} if words else {})}
        if mine.state in OWN and theirs.state != "refused":
            return self.tie(user, other)
        if theirs.state == "refused" and self.now - theirs.at < 30 * DAY:
            if mine.state == "asked":
                return self.tie(user, other)
        else:
            again = self.now - theirs.at < DAY
            theirs.state, theirs.words = "asking", words
            theirs.at = theirs.at if again else self.now
            if not again:
                self.tell(other, "befriended", user=user, **body)
        mine.state, mine.words, mine.at = "asked", words, self.now
        return self.tie(user, other, "befriended", **body)

    def befriended(self, user: str, other: str) -> Fields:
        """Two become friends."""
        for side in self.both(user, other):
            side.state, side.words, side.at = "friend", "", self.now
        self.tell(other, "accepted", user=user)
        return self.tie(user, other, "accepted")

    def do_accept(self, user: str, other: str) -> Fields:
        mine, _ = self.both(user, other)
        if mine.state == "friend":
            return self.tie(user, other)
        demand(mine.state == "asking", "not-found")
        return self.befriended(user, other)

    def do_refuse(self, user: str, other: str) -> Fields:
        mine, _ = self.both(user, other)
        if mine.state == "refused":
            return self.tie(user, other)
        demand(mine.state == "asking", "not-found")
        mine.state, mine.words, mine.at = "refused", "", self.now
        return self.tie(user, other, "refused")

    def end(self, user: str, other: str) -> None:
        """Two are nothing to each other any more; refusals stay, and when a request was told."""
        for side in self.both(user, other):
            if side.state not in ("", "refused"):
                side.at = side.at if side.state == "asking" else 0
                side.state, side.words = "", ""

    def do_unfriend(self, user: str, other: str) -> Fields:
        mine, _ = self.both(user, other)
        demand(mine.state in OWN, "not-found")
        self.end(user, other)
        return self.tie(user, other, "unfriended")

    def do_block(self, user: str, other: str) -> Fields:
        mine, _ = self.both(user, other)
        if mine.blocked:
            return self.tie(user, other)
        self.end(user, other)
        mine.blocked = True
        return self.tie(user, other, "blocked")

    def do_unblock(self, user: str, other: str) -> Fields:
        mine, _ = self.both(user, other)
        demand(mine.blocked, "not-found")
        mine.blocked = False
        return self.tie(user, other, "unblocked")

    def do_profile(self, user: str, **given: Any) -> Fields:
        now = {"writers": self.seen.writers[user], "receipts": self.seen.receipts[user]}
        changes = {name: value for name, value in given.items() if value != now[name]}
        self.writers[user] = changes.get("writers", self.writers[user])
        self.receipts[user] = changes.get("receipts", self.receipts[user])
        told = self.tell(user, "updated", **changes) if changes else {}
        return now | changes | told

    # -- what is seen, beside what is in the logs

    def do_typing(self, user: str, to: str) -> Fields:
        if to.startswith("#") or self.key(user, to) in self.pairs:
            self.writable(user, to)
        return {}

    def do_history(self, user: str, to: str, limit: int = 200) -> Fields:
        key = self.key(user, to)
        if to.startswith("#"):
            self.mine(user, to)
        seen = self.visible(user, key)
        page = seen[-limit:]
        return {"entries": [self.event(key, e) for e in page], "more": len(page) < len(seen)}

    def do_pins(self, user: str, to: str) -> Fields:
        key = self.room(user, to)
        found = sorted((e for e in self.visible(user, key) if e.pinned), key=lambda e: e.pinned)
        return {"pins": [self.event(key, entry) for entry in found]}

    def do_versions(self, user: str, to: str, seq: int) -> Fields:
        entry = self.find(user, self.room(user, to), seq)
        return {"texts": [*entry.versions, entry.body["text"]]}

    def do_receipts(self, user: str, to: str, seq: int) -> Fields:
        key = self.room(user, to)
        entry = next((e for e in self.visible(user, key) if e.seq == seq), None)
        demand(entry, "not-found")
        demand(self.receipts[user], "forbidden")
        assert entry is not None
        group = self.groups.get(key)
        there = (
            self.pair(key)
            if group is None
            else [u for u, (_, joined) in group.members.items() if joined < seq]
        )
        reached = [
            {"user": u, "read": self.places[u, key].read >= seq}
            for u in sorted({*there} - {user, entry.sender})
            if self.receipts[u]
            and self.places[u, key].delivered >= seq
            and not self.sides[u, user].blocked
        ]
        return {"receipts": reached, "more": False}

    def do_members(self, user: str, group: str) -> Fields:
        there = self.mine(user, group)
        rows = []
        for name, (role, joined) in sorted(there.members.items()):
            until = there.mutes.get(name, 0)
            rows.append(
                {
                    "user": name,
                    "role": role,
                    "muted_until": until if until > self.now else 0,
                    "joined": self.logs[group][joined - 1].at,
                }
            )
        return {"members": rows, "more": False}

    def do_about(self, user: str, group: str) -> Fields:
        there = self.view(user, group)
        told: Fields = {"entry": there.entry, "members": len(there.members)}
        if self.invited(user, there):
            told["invited"] = True
        if user in there.requests:
            told["requested"] = True
        if user in there.members:
            told |= {"history": there.history, "posting": there.posting}
            told |= {"role": there.role(user), "muted_until": there.muted}
        return told

    def do_rooms(self, user: str) -> Fields:
        return {
            "rooms": {self.address(key, user): self.line(user, key) for key in self.rooms(user)}
        }

    def line(self, user: str, key: str) -> Fields:
        """A room in the list."""
        place, log, seen = self.places[user, key], self.logs.get(key, []), self.visible(user, key)
        said = [e for e in seen if e.kind == "message" and not e.recalled and e.sender != user]
        unread = [e for e in said if e.seq > place.read]
        back = place.notify != "none" and any(
            e.kind == "message"
            and not e.recalled
            and e.sender != user
            and e.seq > place.archived_seq
            for e in log
        )
        return {
            "last_seq": len(log),
            "read_seq": place.read,
            "delivered_seq": place.delivered,
            "unread": sum(e.seq > len(log) - SEEN for e in unread),
            "mentions": sum(self.meant(user, e) for e in unread),
            "marked": place.marked,
            "pinned": place.pinned,
            "notify": place.notify,
            "archived": place.archived and not back,
            "last": self.event(key, seen[-1]) if seen else None,
        }

    def meant(self, user: str, entry: Entry) -> bool:
        """Whether a message mentions the user."""
        mentions = entry.body.get("mentions", ())
        return "all" in mentions or user in mentions

    def do_unread(self, user: str) -> Fields:
        lines = [self.line(user, key) for key in self.rooms(user)]
        there = [one for one in lines if not one["archived"] and one["notify"] != "none"]
        loud = [one for one in there if one["notify"] == "all"]
        return {
            "unread": sum(one["unread"] for one in loud),
            "mentions": sum(one["mentions"] for one in there),
            "rooms": sum(
                bool(one["marked"] or one["mentions"] or (one["unread"] and one in loud))
                for one in there
            ),
            "muted": sum(one["unread"] for one in lines) - sum(one["unread"] for one in loud),
        }

    def do_search(self, user: str, text: str, to: str = "") -> Fields:
        keys = [*self.rooms(user)]
        if to:
            key = self.key(user, to)
            if to.startswith("#"):
                self.mine(user, to)
            keys = [key] if key in keys else []
        found = [
            (entry.at, self.event(key, entry))
            for key in keys
            for entry in self.visible(user, key)
            if entry.kind == "message" and not entry.recalled
            if all(has(entry.body["text"], word) for word in text.split())
        ]
        return {"entries": [event for _, event in sorted(found, key=lambda one: -one[0])]}

    def do_friends(self, user: str) -> Fields:
        known = [(other, self.sides[user, other]) for other in sorted(self.users)]
        found = {other: side.state for other, side in known if side.state not in ("", "refused")}
        return {"friends": found}

    def do_blocks(self, user: str) -> Fields:
        return {"users": [o for o in sorted(self.users) if self.sides[user, o].blocked]}


def has(text: str, word: str) -> bool:
    """Whether a text has a word: as a whole in Latin letters, anywhere in Chinese."""
    text, word = text.lower().replace("é", "e"), word.lower()
    return word in re.findall("[a-z]+", text) if word.isascii() else word in text

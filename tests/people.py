"""People in stories, alike over every wire, and a case that tells each story over all of them."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from twisted.internet import reactor
from twisted.internet.task import deferLater

from chatd.settings import Heartbeat, Presence
from tests.bed import CalmCase
from tests.typed import Event
from tests.wires import Browser, JsonLines, Program, Reply, Telnet, Wire, room_of

Cast = tuple[type[Wire], ...]

CASTS: dict[str, Cast] = {
    "websocket": (Browser,),
    "json_lines": (JsonLines,),
    "typed_lines": (Telnet,),
    "http": (Program,),
    "mixed": (Browser, Telnet, Program, JsonLines),
    "mixed_otherwise": (Program, Browser, JsonLines, Telnet),
}
"""What the people of a story use, in the order in which they come; then it begins anew."""

START = 1_763_622_149  # seconds since 1970, when stories begin
LINGER = 3  # seconds
MINUTE, HOUR, DAY = 60, 3600, 86400


class Person:
    """Somebody at a client. What comes must come in order and once, or it fails."""

    def __init__(self, case: StoryCase, name: str, kind: type[Wire]) -> None:
        self.name = name
        self._case = case
        self._kind = kind
        self._unseen: list[Event] = []
        self._had: set[tuple[str, int]] = set()
        self._connect()

    @property
    def live(self) -> bool:
        """Whether events come by themselves."""
        return self._kind.live

    @property
    def terse(self) -> bool:
        """Whether entries say less than they do in JSON."""
        return self._kind.terse

    def _connect(self) -> None:
        self._wire = self._kind(self._case)
        self._last: dict[str, int] = {}

    # -- coming and going

    async def registers(self, **parameters: Any) -> None:
        """Makes an account."""
        await self.does("register", name=self.name, password="secret", **parameters)

    async def logs_in(self, **parameters: Any) -> None:
        """Comes with a password."""
        await self.does("login", name=self.name, password="secret", **parameters)
        await self._case.until_told()

    def goes(self) -> None:
        """Closes the client, which is as good as the network's end."""
        self._note(self._wire.take())
        self._wire.leave()

    async def is_thrown_out(self) -> None:
        """The server ends the connection; by HTTP nobody can ask any more."""
        await self._wire.ends()
        if not self.live:
            await self.cannot("unauthorized", "rooms")

    async def comes_back(self, **parameters: Any) -> None:
        """Connects and logs in anew, with what the client had still there."""
        self._connect()
        await self.logs_in(**parameters)

    # -- doing

    async def asks(self, command: str, /, **parameters: Any) -> Reply:
        """What a request is answered, good or bad."""
        self._case.node.hub.flush()
        reply = await self._wire.ask(command, parameters)
        if self.live:
            self._note(self._wire.take())
        return reply

    async def does(self, command: str, /, **parameters: Any) -> Reply:
        """Does something that one may."""
        reply = await self.asks(command, **parameters)
        assert reply["ok"], (self.name, command, reply)
        return reply

    async def cannot(self, code: str, command: str, /, **parameters: Any) -> str:
        """Tries something that is refused; the sentence that says why."""
        reply = await self.asks(command, **parameters)
        assert not reply["ok"], (self.name, command, reply)
        assert reply["error"] == code, (self.name, command, reply)
        return str(reply["message"])

    async def says(self, to: str, text: str, **parameters: Any) -> int:
        """Says something; its seq."""
        return int((await self.does("say", to=to, text=text, **parameters))["seq"])

    # -- seeing

    async def sees(self, kind: str, /, **fields: Any) -> Event:
        """The next event of a kind, with such fields. (`sender` is its `from`.)"""
        looked_for = _fields(kind, fields)
        while True:
            for event in self._unseen:
                if looked_for.items() <= event.items():
                    self._unseen.remove(event)
                    return event
            try:
                self._note([await self._wire.next()])
            except LookupError as error:
                raise AssertionError(self.name, looked_for, self._unseen) from error

    async def has_not_seen(self, kind: str, /, **fields: Any) -> None:
        """Nothing of the kind has come by now."""
        await self._catches_up()
        looked_for = _fields(kind, fields)
        found = [event for event in self._unseen if looked_for.items() <= event.items()]
        assert not found, (self.name, found)

    async def hears(self) -> list[str]:
        """What was said and has not been seen yet, as `ann: hello`."""
        await self._catches_up()
        said = [event for event in self._unseen if event["event"] == "message"]
        self._unseen = [event for event in self._unseen if event["event"] != "message"]
        return [_line(event) for event in said if event["from"] != self.name]

    async def forgets(self) -> None:
        """What came by now is not looked at."""
        await self._catches_up()
        self._unseen.clear()

    async def _catches_up(self) -> None:
        await self._case.until_told()
        if self.live:
            await self.asks("ping")
            return
        try:
            self._note([await self._wire.next()])
        except LookupError:
            return
        self._note(self._wire.take())

    def _note(self, events: list[Event]) -> None:
        for event in events:
            if "seq" not in event:
                self._unseen.append(event)
                continue
            room, seq = room_of(event, self.name), event["seq"]
            assert seq > self._last.get(room, 0), (self.name, "again or out of order", event)
            self._last[room] = seq
            if (room, seq) not in self._had:  # else it had come before one went
                self._had.add((room, seq))
                self._unseen.append(event)

    # -- looking up

    async def reads_back(self, to: str, **parameters: Any) -> list[str]:
        """The messages of a room, as `ann: hello`."""
        entries = (await self.does("history", to=to, **parameters))["entries"]
        return [_line(entry) for entry in entries if entry["event"] == "message"]

    async def looks_at(self, to: str, seq: int) -> Event:
        """A message as it stands in the history now."""
        entries = (await self.does("history", to=to, after=seq - 1, limit=1))["entries"]
        assert [entry["seq"] for entry in entries] == [seq], entries
        entry: Event = entries[0]
        return entry

    async def finds(self, text: str = "", **parameters: Any) -> list[str]:
        """All that a search finds, newest first, page by page, as `ann: hello`."""
        await self._case.node.indexer.level()
        asked = {**parameters, **({"text": text} if text else {})}
        found: list[str] = []
        while True:
            page = await self.does("search", **asked)
            found += map(_line, page["entries"])
            if not page["more"]:
                return found
            asked["next"] = page["next"]

    async def room(self, address: str) -> dict[str, Any]:
        """A room as it stands in the list of rooms."""
        found = [room for room in await self.rooms() if room["address"] == address]
        assert len(found) == 1, (address, found)
        return found[0]

    async def rooms(self) -> list[dict[str, Any]]:
        """The list of rooms, but for the inbox."""
        rooms = (await self.does("rooms"))["rooms"]
        return [room for room in rooms if room["kind"] != "inbox"]

    async def badge(self, address: str) -> tuple[int, int]:
        """A room's unread messages, and how many of them mention one."""
        room = await self.room(address)
        return room["unread"], room["mentions"]

    async def state_of(self, user: str) -> str:
        """How one sees whether somebody is online."""
        (person,) = (await self.does("who", users=[user]))["users"]
        return str(person["state"])


def _fields(kind: str, fields: dict[str, Any]) -> dict[str, Any]:
    known = dict(fields)
    sender = {"from": known.pop("sender")} if "sender" in known else {}
    return {"event": kind, **known, **sender}


def _line(message: Event) -> str:
    said = "[recalled]" if message.get("recalled") else message["text"]
    return f"{message['from']}: {said}"


class StoryCase(CalmCase):
    """Tells each of its stories once per cast; a story asks for its people."""

    timeout = 10
    presence = Presence(linger_seconds=LINGER)
    pulse = Heartbeat(interval=3600, timeout=3600)
    wires: Iterator[type[Wire]]

    def __init_subclass__(cls) -> None:
        stories = {name: story for name, story in vars(cls).items() if name.startswith("test_")}
        for name, story in stories.items():
            delattr(cls, name)
            for cast, wires in CASTS.items():
                setattr(cls, f"{name}_{cast}", _told_over(story, wires))

    def setUp(self) -> None:
        super().setUp()
        self.time = float(START)
        self.node.now = self._now

    def _now(self) -> float:
        self.time += 0.001  # nothing happens at the same time
        return self.time

    def millis(self) -> int:
        """The wall clock, in ms."""
        return int(self.time * 1000)

    async def people(self, *names: str) -> list[Person]:
        """New users at their clients."""
        found = []
        for name in names:
            person = Person(self, name, next(self.wires))
            await person.registers()
            found.append(person)
        return found

    async def live_people(self, *names: str) -> list[Person]:
        """New users who are to be online: not by HTTP, but in a browser."""
        found = []
        for name in names:
            wire = next(self.wires)
            person = Person(self, name, wire if wire.live else Browser)
            await person.registers()
            found.append(person)
        return found

    async def device(self, name: str, device: str, live: bool = False) -> Person:
        """Somebody who is there already, at another client."""
        wire = next(self.wires)
        person = Person(self, name, wire if wire.live or not live else Browser)
        await person.logs_in(device=device)
        return person

    async def friends(self, one: Person, other: Person) -> None:
        """The two become friends."""
        await one.does("befriend", user=other.name)
        await other.does("accept", user=one.name)

    async def gather(self, group: str, owner: Person, *members: Person, **rules: str) -> None:
        """The owner makes a group, and the members join, after one another."""
        await owner.does("create", name=group, **rules)
        for member in members:
            if rules.get("entry", "open") != "open":
                await owner.does("invite", group=group, user=member.name)
            await member.does("join", group=group)

    async def passes(self, seconds: int = 1) -> None:
        """So many seconds go by."""
        for _ in range(seconds):
            self.time += 1
            self.tick()
            await self.until_told()

    def later(self, seconds: int) -> None:
        """It is so many seconds later; nothing happened meanwhile."""
        self.time += seconds

    async def until_told(self) -> None:
        """What is on its way has arrived."""
        hub = self.node.hub
        await deferLater(reactor, 0)
        while self.node.presence.telling or any(s.loading or s.behind for s in hub.sessions):
            await deferLater(reactor, 0)
        hub.flush()


def _told_over(
    story: Callable[[Any], Coroutine[Any, Any, None]], cast: Cast
) -> Callable[[Any], Coroutine[Any, Any, None]]:
    @functools.wraps(story)
    async def told(case: StoryCase) -> None:
        case.wires = itertools.cycle(cast)
        await story(case)

    return told

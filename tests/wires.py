"""How people reach chatd in stories: a browser, a program's lines, telnet, a program by HTTP.

All four answer a request with the same dictionaries, as far as their wire says it.
"""

from __future__ import annotations

import json
from typing import Any, ClassVar, Protocol

from chatd.registry import COMMANDS
from tests.bed import Client, NodeCase
from tests.typed import Event, event, listed, pairs, unescaped, words

Reply = dict[str, Any]


class Wire(Protocol):
    """One client of one person's. `live`: events come by themselves; `terse`: an entry says
    less than it does in JSON."""

    live: ClassVar[bool]
    terse: ClassVar[bool]

    def __init__(self, case: NodeCase) -> None: ...

    async def ask(self, command: str, parameters: dict[str, Any]) -> Reply:
        """What a request is answered."""

    async def next(self) -> Event:
        """The next event. Raises `LookupError` where there is none, and none can come."""

    def take(self) -> list[Event]:
        """The events that came before what was answered last."""

    async def ends(self) -> None:
        """Waits until the server has ended the connection."""

    def leave(self) -> None:
        """The client goes away."""


class Live:
    """A connection on which events come between replies."""

    live: ClassVar[bool] = True
    terse: ClassVar[bool] = False

    def __init__(self, client: Client) -> None:
        self._connection = client
        self._events: list[Event] = []

    async def ends(self) -> None:
        """Waits until the server has ended the connection."""
        await self._connection.until(lambda: self._connection.closed or None)

    def leave(self) -> None:
        """The client goes away."""
        self._connection.vanish()

    def send(self, command: str, parameters: dict[str, Any]) -> None:
        """Sends a request."""
        raise NotImplementedError

    async def hear(self) -> dict[str, Any]:
        """The next reply or event."""
        raise NotImplementedError

    async def ask(self, command: str, parameters: dict[str, Any]) -> Reply:
        """What a request is answered; events before it are kept."""
        self.send(command, parameters)
        while "event" in (found := await self.hear()):
            self._events.append(found)
        return found

    async def next(self) -> Event:
        """The next event."""
        return self._events.pop(0) if self._events else await self.hear()

    def take(self) -> list[Event]:
        """The events that are kept."""
        events, self._events = self._events, []
        return events


class Browser(Live):
    """JSON over WebSocket."""

    def __init__(self, case: NodeCase) -> None:
        self._client = case.frames()
        super().__init__(self._client)

    async def hear(self) -> dict[str, Any]:
        """The next reply or event."""
        return await self._client.next()

    async def ends(self) -> None:
        """Answers the server's close frame, as browsers do."""
        while (found := await self._client.next_frame())[0] != 8:
            pass
        self._client.frame(found[1], opcode=8)
        await super().ends()

    def send(self, command: str, parameters: dict[str, Any]) -> None:
        """Sends a request."""
        self._client.frame(json.dumps({"cmd": command, "id": 1, **parameters}).encode())


class JsonLines(Live):
    """Lines of JSON over TCP."""

    def __init__(self, case: NodeCase) -> None:
        self._client = case.lines()
        super().__init__(self._client)
        self._client.line("/json on")

    def send(self, command: str, parameters: dict[str, Any]) -> None:
        """Sends a request."""
        self._client.line(json.dumps({"cmd": command, "id": 1, **parameters}))

    async def hear(self) -> dict[str, Any]:
        """The next reply or event."""
        while not (line := await self._client.next()).startswith("{"):
            assert line.startswith("+OK"), line  # to /json on
        found: dict[str, Any] = json.loads(line)
        return found


class Telnet(Live):
    """Lines that a person types, and reads."""

    terse: ClassVar[bool] = True

    def __init__(self, case: NodeCase) -> None:
        self._client = case.lines()
        super().__init__(self._client)
        self._command = ""

    def send(self, command: str, parameters: dict[str, Any]) -> None:
        """Types a request as its usage shows it."""
        self._command = command
        self._client.line(" ".join([f"/{command}", *words(COMMANDS[command], parameters)]))

    async def hear(self) -> dict[str, Any]:
        """The next reply or event."""
        elements = []
        while not (line := unescaped(await self._client.next())).startswith(("+OK", "-ERR", "* ")):
            elements.append(line.removeprefix("= "))
        if line.startswith("* "):
            return event(line[2:])
        if line.startswith("-ERR "):
            _, code, sentence = line.split(" ", 2)
            return {"ok": False, "error": code, "message": sentence}
        return {"ok": True, **pairs(line[3:]), **listed(self._command, elements)}


class Program:
    """A program that asks by HTTP, where there are no events: it looks what is new."""

    live: ClassVar[bool] = False
    terse: ClassVar[bool] = False

    def __init__(self, case: NodeCase) -> None:
        self._client = case.http()
        self._me = ""
        self._events: list[Event] = []
        self._since: dict[str, int] = {}  # by room: the last seq it had

    async def ask(self, command: str, parameters: dict[str, Any]) -> Reply:
        """What a request is answered."""
        reply = await self._client.ask(command, **parameters)
        if command in ("login", "register") and reply["ok"]:
            self._client.token, self._me = reply["token"], reply["user"]
            rooms = (await self._client.ask("rooms"))["rooms"]
            self._since = {room["address"]: room["delivered_seq"] for room in rooms}
        return reply

    async def next(self) -> Event:
        """The next entry of all rooms that was not there at the last look."""
        if not self._events:
            await self._look()
        if not self._events:
            raise LookupError("nothing is new")
        return self._events.pop(0)

    async def _look(self) -> None:
        rooms = (await self._client.ask("rooms"))["rooms"]
        for room in rooms:  # into a group one comes in its midst
            start = room["delivered_seq"] if room["kind"] == "group" else 0
            self._since.setdefault(room["address"], start)
        here = {room["address"] for room in rooms}
        more = bool(here)
        while more:
            since = {address: seq for address, seq in self._since.items() if address in here}
            news = await self._client.ask("sync", since=since)
            assert news["ok"], news
            self._since |= dict.fromkeys(news.get("reset", ()), 0)
            for entry in news["entries"]:
                self._since[room_of(entry, self._me)] = entry["seq"]
            self._events += news["entries"]
            more = news["more"] or bool(news.get("reset"))
        for address in here:
            await self._client.ask("delivered", to=address, seq=self._since[address])

    def take(self) -> list[Event]:
        """What is there of the last look."""
        events, self._events = self._events, []
        return events

    async def ends(self) -> None:
        """Nothing ends: whether one is still let in, the next request tells."""

    def leave(self) -> None:
        """Nothing ends: each request was a connection of its own."""


def room_of(event: Event, me: str) -> str:
    """The address of an event's room, as I know it."""
    mine = event["to"] == f"@{me}"
    return f"@{event['from']}" if mine else str(event["to"])

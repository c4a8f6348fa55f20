"""How people reach chatd in stories: a browser, a program's lines, telnet, a program by HTTP.

All four answer a request with the same dictionaries, as far as their wire says it.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from json import JSONDecoder
from typing import Any, ClassVar, Protocol

from chatd.registry import COMMANDS, Command
from tests.bed import Client, NodeCase

Event = dict[str, Any]
Reply = dict[str, Any]

_raw_decode = JSONDecoder().raw_decode


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

    live = True
    terse = False

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

    terse = True

    def __init__(self, case: NodeCase) -> None:
        self._client = case.lines()
        super().__init__(self._client)
        self._command = ""

    def send(self, command: str, parameters: dict[str, Any]) -> None:
        """Types a request as its usage shows it."""
        self._command = command
        self._client.line(" ".join([f"/{command}", *_words(COMMANDS[command], parameters)]))

    async def hear(self) -> dict[str, Any]:
        """The next reply or event."""
        elements = []
        while not (line := _unescaped(await self._client.next())).startswith(("+OK", "-ERR", "* ")):
            elements.append(line.removeprefix("= "))
        if line.startswith("* "):
            return _event(line[2:])
        if line.startswith("-ERR "):
            _, code, sentence = line.split(" ", 2)
            return {"ok": False, "error": code, "message": sentence}
        return {"ok": True, **_pairs(line[3:]), **_listed(self._command, elements)}


class Program:
    """A program that asks by HTTP, where there are no events: it looks what is new."""

    live = False
    terse = False

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


# -- what is typed


def _words(command: Command, parameters: dict[str, Any]) -> Iterator[str]:
    known = sorted(command.parameters, key=lambda p: (p.rest, not p.required))
    for parameter in known:
        if parameter.name in parameters:
            typed = _typed(parameters[parameter.name])
            if " " in typed and not parameter.rest:
                typed = json.dumps(typed, ensure_ascii=False)
            yield typed if parameter.required else f"{parameter.name}={typed}"


def _typed(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


# -- what is read


_LISTS = {
    "about": ("", ""),
    "bans": ("bans", "user"),
    "blocks": ("users", ""),
    "find": ("users", "user"),
    "friends": ("friends", "user"),
    "help": ("commands", "usage"),
    "history": ("entries", ""),
    "links": ("links", "id"),
    "members": ("members", "user"),
    "pins": ("pins", ""),
    "reactions": ("reactions", "emoji"),
    "receipts": ("receipts", "user"),
    "requests": ("requests", "user"),
    "rooms": ("rooms", "address"),
    "search": ("entries", ""),
    "sessions": ("sessions", "id"),
    "sync": ("entries", ""),
    "tokens": ("tokens", "id"),
    "versions": ("versions", "at"),
    "who": ("users", "user"),
}  # by command: what its list is called, and the first field of an element, "" if it has no fields
_ESCAPE = re.compile(r"\\(\\|n|r|x..|u....)")
_MARKED = re.compile(
    r"(?:(\[recalled\])|(\[edited\] )?(?:\[from (\S+)\] )?"
    r"(?:\[re (\d+) <(\S+)> (\[recalled\]|[^\]]*)\] )?(.*))\Z",
    re.DOTALL,
)


def _unescaped(line: str) -> str:
    return _ESCAPE.sub(_char, line)


def _char(match: re.Match[str]) -> str:
    shown = match[1]
    return {"\\": "\\", "n": "\n", "r": "\r"}.get(shown) or chr(int(shown[1:], 16))


def _listed(command: str, lines: list[str]) -> dict[str, Any]:
    name, first = _LISTS.get(command, ("", ""))
    return {name: [_element(first, line) for line in lines]} if name else {}


def _element(first: str, line: str) -> Any:
    if not first:
        return _event(line) if " " in line else line
    if first == "usage":
        usage, _, text = line.partition(" — ")
        return {"usage": usage, "help": text}
    line, _, last = line.partition(" — ")
    word, _, rest = line.partition(" ")
    found = {first: word, **_pairs(rest)}
    return {**found, "last": _event(last)} if last else found


def _event(line: str) -> Event:
    said = re.match(r"([@#]\S+) (\S+) <(\S+)> (.*)", line, re.DOTALL)
    if said is not None:
        seq = {} if said[2] == "-" else {"seq": int(said[2])}
        head = {"event": "message", "to": said[1], **seq, "from": said[3]}
        return {**head, **_message(said[4])}
    words = list(itertools.takewhile(lambda word: "=" not in word, line.split(" ")))
    event = {"event": words[0]}
    for word in words[1:]:
        event["to" if word[0] in "@#" else "from"] = word
    return {**event, **_pairs(line[len(" ".join(words)) :])}


def _message(text: str) -> Event:
    marked = _MARKED.match(text)
    assert marked is not None, text
    recalled, edited, forwarded, seq, quoted, words, said = marked.groups()
    found: Event = {"text": said or ""}
    if recalled:
        found["recalled"] = True
    if edited:
        found["edited"] = True
    if forwarded:
        found["forwarded"] = {"from": forwarded}
    if seq:
        gone = words == "[recalled]"
        what = {"recalled": True} if gone else {"text": words}
        found["quote"] = {"seq": int(seq), "from": quoted, **what}
    return found


def _pairs(text: str) -> dict[str, Any]:
    found = {}
    rest = text.strip()
    while rest:
        name, _, rest = rest.partition("=")
        if rest[:1] in ('"', "[", "{"):
            found[name], end = _raw_decode(rest)
            rest = rest[end:].lstrip()
        else:
            word, _, rest = rest.partition(" ")
            found[name] = word if name in ("id", "session", "token") else _value(word)
    return found


def _value(word: str) -> Any:
    if word in ("true", "false"):
        return word == "true"
    return int(word) if word.isdecimal() else word

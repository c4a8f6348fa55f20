"""What a person types at telnet, and how its answers read, as the dictionaries of JSON."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from json import JSONDecoder
from typing import Any

from chatd.registry import Command

Event = dict[str, Any]

_raw_decode = JSONDecoder().raw_decode


def words(command: Command, parameters: dict[str, Any]) -> Iterator[str]:
    """A request as its usage shows it: what is required by position, then options by name, and
    what takes the rest of the line."""
    known = sorted(command.parameters, key=lambda p: (p.rest, not p.required))
    for parameter in known:
        if parameter.name in parameters:
            typed = _typed(parameters[parameter.name])
            if " " in typed and not parameter.rest:
                typed = json.dumps(typed, ensure_ascii=False)
            yield typed if parameter.required else f"{parameter.name}={typed}"


def _typed(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


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


def unescaped(line: str) -> str:
    """The line without the escapes of what acts on a terminal."""
    return _ESCAPE.sub(_char, line)


def _char(match: re.Match[str]) -> str:
    shown = match[1]
    return {"\\": "\\", "n": "\n", "r": "\r"}.get(shown) or chr(int(shown[1:], 16))


def listed(command: str, lines: list[str]) -> dict[str, Any]:
    """The list of a result, from the lines before its +OK."""
    name, first = _LISTS.get(command, ("", ""))
    return {name: [_element(first, line) for line in lines]} if name else {}


def _element(first: str, line: str) -> Any:
    if not first:
        return event(line) if " " in line else line
    if first == "usage":
        usage, _, text = line.partition(" — ")
        return {"usage": usage, "help": text}
    line, _, last = line.partition(" — ")
    word, _, rest = line.partition(" ")
    found = {first: word, **pairs(rest)}
    return {**found, "last": event(last)} if last else found


def event(line: str) -> Event:
    """An event or entry, as far as a line says it."""
    said = re.match(r"([@#]\S+) (\S+) <(\S+)> (.*)", line, re.DOTALL)
    if said is not None:
        seq = {} if said[2] == "-" else {"seq": int(said[2])}
        head = {"event": "message", "to": said[1], **seq, "from": said[3]}
        return {**head, **_message(said[4])}
    parts = list(itertools.takewhile(lambda word: "=" not in word, line.split(" ")))
    found: Event = {"event": parts[0]}
    for word in parts[1:]:
        found["to" if word[0] in "@#" else "from"] = word
    return {**found, **pairs(line[len(" ".join(parts)) :])}


def _message(text: str) -> Event:
    marked = _MARKED.match(text)
    assert marked is not None, text
    recalled, edited, forwarded, seq, quoted, quote, said = marked.groups()
    found: Event = {"text": said or ""}
    if recalled:
        found["recalled"] = True
    if edited:
        found["edited"] = True
    if forwarded:
        found["forwarded"] = {"from": forwarded}
    if seq:
        gone = quote == "[recalled]"
        what = {"recalled": True} if gone else {"text": quote}
        found["quote"] = {"seq": int(seq), "from": quoted, **what}
    return found


def pairs(text: str) -> dict[str, Any]:
    """The fields of a reply, an element or an event."""
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

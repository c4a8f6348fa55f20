"""The format for people at telnet and for programs that can write a line.

    /say #team key=0d9f hello there     a command
    hello again                         said to the room last joined or talked to
    +OK seq=42 at=1763622149123         a reply, before it a line `= …` for each of a list
    -ERR not-a-member You are not in #team.
    * #team 42 <alice> hi               an event

A reply or event is one line each, whatever is in it: see `visible`.
"""

from __future__ import annotations

import re
from json import JSONDecoder
from typing import Any

import msgspec

from chatd.dispatcher import Malformed
from chatd.errors import Refused
from chatd.registry import COMMANDS, Command
from chatd.wire import json

# Controls (C0 but tab, DEL, C1), the backslash that shows them, line and paragraph
# separators, and the marks that reorder what stands around them (bidi: UAX #9).
_HIDDEN = re.compile(
    "[\x00-\x08\x0a-\x1f\x7f-\x9f\\\\\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]"
)
_raw_decode = JSONDecoder().raw_decode
_SHORT = {"\n": "\\n", "\r": "\\r", "\\": "\\\\"}


def visible(text: str) -> str:
    """The text on one line, without anything that acts on a terminal: newline is shown as
    \\\\n, backslash doubled, other controls as \\\\xNN or \\\\uNNNN."""
    return _HIDDEN.sub(_show, text)


def _show(match: re.Match[str]) -> str:
    char = match.group()
    code = ord(char)
    return _SHORT.get(char) or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")


class TextWire:
    """Encodes replies and events as lines."""

    def reply(self, request_id: Any, result: Any) -> bytes:
        """A line `= …` for each element of a list, then `+OK` with the other fields."""
        fields = msgspec.to_builtins(result)
        lists = [name for name, value in fields.items() if isinstance(value, list)]
        lines = ["= " + _element(value) for name in lists for value in fields.pop(name)]
        lines.append("+OK" + _pairs(fields))
        return _lines(lines)

    def error(self, request_id: Any, error: Refused) -> bytes:
        """`-ERR code sentence`."""
        again = "" if error.retry_after is None else f" retry_after={error.retry_after:g}"
        return _lines([f"-ERR {error.code} {visible(error.sentence)}{again}"])

    def event(self, event: dict[str, Any]) -> bytes:
        """`* …`, one line."""
        return _lines(["* " + _event(event)])


def _lines(lines: list[str]) -> bytes:
    return "".join(line + "\r\n" for line in lines).encode(errors="replace")


def _event(event: dict[str, Any]) -> str:
    if event["event"] == "message":
        text = _marks(event) + visible(event["text"])
        return f"{event['to']} {event.get('seq', '-')} <{event['from']}> {text}"
    known = ("event", "to", "from", "at")
    words = [event[name] for name in known[:3] if name in event]
    return " ".join(words) + _pairs({k: v for k, v in event.items() if k not in known})


def _marks(event: dict[str, Any]) -> str:
    """What a message is besides its text: `[recalled]`, `[re 41 <bob> What he said] `."""
    if "recalled" in event:
        return "[recalled]"
    marks = ["[edited] "] if "edited" in event else []
    if "forwarded" in event:
        marks.append(f"[from {event['forwarded']['from']}] ")
    if "quote" in event:
        quote = event["quote"]
        text = "[recalled]" if "recalled" in quote else visible(quote["text"])
        marks.append(f"[re {quote['seq']} <{quote['from']}> {text}] ")
    return "".join(marks)


def _element(value: Any) -> str:
    if not isinstance(value, dict):
        return _word(value)
    if "event" in value:
        return _event(value)
    if "usage" in value:
        return f"{value['usage']} — {visible(value['help'])}"
    last = value.pop("last", None)
    name, first = next(iter(value.items()))
    del value[name]
    return _word(first) + _pairs(value) + (f" — {_event(last)}" if last else "")


def _pairs(fields: dict[str, Any]) -> str:
    return "".join(f" {name}={_word(value)}" for name, value in fields.items() if value is not None)


def _word(value: Any) -> str:
    if isinstance(value, str) and value and " " not in value and '"' not in value:
        return visible(value)
    return visible(msgspec.json.encode(value).decode())


def decode(line: str) -> Any:
    """The request that a line stands for, or `Malformed`. What has no slash is said to the
    room that the session last joined or talked to: a `say` to nowhere."""
    if line.startswith("{"):
        return json.decode(line)
    if line.startswith("/") and not line.startswith("//"):
        name, _, rest = line[1:].partition(" ")
        return _command(name, rest)
    text = line.removeprefix("/")
    said = _convert(COMMANDS["say"], {"to": "@-", "text": text})
    return said if isinstance(said, Malformed) else msgspec.structs.replace(said, to="")


def _command(name: str, rest: str) -> Any:
    command = COMMANDS.get(name)
    if command is None:
        return Malformed(None, json.unknown_command(name))
    try:
        return _convert(command, _arguments(command, rest))
    except Refused as refused:
        return Malformed(None, refused)


def _arguments(command: Command, rest: str) -> dict[str, Any]:
    """Parameters by position, any of them also as NAME=VALUE or NAME="A VALUE"; one that is
    `rest` takes the rest of the line."""
    free = {parameter.name: parameter for parameter in command.parameters}
    found: dict[str, Any] = {}
    rest = rest.lstrip(" ")
    while rest:
        word, _, after = rest.partition(" ")
        name, equals, value = word.partition("=")
        named = bool(equals) and name in free
        if not named:
            if not free:
                raise Refused(
                    "bad-request",
                    "{word} is too much. Usage: {usage}",
                    word=json.shown(word),
                    usage=command.usage(),
                )
            name, value = next(iter(free)), word
        parameter = free.pop(name)
        if parameter.rest or parameter.object:
            value, after = rest[len(word) - len(value) :], ""
        if parameter.object:
            value, after = _first_value(value)
        elif named and value.startswith('"') and not parameter.rest:
            value, after = _quoted(rest[len(name) + 1 :]) or (value, after)
        found[name] = _object(value) if parameter.object else value
        rest = after.lstrip(" ")
    return found


def _first_value(text: str) -> tuple[str, str]:
    """A JSON value and what stands behind it; all of it where it is none."""
    try:
        _, end = _raw_decode(text)
    except (ValueError, RecursionError):
        return text, ""
    return text[:end], text[end:]


def _quoted(text: str) -> tuple[str, str] | None:
    """A JSON string and what stands behind it; None where it is none, but a value with a `"`."""
    try:
        value, end = _raw_decode(text)
    except ValueError:
        return None
    return (value, text[end:]) if text[end : end + 1] in ("", " ") else None


def _object(value: str) -> Any:
    try:
        return msgspec.json.decode(value)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise json.bad_request(error) from error


def _convert(command: Command, arguments: dict[str, Any]) -> Any:
    try:
        return msgspec.convert(arguments, command.request, strict=False)
    except msgspec.ValidationError as error:
        return Malformed(None, json.bad_request(error, command.name))

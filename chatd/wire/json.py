"""The JSON format: one object per frame or line, checked against the commands' signatures
while it is decoded."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from typing import Any, Union

import msgspec
from msgspec import Struct

import chatd.commands  # noqa: F401  (fills the table of commands)
from chatd.dispatcher import Malformed
from chatd.errors import Refused
from chatd.registry import BY_REQUEST, COMMANDS, RequestId
from chatd.wire.mistakes import mismatch, not_json

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Union[tuple(BY_REQUEST)]).decode  # noqa: UP007


class _Envelope(Struct):
    """As much as is needed to say what is wrong with a request, and to whom."""

    cmd: Any = None
    id: Any = None


_decode_envelope = msgspec.json.Decoder(_Envelope).decode


class JsonWire:
    """Encodes replies and events; `frame(payload)` adds what the transport needs around a
    payload, such as a line's end."""

    def __init__(self, frame: Callable[[bytes], bytes]) -> None:
        self._frame = frame

    def reply(self, request_id: Any, result: Any) -> bytes:
        """{"reply": id, "ok": true, …}; nothing without an id."""
        if request_id is None:
            return b""
        fields = _encode(result)
        head = b'{"reply":' + _encode(request_id) + b',"ok":true'
        return self._frame(head + (b"," + fields[1:] if len(fields) > 2 else b"}"))

    def error(self, request_id: Any, error: Refused) -> bytes:
        """{"reply": id, "ok": false, "error": code, "message": sentence}."""
        fields: dict[str, Any] = {
            "reply": request_id,
            "ok": False,
            "error": error.code,
            "message": error.sentence,
        }
        if error.retry_after is not None:
            fields["retry_after"] = error.retry_after
        return self._frame(_encode(fields))

    def event(self, event: dict[str, Any]) -> bytes:
        """{"event": kind, …}."""
        return self._frame(_encode(event))


def decode(data: bytes | str) -> Any:
    """The request in `data`: an instance of some command's request struct, or `Malformed`."""
    try:
        return _decode(data)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        return _malformed(data, error)


def _malformed(data: bytes | str, error: Exception) -> Malformed:
    try:
        envelope = _decode_envelope(data)
        request_id = msgspec.convert(envelope.id, RequestId)
    except (msgspec.MsgspecError, RecursionError, UnicodeError):
        return Malformed(None, bad_request(error))
    if envelope.cmd is None:
        sentence = 'A request is an object such as {"cmd": "ping", "id": 1}; "cmd" is missing.'
        return Malformed(request_id, Refused("bad-request", sentence))
    if not isinstance(envelope.cmd, str):
        return Malformed(request_id, Refused("bad-request", '"cmd" is a string.'))
    if envelope.cmd not in COMMANDS:
        return Malformed(request_id, unknown_command(envelope.cmd))
    return Malformed(request_id, bad_request(error, envelope.cmd))


def unknown_command(name: str) -> Refused:
    """The refusal of a command that is not in the table."""
    near = get_close_matches(name[:64], COMMANDS, n=1)
    if near:
        sentence = "There is no command {name}. Did you mean {near}?"
        return Refused("unknown-command", sentence, name=shown(name), near=near[0])
    sentence = "There is no command {name}. help lists the commands."
    return Refused("unknown-command", sentence, name=shown(name))


def shown(text: str) -> str:
    """What a client sent, short and without control characters, to be quoted to it."""
    return repr(text if len(text) <= 40 else text[:40] + "…")


def bad_request(error: Exception, command: str = "") -> Refused:
    """The refusal of a request that does not fit its command; says what was expected."""
    if isinstance(error, msgspec.ValidationError):
        what = mismatch(str(error))
        if not command:
            return Refused("bad-request", "{what}.", what=what)
        usage = COMMANDS[command].usage()
        return Refused("bad-request", "{what}. Usage: {usage}", what=what, usage=usage)
    if isinstance(error, RecursionError):
        return Refused("bad-request", "The JSON is nested too deeply.")
    return Refused("bad-request", "This is not JSON: {reason}.", reason=not_json(error))

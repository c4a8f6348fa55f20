"""What a command answers when it refuses: a stable code and a sentence for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, TypeAlias, get_args

# A sentence, or a part of one, as it stands in the code: in English, with {fields}. Annotated
# so, or given to `Refused`, `Unavailable`, `Phrase` or a link's `close`, it has a translation.
Template: TypeAlias = str

Code = Literal[
    "bad-request",
    "unknown-command",
    "unauthorized",
    "forbidden",
    "not-found",
    "exists",
    "not-a-member",
    "muted",
    "blocked",
    "conflict",
    "too-large",
    "rate-limited",
    "unavailable",
    "internal",
]

MEANINGS: Final[dict[Code, str]] = {
    "bad-request": "The request is malformed; the sentence says what was expected.",
    "unknown-command": "There is no such command; `help` lists them.",
    "unauthorized": "Log in first, or the name, password, token or key is wrong.",
    "forbidden": "You are known, but may not do this.",
    "not-found": "There is no such user, group or message.",
    "exists": "The name is taken.",
    "not-a-member": "You are not in the group.",
    "muted": "You may not write here for now.",
    "blocked": "The other person does not take messages from you.",
    "conflict": "The key was used for something else, or the state has changed meanwhile.",
    "too-large": "A limit on size was passed; the sentence names it.",
    "rate-limited": "Too many requests; come back after `retry_after` seconds.",
    "unavailable": "The server cannot do this now; come back after `retry_after` seconds.",
    "internal": "A fault of the server; it is in its log.",
}
assert set(MEANINGS) == set(get_args(Code))


class Refused(Exception):
    """A command was refused.

    `code` is stable and for programs, `retry_after` (seconds) is there where trying again can
    help. What people read is `template`, in English or another language, with `fields` filled in
    as `str.format` does; a template without fields is taken as it is.
    """

    def __init__(
        self, code: Code, template: Template, retry_after: float | None = None, **fields: object
    ) -> None:
        super().__init__(code, template)
        self.code = code
        self.template = template
        self.fields = fields
        self.retry_after = retry_after

    def __str__(self) -> str:
        return f"{self.code}: {self.sentence}"

    @property
    def sentence(self) -> str:
        """What people read, in English."""
        return filled(self.template, self.fields)


class Phrase:
    """A part of a sentence that is translated by itself: the value of a field. `str` gives it
    in English."""

    __slots__ = ("fields", "template")

    def __init__(self, template: Template, **fields: object) -> None:
        self.template = template
        self.fields = fields

    def __str__(self) -> str:
        return filled(self.template, self.fields)


def filled(template: Template, fields: Mapping[str, object]) -> str:
    """A template with its fields."""
    return template.format_map(fields) if fields else template


AWAY: Template = "The database cannot be used now. Try again, with the same key."


class Unavailable(Refused):
    """The database cannot be used now."""

    def __init__(self, template: Template, retry_after: float = 1.0) -> None:
        super().__init__("unavailable", template, retry_after)


# WebSocket close codes (RFC 6455 §7.4 and its registry; 4000-4099: come back, 4100-4199: do not).
NORMAL: Final = 1000
TOO_MANY_FRAMES: Final = 1008
SERVICE_RESTART: Final = 1012
TRY_AGAIN_LATER: Final = 1013
SLOW_DOWN: Final = 4000
LOGGED_OUT: Final = 4100
LOGIN_TIMEOUT: Final = 4101
REPLACED: Final = 4102

CLOSE_CODES: Final[dict[int, Template]] = {
    NORMAL: "Goodbye, as asked.",
    1002: "The WebSocket framing was broken.",
    1007: "A text was not UTF-8, or a compressed message was broken.",
    TOO_MANY_FRAMES: "More control frames and fragments a second than a client may send.",
    1009: "A frame or message was over the size limit.",
    SERVICE_RESTART: "The server stops or restarts; come back.",
    TRY_AGAIN_LATER: "The server cannot serve this session now; come back.",
    SLOW_DOWN: "Too many requests were refused; slow down.",
    LOGGED_OUT: "The token of this session was revoked or has expired; log in again.",
    LOGIN_TIMEOUT: "Nobody logged in in time.",
    REPLACED: "You logged in on another device of this kind; the token is still good.",
}

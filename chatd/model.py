"""Values that every part shares: names, addresses, rooms, entries, results."""

from __future__ import annotations

import re
import unicodedata
from itertools import takewhile
from typing import Annotated, Any, Final, Literal, get_args

from msgspec import Meta, Struct

from chatd.errors import Refused

# C0 and C1 controls and DEL but for tab, LF and CR: nothing of them is text, and ESC, NUL
# or CSI would act on somebody's terminal.
TEXT_PATTERN = r"^[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]*\Z"
LINE_PATTERN = r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]*\Z"

Seq = Annotated[int, Meta(ge=0, le=2**63 - 1, description="number of an entry in its room")]
Millis = Annotated[int, Meta(ge=0, le=2**53, description="milliseconds since 1970 UTC")]
Address = Annotated[
    str,
    Meta(pattern=r"^[@#][^\x00-\x20\x7f-\x9f]+\Z", max_length=65, description="@user or #group"),
]
Name = Annotated[str, Meta(min_length=1, max_length=64, description="1-32 letters, digits, _ - .")]
Group = Annotated[str, Meta(min_length=1, max_length=65, description="#group, or its bare name")]
Username = Annotated[str, Meta(min_length=1, max_length=65, description="@user, or the bare name")]
# `rest`: where a person types it last, it takes the rest of the line.
Text = Annotated[
    str,
    Meta(min_length=1, pattern=TEXT_PATTERN, description="the text", extra={"rest": True}),
]
Title = Annotated[
    str,
    Meta(max_length=128, pattern=LINE_PATTERN, description="one line", extra={"rest": True}),
]
Description = Annotated[
    str,
    Meta(max_length=1024, pattern=TEXT_PATTERN, description="what it is for", extra={"rest": True}),
]
Display = Annotated[
    str, Meta(max_length=64, pattern=LINE_PATTERN, description="the name that people see")
]
LanguageName = Annotated[
    str,
    Meta(max_length=64, pattern=LINE_PATTERN, description="of what the server tells: en, zh-CN …"),
]
Password = Annotated[str, Meta(min_length=1, max_length=256, description="the password")]
Secret = Annotated[str, Meta(min_length=1, max_length=4096, description="the token")]
Key = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=64,
        pattern=LINE_PATTERN,
        description="the sender's idempotency key: a repeat gets the first answer",
    ),
]
Role = Literal["owner", "admin", "member"]
Kind = Literal["direct", "group", "inbox"]
EntryRule = Literal["open", "approval", "invited"]
HistoryRule = Literal["all", "joined"]
Posting = Literal["members", "admins"]

_NAME_PUNCTUATION = frozenset("_-.")
_NAME_MARKS = frozenset(("Mn", "Mc"))  # the vowel signs of many scripts are marks
_NAME_CHARS = 32
# What Unicode says may be ignored when text is shown (Default_Ignorable_Code_Point), among
# letters and marks: two names that differ in these look the same.
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef"
    # and what is shown as a blank: a filler of Khitan, blanks between hieroglyphs.
    "\U00016fe4\U00013441\U00013442]"
)
_MARKS_ON_ONE = 4  # UTS #39 §5.4: no script needs more


def _allowed(char: str) -> bool:
    return char.isalnum() or char in _NAME_PUNCTUATION or unicodedata.category(char) in _NAME_MARKS


def normalise(name: str) -> str:
    """The name as it is kept and shown: NFKC. Raises `Refused` if it cannot be a name."""
    shown = unicodedata.normalize("NFKC", name)
    legible = all(map(_allowed, shown)) and not _INVISIBLE.search(shown)
    if not 1 <= len(shown) <= _NAME_CHARS or not legible:
        raise Refused(
            "bad-request", "A name is 1 to 32 letters, digits, '_', '-' or '.', of any script."
        )
    if unicodedata.category(shown[0]) in _NAME_MARKS:
        raise Refused("bad-request", "A name begins with a letter, a digit, '_', '-' or '.'.")
    if _piled(shown):
        raise Refused("bad-request", "A name has at most 4 marks on one letter, all different.")
    return shown


def _piled(name: str) -> bool:
    """Whether marks stand on each other as in no script."""
    marks = ""
    for char in unicodedata.normalize("NFD", name):
        if unicodedata.category(char) != "Mn":
            marks = ""
            continue
        if len(marks) == _MARKS_ON_ONE or marks[-1:] == char:
            return True
        marks += char
    return False


def fold(name: str) -> str:
    """The form of a normalised name under which it is unique, without regard to case."""
    return unicodedata.normalize("NFKC", name.casefold())


def group_name(group: str) -> str:
    """The normalised name in `#group` or `group`."""
    return normalise(group.removeprefix("#"))


def user_name(user: str) -> str:
    """The normalised name in `@user` or `user`."""
    return normalise(user.removeprefix("@"))


def name_run(text: str) -> str:
    """The beginning of a text that could be a name, or begin with one, as names are kept."""
    shown = unicodedata.normalize("NFKC", text)[:_NAME_CHARS]
    return "".join(takewhile(_allowed, shown))


class Party(Struct, frozen=True):
    """A user, as a room or an entry names it."""

    id: int
    name: str


class Room(Struct, frozen=True):
    """A conversation: direct (`low` and `high` are the two users, smaller id first), a
    group (`name`), or an inbox (`low` and `high` are its user)."""

    id: int
    kind: Kind
    name: str = ""
    title: str = ""
    low: Party | None = None
    high: Party | None = None

    def other(self, user_id: int) -> Party:
        """The other one of a direct room's two."""
        assert self.low is not None and self.high is not None
        return self.high if user_id == self.low.id else self.low

    def address_from(self, sender_id: int) -> str:
        """Where an entry by `sender_id` goes, in absolute terms: `#group` or `@other`."""
        if self.low is None or self.high is None:
            return f"#{self.name}"
        return f"@{self.other(sender_id).name}"


class Entry(Struct, frozen=True):
    """One numbered element of a room's log. `body` holds what its kind adds, such as
    `text`."""

    room_id: int
    seq: int
    kind: str
    to: str
    sender: Party
    at: int
    body: dict[str, Any]

    def event(self) -> dict[str, Any]:
        """The event that tells of the entry, as PROTOCOL's JSON has it."""
        return {
            "event": self.kind,
            "to": self.to,
            "seq": self.seq,
            "from": self.sender.name,
            "at": self.at,
            **self.body,
        }


class Standing(Struct, frozen=True):
    """What a member of a group may do there; muted until a time in ms, 0 if not."""

    role: Role
    muted_until: int = 0


UNMUTED: Final[dict[Role, Standing]] = {role: Standing(role) for role in get_args(Role)}


class Rules(Struct, frozen=True):
    """Who may write in a group: its members or its admins; until a time in ms only admins."""

    posting: Posting = "members"
    muted_until: int = 0


class Membership(Struct, frozen=True):
    """A user's place in a group."""

    room: Room
    standing: Standing
    rules: Rules = Rules()

"""Writes docs/protocol.md from the code: ``python -m tools.protocol > docs/protocol.md``."""

import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from chatd.commands import (
    accounts,
    basics,
    edits,
    friends,
    groups,
    invitations,
    membership,
    pins,
    places,
    presence,
    profile,
    reactions,
    rooms,
    search,
    sessions,
)
from chatd.dispatcher import _MISTAKES
from chatd.errors import CLOSE_CODES, MEANINGS, Refused, Unavailable
from chatd.frontends.channel import _IDLE, PLAIN
from chatd.frontends.http import _STATUS
from chatd.frontends.tcp import TEXT
from chatd.mentions import MOST
from chatd.model import LINE_PATTERN, TEXT_PATTERN, Address, Entry, Party, Room
from chatd.registry import COMMANDS, Command, Parameter
from chatd.settings import settings
from chatd.store.accounts import Token
from chatd.store.invitations import Link, Request
from chatd.store.log import Stored
from chatd.store.membership import Ban
from chatd.store.messages import VERSIONS, Version
from chatd.store.overview import Totals
from chatd.store.places import Receipt
from chatd.store.profiles import Card
from chatd.store.reactions import FIRST, KINDS, Reaction
from chatd.wire import json, text

DOCUMENT = """\
# chatd: wire protocol, version 1

Made by `make docs` from the code. Do not edit.

One vocabulary, three wires: JSON over WebSocket, lines over TCP, JSON over HTTP. They share the
[commands](#commands), the [events](#events), the [errors](#errors) and the [limits](#limits).

## Addresses and names

`@alice` is a user. As a target it is the direct room with alice; your own name is your inbox.
`#team` is a group. A name is 1 to 32 letters, digits, `_`, `-` or `.` of any script (`@刘备`),
normalised by NFKC and unique without regard to case. A time is in milliseconds since 1970 UTC.
A conversation is a log: its entries have the numbers (`seq`) 1, 2, 3 … without a gap.

## JSON over WebSocket

`ws://HOST:PORT/ws`, one JSON object per text frame. There is no subprotocol, and compression
(permessage-deflate, each message for itself) where `listen.deflate` says so. A browser's page must
come from the same host and port, or from an origin in `listen.origins`.

    request  {{"cmd": COMMAND, "id": ID, parameters}}
    reply    {{"reply": ID, "ok": true, fields of the result}}
             {{"reply": ID, "ok": false, "error": CODE, "message": SENTENCE}}
    event    {{"event": KIND, fields}}

- `id` is a string or a 64-bit integer. Without one (or with null) there is no reply, but an error
  is told with `"reply": null`. A field that the command does not know is an error.
- A session's requests are answered in their order. `limits.requests_under_way` may be open; then
  the server stops reading until some are answered.
- The server pings after `heartbeat.interval` seconds of silence and drops the connection after
  `heartbeat.timeout` more. Whoever has not logged in after `limits.login_seconds` is closed.
- Bad input is answered. It closes the connection only if it breaks the framing or a limit, or is
  repeated: after `limits.mistakes_per_minute` mistakes the session is closed with 4000. Mistakes
  are {mistakes}. Control frames and fragments have a limit of their own,
  `limits.frames_per_second`.

{closing}

4000 to 4099, 1012 and 1013 mean: come back, after `retry_after` where it was told. 4100 to 4199
mean: do not come back in the same way.

## Lines over TCP

UTF-8 lines that end in LF or CRLF. For a person at telnet and for a program that writes a line.

    /say #team key=0d9f hello    parameters by position, any also as NAME=VALUE
    hello again                  said to the room last joined or talked to; //x says /x
    {{"cmd": "ping", "id": 7}}     a JSON request; its reply is JSON, on one line
    /json on                     from here events are JSON; /json off ends it
    /quit                        answers what was asked, then closes

    = …                          an element of a list in the result, before its +OK
    +OK seq=42 at=1795166587483  the end of a reply
    -ERR not-found There is …    a refusal; retry_after=SECONDS at its end where it helps
    * …                          an event

- In a command's usage, `[name=…]` may be left out; of `a|b` one is meant. A text, a title and an
  object take the rest of the line, so named parameters stand before them.
- A reply or event is one line per element, always. A value with a space or `"`, and an empty one,
  is written as JSON. A message's line has no `at`, `kind`, `data` or `reactions`; in JSON it has.
  Before its text stands what else it is: `[recalled]`, `[edited]`, `[from carol]` (forwarded),
  `[re 41 <bob> What he said]`. Anybody may type such marks; only JSON cannot be mistaken.
- The value of a named parameter may stand in quotes, as JSON writes it: `display="Ann Lee"`.
- An object or an array is typed as JSON, and what follows it goes on:
  `/say #team kind=location data={{"lat":30.66,"lon":104.06}} I am here`.
- Nothing that acts on a terminal leaves as it is: control characters but tab, marks that
  reorder text and the backslash are shown as escapes (`\\xNN`, `\\uNNNN`):

{hidden}

- A line over `limits.line_bytes` is refused and the connection closed. An empty line is nothing.
  Telnet's own commands are taken out. There are no pings: the kernel's keep-alive finds the dead.

## JSON over HTTP

`POST /api/v1/COMMAND` with the parameters as a JSON object; an empty body is an empty object.
`Authorization: Bearer SECRET` takes a user's token, or an API key. The answer's body is the result
without `reply` and `ok`. A refusal has the status below and the body `{{"reply": null, "ok": false,
"error": CODE, "message": SENTENCE}}`, with `Retry-After` where it helps. A session is one request:
events are read with `sync` or `history`, and `replay` and `ack` mean nothing. With an API key you
are nobody yet: `login` with `api_key` (scope `login-as`) and `name` gives a user's token.
A request that is not there within `limits.body_seconds` (the head of a connection's first one:
`limits.handshake_seconds`) is answered 408, a head over `limits.header_bytes` 431, and a connection
beyond `limits.connections` or `limits.address_connections` 503 before it has asked. A connection
waits {idle:g} seconds for its next request.

`GET /healthz` answers 200 while the process lives. `GET /readyz` asks the database, and answers
503 when it does not answer or the daemon is stopping.

## Delivery

- The reply to `say` comes when the message is committed. A repeat with the same `key` gets the
  first one's `seq`; the same key for another address is a `conflict`.
- `login` with `replay` (the default) gives, room by room and in order, every entry after the
  user's `delivered` cursor, then live events, with no gap and no repeat between them. With
  `replay=false` there are live events alone: call `sync` for the rest.
- The session that caused an entry gets the reply, not the event. The user's other sessions get it.
- The cursor moves when the client says `delivered` or `read`. Unless it logged in with `ack` or
  without `replay` it moves by proof as well: an answer to a ping sent afterwards, for which a
  request, and every other second with news, is an occasion; a WebSocket's close frame; and, for
  lines and for clients that go on asking but answer no ping, that the peer's kernel has
  acknowledged every byte. Through a proxy the last is no proof: use `ack` there.
- What was not proved is delivered again at the next login. Drop what you have by (`to`, `seq`).
- Whoever reads slowly loses nothing: past `limits.outbound_bytes` live events stop, and the log
  feeds the session at its own pace until it has caught up.
- `sync` gives at most {sync} entries of a room, and begins no further room once it has
  {sync_in_all}. While `more` is true, ask again from where they end.

## Presence

- Somebody is `online`, `away` (all their clients say so) or `offline`, with the time when they were
  last seen. Whoever is `invisible` is shown as offline, last seen when they became so.
- A session is told of changes, once a second at most, of the user's friends and of the people in
  the room that it has open (`watch`). `who` tells how they are now, of friends, of people in common
  groups and of those with whom there is a direct room, unless they blocked you; `unknown` are all
  others, whether they exist or not. Whom you blocked gets no receipts of yours either.
- Whoever comes back within `presence.linger_seconds` was never offline.
- A client that reads slowly goes without. After it has caught up, ask `who` again.

## Messages

- `kind` says what `data` is: a `text` has none; a `location` has `lat`, `lon` (degrees) and
  perhaps `name`; a `file` has `file` (its id) and perhaps `name`, `size`, `type`; an `image` has
  `width` and `height` besides. Any other word is yours, with an object of up to
  `limits.data_bytes`, nested up to 32 deep. There is always a `text`: it is what a client shows
  that does not know the kind.
- A text stands in its own entry alone. Quotes and `edited` entries show the present one, each
  time they are read, and nothing of what was recalled. Who replies to or edits a message shows it
  to all who get that, newcomers too.
- `edit` is for the sender, for `messages.edit_seconds`. {versions} earlier versions are kept, for
  all who may read the message. Whom it mentioned stays.
- `recall` is for the sender, for `messages.recall_seconds`, and in a group at any time for those
  above the sender (the owner above admins, admins above members and who has left) and admins
  themselves. The message is shown as `recalled` with an empty text; its text, versions,
  reactions, mentions and pin are deleted. What is done to a recalled message is a `conflict`.
- `edit`, `react`, `pin`, `unpin` and `hide` of what is so already answer `unchanged`, and nobody
  is told. Who may not write in a room may not edit, react or pin there.
- A message shows its `reactions`: of each emoji how many, and the first {first} `users`;
  `reactions` lists all. It takes {kinds} different ones.
- In a group, `@name` in a text mentions a member, and `mentions` those it names, up to
  {mentions}. The longest name counts; in scripts without spaces it may be followed by more
  (`@刘备明天`). `@all` by an admin mentions everybody (`"mentions":["all"]`), once in
  `messages.call_all_seconds` (else `rate-limited`); by others it is a text.
- With `store=false` a message goes to those who are online and keep up, is not kept, and has no
  `seq`, `key` or mentions.

## Commands

{commands}

## Events

`to` is absolute, so one event suits all who get it: in a direct room the other party is `from` or
`to`, whichever you are not. An event with a `seq` is an entry of a log; `history`, `sync` and
`rooms` give entries in the same form. More kinds and fields may come; ignore what you do not know.

{events}

The same as lines:

{event_lines}

## Errors

More codes may come. A `retry_after` is in seconds. The sentence is for people, in English or
Chinese (`en`, `zh`): as the connection chose (`language`, or the parameter of `login` and
`register`), else as the user set, else as `Accept-Language` asks in the request or handshake.
The code is the same in every language.

{errors}

On the wires:

{refusals}

## Limits

The operator sets them; these are the defaults.

{limits}

A request costs 1, and takes it from what its session, its user and its address may ask for in a
second. With nothing left it is not run, but refused as `rate-limited`, with the seconds to wait in
`retry_after`. These cost more:

{costs}
"""

ID, AT, EXPIRES, SESSION = 7, 1795166587483, 1797758582887, "46882314ff91bb3c"
ALICE, LIU_BEI = Party(1, "alice"), Party(2, "刘备")
TEAM = Room(1, "group", "team", "Weekend plans")
PAIR = Room(2, "direct", low=ALICE, high=LIU_BEI)
INBOX = Room(3, "inbox", low=ALICE, high=ALICE)


def entry(room: Room, seq: int, name: str, sender: Party, /, **body: Any) -> dict[str, Any]:
    """The event that tells of an entry."""
    return Entry(room.id, seq, name, room.address_from(sender.id), sender, AT, body).event()


def inbox(seq: int, name: str, **body: Any) -> dict[str, Any]:
    """The event that tells of an entry in alice's inbox."""
    return entry(INBOX, seq, name, ALICE, **body)


SAID = entry(TEAM, 42, "message", ALICE, text="hello there")
NOTE = entry(PAIR, 3, "message", LIU_BEI, text="你好\nalice", kind="note", reply_to=2)
REPLY = entry(
    TEAM,
    43,
    "message",
    LIU_BEI,
    text="hello",
    reply_to=42,
    quote={"seq": 42, "from": "alice", "text": "hello there"},
)
FULL = entry(
    TEAM,
    41,
    "message",
    ALICE,
    text="here, @刘备",
    kind="location",
    data={"lat": 30.66, "lon": 104.06},
    mentions=["刘备"],
    forwarded={"from": "carol"},
    edited=AT + 9000,
    reactions=[{"emoji": "👍", "count": 1, "users": ["刘备"]}],
)
ERASED = entry(TEAM, 40, "message", ALICE, text="", recalled=True)
SHED = {"event": "message", "to": "#team", "from": "alice", "at": AT, "text": "hi", "store": False}
DELIVERED, READ = (
    {"event": name, "to": "@alice", "from": "刘备", "upto": 42, "at": AT}
    for name in ("delivered", "read")
)
TYPING = {"event": "typing", "to": "#team", "from": "alice"}
PRESENT = {"event": "presence", "from": "alice", "state": "away", "at": AT}
GONE = {"event": "presence", "from": "刘备", "state": "offline", "at": AT, "seen": AT - 10_000}
GOING = {"event": "going-away", "retry_after": 3.18}
CLOSING = {"event": "closing", "code": 4101, "reason": CLOSE_CODES[4101]}
EVENTS: Sequence[tuple[dict[str, Any], str]] = (
    (SAID, "Somebody said something in a group."),
    (NOTE, "The same in a direct room, with a `kind` and a `reply_to` given to `say`."),
    (REPLY, "A reply, with the `quote` of what it replies to, as that reads now."),
    (FULL, "What was edited (since when), reacted to, forwarded; whom it mentions; its `data`."),
    (ERASED, "What was recalled: its text is gone."),
    (SHED, "With `store=false`: it has no `seq` and is not kept."),
    (
        entry(TEAM, 44, "edited", ALICE, target=42, text="hello there"),
        "The message `target` was edited; it says `text` now.",
    ),
    (entry(TEAM, 45, "recalled", ALICE, target=40), "The message `target` was recalled."),
    (
        entry(TEAM, 46, "reacted", LIU_BEI, target=42, emoji="👍", on=True, count=1),
        "`from` reacted to the message `target`, or took that back; `count` have done so now.",
    ),
    (entry(TEAM, 47, "pinned", ALICE, target=42), "The message `target` was pinned."),
    (entry(TEAM, 48, "unpinned", ALICE, target=42), "It is no longer pinned."),
    (
        {**entry(INBOX, 5, "hidden", ALICE), "room": "#team", "target": 40},
        "In your inbox: you have hidden the message `target` of a room.",
    ),
    (entry(TEAM, 1, "created", ALICE, title=TEAM.title), "A group was made; its log begins."),
    (
        entry(TEAM, 2, "joined", LIU_BEI),
        "`from` has become a member. `by`: it was approved by that admin. Live, `muted_until` where"
        " `from` is muted still, and `rules` where the group's are not the usual.",
    ),
    (entry(TEAM, 43, "left", LIU_BEI), "`from` is no member any more."),
    (
        entry(TEAM, 43, "kicked", ALICE, user="刘备"),
        "`user` is no member any more; with `banned`, for good.",
    ),
    (
        entry(TEAM, 43, "appointed", ALICE, user="刘备", role="admin"),
        "`user` has another role. A new owner: `from` is an admin now.",
    ),
    (
        entry(TEAM, 43, "muted", ALICE, user="刘备", until=EXPIRES),
        "`user` may not write until then, 0: may write; without `user`, all but the admins.",
    ),
    (
        entry(TEAM, 43, "retitled", ALICE, title="Plans"),
        "The group has another `title` or `description`.",
    ),
    (
        entry(TEAM, 43, "configured", ALICE, posting="admins"),
        "The group has another `entry`, `history` or `posting`.",
    ),
    (entry(TEAM, 44, "dissolved", ALICE), "The group is no more; its log ends."),
    (
        inbox(5, "invited", group="#team", user="bob"),
        "In one's inbox: `user` invites one into `group`.",
    ),
    (
        inbox(5, "kicked", group="#team", user="bob", banned=True),
        "In one's inbox: `user` took one out of `group`; with `banned`, for good.",
    ),
    (
        inbox(5, "requested", group="#team", user="bob", words="It is me."),
        "In the inbox of an admin: `user` asks to join `group`.",
    ),
    (
        inbox(5, "approved", group="#team", user="bob"),
        "In one's inbox: `user` let one into `group`.",
    ),
    (
        inbox(5, "rejected", group="#team", user="bob"),
        "In one's inbox: `user` turned one's request down.",
    ),
    (
        inbox(4, "befriended", user="刘备", by="刘备", words="你好"),
        "In the inboxes of both: `by` wants to be friends; `user` is the other one.",
    ),
    (inbox(5, "accepted", user="刘备"), "In the inboxes of both: they are friends now."),
    (inbox(6, "refused", user="刘备"), "You refused a request; nobody else is told."),
    (inbox(7, "unfriended", user="刘备"), "You ended it; nobody else is told."),
    (inbox(8, "remarked", user="刘备", remark="the boss"), "You call `user` something else."),
    (inbox(9, "blocked", user="刘备"), "You take nothing from `user` any more."),
    (inbox(10, "unblocked", user="刘备"), "You do again."),
    (inbox(11, "updated", status="at the sea"), "You changed these fields of your profile."),
    (
        entry(INBOX, 7, "preferred", ALICE, room="#team", pinned=True, notify="mentions"),
        "You want a room otherwise: `prefer` from another device.",
    ),
    (entry(INBOX, 8, "marked", ALICE, room="@刘备"), "You marked a room as unread."),
    (
        entry(INBOX, 9, "cleared", ALICE, room="@刘备", upto=41),
        "You cleared a room: its entries up to `upto` are not to be seen any more.",
    ),
    (
        DELIVERED,
        "What was said in a room has reached `from` up to `upto`. Once a second at most;"
        " in groups up to `limits.receipt_members`. Not kept, as `typing`: see `receipts`. Where"
        " several got as far in the same second, there is a list `users` and no `from`.",
    ),
    (READ, "`from` has read a room up to `upto`. Your own too, so that your devices agree."),
    (
        entry(INBOX, 5, "updated", ALICE, invisible=True),
        "In your inbox: others see you as offline from now on, or do not any more.",
    ),
    (TYPING, "`from` is writing. Not kept, and not sent to a client that reads slowly."),
    (PRESENT, "A friend, or somebody in the room that is open, is `online` or `away` now."),
    (GONE, "`from` has gone, and was last seen then. Neither is kept nor sent to slow readers."),
    (GOING, "The server restarts: come back after so many seconds."),
    (CLOSING, "Over TCP alone: the server closes the connection, with a close code."),
)
REQUESTS: Mapping[str, dict[str, Any]] = {
    "register": {"name": "alice", "password": "correct-horse"},
    "login": {"name": "alice", "password": "correct-horse", "device": "laptop"},
    "revoke": {"token": "154554fde42d381c"},
    "end": {"session": SESSION},
    "help": {"command": "ping"},
    "language": {"name": "zh"},
    "befriend": {"user": "@刘备", "words": "we met at the sea"},
    **{name: {"user": "刘备"} for name in ("accept", "refuse", "unfriend", "block", "unblock")},
    "remark": {"user": "刘备", "remark": "the boss"},
    "profile": {"language": "en-GB", "status": "at the sea"},
    "user": {"user": "刘备"},
    "find": {"text": "刘"},
    "create": {"name": "#team", "title": "Weekend plans"},
    **{name: {"group": "#team"} for name in ("about", "leave", "members", "dissolve")},
    "join": {"group": "#team"},
    "retitle": {"group": "#team", "title": "Plans"},
    "configure": {"group": "#team", "posting": "admins"},
    "kick": {"group": "#team", "user": "刘备", "ban": True},
    **{
        name: {"group": "#team", "user": "刘备"}
        for name in ("unban", "invite", "approve", "reject")
    },
    **{name: {"group": "#team"} for name in ("bans", "decline", "links", "requests")},
    "role": {"group": "#team", "user": "刘备", "role": "admin"},
    "mute": {"group": "#team", "user": "刘备", "until": EXPIRES},
    "link": {"group": "#team", "uses": 10},
    "unlink": {"group": "#team", "link": "9f86d081884c7d65"},
    "say": {"to": "#team", "key": "0d9f", "text": "hello there"},
    "forward": {"to": "#team", "seq": 42, "into": "@刘备"},
    "edit": {"to": "#team", "seq": 42, "text": "hello all"},
    **{name: {"to": "#team", "seq": 42} for name in ("versions", "recall", "hide", "reactions")},
    "react": {"to": "#team", "seq": 42, "emoji": "👍"},
    **{name: {"to": "#team", "seq": 42} for name in ("pin", "unpin")},
    "pins": {"to": "#team"},
    "history": {"to": "#team", "limit": 20},
    "search": {"to": "#team", "text": "hello"},
    "typing": {"to": "#team"},
    "who": {"group": "#team"},
    "watch": {"to": "#team"},
    "appear": {"state": "invisible"},
    "sync": {"since": {"#team": 41, "#gone": 8}},
    **{name: {"to": "#team", "seq": 42} for name in ("delivered", "read", "receipts")},
    **{name: {"to": "#team"} for name in ("mark", "clear")},
    "prefer": {"to": "#team", "pinned": True, "notify": "mentions"},
}
RESULTS: Sequence[msgspec.Struct] = (
    accounts.LoggedIn("alice", "hJHpZI5W…", EXPIRES, SESSION),
    accounts.Done(),
    accounts.Tokens([Token("154554fde42d381c", "laptop", AT, EXPIRES, True)]),
    sessions.Sessions([sessions.SessionLine(SESSION, "laptop", "192.0.2.7", AT, "online", True)]),
    basics.Help([basics.CommandHelp(COMMANDS["ping"].usage(), COMMANDS["ping"].help)]),
    basics.Language("zh"),
    basics.Pong(AT),
    basics.Identity(SESSION, "alice"),
    friends.Tie("刘备", "friend", False, 5, AT),
    friends.Friends(
        [
            friends.Friend("bob", "asking", AT, "Bob", "", "do you know me?"),
            friends.Friend("刘备", "friend", AT, "玄德", "the boss", presence="offline", seen=AT),
        ],
        False,
    ),
    friends.Blocks(["mallory"], False),
    profile.Mine("alice", "Alice", "at the sea", "en-GB", "everybody", True, True, 11, AT),
    Card("刘备", "玄德", "in Chengdu", "friend", "the boss"),
    profile.Found([Card("刘备", "玄德", "in Chengdu", "friend", "the boss")], False),
    groups.Created("#team"),
    groups.About("#team", TEAM.title, "", "open", 2, "all", "members", 0, "member"),
    groups.Members(
        [
            groups.MemberLine("alice", "Alice", "owner", 0, AT, "online"),
            groups.MemberLine("刘备", "", "member", EXPIRES, AT, "offline", AT),
        ],
        False,
    ),
    membership.Bans([Ban("刘备", "alice", AT)], False),
    invitations.Joined(seq=2, at=AT, address="#team"),
    invitations.Linked("kXw3rXJ2…", "9f86d081884c7d65", EXPIRES),
    invitations.Links([Link("9f86d081884c7d65", "alice", AT, EXPIRES, 10)]),
    invitations.Requests([Request("刘备", "", "It is me.", AT)], False),
    presence.People(
        [
            presence.Person("alice", "online", devices=["laptop"]),
            presence.Person("刘备", "offline", AT),
        ],
        False,
    ),
    Stored(42, AT),
    edits.Changed(43, AT),
    edits.Versions([Version(AT, "hello ther"), Version(AT + 9000, "hello there")]),
    reactions.Reactions([Reaction("👍", "刘备", AT)], False),
    pins.Pins([SAID]),
    rooms.Page([SAID], True),
    rooms.Rooms(
        [
            rooms.RoomLine(
                *("#team", "group", TEAM.title, 42, 40, 41, 1, 0, False, AT, "mentions", False),
                SAID,
            )
        ],
        True,
        f"{AT}-{AT}-1",
    ),
    Totals(7, 1, 2, 12),
    rooms.Synced([SAID], False, {"#gone": "not-found"}),
    places.Moved(42),
    places.Receipts([Receipt("bob", False), Receipt("刘备", True)], False),
    search.Hits([SAID], True, f"{AT}.1.42"),
)
BOUNDS = {  # of a JSON schema, in words
    "minimum": "≥ {}",
    "maximum": "≤ {}",
    "minLength": "≥ {} characters",
    "maxLength": "≤ {} characters",
    "maxProperties": "≤ {} elements",
    "pattern": "{}",
}
WORDS: Mapping[Any, str] = {
    2**63 - 1: "2^63−1",
    2**53: "2^53",
    TEXT_PATTERN: "no control characters but tab, LF and CR",
    LINE_PATTERN: "one line, no control characters",
    LINE_PATTERN.replace(r"\u2028\u2029", ""): "no control characters",
    typing.get_args(Address)[1].pattern: "no spaces, no control characters",
}


def table(head: str, rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown; bars separate the cells of its head."""
    escaped = (" | ".join(cell.replace("|", r"\|") for cell in row) for row in rows)
    lines = (head, " | ".join(["---"] * (head.count("|") + 1)), *escaped)
    return "\n".join(f"| {line} |" for line in lines)


def block(*lines: bytes) -> str:
    """A block of code: what a wire writes or reads."""
    shown = b"\n".join(line.rstrip(b"\r\n") for line in lines).decode()
    return "```\n" + shown.replace("\r", "") + "\n```"


def kind(schema: Mapping[str, Any]) -> str:
    """The type that a JSON schema says."""
    if "anyOf" in schema:
        return " or ".join(kind(one) for one in schema["anyOf"])
    if "enum" in schema:
        return " or ".join(f'`"{one}"`' for one in schema["enum"])
    if schema.get("type") == "array":
        return f"array of {kind(schema['items'])}"
    if schema.get("additionalProperties"):
        return f"object of {kind(schema['additionalProperties'])}"
    return str(schema.get("type") or schema["$ref"].rpartition("/")[2])


def bound(value: Any) -> str:
    """A bound; a pattern that no words explain is shown as it is."""
    return WORDS.get(value) or (f"`{value}`" if isinstance(value, str) else str(value))


def parameter(each: Parameter) -> Sequence[str]:
    """The row of a command's parameter."""
    schema = msgspec.json.schema(each.type)
    schema = schema.get("anyOf", [schema])[0]  # the other one is null: not given
    limits = (said.format(bound(schema[key])) for key, said in BOUNDS.items() if key in schema)
    default = "" if each.default is None else f"`{msgspec.json.encode(each.default).decode()}`"
    default = "required" if each.required else default
    meaning = schema.get("description", "")
    return f"`{each.name}`", kind(schema), default, ", ".join(limits), meaning


def typed(command: Command, given: Mapping[str, Any]) -> str:
    """The line that asks the same as a JSON request with these parameters."""
    words, last = ["/" + command.name], []
    for each in (each for each in command.parameters if each.name in given):
        value = given[each.name]
        before = [p.name for p in command.parameters[: command.parameters.index(each)]]
        if each.rest or each.object:
            named = "" if set(before) <= given.keys() else f"{each.name}="
            last.append(named + (msgspec.json.encode(value).decode() if each.object else value))
        else:
            leads = command.parameters[len(words) - 1] is each
            word = value if isinstance(value, str) else msgspec.json.encode(value).decode()
            words.append(word if leads else f"{each.name}={word}")
    return " ".join(words + last)


def exchange(command: Command) -> str:
    """A request and its reply, as the wires themselves read and write them."""
    given = REQUESTS.get(command.name, {})
    line = typed(command, given)
    asked = msgspec.json.encode({"cmd": command.name, "id": ID, **given})
    request = json.decode(asked)
    if type(request) is not command.request or request != replace(text.decode(line), id=ID):
        raise AssertionError(f"{line} does not ask what {asked!r} does")
    result = {type(sample): sample for sample in RESULTS}[result_of(command)]
    lines = block(line.encode(), TEXT.reply(None, result))
    return block(asked, PLAIN.reply(ID, result)) + "\n\n" + lines


def result_of(command: Command) -> Any:
    """The struct that a command gives, now or as a Deferred."""
    first = command.result
    while typing.get_args(first):
        first = typing.get_args(first)[0]
    return first


def fields(result: Any) -> str:
    """The fields of a result, and of the structs in it."""
    structs = msgspec.json.schema(result)["$defs"]
    lines = []
    for name in sorted(structs, key=lambda name: name != result.__name__):
        schema, title = structs[name], "Result" if name == result.__name__ else f"`{name}`"
        sure = schema.get("required", ())
        each = [
            f"`{field}` {kind(of)}" + ("" if field in sure else " (may be missing)")
            for field, of in schema["properties"].items()
        ]
        told = " ".join(schema.get("description", "").split())
        lines.append(f"{title}: {', '.join(each) or 'no fields'}. {told}")
    return "\n\n".join(lines)


def section(command: Command) -> str:
    """All about one command."""
    who = "Anybody may ask." if command.audience == "anybody" else "Log in first."
    rows = table(
        "parameter | type | default | bounds | meaning", map(parameter, command.parameters)
    )
    usage, about = block(command.usage().encode()), f"{command.help} {who}"
    parts = (f"### {command.name}", about, usage, rows if command.parameters else "")
    return "\n\n".join(filter(None, (*parts, fields(result_of(command)), exchange(command))))


def reference() -> str:
    """The whole document."""
    refusals = Refused("not-a-member", "You are not in #team."), Unavailable("Try again.")
    refused = ((f"`{code}`", str(_STATUS[code]), told) for code, told in MEANINGS.items())
    limits = (s for s in settings() if s.key.startswith(("limits.", "messages.", "heartbeat.")))
    limited = ((f"`{s.key}`", str(s.default), s.description) for s in limits)
    costs = ((f"`{c.name}`", str(c.cost)) for c in COMMANDS.values() if c.cost > 1)
    hidden = ((f"U+{ord(c):04X}", f"`{text.visible(c)}`") for c in "\n\r\\\x1b\x9b\u2028\u202e")
    told = ((f"`{msgspec.json.encode(event).decode()}`", meaning) for event, meaning in EVENTS)
    return DOCUMENT.format(
        closing=table("close code | meaning", ((str(n), why) for n, why in CLOSE_CODES.items())),
        hidden=table("character | shown as", hidden),
        sync=rooms._SYNC_AT_ONCE,
        sync_in_all=rooms._SYNC_IN_ALL,
        commands="\n\n".join(map(section, COMMANDS.values())),
        events=table("event | meaning", told),
        event_lines=block(*(TEXT.event(event) for event, _ in EVENTS)),
        errors=table("code | HTTP status | meaning", refused),
        refusals=block(*(wire.error(ID, each) for each in refusals for wire in (PLAIN, TEXT))),
        limits=table("setting | default | meaning", limited),
        costs=table("command | cost", costs),
        mistakes=", ".join(f"`{code}`" for code in MEANINGS if code in _MISTAKES),
        idle=_IDLE,
        versions=VERSIONS,
        first=FIRST,
        kinds=KINDS,
        mentions=MOST,
    )


if __name__ == "__main__":
    print(reference(), end="")

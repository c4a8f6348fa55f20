"""Commands about people: one's own profile, another's, the search for users."""

from __future__ import annotations

import unicodedata
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from chatd import displays
from chatd.model import LINE_PATTERN, Display, Username, fold, user_name
from chatd.node import Context
from chatd.registry import USERS, command
from chatd.store import profiles
from chatd.store.profiles import LAST, Card, Writers

Status = Annotated[
    str,
    Meta(
        max_length=128,
        pattern=LINE_PATTERN,
        description="one line on how you are",
        extra={"rest": True},
    ),
]
Language = Annotated[
    str,
    Meta(
        max_length=16,
        pattern=r"^([A-Za-z0-9]+(-[A-Za-z0-9]+)*)?\Z",
        description="a language tag (BCP 47) such as zh-Hans; empty: the server's choice",
    ),
]
WhoWrites = Annotated[Writers, Meta(description="who may write to you")]
Findable = Annotated[bool, Meta(description="whether find shows you to others than friends")]
Receipts = Annotated[bool, Meta(description="whether others see what you have read")]
Beginning = Annotated[
    str, Meta(min_length=1, max_length=65, description="a name, or how it begins")
]
After = Annotated[str, Meta(max_length=64, description="the name to begin behind")]
Limit = Annotated[int, Meta(ge=1, le=50, description="how many at most")]


class Mine(Struct, frozen=True, omit_defaults=True):
    """What you have set. `seq` and `at` are of the entry in your inbox that tells of a change;
    they are missing where nothing has changed."""

    user: str
    display: str
    status: str
    language: str
    writers: Writers
    findable: bool
    receipts: bool
    seq: int = 0
    at: int = 0


class Found(Struct, frozen=True):
    """A page of users by name; `more`: ask again with the last one's name as `after`."""

    users: list[Card]
    more: bool


@command(USERS, cost=5)
async def profile(
    ctx: Context,
    display: Display | None = None,
    status: Status | None = None,
    language: Language | None = None,
    writers: WhoWrites | None = None,
    findable: Findable | None = None,
    receipts: Receipts | None = None,
) -> Mine:
    """Shows your profile, or changes what you give of it."""
    wanted = {
        "display": None if display is None else displays.shown(display, 64),
        "status": None if status is None else displays.shown(status, 128),
        "language": language,
        "writers": writers,
        "findable": findable,
        "receipts": receipts,
    }
    user, node = ctx.user, ctx.node
    now = msgspec.structs.asdict(await node.store.read(profiles.profile, user.id))
    changes = {name: to for name, to in wanted.items() if to is not None and to != now[name]}
    if not changes:
        return Mine(user.name, **now)
    inbox = await node.room(user, f"@{user.name}", create=True)
    assert inbox is not None
    stored = await node.append(
        ctx.session,
        user,
        inbox,
        "updated",
        changes,
        effect=lambda db, seq: profiles.change_profile(db, user.id, changes),
    )
    return Mine(user.name, **(now | changes), seq=stored.seq, at=stored.at)


@command(USERS, cost=5, name="user")
async def user_(ctx: Context, user: Username) -> Card:
    """Shows somebody's profile, and what they are to you."""
    return await ctx.node.store.read(profiles.card, ctx.user.id, user_name(user))


@command(USERS, cost=200)
async def find(ctx: Context, text: Beginning, after: After = "", limit: Limit = 20) -> Found:
    """Finds users by name, or by how it begins: by two letters at least, or one Chinese, Japanese
    or Korean. Who does not want to be found is shown to friends alone."""
    key, behind = fold(user_name(text)), fold(after)
    first, last = max(key, behind), key + LAST if _narrows(key) else key
    found = await ctx.node.store.read(profiles.find, ctx.user.id, first, last, limit + 2)
    page = [card for card in found if fold(card.user) != behind]
    return Found(page[:limit], len(page) > limit)


def _narrows(key: str) -> bool:
    """Whether a beginning is of few enough names."""
    return len(key) > 1 or unicodedata.east_asian_width(key) in ("W", "F")

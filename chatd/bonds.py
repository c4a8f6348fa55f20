"""What two users are to each other, and how it changes: rules without a database.

Each of the two has a side. Of the two states, seen from one of them:

    ""       ""        nothing
    asked    asking    the first has asked the second
    asked    refused   and was refused, of which only the second knows
    friend   friend    they are friends

`refused` outlives the request: for a month no request of the other one's is shown. A side that
blocks, or is blocked, is neither a friend nor has it asked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal

from msgspec import Struct
from msgspec.structs import replace

from chatd.errors import Refused

State = Literal["", "friend", "asked", "asking", "refused"]

REFUSED_FOR: Final = 30 * 24 * 60 * 60 * 1000  # ms
WITHDRAWN_FOR: Final = 24 * 60 * 60 * 1000  # ms until a request that was withdrawn is told again


class Side(Struct, frozen=True):
    """What one user says of the other: `words` are those of an open request, `at` (ms) is since
    when the state is so, or when a request that was withdrawn was told."""

    state: State = ""
    blocked: bool = False
    remark: str = ""
    words: str = ""
    at: int = 0


NOBODY: Final = Side()
"""Where nothing is known of one another."""


class Bond(Struct, frozen=True):
    """Both sides, seen by the user who changes something; `name` is the other one's."""

    name: str
    mine: Side = NOBODY
    theirs: Side = NOBODY


class Change(Struct, frozen=True):
    """What a bond becomes. `kind` is of the entry that tells of it, empty where nothing changed;
    `told`: the other one hears of it, too."""

    bond: Bond
    kind: str = ""
    told: bool = False


Step = Callable[[Bond], Change]
"""A change as it is wanted. Raises `Refused` where the bond as it is does not allow it."""


def ask(bond: Bond, words: str, now: int) -> Change:
    """Asks for friendship. Who was asked already becomes a friend at once, a request that stands
    is not told again."""
    mine, theirs = bond.mine, bond.theirs
    if mine.blocked:
        raise Refused("blocked", "You have blocked @{name}.", name=bond.name)
    if theirs.blocked:
        raise Refused("blocked", "@{name} takes no requests from you.", name=bond.name)
    if mine.state == "friend":
        return Change(bond)
    if theirs.state == "asked":
        return _befriended(bond, now)
    asked = replace(mine, state="asked", words=words, at=now)
    if theirs.state == "refused" and now - theirs.at < REFUSED_FOR:
        return Change(bond) if mine.state == "asked" else _changed(bond, "befriended", asked)
    if theirs.state == "asking":
        return Change(bond)
    again = now - theirs.at < WITHDRAWN_FOR
    asking = replace(theirs, state="asking", words=words, at=theirs.at if again else now)
    return _changed(bond, "befriended", asked, asking, told=not again)


def accept(bond: Bond, now: int) -> Change:
    """Accepts a request."""
    if bond.mine.state == "friend":
        return Change(bond)
    if bond.mine.state != "asking":
        raise Refused("not-found", "@{name} has not asked you.", name=bond.name)
    return _befriended(bond, now)


def refuse(bond: Bond, now: int) -> Change:
    """Refuses a request, of which the other one is not told."""
    if bond.mine.state == "refused":
        return Change(bond)
    if bond.mine.state != "asking":
        raise Refused("not-found", "@{name} has not asked you.", name=bond.name)
    return _changed(bond, "refused", Side("refused", at=now))


def unfriend(bond: Bond) -> Change:
    """Ends a friendship, or withdraws a request."""
    if bond.mine.state not in ("friend", "asked"):
        raise Refused(
            "not-found", "@{name} is no friend of yours, nor have you asked.", name=bond.name
        )
    return _changed(bond, "unfriended", _ended(bond.mine), _ended(bond.theirs))


def remark(bond: Bond, text: str) -> Change:
    """Notes by what name one knows the other."""
    if bond.mine.state not in ("friend", "asked", "asking"):
        raise Refused("not-found", "@{name} is not among your friends.", name=bond.name)
    if bond.mine.remark == text:
        return Change(bond)
    return _changed(bond, "remarked", replace(bond.mine, remark=text))


def block(bond: Bond) -> Change:
    """Takes nothing from the other one any more; that ends what they were to each other."""
    if bond.mine.blocked:
        return Change(bond)
    mine = replace(_ended(bond.mine), blocked=True)
    return _changed(bond, "blocked", mine, _ended(bond.theirs))


def unblock(bond: Bond) -> Change:
    """Takes messages and requests from the other one again."""
    if not bond.mine.blocked:
        raise Refused("not-found", "You have not blocked @{name}.", name=bond.name)
    return _changed(bond, "unblocked", replace(bond.mine, blocked=False))


def _befriended(bond: Bond, now: int) -> Change:
    mine = replace(bond.mine, state="friend", words="", at=now)
    theirs = replace(bond.theirs, state="friend", words="", at=now)
    return _changed(bond, "accepted", mine, theirs, told=True)


def _ended(side: Side) -> Side:
    """A side without friendship or request. A refusal stays, and so does the time at which a
    request was told: who withdraws it, or blocks for a moment, cannot tell it again at once."""
    if side.state in ("", "refused"):
        return side
    return Side(blocked=side.blocked, at=side.at if side.state == "asking" else 0)


def _changed(
    bond: Bond, kind: str, mine: Side, theirs: Side | None = None, told: bool = False
) -> Change:
    return Change(Bond(bond.name, mine, theirs or bond.theirs), kind, told)

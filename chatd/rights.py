"""Who may do what in a group: one table."""

from __future__ import annotations

from typing import Final

from chatd.model import Role

_RANKS: Final[dict[Role, int]] = {"member": 0, "admin": 1, "owner": 2}

RIGHTS: Final[dict[str, Role]] = {
    "write": "member",
    "write when muted": "admin",
    "retitle": "admin",
    "configure": "admin",
    "invite": "member",
    "invite past the rules": "admin",
    "link": "admin",
    "approve": "admin",
    "kick": "admin",
    "ban": "admin",
    "mute": "admin",
    "pin": "admin",
    "recall": "admin",
    "call all": "admin",
    "appoint": "owner",
    "dissolve": "owner",
}
"""The least role, by action. Done to somebody, an action needs a higher role than theirs."""


def may(role: Role, action: str) -> bool:
    """Whether the role is enough for an action."""
    return _RANKS[role] >= _RANKS[RIGHTS[action]]


def outranks(role: Role, other: Role) -> bool:
    """Whether the role is above another."""
    return _RANKS[role] > _RANKS[other]

"""The commands, grouped by subject; importing this fills the table of commands."""

from chatd.commands import (
    accounts,
    basics,
    friends,
    groups,
    invitations,
    membership,
    messages,
    profile,
    rooms,
)

__all__ = [
    "accounts",
    "basics",
    "friends",
    "groups",
    "invitations",
    "membership",
    "messages",
    "profile",
    "rooms",
]

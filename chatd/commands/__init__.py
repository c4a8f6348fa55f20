"""The commands, grouped by subject; importing this fills the table of commands."""

from chatd.commands import (
    accounts,
    basics,
    edits,
    friends,
    groups,
    invitations,
    membership,
    messages,
    pins,
    places,
    presence,
    profile,
    reactions,
    rooms,
    search,
    sessions,
)

__all__ = [
    "accounts",
    "basics",
    "edits",
    "friends",
    "groups",
    "invitations",
    "membership",
    "messages",
    "pins",
    "places",
    "presence",
    "profile",
    "reactions",
    "rooms",
    "search",
    "sessions",
]

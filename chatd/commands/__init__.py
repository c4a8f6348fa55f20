"""The commands, grouped by subject; importing this fills the table of commands."""

from chatd.commands import accounts, basics, groups, messages, rooms, search

__all__ = ["accounts", "basics", "groups", "messages", "rooms", "search"]

"""The commands, grouped by subject; importing this fills the table of commands."""

from chatd.commands import accounts, basics, edits, groups, messages, pins, reactions, rooms

__all__ = ["accounts", "basics", "edits", "groups", "messages", "pins", "reactions", "rooms"]

"""The commands, grouped by subject; importing this fills the table of commands."""

from chatd.commands import accounts, basics, groups, invitations, membership, messages, rooms

__all__ = ["accounts", "basics", "groups", "invitations", "membership", "messages", "rooms"]

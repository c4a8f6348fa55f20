"""chatd: a network daemon for real-time chat and message push."""

__version__ = "0.1.0"

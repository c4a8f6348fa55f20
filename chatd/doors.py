"""Who may come in: counts the connections, each from its first moment to its last, in all and
by the place that it comes from."""

from __future__ import annotations

import socket

from msgspec import Struct

from chatd.errors import Unavailable
from chatd.settings import Limits

_MARGIN = 20  # connections beyond the limit that are told so; others are dropped without a word
_MAPPED = bytes(10) + b"\xff\xff"  # RFC 4291 §2.5.5.2: an IPv4 address in an IPv6 one
_RETRY_AFTER = 10.0  # seconds

_FULL = Unavailable("The server has as many connections as it may. Try again.", _RETRY_AFTER)
_PLACE_FULL = Unavailable(
    "Your address has as many connections as it may. Close some, or try again.", _RETRY_AFTER
)


def place_of(address: str) -> str | None:
    """What counts as one place: an IPv4 address, or the 64 bits of IPv6 that a site is given.
    None for this machine itself, a proxy on which makes everybody look like it."""
    if ":" not in address:
        return None if address == "local" or address.startswith("127.") else address
    try:
        packed = socket.inet_pton(socket.AF_INET6, address.partition("%")[0])
    except OSError:  # a PROXY header may say anything
        return address
    if packed.startswith(_MAPPED):
        return place_of(socket.inet_ntop(socket.AF_INET, packed[len(_MAPPED) :]))
    return None if packed == bytes(15) + b"\x01" else packed[:8].hex(":", 2) + "::/64"


class Guest(Struct):
    """A connection that was counted, and where it comes from."""

    place: str | None


class Doors:
    """Counts who is inside. There is never more than `descriptors` allow, whatever the limits
    are."""

    def __init__(self, descriptors: int) -> None:
        self._descriptors = descriptors
        self._inside = 0
        self._by_place: dict[str, int] = {}

    def enter(self, address: str) -> Guest:
        """A connection was made."""
        guest = Guest(place_of(address))
        self._inside += 1
        self._count(guest.place, 1)
        return guest

    def move(self, guest: Guest, address: str) -> bool:
        """The connection comes from elsewhere, as a proxy tells; whether that is another place."""
        before, guest.place = guest.place, place_of(address)
        self._count(before, -1)
        self._count(guest.place, 1)
        return guest.place != before

    def leave(self, guest: Guest) -> None:
        """The connection is gone."""
        self._inside -= 1
        self._count(guest.place, -1)

    def _count(self, place: str | None, more: int) -> None:
        if place is None:
            return
        self._by_place[place] = self._by_place.get(place, 0) + more
        if not self._by_place[place]:
            del self._by_place[place]

    def crowded(self, limits: Limits) -> bool:
        """Whether the one that has just entered is to be dropped at once."""
        return self._inside > self._most(limits) + _MARGIN

    def refusal(self, guest: Guest, limits: Limits) -> Unavailable | None:
        """What to tell one that has just entered if it may not stay."""
        if self._inside > self._most(limits):
            return _FULL
        if guest.place is not None and self._by_place[guest.place] > limits.address_connections:
            return _PLACE_FULL
        return None

    def _most(self, limits: Limits) -> int:
        return min(limits.connections, self._descriptors - _MARGIN)

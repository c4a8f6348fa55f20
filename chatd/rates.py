"""How much may be asked for: token buckets, refilled once a tick, which is a second.

What is on every request's way asks no clock and looks nothing up: it compares ticks, and takes
from `left`. The limits are read at each tick.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from weakref import WeakValueDictionary

from chatd.settings import Limits

Terms = Callable[[Limits], tuple[float, float]]


class Rate:
    """What the buckets of a kind get in a tick, `gain`, and may save up, `most`."""

    __slots__ = ("_terms", "gain", "most")

    def __init__(self, terms: Terms, limits: Limits) -> None:
        self._terms = terms
        self.read(limits)

    def read(self, limits: Limits) -> None:
        """To be called when a tick begins."""
        self.gain, self.most = self._terms(limits)


class Bucket:
    """`left` is what may be spent. Whoever finds something may take more than that, or what
    costs more than a bucket holds could never be had; the debt is paid by the next ticks."""

    __slots__ = ("__weakref__", "left", "rate", "tick")

    def __init__(self, rate: Rate, tick: int) -> None:
        self.rate = rate
        self.left = rate.most
        self.tick = tick

    def refill(self, tick: int) -> None:
        """To be called before spending in another tick than the bucket's."""
        rate = self.rate
        self.left = min(self.left + rate.gain * (tick - self.tick), rate.most)
        self.tick = tick

    def is_full(self, tick: int) -> bool:
        """Whether a refill would fill it."""
        return self.left + self.rate.gain * (tick - self.tick) >= self.rate.most

    def wait(self) -> float:
        """Seconds until there is something in it again."""
        return math.floor(-self.left / self.rate.gain) + 1.0


class Shared(Bucket):
    """A bucket of several sessions; it says when it is in use."""

    __slots__ = ("_used",)

    def __init__(self, rate: Rate, tick: int, used: set[Shared]) -> None:
        super().__init__(rate, tick)
        self._used = used
        used.add(self)

    def refill(self, tick: int) -> None:
        self._used.add(self)
        Bucket.refill(self, tick)


class Buckets:
    """The shared buckets of a kind, by key. One lives as long as somebody holds it, and until
    it is full again: who comes back finds it as it was left."""

    def __init__(self, rate: Rate) -> None:
        self.rate = rate
        self._alive: WeakValueDictionary[Hashable, Shared] = WeakValueDictionary()
        self._used: set[Shared] = set()

    def __len__(self) -> int:
        return len(self._alive)

    def of(self, key: Hashable, tick: int) -> Shared:
        """The bucket of a key."""
        bucket = self._alive.get(key)
        if bucket is None:
            bucket = self._alive[key] = Shared(self.rate, tick, self._used)
        return bucket

    def forget_full(self, tick: int) -> None:
        """To be called when a tick has begun: lets go of what is full."""
        self._used.difference_update([bucket for bucket in self._used if bucket.is_full(tick)])


class Rates:
    """The buckets of a node: those of each session for its requests and its mistakes, and
    those that the sessions of a user, or from a place of the network, share."""

    def __init__(self, limits: Limits) -> None:
        self.session = Rate(lambda now: _saved(now, now.session_rate), limits)
        self.mistakes = Rate(_mistakes, limits)
        self.users = Buckets(Rate(lambda now: _saved(now, now.user_rate), limits))
        self.places = Buckets(Rate(lambda now: _saved(now, now.address_rate), limits))

    def begin(self, tick: int, limits: Limits) -> None:
        """A tick has begun."""
        for rate in (self.session, self.mistakes, self.users.rate, self.places.rate):
            rate.read(limits)
        self.users.forget_full(tick)
        self.places.forget_full(tick)


def _saved(limits: Limits, rate: float) -> tuple[float, float]:
    return rate, rate * limits.burst_seconds


def _mistakes(limits: Limits) -> tuple[float, float]:
    return limits.mistakes_per_minute / 60, limits.mistakes_per_minute

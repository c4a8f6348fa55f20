"""How much may be asked for: token buckets, refilled once a tick, which is a second.

What is on every request's way asks no clock and looks nothing up: it compares ticks, and takes
from `left`. Rates are read when a bucket is refilled, so other ones hold from the next tick on.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Generic, TypeVar
from weakref import WeakValueDictionary

from chatd.settings import Limits


class Bucket:
    """`left` is what may be spent; the last one to spend may run it into debt, or what costs
    more than a bucket holds could never be had."""

    __slots__ = ("__weakref__", "left", "tick")

    def __init__(self, limits: Limits, tick: int) -> None:
        self.left = self.most(limits)
        self.tick = tick

    @staticmethod
    def rate(limits: Limits) -> float:
        """What comes in a second."""
        raise NotImplementedError

    @classmethod
    def most(cls, limits: Limits) -> float:
        """What may be saved up."""
        return cls.rate(limits) * limits.burst_seconds

    def refill(self, limits: Limits, tick: int) -> None:
        """To be called before spending, in a tick that is not the bucket's."""
        rate = self.rate(limits)
        left, most = self.left + rate * (tick - self.tick), rate * limits.burst_seconds
        self.left = min(left, most)
        self.tick = tick

    def wait(self, limits: Limits) -> float:
        """Seconds until there is something again, in a bucket in which there is nothing."""
        return math.floor(-self.left / self.rate(limits)) + 1.0


class SessionBucket(Bucket):
    """A session's requests."""

    __slots__ = ()

    @staticmethod
    def rate(limits: Limits) -> float:
        return limits.session_rate


class Mistakes(Bucket):
    """A session's mistakes; a minute's may be made at once."""

    __slots__ = ()

    @staticmethod
    def rate(limits: Limits) -> float:
        return limits.mistakes_per_minute / 60

    @classmethod
    def most(cls, limits: Limits) -> float:
        return limits.mistakes_per_minute


class Shared(Bucket):
    """A bucket of many sessions; it tells `Buckets` that it is in use."""

    __slots__ = ("_used",)

    def __init__(self, limits: Limits, tick: int, used: set[Shared]) -> None:
        super().__init__(limits, tick)
        self._used = used
        used.add(self)

    def refill(self, limits: Limits, tick: int) -> None:
        super().refill(limits, tick)
        self._used.add(self)

    def is_full(self, limits: Limits, tick: int) -> bool:
        """Whether a refill would fill it."""
        return self.left + self.rate(limits) * (tick - self.tick) >= self.most(limits)


class UserBucket(Shared):
    """The requests of a user's sessions."""

    __slots__ = ()

    @staticmethod
    def rate(limits: Limits) -> float:
        return limits.user_rate


class PlaceBucket(Shared):
    """The requests from one place of the network."""

    __slots__ = ()

    @staticmethod
    def rate(limits: Limits) -> float:
        return limits.address_rate


B = TypeVar("B", bound=Shared)


class Buckets(Generic[B]):
    """The buckets of one kind, by key. One lives as long as somebody holds it, and until it is
    full again: who comes back finds it as it was left."""

    def __init__(self, kind: type[B]) -> None:
        self._kind = kind
        self._alive: WeakValueDictionary[Hashable, B] = WeakValueDictionary()
        self._used: set[Shared] = set()

    def __len__(self) -> int:
        return len(self._alive)

    def of(self, key: Hashable, limits: Limits, tick: int) -> B:
        """The bucket of a key."""
        bucket = self._alive.get(key)
        if bucket is None:
            bucket = self._alive[key] = self._kind(limits, tick, self._used)
        return bucket

    def forget_full(self, limits: Limits, tick: int) -> None:
        """To be called when a tick has begun: drops what is full and nobody holds."""
        self._used.difference_update(
            [bucket for bucket in self._used if bucket.is_full(limits, tick)]
        )

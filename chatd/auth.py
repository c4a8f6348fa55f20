"""Proofs of who somebody is: passwords, tokens of an embedding site, and the brake on
guessing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import argon2
import jwt
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from chatd.errors import Phrase, Refused, Unavailable

T = TypeVar("T")

_THREADS = 2
_LEEWAY = 30  # seconds by which an embedding site's clock may be off


class Passwords:
    """Hashes and verifies in threads of their own (argon2id, the library's RFC 9106 low-memory
    profile), so that a flood of logins does not stop the chat. `at_once()` says how many may
    be hashed or wait for it."""

    def __init__(
        self,
        reactor: Any,
        at_once: Callable[[], int],
        hasher: argon2.PasswordHasher | None = None,
    ) -> None:
        self._reactor = reactor
        self._at_once = at_once
        self._threads = ThreadPool(0, _THREADS, "passwords")
        self._hasher = hasher or argon2.PasswordHasher()
        self._nobody = self._hasher.hash("nobody has this password")
        self._waiting = 0
        self._hurrying = False

    def start(self) -> None:
        """Starts the threads."""
        self._threads.start()

    def hurry(self) -> None:
        """From here on nothing more is hashed; who waits for it is refused."""
        self._hurrying = True

    def stop(self) -> None:
        """Waits for what runs."""
        self._threads.stop()

    async def hash(self, password: str) -> str:
        """The form in which a password is stored. Raises `Unavailable` when too many wait."""
        half = max(1, self._at_once() // 2)  # who has an account comes first
        return await self._run(lambda: self._hasher.hash(password), half)

    async def verify(self, stored: str | None, password: str) -> bool:
        """Whether the password is right. Takes as long where there is no account."""
        return await self._run(lambda: self._verify(stored, password), self._at_once())

    def _verify(self, stored: str | None, password: str) -> bool:
        try:
            return self._hasher.verify(stored or self._nobody, password) and stored is not None
        except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError):
            return False

    async def _run(self, work: Callable[[], T], most: int) -> T:
        if self._waiting >= most:
            raise Unavailable("Too many people log in at this moment. Try again.")
        self._waiting += 1

        def in_turn() -> T:
            if self._hurrying:
                raise Unavailable("The server restarts. Try again.")
            return work()

        try:
            running: Deferred[T] = deferToThreadPool(self._reactor, self._threads, in_turn)
            return await running
        finally:
            self._waiting -= 1


class Throttle:
    """Token buckets, one for each kind of key and key: `per_minute(kind)` tries at once,
    refilled evenly."""

    def __init__(self, per_minute: Callable[[str], int], seconds: Callable[[], float]) -> None:
        self._per_minute = per_minute
        self._seconds = seconds
        self._buckets: dict[tuple[str, str], tuple[float, float]] = {}

    def take(self, *keys: tuple[str, str]) -> None:
        """Takes a try from the bucket of each (kind, key). Raises `Refused` of
        `rate-limited`."""
        now = self._seconds()
        levels = {key: self._level(key, now) for key in keys}
        for (kind, _), level in levels.items():
            if level < 1:
                wait = round((1 - level) * 60 / self._per_minute(kind), 1)
                raise Refused(
                    "rate-limited", "Too many tries. Wait {wait} seconds.", wait, wait=wait
                )
        for key, level in levels.items():
            self._buckets[key] = (level - 1, now)

    def give_back(self, *keys: tuple[str, str]) -> None:
        """The try was good: it does not count."""
        now = self._seconds()
        for key in keys:
            self._buckets[key] = (min(self._per_minute(key[0]), self._level(key, now) + 1), now)

    def forget_full(self) -> None:
        """Drops the buckets that are full again."""
        now = self._seconds()
        full = [key for key in self._buckets if self._level(key, now) >= self._per_minute(key[0])]
        for key in full:
            del self._buckets[key]

    def _level(self, key: tuple[str, str], now: float) -> float:
        most = self._per_minute(key[0])
        level, since = self._buckets.get(key, (most, now))
        return min(most, level + (now - since) * most / 60)


class SiteTokens:
    """Verifies the JWTs (RFC 7519) of the site that embeds chatd. The algorithm is pinned,
    `exp` is required; audience and issuer are checked where they are configured."""

    def __init__(self, algorithm: str, key: str, claim: str, audience: str, issuer: str) -> None:
        self._algorithm = algorithm
        self._key = key
        self._claim = claim
        self._audience = audience
        self._issuer = issuer

    def name(self, token: str) -> str:
        """Whom the token names. Raises `Refused` of `unauthorized`."""
        try:
            claims = jwt.decode(
                token,
                self._key,
                algorithms=[self._algorithm],
                audience=self._audience or None,
                issuer=self._issuer or None,
                leeway=_LEEWAY,
                options={"require": ["exp", self._claim], "verify_aud": bool(self._audience)},
            )
        except jwt.PyJWTError as error:
            raise Refused(
                "unauthorized", "The JWT is not accepted: {reason}.", reason=_reason(error)
            ) from error
        name = claims[self._claim]
        if not isinstance(name, str):
            raise Refused(
                "unauthorized", "The JWT's claim {claim} is not a string.", claim=self._claim
            )
        return name


def _reason(error: jwt.PyJWTError) -> Phrase:
    """What is wrong with a JWT; the library says it in English alone."""
    match error:
        case jwt.ExpiredSignatureError():
            return Phrase("it has expired")
        case jwt.ImmatureSignatureError():
            return Phrase("it is not valid yet")
        case jwt.InvalidAudienceError():
            return Phrase("it is for another audience")
        case jwt.InvalidIssuerError():
            return Phrase("it is from another issuer")
        case jwt.MissingRequiredClaimError():
            return Phrase("the claim {claim} is missing", claim=error.claim)
        case jwt.InvalidAlgorithmError():
            return Phrase("its algorithm is another one")
        case jwt.InvalidSignatureError():
            return Phrase("its signature is wrong")
    return Phrase("it is malformed")

"""Applies a configuration that was read again to the daemon that runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any, Protocol

from twisted.logger import Logger

from chatd import certificates, config, systemd
from chatd.auth import SiteTokens
from chatd.certificates import Certificates
from chatd.config import Config, ConfigError
from chatd.logs import Observer
from chatd.node import Node
from chatd.settings import JWT

# What is taken over at the start alone.
_LASTING = (
    "state",
    "listen.http",
    "listen.tcp",
    "listen.deflate",
    "store.url",
    "store.connections",
)


class Browsers(Protocol):
    """The front end that has settings of its own."""

    def reload(self, origins: tuple[str, ...]) -> None:
        """Takes over origins and the node's limits."""


class Port(Protocol):
    """What listens on an endpoint."""

    endpoint: str

    def use(self, found: Certificates) -> None:
        """New connections get these certificates."""


class Reload:
    """Reads everything again, checks all of it, and then applies all of it or nothing.

    `started` is what the daemon was started with, `read` gives what stands there now.
    """

    _log = Logger()

    def __init__(
        self,
        started: Config,
        read: Callable[[], Config],
        node: Node,
        browsers: Browsers,
        ports: Sequence[Port],
        log: Observer | None,
    ) -> None:
        self._started = started
        self._read = read
        self._node = node
        self._browsers = browsers
        self._ports = ports
        self._observer = log

    def __call__(self) -> None:
        """Does it, and tells the log and systemd. Never raises for what it reads."""
        systemd.notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        mistakes = [*self._reopen(), *self._apply()]
        for mistake in mistakes:
            self._log.error("not reloaded: {mistake}", mistake=mistake)
        systemd.notify("READY=1")

    def _reopen(self) -> list[str]:
        try:
            if self._observer is not None:
                self._observer.reopen()
        except OSError as error:
            return [f"the log file cannot be opened: {error}"]
        return []

    def _apply(self) -> list[str]:
        try:
            fresh = self._read()
            tokens = site_tokens(fresh.jwt)
        except ConfigError as error:
            return error.mistakes
        except (OSError, ValueError) as error:
            return [f"jwt.key_file: {error}"]
        found, mistakes = self._certificates()
        if mistakes:
            return mistakes
        node = self._node
        node.reload(fresh.limits, fresh.heartbeat)
        node.accounts = fresh.accounts
        node.messages = fresh.messages
        node.presence.settings = fresh.presence
        node.site_tokens = tokens
        self._browsers.reload(fresh.listen.origins)
        if self._observer is not None:
            self._observer.apply(fresh.log.format, fresh.log.level)
        for port, made in found.items():
            port.use(made)
        self._log.info("the configuration was read again")
        self._tell_lasting(fresh)
        return []

    def _certificates(self) -> tuple[Mapping[Any, Certificates], list[str]]:
        found, mistakes = {}, []
        for port in self._ports:
            try:
                made = certificates.read(port.endpoint)
            except ValueError as error:
                mistakes.append(f"{port.endpoint}: {error}")
            else:
                found.update({port: made} if made else {})
        return found, mistakes

    def _tell_lasting(self, fresh: Config) -> None:
        values = [(key, attrgetter(key)) for key in _LASTING]
        changed = [key for key, of in values if of(fresh) != of(self._started)]
        if changed:
            self._log.warn("{keys} changed: that needs a restart", keys=", ".join(changed))


def site_tokens(jwt: JWT) -> SiteTokens | None:
    """What verifies JWTs, None if they are off. Raises OSError or ValueError by the key's file."""
    key = config.jwt_key(jwt)
    if not key:
        return None
    return SiteTokens(jwt.algorithm, key, jwt.claim, jwt.audience, jwt.issuer)

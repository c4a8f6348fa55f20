"""The TLS certificates of listening ports, which can be read again while they listen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet import endpoints
from twisted.internet.protocol import Factory, Protocol
from twisted.protocols.tls import TLSMemoryBIOFactory

from chatd.settings import endpoint, reason

Certificates = Callable[[Any], Any]


class _Listening:
    """Takes the reactor's place, to get from Twisted's own parser what makes connections."""

    def listenSSL(
        self, port: int, factory: Any, contextFactory: Any, backlog: int, interface: str
    ) -> Any:
        return TLSMemoryBIOFactory(contextFactory, False, factory)

    def listenTCP(self, port: int, factory: Any, backlog: int, interface: str) -> Any:
        return factory


def read(text: str) -> Certificates | None:
    """What an endpoint's connections are made with, read from its files; None without TLS.
    Raises ValueError with the reason, if they cannot be used."""
    if not endpoint(text).tls:
        return None
    found: list[Any] = []
    listening: Any = _Listening()
    try:
        ready = endpoints.serverFromString(listening, text).listen(Factory.forProtocol(Protocol))
        ready.addCallbacks(found.append, lambda failure: failure.raiseException())
        (factory,) = found
        made: Certificates = factory._creatorCallable
        if made(factory.buildProtocol(None)).get_certificate() is None:
            raise ValueError("there is no certificate with its key")
    except Exception as error:  # OpenSSL lets anything out
        raise ValueError(reason(error)) from error
    return made


def use(port: Any, certificates: Certificates) -> None:
    """New connections of a listening port get these; those that are open keep theirs."""
    port.factory._creatorCallable = certificates

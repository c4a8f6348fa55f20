"""The front end for HTTP on twisted.web: `POST /api/v1/COMMAND`, `/healthz`, `/readyz`,
`/metrics`."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Coroutine
from typing import Any, ClassVar

import msgspec
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.web import server
from twisted.web.resource import Resource

from chatd.dispatcher import Dispatcher
from chatd.errors import Code, Refused, Template
from chatd.frontends.channel import PLAIN, Channel, LimitedRequest
from chatd.languages import said_in
from chatd.node import Node
from chatd.registry import COMMANDS
from chatd.session import Session
from chatd.store.accounts import Login, digest, find_api_key
from chatd.wire.json import bad_request, unknown_command

_STATUS: dict[Code, int] = {
    "bad-request": 400,
    "unknown-command": 404,
    "unauthorized": 401,
    "forbidden": 403,
    "not-found": 404,
    "exists": 409,
    "not-a-member": 403,
    "muted": 403,
    "blocked": 403,
    "conflict": 409,
    "too-large": 413,
    "rate-limited": 429,
    "unavailable": 503,
    "internal": 500,
}


class Once:
    """The link of a session that is one request: nothing is sent but the answer."""

    live: ClassVar[bool] = False
    pings: ClassVar[bool] = False
    crowded = False

    def send(self, data: bytes) -> None:
        """Nothing."""

    def close(self, code: int, reason: Template) -> None:
        """Nothing."""

    def abort(self) -> None:
        """Nothing."""

    def ping(self, payload: bytes) -> None:
        """Nothing."""

    def pending(self) -> int:
        """Nothing."""
        return 0

    def hold(self, on: bool) -> None:
        """Nothing."""

    def finished(self) -> None:
        """Nothing."""


class _Json(Resource):
    """A resource that answers with JSON."""

    def answer(self, request: server.Request, data: bytes, status: int = 200) -> bytes:
        request.setResponseCode(status)
        request.setHeader(b"content-type", b"application/json")
        request.setHeader(b"cache-control", b"no-store")
        request.setHeader(b"x-content-type-options", b"nosniff")
        return without_body(request, data)

    def render(self, request: server.Request) -> Any:
        try:
            return super().render(request)
        except server.UnsupportedMethod as error:  # type: ignore[attr-defined]
            allowed = b", ".join(error.allowedMethods).decode()
            request.setHeader(b"allow", allowed.encode())
            refused = Refused("bad-request", "The method is {allowed}.", allowed=allowed)
            return self.answer(request, _sentence(request, refused), 405)

    def answer_later(
        self, node: Node, request: server.Request, work: Coroutine[Any, Any, bytes]
    ) -> int:
        """Answers with what `work` gives or the `Refused` that it raises, unless the client has
        gone by then."""
        gone: list[Failure] = []
        request.notifyFinish().addErrback(gone.append)

        def refused(failure: Failure) -> bytes:
            if isinstance(failure.value, Refused):
                return self.refuse(request, failure.value)
            node.log.failure("a request failed", failure)
            return self.refuse(request, Refused("internal", "The server made a mistake."))

        node.answering += 1
        done = Deferred.fromCoroutine(work)
        done.addErrback(refused)
        done.addCallback(lambda data: None if gone else _write(request, data))
        done.addErrback(self._lost, node, request)
        done.addBoth(self._answered, node)
        return int(server.NOT_DONE_YET)

    def _answered(self, result: object, node: Node) -> None:
        node.answering -= 1

    def _lost(self, failure: Failure, node: Node, request: server.Request) -> None:
        node.log.failure("an answer was lost", failure)
        request.loseConnection()

    def refuse(self, request: server.Request, refused: Refused) -> bytes:
        if refused.retry_after is not None:
            request.setHeader(b"retry-after", b"%d" % max(1, round(refused.retry_after)))
        if refused.code == "unauthorized":
            request.setHeader(b"www-authenticate", b"Bearer")
        return self.answer(request, _sentence(request, refused), _STATUS[refused.code])


def _sentence(request: Any, refused: Refused) -> bytes:
    return PLAIN.error(None, said_in(request.language, refused))


class NotFound(_Json):
    """What answers where nothing is."""

    isLeaf = True

    def render(self, request: server.Request) -> bytes:
        return self.refuse(request, Refused("not-found", "There is nothing here."))


class Branch(NotFound):
    """A place where nothing is but what is below it."""

    isLeaf = False

    def getChild(self, path: bytes, request: server.Request) -> Resource:
        return NotFound()


class Root(Branch):
    """The tree of resources."""

    def __init__(
        self, api: Resource, health: Resource, ready: Resource, measures: Resource
    ) -> None:
        super().__init__()
        v1 = Branch()
        v1.putChild(b"v1", api)
        self.putChild(b"api", v1)
        self.putChild(b"healthz", health)
        self.putChild(b"readyz", ready)
        self.putChild(b"metrics", measures)


class Health(_Json):
    """Whether the process lives."""

    isLeaf = True

    def render_GET(self, request: server.Request) -> bytes:
        return self.answer(request, b'{"ok":true}\n')


class Ready(_Json):
    """Whether clients may be sent here: the daemon does not stop, its database answers."""

    isLeaf = True

    def __init__(self, node: Node) -> None:
        super().__init__()
        self._node = node

    def render_GET(self, request: server.Request) -> Any:
        return self.answer_later(self._node, request, self._look(request))

    async def _look(self, request: server.Request) -> bytes:
        if self._node.stopping:
            raise Refused("unavailable", "The server stops.", 1.0)
        await self._node.store.check()
        return self.answer(request, b'{"ok":true}\n')


class Measures(NotFound):
    """What is measured, for a collector on this machine; to others nothing is here."""

    def __init__(self, text: Callable[[], bytes]) -> None:
        super().__init__()
        self._text = text

    def render(self, request: server.Request) -> bytes:
        if request.method not in (b"GET", b"HEAD") or not is_near(request.getClientAddress()):
            return super().render(request)
        request.setHeader(b"content-type", b"text/plain; version=0.0.4; charset=utf-8")
        return without_body(request, self._text())


def without_body(request: server.Request, data: bytes) -> bytes:
    """What is to be sent of a body: nothing of it for HEAD, which twisted.web would log."""
    if request.method != b"HEAD":
        return data
    request.setHeader(b"content-length", b"%d" % len(data))
    return b""


def is_near(address: Any) -> bool:
    """Whether a peer is on this machine; one on a Unix socket is."""
    host = getattr(address, "host", None)
    if host is None:
        return True
    try:
        found = ipaddress.ip_address(host)
    except ValueError:  # a PROXY header may say anything
        return False
    return (getattr(found, "ipv4_mapped", None) or found).is_loopback


class Api(_Json):
    """`POST /api/v1/COMMAND`: the parameters as a JSON object, `Authorization: Bearer` a
    user's token or an API key; the result as JSON."""

    isLeaf = True
    allowedMethods = (b"POST",)
    # twisted.web's would call a render_GET that is not there.
    render_HEAD: Any = None

    def __init__(self, node: Node, dispatcher: Dispatcher) -> None:
        super().__init__()
        self._node = node
        self._dispatcher = dispatcher

    def render_POST(self, request: LimitedRequest) -> Any:
        return self.answer_later(self._node, request, self._run(request))

    async def _run(self, request: LimitedRequest) -> bytes:
        address = getattr(request.getClientAddress(), "host", "local")  # a Unix socket has none
        session = self._node.session(Once(), PLAIN, address)
        session.accepted, request.asker = request.accepted, session
        # First, for who asks says in which language all else is refused.
        await self._authorise(session, request.getHeader(b"authorization"))
        result = await self._dispatcher.call(session, _decode(request))
        return self.answer(request, msgspec.json.encode(result))

    async def _authorise(self, session: Session, header: bytes | None) -> None:
        if header is None:
            return
        scheme, _, secret = header.decode(errors="replace").partition(" ")
        if scheme.lower() != "bearer" or not secret:
            raise Refused("unauthorized", "Authorization is: Bearer, a token or an API key.")
        refused = self._dispatcher.charge(session, 1)
        if refused is not None:
            raise refused
        hashed = digest(secret.strip())
        key = await self._node.store.read(find_api_key, hashed)
        if key is not None:
            session.scopes = key.scopes
            return
        await self._node.log_in(session, Login(self._node.millis(), token=hashed), replay=False)


def _decode(request: LimitedRequest) -> Any:
    name = b"/".join(request.postpath or ()).decode(errors="replace")
    if name not in COMMANDS:
        raise unknown_command(name)
    try:
        return msgspec.json.decode(request.content.read() or b"{}", type=COMMANDS[name].request)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise bad_request(error, name) from error


def _write(request: server.Request, data: bytes) -> None:
    request.write(data)
    request.finish()


def make_site(node: Node, dispatcher: Dispatcher, measures: Callable[[], bytes]) -> server.Site:
    """The site of one node; `measures` gives what `/metrics` shows."""
    site = server.Site(
        Root(Api(node, dispatcher), Health(), Ready(node), Measures(measures)),
        requestFactory=LimitedRequest,
        reactor=node.clock,
    )
    site.protocol = lambda: Channel(node)  # type: ignore[assignment,return-value]
    site.timeOut = None
    site.noisy = False
    return site

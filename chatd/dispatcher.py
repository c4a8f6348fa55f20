"""From a request to its reply: known, allowed, run, answered in order. Knows no protocol and
no command.

A session's requests are taken one after the other. A command that returns a Deferred has done
all that depends on the order; the next request begins then, and the replies still leave in
the order of the requests.
"""

from __future__ import annotations

import types
from collections import deque
from collections.abc import Coroutine, Generator
from types import CoroutineType
from typing import Any

import msgspec
from msgspec import Struct
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from chatd.errors import AWAY, CLOSE_CODES, SLOW_DOWN, Refused, Unavailable
from chatd.node import Context, Node
from chatd.rates import Bucket
from chatd.registry import BY_REQUEST, USERS
from chatd.session import Session, Wire


class Malformed(Struct, frozen=True):
    """What a wire makes of bytes that are no request: they are answered in their turn."""

    id: Any
    error: Refused


class _Reply:
    """A place in the queue of a session's replies; `data` is None until it is known."""

    __slots__ = ("data",)

    def __init__(self, data: bytes | None = None) -> None:
        self.data = data


class Dispatcher:
    """Runs the requests of all sessions."""

    _log = Logger()

    def __init__(self, node: Node) -> None:
        self._node = node
        self._send = node.hub.send

    def receive(self, session: Session, request: Any, wire: Wire) -> None:
        """Takes a request that a wire decoded; `wire` puts the reply into bytes."""
        node = self._node
        if session.heard != node.tick:
            node.cursors.prove(session)
            session.heard = node.tick
        if not (session.busy or session.requests):
            self._begin(session, request, wire)
        elif session.requests is None:
            session.requests = deque(((request, wire, node.tick),))
        else:
            session.requests.append((request, wire, node.tick))
        self._hold(session)

    async def call(self, session: Session, request: Any) -> Any:
        """Runs the one request of a session that sends no others; its result. Raises
        `Refused` only."""
        outcome = self._call(session, request)
        try:
            if type(outcome) is CoroutineType:
                (outcome,) = await outcome
            if isinstance(outcome, Deferred):
                outcome = await outcome
        except Exception:  # the border, as in _call
            outcome = self._refusal(Failure())
        if isinstance(outcome, Refused):
            raise outcome
        return outcome

    def idle(self, session: Session) -> bool:
        """Whether every request of the session has been answered."""
        return not (session.busy or session.requests or session.replies)

    def _hold(self, session: Session) -> None:
        replies, requests = session.replies, session.requests
        most = self._node.limits.requests_under_way
        if not (session.held or requests or (replies and len(replies) >= most)):
            return
        under_way = len(requests or ()) + len(replies or ()) + session.busy
        if (under_way >= most) != session.held:
            session.held = not session.held
            session.link.hold(session.held)

    def _begin(self, session: Session, request: Any, wire: Wire) -> None:
        outcome = self._call(session, request)
        if type(outcome) is not CoroutineType:
            self._answer(session, request.id, wire, outcome)
            return
        session.busy = True
        running = Deferred.fromCoroutine(outcome)
        running.addErrback(lambda failure: (self._refusal(failure),))
        running.addCallback(self._finished, session, request.id, wire)
        running.addErrback(self._lost)

    def _call(self, session: Session, request: Any) -> Any:
        """The result, a refusal, a Deferred result, or a coroutine that goes on waiting."""
        command = BY_REQUEST.get(type(request))
        over = self.charge(session, 1 if command is None else command.cost)
        if over is not None:
            return over
        if command is None:
            return request.error
        if command.audience == USERS and session.user is None:
            return _LOG_IN_FIRST
        if self._node.stopping:
            return _STOPPING
        context = Context(self._node, session)
        try:
            outcome = command.function(context, *msgspec.structs.astuple(request)[1:])
            return _started(outcome) if type(outcome) is CoroutineType else outcome
        except Refused as refused:
            return refused
        except Exception:  # the border: a command's fault is the caller's answer and our log
            return self._refusal(Failure())

    def charge(self, session: Session, cost: int) -> Refused | None:
        """Takes the cost of a request from what the session, its user and its place may ask
        for; the refusal if there is nothing left."""
        tick, user = self._node.tick, session.user
        for bucket in (session.bucket, None if user is None else user.bucket, session.place):
            if bucket is None:
                continue
            if bucket.tick != tick:
                bucket.refill(tick)
            if bucket.left <= 0:
                wait = bucket.wait()
                return Refused(
                    "rate-limited", "Too many requests. Wait {wait:.0f} s.", wait, wait=wait
                )
            bucket.left -= cost
        return None

    def _refusal(self, failure: Failure) -> Refused:
        if isinstance(failure.value, Refused):
            return failure.value
        self._log.failure("a command failed", failure)
        return Refused("internal", "The server made a mistake; it is in its log.")

    def _finished(self, outcome: tuple[Any], session: Session, request_id: Any, wire: Wire) -> None:
        session.busy = False
        try:
            self._answer(session, request_id, wire, outcome[0])
        finally:
            self.go_on(session)
        self._settled(session)

    def go_on(self, session: Session) -> None:
        """Takes the requests that waited, unless the client has yet to read what it asked
        for."""
        node = self._node
        while session.requests and not (session.busy or session.ended or session.paused):
            request, wire, tick = session.requests.popleft()
            if tick < node.tick and not node.store.usable:
                # One after the other, each would wait for the database as long as it may.
                self._answer(session, request.id, wire, Unavailable(AWAY))
            else:
                self._begin(session, request, wire)
        if not session.ended:
            self._hold(session)

    def _answer(self, session: Session, request_id: Any, wire: Wire, outcome: Any) -> None:
        if isinstance(outcome, Deferred):
            reply = _Reply()
            if session.replies is None:
                session.replies = deque()
            session.replies.append(reply)
            place = (session, reply, request_id, wire)
            outcome.addCallbacks(self._fill, self._fill_refusal, place, {}, place)
            outcome.addErrback(self._lost)
            return
        data = self._encode(request_id, wire, outcome)
        if session.replies:
            session.replies.append(_Reply(data))
        elif data:
            self._send(session, data)
        if isinstance(outcome, Refused) and outcome.code in _MISTAKES:
            self._count_mistake(session)

    def _count_mistake(self, session: Session) -> None:
        node = self._node
        if session.mistakes is None:
            session.mistakes = Bucket(node.rates.mistakes, node.tick)
        session.mistakes.refill(node.tick)
        session.mistakes.left -= 1
        if session.mistakes.left < 1:
            session.link.close(SLOW_DOWN, CLOSE_CODES[SLOW_DOWN])

    def _encode(self, request_id: Any, wire: Wire, outcome: Any) -> bytes:
        try:
            if isinstance(outcome, Refused):
                return wire.error(request_id, outcome)
            return wire.reply(request_id, outcome)
        except Exception:  # the border, as in _call
            return wire.error(request_id, self._refusal(Failure()))

    def _fill(
        self, outcome: Any, session: Session, reply: _Reply, request_id: Any, wire: Wire
    ) -> None:
        reply.data = self._encode(request_id, wire, outcome)
        replies = session.replies
        while replies and replies[0].data is not None:
            data = replies.popleft().data
            if data:
                self._send(session, data)
        if session.held:
            self._hold(session)
        self._settled(session)

    def _fill_refusal(self, failure: Failure, *place: Any) -> None:
        self._fill(self._refusal(failure), *place)

    def _settled(self, session: Session) -> None:
        if session.finishing and self.idle(session):
            self._node.hub.flush()
            session.link.finished()

    def _lost(self, failure: Failure) -> None:
        self._log.failure("a reply was lost", failure)


_MISTAKES = frozenset(("bad-request", "unknown-command", "rate-limited", "unauthorized"))
_LOG_IN_FIRST = Refused("unauthorized", "Log in first.")
_STOPPING = Refused("unavailable", "The server restarts.", 1.0)


def _started(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Runs a coroutine to its end, or to where it first waits: then what is left of it.

    Most commands find what they need in memory; those need no Deferred.
    """
    try:
        waiting = coroutine.send(None)
    except StopIteration as done:
        return done.value
    return _rest(coroutine, waiting)


async def _rest(coroutine: Coroutine[Any, Any, Any], waiting: Any) -> tuple[Any]:
    """A tuple, for the result may be a Deferred, and a Deferred cannot hold one."""
    return (await _go_on(coroutine, waiting),)


@types.coroutine
def _go_on(coroutine: Coroutine[Any, Any, Any], waiting: Any) -> Generator[Any, Any, Any]:
    try:
        while True:
            try:
                value = yield waiting
            except Exception as error:
                waiting = coroutine.throw(error)
            else:
                waiting = coroutine.send(value)
    except StopIteration as done:
        return done.value

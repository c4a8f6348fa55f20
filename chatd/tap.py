"""Puts the daemon together: `twistd chatd` begins here, and here alone is the reactor."""

from __future__ import annotations

import gc
import math
import os
import resource
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, ClassVar, NoReturn

from twisted.application import strports
from twisted.application.service import IService, MultiService, Service
from twisted.internet.address import UNIXAddress
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.error import CannotListenError
from twisted.logger import Logger
from twisted.python import usage

from chatd import __version__, certificates, config, logs, systemd
from chatd.certificates import Certificates
from chatd.config import Config, ConfigError
from chatd.dispatcher import Dispatcher
from chatd.frontends.http import make_site
from chatd.frontends.tcp import LineFactory
from chatd.frontends.web import WebFactory
from chatd.frontends.websocket import ChatFactory
from chatd.heartbeat import BEATS, Heartbeat
from chatd.metrics import Metrics
from chatd.node import Node
from chatd.reload import Reload, site_tokens
from chatd.signals import Signals
from chatd.store import schema
from chatd.store.claim import Claimed, claim
from chatd.store.dialects import dialect

_BAD_CONFIG = 78  # sysexits.h: EX_CONFIG; the unit does not restart after it
_GC_THRESHOLD = 20_000  # objects; a batch of 500 messages makes some 5,000
# Seconds until a thread of the database's gets the interpreter from the busy reactor. Against
# Python's 5 ms: a tenth more messages where many wait, a twentieth fewer where few do.
_SWITCH_INTERVAL = 0.001
_OWN_DESCRIPTORS = 100  # for the database, the log, the ports
_SHORTEST_WATCHDOG = 2 / BEATS  # seconds
_UNDONE = 1
_STOP_SECONDS = 9.0  # until what still hangs is left behind
_UNAVAILABLE = 69  # EX_UNAVAILABLE


class Options(usage.Options):
    """The command line of `twistd chatd`."""

    synopsis = "[options]"
    longdesc = "Real-time chat and message push over WebSocket, TCP lines and HTTP."
    optParameters: ClassVar[list[list[Any]]] = [
        ["config", "c", None, "the configuration file (TOML); see etc/chatd.toml"],
        ["state", None, None, "the directory for what is kept"],
        ["store", None, None, "the database: sqlite:///PATH or mysql://USER:PASSWORD@HOST/NAME"],
    ]
    optFlags: ClassVar[list[list[Any]]] = [["check", None, "check the configuration and exit"]]

    def __init__(self) -> None:
        super().__init__()
        self["http"] = []
        self["tcp"] = []

    def opt_http(self, endpoint: str) -> None:
        """an endpoint for WebSocket and HTTP, such as tcp:8080; may be repeated"""
        self["http"].append(endpoint)

    def opt_tcp(self, endpoint: str) -> None:
        """an endpoint for lines over TCP, such as tcp:7000; may be repeated"""
        self["tcp"].append(endpoint)

    def opt_version(self) -> None:
        """show chatd's version and exit"""
        print(f"chatd {__version__}")
        raise SystemExit(0)

    def load(self) -> Config:
        """Reads the configuration. Raises `ConfigError`."""
        return config.load(self["config"], os.environ, self)

    def postOptions(self) -> None:
        """Reads the configuration; all its mistakes are told at once, exit code 78."""
        try:
            self.settings = self.load()
        except ConfigError as error:
            _leave(_BAD_CONFIG, *error.mistakes)
        if self["check"]:
            for warning in config.warnings(os.environ):
                print(warning)
            print("The configuration is good.")
            raise SystemExit(0)


def _leave(code: int, *sentences: str) -> NoReturn:
    for sentence in sentences:
        print(f"chatd: {sentence}", file=sys.stderr)
    raise SystemExit(code)


class Daemon(MultiService):
    """Listens while it runs; stops in order: no new clients, then the node."""

    log = Logger()

    def __init__(self, reactor: Any, node: Node, heartbeat: Heartbeat, claim: object) -> None:
        super().__init__()
        self._reactor = reactor
        self._claim = claim  # kept as long as the process lives
        self._node = node
        self._heartbeat = heartbeat

    def startService(self) -> None:
        """Starts the node; the ports are open already."""
        self._node.start()
        self._heartbeat.start()
        # What is loaded stays; a hundred thousand sessions must not be walked every second.
        gc.freeze()
        gc.set_threshold(_GC_THRESHOLD, 20, 50)
        sys.setswitchinterval(_SWITCH_INTERVAL)
        super().startService()
        # Whoever hears of it may send a signal, which is handled only from then on.
        self._reactor.callWhenRunning(self._tell)

    def _tell(self) -> None:
        for listener in self:
            listener.tell()
        systemd.notify("READY=1", "STATUS=serving")

    def stopService(self) -> Deferred[None]:
        """Fires when all is stored, told and closed. Whatever hangs, the process ends."""
        systemd.notify("STOPPING=1")
        # A thread: the reactor waits for the pools' threads without a turn, and the interpreter
        # for what is left of them.
        deadline = threading.Timer(_STOP_SECONDS, self._leave_behind)
        deadline.daemon = True
        deadline.start()
        self._heartbeat.stop()
        listening = super().stopService()
        node = Deferred.fromCoroutine(self._node.stop())
        done = gatherResults([listening, node], consumeErrors=True)
        return done.addCallback(lambda results: None)

    def _leave_behind(self) -> None:
        try:
            self.log.error(
                "not stopped after {seconds} seconds; left behind: {sessions} sessions, {threads}",
                seconds=_STOP_SECONDS,
                sessions=len(self._node.hub.sessions),
                threads=", ".join(t.name for t in threading.enumerate() if not t.daemon),
            )
        finally:
            os._exit(_UNDONE)


class Listener(Service):
    """A listening port on an endpoint."""

    log = Logger()

    def __init__(self, endpoint: str, service: Any, told: str, foreground: bool) -> None:
        self.endpoint = endpoint
        self._service = service
        self._foreground = foreground
        self._told = told

    def privilegedStartService(self) -> None:
        """Opens the port; leaves with a sentence if it cannot be opened. A daemon in the
        background has nobody to tell but twistd, which waits for it."""
        try:
            self._service.privilegedStartService()
        except CannotListenError as error:
            if not self._foreground:
                raise
            _leave(_UNAVAILABLE, str(error))

    def startService(self) -> None:
        """Opens the port, unless it is open."""
        self._service.startService()

    def stopService(self) -> Any:
        """Closes the port."""
        return self._service.stopService()

    def tell(self) -> None:
        """Tells where clients connect."""
        self._with_port(self._tell)

    def use(self, found: Certificates) -> None:
        """New connections get these certificates."""
        self._with_port(lambda port: certificates.use(port, found))

    def _with_port(self, work: Callable[[Any], None]) -> None:
        def done(port: Any) -> Any:
            work(port)
            return port

        self._service._waitingForPort.addCallback(done)

    def _tell(self, port: Any) -> None:
        for line in self._told.splitlines():
            self.log.info(line, **_place(port))


_TOLD_HTTP = "WebSocket  {ws}://{place}/ws\nHTTP API   {http}://{place}/api/v1/"
_TOLD_LINES = "TCP lines  {telnet}"


def _place(port: Any) -> dict[str, str]:
    """Where a port is, in the words of `_TOLD_HTTP` and `_TOLD_LINES`."""
    tls = getattr(port, "_type", "") == "TLS"  # as Twisted's own log has it
    address = port.getHost()
    if isinstance(address, UNIXAddress):
        path = os.fsdecode(address.name or b"")
        place, telnet = f"unix:{path}:", f"nc -U {path}"
    else:
        host = f"[{address.host}]" if ":" in address.host else address.host
        place, telnet = f"{host}:{address.port}", f"telnet {address.host} {address.port}"
    return {
        "place": place,
        "telnet": telnet,
        "ws": "wss" if tls else "ws",
        "http": "https" if tls else "http",
    }


def makeService(options: Options) -> IService:
    """The daemon as a service. Leaves with a sentence and an exit code of its own where the
    configuration or the database is not good."""
    from twisted.internet import reactor

    settings: Config = options.settings
    for warning in config.warnings(os.environ):
        Daemon.log.warn("{warning}", warning=warning)
    descriptors = _raise_descriptor_limit(settings.limits.connections)
    # The wall clock may jump, and with it all timers.
    reactor.seconds = time.monotonic  # type: ignore[method-assign]
    node, claim = _node(settings, reactor, descriptors)
    dispatcher = Dispatcher(node)
    metrics = Metrics(node)
    heartbeat = Heartbeat(node, _feed_watchdog, metrics.lagged, _watchdog_seconds())
    daemon = Daemon(reactor, node, heartbeat, claim)
    listen = settings.listen
    chat = ChatFactory(reactor, node, dispatcher, listen.origins, listen.deflate)
    site = make_site(node, dispatcher, metrics.text)
    web = WebFactory(node, chat.buildProtocol, site.buildProtocol)
    lines = LineFactory(node, dispatcher)
    foreground = options.parent is None or bool(options.parent["nodaemon"])
    listeners = [
        Listener(endpoint, _service(endpoint, factory, reactor), told, foreground)
        for endpoints, factory, told in (
            (settings.listen.http, web, _TOLD_HTTP),
            (settings.listen.tcp, lines, _TOLD_LINES),
        )
        for endpoint in endpoints
    ]
    for listener in listeners:
        listener.setServiceParent(daemon)
    observer = logs.observing(settings.log.format, settings.log.level, options.parent)
    reload = Reload(settings, options.load, node, chat, listeners, observer)
    reactor.callWhenRunning(Signals(reactor, reload).install)
    return logs.start(daemon, observer)


def _feed_watchdog() -> None:
    systemd.notify("WATCHDOG=1")


def _watchdog_seconds() -> float:
    """Seconds within which the supervisor wants to hear that the daemon lives."""
    seconds = systemd.watchdog_seconds()
    if seconds is None:
        return math.inf
    if seconds < _SHORTEST_WATCHDOG:
        Daemon.log.warn(
            "WatchdogSec is {seconds} seconds, and must not be less than {shortest}",
            seconds=seconds,
            shortest=_SHORTEST_WATCHDOG,
        )
    return seconds


def _service(endpoint: str, factory: Any, reactor: Any) -> Any:
    try:
        certificates.read(endpoint)
        return strports.service(endpoint, factory, reactor)
    except (ValueError, LookupError, OSError) as error:  # such as no socket from systemd
        _leave(_BAD_CONFIG, f"{endpoint} cannot be listened on: {error}")


def _raise_descriptor_limit(connections: int) -> int:
    """Lets the process have as many descriptors as it may, and tells if that is too few. How
    many of them are for connections."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    most = (sys.maxsize if hard == resource.RLIM_INFINITY else hard) - _OWN_DESCRIPTORS
    if most < connections:
        Daemon.log.info(
            "limits.connections is {connections}, but the process may have only {hard} files"
            " open: raise LimitNOFILE or lower the limit",
            connections=connections,
            hard=hard,
        )
    return most


def _node(settings: Config, reactor: Any, descriptors: int) -> tuple[Node, object]:
    state = config.state_directory(settings.state, os.environ)
    url = config.store_url(settings.store.url, state)
    try:
        if url.kind == "sqlite":
            config.create_state_directory(state)
        _check_schema(url)
        store_claim = _claimed(url)
    except ConfigError as error:
        _leave(_BAD_CONFIG, *error.mistakes)
    except schema.UpgradeRefused as error:
        _leave(_BAD_CONFIG, str(error))
    except Claimed as error:
        _leave(_UNAVAILABLE, str(error))
    node = Node(
        reactor,
        time.time,
        dialect(url),
        settings.store.connections,
        settings.accounts,
        settings.limits,
        settings.heartbeat,
        site_tokens(settings.jwt),
        descriptors,
        messages=settings.messages,
        presence=settings.presence,
    )
    return node, store_claim


def _claimed(url: config.StoreURL) -> object:
    try:
        return claim(url)
    except _errors(url) as error:
        _leave(_UNAVAILABLE, _unusable(url, error))


def _errors(url: config.StoreURL) -> tuple[type[Exception], ...]:
    return (*dialect(url).errors, OSError)


def _unusable(url: config.StoreURL, error: Exception) -> str:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else error
    return f"the database {url} cannot be used: {reason}"


def _check_schema(url: config.StoreURL) -> None:
    """SQLite migrates by itself; on MySQL the operator decides when."""
    try:
        state = schema.state(url)
        if state is schema.State.CURRENT:
            return
        if url.kind == "sqlite":
            schema.upgrade(url)
            return
        found = schema.revision(url) or "nothing"
    except _errors(url) as error:
        _leave(_UNAVAILABLE, _unusable(url, error))
    remedy = "run a newer chatd" if state is schema.State.NEWER else "run chatctl db upgrade"
    raise schema.UpgradeRefused(
        f"the schema is at {found}, this chatd knows {schema.head()}: {remedy}"
    )

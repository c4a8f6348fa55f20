"""Turns log events into lines that nobody can forge: text for people, JSON for programs."""

from __future__ import annotations

import json
import os
import re
import select
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any, Literal

from twisted.application.service import IService, MultiService
from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent, formatTime
from twisted.python.components import Componentized
from twisted.python.failure import Failure
from twisted.python.logfile import LogFile
from zope.interface import implementer

Format = Literal["text", "json"]
Level = Literal["debug", "info", "warn", "error"]
Write = Callable[[bytes], object]

# What ends a line somewhere, moves a cursor or reorders what is read, and what UTF-8 cannot hold.
_CONTROL = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def start(service: IService, observer: ILogObserver | None) -> IService:
    """Return ``service``, wrapped so that twistd logs through ``observer``, unless that is None.

    For the end of ``makeService``. twistd looks for its log observer among the components of the
    application after ``makeService``, when it gave the service its parent; so that is the moment
    at which the wrapper leaves ours there. twistd then makes none of its own, replays to ours
    what was logged until then, and sends it what is printed to the standard streams. Nothing is
    duplicated, because there is one observer.
    """
    if observer is None:
        return service
    logged = _Logged(observer)
    service.setServiceParent(logged)
    return logged


def observing(format: Format, level: Level, twistd: Mapping[str, Any] | None) -> Observer | None:
    """An observer that writes where twistd would; None where somebody else decides.

    ``twistd`` is ``options.parent``, twistd's own options, or None where another program makes
    the service. ``--logger`` and ``--syslog`` are stronger than we are; ``--logfile`` keeps its
    meaning. Raises OSError if the log file cannot be opened.
    """
    if twistd is None or _decided(twistd):
        return None
    return Observer(format, level, _destination(twistd))


def as_text(event: LogEvent) -> bytes:
    """``2026-11-20T08:00:00+0000 [info] chatd.tap: sentence``, a traceback indented below it.

    Control characters become escapes like ``\\n``, ``\\x1b`` and ``\\u2028``; backslashes stay as
    they are, because nothing reads these lines back.
    """
    when = formatTime(event.get("log_time"))
    lines = [f"{when} [{_level(event)}] {_namespace(event)}: {_sentence(event)}"]
    if (failure := _failure(event)) is not None:
        lines += ["    " + line for line in failure.getTraceback().rstrip("\n").split("\n")]
    return "".join(_CONTROL.sub(_escape, line) + "\n" for line in lines).encode()


def as_json(event: LogEvent) -> bytes:
    """One ASCII line: an object of time (ISO 8601, UTC), level, namespace, text, and failure
    (a traceback) where there is one.
    """
    seconds = event.get("log_time")
    when = None if seconds is None else datetime.fromtimestamp(seconds, UTC)
    record = {
        "time": when and when.isoformat(timespec="milliseconds"),
        "level": _level(event),
        "namespace": _namespace(event),
        "text": _sentence(event),
    }
    if (failure := _failure(event)) is not None:
        record["failure"] = failure.getTraceback()
    return json.dumps(record).encode() + b"\n"


class _Logged(MultiService):
    """Holds the daemon's service and gives the application it gets as parent the observer."""

    def __init__(self, observer: ILogObserver) -> None:
        super().__init__()
        self._observer = observer

    def setServiceParent(self, parent: object) -> None:
        if isinstance(parent, Componentized):
            parent.setComponent(ILogObserver, self._observer)
        super().setServiceParent(parent)


@implementer(ILogObserver)
class Observer:
    """Hands ``write`` one encoded record per event of at least ``level``.

    ``write`` may raise OSError or ValueError: the event is lost, and the next one that can be
    written is preceded by a record of how many were.
    """

    def __init__(self, format: Format, level: Level, write: Write) -> None:
        self._write = write
        self._lost = 0
        self.apply(format, level)

    def apply(self, format: Format, level: Level) -> None:
        """Writes in this format, from this level up, from now on."""
        self._render = _RENDER[format]
        self._least = LogLevel.levelWithName(level)

    def reopen(self) -> None:
        """Opens a log file anew, which may have been moved away. Raises OSError if that fails,
        and goes on with the file that is open."""
        if isinstance(self._write, _File):
            self._write.reopen()

    def __call__(self, event: LogEvent) -> None:
        level = event.get("log_level")
        if level is None or level < self._least:
            return
        try:
            if self._lost:
                self._write(self._render(_loss(self._lost)))
                self._lost = 0
            self._write(self._render(event))
        except (OSError, ValueError):  # a full disk, a reader that left or sleeps, a closed file
            self._lost += 1


_RENDER: dict[Format, Callable[[LogEvent], bytes]] = {"text": as_text, "json": as_json}


class _File:
    """Writes to a log file."""

    def __init__(self, name: str) -> None:
        self._path = os.path.abspath(name)  # twistd may yet change the directory
        self._file = LogFile.fromFullPath(self._path)

    def __call__(self, record: bytes) -> None:
        self._file.write(record)

    def reopen(self) -> None:
        """Opens it anew; OSError leaves all as it is."""
        moved, self._file = self._file, LogFile.fromFullPath(self._path)
        moved.close()


class _Descriptor:
    """Writes whole records to a file descriptor; ends a torn one before the next. Never waits
    for a reader: OSError if there is no room."""

    def __init__(self, descriptor: int) -> None:
        self._write = partial(os.write, descriptor)
        self._room = select.poll()
        self._room.register(descriptor, select.POLLOUT)
        self._torn = False

    def __call__(self, record: bytes) -> None:
        rest = b"\n" + record if self._torn else record
        while rest:
            # Not O_NONBLOCK: other processes may have the same terminal or pipe.
            if not self._room.poll(0):
                raise BlockingIOError
            rest = rest[self._write(rest[: select.PIPE_BUF]) :]
            self._torn = bool(rest)


def _decided(twistd: Mapping[str, Any]) -> bool:
    """Whether twistd's command line leaves us no choice, or is one that twistd will refuse."""
    refused = twistd["logfile"] == "-" and not twistd["nodaemon"]
    return bool(twistd["logger"] or twistd.get("syslog") or refused)


def _destination(twistd: Mapping[str, Any]) -> Write:
    """Where twistd would log to."""
    name = twistd["logfile"]
    if name in (None, "", "-") and twistd["nodaemon"]:
        return _standard_output()
    return _File(name or "twistd.log")


def _standard_output() -> Write:
    """The descriptor itself: twistd replaces `sys.stdout`, and a buffer fails late and twice."""
    if sys.__stdout__ is None:  # closed: descriptor 1 may be anything by now, a database too
        return len
    return _Descriptor(1)


def _loss(count: int) -> LogEvent:
    return {
        "log_time": time.time(),
        "log_level": LogLevel.warn,
        "log_namespace": __name__,
        "log_format": "{count} log events could not be written.",
        "count": count,
    }


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()


def _level(event: LogEvent) -> str:
    level = event.get("log_level")
    return level.name if level is not None else "info"


def _namespace(event: LogEvent) -> str:
    name = event.get("log_namespace", "-")
    return "twisted" if name == "log_legacy" else str(name)


def _sentence(event: LogEvent) -> str:
    """The event's text, or the error's where an event has nothing but a failure.

    The text of an event of `twisted.python.log.err` is its whole traceback: not that.
    """
    text = str(event.get("why") or "") if _is_legacy_error(event) else formatEvent(event)
    failure = _failure(event)
    if text or failure is None:
        return text or "-"
    return f"{type(failure.value).__name__}: {failure.getErrorMessage()}"


def _failure(event: LogEvent) -> Failure | None:
    found = event.get("failure" if _is_legacy_error(event) else "log_failure")
    return found if isinstance(found, Failure) else None


def _is_legacy_error(event: LogEvent) -> bool:
    return "log_failure" not in event and bool(event.get("isError")) and "failure" in event

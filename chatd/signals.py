"""What signals do: end in order, end at once, read the configuration again."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

from twisted.logger import Logger


class Signals:
    """SIGTERM and SIGINT stop the reactor, so that the process ends with 0; a second one ends
    it with 1, whatever hangs. SIGHUP calls `reload` in the reactor's thread."""

    _log = Logger()

    def __init__(self, reactor: Any, reload: Callable[[], object]) -> None:
        self._reactor = reactor
        self._reload = reload
        self._asked = 0
        self._interactive = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN and _terminal()

    def install(self) -> None:
        """Takes the signals over from the reactor, which must run: it handles some by itself,
        and then lets the process die by them when all is done."""
        signal.signal(signal.SIGTERM, self._end)
        signal.signal(signal.SIGHUP, self._hang_up)
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, self._end)

    def _end(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        self._asked += 1
        if self._asked == 1:
            self._reactor.callFromThread(self._stop, name)
            return
        # Not in the reactor's turn: it may be the reactor that hangs. Nothing that was
        # acknowledged is lost, it is committed.
        if self._asked == 2:  # the log may hang, too
            self._log.warn("{name} again: ending at once", name=name)
        os._exit(1)

    def _stop(self, name: str) -> None:
        self._log.info("{name}: stopping", name=name)
        self._reactor.stop()

    def _hang_up(self, number: int, frame: FrameType | None) -> None:
        if self._interactive and not _terminal():
            self._end(number, frame)  # whoever ran us in a terminal has closed it
        elif not self._asked:
            self._reactor.callFromThread(self._reload)


def _terminal() -> bool:
    """Whether the process has a controlling terminal."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True

"""Tells systemd how the daemon is doing: the sd_notify(3) protocol, one datagram per report."""

import os
import socket
from collections.abc import Mapping

# A full receive queue of the supervisor may hold the reactor up for this long (seconds), not more.
_PATIENCE = 1.0


def notify(*lines: str, environ: Mapping[str, str] = os.environ) -> bool:
    """Report ``lines`` such as ``READY=1`` or ``STATUS=42 sessions``; say whether they were sent.

    Without ``NOTIFY_SOCKET`` nobody listens and nothing is done. Never raises: a supervisor that
    cannot be reached is no reason to stop serving.
    """
    path = environ.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):
        return False
    # "@" stands for the NUL byte that begins a name in Linux's abstract namespace.
    address = "\0" + path[1:] if path.startswith("@") else path
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
            supervisor.settimeout(_PATIENCE)
            supervisor.connect(address)
            supervisor.sendall("\n".join(lines).encode("utf-8", "replace"))
    except OSError:
        return False
    return True


def watchdog_seconds(environ: Mapping[str, str] = os.environ) -> float | None:
    """Seconds within which systemd expects the next ``WATCHDOG=1``; None if it expects none.

    Report at half this interval, as sd_watchdog_enabled(3) advises.
    """
    try:
        seconds = int(environ.get("WATCHDOG_USEC", "")) / 1_000_000
        expected = int(environ.get("WATCHDOG_PID", os.getpid()))
    except ValueError:
        return None
    return seconds if seconds > 0 and expected == os.getpid() else None

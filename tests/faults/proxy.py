"""A TCP proxy on the loopback interface that does to connections what networks do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from tests.faults.actors import reset_on_close

_HIGH = 256 * 1024  # bytes that wait for one peer until the other is not read from
_SLICES = 20  # in a second of a throttled connection
_COM_QUERY = 3  # MySQL's command byte, behind a head of four


class Proxy:
    """Passes bytes between clients of `port` and the server at `upstream()`, a port of this
    machine or the path of a socket, until it is told otherwise."""

    def __init__(self, upstream: Callable[[], int | str]) -> None:
        self.port = 0
        self.connections: list[Connection] = []
        self._upstream = upstream
        self._server: asyncio.Server | None = None
        self._swallow: tuple[bytes, asyncio.Event] | None = None
        self._stalled = False

    async def start(self) -> None:
        """Begins to listen, on a free port."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    def close(self) -> None:
        """Ends all."""
        if self._server is not None:
            self._server.close()
        self.reset()

    def stall(self) -> None:
        """Reads from nobody; what comes stays in the kernel."""
        self._stalled = True
        for connection in self.connections:
            connection.stall()

    def go_on(self) -> None:
        """Reads again."""
        self._stalled = False
        for connection in self.connections:
            connection.go_on()

    def cut(self) -> None:
        """Closes the connections in good order (FIN)."""
        for connection in list(self.connections):
            connection.cut()

    def reset(self) -> None:
        """Resets the connections (RST)."""
        for connection in list(self.connections):
            connection.reset()

    def truncate(self, size: int) -> None:
        """Cuts each connection when `size` more bytes have gone to its client."""
        for connection in self.connections:
            connection.left = size

    def throttle(self, rate: int) -> None:
        """Lets `rate` bytes a second through to each client."""
        for connection in self.connections:
            connection.throttle(rate)

    def blackhole(self, *, up: bool = False, down: bool = False) -> None:
        """Takes what the clients (up) or the server (down) of the present connections send,
        and even their end, and passes nothing on. New connections are served."""
        for connection in self.connections:
            connection.client.lost |= up
            connection.server.lost |= down

    def swallow(self, command: bytes) -> asyncio.Event:
        """The next SQL command that begins so reaches the server, its answer nobody: the
        connection is reset when the answer comes, and the event set."""
        done = asyncio.Event()
        self._swallow = (command, done)
        return done

    def doomed(self, data: bytes) -> asyncio.Event | None:
        """Whether the answer to these bytes is to be swallowed: the event to set."""
        if self._swallow is None or len(data) < 5 or data[4] != _COM_QUERY:
            return None
        command, done = self._swallow
        if not data[5:].lstrip().startswith(command):
            return None
        self._swallow = None
        return done

    def _accept(self) -> asyncio.Protocol:
        connection = Connection(self, self._upstream)
        self.connections.append(connection)
        if self._stalled:
            connection.stall()
        return connection.client


class End(asyncio.Protocol):
    """One of a connection's two ends; `lost`: what it sends goes nowhere."""

    def __init__(self, connection: Connection) -> None:
        self.lost = False
        self.transport: asyncio.Transport | None = None
        self._connection = connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(_HIGH)
        self._connection.connected(self)

    def data_received(self, data: bytes) -> None:
        if not self.lost:
            self._connection.passed(self, data)

    def eof_received(self) -> bool:
        if not self.lost:
            self._connection.cut()
        return True

    def connection_lost(self, reason: Exception | None) -> None:
        self.transport = None
        if not self.lost:
            self._connection.ended(self, reason)

    def pause_writing(self) -> None:
        self._connection.other(self).pause(True)

    def resume_writing(self) -> None:
        self._connection.other(self).pause(False)

    def pause(self, on: bool) -> None:
        """Stops reading, or goes on."""
        if self.transport is None or self.transport.is_closing():
            return
        if on:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()


class Connection:
    """A client's connection and the one to the server that serves it; `left`: how many bytes
    may go to the client, None: all."""

    def __init__(self, proxy: Proxy, upstream: Callable[[], int | str]) -> None:
        self.client, self.server = End(self), End(self)
        self.left: int | None = None
        self._proxy = proxy
        self._upstream = upstream
        self._early = b""  # what the client sent before the server was there
        self._doomed: asyncio.Event | None = None
        self._stalled = False
        self._rate = 0
        self._slow = b""

    def other(self, end: End) -> End:
        """The end across."""
        return self.server if end is self.client else self.client

    def connected(self, end: End) -> None:
        """An end is there; the server's is made when the client's is."""
        if end is self.client:
            asyncio.get_running_loop().create_task(self._connect())
            return
        assert end.transport is not None
        end.transport.write(self._early)
        if self._stalled:
            self.stall()

    async def _connect(self) -> None:
        loop, where = asyncio.get_running_loop(), self._upstream()
        try:
            if isinstance(where, str):
                await loop.create_unix_connection(lambda: self.server, where)
            else:
                await loop.create_connection(lambda: self.server, "127.0.0.1", where)
        except OSError:
            self.reset()

    def passed(self, end: End, data: bytes) -> None:
        """Bytes came from an end."""
        if end is self.client:
            self._doomed = self._doomed or self._proxy.doomed(data)
            if self.server.transport is None:
                self._early += data
            else:
                self.server.transport.write(data)
            return
        if self._doomed is not None:
            self._doomed.set()
            self.reset()
        elif self._rate:
            self._slow += data
            self.server.pause(len(self._slow) > _HIGH)
        else:
            self._down(data)

    def _down(self, data: bytes) -> None:
        if self.client.transport is None:
            return
        if self.left is not None:
            data, self.left = data[: self.left], self.left - len(data)
        self.client.transport.write(data)
        if self.left is not None and self.left <= 0:
            self.cut()

    def throttle(self, rate: int) -> None:
        """Lets so many bytes a second through to the client."""
        if not self._rate:
            asyncio.get_running_loop().call_later(1 / _SLICES, self._trickle)
        self._rate = rate

    def _trickle(self) -> None:
        if self.client.transport is None:
            return
        size = max(1, self._rate // _SLICES)
        data, self._slow = self._slow[:size], self._slow[size:]
        self._down(data)
        self.server.pause(len(self._slow) > _HIGH)
        asyncio.get_running_loop().call_later(1 / _SLICES, self._trickle)

    def stall(self) -> None:
        """Reads from neither end."""
        self._stalled = True
        self.client.pause(True)
        self.server.pause(True)

    def go_on(self) -> None:
        """Reads from both ends."""
        self._stalled = False
        self.client.pause(False)
        self.server.pause(False)

    def cut(self) -> None:
        """Closes both ends when they have what was passed to them."""
        for end in (self.client, self.server):
            if end.transport is not None:
                end.transport.close()
        self._gone()

    def reset(self) -> None:
        """Resets both ends."""
        for end in (self.client, self.server):
            if end.transport is not None:
                if not isinstance(end.transport.get_extra_info("sockname"), str):
                    reset_on_close(end.transport)
                end.transport.abort()
        self._gone()

    def ended(self, end: End, reason: Exception | None) -> None:
        """An end is gone: as it ended the other one ends, unless nothing reaches it."""
        if self.other(end).lost:
            self._gone()
            return
        if reason is None:
            self.cut()
        else:
            self.reset()

    def _gone(self) -> None:
        if self in self._proxy.connections:
            self._proxy.connections.remove(self)

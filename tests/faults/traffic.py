"""Load: a crowd in groups that says as much as it may, and one that only asks for the time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from tests.faults.actors import Client
from tests.faults.stage import POLL, Daemon, Stage

_CIRCLE = 5  # members of a group: each message has four hearers and its sender
_DIRECT = 5  # every so many messages one is to a neighbour alone
_PROBE_SECONDS = 0.02
_PATIENCE = 2.0  # seconds of a round trip that count as much as any longer one


class Crowd:
    """Clients in groups of five, who talk while they are told to."""

    def __init__(self, stage: Stage, clients: Sequence[Client]) -> None:
        self.clients = clients
        self.groups = [f"#g{number}" for number in range(-(-len(clients) // _CIRCLE))]
        self._stage = stage
        self._talking: asyncio.Task[None] | None = None
        self._said = 0

    async def gather(self) -> None:
        """Makes the groups."""
        for number, group in enumerate(self.groups):
            members = self.clients[number * _CIRCLE : (number + 1) * _CIRCLE]
            await self._stage.group(group, members)
        for client in self.clients:
            client.view.since[self._direct(client)] = 0

    def _direct(self, client: Client) -> str:
        return f"@{client.name}+{self._neighbour(client)}"

    def _neighbour(self, client: Client) -> str:
        return self.clients[self.clients.index(client) ^ 1].name

    def meet(self) -> None:
        """Each greets the group and a neighbour."""
        for number, client in enumerate(self.clients):
            client.say(self.groups[number // _CIRCLE])
            client.say(f"@{self._neighbour(client)}")

    def talk(self, backlog: int = 64, rate: int = 0) -> None:
        """Begins to talk: so many unacknowledged messages of each at any time, or so many a
        second of all together."""
        self._talking = self._stage.background(self._talk(backlog, rate))

    def hush(self) -> None:
        """Says no more; what was said is still to be acknowledged."""
        if self._talking is not None:
            self._talking.cancel()

    async def _talk(self, backlog: int, rate: int) -> None:
        due = 0.0
        while True:
            due += rate * POLL
            for client in self.clients:
                while client.pending < backlog and (not rate or due >= 1):
                    self._say(client)
                    due -= 1
                    if rate:
                        break
            await asyncio.sleep(POLL)

    def _say(self, client: Client) -> None:
        number = self.clients.index(client)
        self._said += 1
        if self._said % _DIRECT:
            client.say(self.groups[number // _CIRCLE])
        else:
            client.say(f"@{self._neighbour(client)}")


async def crowd(stage: Stage, daemon: Daemon, size: int, **how: object) -> Crowd:
    """A crowd that is logged in and in its groups."""
    found = Crowd(stage, await stage.crowd(daemon, size, **how))
    await found.gather()
    return found


class Probe:
    """An idle client whose round trips show how long the daemon's loop is busy, next to how
    late the harness's own loop is."""

    def __init__(self, stage: Stage, client: Client) -> None:
        self.trips: list[float] = []
        self.own: list[float] = []
        self._client = client
        self._stage = stage
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to ask."""
        self._task = self._stage.background(self._ask())

    def stop(self) -> float:
        """The 99th percentile of the round trips (seconds), the harness's own lateness taken
        off."""
        if self._task is not None:
            self._task.cancel()
        late, trips = _percentile(self.own, 0.99), _percentile(self.trips, 0.99)
        self._stage.note(
            f"{len(self.trips)} round trips, p99 {trips * 1000:.1f} ms"
            f" (the harness's own lateness {late * 1000:.1f} ms)"
        )
        return max(0.0, trips - late)

    async def _ask(self) -> None:
        while True:
            try:
                self.trips.append(await self._client.ping())
            except (ConnectionError, TimeoutError):
                self.trips.append(_PATIENCE)
            before = time.monotonic()
            await asyncio.sleep(_PROBE_SECONDS)
            self.own.append(time.monotonic() - before - _PROBE_SECONDS)


def _percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else 0.0

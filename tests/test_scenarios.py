"""What people do, the same over every front end."""

from __future__ import annotations

from typing import Any

from tests.bed import NodeCase


class Messages(NodeCase):
    """Direct messages and groups."""

    async def _talk(self, one: Any, other: Any) -> None:
        await self.user("alice", one)
        await self.user("bob", other)
        said = await one.ask("say", to="@bob", text="hello")
        self.assertEqual((said["ok"], said["seq"]), (True, 1))
        said = await other.ask("say", to="@alice", text="你好")
        self.assertEqual((said["ok"], said["seq"]), (True, 2))
        page = await one.ask("history", to="@bob")
        self.assertEqual(
            [(e["seq"], e["from"], e["to"], e["text"]) for e in page["entries"]],
            [(1, "alice", "@bob", "hello"), (2, "bob", "@alice", "你好")],
        )

    async def test_lines_to_lines(self) -> None:
        """Two line clients talk."""
        await self._talk(self.lines(), self.lines())

    async def test_websocket_to_lines(self) -> None:
        """A browser and a line client talk."""
        await self._talk(self.frames(), self.lines())

    async def test_http_to_websocket(self) -> None:
        """A back end and a browser talk."""
        await self._talk(self.http(), self.frames())

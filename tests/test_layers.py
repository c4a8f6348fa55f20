"""Who may import whom, and where the reactor, Autobahn and SQL live."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

PACKAGE = Path(__file__).parent.parent / "chatd"

# What a part may import of chatd besides itself; a later line builds on the earlier ones.
LAYERS = {
    "errors": set[str](),
    "languages": {"errors"},
    "model": {"errors"},
    "rights": {"model"},
    "mentions": {"model"},
    "payloads": {"errors"},
    "lookalikes": {"errors", "model"},
    "settings": set[str](),
    "config": {"settings"},
    "certificates": {"settings"},
    "logs": set[str](),
    "signals": set[str](),
    "systemd": set[str](),
    "rates": {"settings"},
    "words": set[str](),
    "doors": {"errors", "settings"},
    "session": {"errors", "model", "rates"},
    "bonds": {"errors"},
    "displays": {"errors"},
    "store": {"bonds", "errors", "lookalikes", "model", "payloads", "rights", "session", "words"},
    "hub": {"errors", "model", "session"},
    "auth": {"errors"},
    "cursors": {"errors", "session", "store"},
    "backlog": {"cursors", "errors", "hub", "model", "session", "store"},
    "receipts": {"errors", "hub", "model", "session", "store"},
    "revocations": {"errors", "hub", "session", "store"},
    "presence": {"errors", "hub", "model", "session", "settings", "store"},
    "indexer": {"errors", "store"},
    "publisher": {
        *("backlog", "hub", "indexer", "languages", "model", "receipts", "session", "store"),
    },
    "node": {
        *("auth", "backlog", "cursors", "doors", "errors", "hub", "indexer", "languages"),
        *("model", "presence", "publisher", "rates", "receipts", "revocations", "rights"),
        *("session", "settings", "store"),
    },
    "registry": {"errors"},
    "commands": {
        *("bonds", "displays", "doors", "errors", "languages", "lookalikes", "mentions", "model"),
        *("node", "payloads", "registry", "revocations", "rights", "session", "store", "words"),
    },
    "dispatcher": {"errors", "languages", "node", "rates", "registry", "session"},
    "heartbeat": {"errors", "node", "revocations", "session", "store"},
    "metrics": {"node"},
    "reload": {"auth", "certificates", "config", "logs", "node", "settings", "systemd"},
    "wire": {"commands", "dispatcher", "errors", "registry"},
    "frontends": {
        *("dispatcher", "doors", "errors", "languages", "node", "registry", "session", "store"),
        "wire",
    },
    "client": {"config", "displays", "errors", "lookalikes", "model", "settings", "store"},
    "tap": {
        *("certificates", "config", "dispatcher", "frontends", "heartbeat", "logs", "metrics"),
        *("node", "reload", "signals", "store", "systemd"),
    },
}


def modules() -> Iterator[tuple[str, Path]]:
    """(part, file) of every module of the package but its own `__init__`."""
    for path in sorted(PACKAGE.rglob("*.py")):
        part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if part != "__init__":
            yield part, path


def imported(path: Path) -> Iterator[tuple[str, bool]]:
    """(full name, whether at the module's top level) of everything a module imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        top = node in tree.body
        if isinstance(node, ast.Import):
            yield from ((alias.name, top) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from ((f"{node.module}.{alias.name}", top) for alias in node.names)


class Layers(SynchronousTestCase):
    """The arrows of docs/architecture.md."""

    def test_every_part_is_placed(self) -> None:
        """Every module belongs to a part that the table knows."""
        self.assertEqual({part for part, _ in modules()}, set(LAYERS))

    def test_imports_go_one_way(self) -> None:
        """A part imports only what stands beneath it."""
        for part, path in modules():
            for name, _ in imported(path):
                package, _, rest = name.partition(".")
                target = rest.partition(".")[0]
                if package == "chatd" and target in LAYERS and target != part:
                    self.assertIn(target, LAYERS[part], f"{path.name} imports {name}")

    def test_the_order_has_no_cycle(self) -> None:
        """What a part may import stands earlier in the table, so there is no way round."""
        order = list(LAYERS)
        for part, below in LAYERS.items():
            for name in below:
                self.assertLess(order.index(name), order.index(part), f"{part} over {name}")

    def test_the_reactor_is_in_tap_alone(self) -> None:
        """No module but tap imports the reactor, and tap only inside a function."""
        for part, path in modules():
            for name, top in imported(path):
                if name == "twisted.internet.reactor":
                    self.assertEqual((part, top), ("tap", False), str(path))

    def test_autobahn_is_in_one_module(self) -> None:
        """Only the WebSocket front end knows Autobahn."""
        users = {
            path.name
            for _, path in modules()
            for name, _ in imported(path)
            if name.startswith(("autobahn", "txaio"))
        }
        self.assertEqual(users, {"websocket.py"})

    def test_sql_is_in_the_store_alone(self) -> None:
        """No SQL statement stands outside the store."""
        statement = re.compile(r"\b(SELECT\s.+\sFROM|INSERT\s+(IGNORE\s+)?INTO|DELETE\s+FROM)\b")
        for part, path in modules():
            if part != "store":
                self.assertIsNone(statement.search(path.read_text(encoding="utf-8")), str(path))

    def test_no_transport_leaks_inwards(self) -> None:
        """The domain knows no transport."""
        for part, path in modules():
            if part in ("hub", "node", "commands", "dispatcher", "backlog", "session"):
                self.assertNotIn("transport", path.read_text(encoding="utf-8"), str(path))

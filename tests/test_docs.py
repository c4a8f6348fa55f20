"""The documents say what the code says: commands, settings, verbs, targets, links."""

import contextlib
import io
import re
import tempfile
import tomllib
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from chatd.client import chatctl
from chatd.config import load
from chatd.errors import CLOSE_CODES, MEANINGS
from chatd.registry import COMMANDS
from chatd.settings import settings, shown
from tools import protocol

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROTOCOL = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
NOUNS = ("user", "key", "invite", "db")


def settings_table() -> str:
    """The table of all settings as the README has it."""
    rows = (
        (f"`{s.key}`", f"`{shown(s.default)}`", s.allowed, s.description, f"`{s.variable}`")
        for s in settings()
    )
    return protocol.table("key | default | allowed | what it does | environment variable", rows)


def helped(*words: str) -> str:
    """What `chatctl … --help` prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        chatctl.main([*words, "--help"])
    return printed.getvalue()


def verbs(noun: str) -> set[str]:
    """The verbs that chatctl knows of a noun."""
    return set(re.findall(r"(?m)^    (\w+) +[A-Z]", helped(noun)))


def code(document: str) -> str:
    """What stands in a document's blocks and spans of code."""
    blocks = re.findall(r"(?ms)^```\w*\n(.*?)^```$", document)
    blocks += re.findall(r"(?m)^    (.+)$", document)
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"(?ms)^```.*?^```$", "", document))
    return "\n".join((*blocks, *spans))


class Reference(SynchronousTestCase):
    """docs/protocol.md."""

    def test_is_what_the_code_makes(self) -> None:
        """The file is the generator's work; `make docs` writes it."""
        self.assertEqual(PROTOCOL, protocol.reference())

    def test_has_every_command(self) -> None:
        """Each command has a section with its usage and each of its parameters."""
        for command in COMMANDS.values():
            start = PROTOCOL.index(f"\n### {command.name}\n")
            section = PROTOCOL[start : PROTOCOL.find("\n## ", start)].partition("\n### ")[2]
            section = section.partition("\n### ")[0]
            self.assertIn(f"\n{command.usage()}\n", section)
            for parameter in command.parameters:
                self.assertIn(f"| `{parameter.name}` |", section, command.name)

    def test_has_every_code(self) -> None:
        """Errors and close codes are all explained."""
        for error, meaning in MEANINGS.items():
            self.assertRegex(PROTOCOL, rf"\| `{error}` \| \d{{3}} \| {re.escape(meaning)} \|")
        for number, meaning in CLOSE_CODES.items():
            self.assertIn(f"| {number} | {meaning} |", PROTOCOL)


class Readme(SynchronousTestCase):
    """README.md."""

    maxDiff = None

    def test_settings(self) -> None:
        """The table of settings is the one that the code has."""
        found = README.partition("<!-- settings -->\n")[2].partition("\n<!-- /settings -->")[0]
        self.assertEqual(found, settings_table())

    def test_examples_of_settings_are_good(self) -> None:
        """Each piece of configuration loads without a mistake, but for a key that is elsewhere."""
        pieces = re.findall(r"(?ms)^```toml\n(.*?)^```$", README)
        self.assertGreater(len(pieces), 2)
        temporary = tempfile.TemporaryDirectory(prefix="chatd-")
        self.addCleanup(temporary.cleanup)
        file, key = Path(temporary.name, "chatd.toml"), Path(temporary.name, "jwt.key")
        key.write_text("q7Zr0kV2nX5sYb8cLd1eFg4hJm6pTu9w\n")
        for piece in pieces:
            self.assertTrue(tomllib.loads(piece))
            file.write_text(piece.replace("/etc/chatd/jwt.key", str(key)))
            load(str(file), {}, {})

    def test_targets_exist(self) -> None:
        """What the README has one make is in the Makefile."""
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        targets = set(re.findall(r"(?m)^([a-z-]+):", makefile))
        told = set(re.findall(r"(?m)^(?:\$ )?make ([a-z-]+)", code(README)))
        self.assertEqual(told - targets, set())
        self.assertGreaterEqual(told, {"run", "test", "run-mysql", "docs", "bench"})

    def test_verbs_exist(self) -> None:
        """Each use of chatctl names a verb that answers to --help, and all verbs are told."""
        used = set(re.findall(rf"chatctl\b[^\n`]*? ({'|'.join(NOUNS)}) (\w+)", code(README)))
        known = {(noun, verb) for noun in NOUNS for verb in verbs(noun)}
        self.assertEqual(used, known)
        for noun, verb in used:
            self.assertIn(f"usage: chatctl {noun} {verb}", helped(noun, verb))

    def test_bench_marker(self) -> None:
        """There is one place for the table of figures."""
        self.assertEqual(README.splitlines().count("<!-- bench -->"), 1)


class Links(SynchronousTestCase):
    """Links in the documents."""

    def test_files_exist(self) -> None:
        """A link within the repository leads to a file, and to a heading where it names one."""
        for document in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
            for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8")):
                if "://" in target:
                    continue
                path, _, anchor = target.partition("#")
                file = document.parent / path if path else document
                self.assertTrue(file.exists(), f"{document.name}: {target}")
                if anchor:
                    heads = re.findall(r"(?m)^#+ (.+)$", file.read_text(encoding="utf-8"))
                    slugs = [re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in heads]
                    self.assertIn(anchor, slugs, f"{document.name}: {target}")

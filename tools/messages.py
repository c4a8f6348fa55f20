"""Brings the catalogues of chatd/locales up to date with the code: ``python -m tools.messages``.

Sentences stand in the code where `TEMPLATE_AT` says, in constants that are annotated as
`Template`, and in the docstrings of commands.
"""

import ast
import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from babel.messages.catalog import Catalog
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po, write_po

import chatd.commands  # noqa: F401  (fills the table of commands)
from chatd.languages import SPOKEN
from chatd.registry import COMMANDS

PACKAGE: Final = Path(__file__).parents[1] / "chatd"
LOCALES: Final = PACKAGE / "locales"
TEMPLATE_AT: Final = {
    "Refused": 1,
    "Unavailable": 0,
    "Phrase": 0,
    "ConnectionDeny": 1,
    "failHandshake": 0,
    "close": 1,
}
"""The calls that take a template, and which argument it is."""

_ENGLISH: Final = ("client", "languages.py")  # what clients are not sent; what translates
_DATE: Final = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)  # the same in every run


class NoTemplate(Exception):
    """A sentence that cannot be found in the code, and so not be translated; says where."""


def messages() -> Iterator[tuple[str, str]]:
    """(sentence, file) of all that a client may be sent, in the order of the code."""
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in _modules()}
    known = {name for tree in trees.values() for name in _annotated(tree)}
    for path, tree in trees.items():
        file = str(path.relative_to(PACKAGE.parent))
        yield from ((text, file) for text in _in_module(tree, known, file))
    for command in COMMANDS.values():
        paragraphs = (command.summary(), command.details())
        yield from ((text, f"/{command.name}") for text in paragraphs if text)


def _modules() -> list[Path]:
    found = sorted(PACKAGE.rglob("*.py"))
    return [path for path in found if path.relative_to(PACKAGE).parts[0] not in _ENGLISH]


def _annotated(tree: ast.Module) -> Iterator[str]:
    """The names whose annotation says that they hold templates, or return them."""
    for node in ast.walk(tree):
        if isinstance(node, ast.AnnAssign) and _says_template(node.annotation):
            yield ast.unparse(node.target)
        elif isinstance(node, ast.arg) and node.annotation and _says_template(node.annotation):
            yield node.arg
        elif isinstance(node, ast.FunctionDef) and node.returns and _says_template(node.returns):
            yield node.name


def _says_template(annotation: ast.expr) -> bool:
    names = {node.id for node in ast.walk(annotation) if isinstance(node, ast.Name)}
    return not names.isdisjoint(("Template", "Templates"))


def _in_module(tree: ast.Module, known: set[str], file: str) -> Iterator[str]:
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    for node in sorted(ast.walk(tree), key=lambda node: getattr(node, "lineno", 0)):
        if isinstance(node, ast.AnnAssign) and node.value and _says_template(node.annotation):
            yield from _constants(node.value)
        elif isinstance(node, ast.Call) and (argument := _template(node)) is not None:
            around = [f for f in functions if f.lineno <= node.lineno <= (f.end_lineno or 0)]
            texts = _resolve(argument, [*reversed(around), tree], known)
            if texts is None:
                raise NoTemplate(
                    f"{file}:{node.lineno}: {ast.unparse(argument)} is no constant: give a"
                    " template with {fields}, or annotate the constant as Template"
                )
            yield from texts


def _constants(value: ast.expr) -> Iterator[str]:
    """The strings in a constant; of a dictionary its values."""
    if isinstance(value, ast.Dict):
        for element in value.values:
            yield from _constants(element)
        return
    for node in ast.walk(value):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def _template(call: ast.Call) -> ast.expr | None:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else ast.unparse(call.func)
    place = TEMPLATE_AT.get(name)
    if place is None:
        return None
    if len(call.args) > place:
        return call.args[place]
    return next((word.value for word in call.keywords if word.arg == "template"), None)


def _resolve(argument: ast.expr, scopes: list[ast.AST], known: set[str]) -> list[str] | None:
    """The strings that an argument may be; none where it holds what is found elsewhere."""
    match argument:
        case ast.Constant(value=str(text)):
            return [text]
        case ast.IfExp(body=one, orelse=other):
            both = [_resolve(branch, scopes, known) for branch in (one, other)]
            return None if None in both else [text for texts in both for text in texts or ()]
        case ast.Attribute(attr="template"):
            return []
        case (
            ast.Name(id=name)
            | ast.Subscript(value=ast.Name(id=name))
            | ast.Call(func=ast.Attribute(attr=name))
        ) if name in known:
            return []
        case ast.Name(id=name):
            return _assigned(name, scopes)
    return None


def _assigned(name: str, scopes: list[ast.AST]) -> list[str] | None:
    """The strings assigned to a name in the innermost scope that does so."""
    for scope in scopes:
        values = [
            node.value
            for node in ast.walk(scope)
            if isinstance(node, ast.Assign) and name in map(ast.unparse, node.targets)
        ]
        if values:
            texts = [v.value for v in values if isinstance(v, ast.Constant)]
            strings = [text for text in texts if isinstance(text, str)]
            return strings if len(strings) == len(values) else None
    return None


def template() -> Catalog:
    """The sentences of the code, without translations."""
    catalog = _empty()
    for text, file in messages():
        catalog.add(text, locations=[(file, 0)])
    return catalog


def _empty(language: str | None = None) -> Catalog:
    return Catalog(
        language,
        header_comment="",
        project="chatd",
        version="1",
        msgid_bugs_address="chatd",
        last_translator="chatd",
        language_team="chatd",
        creation_date=_DATE,
        revision_date=_DATE,
        fuzzy=False,
    )


def source(language: str) -> Path:
    """Where a language's translations are written; the compiled catalogue lies beside it."""
    return LOCALES / language / "LC_MESSAGES" / "chatd.po"


def catalogue(language: str) -> Catalog:
    """The translations that there are."""
    found = _empty(language)
    if source(language).exists():
        with source(language).open("rb") as file:
            for message in read_po(file, language):
                if message.id:
                    found.add(message.id, message.string, flags=message.flags)
    return found


def lacking(catalog: Catalog) -> list[str]:
    """The sentences that have no translation, or one that somebody is to look at."""
    return [str(m.id) for m in catalog if m.id and (not m.string or m.fuzzy)]


def bring_up_to_date(language: str) -> Catalog:
    """Adds the sentences that are new, drops those that are gone, compiles."""
    found = catalogue(language)
    found.update(template(), no_fuzzy_matching=True)
    source(language).parent.mkdir(parents=True, exist_ok=True)
    with source(language).open("wb") as file:
        write_po(file, found, width=100, ignore_obsolete=True, include_lineno=False)
    with source(language).with_suffix(".mo").open("wb") as file:
        write_mo(file, found)
    return found


def main() -> None:
    for language in SPOKEN[1:]:
        for text in lacking(bring_up_to_date(language)):
            print(f"{source(language)}: to be translated: {text}")


if __name__ == "__main__":
    main()

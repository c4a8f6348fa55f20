"""The table of commands. A command is a function: its signature is the schema, its docstring
the help, the decorator says who may call it and what it costs.

    @command(USERS)
    async def say(ctx, to: Address, text: Text, key: Key | None = None) -> Deferred[Said]:
        \"\"\"Says something.\"\"\"

The request for it is a struct made from the signature, tagged with the command's name, so
that decoding a request checks it. A command returns its result, or a Deferred of it: then the
session's next request may begin before this one is answered.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Coroutine
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from chatd.errors import Template

Audience = Literal["anybody", "users"]
ANYBODY: Audience = "anybody"
USERS: Audience = "users"

# An integer beyond 64 bits cannot be echoed by every client's JSON.
RequestId = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | str | None


class Parameter(Struct, frozen=True):
    """One parameter of a command; `type` is what msgspec checks it against. One that is
    `rest` takes the rest of a typed line; an `object`, or a list, is typed as JSON; of `choices`,
    if there are any, it is one."""

    name: str
    type: Any
    required: bool
    default: Any
    rest: bool
    object: bool
    choices: tuple[str, ...]

    def shown(self, otherwise: str) -> str:
        """What stands for its value in a command's usage."""
        return "|".join(self.choices) or otherwise


class Command(Struct, frozen=True):
    """One entry of the table. `request` is the struct that a request decodes into: its first
    field is `id`, the others are the function's parameters in their order. `cost` is what a
    request takes from the buckets."""

    name: str
    function: Callable[..., Coroutine[Any, Any, Any] | Any]
    audience: Audience
    cost: int
    help: str
    parameters: tuple[Parameter, ...]
    request: type[Struct]
    result: Any

    def summary(self) -> Template:
        """The first paragraph of the help, on one line."""
        return " ".join(self.help.partition("\n\n")[0].split())

    def details(self) -> Template:
        """The rest of the help, on one line."""
        return " ".join(self.help.partition("\n\n")[2].split())

    def usage(self) -> str:
        """How a person types it."""
        words = [p.shown(p.name.upper()) for p in self.parameters if p.required]
        options = [f"[{p.name}={p.shown('…')}]" for p in self.parameters if not p.required]
        last = [words.pop()] if any(p.required and p.rest for p in self.parameters) else []
        return " ".join(["/" + self.name, *words, *options, *last])


COMMANDS: dict[str, Command] = {}
BY_REQUEST: dict[type[Struct], Command] = {}


def command(audience: Audience, name: str | None = None, cost: int = 1) -> Callable[[Any], Any]:
    """Enters the function into the table, under its own name unless another is given. `cost`
    says how much more work a request is than the cheapest."""

    def enter(function: Any) -> Any:
        made = _make(function, name or function.__name__, audience, cost)
        COMMANDS[made.name] = made
        BY_REQUEST[made.request] = made
        return function

    return enter


def _make(function: Any, name: str, audience: Audience, cost: int) -> Command:
    hints = typing.get_type_hints(function, include_extras=True)
    parameters = tuple(
        _parameter(p, hints[p.name])
        for p in list(inspect.signature(function).parameters.values())[1:]
    )
    request = msgspec.defstruct(
        name,
        [
            ("id", RequestId, None),
            *((p.name, p.type) if p.required else (p.name, p.type, p.default) for p in parameters),
        ],
        tag_field="cmd",
        tag=name,
        frozen=True,
        gc=False,
        forbid_unknown_fields=True,
        kw_only=True,
    )
    doc = inspect.cleandoc(function.__doc__ or "")
    return Command(name, function, audience, cost, doc, parameters, request, hints.get("return"))


def _parameter(parameter: inspect.Parameter, hint: Any) -> Parameter:
    info = msgspec.inspect.type_info(hint)
    if isinstance(info, msgspec.inspect.UnionType):  # the other one is null: not given
        info = info.types[0]
    extra = (info.extra or {}) if isinstance(info, msgspec.inspect.Metadata) else {}
    required = parameter.default is parameter.empty
    return Parameter(
        parameter.name,
        hint,
        required,
        None if required else parameter.default,
        bool(extra.get("rest")),
        any(isinstance(one, _STRUCTURED) for one in _alternatives(info)),
        _choices(info),
    )


def _choices(info: msgspec.inspect.Type) -> tuple[str, ...]:
    found = (one for one in _alternatives(info) if isinstance(one, msgspec.inspect.LiteralType))
    return tuple(str(value) for one in found for value in one.values)


_STRUCTURED = (msgspec.inspect.DictType, msgspec.inspect.ListType, msgspec.inspect.VarTupleType)


def _alternatives(info: msgspec.inspect.Type) -> list[msgspec.inspect.Type]:
    if isinstance(info, msgspec.inspect.Metadata):
        return _alternatives(info.type)
    if isinstance(info, msgspec.inspect.UnionType):
        return [one for each in info.types for one in _alternatives(each)]
    return [info]

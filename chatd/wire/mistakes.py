"""What msgspec says of a request that does not fit, as phrases that can be translated."""

from __future__ import annotations

import re
from functools import cache

from chatd.errors import Phrase, Template

Templates = tuple[Template, ...]

_QUOTED = 120  # characters

_SCHEMA: Templates = (
    "Expected `{wanted}`, got `{given}`",
    "Expected `{wanted}` of length >= {least}",
    "Expected `{wanted}` of length <= {most}",
    "Expected `{wanted}` >= {least}",
    "Expected `{wanted}` <= {most}",
    "Object missing required field `{field}`",
    "Object contains unknown field `{field}`",
    "Invalid enum value {value}",
    "Invalid value {value}",
    "Integer value out of range",
    "Number out of range",
    "Expected `{wanted}`",
)
_SYNTAX: Templates = (
    "Input data was truncated",
    "JSON is malformed: {what} (byte {place})",
    "expected '\"'",
    "expected ',' or ']'",
    "expected ',' or '}'",
    "expected ':'",
    "invalid character",
    "invalid character in unicode escape",
    "invalid escape character in string",
    "invalid escaped character",
    "invalid number",
    "invalid utf-16 surrogate pair",
    "number out of range",
    "object keys must be strings",
    "trailing characters",
    "trailing comma in array",
    "trailing comma in object",
    "unexpected end of escaped utf-16 surrogate pair",
    "unexpected end of hex escape",
)

# What patterns of the signatures mean, by how they begin.
_ADDRESS: Template = "Expected an address, @user or #group, in {place}"
_WORD: Template = "Expected a word of small letters, digits and '-' in {place}"
_FORM: Template = "This has not the form that is expected in {place}"
_GIVEN: Template = "Expected what an earlier answer gave in {place}"
_SPACELESS: Template = "Expected characters without a space in {place}"
_CONTROLS: Template = "Control characters are not allowed in {place}"


def mismatch(message: str) -> Phrase:
    """A schema's error; patterns are explained, not shown."""
    what, _, where = message.partition(" - at ")
    place = _place(where)
    if "matching regex" not in what:
        found = _found(_SCHEMA, what)
        return Phrase("{what} in {place}", what=found, place=place) if where else found
    if "'^[@#]" in what:
        return Phrase(_ADDRESS, place=place)
    if "'^[a-z]" in what:
        return Phrase(_WORD, place=place)
    if "'^\\\\d" in what or "'^([0-9]" in what:
        return Phrase(_GIVEN, place=place)
    if "'^[^\\\\s" in what:
        return Phrase(_SPACELESS, place=place)
    return Phrase(_CONTROLS if "'^[^" in what else _FORM, place=place)


def _place(where: str) -> Phrase | str:
    """A JSON path without its root; "`key` in" stands before it where a key is wrong."""
    path = where.removeprefix("`key` in ")
    place = _printable(path.replace("`", "").replace("$.", ""))
    return place if path == where else Phrase("a key of {place}", place=place)


def not_json(error: Exception) -> Phrase:
    """Why bytes are no JSON."""
    if isinstance(error, UnicodeError):
        return Phrase("it is not UTF-8")
    return _found(_SYNTAX, str(error))


def _found(templates: Templates, said: str) -> Phrase:
    """The first of the templates that what was said can be made from."""
    for template in templates:
        match = _pattern(template).fullmatch(said)
        if match:
            return _filled(template, match.groupdict())
    return Phrase("{what}", what=_printable(said))


@cache
def _pattern(template: str) -> re.Pattern[str]:
    """What matches the template with any fields."""
    return re.compile(re.sub(r"\\{(\w+)\\}", r"(?P<\1>.*)", re.escape(template)), re.DOTALL)


def _filled(template: Template, fields: dict[str, str]) -> Phrase:
    """A phrase; a syntax error's own `what` is one, too."""
    values: dict[str, object] = {name: _printable(value) for name, value in fields.items()}
    if "what" in fields:
        values["what"] = _found(_SYNTAX, fields["what"])
    return Phrase(template, **values)


def _printable(text: str) -> str:
    """What a client sent, to be quoted to it: short and without control characters."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text[:_QUOTED])

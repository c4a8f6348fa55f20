"""What a message may carry besides its text: a JSON object whose shape its kind decides."""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Struct

from chatd.errors import Refused

_DEEPEST = 32  # objects and arrays within each other: far from where a parser gives up

Word = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[\x21-\x7e]+\Z")]
Label = Annotated[str, Meta(max_length=255, pattern=r"^[^\x00-\x1f\x7f-\x9f]*\Z")]
Count = Annotated[int, Meta(ge=0, le=2**53)]


class Location(Struct, frozen=True, forbid_unknown_fields=True):
    """A place on the earth, in degrees."""

    lat: Annotated[float, Meta(ge=-90, le=90)]
    lon: Annotated[float, Meta(ge=-180, le=180)]
    name: Label = ""


class File(Struct, frozen=True, forbid_unknown_fields=True):
    """A file that was uploaded, by its id; `size` in bytes, `type` as MIME has it."""

    file: Word
    name: Label = ""
    size: Count = 0
    type: Label = ""


class Image(File, frozen=True, forbid_unknown_fields=True):
    """A picture that was uploaded; its size in pixels."""

    width: Count = 0
    height: Count = 0


SHAPES: Final[dict[str, type[Struct]]] = {"location": Location, "file": File, "image": Image}

_FORMS: Final = {
    "location": '{"lat": -90..90, "lon": -180..180, ["name"]}',
    "file": '{"file": id, ["name", "size", "type"]}',
    "image": '{"file": id, ["name", "size", "type", "width", "height"]}',
}

# What is or may become a kind of entry or of message with a meaning to the server.
RESERVED: Final = frozenset(
    (
        *("message", "system", "push", "erased", "created", "joined", "left", "kicked"),
        *("appointed", "muted", "configured", "retitled", "dissolved", "invited", "requested"),
        *("approved", "rejected", "edited", "recalled", "reacted", "pinned", "unpinned"),
        *("befriended", "accepted", "unfriended", "preferred", "cleared", "hidden", "updated"),
    )
)


def check(kind: str, data: dict[str, Any] | None) -> None:
    """Raises `Refused` of `bad-request` unless a message of that kind may carry the data."""
    if kind in RESERVED:
        raise Refused("bad-request", "No message is of the kind {kind}.", kind=kind)
    shape = SHAPES.get(kind)
    if data is None:
        if shape is not None:
            raise Refused("bad-request", "A message of the kind {kind} has data.", kind=kind)
        return
    if kind == "text":
        raise Refused("bad-request", "A text has no data.")
    if shape is None:
        _check_depth(data)
        return
    try:
        msgspec.convert(data, shape)
    except msgspec.ValidationError as error:
        sentence = "The data of the kind {kind} is: {shape}."
        raise Refused("bad-request", sentence, kind=kind, shape=_FORMS[kind]) from error


def _check_depth(data: dict[str, Any]) -> None:
    level: list[Any] = [data]
    for _ in range(_DEEPEST):
        within = (one.values() if isinstance(one, dict) else one for one in level)
        level = [one for many in within for one in many if isinstance(one, dict | list)]
        if not level:
            return
    raise Refused("bad-request", "The data is nested too deeply.")

"""JSON records, decoded one at a time by a typed msgspec decoder that is built from the fields asked for.

One decoder call a record is as fast as joining payloads into one array, and safe: joined, three invalid
values can become valid records. Only the named fields are materialised; the rest is skipped, though its
syntax is checked.
"""

import json
import operator
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import msgspec

from pipeline.formats.fields import Fields, Malformed, Path

_ARROW = (b"\xff\xff\xff\xff", b"ARROW1")
"""How Arrow streams and files begin."""


class JsonFormat:
    """Decodes one value to the tuple (features..., series..., time?)."""

    def __init__(self, fields: Fields) -> None:
        feature: Any = float | None if fields.optional_features else float
        types: dict[Path, Any] = dict.fromkeys(fields.features, feature)
        types |= dict.fromkeys(fields.series, str | int)
        if fields.time is not None:
            types[fields.time] = datetime if fields.time_is_text else float
        optional = frozenset(fields.features) if fields.optional_features else frozenset[Path]()
        struct, attributes = _struct(types, optional)
        self._decode = msgspec.json.Decoder(struct).decode
        names = [attributes[path] for path in types]
        getter = operator.attrgetter(*names)
        self._extract: Callable[[Any], tuple[Any, ...]] = (
            getter if len(names) > 1 else lambda record: (getter(record),)
        )

    def decode(self, value: bytes) -> tuple[Any, ...]:
        """Return the fields of one value.

        Raises:
            Malformed: with the reason; see `REASONS` in `pipeline.stages.decode`.
        """
        try:
            if not value.isascii():
                value.decode()
            return self._extract(self._decode(value))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise self._diagnose(value, error) from None

    def _diagnose(self, value: bytes, error: Exception) -> Malformed:
        text = str(error)
        if isinstance(error, UnicodeDecodeError) and value.startswith(_ARROW):
            return Malformed("not_utf8", "it looks like Arrow; set `format: arrow`")
        if isinstance(error, UnicodeDecodeError):
            return Malformed("not_utf8", text)
        if isinstance(error, RecursionError):
            return Malformed("too_deep", "objects or arrays are nested too deep")
        if not isinstance(error, msgspec.ValidationError):
            return Malformed("not_finite" if _spells_non_finite(value) else "not_json", text)
        if "out of range" in text:
            return Malformed("not_finite", text)
        if "missing required field" in text or "got `null` - at" in text:
            return Malformed("missing_field", text)
        if " - at " not in text:
            return Malformed("not_object", text)
        return Malformed("wrong_type", text)


def _struct(types: Mapping[Path, Any], optional: frozenset[Path]) -> tuple[Any, dict[Path, str]]:
    """Build a (nested) msgspec struct for these paths; return it with the dotted attribute of each path."""
    inner: dict[str, dict[Path, Any]] = {}
    for path, kind in types.items():
        inner.setdefault(path[0], {})[path[1:]] = kind
    definition: list[tuple[str, Any, Any]] = []
    attributes: dict[Path, str] = {}
    for number, (name, below) in enumerate(inner.items()):
        attribute = f"a{number}"
        if () in below:
            if len(below) > 1:
                raise ValueError(f"field {name!r} is named both as a value and as an object that holds one")
            kind = below[()]
            field = msgspec.field(name=name, default=None if (name,) in optional else msgspec.NODEFAULT)
            attributes[name,] = attribute
        else:
            rests = frozenset(path[1:] for path in optional if path[0] == name)
            kind, inside = _struct(below, rests)
            field = msgspec.field(name=name)
            if len(rests) == len(below):
                field = msgspec.field(name=name, default_factory=kind)
            attributes |= {(name, *rest): f"{attribute}.{dotted}" for rest, dotted in inside.items()}
        definition.append((attribute, kind, field))
    return msgspec.defstruct("Record", definition, frozen=True, gc=False, kw_only=True), attributes


def _spells_non_finite(value: bytes) -> bool:
    """Tell whether the only thing wrong is a NaN or an infinity, which the standard library would accept."""
    found: list[str] = []
    try:
        json.loads(value, parse_constant=found.append)
    except (ValueError, RecursionError):
        return False
    return bool(found)


def numbers_of(value: bytes) -> dict[Path, float]:
    """Return every number in a record with its path, for finding out which features a topic holds.

    Raises:
        Malformed: not a JSON object.
    """
    try:
        record = msgspec.json.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed("not_json", str(error)) from None
    if not isinstance(record, dict):
        raise Malformed("not_object", f"expected an object, got {type(record).__name__}")
    return dict(_numbers(record, ()))


def _numbers(record: dict[str, Any], prefix: Path) -> list[tuple[Path, float]]:
    found: list[tuple[Path, float]] = []
    for name, value in record.items():
        if isinstance(value, dict):
            found += _numbers(value, (*prefix, name))
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found.append(((*prefix, name), float(value)))
    return found

"""What a setting may hold: times, names, topics, fields; each refused with what to write instead."""

import re
from datetime import datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from pipeline.budgets import parse_budget, parse_duration

LONGEST_WAIT = "24 days"
"""Kafka's clients count milliseconds in 32 bits."""
_LONGEST = "36500 days"
LARGEST = 2**31 - 1
_MOST_BYTES = 2**60
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}", re.ASCII)
_SERVER = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:\d{1,5})?", re.ASCII)


def split_path(path: str) -> tuple[str, ...]:
    """Return the names along a dotted path; a literal dot is written with a backslash before it."""
    parts = [part.replace("\\.", ".").replace("\\\\", "\\") for part in re.split(r"(?<!\\)\.", path)]
    if not all(parts):
        raise ValueError(f"{path!r} is no field: a name between dots is empty")
    return tuple(parts)


def between(shortest: str, longest: str) -> BeforeValidator:
    """Take durations of this length, both ends included."""

    def check(value: Any) -> float:
        seconds = parse_duration(value)
        if not parse_duration(shortest) <= seconds <= parse_duration(longest):
            raise ValueError(f"{value!r:.60} is too short or too long; write one from {shortest} to {longest}")
        return seconds

    return BeforeValidator(check)


def parse_duration_or_never(value: Any) -> float | None:
    """Return seconds, or None for `never`.

    Raises:
        ValueError: it is neither a duration nor `never`.
    """
    if value == "never":
        return None
    try:
        seconds = parse_duration(value)
    except ValueError as error:
        raise ValueError(f"{error}, or never") from error
    if not 1 <= seconds <= parse_duration(_LONGEST):
        raise ValueError(f"{value!r:.60} is too short or too long; write one from 1s to {_LONGEST}, or never")
    return seconds


def parse_size(value: Any) -> int:
    """Return bytes: `100 GB`, `64 MiB`, or a number of them.

    Raises:
        ValueError: it is no size.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", str(value).strip().lower(), re.ASCII)
    if match is None or isinstance(value, bool) or (match[3] and not match[2]):
        raise ValueError(f"{value!r:.60} is no size; write for example 64 MiB or 100 GB")
    size = int(float(match[1]) * (1024 if match[3] else 1000) ** " kmgt".index(match[2] or " "))
    if not 1 <= size <= _MOST_BYTES:
        raise ValueError(f"{value!r:.60} is too small or too large; write for example 64 MiB or 100 GB")
    return size


def parse_moment(value: Any) -> datetime:
    """Return a moment with its zone; YAML makes one of some texts itself.

    Raises:
        ValueError: it is none, or it tells no zone.
    """
    try:
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise ValueError(f"{str(value)!r:.60} is no moment; write one with its zone, such as 2026-03-01T22:00:00Z")
    return moment


def _field(path: str) -> str:
    split_path(path)
    return _name(path)


def _fields(paths: list[str] | None) -> list[str] | None:
    if paths == []:
        raise ValueError("the list is empty; name some fields, or take the key out")
    names = [split_path(path) for path in paths or []]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise ValueError(f"{'.'.join(name)!r} is listed twice; keep one")
    return paths


def _name(text: str) -> str:
    if not text or not text.isprintable():
        raise ValueError(f"{text!r:.60} is no name; write some letters, or take the key out")
    return text


def _topic(text: str) -> str:
    if not _TOPIC.fullmatch(text) or text in (".", ".."):
        raise ValueError(
            f"{text!r:.60} is no name for Kafka; write up to 249 letters, digits, dots, dashes and underscores"
        )
    return text


def _servers(text: str) -> str:
    for server in text.split(","):
        match = _SERVER.fullmatch(server.strip())
        if match is None or not 0 < int((match[2] or ":9092")[1:]) < 65536:
            raise ValueError(f"{server!r:.60} is no address; write host:port, with commas between several")
    return text


def _storage(url: str) -> str:
    if not re.fullmatch(r"(file:///|s3://[^/]).*", url) or not url.isprintable():
        raise ValueError(f"{url!r:.60} is neither file:///folder nor s3://bucket/prefix; write one of them")
    return url


def _budget(text: str) -> str:
    parse_budget(text)
    return text


def no_truth(value: Any) -> Any:
    """Python takes true for a 1."""
    if isinstance(value, bool):
        raise ValueError(f"{value} is no number; write one")
    return value


def truth(value: Any) -> Any:
    """A library would take "y", 1 and more."""
    if not isinstance(value, bool):
        raise ValueError(f"{value!r:.60} is neither true nor false; write one of them")
    return value


WRITTEN = Field(json_schema_extra={"type": ["number", "string"]})
Duration = Annotated[float, between("0", _LONGEST), WRITTEN]
DurationOrNever = Annotated[
    float | None, BeforeValidator(parse_duration_or_never), WithJsonSchema({"type": ["number", "string"]})
]
Wait = Annotated[float, between("1ms", LONGEST_WAIT), WRITTEN]
Whole = Annotated[int, Field(ge=1, le=LARGEST), BeforeValidator(no_truth)]
Size = Annotated[int, BeforeValidator(parse_size), WithJsonSchema({"type": ["integer", "string"]})]
Name = Annotated[str, AfterValidator(_name)]
Topic = Annotated[str, AfterValidator(_topic)]
FieldPath = Annotated[str, AfterValidator(_field)]
FieldPaths = Annotated[list[FieldPath] | None, AfterValidator(_fields)]
Servers = Annotated[str, AfterValidator(_servers)]
StorageUrl = Annotated[str, AfterValidator(_storage)]
BudgetText = Annotated[str, AfterValidator(_budget)]
Moment = Annotated[datetime, BeforeValidator(parse_moment)]


class Section(BaseModel):
    """A part of the settings: what it does not know is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

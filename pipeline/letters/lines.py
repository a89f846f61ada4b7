"""A letter as a line of JSON that a person can edit, and such lines read back as repairs.

A line as `offkey dead-letters list --json` prints it, with what `replay --edit` makes of each field:

    letter              topic/partition@offset of the letter; needed, tells which one is meant
    sha256              of its key and value; needed, so that a letter of a topic made anew is not taken for it
    key, value          text or null, which Kafka knows too; edit these
    key_base64,         in place of them where the bytes are no UTF-8, and wherever that is easier
    value_base64
    stream, reason, text, record, time, replays
                        what there is to know of it; not read

What is left out stays as it is. A misspelt field is refused, and so is a line that matches no letter.
"""

import base64
import binascii
import difflib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError
from pipeline.stages.dead_letters import Letter

_TOLD = ("stream", "reason", "text", "record", "time", "replays")
_FIELDS = ("letter", "sha256", "key", "key_base64", "value", "value_base64", *_TOLD)


@dataclass(frozen=True, slots=True)
class Repair:
    """What a line says of a letter: its own bytes, or others."""

    line: int
    sha256: str
    changes: Mapping[str, bytes | None]
    """`key` and `value`, where the line has them."""

    def apply(self, letter: Letter) -> tuple[bytes | None, bytes | None]:
        """Return the key and value to send in place of a letter's."""
        return (
            self.changes.get("key", letter.record.key),
            self.changes.get("value", letter.record.value),
        )


def place_of(letter: Letter) -> str:
    return f"{letter.place}@{letter.record.offset}"


def sha256_of(letter: Letter) -> str:
    """Return the hash of a letter's key and value, with their lengths, which tell null from empty."""
    parts = (letter.record.key, letter.record.value)
    lengths = " ".join("-" if part is None else str(len(part)) for part in parts)
    return hashlib.sha256(lengths.encode() + b"\n" + b"".join(part or b"" for part in parts)).hexdigest()


def line_of(letter: Letter, stream: str | None) -> str:
    """Return a letter as one line of JSON, its bytes whole."""
    fields: dict[str, Any] = {
        "letter": place_of(letter),
        "sha256": sha256_of(letter),
        "stream": stream,
        "reason": letter.reason,
        "text": letter.text,
        "record": f"{letter.origin}@{letter.origin_offset}",
        "time": iso(letter.record.timestamp),
        "replays": letter.replays,
        **_written("key", letter.record.key),
        **_written("value", letter.record.value),
    }
    return json.dumps(fields)


def iso(time_ms: int) -> str | None:
    """Return a Kafka timestamp as text in UTC, or None where the broker gave none."""
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="milliseconds") if time_ms >= 0 else None


def read_repairs(path: Path, topic: str) -> dict[tuple[int, int], Repair]:
    """Read the repairs of letters by partition and offset; lines that tell of a whole kind are passed over.

    Raises:
        ConfigError: one line for each mistake, with its place in the file.
    """
    repairs: dict[tuple[int, int], Repair] = {}
    mistakes: list[str] = []
    try:
        lines = path.read_text("utf-8").split("\n")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); name a file that is there") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text ({error.reason}); write such bytes as base64") from error
    for number, text in enumerate(lines, 1):
        if not text.strip():
            continue
        try:
            fields = json.loads(text)
            if not isinstance(fields, dict):
                raise ValueError("is no JSON object; write one line for each letter")
            if "letters" in fields:
                continue
            place, repair = _repair(fields, number, topic)
            if place in repairs:
                raise ValueError(f"{fields['letter']} is in line {repairs[place].line} too; keep one")
            repairs[place] = repair
        except json.JSONDecodeError as error:
            mistakes.append(f"{path}:{number}: is no JSON ({error.msg} at column {error.colno}); mend the line")
        except ValueError as error:
            mistakes.append(f"{path}:{number}: {error}")
    if not repairs and not mistakes:
        mistakes.append(f"{path}: holds no letter; print some with: offkey dead-letters list --json")
    if mistakes:
        raise ConfigError("\n".join(mistakes))
    return repairs


def _repair(fields: Mapping[str, Any], number: int, topic: str) -> tuple[tuple[int, int], Repair]:
    """Raises ValueError with what is wrong of a line."""
    for name in fields:
        if name not in _FIELDS:
            near = difflib.get_close_matches(name, _FIELDS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(_FIELDS)}"
            raise ValueError(f"{name!r} is no field; {hint}")
    for name in ("letter", "sha256"):
        if not isinstance(fields.get(name), str):
            raise ValueError(f"{name!r} is missing or no text; take it from `offkey dead-letters list --json`")
    of_topic, _, place = fields["letter"].rpartition("/")
    partition, _, offset = place.partition("@")
    if of_topic != topic or not (_is_number(partition) and _is_number(offset)):
        raise ValueError(f"{fields['letter']!r} is no letter of {topic}; write {topic}/PARTITION@OFFSET")
    changes = {}
    for name in ("key", "value"):
        if name in fields and f"{name}_base64" in fields:
            raise ValueError(f"has both {name!r} and '{name}_base64'; keep one")
        if name in fields:
            changes[name] = _text(name, fields[name])
        elif f"{name}_base64" in fields:
            changes[name] = _base64(f"{name}_base64", fields[f"{name}_base64"])
    return (int(partition), int(offset)), Repair(number, fields["sha256"], changes)


def _text(name: str, found: object) -> bytes | None:
    if found is None:
        return None
    if not isinstance(found, str):
        raise ValueError(f"{name!r} is {type(found).__name__}; it takes text or null: put its JSON in quotes")
    try:
        return found.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{name!r} holds half a character ({error.reason}); write {name}_base64") from error


def _base64(name: str, found: object) -> bytes:
    try:
        return base64.b64decode(found, validate=True)  # type: ignore[arg-type]
    except (TypeError, ValueError, binascii.Error) as error:
        raise ValueError(f"{name!r} is no base64 ({error})") from error


def _written(name: str, content: bytes | None) -> dict[str, str | None]:
    try:
        return {name: None if content is None else content.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(content or b"").decode()}


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal()

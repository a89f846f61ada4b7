"""Payloads that are no records of a stream: grown from JSON's grammar, broken in the ways that producers do it.

Each is drawn from a seed. Whether one is broken is not for this module to say: what a worker does not accept has to
come out as a dead letter, byte for byte.
"""

import json
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tests.streams import BEGIN_MS, HISTORY, STEP_MS, Payload

Draw = random.Random

_LITERALS = [
    "NaN",
    "Infinity",
    "-Infinity",
    "nan",
    "1e999",
    "-1e999",
    "1e39",
    "0x10",
    "01",
    "+1",
    ".5",
    "1.",
    "--1",
]
_LITERALS += ["1_000", "9" * 400, "-" + "9" * 30, "1e", "true", "null", '"12"', '"', "[]", "{}", "[1]", "''"]
"""What stands where a number should; a few of them are numbers."""
_TEXTS = ["", "a", "ü", "\x00", "\n", "💥", "a/b\\", "'", "ts", "\ud7ff"]
_BAD_UTF8 = [b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf0\x9f", b"\xc0\x80", b"\xfe\xff"]


def good(name: str, point: int, values: Sequence[float]) -> Payload:
    """Return a record of a series, so many steps after the history of training."""
    row = {"ts": BEGIN_MS + STEP_MS * (HISTORY + point), "cpu": values[0], "mem": values[1]}
    return name.encode(), json.dumps(row).encode()


def malformed(draw: Draw, key: bytes = b"a") -> Payload:
    """Return one payload that most likely is no record."""
    return draw.choice(_WAYS)(draw, key)


def _value(draw: Draw, depth: int = 0) -> Any:
    kind = draw.randrange(7 if depth < 4 else 5)
    if kind < 3:
        return (draw.choice([None, True, False]), draw.uniform(-9, 9), draw.randrange(-99, 99))[kind]
    if kind == 3:
        return draw.choice(_TEXTS)
    if kind == 4:
        return draw.choice([0, 10**18, -(10**25), 1e300, 5e-324])
    if kind == 5:
        return [_value(draw, depth + 1) for _ in range(draw.randrange(4))]
    return {draw.choice([*_TEXTS, "cpu", "mem"]): _value(draw, depth + 1) for _ in range(draw.randrange(4))}


def _fields(draw: Draw) -> list[tuple[str, str]]:
    """Return the members of a good record, as they are written."""
    time = BEGIN_MS + STEP_MS * (HISTORY + draw.randrange(1000))
    return [("ts", str(time)), ("cpu", f"{draw.gauss(0, 1):.4f}"), ("mem", f"{draw.gauss(0, 1):.4f}")]


def _written(members: Sequence[tuple[str, str]]) -> bytes:
    return ("{" + ", ".join(f'"{name}": {text}' for name, text in members) + "}").encode()


def _cut(draw: Draw, key: bytes) -> Payload:
    text = _written(_fields(draw))
    return key, text[: draw.randrange(len(text))]


def _grown(draw: Draw, key: bytes) -> Payload:
    text = _written(_fields(draw))
    return key, text + draw.choice([b"}", b",", b"{}", b"x", b"\x00", text, b'"', b"]"])


def _other_value(draw: Draw, key: bytes) -> Payload:
    members = _fields(draw)
    which = draw.randrange(3)
    members[which] = (members[which][0], draw.choice(_LITERALS))
    return key, _written(members)


def _other_json(draw: Draw, key: bytes) -> Payload:
    return key, json.dumps(_value(draw)).encode()


def _other_type(draw: Draw, key: bytes) -> Payload:
    members = _fields(draw)
    which = draw.randrange(3)
    members[which] = (members[which][0], json.dumps(_value(draw, 2)))
    return key, _written(members)


def _less(draw: Draw, key: bytes) -> Payload:
    members = _fields(draw)
    del members[draw.randrange(3)]
    return key, _written(members)


def _twice(draw: Draw, key: bytes) -> Payload:
    """Name a key twice, which JSON allows: the last one counts."""
    members = _fields(draw)
    members.insert(draw.randrange(4), (draw.choice(["ts", "cpu", "mem"]), draw.choice(_LITERALS)))
    return key, _written(members)


def _time(draw: Draw, key: bytes) -> Payload:
    time = draw.choice([-1, 0, 1, 10**10, 5 * 10**12, 10**19, 1.5, -1e300])
    return key, _written([("ts", json.dumps(time)), *_fields(draw)[1:]])


def _deep(draw: Draw, key: bytes) -> Payload:
    depth = draw.choice([10, 900, 1100, 20_000])
    opening, closing = draw.choice([(b"[", b"]"), (b'{"cpu":', b"}")])
    return key, opening * depth + b"1" + closing * draw.choice([0, depth])


def _deep_beside(draw: Draw, key: bytes) -> Payload:
    """Nest deep where nobody looks."""
    depth = draw.choice([10, 900, 20_000])
    return key, _written([*_fields(draw), ("more", "[" * depth + "]" * depth)])


def _not_utf8(draw: Draw, key: bytes) -> Payload:
    text = _written([*_fields(draw), ("text", '"here"')])
    at = draw.randrange(len(text))
    return key, text[:at] + draw.choice(_BAD_UTF8) + text[at:]


def _flipped(draw: Draw, key: bytes) -> Payload:
    text = bytearray(_written(_fields(draw)))
    for _ in range(draw.randrange(1, 4)):
        text[draw.randrange(len(text))] ^= 1 << draw.randrange(8)
    return key, bytes(text)


def _noise(draw: Draw, key: bytes) -> Payload:
    return key, draw.randbytes(draw.choice([1, 2, 16, 300]))


def _bom(draw: Draw, key: bytes) -> Payload:
    encoding = draw.choice(["utf-8-sig", "utf-16", "utf-32"])
    return key, _written(_fields(draw)).decode().encode(encoding)


def _tombstone(draw: Draw, key: bytes) -> Payload:
    return draw.choice([key, None]), None


def _empty(draw: Draw, key: bytes) -> Payload:
    return key, draw.choice([b"", b" ", b"\n\t", b"\x00"])


def _no_series(draw: Draw, key: bytes) -> Payload:
    return draw.choice([None, b"\xff\xfe", b"\xed\xa0\x80"]), _written(_fields(draw))


def _long(draw: Draw, key: bytes) -> Payload:
    return key, b'{"cpu": "' + b"x" * draw.choice([5_000, 60_000])


_WAYS: Sequence[Callable[[Draw, bytes], Payload]] = [
    *(_cut, _grown, _other_value, _other_json, _other_type, _less, _twice, _time, _not_utf8, _flipped, _noise),
    *(_bom, _tombstone, _empty, _no_series, _deep_beside),
]
_LARGE: Sequence[Callable[[Draw, bytes], Payload]] = [_deep, _long]
_LARGE_SHARE = 0.01


def fuzzed(seed: int, count: int) -> Iterator[Payload]:
    """Return so many payloads, one in a hundred of them long."""
    draw = Draw(seed)
    for _ in range(count):
        ways = _LARGE if draw.random() < _LARGE_SHARE else _WAYS
        yield draw.choice(ways)(draw, draw.choice([b"a", b"b", b"c", b"d"]))

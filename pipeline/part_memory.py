"""One part of a checkpoint: arrays and facts in one piece of memory, laid out as they are stored.

Little endian, format 4; the third was laid out alike, see `pipeline.series_parts`:

| bytes | what |
|---|---|
| 0 to 8 | `OFFKEYCP` |
| 8 to 12 | version of the format |
| 12 to 16 | length of the header |
| 16 to 24 | where the header begins |
| 24 to 32 | zero |
| 32 to 64 | sha256 of all other bytes |
| from 64 | the arrays, row-major, each at a multiple of 64, zeros between |
| last | the header, JSON: `facts`, and `arrays` as name: [type, shape, where] |

Whoever fills a part writes its arrays where they stay. Fresh memory for each part would cost more than the copy: a
page that is touched for the first time takes the kernel up to a hundred times as long as filling it. The hash is
reckoned and the object written from the same memory, both without Python's lock.
"""

import hashlib
import json
import struct
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import CheckpointError

Arrays = dict[str, npt.NDArray[Any]]

FORMAT_VERSION, _EARLIEST_VERSION = 4, 3
"""Formats 1 and 2 of a worker's files have one format of checkpoints, each an object of safetensors."""
MAGIC = b"OFFKEYCP"
_HEAD = struct.Struct("<8sIIQ8x")
_FIRST, _STEP = 64, 64
assert _HEAD.size + hashlib.sha256().digest_size == _FIRST


class PartMemory:
    """Memory that one part after another is written into."""

    def __init__(self) -> None:
        self._bytes = np.zeros(_FIRST, np.uint8)
        self._end = _FIRST
        self._places: dict[str, tuple[str, list[int], int]] = {}

    @classmethod
    def of(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> "PartMemory":
        """Return memory of its own that holds these arrays."""
        memory = cls()
        for name, array in arrays.items():
            memory.put(name, array)
        return memory

    def begin(self, expected_bytes: int, kept_bytes: int) -> None:
        """Forget the part before; what is here beyond `kept_bytes` and is not expected again goes back."""
        if len(self._bytes) > max(2 * expected_bytes, 2 * kept_bytes):
            self._bytes = np.zeros(_FIRST, np.uint8)
        self._end, self._places = _FIRST, {}
        self._reserve(expected_bytes)

    def array(self, name: str, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """Return memory for an array, to be filled before the next one is asked for: the memory may move then."""
        dtype = np.dtype(dtype).newbyteorder("<")
        start, size = self._end, int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        end = start + size
        self._end = -(-end // _STEP) * _STEP
        self._reserve(self._end)
        self._bytes[end : self._end] = 0
        self._places[name] = (dtype.str, list(shape), start)
        return self._bytes[start:end].view(dtype).reshape(shape)

    def put(self, name: str, array: npt.NDArray[Any]) -> None:
        """Copy an array in, however it lies in memory."""
        self.array(name, array.shape, array.dtype)[...] = array

    def seal(self, facts: Mapping[str, Any]) -> memoryview:
        """Return the part's bytes, to be used before the next part begins."""
        header = json.dumps({"facts": facts, "arrays": self._places}, separators=(",", ":")).encode()
        start, end = self._end, self._end + len(header)
        self._reserve(end)
        self._bytes[start:end] = np.frombuffer(header, np.uint8)
        head = _HEAD.pack(MAGIC, FORMAT_VERSION, len(header), start)
        self._bytes[: _HEAD.size] = np.frombuffer(head, np.uint8)
        content = self._bytes[:end]
        self._bytes[_HEAD.size : _FIRST] = np.frombuffer(_digest(content.data), np.uint8)
        return content.data

    def _reserve(self, size: int) -> None:
        if size > len(self._bytes):
            grown = np.empty(max(size, len(self._bytes) + len(self._bytes) // 4), np.uint8)
            grown[: len(self._bytes)] = self._bytes
            self._bytes = grown


def read_part(content: bytes | bytearray) -> tuple[dict[str, Any], Arrays]:
    """Return the (facts, arrays) of a part; the arrays are views of its bytes.

    Raises:
        CheckpointError: it is damaged, or of a format that this version does not know.
    """
    if len(content) < _FIRST:
        raise CheckpointError(f"it is cut off after {len(content)} bytes")
    magic, version, length, start = _HEAD.unpack_from(content)
    if magic == MAGIC:
        _check_version(version)
    whole = memoryview(content)
    if magic != MAGIC or _digest(whole) != content[_HEAD.size : _FIRST]:
        raise CheckpointError("its sha256 differs: it is damaged or cut off")
    try:
        header = json.loads(content[start : start + length])
        return header["facts"], {
            name: np.frombuffer(whole, dtype, int(np.prod(shape, dtype=np.int64)), place).reshape(shape)
            for name, (dtype, shape, place) in header["arrays"].items()
        }
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"it is whole, but no checkpoint of a known format ({error!r})") from error


def read_facts(read: Callable[[int, int], bytes]) -> dict[str, Any]:
    """Return the facts of a part by `read(start, end)`, without its arrays: its hash is not looked at.

    Raises:
        CheckpointError: it is none, or of an unknown format.
    """
    head = read(0, _FIRST)
    if len(head) < _FIRST or head[: len(MAGIC)] != MAGIC:
        raise CheckpointError("it is no checkpoint, or cut off")
    _, version, length, start = _HEAD.unpack_from(head)
    _check_version(version)
    try:
        facts: dict[str, Any] = json.loads(read(start, start + length))["facts"]
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"its header is damaged ({error!r})") from error
    return facts


def _check_version(version: int) -> None:
    if not _EARLIEST_VERSION <= version <= FORMAT_VERSION:
        raise CheckpointError(f"its format is {version}, this version of offkey reads {FORMAT_VERSION} and earlier")


def _digest(content: memoryview) -> bytes:
    """Return the sha256 of all but the bytes that hold it."""
    digest = hashlib.sha256(content[: _HEAD.size])
    digest.update(content[_FIRST:])
    return digest.digest()

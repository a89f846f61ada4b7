"""How large an Arrow record batch says that it is, before anything of it is unpacked.

pyarrow decompresses a buffer to the size that its first eight bytes claim, and makes an array as long as the
metadata says: a few bytes may ask for all the memory there is. So the metadata, a flatbuffer that pyarrow has
verified but does not show, is read here for the lengths alone. Layout: the Arrow columnar format, "Encapsulated
message format" and `Message.fbs`; the flatbuffers binary format.
"""

import struct
from typing import Any, NamedTuple

_INT64 = struct.Struct("<q")
_DICTIONARY_BATCH, _RECORD_BATCH = 2, 3
# Numbers of the fields of each table in Message.fbs.
_HEADER_TYPE, _HEADER = 1, 2
_DATA = 1
_LENGTH, _BUFFERS, _COMPRESSION = 0, 2, 3


class Claim(NamedTuple):
    nbytes: int
    """Of all buffers, decompressed."""
    rows: int
    entries: int
    """Values of a dictionary."""


def claimed(metadata: Any, body: Any) -> Claim:
    """Return what a message claims; messages without a body claim nothing.

    Raises:
        ValueError: the metadata points outside itself, or a length is negative.
    """
    try:
        return _claimed(memoryview(metadata), memoryview(body) if body is not None else memoryview(b""))
    except (struct.error, IndexError) as error:
        raise ValueError(f"the metadata of a message points outside of it ({error})") from None


def _claimed(metadata: memoryview, body: memoryview) -> Claim:
    (root,) = struct.unpack_from("<I", metadata, 0)
    at = _field(metadata, root, _HEADER_TYPE)
    kind = metadata[at] if at else 0
    if kind not in (_DICTIONARY_BATCH, _RECORD_BATCH):
        return Claim(0, 0, 0)
    batch = _below(metadata, _field(metadata, root, _HEADER))
    if kind == _DICTIONARY_BATCH:
        batch = _below(metadata, _field(metadata, batch, _DATA))
    at = _field(metadata, batch, _LENGTH)
    length = _checked(_INT64.unpack_from(metadata, at)[0]) if at else 0
    compressed = _field(metadata, batch, _COMPRESSION) != 0
    nbytes = 0
    at = _field(metadata, batch, _BUFFERS)
    if at:
        vector = _below(metadata, at)
        (count,) = struct.unpack_from("<I", metadata, vector)
        for place, size in struct.iter_unpack("<qq", metadata[vector + 4 : vector + 4 + 16 * count]):
            nbytes += _checked(_unpacked(body, place, size) if compressed else size)
    return Claim(nbytes, 0, length) if kind == _DICTIONARY_BATCH else Claim(nbytes, length, 0)


def _unpacked(body: memoryview, place: int, length: int) -> int:
    """Return the size of a compressed buffer: its first eight bytes; -1 says that it is stored as it is."""
    if not length:
        return 0
    if place < 0 or length < _INT64.size:
        raise ValueError("a compressed buffer has no size")
    size = int(_INT64.unpack_from(body, place)[0])
    return length - _INT64.size if size == -1 else size


def _checked(length: int) -> int:
    if length < 0:
        raise ValueError("a length is negative")
    return length


def _field(metadata: memoryview, table: int, number: int) -> int:
    """Return where a field of a table stands; 0 where it has its default."""
    (back,) = struct.unpack_from("<i", metadata, table)
    vtable = table - back
    if vtable < 0:
        raise IndexError(vtable)
    (size,) = struct.unpack_from("<H", metadata, vtable)
    entry = 4 + 2 * number
    if entry + 2 > size:
        return 0
    (offset,) = struct.unpack_from("<H", metadata, vtable + entry)
    return table + offset if offset else 0


def _below(metadata: memoryview, at: int) -> int:
    """Follow a reference."""
    return at + int(struct.unpack_from("<I", metadata, at)[0])

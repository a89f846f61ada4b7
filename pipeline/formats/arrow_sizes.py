"""How large an Arrow record batch says that it is, before anything of it is unpacked.

pyarrow decompresses a buffer to the size that its first eight bytes claim, and makes an array as long as the
metadata says: a few bytes may ask for all the memory there is. So the metadata, a flatbuffer that pyarrow has
verified but does not show, is read here for the lengths alone. Layout: the Arrow columnar format, "Encapsulated
message format" and `Message.fbs`; the flatbuffers binary format.
"""

import struct
from typing import Any, NamedTuple

_INT64, _UINT32, _INT32, _UINT16 = (struct.Struct(code) for code in ("<q", "<I", "<i", "<H"))
_DICTIONARY_BATCH, _RECORD_BATCH = 2, 3
# Numbers of the fields of each table in Message.fbs.
_HEADER_TYPE, _HEADER = 1, 2
_DATA = 1
_LENGTH, _BUFFERS, _COMPRESSION = 0, 2, 3
_NOTHING = memoryview(b"")


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
        return _claimed(memoryview(metadata), _NOTHING if body is None else memoryview(body))
    except (struct.error, IndexError) as error:
        raise ValueError(f"the metadata of a message points outside of it ({error})") from None


def _claimed(metadata: memoryview, body: memoryview) -> Claim:
    message = _fields(metadata, _below(metadata, 0))
    kind = metadata[message[_HEADER_TYPE]] if message[_HEADER_TYPE] else 0
    if kind not in (_DICTIONARY_BATCH, _RECORD_BATCH):
        return Claim(0, 0, 0)
    batch = _fields(metadata, _below(metadata, message[_HEADER]))
    if kind == _DICTIONARY_BATCH:
        batch = _fields(metadata, _below(metadata, batch[_DATA]))
    length = _checked(_INT64.unpack_from(metadata, batch[_LENGTH])[0]) if batch[_LENGTH] else 0
    # Buffers that are not compressed are parts of the body, and stay there.
    nbytes = body.nbytes
    if batch[_COMPRESSION] and batch[_BUFFERS]:
        vector = _below(metadata, batch[_BUFFERS])
        end = vector + 4 + 16 * _UINT32.unpack_from(metadata, vector)[0]
        places = struct.iter_unpack("<qq", metadata[vector + 4 : end])
        nbytes = sum(_unpacked(body, place, size) for place, size in places)
    return Claim(nbytes, 0, length) if kind == _DICTIONARY_BATCH else Claim(nbytes, length, 0)


def _unpacked(body: memoryview, place: int, length: int) -> int:
    """Return the size of a compressed buffer: its first eight bytes; -1 says that it is stored as it is."""
    if not length:
        return 0
    if place < 0 or length < _INT64.size:
        raise ValueError("a compressed buffer has no size")
    size = int(_INT64.unpack_from(body, place)[0])
    return length - _INT64.size if size == -1 else _checked(size)


def _checked(length: int) -> int:
    if length < 0:
        raise ValueError("a length is negative")
    return length


def _fields(metadata: memoryview, table: int) -> tuple[int, ...]:
    """Return where the first four fields of a table stand; 0 for one that has its default."""
    vtable = table - int(_INT32.unpack_from(metadata, table)[0])
    if vtable < 0:
        raise IndexError(vtable)
    count = min(4, (int(_UINT16.unpack_from(metadata, vtable)[0]) - 4) // 2)
    offsets = struct.unpack_from(f"<{max(count, 0)}H", metadata, vtable + 4)
    return tuple(table + offset if offset else 0 for offset in (*offsets, 0, 0, 0, 0)[:4])


def _below(metadata: memoryview, at: int) -> int:
    """Follow a reference."""
    return at + int(_UINT32.unpack_from(metadata, at)[0])

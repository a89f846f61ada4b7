"""What a PNG or a JPEG says of itself, and whether it is whole, before a pixel of it is unpacked.

A few bytes may claim an image that fills all memory, and a decoder makes of half a file an image that is grey
below. So the parts of a file are gone through here, to its very end, without a decoder: sizes are known at once, a
file that was cut off anywhere is told, and so is one of which bytes have changed, where it has checksums. Layouts:
PNG (W3C, third edition, 2025), 5; JPEG (ITU-T T.81), B.1 and B.2.
"""

import re
import struct
import zlib
from typing import NamedTuple

from pipeline.formats.fields import Malformed

PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
"""How they begin."""
_CHANNELS_OF_PNG = {0: 1, 2: 3, 6: 4}
_OTHER_PNG = {3: "a palette", 4: "grey with alpha"}
_INTERLACED = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
"""First row and column of each pass of an interlaced PNG, and the steps between its rows and columns (Adam7)."""
_LAST_CHUNK = b"\0\0\0\0IEND\xae\x42\x60\x82"
_FRAMES = {0xC0, 0xC1, 0xC2}
"""Baseline, extended and progressive, of Huffman's code; others are as good as never written."""
_OTHER_FRAMES = {0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}
_SCAN, _END = 0xDA, 0xD9
_MARKER = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]", re.DOTALL)
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]", re.DOTALL)
"""Behind the coded data of a scan: a zero behind FF is data, and so are marks to start again. It begins at the last
FF of many: a search for all of them would go through a long run again from each."""
_MOST_SCANS = 64
"""Each costs a pass over the whole image, though it may be empty; usual progressive files have ten."""


class Header(NamedTuple):
    """What a file says of its image."""

    height: int
    width: int
    channels: int
    """0: of another kind, which `other` tells."""
    other: str = ""
    interlaced: bool = False
    packed: bytes = b""
    """Of a PNG: its pixels, deflated."""


def png_header(value: bytes) -> Header:
    """Return what a PNG says.

    Raises:
        Malformed: it is none, cut off, or its checksums differ.
    """
    if not value.startswith(PNG):
        raise Malformed("not_image", f"it is no PNG{_looks_like(value)}")
    header, packed = None, list[bytes]()
    place = len(PNG)
    while value[place : place + 12] != _LAST_CHUNK:
        if place + 12 > len(value):
            raise _cut_off("PNG", len(value))
        length, kind = struct.unpack_from(">I4s", value, place)
        end = place + 12 + length
        if end > len(value):
            raise _cut_off("PNG", len(value))
        if zlib.crc32(memoryview(value)[place + 4 : end - 4]) != int.from_bytes(value[end - 4 : end]):
            raise Malformed("bad_image", f"the PNG is damaged: its part {kind.decode('latin-1')!r} was changed")
        if (header is None) != (kind == b"IHDR") or (kind == b"IHDR" and length != 13):
            raise Malformed("bad_image", "the PNG does not begin with one header")
        if kind == b"acTL":
            raise Malformed("wrong_mode", "the PNG is animated; send one image a record")
        header = header or _of_png(value[place + 8 : end - 4])
        if kind == b"IDAT":
            packed.append(value[place + 8 : end - 4])
        place = end
    if place + 12 < len(value):
        raise Malformed("bad_image", f"{len(value) - place - 12:,} bytes follow the end of the PNG")
    if header is None:
        raise Malformed("bad_image", "the PNG has no header")
    return header._replace(packed=b"".join(packed))


def check_pixels(header: Header) -> None:
    """See that a PNG holds as many pixels as it says: where some are lacking, a decoder makes them black.

    What it says has to be what is asked for by now, for that much is unpacked.

    Raises:
        Malformed: it holds more or fewer.
    """
    passes = _INTERLACED if header.interlaced else [(0, 0, 1, 1)]
    sides = [(-(-(header.height - y) // by_y), -(-(header.width - x) // by_x)) for y, x, by_y, by_x in passes]
    # A row begins with the number of its filter.
    needed = sum(rows * (1 + columns * header.channels) for rows, columns in sides if rows > 0 and columns > 0)
    inflating = zlib.decompressobj()
    try:
        held = len(inflating.decompress(header.packed, needed + 1))
    except zlib.error as error:
        raise Malformed("bad_image", f"the pixels of the PNG cannot be unpacked: {error}") from None
    if held != needed:
        raise Malformed("bad_image", f"the PNG holds {'more' if held > needed else 'fewer'} pixels than it says")


def _of_png(content: bytes) -> Header:
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", content)
    if colour in _OTHER_PNG:
        return Header(height, width, 0, _OTHER_PNG[colour])
    if depth != 8:
        return Header(height, width, 0, f"{depth} bits a value")
    return Header(height, width, _CHANNELS_OF_PNG.get(colour, 0), f"colour type {colour}", interlaced != 0)


def jpeg_header(value: bytes) -> Header:
    """Return what a JPEG says; it has no checksums, so of changed bytes only some are told by what they break.

    Raises:
        Malformed: it is none, or cut off.
    """
    if not value.startswith(JPEG):
        raise Malformed("not_image", f"it is no JPEG{_looks_like(value)}")
    header: Header | None = None
    place, scans = 2, 0
    while True:
        if (found := _MARKER.match(value, place)) is None:
            raise _cut_off("JPEG", len(value)) if place >= len(value) - 1 else _no_marker()
        marker, place = value[found.end() - 1], found.end()
        if marker == _END:
            break
        length = int.from_bytes(value[place : place + 2])
        if place + length > len(value) or place + 2 > len(value):
            raise _cut_off("JPEG", len(value))
        if length < 2 or marker in _OTHER_FRAMES or (header is not None and marker in _FRAMES):
            raise Malformed("bad_image", f"the JPEG has a part {marker:02X} that is not usual or not whole")
        if marker in _FRAMES:
            header = _of_jpeg(value[place + 2 : place + length])
        place += length
        if marker == _SCAN:
            scans += 1
            if (found := _NEXT_MARKER.search(value, place)) is None:
                raise _cut_off("JPEG", len(value))
            place = found.start()
    if scans > _MOST_SCANS:
        raise Malformed("too_large", f"the JPEG has {scans:,} scans, and {_MOST_SCANS} is the most")
    if place < len(value):
        raise Malformed("bad_image", f"{len(value) - place:,} bytes follow the end of the JPEG")
    if header is None or not scans:
        raise Malformed("bad_image", "the JPEG holds no image")
    return header


def _of_jpeg(frame: bytes) -> Header:
    if len(frame) < 6:
        raise Malformed("bad_image", "the header of the JPEG is too short")
    depth, height, width, components = struct.unpack_from(">BHHB", frame)
    if depth != 8:
        return Header(height, width, 0, f"{depth} bits a value")
    return Header(height, width, components if components in (1, 3) else 0, f"{components} components")


def _no_marker() -> Malformed:
    return Malformed("bad_image", "the JPEG is damaged: a part does not begin where the one before it ends")


def _cut_off(what: str, size: int) -> Malformed:
    return Malformed("bad_image", f"the {what} is cut off after {size:,} bytes")


def _looks_like(value: bytes) -> str:
    """Return what to do where it is an image of the other format, or a tensor."""
    if value.startswith(PNG):
        return "; it looks like PNG, set `format: png`"
    if value.startswith(JPEG):
        return "; it looks like JPEG, set `format: jpeg`"
    if value.startswith((b"\xff\xff\xff\xff", b"ARROW1")):
        return "; it looks like Arrow, set `format: arrow`"
    return ""

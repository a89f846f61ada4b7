"""Images as bytes: decoded as they are, or refused with one clear reason before a pixel is unpacked."""

import struct
import time
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from models.spec import ImageShape
from pipeline.formats.fields import Malformed
from pipeline.formats.image_bytes import JPEG, PNG, jpeg_header, png_header
from pipeline.formats.png_jpeg import PngJpegFormat, encode_png
from tests.images import COLOURED, SHAPE, Pixels, bytes_of, coloured, digits, image_of, jpeg, png

RGBA = ImageShape(8, 8, 4)


def refused(kind: str, value: bytes, shape: ImageShape = SHAPE) -> tuple[str, str]:
    """Return the reason and the text with which a value is refused."""
    with pytest.raises(Malformed) as caught:
        PngJpegFormat(kind, shape).decode(value)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return caught.value.reason, str(caught.value)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def made_png(width: int, height: int, rows: bytes, depth: int = 8, colour: int = 0) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return PNG + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def rgba() -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (5, RGBA.values), np.uint8)


@pytest.mark.parametrize(
    ("shape", "images"), [(SHAPE, digits()[0]), (COLOURED, coloured()), (RGBA, rgba())], ids=["grey", "rgb", "rgba"]
)
def test_a_png_holds_what_was_put_in(shape: ImageShape, images: Pixels) -> None:
    decoded = PngJpegFormat("png", shape)
    for x_F in images[:5]:
        assert np.array_equal(decoded.decode(png(x_F, shape))[0], x_F)
        assert np.array_equal(decoded.decode(encode_png(x_F, shape))[0], x_F)


@pytest.mark.parametrize(("shape", "images"), [(SHAPE, digits()[0]), (COLOURED, coloured())], ids=["grey", "rgb"])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_holds_nearly_what_was_put_in(shape: ImageShape, images: Pixels, progressive: bool) -> None:
    decoded = PngJpegFormat("jpeg", shape)
    for x_F in images[:5]:
        found_F = decoded.decode(jpeg(x_F, shape, progressive=progressive, subsampling=0))[0]
        assert np.abs(found_F.astype(int) - x_F).mean() < 6


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_wherever_an_image_is_cut_off_it_is_refused(kind: str) -> None:
    value = (png if kind == "png" else jpeg)(coloured()[0], COLOURED)
    reasons = {refused(kind, value[:end], COLOURED)[0] for end in range(1, len(value))}
    assert reasons == {"bad_image", "not_image"}
    assert refused(kind, value[:-20], COLOURED)[1].endswith(f"is cut off after {len(value) - 20:,} bytes")
    assert refused(kind, value + b"more", COLOURED)[0] == "bad_image"


def test_no_changed_byte_of_a_png_goes_unseen() -> None:
    value = png(digits()[0][0])
    for place in range(len(value)):
        refused("png", value[:place] + bytes([value[place] ^ 16]) + value[place + 1 :])


@given(place=st.integers(2, 400), with_=st.binary(max_size=6))
def test_a_changed_jpeg_is_decoded_to_its_size_or_refused(place: int, with_: bytes) -> None:
    value = jpeg(coloured()[1], COLOURED)
    try:
        found_NF = PngJpegFormat("jpeg", COLOURED).decode(value[:place] + with_ + value[place + len(with_) :])
    except Malformed:
        return
    assert found_NF.shape == (1, COLOURED.values)


@given(st.sampled_from([b"", PNG, JPEG, PNG + b"\0\0\0\rIHDR"]), st.binary(max_size=200))
def test_bytes_from_anywhere_are_refused(begin: bytes, rest: bytes) -> None:
    for kind in ("png", "jpeg"):
        refused(kind, begin + rest)


def test_an_image_of_another_size_is_refused() -> None:
    small = ImageShape(6, 8, 1)
    value = png(digits()[0][0][: small.values], small)
    assert refused("png", value) == ("wrong_size", "it is 6 x 8, and `image` asks for 8 x 8 (height x width)")


def test_a_bomb_is_told_by_its_header() -> None:
    """Were it unpacked first, Pillow would warn of it, which is another reason."""
    wide, high = 100_000, 1_000
    bomb = made_png(wide, high, bytes((wide + 1) * high))
    assert len(bomb) < 200_000
    assert refused("png", bomb)[0] == "wrong_size"
    assert "1,000 x 100,000" in refused("png", bomb)[1]
    huge = jpeg(digits()[0][0])
    at = huge.index(b"\xff\xc0") + 5
    huge = huge[:at] + struct.pack(">HH", 65_535, 65_535) + huge[at + 4 :]
    assert refused("jpeg", huge)[0] == "wrong_size"


@pytest.mark.parametrize("size", [0, 1, 9 * 5, 9 * 7, 9 * 8 - 1, 9 * 8 + 1, 50_000_000])
def test_pixels_are_as_many_as_the_header_says(size: int) -> None:
    assert not PngJpegFormat("png", SHAPE).decode(made_png(8, 8, bytes(9 * 8))).any()
    assert refused("png", made_png(8, 8, bytes(size)))[0] == "bad_image"


@pytest.mark.parametrize(("width", "height"), [(8, 8), (5, 9), (4, 4)])
def test_an_interlaced_png_is_taken(width: int, height: int) -> None:
    """Pillow writes none: of one that is black only the number of bytes matters."""
    sizes = {(8, 8): 64 + 15, (5, 9): 45 + 19, (4, 4): 16 + 7}
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 1)
    shape = ImageShape(height, width, 1)

    def value(size: int) -> bytes:
        parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(size))) + chunk(b"IEND", b"")
        return PNG + parts

    assert PngJpegFormat("png", shape).decode(value(sizes[width, height])).shape == (1, shape.values)
    assert refused("png", value(sizes[width, height] - 1), shape)[0] == "bad_image"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (lambda: bytes_of(image_of(coloured()[0], COLOURED), "PNG"), "3 channels"),
        (lambda: bytes_of(image_of(coloured()[0], COLOURED).convert("P"), "PNG"), "a palette"),
        (lambda: bytes_of(image_of(digits()[0][0], SHAPE).convert("LA"), "PNG"), "grey with alpha"),
        (lambda: bytes_of(image_of(digits()[0][0], SHAPE).convert("1"), "PNG"), "1 bits a value"),
        (lambda: bytes_of(Image.new("I;16", (8, 8)), "PNG"), "16 bits a value"),
    ],
)
def test_another_mode_is_refused_by_its_name(value: Callable[[], bytes], said: str) -> None:
    assert refused("png", value()) == (
        "wrong_mode",
        f"it has {said}, and `image` asks for 1 channel of 8 bits",
    )


def test_a_jpeg_for_printing_is_refused() -> None:
    value = bytes_of(image_of(coloured()[0], COLOURED).convert("CMYK"), "JPEG")
    assert refused("jpeg", value, COLOURED)[1].startswith("it has 4 components")


def test_several_frames_are_no_image() -> None:
    frames = [image_of(x_F, SHAPE) for x_F in digits()[0][:3]]
    value = bytes_of(frames[0], "PNG", save_all=True, append_images=frames[1:])
    assert refused("png", value) == ("wrong_mode", "the PNG is animated; send one image a record")


def test_a_second_header_is_refused() -> None:
    value = png(digits()[0][0])
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 100_000, 100_000, 8, 0, 0, 0, 0))
    assert refused("png", value[:-12] + header + value[-12:])[0] == "bad_image"
    assert refused("png", value[:8] + header + value[8:])[0] == "bad_image"


def test_a_jpeg_of_very_many_scans_is_refused() -> None:
    value = jpeg(digits()[0][0], progressive=True)
    begin = value.index(b"\xff\xda")
    assert refused("jpeg", value[:begin] + 100 * value[begin:-2] + value[-2:])[0] == "too_large"


@pytest.mark.parametrize(
    ("kind", "value", "remedy"),
    [
        ("png", jpeg(digits()[0][0]), "it is no PNG; it looks like JPEG, set `format: jpeg`"),
        ("jpeg", png(digits()[0][0]), "it is no JPEG; it looks like PNG, set `format: png`"),
        ("png", b"\xff\xff\xff\xffarrow", "it is no PNG; it looks like Arrow, set `format: arrow`"),
        ("png", b'{"a": 1}', "it is no PNG"),
    ],
)
def test_another_format_is_told(kind: str, value: bytes, remedy: str) -> None:
    assert refused(kind, value) == ("not_image", remedy)


def test_headers_say_what_pillow_says() -> None:
    x_F = coloured()[0]
    for header, value in ((png_header, png(x_F, COLOURED)), (jpeg_header, jpeg(x_F, COLOURED))):
        assert header(value)[:3] == (8, 8, 3)


def test_a_long_run_of_marks_in_a_jpeg_takes_no_time() -> None:
    """A search that begins anew at each of them would take hours for a megabyte."""
    value = jpeg(digits()[0][0])
    scan = value.index(b"\xff\xda") + 12
    begun_s = time.process_time()
    for end in (b"", b"\x00"):
        refused("jpeg", value[:scan] + 1_000_000 * b"\xff" + end)
    assert time.process_time() - begun_s < 5

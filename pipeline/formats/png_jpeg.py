"""PNG and JPEG -> the values of their pixels, and back. The one place that knows Pillow.

An image has to be of the size and the channels that are asked for: nothing is resized, no palette is resolved, no
colour profile, gamma or turning (EXIF) is applied. What its header claims is looked at before Pillow sees it
(`image_bytes`), so a decoder never makes more than one image of that size.

Legend: F values of an image, row by row, pixel by pixel, channel by channel.
"""

import io
from typing import Literal

import numpy as np
import numpy.typing as npt

from models.spec import ImageShape
from pipeline.errors import ConfigError
from pipeline.formats.fields import Malformed, wrong_size
from pipeline.formats.image_bytes import check_pixels, jpeg_header, png_header

try:
    from PIL import Image
except ModuleNotFoundError as error:
    raise ConfigError(
        "`format: png` and `jpeg` need Pillow, which is not installed: pip install 'offkey[images]'"
    ) from error

Pixels = npt.NDArray[np.uint8]
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_QUALITY = 95


class PngJpegFormat:
    """Decodes one image a value."""

    def __init__(self, kind: Literal["png", "jpeg"], shape: ImageShape) -> None:
        self._kind = kind
        self._header = png_header if kind == "png" else jpeg_header
        self._shape = shape

    def decode(self, value: bytes) -> Pixels:
        """Return the values of one image, x_1F.

        Raises:
            Malformed: with the reason; see `REASONS` in `pipeline.stages.decode`.
        """
        header, shape = self._header(value), self._shape
        if header[:2] != shape[:2]:
            raise wrong_size(header[:2], shape)
        if header.channels != shape.channels:
            found = _counted(header.channels) if header.channels else header.other
            raise Malformed(
                "wrong_mode", f"it has {found}, and `image` asks for {_counted(shape.channels)} of 8 bits"
            )
        if self._kind == "png":
            check_pixels(header)
        try:
            with Image.open(io.BytesIO(value), formats=[self._kind.upper()]) as image:
                if (image.size, image.mode) != ((shape.width, shape.height), _MODES[shape.channels]):
                    raise Malformed("bad_image", f"it claims two sizes, or is of mode {image.mode}")
                pixels = np.asarray(image, np.uint8)
        except Malformed:
            raise
        except Exception as error:
            # Its decoders raise whatever the bytes lead them to; a fault of one record has to stay that record's.
            text = (str(error).splitlines() or [type(error).__name__])[0]
            raise Malformed("bad_image", f"it cannot be decoded: {text}") from None
        return pixels.reshape(1, shape.values)

    def count(self, value: bytes) -> int:
        """Return how many images a value holds."""
        return 1


def _counted(channels: int) -> str:
    return f"{channels} channel" + "s" * (channels > 1)


def encode_png(x_F: Pixels, shape: ImageShape) -> bytes:
    """Return an image as PNG."""
    return _encoded(x_F, shape, "PNG")


def encode_jpeg(x_F: Pixels, shape: ImageShape) -> bytes:
    """Return an image of 1 or 3 channels as JPEG, with every pixel's colour; values move by some."""
    return _encoded(x_F, shape, "JPEG", quality=_QUALITY, subsampling=0)


def _encoded(x_F: Pixels, shape: ImageShape, kind: str, **how: int) -> bytes:
    sides = shape[:2] if shape.channels == 1 else shape
    file = io.BytesIO()
    Image.fromarray(x_F.reshape(sides)).save(file, kind, **how)
    return file.getvalue()

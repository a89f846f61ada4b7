"""Made-up images as Parquet files, each what a record of the stream holds, with anomalies where they are asked for.

A row is `label` and `image`: PNG or JPEG as the stream's records are, or, of Arrow, a tensor of bytes. A JPEG is
written with little loss, and loses some: what was compared and injected are its values before. What was injected,
where in the image, and how far the values moved stands in `anomalies.jsonl`. Images are written as they are made.

Legend: N images, F values of each.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt

from models.arrays import BoolArray, FloatArray
from models.image_faults import inject_images
from models.injection import Injected
from models.spec import ImageShape
from pipeline.connectors.parquet import Array, Coded, Tensors, Writer
from pipeline.jobs.generated_rows import VARIATION, Injection, Labels

IMAGE = "image"
Format = Literal["png", "jpeg", "arrow"]
Pixels = npt.NDArray[np.uint8]


def as_records(kind: Format, shape: ImageShape) -> Callable[[Pixels], Array | Tensors]:
    """Return what makes a column of images.

    Raises:
        ConfigError: Pillow is needed and not installed.
    """
    if kind == "arrow":
        sides = shape[:2] if shape.channels == 1 else shape
        return lambda x_NF: Tensors(x_NF.reshape(-1, *sides))
    from pipeline.formats.png_jpeg import encode_jpeg, encode_png

    encode = encode_png if kind == "png" else encode_jpeg

    def encoded(x_NF: Pixels) -> Array:
        column = np.empty(len(x_NF), np.object_)
        column[:] = [encode(x_F, shape) for x_F in x_NF]
        return column

    return encoded


def write_images(
    path: Path,
    parts: Iterable[FloatArray],
    rows: int,
    encoded: Callable[[Pixels], Array | Tensors],
    shape: ImageShape,
    spread_F: FloatArray,
    injection: Injection,
    labels: Labels,
) -> Iterator[int]:
    """Write a file of so many images, which come in parts; yield how many are written, at each part.

    Args:
        spread_F: what sizes of anomalies are told in.

    Raises:
        OSError: it cannot be written, as where the disk is full.
    """
    writer = Writer({"offkey.generated": "images"}, path)
    done = 0
    for number, x_NF in enumerate(parts):
        end = done + len(x_NF)
        label_N = np.zeros(len(x_NF), np.int8)
        begun, ended = (place * injection.count // rows for place in (done, end))
        if ended > begun:
            asked = injection.numbered(begun, ended)
            every_N = np.ones(len(x_NF), np.bool_)
            changed_NF, found = inject_images(x_NF, every_N, asked, shape, spread_F, injection.seed_of(number))
            for each in found:
                label_N[each.begin] = 1
                labels.add(_label(each, done, x_NF[each.begin] != changed_NF[each.begin], shape))
            x_NF = changed_NF
        writer.add({"label": label_N, IMAGE: encoded(cast(Pixels, x_NF))})
        done = end
        yield done
    writer.close()


def _label(injected: Injected, first: int, changed_F: BoolArray, shape: ImageShape) -> dict[str, Any]:
    """Return what is told of an anomaly: the rows and columns, first and last, that it has changed."""
    changed_HW = np.any(changed_F.reshape(shape.height, shape.width, shape.channels), axis=2)
    where: Mapping[str, Array] = {
        "rows": np.flatnonzero(changed_HW.any(axis=1)),
        "columns": np.flatnonzero(changed_HW.any(axis=0)),
    }
    begin, anomaly = first + injected.begin, injected.anomaly
    return {
        "fault": anomaly.fault,
        "size": anomaly.size,
        "begin": begin,
        "end": begin + 1,
        **{name: [int(each[0]), int(each[-1])] if len(each) else [] for name, each in where.items()},
        "moved": injected.moved,
    }


def write_image_variations(path: Path, x_NF: FloatArray, encoded: Callable[[Pixels], Array | Tensors]) -> None:
    """Write images that are variations of one; raises as `write_images` does."""
    columns: dict[str, Array | Coded | Tensors] = {
        VARIATION: np.arange(len(x_NF), dtype=np.int32),
        "label": np.zeros(len(x_NF), np.int8),
        IMAGE: encoded(cast(Pixels, x_NF)),
    }
    writer = Writer({"offkey.generated": "variations"}, path)
    writer.add(columns)
    writer.close()

"""Arrow records that hold images: one column of fixed-shape tensors, an image a row; others are passed over.

The tensors are `arrow.fixed_shape_tensor` of uint8, of the shape [height, width, channels], or [height, width]
where there is one channel. A record in which a row has no image is refused as a whole, and so is one of no row.

Legend: N images, F values of each.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from models.spec import ImageShape, shortened
from pipeline.formats.arrow import ArrowFormat, valid_batches
from pipeline.formats.fields import Fields, Malformed, wrong_size
from pipeline.formats.image_bytes import JPEG, PNG

_TENSOR = "arrow.fixed_shape_tensor"


class TensorFormat:
    """Decodes the images of a value."""

    def __init__(self, shape: ImageShape, max_bytes: int) -> None:
        """`max_bytes`: what a value may hold once it is decompressed."""
        self._shape = shape
        self._table = ArrowFormat(Fields(()), max_bytes)

    def decode(self, value: bytes) -> npt.NDArray[np.uint8]:
        """Return the values of the images, x_NF.

        Raises:
            Malformed: with the reason; see `REASONS` in `pipeline.stages.decode`.
        """
        for magic, name in ((PNG, "png"), (JPEG, "jpeg")):
            if value.startswith(magic):
                raise Malformed("not_arrow", f"it looks like {name.upper()}, set `format: {name}`")
        _, reader = self._table.opened(value)
        place = self._place(reader.schema)
        x_NF = np.concatenate(
            [
                np.empty((0, self._shape.values), np.uint8),
                *(self._values(batch.column(place)) for batch in valid_batches(reader)),
            ]
        )
        if not len(x_NF):
            raise Malformed("missing_field", "it holds no image")
        return x_NF

    def count(self, value: bytes) -> int:
        """Return how many images a value says that it has; 0 where that cannot be told."""
        return self._table.count(value)

    def _place(self, schema: Any) -> int:
        """Return which column holds the images."""
        kinds = {field.name: field.type for field in schema}
        tensors = [name for name, kind in kinds.items() if getattr(kind, "extension_name", "") == _TENSOR]
        if len(tensors) != 1 or len(kinds) != len(schema):
            raise Malformed(
                "not_image",
                f"of the columns {shortened(list(kinds)) or '(none)'} {len(tensors)} hold fixed-shape tensors; one "
                "has to",
            )
        kind, shape = kinds[tensors[0]], self._shape
        if str(kind.value_type) != "uint8":
            raise Malformed(
                "wrong_mode", f"its tensors hold {kind.value_type}; bring the values to 0 to 255 as uint8"
            )
        if kind.permutation is not None and list(kind.permutation) != sorted(kind.permutation):
            raise Malformed("wrong_mode", "its tensors are laid out with a permutation; write them row by row")
        if list(kind.shape) not in ([*shape], *([[*shape[:2]]] if shape.channels == 1 else [])):
            raise wrong_size(kind.shape, shape)
        return int(schema.get_field_index(tensors[0]))

    def _values(self, column: Any) -> npt.NDArray[np.uint8]:
        values = column.storage.flatten()
        if column.null_count or values.null_count:
            raise Malformed("missing_field", "a row has no image, or a part of one is null")
        found: npt.NDArray[np.uint8] = values.to_numpy(zero_copy_only=False)
        return found.reshape(-1, self._shape.values)

"""Images as Arrow tensors: many a record, of one shape."""

from typing import Any

import numpy as np
import pyarrow
import pytest

from models.spec import ImageShape
from pipeline.formats.arrow_tensors import TensorFormat
from pipeline.formats.fields import Malformed
from tests.arrows import file_of, stream_of
from tests.images import COLOURED, SHAPE, coloured, digits, png, tensors

LIMIT = 100_000


def refused(value: bytes, shape: ImageShape = SHAPE, limit: int = LIMIT) -> tuple[str, str]:
    with pytest.raises(Malformed) as caught:
        TensorFormat(shape, limit).decode(value)
    return caught.value.reason, str(caught.value)


def test_images_come_as_they_are() -> None:
    x_NF, c_NF = digits()[0][:40], coloured()[:40]
    grey, rgb = TensorFormat(SHAPE, LIMIT), TensorFormat(COLOURED, LIMIT)
    assert np.array_equal(grey.decode(tensors(x_NF)), x_NF)
    assert np.array_equal(grey.decode(tensors(x_NF, (8, 8))), x_NF)
    assert np.array_equal(rgb.decode(tensors(c_NF, COLOURED, camera=["a"] * 40)), c_NF)
    assert grey.count(tensors(x_NF)) == 40


def test_batches_slices_files_and_compression_are_taken() -> None:
    x_NF = digits()[0][:30]
    images = pyarrow.FixedShapeTensorArray.from_numpy_ndarray(x_NF.reshape(-1, 8, 8))
    batches = [pyarrow.record_batch({"image": images.slice(*cut)}) for cut in ((0, 7), (7, 0), (7, 23))]
    for value in (stream_of(*batches), file_of(*batches), stream_of(*batches, compression="zstd")):
        assert np.array_equal(TensorFormat(SHAPE, LIMIT).decode(value), x_NF)


def test_wherever_a_stream_is_cut_off_it_is_refused() -> None:
    value = tensors(digits()[0][:2])
    for end in range(1, len(value) - 8):
        assert refused(value[:end])[0] in {"not_arrow", "missing_field"}


def test_what_is_wrong_is_told() -> None:
    x_NF = digits()[0][:4]
    assert refused(tensors(x_NF, (4, 16))) == (
        "wrong_size",
        "it is 4 x 16, and `image` asks for 8 x 8 (height x width)",
    )
    assert refused(tensors(coloured()[:2], (3, 8, 8)), COLOURED)[1].startswith(
        "it is 3 x 8 x 8, and `image` asks for 8 x 8 x 3 (height x width x channels)"
    )
    assert refused(tensors(x_NF.astype(np.float32))) == (
        "wrong_mode",
        "its tensors hold float; bring the values to 0 to 255 as uint8",
    )
    assert refused(stream_of(pyarrow.record_batch({"a": [1]})))[0] == "not_image"
    images = pyarrow.FixedShapeTensorArray.from_numpy_ndarray(x_NF.reshape(-1, 8, 8))
    assert "of the columns a, b 2 hold" in refused(stream_of(pyarrow.record_batch({"a": images, "b": images})))[1]
    assert refused(png(x_NF[0])) == ("not_arrow", "it looks like PNG, set `format: png`")
    assert refused(tensors(x_NF), limit=200)[0] == "too_large"


def test_a_row_without_an_image_is_refused() -> None:
    kind = pyarrow.fixed_shape_tensor(pyarrow.uint8(), [8, 8])
    storage: Any = pyarrow.array([[1] * 64, None, [2] * 64], kind.storage_type)
    inside: Any = pyarrow.array([[1] * 63 + [None]], kind.storage_type)
    for each in (storage, inside):
        value = stream_of(pyarrow.record_batch({"image": pyarrow.ExtensionArray.from_storage(kind, each)}))
        assert refused(value) == ("missing_field", "a row has no image, or a part of one is null")


def test_a_permutation_is_refused() -> None:
    kind = pyarrow.fixed_shape_tensor(pyarrow.uint8(), [8, 8], permutation=[1, 0])
    storage: Any = pyarrow.array([[1] * 64], kind.storage_type)
    value = stream_of(pyarrow.record_batch({"image": pyarrow.ExtensionArray.from_storage(kind, storage)}))
    assert refused(value)[0] == "wrong_mode"

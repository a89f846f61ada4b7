"""Real images for tests: the handwritten digits that come with scikit-learn, as bytes of every format."""

import io
from functools import cache
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow
from PIL import Image
from sklearn.datasets import load_digits

from models.arrays import FloatArray, IntArray
from models.detector import Detector
from models.files import from_files, to_files
from models.fitting import fit_detector
from models.spec import ImageShape
from pipeline.config import StreamSettings
from pipeline.lanes import build_model, lane_around
from pipeline.stream import Lane
from pipeline.train import plan_of_settings
from tests.arrows import stream_of
from tests.streams import BEGIN_MS, CPU

Pixels = npt.NDArray[np.uint8]
SHAPE = ImageShape(8, 8, 1)
COLOURED = ImageShape(8, 8, 3)
IMAGES = StreamSettings.model_validate(
    {
        "topic": "frames",
        "kind": "images",
        "format": "png",
        "image": {"height": 8, "width": 8, "channels": 1},
        "model": {"hidden": 8, "latent": 8, "max_epochs": 4},
        "alerts": {"budget": "1 per 200 records"},
    }
)


@cache
def digits() -> tuple[Pixels, IntArray]:
    """Return 1,797 images of 8 x 8 as x_NF, shuffled, and which digit each is."""
    held = load_digits()
    order_N = np.random.default_rng(0).permutation(len(held.data))
    return np.minimum(16 * held.data[order_N], 255).astype(np.uint8), held.target[order_N]


def coloured() -> Pixels:
    """Return the digits in three channels, x_NF: as they are, darker, and turned about."""
    x_NF, _ = digits()
    return np.stack([x_NF, x_NF // 2, 255 - x_NF], axis=2).reshape(len(x_NF), -1)


def image_of(x_F: Pixels, shape: ImageShape) -> Image.Image:
    return Image.fromarray(x_F.reshape(shape[:2] if shape.channels == 1 else shape))


def bytes_of(image: Image.Image, kind: str, **how: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **how)
    return file.getvalue()


def png(x_F: Pixels, shape: ImageShape = SHAPE) -> bytes:
    return bytes_of(image_of(x_F, shape), "PNG")


def jpeg(x_F: Pixels, shape: ImageShape = SHAPE, **how: Any) -> bytes:
    return bytes_of(image_of(x_F, shape), "JPEG", **{"quality": 95, **how})


def tensors(x_NF: npt.NDArray[Any], shape: tuple[int, ...] = SHAPE, **columns: Any) -> bytes:
    """Return one Arrow stream with a row an image, and other columns beside it."""
    images = pyarrow.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(x_NF.reshape(-1, *shape)))
    return stream_of(pyarrow.record_batch({"image": images, **columns}))


def upside_down(x_NF: Pixels) -> Pixels:
    """Return 8 x 8 images with black and white exchanged: no digit looks so."""
    return 255 - x_NF


@cache
def image_detector() -> Detector:
    """A detector for `IMAGES`, trained on 1,200 digits."""
    x_NF = digits()[0][:1_200]
    plan = plan_of_settings(IMAGES, SHAPE.values)
    columns = {"": (BEGIN_MS + 1000 * np.arange(len(x_NF)), cast(FloatArray, x_NF))}
    return fit_detector("images", SHAPE.names, plan, columns, device=CPU, image=SHAPE)


def image_lane(settings: StreamSettings = IMAGES) -> Lane:
    """Return fresh stages of a stream of images, around the detector as it is read back."""
    model = build_model(settings, from_files(to_files(image_detector())), "v1", CPU)
    return lane_around("camera", settings, model)

"""The autoencoder of `offkey reduce` and `offkey features`: trained on a sample, kept beside the output, judged.

Of images, whose values are pixels, quality is told by one number for all of them: most corners tell nothing.

What reads the rows is always what was read back from its files: a run that goes on has the very same model.

Legend: N rows, F features, D numbers of a code.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from models.apart import deviations
from models.arrays import BoolArray, FloatArray
from models.codes import Coder, fit_coder
from models.files import from_files, to_files
from models.manifest import MANIFEST, TENSORS, ModelFileError, read_manifest
from models.manifest import features_of as written_in
from models.manifest import image_of as size_in
from models.spec import ImageShape, shortened
from pipeline.cores import cores
from pipeline.errors import ConfigError, SnapshotError
from pipeline.jobs.parts import MODEL, Parts
from pipeline.jobs.sample import Look, r_squared, r_squared_of_all
from pipeline.stages.regions import Regions

ERROR = "error"
"""Column of a row's error."""
_ROWS_AT_ONCE, _VALUES_AT_ONCE = 16_384, 2**22
"""Rows that are read together: their values stay in a processor's cache; of very many values fewer, for each thread
holds some arrays of them."""


@dataclass(frozen=True)
class Coded:
    """What a coder makes of rows; empty (NaN) for rows that it cannot read."""

    code_ND: npt.NDArray[np.float32]
    error_N: npt.NDArray[np.float32]
    """The root of each row's mean squared error, in the features' scales."""
    square_F: FloatArray
    """Each feature's squared errors, added up; of images their mean over all values."""
    off_NF: npt.NDArray[np.float32] | None
    """How far each value lies from its reconstruction, by the feature's scale, without a sign; where asked for.

    Of images that of each region, the mean of its values: there would be gigabytes of single ones."""


@dataclass(frozen=True)
class Quality:
    """How well rows are told by their codes, on rows that were held out: R2 by feature, beside that of PCA.

    Of images there is one of all values."""

    learned_rows: int
    held_out_rows: int
    coder_F: FloatArray
    pca_F: FloatArray


def names_of(coder: Coder) -> list[str]:
    return [f"code_{number}" for number in range(coder.dimensions)]


def threads_beside_others(device: torch.device) -> int | None:
    """Return how many threads a process takes that is one of many on a machine; None: its device decides."""
    return 1 if device.type == "cpu" else None


def code_rows(
    coder: Coder,
    values_NF: FloatArray,
    usable_N: BoolArray,
    *,
    each: bool = False,
    threads: int | None = None,
) -> Coded:
    """Return codes and errors of rows; those of `each` feature or region too, where they are asked for.

    Args:
        threads: None: as many as the processor has for us.
    """
    code_ND = np.full((len(values_NF), coder.dimensions), np.nan, np.float32)
    error_N = np.full(len(values_NF), np.nan, np.float32)
    image = coder.detector.spec.image
    regions = Regions(image) if each and image else None
    width = values_NF.shape[1] if regions is None else len(regions.names)
    off_NF = np.full((len(values_NF), width), np.nan, np.float32) if each else None
    at_once = _at_once(len(coder.features))

    def code(begin: int) -> FloatArray:
        part = slice(begin, begin + at_once)
        usable_B = usable_N[part]
        whole = bool(usable_B.all())
        code_BD, off_BF = coder.errors(values_NF[part] if whole else values_NF[part][usable_B])
        square_BF = np.square(off_BF)
        # As a product: a sum along the short side of a table is slow.
        error_B = np.sqrt(np.einsum("bf,bf->b", off_BF, off_BF) / np.float32(off_BF.shape[1]))
        told_BF = off_BF if regions is None else regions.means(off_BF.astype(np.float64))
        for written, found in ((code_ND, code_BD), (error_N, error_B), (off_NF, told_BF)):
            if written is not None:
                written[part][... if whole else usable_B] = found
        return np.asarray(square_BF.sum(axis=0, dtype=np.float64))

    # Chunks are too small for torch's own threads, which would wait for one another at each of them.
    threads = threads or (cores() if coder.detector.device.type == "cpu" else 1)
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        squares = list(pool.map(code, range(0, len(values_NF), at_once)))
    square_F: FloatArray = sum(squares, np.zeros(len(coder.features)))
    if image is not None:
        square_F = square_F.mean(keepdims=True)
    return Coded(code_ND, error_N, square_F, off_NF)


def _at_once(features: int) -> int:
    return max(1, min(_ROWS_AT_ONCE, _VALUES_AT_ONCE // features))


def check_dimensions(dimensions: int | None, features: Sequence[str]) -> int:
    """Return how many numbers a code has, by default half as many as there are features, and 8 at most.

    Raises:
        ConfigError: so many are no reduction.
    """
    most = len(features) - 1
    if not most:
        raise ConfigError(
            f"there is one feature, {features[0]}: one number cannot be told by fewer; name more `features`, "
            "or have `offkey features` write statistics of windows"
        )
    if dimensions is None:
        return max(1, min(8, len(features) // 2))
    if not 1 <= dimensions <= most:
        raise ConfigError(
            f"--dimensions {dimensions}: there are {len(features)} features ({shortened(features)}), so it takes 1 "
            f"to {most}"
        )
    return dimensions


def train(
    parts: Parts, looked: Look, features: Sequence[str], dimensions: int, seed: int, device: torch.device,
    progress: Callable[[float], None], image: ImageShape | None = None,
) -> None:  # fmt: skip
    """Train on the learning part of the sample, and keep the model beside the parts.

    Raises:
        SnapshotError: the sample cannot be learned from.
        TransientError: the disk is full or away.
    """
    try:
        how: dict[str, Any] = {"seed": seed, "device": device, "progress": progress, "image": image}
        coder = fit_coder(looked.learning.values_NF, dimensions, features=features, **how)
    except ValueError as error:
        raise SnapshotError(str(error)) from error
    keep(parts, to_files(coder.detector))


def keep(parts: Parts, files: Mapping[str, bytes]) -> None:
    """Write a model's files beside the parts; the manifest, which makes it complete, last."""
    for name in sorted(files, key=lambda name: name == MANIFEST):
        parts.write(f"{MODEL}/{name}", files[name])


def read_files(folder: Path) -> dict[str, bytes]:
    """Return a model's files, of its own folder or of the output of a command.

    Raises:
        ConfigError: there is none.
    """
    place = folder / MODEL if (folder / MODEL).is_dir() else folder
    try:
        return {name: (place / name).read_bytes() for name in (TENSORS, MANIFEST)}
    except OSError as error:
        raise ConfigError(
            f"{place}: holds no model ({error.strerror}); name the folder of its {MANIFEST}, or the output of "
            "`offkey reduce`"
        ) from error


def features_of(folder: Path) -> tuple[str, ...]:
    """Return the features that a model was made for.

    Raises:
        ConfigError: there is none, or it is damaged.
    """
    return written_in(_said(folder))


def image_of(folder: Path) -> ImageShape | None:
    """Return the size of the images that a model was made for; None: of something else. Raises as `features_of`."""
    return size_in(_said(folder))


def _said(folder: Path) -> Mapping[str, Any]:
    try:
        return read_manifest(read_files(folder)[MANIFEST], str(folder))
    except ModelFileError as error:
        raise ConfigError(str(error)) from error


def hash_of(files: Mapping[str, bytes]) -> str:
    """Return what tells a model from others."""
    return hashlib.sha256(files[MANIFEST]).hexdigest()[:16]


def coder_of(files: Mapping[str, bytes], name: str, device: torch.device) -> Coder:
    """Read a model that turns single rows into codes and back.

    Raises:
        ConfigError: it is damaged, or does something else.
    """
    try:
        coder = Coder(from_files(files, name).to(device))
    except ModelFileError as error:
        raise ConfigError(str(error)) from error
    if coder.window != 1:
        raise ConfigError(
            f"{name}: it reads windows of {coder.window} rows, and rows are coded one by one; name a model that "
            "`offkey reduce` has made, or of a stream of `kind: features` or `images`"
        )
    if not coder.decodes:
        raise ConfigError(f"{name}: its codes do not lead back to rows; name a model that `offkey reduce` has made")
    return coder


def require_features(made_for: Sequence[str], features: Sequence[str], name: str) -> None:
    """See that a model was made for the features of the rows.

    Raises:
        ConfigError: it was made for others.
    """
    if tuple(made_for) != tuple(features):
        raise ConfigError(
            f"{name}: it was made for the features {shortened(made_for)}, and the rows hold "
            f"{shortened(features)}; name them in the stream's `features`, or take another model"
        )


def judge(coder: Coder, looked: Look) -> Quality:
    """Compare a coder with PCA of the same size, on rows of the sample that neither has learned from.

    PCA (Pearson, 1901) learns from the rows that the coder of this command learned from, features standardised.
    """
    held_out_NF, at_once = looked.held_out.values_NF, _at_once(len(coder.features))
    rebuilt_NF = np.concatenate(
        [coder.read(part)[1] for part in np.array_split(held_out_NF, max(1, len(held_out_NF) // at_once))]
    )
    is_image = coder.detector.spec.image is not None
    center_F, scale_F, components_FD = principal(looked.learning.values_NF, coder.dimensions, scaled=not is_image)
    z_ND = (held_out_NF - center_F) / scale_F @ components_FD
    by_pca_NF = center_F + scale_F * (z_ND @ components_FD.T)
    explained = r_squared_of_all if is_image else r_squared
    return Quality(
        len(looked.learning),
        len(held_out_NF),
        explained(held_out_NF, rebuilt_NF),
        explained(held_out_NF, by_pca_NF),
    )


def principal(
    x_NF: FloatArray, dimensions: int, *, scaled: bool = True
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return (mean, standard deviation, leading principal components of what is left when both are taken away).

    Not `scaled`: the deviations are ones, for values that have one unit.
    """
    center_F = x_NF.mean(axis=0)
    scale_F = deviations(x_NF) if scaled else np.ones_like(center_F)
    z_NF = (x_NF - center_F) / scale_F
    if len(z_NF) < z_NF.shape[1]:
        # Fewer rows than features: those of the rows lead to the same ones, and are fewer.
        square_N, vectors_NN = np.linalg.eigh(z_NF @ z_NF.T)
        leading_NR = vectors_NN[:, ::-1][:, :dimensions]
        length_R = np.sqrt(np.maximum(square_N[::-1][:dimensions], 1e-12))
        return center_F, scale_F, z_NF.T @ leading_NR / length_R
    _, vectors_FF = np.linalg.eigh(z_NF.T @ z_NF / len(z_NF))
    return center_F, scale_F, np.ascontiguousarray(vectors_FF[:, ::-1][:, :dimensions])

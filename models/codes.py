"""Records and windows -> codes of few numbers, and back: what an autoencoder is good for besides alarms.

A `Coder` reads with any detector that was trained, and `fit_coder` trains one for the purpose: a single view of few
numbers (`architectures.residual`) over features that count alike, which learns from every row. What training may
leave out for the sake of alarms, a trimmed loss and a scale that quiets features, would cost reconstruction here.

The files of a coder are those of its detector: `files.to_files(coder.detector)`, `Coder(files.from_files(...))`.

Legend: N rows, B rows of a chunk, T window length, F features, D numbers of a code.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models.arrays import FloatArray
from models.dataset import padded
from models.detector import Detector, check_finite, windows_of_rows
from models.fitting import fit_detector, one_thread
from models.plan import DEFAULT, plan_of
from models.scaling import Scaling, expanded
from models.spec import ImageShape, Kind
from models.views import View

Codes = npt.NDArray[np.float32]
Errors = npt.NDArray[np.float32]
Scale = tuple[FloatArray, FloatArray]
"""Centre and scale of each feature."""
REDUCER, IMAGE_REDUCER = "residual", "convolutional"
"""The architectures of `fit_coder`: the other one for images too large for principal components to start from."""
_MOST_REDUCED = 4_096
"""Values of an image that has those."""
_LEARNING: Mapping[str, Any] = {
    "scaling": "deviation",
    "trimmed": 0.0,
    "max_epochs": 30,
    "epoch_windows": 12_800,
    "least_epoch_windows": 12_800,
    "max_seconds": 1e9,
}
"""The course of a training is the same for every table, and does not depend on the speed of the machine."""
_OF_LARGE_IMAGES = {"max_epochs": 15, "epoch_windows": 6_400, "least_epoch_windows": 6_400}
_LEAST_RECORDS = 2
_CHUNK, _CHUNK_ON_GPU, _CHUNK_VALUES = 1_024, 65_536, 2**19


class Coder:
    """Codes of all views of a detector, side by side.

    Rows are read in chunks of one shape, so that a row's codes do not depend, in any bit, on the rows beside it.
    """

    def __init__(self, detector: Detector) -> None:
        self.detector = detector
        spec = detector.spec
        chunk = _CHUNK if detector.device.type == "cpu" else _CHUNK_ON_GPU
        # As `windows_of_rows` has it: what a network makes of 16 large images would take gigabytes.
        least = 1 if spec.window == 1 else 16
        self._chunk = min(chunk, max(least, _CHUNK_VALUES // (spec.window * len(spec.features))))
        nothing_BTF = torch.zeros((1, spec.window, len(spec.features)), device=detector.device)
        self._widths = [code_BD.shape[1] for code_BD in self._codes(nothing_BTF)]

    @property
    def features(self) -> tuple[str, ...]:
        return self.detector.spec.features

    @property
    def window(self) -> int:
        """The rows that a code is of: its own and those before; 1 for records."""
        return self.detector.spec.window

    @property
    def dimensions(self) -> int:
        """Numbers of a code."""
        return sum(self._widths)

    @property
    def names(self) -> list[str]:
        """A name for each number of a code."""
        if len(self._widths) == 1:
            return [f"code{number}" for number in range(self.dimensions)]
        return [f"view{view}_code{n}" for view, width in enumerate(self._widths) for n in range(width)]

    @property
    def decodes(self) -> bool:
        """Whether codes lead back to rows: those of a single view of values do."""
        inputs = [view.config.inputs for view in self.detector.views]
        return inputs in (["values"], ["compressed"])

    def scale_of(self, series: str = "", first_TF: FloatArray | None = None) -> Scale:
        """Return how a series is scaled, or records are.

        Args:
            first_TF: the first rows of the series, by which one that was not there in training is scaled.

        Raises:
            ValueError: the series was not there, and no rows are given.
        """
        scaling = self.detector.scaling
        if self.detector.spec.kind != "series":
            return scaling.center_F, scaling.scale_F
        if (own := scaling.for_series(series)) is not None:
            return own
        if first_TF is None or not len(first_TF):
            raise ValueError(f"series {series!r} was not there in training; its codes alone do not tell its scale")
        return scaling.for_new(first_TF[: self.window])

    def encode(self, x_NF: FloatArray, scale: Scale | None = None) -> Codes:
        """Return the codes of each row, z_ND.

        Rows of a series are taken in their order, and it is taken to have stood still before the first one. To go
        on with a series, put the `window - 1` rows before in front, and leave their codes out.

        Args:
            scale: of the series (`scale_of`); that of records where it is left out.

        Raises:
            ValueError: a value is not finite, or there are not as many features.
        """
        none = [np.empty((0, self.dimensions), np.float32)]
        return np.concatenate([*none, *(z_BD for z_BD, _ in self._chunks(x_NF, scale, rebuilt=False))])

    def read(self, x_NF: FloatArray, scale: Scale | None = None) -> tuple[Codes, FloatArray]:
        """Return the codes of each row, and the reconstruction of the row by them in its own units (z_ND, x_NF).

        Raises:
            ValueError: as of `encode`, or codes of this detector do not lead back.
        """
        self._check_decodes()
        parts = list(self._chunks(x_NF, scale, rebuilt=True))
        codes = [np.empty((0, self.dimensions), np.float32), *(z_BD for z_BD, _ in parts)]
        rows = [np.empty((0, len(self.features))), *(x_BF for _, x_BF in parts)]
        return np.concatenate(codes), np.concatenate(rows)

    @torch.no_grad()
    def errors(self, x_NF: FloatArray, scale: Scale | None = None) -> tuple[Codes, Errors]:
        """Return the codes of each row, and how far each value lies from its reconstruction (z_ND, off_NF).

        It is what `off` tells, in 32 bits and quicker, for nothing is brought back into units: a value beyond the
        limit of scaling counts as one at it.

        Raises:
            ValueError: as of `read`.
        """
        self._check_decodes()
        code_ND = torch.empty((len(x_NF), self.dimensions))
        off_NF = torch.empty((len(x_NF), len(self.features)))
        for begin, z_BTF in self._scaled_chunks(x_NF, scale):
            count = min(self._chunk, len(x_NF) - begin)
            (code_BD,) = self._codes(z_BTF)
            off_BF = (z_BTF[:, -1] - self._newest(code_BD)).abs_()
            code_ND[begin : begin + count] = code_BD[:count]
            off_NF[begin : begin + count] = off_BF[:count]
        return code_ND.numpy(), off_NF.numpy()

    @torch.no_grad()
    def decode(self, z_ND: npt.NDArray[np.floating[Any]], scale: Scale | None = None) -> FloatArray:
        """Return the rows that codes stand for, x_NF in their units; of windows the newest row of each.

        Raises:
            ValueError: codes of this detector do not lead back, or are not as wide.
        """
        self._check_decodes()
        if z_ND.ndim != 2 or z_ND.shape[1] != self.dimensions:
            raise ValueError(f"codes of this model are {self.dimensions} numbers each, not {z_ND.shape[1:]}")
        scale = scale or self.scale_of()
        parts = [np.empty((0, len(self.features)))]
        for begin in range(0, len(z_ND), self._chunk):
            z_BD = z_ND[begin : begin + self._chunk].astype(np.float32)
            whole_BD = np.zeros((self._chunk, self.dimensions), np.float32)
            whole_BD[: len(z_BD)] = z_BD
            parts.append(self._decoded(torch.from_numpy(whole_BD).to(self.detector.device), scale)[: len(z_BD)])
        return np.concatenate(parts)

    def off(self, x_NF: FloatArray, rebuilt_NF: FloatArray, scale: Scale | None = None) -> FloatArray:
        """Return how far each value lies from its reconstruction, without a sign and by the feature's scale."""
        return np.abs(x_NF - rebuilt_NF) / (scale or self.scale_of())[1]

    @torch.no_grad()
    def _chunks(self, x_NF: FloatArray, scale: Scale | None, rebuilt: bool) -> Iterator[tuple[Codes, FloatArray]]:
        """Yield (codes, reconstructions) of each chunk; no reconstructions where they are not asked for."""
        scale = scale or self.scale_of()
        for begin, z_BTF in self._scaled_chunks(x_NF, scale):
            count = min(self._chunk, len(x_NF) - begin)
            code_BD = torch.cat(self._codes(z_BTF), dim=1)
            x_BF = self._decoded(code_BD, scale)[:count] if rebuilt else np.empty((0, len(self.features)))
            yield code_BD[:count].cpu().numpy(), x_BF

    def _scaled_chunks(self, x_NF: FloatArray, scale: Scale | None) -> Iterator[tuple[int, Tensor]]:
        """Yield (number of its first row, scaled window of each row z_BTF) of each chunk, all of one shape."""
        if x_NF.ndim != 2 or x_NF.shape[1] != len(self.features):
            raise ValueError(f"rows of this model have {len(self.features)} features, not {x_NF.shape[1:]}")
        check_finite(x_NF, self.features)
        scale = scale or self.scale_of()
        before = self.window - 1
        for begin in range(0, len(x_NF), self._chunk):
            part_NF = x_NF[max(0, begin - before) : begin + self._chunk]
            count = min(self._chunk, len(x_NF) - begin)
            z_NF = Scaling.apply(part_NF, *scale)
            if len(z_NF) < before + self._chunk:
                z_NF = padded(z_NF, before + count - len(z_NF))
                z_NF = np.concatenate([z_NF, np.zeros((self._chunk - count, z_NF.shape[1]), np.float32)])
            (z_BTF,) = windows_of_rows(torch.from_numpy(z_NF).to(self.detector.device), self.window)
            yield begin, z_BTF

    def _codes(self, z_BTF: Tensor) -> list[Tensor]:
        with torch.no_grad():
            return [view.network.encode(view.inputs(z_BTF)) for view in self.detector.views]

    def _decoded(self, z_BD: Tensor, scale: Scale) -> FloatArray:
        decoded: FloatArray = scale[0] + scale[1] * self._newest(z_BD).cpu().numpy().astype(np.float64)
        return decoded

    def _newest(self, z_BD: Tensor) -> Tensor:
        """Return the newest rows that codes stand for, in scaled units."""
        (view,) = self.detector.views
        newest_BF: Tensor = view.network.decode(z_BD)[:, -1]
        return expanded(newest_BF) if view.config.inputs == "compressed" else newest_BF

    def _check_decodes(self) -> None:
        if not self.decodes:
            inputs = ", ".join(
                f"{view.config.architecture} of {view.config.inputs}" for view in self.detector.views
            )
            raise ValueError(
                f"codes of this model ({inputs}) do not lead back to rows; a single view of values does, such as "
                f"architecture {REDUCER}"
            )


def fit_coder(
    x_NF: FloatArray,
    dimensions: int,
    *,
    features: Sequence[str] | None = None,
    window: int = 1,
    image: ImageShape | None = None,
    architecture: str | None = None,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
    device: torch.device | None = None,
    progress: Callable[[float], None] = lambda share: None,
) -> Coder:
    """Train an autoencoder with a code of so many numbers on records, or on a series with windows of so many rows.

    Rows with a value that is not finite are left out. Records may come in any order: which of them the training is
    judged by is drawn. Neither torch's generator nor its number of threads is other than before.

    Args:
        features: their names; numbered without them.
        image: the size of images, whose values are the features.
        architecture: by default `REDUCER`, for large images `IMAGE_REDUCER`.
        options: of the architecture and of `TrainingConfig`, by name.

    Raises:
        ValueError: too few rows, more dimensions than values, or an option that there is not.
    """
    features = features or [f"x{number}" for number in range(x_NF.shape[1])]
    values = window * x_NF.shape[1]
    if not 1 <= dimensions <= values:
        raise ValueError(f"dimensions is {dimensions}; it takes 1 to {values}, for that many values are coded")
    kind: Kind = "images" if image else "features" if window == 1 else "series"
    is_large = image is not None and image.values > _MOST_REDUCED
    learning = {**_LEARNING, **_OF_LARGE_IMAGES} if is_large else _LEARNING
    network = architecture or (IMAGE_REDUCER if is_large else REDUCER)
    said = {**learning, **(options or {}), "latent": dimensions, "seed": seed, "network": network}
    views = [{"window": window, "inputs": "values", "measure": "whole", "fade": None}]
    plan = plan_of(kind, x_NF.shape[1], DEFAULT, said, views=views)
    if kind != "series":
        x_NF = x_NF[np.random.default_rng(seed).permutation(len(x_NF))]
    time_ms_N = np.arange(len(x_NF))
    with torch.random.fork_rng(devices=[]), one_thread():
        _check_width(View(x_NF.shape[1], plan.views[0], image), dimensions)
        return Coder(
            fit_detector(
                kind,
                features,
                plan,
                {"": (time_ms_N, x_NF)},
                device=device or torch.device("cpu"),
                progress=progress,
                least_records=_LEAST_RECORDS,
                image=image,
            )
        )


@torch.no_grad()
def _check_width(view: View, dimensions: int) -> None:
    """Refuse what an architecture makes narrower in silence."""
    config = view.config
    width = view.network.encode(torch.zeros(1, config.window, view.features)).shape[1]
    if width != dimensions:
        raise ValueError(
            f"architecture {config.architecture} makes codes of {width} numbers of {config.window} x "
            f"{view.features} values, not {dimensions}; ask for fewer, or take {REDUCER}"
        )

"""A few windows that a model reads alike wherever it is: the golden batch.

Its errors are reckoned where the model is made and travel in the manifest. Whoever loads the model reads the same
windows on its own device before it serves: other errors there mean another build of a library, a processor that
reckons wrongly, or a file that is whole and holds nonsense. The windows are waves, of no use to anybody but equal
everywhere.

Legend: B windows, T window length, F features, V views.
"""

import numpy as np
import numpy.typing as npt
import torch

from models.detector import Detector
from models.manifest import ModelFileError
from models.spec import ModelSpec

_WINDOWS = 8
_APART = 1e-3
"""Errors are logarithms: a thousandth of an error. Devices differ by a tenth of that."""


def golden_windows(spec: ModelSpec) -> torch.Tensor:
    """Return the windows z_BTF of a model."""
    window_B11, row_T1, feature_F = np.ogrid[:_WINDOWS, : spec.window, : len(spec.features)]
    z_BTF = (1 + window_B11 / 2) * np.sin(0.37 * row_T1 * (1 + window_B11) + 1.7 * feature_F)
    return torch.from_numpy(z_BTF.astype(np.float32))


@torch.no_grad()
def golden_errors(detector: Detector) -> npt.NDArray[np.float32]:
    """Return each view's error of each of the windows, error_BV, where the detector is."""
    z_BTF = golden_windows(detector.spec).to(detector.device)
    found_BV: npt.NDArray[np.float32] = detector.errors(z_BTF).cpu().numpy()
    return found_BV


def check_golden(detector: Detector, name: str) -> None:
    """See that a detector reads its golden batch as it did where it was made; older models have none.

    Raises:
        ModelFileError: it does not, or not to numbers.
    """
    found_BV = golden_errors(detector)
    if not np.isfinite(found_BV).all():
        raise ModelFileError(f"{name}: its errors are no numbers; train again or take another version")
    if detector.golden_BV is None:
        return
    apart = float(np.abs(found_BV - detector.golden_BV).max())
    if not apart <= _APART:
        raise ModelFileError(
            f"{name}: reads its golden batch otherwise than where it was made (errors differ by {apart:.2g}, not "
            f"by {_APART:g} at most); compare the library versions in its manifest with those here, or train again"
        )

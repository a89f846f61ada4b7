"""The models as scikit-learn has them: `AutoencoderFeatures` and `AutoencoderDetector`.

Both are thin: what they learn and read is a `codes.Coder` and a `detector.Detector`, as a worker serves them.
Nothing is learned from `y`. When a fitted one is pickled or copied, its model travels as the two files that the
registry keeps, not as torch objects, and what comes back reads the same to the bit.

Fitting uses one thread, so that a fit with a number as `random_state` can be repeated to the bit, and a grid search
with `n_jobs` takes as many cores as it was given. It needs the extra `offkey[sklearn]`; nothing else imports it.

Legend: N rows, F features, D numbers of a code.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from sklearn.base import BaseEstimator, OutlierMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from models import architectures
from models.arrays import FloatArray, IntArray
from models.codes import REDUCER, Coder, fit_coder
from models.detector import Detector
from models.files import from_files, to_files
from models.fitting import fit_detector, one_thread
from models.plan import DEFAULT, plan_of
from models.spec import Kind
from models.window_statistics import statistic_names, window_statistics

Floats = npt.NDArray[np.floating[Any]]
Output = Literal["codes", "errors", "statistics"]
OUTPUTS: tuple[Output, ...] = ("codes", "errors", "statistics")
USUAL_SCORE = 15.0
"""Rows above it are outliers where `contamination` is auto: three normal rows in a hundred score higher."""
_FLOATS = [np.float64, np.float32]
_CHUNK = 1_024
"""Rows are scored so many at once, filled up, so that a row's score does not depend on how many there are."""


class _KeptAsFiles(BaseEstimator):  # type: ignore[misc]  # The library ships no types.
    """An estimator whose fitted `detector_` is pickled as model files."""

    device: str

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = dict(super().__getstate__())
        if "detector_" in state:
            state["detector_"] = to_files(state["detector_"])
        return state

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        super().__setstate__(dict(state))
        if "detector_" in state:
            self._keep(from_files(state["detector_"]).to(torch.device(self.device)))

    def _keep(self, detector: Detector) -> None:
        self.detector_ = detector

    def _checked(self, rows: Any, *, fitting: bool = False) -> Floats:
        """Return rows as an array of floating point, checked as scikit-learn checks them."""
        least = {"ensure_min_samples": 2} if fitting else {}
        checked: Floats = validate_data(self, rows, dtype=_FLOATS, reset=fitting, **least)
        return checked

    def _names_in(self) -> list[str]:
        return [str(name) for name in getattr(self, "feature_names_in_", ())] or [
            f"x{number}" for number in range(self.n_features_in_)
        ]


class AutoencoderFeatures(TransformerMixin, _KeptAsFiles):  # type: ignore[misc]  # As above.
    """Codes of an autoencoder as features, the errors of its reconstruction, and statistics of windows.

    Args:
        dimensions: numbers of a code; at most the values that are coded, features x window.
        outputs: one or several of `codes`, `errors` (how far each value lies from its reconstruction, by the
            feature's scale) and `statistics` (mean, std, min, max and slope of each feature in the row's window).
        window: rows that a code is of. With 1 each row stands for itself. With more, rows are one series in order,
            and each stands for itself and those before it, here and in `transform`.
        architecture: the name of one of `models.architectures`.
        options: of the architecture and of the training, by name: `{"hidden": 256, "max_epochs": 60}`.
        device: where it trains and reads: `cpu`, `cuda`.
        random_state: a number makes fits repeatable.

    Attributes:
        detector_: the trained detector; `models.files.to_files` makes a model's files of it.
        n_features_in_: features that were seen in `fit`; `feature_names_in_` where they had names.
    """

    def __init__(
        self,
        dimensions: int = 2,
        *,
        outputs: Output | Sequence[Output] = "codes",
        window: int = 1,
        architecture: str = REDUCER,
        options: Mapping[str, Any] | None = None,
        device: str = "cpu",
        random_state: Any = None,
    ) -> None:
        self.dimensions = dimensions
        self.outputs = outputs
        self.window = window
        self.architecture = architecture
        self.options = options
        self.device = device
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> Self:
        """Learn from rows, [N, F].

        Raises:
            ValueError: too few rows, a value that is not finite, or a parameter that will not do.
        """
        x_NF = self._checked(X, fitting=True)
        self._check_parameters()
        coder = fit_coder(
            x_NF.astype(np.float64),
            int(self.dimensions),
            features=self._names_in(),
            window=int(self.window),
            architecture=self.architecture,
            options=self.options,
            seed=_seed(self.random_state),
            device=torch.device(self.device),
        )
        self._keep(coder.detector)
        return self

    def transform(self, X: Any) -> Floats:
        """Return the outputs side by side, of the input's precision."""
        check_is_fitted(self)
        rows = self._checked(X)
        x_NF, asked = rows.astype(np.float64), self._asked()
        found: dict[Output, Floats] = {}
        if "errors" in asked:
            found["codes"], rebuilt_NF = self._coder.read(x_NF, self._coder.scale_of())
            found["errors"] = self._coder.off(x_NF, rebuilt_NF, self._coder.scale_of())
        elif "codes" in asked:
            found["codes"] = self._coder.encode(x_NF, self._coder.scale_of())
        if "statistics" in asked:
            found["statistics"] = window_statistics(x_NF, self.window)
        return np.concatenate([found[output] for output in asked], axis=1).astype(rows.dtype)

    def inverse_transform(self, X: Any) -> Floats:
        """Return the rows that the codes among these outputs stand for; of windows the newest row of each.

        Raises:
            ValueError: there are no codes among the outputs, or the columns are not as many.
        """
        check_is_fitted(self)
        asked = self._asked()
        if "codes" not in asked:
            raise ValueError("only codes lead back to rows; have 'codes' among outputs")
        rows = check_array(X, dtype=_FLOATS)
        widths = {output: len(self._names_of(output, self._names_in())) for output in asked}
        if rows.shape[1] != sum(widths.values()):
            raise ValueError(f"X has {rows.shape[1]} columns; transform makes {sum(widths.values())}")
        begin = sum(widths[output] for output in asked[: asked.index("codes")])
        decoded_NF = self._coder.decode(rows[:, begin : begin + widths["codes"]], self._coder.scale_of())
        return decoded_NF.astype(rows.dtype)

    def get_feature_names_out(self, input_features: Any = None) -> npt.NDArray[np.object_]:
        """Return the names of the columns that `transform` makes: `code0`, `error_cpu`, `mean_cpu`."""
        check_is_fitted(self)
        names = self._names_in()
        if input_features is not None:
            given = [str(name) for name in input_features]
            if len(given) != self.n_features_in_:
                raise ValueError(
                    f"input_features should have length equal to number of features ({self.n_features_in_}), "
                    f"got {len(given)}"
                )
            if hasattr(self, "feature_names_in_") and given != names:
                raise ValueError("input_features is not equal to feature_names_in_")
            names = given
        return np.array([name for output in self._asked() for name in self._names_of(output, names)], object)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def _keep(self, detector: Detector) -> None:
        super()._keep(detector)
        self._coder = Coder(detector)

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        state.pop("_coder", None)
        return state

    def _names_of(self, output: Output, names: Sequence[str]) -> list[str]:
        if output == "codes":
            return self._coder.names
        return statistic_names(names) if output == "statistics" else [f"error_{name}" for name in names]

    def _asked(self) -> list[Output]:
        return [self.outputs] if isinstance(self.outputs, str) else list(self.outputs)

    def _check_parameters(self) -> None:
        for name in ("dimensions", "window"):
            _check_whole(name, getattr(self, name))
        values = self.n_features_in_ * self.window
        if self.dimensions > values:
            raise ValueError(
                f"dimensions is {self.dimensions}; rows with n_features={self.n_features_in_} in windows of "
                f"{self.window} are coded by {values} at most"
            )
        asked = self._asked()
        if not asked or len(set(asked)) < len(asked):
            raise ValueError(f"outputs is {self.outputs!r}; name each once, of: {', '.join(OUTPUTS)}")
        for output in asked:
            if output not in OUTPUTS:
                raise ValueError(f"there is no output {output!r}{architectures.nearest(str(output), OUTPUTS)}")
        if "statistics" in asked and self.window < 2:
            raise ValueError("statistics are of windows: take a window of 2 rows or more, or leave them out")


class AutoencoderDetector(OutlierMixin, _KeptAsFiles):  # type: ignore[misc]  # As above.
    """Outliers by the models that `offkey worker` serves, with scores that mean the same.

    `score_samples` is the score with its sign turned, for scikit-learn has the stranger lower: of normal rows a
    tenth are below -10, a hundredth below -20, a thousandth below -30. Training rows may hold some outliers.

    Args:
        kind: `features`, where each row stands for itself, or `series`: rows are one series in order, and each is
            judged by itself and what came before it.
        architecture: `default`, or the name of one of `models.architectures`.
        options: of the architecture and of the training, by name.
        contamination: share of the training rows that are outliers, above 0 and .5 at most; `auto`: rows stranger
            than 97 of 100 normal ones.
        device: where it trains and reads: `cpu`, `cuda`.
        random_state: a number makes fits repeatable.

    Attributes:
        detector_: the trained detector; `models.files.to_files` makes a model's files of it.
        offset_: what `score_samples` lies below for outliers.
        n_features_in_: features that were seen in `fit`; `feature_names_in_` where they had names.
    """

    def __init__(
        self,
        *,
        kind: Kind = "features",
        architecture: str = DEFAULT,
        options: Mapping[str, Any] | None = None,
        contamination: float | Literal["auto"] = "auto",
        device: str = "cpu",
        random_state: Any = None,
    ) -> None:
        self.kind = kind
        self.architecture = architecture
        self.options = options
        self.contamination = contamination
        self.device = device
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> Self:
        """Learn from rows, [N, F].

        Raises:
            ValueError: too few rows, a value that is not finite, or a parameter that will not do.
        """
        x_NF = self._checked(X, fitting=True).astype(np.float64)
        self._check_parameters()
        seed = _seed(self.random_state)
        options = {"max_seconds": 1e9, "seed": seed, **(self.options or {})}
        plan = plan_of(self.kind, x_NF.shape[1], self.architecture, options)
        learned_NF = x_NF
        if self.kind == "features":
            # Rows may be sorted by what they are; the last of them say when to stop.
            learned_NF = x_NF[np.random.default_rng(seed).permutation(len(x_NF))]
        columns = {"": (np.arange(len(x_NF)), learned_NF)}
        with torch.random.fork_rng(devices=[]), one_thread():
            device = torch.device(self.device)
            self._keep(
                fit_detector(self.kind, self._names_in(), plan, columns, device=device, least_records=len(x_NF))
            )
        self.offset_ = -USUAL_SCORE
        if self.contamination != "auto":
            self.offset_ = float(np.percentile(-self._scores(x_NF), 100 * self.contamination))
        return self

    def score_samples(self, X: Any) -> FloatArray:
        """Return how usual each row is: 10 log10 of the share of normal rows that are stranger."""
        check_is_fitted(self)
        return -self._scores(self._checked(X).astype(np.float64))

    def decision_function(self, X: Any) -> FloatArray:
        """Return `score_samples` less `offset_`: below 0 are outliers."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> IntArray:
        """Return -1 for outliers and 1 for the others."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    def _scores(self, x_NF: FloatArray) -> FloatArray:
        if self.kind == "series":
            return self.detector_.score_series("", x_NF, delays=[0])[0]
        parts = []
        for begin in range(0, len(x_NF), _CHUNK):
            part_BF = x_NF[begin : begin + _CHUNK]
            whole_BF = np.concatenate([part_BF, np.repeat(part_BF[:1], _CHUNK - len(part_BF), axis=0)])
            parts.append(self.detector_.score_rows(whole_BF)[: len(part_BF)])
        return np.concatenate(parts)

    def _check_parameters(self) -> None:
        if self.kind not in ("features", "series"):
            raise ValueError(f"kind is {self.kind!r}; it takes 'features' or 'series'")
        share = self.contamination
        if share != "auto" and not (isinstance(share, float) and 0 < share <= 0.5):
            raise ValueError(f"contamination is {share!r}; it takes 'auto' or a share above 0, and .5 at most")


def _seed(random_state: Any) -> int:
    return int(check_random_state(random_state).randint(2**31 - 1))


def _check_whole(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{name} is {value!r}; it takes a whole number of 1 or more")

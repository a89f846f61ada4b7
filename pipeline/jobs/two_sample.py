"""Whether gradient boosting can tell made-up rows from real ones: .5 where it guesses, 1 where it always can.

A classifier is a two-sample test (Lopez-Paz and Oquab, "Revisiting Classifier Two-Sample Tests", ICLR 2017). It is
trained on four fifths of the rows and judged on the other fifth, five times. The only module of the pipeline that
needs scikit-learn.
"""

from dataclasses import dataclass

import numpy as np

from models.arrays import FloatArray
from pipeline.errors import ConfigError

try:
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold
except ModuleNotFoundError as error:
    raise ConfigError(
        "the fidelity report needs scikit-learn, which is not installed: pip install 'offkey[sklearn]', or give "
        "--no-report"
    ) from error

FOLDS = 5


@dataclass(frozen=True)
class TwoSample:
    """How well the two are told apart."""

    auroc: float
    """The mean over folds."""
    auroc_of_folds: tuple[float, ...]
    rows: int
    """Of either kind."""


def two_sample(real_NF: FloatArray, made_NF: FloatArray, seed: int = 0) -> TwoSample:
    """Tell real rows from as many made-up ones; rows beyond the shorter one's are left out."""
    count = min(len(real_NF), len(made_NF))
    assert count >= FOLDS, "each fold needs rows"
    x_NF = np.concatenate([real_NF[:count], made_NF[:count]])
    made_N = np.repeat([0, 1], count)
    found = []
    for learned, judged in StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(x_NF, made_N):
        model = HistGradientBoostingClassifier(random_state=seed).fit(x_NF[learned], made_N[learned])
        found.append(float(roc_auc_score(made_N[judged], model.predict_proba(x_NF[judged])[:, 1])))
    return TwoSample(float(np.mean(found)), tuple(found), count)

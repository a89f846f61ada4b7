"""What gradient boosting tells apart, and what it does not."""

import numpy as np

from pipeline.jobs.two_sample import FOLDS, two_sample


def test_rows_of_one_kind_are_not_told_apart_and_others_are() -> None:
    random = np.random.default_rng(0)
    one, other, moved = (random.normal(at, 1, (400, 2)) for at in (0, 0, 2))
    alike = two_sample(one, other)
    assert abs(alike.auroc - 0.5) < 0.08
    assert (alike.rows, len(alike.auroc_of_folds)) == (400, FOLDS)
    assert two_sample(one, moved[:300]).auroc > 0.9
    assert two_sample(one, moved[:300]).rows == 300

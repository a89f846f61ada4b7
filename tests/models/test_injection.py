"""Injected anomalies: where their labels say, as large as they say, the rest of the series as it was."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.arrays import FloatArray
from models.injection import Anomaly, Fault, Injected, faults_of, inject, spread_of
from tests.streams import series_rows


def series(points: int = 600, features: int = 2) -> FloatArray:
    return np.tile(series_rows(["a"], points, 1, {})[0], (1, features))[:, :features]


def one(fault: Fault, size: float = 4.0, points: int = 20, **how: int) -> tuple[FloatArray, FloatArray, Injected]:
    x_TF = series(**how)
    changed_TF, (injected,) = inject(
        x_TF, np.ones(len(x_TF), bool), [Anomaly(fault, size, points)], 50, spread_of(x_TF), 3
    )
    return x_TF, changed_TF, injected


@pytest.mark.parametrize("fault", faults_of("series", 2))
def test_only_the_labelled_rows_and_features_change(fault: Fault) -> None:
    x_TF, changed_TF, injected = one(fault)
    touched_TF = np.zeros(x_TF.shape, bool)
    touched_TF[injected.begin : injected.end, list(injected.features)] = True
    assert injected.end - injected.begin == 20
    assert (changed_TF[~touched_TF] == x_TF[~touched_TF]).all()
    assert (changed_TF[touched_TF] != x_TF[touched_TF]).mean() > 0.9
    assert np.abs(changed_TF - x_TF)[touched_TF].mean() == pytest.approx(
        injected.moved * spread_of(x_TF)[list(injected.features)].mean(), rel=0.1
    )


def test_sizes_are_in_the_series_own_spread() -> None:
    """The same series in other units has the same anomaly, in these units."""
    x_TF = series()
    asked = [Anomaly("spike", 5.0, 2), Anomaly("level", 2.0, 30), Anomaly("drift", 3.0, 40)]
    free_T = np.ones(len(x_TF), bool)
    plain_TF, spans = inject(x_TF, free_T, asked, 50, spread_of(x_TF), 1)
    scaled_TF, again = inject(1000 * x_TF + 7, free_T, asked, 50, spread_of(1000 * x_TF + 7), 1)
    assert scaled_TF == pytest.approx(1000 * plain_TF + 7)
    assert [(span.begin, span.features) for span in spans] == [(span.begin, span.features) for span in again]
    spike, level, drift = ((plain_TF - x_TF)[span.begin : span.end, span.features[0]] for span in spans)
    spread_F = spread_of(x_TF)
    assert np.abs(spike) / spread_F[spans[0].features[0]] == pytest.approx(5.0)
    assert np.abs(level) / spread_F[spans[1].features[0]] == pytest.approx(2.0)
    assert np.abs(drift[[0, -1]]) / spread_F[spans[2].features[0]] == pytest.approx([3.0 / 40, 3.0])
    assert [span.moved for span in spans] == pytest.approx([5.0, 2.0, 3.0 * 41 / 80])


def test_a_flat_line_stays_where_it_began() -> None:
    x_TF, changed_TF, injected = one("flat")
    rows_NF = changed_TF[injected.begin : injected.end, list(injected.features)]
    assert (rows_NF == x_TF[injected.begin, list(injected.features)]).all()


def test_a_correlation_changes_though_each_feature_is_as_usual() -> None:
    x_TF, changed_TF, injected = one("correlation", size=1.5, points=100)
    (feature,) = injected.features
    rows_N = changed_TF[injected.begin : injected.end, feature]
    assert any((x_TF[at : at + 100, feature] == rows_N).all() for at in range(501))
    assert injected.moved == pytest.approx(1.5, abs=0.3)


def test_a_period_changes_by_the_pace_that_comes_nearest() -> None:
    moved = {size: one("period", size=size, points=60)[2].moved for size in (0.2, 2.0)}
    assert moved[0.2] < 0.75 * moved[2.0]
    x_TF, changed_TF, injected = one("period", size=2.0, points=60)
    assert injected.features == (0, 1)
    assert set(changed_TF[injected.begin : injected.begin + 1].ravel()) <= set(x_TF.ravel())


def test_a_single_feature_has_no_correlation_and_records_have_no_course() -> None:
    assert "correlation" not in faults_of("series", 1)
    assert faults_of("features", 3) == ("spike", "correlation")
    assert faults_of("features", 1) == ("spike",)


def test_constants_have_a_spread_of_their_magnitude() -> None:
    x_TF = np.column_stack(
        [np.full(100, 7.0), np.zeros(100), np.r_[np.zeros(99), 5.0], np.r_[np.zeros(90), [1] * 10]]
    )
    assert spread_of(x_TF) == pytest.approx([7.0, 1.0, 5 / 3.29, 1 / 3.29])


@given(
    seed=st.integers(0, 2**32 - 1),
    length=st.integers(1, 400),
    gap=st.integers(0, 40),
    taken=st.lists(st.integers(0, 399), max_size=8),
    faults=st.lists(st.tuples(st.sampled_from(faults_of("series", 3)), st.integers(1, 60)), max_size=8),
)
def test_anomalies_keep_apart_and_off_what_is_taken(
    seed: int, length: int, gap: int, taken: list[int], faults: list[tuple[Fault, int]]
) -> None:
    x_TF = np.random.default_rng(0).standard_normal((length, 3))
    free_T = ~np.isin(np.arange(length), taken)
    asked = [Anomaly(fault, 3.0, points) for fault, points in faults]
    changed_TF, spans = inject(x_TF, free_T, asked, gap, spread_of(x_TF), seed)
    place = 0
    for span in spans:
        assert span.begin >= place
        assert span.end <= length
        assert free_T[span.begin : span.end].all()
        place = span.end + gap
    touched_T = (changed_TF != x_TF).any(axis=1)
    inside_T = np.zeros(length, bool)
    for span in spans:
        inside_T[span.begin : span.end] = True
    assert not (touched_T & ~inside_T).any()
    assert (inject(x_TF, free_T, asked, gap, spread_of(x_TF), seed)[0] == changed_TF).all()


def test_they_are_spread_over_the_whole_series() -> None:
    x_TF = series(10_000)
    asked = [Anomaly("spike", 5.0, 1)] * 30
    spans = inject(x_TF, np.ones(10_000, bool), asked, 5, spread_of(x_TF), 2)[1]
    assert len(spans) == 30
    assert spans[-1].begin > 8_000
    assert np.diff([span.begin for span in spans]).max() < 1_200


def test_without_room_nothing_is_injected() -> None:
    x_TF = series(60)
    changed_TF, spans = inject(x_TF, np.zeros(60, bool), [Anomaly("level", 3.0, 9)], 2, spread_of(x_TF), 0)
    assert not spans
    assert (changed_TF == x_TF).all()
    assert not inject(x_TF, np.ones(60, bool), [Anomaly("level", 3.0, 61)], 0, spread_of(x_TF), 0)[1]
    assert len(inject(x_TF, np.ones(60, bool), [Anomaly("level", 3.0, 9)] * 3, 40, spread_of(x_TF), 0)[1]) in (1, 2)


@pytest.mark.parametrize(("size", "points"), [(float("nan"), 3), (float("inf"), 3), (-1.0, 3), (1.0, 0)])
def test_an_anomaly_that_is_none(size: float, points: int) -> None:
    with pytest.raises(ValueError, match="anomaly"):
        Anomaly("spike", size, points)

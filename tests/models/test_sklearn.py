"""The estimators are scikit-learn's in every way that it checks, and read as the models beneath them do."""

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from models.arrays import FloatArray
from models.codes import Coder
from models.evaluation import auroc
from models.files import from_files, to_files
from models.fitting import fit_detector
from models.sklearn import AutoencoderDetector, AutoencoderFeatures, Floats, Output

QUICK = {"max_epochs": 1, "least_epoch_windows": 1, "hidden": 8}
"""The checks ask whether an estimator keeps the rules, and fit some hundred times."""
EXPECTED: dict[str, str] = {}


@parametrize_with_checks(  # type: ignore[untyped-decorator]  # The library ships no types.
    [
        AutoencoderFeatures(options=QUICK),
        AutoencoderFeatures(outputs=("codes", "errors"), options=QUICK),
        AutoencoderDetector(options=QUICK),
    ],
    expected_failed_checks=lambda estimator: EXPECTED,
)
def test_the_rules_of_scikit_learn_are_kept(estimator: Any, check: Any) -> None:
    check(estimator)


def bent(count: int = 600, seed: int = 0) -> FloatArray:
    """Return rows of one cause, in units of their own: a curve that no line follows."""
    random = np.random.default_rng(seed)
    cause_N = random.uniform(-1, 1, count)
    x_NF = np.stack([cause_N, cause_N**2, np.sin(3 * cause_N), np.cos(4 * cause_N)], axis=1)
    return (x_NF + 0.02 * random.standard_normal(x_NF.shape)) * [1, 1000, 1e-3, 5] + [0, 1e4, 0, 7]


def waves(count: int = 600, seed: int = 0) -> FloatArray:
    random = np.random.default_rng(seed)
    phase_N = np.arange(count)[:, None] / 6 + np.arange(2)
    return np.sin(phase_N) + 0.05 * random.standard_normal((count, 2))


def explained(x_NF: FloatArray, rebuilt_NF: Floats) -> float:
    scale_F = x_NF.std(axis=0)
    return 1 - float((((x_NF - rebuilt_NF) / scale_F) ** 2).sum() / (x_NF.shape[0] * x_NF.shape[1]))


@pytest.fixture(scope="module")
def features() -> AutoencoderFeatures:
    return AutoencoderFeatures(1, random_state=0, options={"max_epochs": 10}).fit(bent())


def test_one_code_brings_back_what_one_component_cannot(features: AutoencoderFeatures) -> None:
    fresh_NF = bent(seed=1)
    rebuilt_NF = features.inverse_transform(features.transform(fresh_NF))
    pca = make_pipeline(StandardScaler(), PCA(1)).fit(bent())
    linear_NF = pca.inverse_transform(pca.transform(fresh_NF))
    assert explained(fresh_NF, linear_NF) < 0.6
    assert explained(fresh_NF, rebuilt_NF) > 0.9


def test_outputs_stand_in_the_order_asked_for(features: AutoencoderFeatures) -> None:
    x_NF = bent(50, seed=2)
    both = clone(features).set_params(outputs=("errors", "codes")).fit(bent())
    assert both.get_feature_names_out(["a", "b", "c", "d"]).tolist() == [
        *("error_a", "error_b", "error_c", "error_d", "code0")
    ]
    found = both.transform(x_NF)
    np.testing.assert_array_equal(found[:, 4:], features.transform(x_NF))
    rebuilt_NF = features.inverse_transform(features.transform(x_NF))
    np.testing.assert_array_equal(both.inverse_transform(found), rebuilt_NF)
    np.testing.assert_allclose(
        found[:, :4], np.abs(x_NF - rebuilt_NF) / both.detector_.scaling.scale_F, rtol=1e-6, atol=1e-9
    )


def test_the_same_seed_makes_the_same_codes_and_leaves_torch_as_it_was() -> None:
    x_NF, given = bent(100), torch.random.get_rng_state()
    codes = [AutoencoderFeatures(random_state=seed, options=QUICK).fit_transform(x_NF) for seed in (3, 3, 4)]
    assert (codes[0] == codes[1]).all()
    assert (codes[0] != codes[2]).any()
    assert torch.equal(torch.random.get_rng_state(), given)


@pytest.mark.parametrize("way", ["pickle", "deepcopy", "files"])
def test_what_was_put_away_reads_the_same(way: str, features: AutoencoderFeatures) -> None:
    """As files, what `models` reads without scikit-learn."""
    x_NF = bent(50, seed=2)
    if way == "files":
        codes = Coder(from_files(to_files(features.detector_))).encode(x_NF)
    else:
        content = pickle.dumps(features)
        assert b"torch" not in content.replace(b'"torch"', b"")
        codes = (pickle.loads(content) if way == "pickle" else copy.deepcopy(features)).transform(x_NF)
    np.testing.assert_array_equal(codes, features.transform(x_NF))


def test_a_detector_comes_back_too() -> None:
    detector = AutoencoderDetector(random_state=0, options=QUICK, contamination=0.1).fit(bent())
    again = pickle.loads(pickle.dumps(detector))
    x_NF = bent(50, seed=2)
    np.testing.assert_array_equal(again.decision_function(x_NF), detector.decision_function(x_NF))


def test_a_search_over_dimensions_in_a_pipeline() -> None:
    """Where the label lies in what one number tells of a curve, a search finds that more of them tell more."""
    x_NF = bent(300)
    label_N = (np.abs(x_NF[:, 0]) > 0.5).astype(int)
    steps = make_pipeline(
        AutoencoderFeatures(random_state=0, options={"max_epochs": 2}), StandardScaler(), LogisticRegression()
    )
    search = GridSearchCV(steps, {"autoencoderfeatures__dimensions": [1, 3]}, cv=3).fit(x_NF, label_N)
    assert search.best_score_ > 0.9
    assert search.best_estimator_[0].dimensions == search.best_params_["autoencoderfeatures__dimensions"] == 3


def test_windows_of_a_series() -> None:
    """Two waves of one clock: what a window of them shows is where in the cycle it stands."""
    outputs: tuple[Output, ...] = ("codes", "errors", "statistics")
    options = {"max_epochs": 3}
    found = AutoencoderFeatures(2, window=12, outputs=outputs, random_state=0, options=options).fit(waves())
    fresh_NF = waves(seed=1)
    columns = found.transform(fresh_NF)
    assert columns.shape == (600, 2 + 2 + 10) == (600, len(found.get_feature_names_out()))
    assert found.get_feature_names_out()[[0, 2, 4, 6]].tolist() == ["code0", "error_x0", "mean_x0", "std_x0"]
    rebuilt_NF = found.inverse_transform(columns)
    assert explained(fresh_NF[12:], rebuilt_NF[12:]) > 0.95
    # A row's codes are of those before it, and of none after it.
    np.testing.assert_array_equal(found.transform(fresh_NF[:300]), columns[:300])
    with pytest.raises(AssertionError):
        np.testing.assert_array_equal(found.transform(fresh_NF[300:]), columns[300:])


def test_outliers_score_as_a_worker_scores_them() -> None:
    x_NF = bent()
    detector = AutoencoderDetector(random_state=0, options={"max_epochs": 5}).fit(x_NF)
    fresh_NF = bent(seed=1)
    strange_NF = fresh_NF[:60].copy()
    strange_NF[:, 1] = np.random.default_rng(0).permutation(strange_NF[:, 1])
    score_N = detector.score_samples(np.concatenate([fresh_NF, strange_NF]))
    assert auroc(np.arange(660) >= 600, -score_N) > 0.85
    np.testing.assert_allclose(score_N[:600], -detector.detector_.score_rows(fresh_NF), rtol=1e-4, atol=1e-4)
    assert detector.offset_ == -15
    assert (detector.predict(fresh_NF) == -1).mean() < 0.08
    alone = np.concatenate([detector.score_samples(row[None]) for row in fresh_NF[:20]])
    np.testing.assert_array_equal(alone, score_N[:20])


def test_a_share_of_the_training_rows_is_outliers() -> None:
    detector = AutoencoderDetector(contamination=0.1, random_state=0, options=QUICK).fit(bent())
    assert (detector.predict(bent()) == -1).sum() == 60


def test_training_rows_of_a_detector_may_be_sorted() -> None:
    """Those that are normal at the end of the rows are not all that is."""
    x_NF = bent(900)
    x_NF = x_NF[x_NF[:, 0].argsort()]
    detector = AutoencoderDetector(random_state=0, options=QUICK).fit(x_NF)
    (trained,) = detector.detector_.training["views"]
    drawn = AutoencoderDetector(random_state=0, options=QUICK).fit(bent(900))
    assert trained["held_out_loss"] == pytest.approx(drawn.detector_.training["views"][0]["held_out_loss"], rel=0.5)


def test_a_detector_is_fitted_by_its_seed_on_one_thread_and_leaves_torch_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before, given, during = torch.get_num_threads(), torch.random.get_rng_state(), set[int]()

    def noted(*args: Any, **named: Any) -> Any:
        return fit_detector(*args, **named, progress=lambda share: during.add(torch.get_num_threads()))

    monkeypatch.setattr("models.sklearn.fit_detector", noted)
    options = {"max_epochs": 1}
    torch.set_num_threads(2)
    try:
        scores = [
            AutoencoderDetector(kind="series", architecture="vanilla", random_state=seed, options=options)
            .fit(waves())
            .score_samples(waves(100, 1))
            for seed in (3, 3, 4)
        ]
        assert (during, torch.get_num_threads()) == ({1}, 2)
    finally:
        torch.set_num_threads(before)
    assert (scores[0] == scores[1]).all()
    assert (scores[0] != scores[2]).any()
    assert torch.equal(torch.random.get_rng_state(), given)


def test_outliers_of_a_series() -> None:
    detector = AutoencoderDetector(kind="series", random_state=0).fit(waves())
    fresh_NF = waves(seed=1)
    fresh_NF[400:406] += 1.5
    strangest = detector.score_samples(fresh_NF).argmin()
    assert 400 <= strangest <= 410
    np.testing.assert_array_equal(
        detector.score_samples(fresh_NF), -detector.detector_.score_series("", fresh_NF, [0])[0]
    )


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"dimensions": 5}, "dimensions is 5; rows with n_features=4 in windows of 1 are coded by 4 at most"),
        ({"dimensions": 0}, "dimensions is 0; it takes a whole number of 1 or more"),
        ({"dimensions": True}, "dimensions is True; it takes a whole number"),
        ({"window": 2.0}, r"window is 2\.0; it takes a whole number"),
        ({"outputs": "code"}, "there is no output 'code'; did you mean 'codes'"),
        ({"outputs": ()}, "outputs is .*; name each once, of: codes, errors, statistics"),
        ({"outputs": ("codes", "codes")}, "name each once"),
        ({"outputs": "statistics"}, "statistics are of windows: take a window of 2 rows or more"),
        ({"architecture": "residuel"}, "there is no architecture 'residuel'; did you mean 'residual'"),
        ({"options": {"hiden": 3}}, "no option 'hiden'; did you mean 'hidden'"),
        ({"architecture": "vanilla", "dimensions": 4}, "architecture vanilla makes codes of 3 numbers"),
    ],
)
def test_what_will_not_do_is_said(parameters: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        AutoencoderFeatures(**{"options": QUICK, **parameters}).fit(bent(30))


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"kind": "rows"}, "kind is 'rows'; it takes 'features' or 'series'"),
        ({"contamination": 0.6}, r"contamination is 0\.6; it takes 'auto' or a share above 0, and \.5 at most"),
        ({"contamination": 0.0}, r"contamination is 0\.0; it takes"),
    ],
)
def test_what_will_not_do_for_a_detector_is_said(parameters: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        AutoencoderDetector(**parameters).fit(bent(30))


def test_numbers_may_be_those_of_numpy() -> None:
    numbers: dict[str, Any] = {"dimensions": np.int64(2), "window": np.int32(3)}
    found = AutoencoderFeatures(**numbers, options=QUICK).fit(waves())
    assert found.transform(waves()).shape == (600, 2)


def test_errors_alone_lead_nowhere_back() -> None:
    errors = AutoencoderFeatures(outputs="errors", options=QUICK).fit(bent(30))
    with pytest.raises(ValueError, match="only codes lead back to rows"):
        errors.inverse_transform(errors.transform(bent(30)))
    codes = AutoencoderFeatures(options=QUICK).fit(bent(30))
    with pytest.raises(ValueError, match="X has 4 columns; transform makes 2"):
        codes.inverse_transform(bent(30))
    with pytest.raises(NotFittedError):
        AutoencoderFeatures().inverse_transform(bent(30))


def test_codes_are_what_a_clustering_wants() -> None:
    """Three groups along a curve, close to one another in every feature."""
    random = np.random.default_rng(0)
    group_N = np.repeat(np.arange(3), 100)
    x_NF = np.random.default_rng(1).standard_normal((3, 6))[group_N] + 0.3 * random.standard_normal((300, 6))
    codes = AutoencoderFeatures(2, random_state=0, options={"max_epochs": 2}).fit_transform(x_NF)
    found_N = KMeans(3, n_init=5, random_state=0).fit_predict(codes)
    agreed = sum(np.bincount(found_N[group_N == group]).max() for group in range(3))
    assert agreed > 285


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_frames_come_and_go_with_their_names(library: str) -> None:
    frames: Any = pytest.importorskip(library, reason=f"{library} comes with: pip install 'offkey[dev]'")
    rows = bent(40)
    frame = frames.DataFrame({name: rows[:, n] for n, name in enumerate(("a", "b", "c", "d"))})
    found = AutoencoderFeatures(outputs=("codes", "errors"), options=QUICK).set_output(transform=library)
    made = found.fit(frame).transform(frame)
    assert list(made.columns) == ["code0", "code1", "error_a", "error_b", "error_c", "error_d"]
    assert found.detector_.spec.features == ("a", "b", "c", "d")
    with pytest.raises(ValueError, match="feature names should match"):
        found.transform(frame[["b", "a", "c", "d"]])

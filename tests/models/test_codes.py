"""Codes of records and of windows: of each row alone, of a series in parts as of the whole, and back."""

from functools import cache

import numpy as np
import pytest
import torch

from models.arrays import FloatArray
from models.codes import Coder, fit_coder
from models.files import from_files, to_files
from models.fitting import fit_detector
from models.plan import plan_of
from models.scaling import expanded
from models.window_statistics import statistic_names, window_statistics

CPU = torch.device("cpu")
QUICK = {"max_epochs": 2, "hidden": 16}


def records(count: int = 300, seed: int = 0) -> FloatArray:
    """Return records of two causes in four features of their own units."""
    random = np.random.default_rng(seed)
    causes_NL = random.standard_normal((count, 2))
    x_NF: FloatArray = causes_NL @ np.array([[1.0, 2.0, 0.5, -1.0], [0.3, -1.0, 1.0, 1.0]])
    x_NF = (x_NF + 0.05 * random.standard_normal(x_NF.shape)) * [1, 1e3, 1e-3, 1] + [0, 1e5, 0, -3]
    return x_NF


def series(count: int = 400, seed: int = 0) -> FloatArray:
    random = np.random.default_rng(seed)
    return np.sin(np.arange(count)[:, None] / 5 + np.arange(2)) * [1, 100] + 0.02 * random.standard_normal(
        (count, 2)
    )


@cache
def of_records() -> Coder:
    return fit_coder(records(), 2, features=("a", "b", "c", "d"), options=QUICK)


@cache
def of_windows() -> Coder:
    return fit_coder(series(), 3, window=8, options=QUICK)


def of_default(x_NF: FloatArray, kind: str) -> Coder:
    """Return a coder of what `offkey train` trains."""
    assert kind in ("features", "series")
    plan = plan_of("features" if kind == "features" else "series", x_NF.shape[1], "default", {"max_epochs": 2})
    columns = {"s": (60_000 * np.arange(len(x_NF)), x_NF)}
    names = [f"f{number}" for number in range(x_NF.shape[1])]
    return Coder(fit_detector("features" if kind == "features" else "series", names, plan, columns, device=CPU))


def test_a_record_is_coded_by_itself() -> None:
    """To the bit, whatever stands beside it and wherever the rows are cut: there are more than a chunk of them."""
    x_NF = records(2500, 1)
    codes, rebuilt_NF = of_records().read(x_NF)
    for part in (slice(0, 1), slice(1023, 1025), slice(700, 2500)):
        np.testing.assert_array_equal(of_records().encode(x_NF[part]), codes[part])
        np.testing.assert_array_equal(of_records().read(x_NF[part])[1], rebuilt_NF[part])
    np.testing.assert_array_equal(of_records().decode(codes), rebuilt_NF)


def test_what_comes_back_has_its_units() -> None:
    x_NF = records(500, 1)
    _, rebuilt_NF = of_records().read(x_NF)
    off_NF = of_records().off(x_NF, rebuilt_NF)
    assert (off_NF.mean(axis=0) < 0.1).all()
    np.testing.assert_allclose(off_NF, np.abs(x_NF - rebuilt_NF) / of_records().detector.scaling.scale_F)
    np.testing.assert_allclose(of_records().detector.scaling.scale_F, records().std(axis=0))


def test_a_series_in_parts_has_the_codes_of_the_whole() -> None:
    x_TF, coder = series(1300, 1), of_windows()
    scale = coder.scale_of()
    whole = coder.encode(x_TF, scale)
    assert whole.shape == (1300, 3)
    parts = [coder.encode(x_TF[:500], scale)]
    for begin, end in ((500, 503), (503, 1300)):
        parts.append(coder.encode(x_TF[begin - 7 : end], scale)[7:])
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_the_first_windows_are_those_of_a_series_that_stood_still() -> None:
    x_TF, coder = series(20, 1), of_windows()
    before_TF = np.repeat(x_TF[:1], 7, axis=0)
    np.testing.assert_array_equal(coder.encode(np.concatenate([before_TF, x_TF]))[7:], coder.encode(x_TF))


def test_of_a_window_the_newest_row_comes_back() -> None:
    x_TF, coder = series(300, 1), of_windows()
    codes, rebuilt_TF = coder.read(x_TF)
    assert coder.off(x_TF, rebuilt_TF)[8:].mean() < 0.15
    np.testing.assert_array_equal(coder.decode(codes), rebuilt_TF)


def test_another_series_is_scaled_by_its_first_rows() -> None:
    coder = of_default(series(), "series")
    first_TF = 1000 + series(coder.window)
    scale = coder.scale_of("new", np.concatenate([first_TF, 1e6 + series(60)]))
    np.testing.assert_array_equal(scale, coder.detector.scaling.for_new(first_TF))
    assert coder.scale_of("s", first_TF)[1][0] == pytest.approx(2, abs=0.2)
    with pytest.raises(ValueError, match="series 'new' was not there in training; its codes alone do not tell"):
        coder.scale_of("new")


def test_codes_of_a_series_are_read_by_its_own_scale() -> None:
    """The same course at another level, of another size, has the same codes, and comes back where it is."""
    x_TF, coder = series(100, 1), of_windows()
    center_F, width_F = coder.scale_of()
    codes, rebuilt_TF = coder.read(x_TF)
    scale = 50 + 4 * center_F, 4 * width_F
    assert (coder.encode(x_TF, scale) != codes).any()
    np.testing.assert_allclose(coder.encode(50 + 4 * x_TF, scale), codes, atol=1e-4)
    np.testing.assert_allclose(coder.decode(codes, scale), 50 + 4 * rebuilt_TF)
    np.testing.assert_allclose(coder.read(50 + 4 * x_TF, scale)[1], 50 + 4 * rebuilt_TF, rtol=1e-3, atol=1e-2)
    off_TF = coder.off(50 + 4 * x_TF, 50 + 4 * rebuilt_TF, scale)
    np.testing.assert_allclose(off_TF, coder.off(x_TF, rebuilt_TF), rtol=1e-9, atol=1e-9)


def test_the_seed_decides_of_windows_too() -> None:
    codes = [
        fit_coder(series(), 3, window=8, architecture="vanilla", options={"max_epochs": 1}, seed=seed).encode(
            series()
        )
        for seed in (1, 1, 2)
    ]
    assert (codes[0] == codes[1]).all()
    assert (codes[0] != codes[2]).any()


def test_training_takes_one_thread_and_gives_back_what_there_were() -> None:
    before, during = torch.get_num_threads(), set[int]()
    torch.set_num_threads(2)
    try:
        fit_coder(records(), 2, options=QUICK, progress=lambda share: during.add(torch.get_num_threads()))
        assert (during, torch.get_num_threads()) == ({1}, 2)
    finally:
        torch.set_num_threads(before)


def test_all_views_of_a_trained_model_are_codes_that_do_not_lead_back() -> None:
    coder = of_default(series(), "series")
    codes = coder.encode(series(100, 1), coder.scale_of("s"))
    assert codes.shape == (100, coder.dimensions) == (100, len(coder.names)) == (100, 48)
    assert coder.names[0] == "view0_code0"
    assert coder.names[-1] == "view2_code15"
    assert not coder.decodes
    with pytest.raises(
        ValueError, match=r"codes of this model \(linear of values, linear of centred, .* do not lead"
    ):
        coder.decode(codes)


def test_the_default_of_features_leads_back() -> None:
    """What its view sees of large values are logarithms; they come back as values."""
    x_NF = records(2000)
    x_NF[0] = x_NF.mean(axis=0) + 30 * x_NF.std(axis=0)
    coder = of_default(x_NF, "features")
    codes = 20 * coder.encode(x_NF[:20])
    seen_BF = coder.detector.views[0].network.decode(torch.from_numpy(codes))[:, 0].detach()
    assert float(seen_BF.abs().max()) > 5
    scaling = coder.detector.scaling
    expected = scaling.center_F + scaling.scale_F * expanded(seen_BF).double().numpy()
    np.testing.assert_allclose(coder.decode(codes), expected, rtol=1e-3)


def test_files_bring_the_same_codes() -> None:
    x_NF = records(50, 2)
    again = Coder(from_files(to_files(of_records().detector)))
    np.testing.assert_array_equal(again.read(x_NF)[1], of_records().read(x_NF)[1])
    assert again.names == ["code0", "code1"]


def test_records_may_be_sorted() -> None:
    """Those that say how good the training is are no last fifth: a third of the rows is quiet, and comes last."""
    x_NF = np.concatenate([10 * np.random.default_rng(0).standard_normal((400, 3)), np.zeros((200, 3))])
    (trained,) = fit_coder(x_NF, 1, options=QUICK).detector.training["views"]
    assert trained["held_out_loss"] > 0.2


def test_no_rows_have_no_codes() -> None:
    codes, rebuilt_NF = of_records().read(np.empty((0, 4)))
    assert codes.shape == (0, 2)
    assert rebuilt_NF.shape == of_records().decode(codes).shape == (0, 4)


def test_what_cannot_be_coded_is_named() -> None:
    x_NF = records(50)
    with pytest.raises(ValueError, match=r"rows of this model have 4 features, not \(3,\)"):
        of_records().encode(x_NF[:, :3])
    with pytest.raises(ValueError, match=r"codes of this model are 2 numbers each, not \(3,\)"):
        of_records().decode(x_NF[:, :3])
    x_NF[[1030 % 50, 40], 2] = np.nan
    with pytest.raises(ValueError, match="row 30 holds nan as 'c', the first of 2"):
        of_records().encode(x_NF)


@pytest.mark.parametrize(
    ("dimensions", "architecture", "said"),
    [
        (5, "residual", "dimensions is 5; it takes 1 to 4"),
        (0, "residual", "dimensions is 0; it takes 1 to 4"),
        (
            4,
            "vanilla",
            "architecture vanilla makes codes of 3 numbers of 1 x 4 values, not 4; ask for fewer, or take",
        ),
    ],
)
def test_codes_that_cannot_be_had(dimensions: int, architecture: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        fit_coder(records(), dimensions, architecture=architecture)


def test_statistics_of_windows_are_those_of_each(monkeypatch: pytest.MonkeyPatch) -> None:
    x_TF = series(50) + 1e9
    found = window_statistics(x_TF, 6)
    before_TF = np.concatenate([np.repeat(x_TF[:1], 5, axis=0), x_TF])
    for row in (0, 3, 49):
        w_TF = before_TF[row : row + 6]
        slope_F = np.polyfit(np.arange(6), w_TF - w_TF[0], 1)[0]
        expected = [w_TF.mean(0), w_TF.std(0), w_TF.min(0), w_TF.max(0), slope_F]
        np.testing.assert_allclose(found[row], np.concatenate(expected), rtol=1e-9, atol=1e-6)
    assert statistic_names(["a", "b"])[:3] == ["mean_a", "mean_b", "std_a"]
    assert window_statistics(x_TF[:0], 6).shape == (0, 10)
    whole = window_statistics(x_TF, 6)
    monkeypatch.setattr("models.window_statistics._CHUNK_VALUES", 7 * 6 * x_TF.shape[1])
    np.testing.assert_array_equal(window_statistics(x_TF, 6), whole)
    with pytest.raises(ValueError, match="windows of 2 rows or more, not 1"):
        window_statistics(x_TF, 1)

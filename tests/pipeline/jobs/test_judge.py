"""One file judged: every scored row has a finite score, no label reaches training, causal looks at no later row."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.evaluation import auroc
from pipeline.connectors.labelled import configuration_of, read_scores
from pipeline.errors import ConfigError, SnapshotError
from pipeline.jobs.judge import Online, Task, check_architecture, judge, split_table
from tests.labelled import MINUTE_MS, series_columns, table_columns, write


def task(path: Path, **changes: Any) -> Task:
    whole = Task(path, path.parent / "out" / path.name, "vanilla", 0, "S", (), "abc")
    return replace(whole, **changes)


def scores_of(path: Path, **changes: Any) -> dict[str, Any]:
    asked = task(path, **changes)
    judge(asked)
    return read_scores(asked.scores)


def test_a_series_is_scored_on_every_row_that_counts(tmp_path: Path) -> None:
    columns = series_columns()
    path = write(tmp_path / "g" / "s.parquet", columns)
    asked = task(path, delays=(2, 4))
    result = judge(asked)
    written = read_scores(asked.scores)
    assert list(written) == ["timestamp", "label", "causal", "settled", "delay_2", "delay_4"]
    assert configuration_of(asked.scores) == "abc"
    for name in ("timestamp", "label"):
        assert written[name].tolist() == columns[name][columns["scored"]].tolist()
    for name in ("causal", "settled", "delay_2", "delay_4"):
        assert np.isfinite(written[name]).all()
    assert (result.group, result.series, result.architecture, result.seed) == ("g", "s", "vanilla", 0)
    assert (result.setting, result.configuration) == ("", "abc")
    assert (result.rows, result.train_rows, result.scored_rows) == (600, 300, 300)
    assert (result.labelled_rows, result.features) == (24, 2)
    assert list(result.vus_pr_by_delay) == [2, 4]
    assert result.auroc == auroc(written["label"], written["settled"])
    assert result.auroc is not None
    assert result.auroc > 0.95
    assert result.fit_s is not None
    assert result.fit_s > 0
    assert result.points_per_s is not None
    assert result.points_per_s > 0


def test_scored_rows_before_and_among_the_training_rows_have_scores(tmp_path: Path) -> None:
    columns = series_columns()
    columns["scored"], columns["train"] = np.ones(600, bool), np.arange(600) >= 300
    written = scores_of(write(tmp_path / "s.parquet", columns))
    assert len(written["causal"]) == 600
    assert np.isfinite([written["causal"], written["settled"]]).all()


def test_a_causal_score_looks_at_no_later_row(tmp_path: Path) -> None:
    columns = series_columns()
    before = scores_of(write(tmp_path / "s.parquet", columns))
    for name in ("f00", "f01"):
        columns[name][500:] = 9
    after = scores_of(write(tmp_path / "s.parquet", columns))
    assert after["causal"][:200] == pytest.approx(before["causal"][:200], abs=1e-3)
    assert abs(after["causal"][200:] - before["causal"][200:]).max() > 5


def test_a_window_reaches_back_into_training_rows(tmp_path: Path) -> None:
    columns = series_columns()
    columns["train"][295:300] = False
    before = scores_of(write(tmp_path / "s.parquet", columns))
    columns["f00"][295:300] += 4
    after = scores_of(write(tmp_path / "s.parquet", columns))
    assert abs(after["causal"][:5] - before["causal"][:5]).max() > 0.5


def test_labels_reach_neither_training_nor_scores(tmp_path: Path) -> None:
    columns = series_columns()
    before = scores_of(write(tmp_path / "s.parquet", columns))
    columns["label"] = 1 - columns["label"]
    after = scores_of(write(tmp_path / "s.parquet", columns))
    assert after["causal"].tolist() == before["causal"].tolist()
    table = table_columns()
    path = write(tmp_path / "t.parquet", table)
    learned, scored = split_table(table["label"] == 1, "U", 0)
    assert set(table["label"][learned]) == {0, 1}
    assert len(scores_of(path, setting="U")["causal"]) == len(scored)


def test_the_same_seed_gives_the_same_scores_and_another_one_does_not(tmp_path: Path) -> None:
    path = write(tmp_path / "s.parquet", series_columns())
    one, again, other = (scores_of(path, seed=seed)["causal"].tolist() for seed in (3, 3, 4))
    assert one == again != other


def test_incidents_are_counted_against_both_budgets(tmp_path: Path) -> None:
    columns = series_columns(1200)
    result = judge(task(write(tmp_path / "s.parquet", columns)))
    quiet = 600 - 2 * (12 + 2 * 50)  # A longest window each side of a span belongs to it.
    assert result.allowed_incidents_1_per_day == pytest.approx(quiet / 1440)
    assert result.allowed_incidents_1_per_1000 == pytest.approx(quiet / 1000)
    assert result.false_incidents_1_per_day is not None
    assert result.false_incidents_per_week == pytest.approx(
        result.false_incidents_1_per_day * 7 * 1440 / quiet, abs=1e-9
    )
    # A burst far from every span is a false one, whatever else there is.
    columns["f00"][850:854] += 50
    more = judge(task(write(tmp_path / "s.parquet", columns)))
    assert more.false_incidents_1_per_day == result.false_incidents_1_per_day + 1


def test_setting_s_learns_from_half_of_the_normal_rows() -> None:
    label_N = np.arange(400) % 10 == 3
    learned, scored = split_table(label_N, "S", 0)
    assert not label_N[learned].any()
    assert len(learned) == 180
    assert sorted([*learned, *scored]) == list(range(400))
    assert split_table(label_N, "S", 0)[0].tolist() == learned.tolist()
    assert split_table(label_N, "S", 1)[0].tolist() != learned.tolist()


def test_setting_u_learns_from_seven_tenths_of_either_label() -> None:
    label_N = np.arange(400) % 10 == 3
    learned, scored = split_table(label_N, "U", 0)
    assert (len(learned), label_N[learned].sum()) == (280, 28)
    assert sorted([*learned, *scored]) == list(range(400))
    assert split_table(label_N, "U", 1)[0].tolist() != learned.tolist()


@pytest.mark.parametrize("setting", ["S", "U"])
def test_a_table_is_measured_by_auroc(tmp_path: Path, setting: str) -> None:
    columns = table_columns()
    asked = task(write(tmp_path / "t.parquet", columns), setting=setting, seed=5)
    result, written = judge(asked), read_scores(asked.scores)
    scored = split_table(columns["label"] == 1, setting, 5)[1]
    assert written["timestamp"].tolist() == scored.tolist()
    assert written["label"].tolist() == columns["label"][scored].tolist()
    assert written["causal"].tolist() == written["settled"].tolist()
    assert np.isfinite(written["causal"]).all()
    assert result.setting == f"{setting}:5"
    assert result.auroc == auroc(written["label"], written["causal"])
    assert result.auroc > 0.9
    assert result.vus_pr_causal is None
    normal = int((written["label"] == 0).sum())
    assert result.allowed_incidents_1_per_1000 == normal / 1000


def test_too_little_to_learn_from_is_said_with_the_file(tmp_path: Path) -> None:
    columns = series_columns()
    columns["train"] = np.arange(600) < 1
    with pytest.raises(SnapshotError, match=r"s\.parquet: "):
        judge(task(write(tmp_path / "s.parquet", columns)))
    label_N = np.array([1, *[0] * 99])
    path = write(tmp_path / "t.parquet", {"label": label_N, "f00": np.arange(100.0)})
    with pytest.raises(SnapshotError, match="are all of one label"):
        judge(task(path, setting="U"))


@pytest.mark.parametrize("back", [[100], [5, 6, 7]])
def test_a_clock_that_goes_back_changes_no_score(tmp_path: Path, back: list[int]) -> None:
    """Rows count in the order of the file; the interval is the usual one."""
    columns = series_columns(400)
    whole = judge(task(write(tmp_path / "g" / "whole.parquet", columns)))
    columns["timestamp"] = columns["timestamp"].copy()
    for row in back:
        columns["timestamp"][row:] -= 20 * MINUTE_MS
    again = judge(task(write(tmp_path / "g" / "back.parquet", columns)))
    assert again.vus_pr_settled == whole.vus_pr_settled
    assert again.threshold_1_per_day == whole.threshold_1_per_day


def test_an_architecture_that_is_not_there() -> None:
    check_architecture("default", 0)
    check_architecture("recurrent", 0)
    with pytest.raises(ConfigError, match="--architecture vanila"):
        check_architecture("vanila", 0)


def test_recalibrated_scores_learn_a_level_that_stays(tmp_path: Path) -> None:
    """A shift in the middle of the scored rows: trained, it is strange to the end; accepted, it becomes usual."""
    columns = series_columns(3000)
    shifted = np.arange(3000) >= 2000
    for name in ("f00", "f01"):
        columns[name] = columns[name] + (2 * shifted).astype(np.float32)
    path = write(tmp_path / "shifted" / "s.parquet", columns)
    trained = judge(task(path))
    at_once = read_scores(task(path).scores)["causal"]
    online = task(path, online=Online(2 * 3600.0), delays=(2,))
    result = judge(online)
    followed = read_scores(online.scores)
    assert (trained.online, result.online) == ("", "7200 s")
    strange = np.median(at_once[-400:])
    assert strange > 30
    for name in ("causal", "settled", "delay_2"):
        assert np.isfinite(followed[name]).all()
        # Three windows are 150 points, and longer than two hours.
        assert followed[name][510:590].min() > 25
        assert np.median(followed[name][-400:]) < 10
    assert result.vus_pr_by_delay.keys() == {2}
    never = judge(task(path, online=Online(None)))
    assert never.online == "never"
    assert never.threshold_1_per_day == result.threshold_1_per_day

"""`metrics.csv` says what was measured, and is read back as it was written."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.evaluation import auc_pr, auroc, period, vus
from pipeline.jobs.results import Result, read_results, series_measures, write_results

ASKED = (
    "group,series,architecture,seed,vus_pr_causal,vus_pr_settled,auc_pr_causal,auc_pr_settled,auroc,fit_s,"
    "points_per_s,false_incidents_per_week"
)


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    full = Result("b", "s", "default", 1, 0.25, 0.5, fit_s=1.5, points_per_s=1_234_567.0, rows=12, setting="U:1")
    results = [
        full,
        replace(full, group="a", vus_pr_by_delay={2: 0.3, 16: 0.4}, false_incidents_1_per_day=0),
        replace(full, seed=2, vus_pr_causal=None),
    ]
    write_results(tmp_path / "metrics.csv", results)
    assert read_results(tmp_path / "metrics.csv") == [results[1], results[0], results[2]]
    header = (tmp_path / "metrics.csv").read_text().splitlines()[0]
    assert header.startswith(ASKED)
    assert header.endswith("vus_pr_delay_2,vus_pr_delay_16")
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]


def test_another_table_and_a_word_for_a_number_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("group,series,seed\na,b,0\n")
    with pytest.raises(ValueError, match="no column `architecture`"):
        read_results(path)
    path.write_text("group,series,architecture,seed,fit_s\na,b,default,0,fast\n")
    with pytest.raises(ValueError, match="column `fit_s` of b holds 'fast', no number"):
        read_results(path)


def test_a_series_is_measured_by_each_of_its_scores() -> None:
    random = np.random.default_rng(0)
    label_N = np.zeros(900, bool)
    label_N[400:430] = True
    first_N = np.sin(np.arange(900) / 40 * 2 * np.pi)
    scores = {name: random.random(900) + gain * label_N for name, gain in (("causal", 0.5), ("settled", 2))}
    scores["delay_8"] = random.random(900) + label_N
    measured = series_measures(Result("g", "s", "default", 0), label_N, scores, first_N)
    assert measured.period == period(first_N) == 40
    assert measured.vus_pr_causal == vus(label_N, scores["causal"], 40).pr
    assert measured.vus_pr_settled == vus(label_N, scores["settled"], 40).pr
    assert measured.vus_roc_settled == vus(label_N, scores["settled"], 40).roc
    assert measured.vus_pr_by_delay == {8: vus(label_N, scores["delay_8"], 40).pr}
    assert measured.auc_pr_causal == auc_pr(label_N, scores["causal"])
    assert measured.auroc == auroc(label_N, scores["settled"])
    assert measured.auroc_causal == auroc(label_N, scores["causal"])

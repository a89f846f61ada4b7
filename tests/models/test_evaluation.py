"""Metrics: equal to the reference, and right where the answer can be reckoned by hand."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest

from models.evaluation import auc_pr, auroc, period, vus

KEPT = dict(np.load(Path(__file__).parent.parent / "fixtures" / "vus_reference.npz"))
NAMES = sorted({key.rsplit(":", 1)[0] for key in KEPT})
REFERENCE = os.environ.get("VUS_REFERENCE")


@pytest.mark.parametrize("name", NAMES)
def test_values_agree_with_the_reference(name: str) -> None:
    rank_N = KEPT[f"{name}:rank"]
    label_N = np.unpackbits(KEPT[f"{name}:label"], count=len(rank_N))
    widest, *expected = KEPT[f"{name}:expected"].tolist()
    volumes = vus(label_N, rank_N, int(widest))
    found = [volumes.pr, volumes.roc, auc_pr(label_N, rank_N), auroc(label_N, rank_N)]
    assert found == pytest.approx(expected, abs=0.001)


@pytest.mark.skipif(not REFERENCE, reason="set VUS_REFERENCE to the folder of vus_reference.csv and .parquet")
def test_values_agree_with_the_whole_reference() -> None:
    """Also on the series whose licence keeps them out of the fixture."""
    parquet = pytest.importorskip("pyarrow.parquet", reason="it comes with: pip install 'offkey[arrow]'")
    folder = Path(str(REFERENCE))
    table = parquet.read_table(folder / "vus_reference.parquet")
    series_N = np.array(table["series"].to_pylist())
    rows = list(csv.DictReader((folder / "vus_reference.csv").open()))
    assert len(rows) == 15
    for row in rows:
        own_N = series_N == row["series"]
        label_N, score_N = table["label"].to_numpy()[own_N], table["score"].to_numpy()[own_N]
        volumes = vus(label_N, score_N, int(row["window"]))
        found = [volumes.pr, volumes.roc, auc_pr(label_N, score_N), auroc(label_N, score_N)]
        expected = [float(row[key]) for key in ("vus_pr", "vus_roc", "auc_pr", "auc_roc")]
        assert found == pytest.approx(expected, abs=0.001), row["series"]


def test_the_period_agrees_with_the_reference() -> None:
    kept = [name for name in NAMES if f"{name}:first" in KEPT]
    assert len(kept) == 3
    for name in kept:
        assert period(KEPT[f"{name}:first"]) == KEPT[f"{name}:expected"][0]


@pytest.mark.parametrize("lag", [24, 60, 288])
def test_the_period_of_a_cycle_is_found(lag: int) -> None:
    assert abs(period(np.sin(2 * np.pi * np.arange(10 * lag) / lag)) - lag) <= 1


@pytest.mark.parametrize("flat", [np.zeros(1000), np.full(1000, 7.3), np.zeros(5), np.arange(50.0)])
def test_without_a_period_the_border_is_as_wide_as_the_reference_has_it(flat: np.ndarray) -> None:
    assert period(flat) == 125


def test_a_perfect_ranking_and_its_opposite() -> None:
    label_N = np.zeros(1000, int)
    label_N[400:450] = 1
    assert (auroc(label_N, label_N), auc_pr(label_N, label_N)) == (1.0, 1.0)
    assert vus(label_N, label_N, 0).pr == pytest.approx(1, abs=0.01)
    assert auroc(label_N, -label_N) == 0.0
    assert vus(label_N, -label_N, 20).pr < 0.1


def test_equal_scores_are_worth_their_share() -> None:
    label_N = np.zeros(1000, int)
    label_N[:100] = 1
    assert auroc(label_N, np.ones(1000)) == 0.5
    assert auc_pr(label_N, np.ones(1000)) == pytest.approx(0.1)


def test_only_the_order_of_scores_counts() -> None:
    random = np.random.default_rng(0)
    label_N = np.zeros(2000, int)
    label_N[[*range(300, 340), *range(350, 360), *range(1990, 2000)]] = 1
    score_N = random.normal(size=2000) + label_N
    one, two = vus(label_N, score_N, 40), vus(label_N, np.exp(score_N / 3), 40)
    assert one == two


def test_a_hit_beside_the_span_is_worth_something_within_the_border() -> None:
    label_N, beside_N, away_N = np.zeros((3, 3000))
    label_N[1000:1010] = 1
    beside_N[1012:1022] = 1
    away_N[2000:2010] = 1
    noise_N = 1e-3 * np.random.default_rng(0).random(3000)
    assert vus(label_N, beside_N + noise_N, 60).pr > 5 * vus(label_N, away_N + noise_N, 60).pr

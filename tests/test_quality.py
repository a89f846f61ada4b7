"""The tables of `tests/benchmarks/quality.py`: means, pairs and intervals are those of the rows they are given."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.jobs.results import Result, write_results
from tests.benchmarks.quality import (
    by_delay,
    by_series,
    differences,
    false_incidents,
    group_means,
    interval,
    named,
    ratio_interval,
    report,
    speeds,
    tables,
)


def row(architecture: str, group: str, series: str, settled: float, seed: int = 0, **more: Any) -> Result:
    fields: dict[str, Any] = {"vus_pr_causal": settled / 2, "vus_pr_settled": settled, "features": 1, **more}
    return Result(group, series, architecture, seed, **fields)


RESULTS = [
    *(row("default", "a", f"{n}", 0.6 + 0.01 * n, vus_pr_by_delay={2: 0.4}, points_per_s=900.0) for n in range(8)),
    *(row("default", "a", f"{n}", 0.8 + 0.01 * n, seed=1, vus_pr_by_delay={2: 0.6}) for n in range(8)),
    *(row("pyod-window-50", "a", f"{n}", 0.5 - 0.02 * n, points_per_s=30.0) for n in range(8)),
    row("default", "b", "0", 0.2),
    row("pyod-window-50", "b", "0", 0.3),
    row("default", "b", "1", 0.92),
]


def cells(text: str, first: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {first} |")]
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def test_seeds_of_a_series_are_averaged_first() -> None:
    values = by_series(RESULTS, "default", named("vus_pr_settled"))
    assert values["a", "3"] == pytest.approx(0.73)
    assert values["b", "1"] == 0.92
    text = group_means(RESULTS)
    for name, expected in (
        ("default, settled", [0.735, 0.56, 0.6475, 2]),
        ("default, causal", [0.3675, 0.28, 0.32375, 2]),
        ("pyod-window-50, settled", [0.43, 0.3, 0.365, 1]),
    ):
        assert [float(cell) for cell in cells(text, name)[:-1]] == pytest.approx(expected, abs=6e-4)
        # Of the second seed there is one group only, whose mean is none of both.
        assert cells(text, name)[-1] == ""


def test_seeds_lie_as_far_apart_as_their_means() -> None:
    rows = [row("default", group, "0", 0.1 * seed + 0.2, seed) for group in "ab" for seed in range(3)]
    assert cells(group_means(rows), "default, settled") == ["0.300", "0.300", "0.300", "3", "0.200"]


def test_a_mean_of_some_groups_is_none() -> None:
    text = group_means([*RESULTS, row("sparse", "a", "0", 0.7)])
    assert cells(text, "sparse, settled") == ["0.700", "", "", "1", ""]


def test_differences_are_of_pairs() -> None:
    text = differences(RESULTS, "default", "pyod-window-50")
    count, mean, _, ahead = cells(text, "settled: all series")
    assert (count, mean, ahead) == ("9", f"{(8 * 0.305 - 0.1) / 9:+.3f}", "89%")
    assert float(cells(text, "settled: mean of groups")[1]) == pytest.approx((0.305 - 0.1) / 2, abs=6e-4)
    assert cells(text, "settled: a")[:2] == ["8", "+0.305"]
    assert "settled: b" not in text
    assert "1 series stand in one of the two only" in text
    assert "no series that both" in differences(RESULTS, "default", "nobody")


def test_an_interval_covers_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        low, high = interval([random.normal(0.1, 0.2, 40), random.normal(0.3, 0.2, 40)])
        covered += low <= 0.2 <= high
    assert 180 <= covered <= 199
    assert interval([np.full(9, 0.25)]) == (0.25, 0.25)


def test_quality_against_delay() -> None:
    text = by_delay(RESULTS[:16], "default")
    assert text.splitlines()[0] == "| default, points waited for | 0 (causal) | 2 | all (settled) |"
    assert [float(cell) for cell in cells(text, "mean of groups")] == pytest.approx([0.3675, 0.5, 0.735], abs=6e-4)


def test_false_incidents_are_pooled_and_have_an_interval() -> None:
    counted: dict[str, Any] = {"false_incidents_1_per_1000": 0, "allowed_incidents_1_per_1000": 1.0}
    rows = [
        row("default", "a", f"{n}", 0.5, false_incidents_1_per_day=n, allowed_incidents_1_per_day=2.0, **counted)
        for n in range(7)
    ]
    nothing: dict[str, Any] = {"false_incidents_1_per_day": 0, "allowed_incidents_1_per_day": 0.0, **counted}
    text = false_incidents([*rows, row("default", "b", "0", 0.5, **nothing)], "default")
    found, allowed, ratio, spread = cells(text, "1 per day: pooled")
    assert (found, allowed, ratio) == ("21.0", "14.0", "1.50")
    low, high = (float(end) for end in spread.split(" to "))
    assert low < 1.5 < high
    assert cells(text, "1 per 1,000: pooled")[:3] == ["0.0", "8.0", "0.00"]
    assert "1 per day: b" not in text
    assert ratio_interval(np.full(6, 2.0), np.full(6, 4.0)) == (0.5, 0.5)


def test_speed_is_compared_at_equal_numbers_of_features() -> None:
    assert cells(speeds(RESULTS, "default", "pyod-window-50"), "1") == ["900", "30", "30.0"]


def test_tables_stand_by_setting() -> None:
    measured = (("x", "S", 0, 0.9), ("x", "S", 1, 0.8), ("y", "S", 0, 0.7), ("x", "U", 0, 0.5))
    rows = [
        Result("t", name, "default", seed, auroc=value, setting=f"{setting}:{seed}")
        for name, setting, seed, value in measured
    ]
    assert cells(tables(rows), "default, S") == ["0.850", "0.700", "0.775"]
    assert cells(tables(rows), "default, U") == ["0.500", "", ""]
    assert "VUS-PR" not in report(rows, "default", "pyod-window-50")


def test_the_command_takes_several_files(tmp_path: Path) -> None:
    write_results(tmp_path / "ours.csv", RESULTS[:16])
    write_results(tmp_path / "peer.csv", RESULTS[16:])
    words = [
        sys.executable,
        "-m",
        "tests.benchmarks.quality",
        str(tmp_path / "ours.csv"),
        str(tmp_path / "peer.csv"),
    ]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == report(RESULTS, "default", "pyod-window-50")

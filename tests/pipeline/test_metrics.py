"""Metrics are what the list says, and Prometheus accepts them."""

import shutil
import subprocess

import numpy as np
import pytest
from prometheus_client import REGISTRY, generate_latest

from pipeline import zeros
from pipeline.stages.windows import SLACK
from pipeline.stream import LEVELS, reached_by
from tests.streams import Bench, drain, feature_payloads, series_payloads


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def test_they_count_what_happened() -> None:
    before = {
        name: value(name, stream="machines") for name in ("offkey_records_total", "offkey_points_scored_total")
    }
    rejected = value("offkey_records_rejected_total", stream="machines", reason="not_json")
    before_levels = [value("offkey_points_reached_total", stream="machines", score=str(level)) for level in LEVELS]
    allowed, of_payments = (
        value("offkey_incidents_allowed_total", stream=name) for name in ("machines", "payments")
    )
    bench = Bench(partitions=1)
    bench.fill([*series_payloads(50), (b"a", b"x"), *series_payloads(3)], feature_payloads())
    drain(bench.worker())
    assert value("offkey_records_total", stream="machines") - before["offkey_records_total"] == 213
    assert value("offkey_points_scored_total", stream="machines") - before["offkey_points_scored_total"] == 4 * 42
    assert value("offkey_records_rejected_total", stream="machines", reason="not_json") - rejected == 1
    assert value("offkey_records_late_total", stream="machines") >= 12
    assert value("offkey_series", stream="machines") == 4
    assert value("offkey_lag_records", stream="machines") == 0
    assert value("offkey_partitions_assigned", stream="machines") == 1
    levels = [value("offkey_points_reached_total", stream="machines", score=str(level)) for level in LEVELS]
    reached = [now - then for now, then in zip(levels, before_levels, strict=True)]
    assert 168 > reached[0] > 0
    assert reached == sorted(reached, reverse=True)
    # A minute lies between two points and a series may raise one a day; of payments one in 1,000 records.
    assert value("offkey_incidents_allowed_total", stream="machines") - allowed == pytest.approx(168 / 1440)
    assert value("offkey_incidents_allowed_total", stream="payments") - of_payments == pytest.approx(0.4)
    for stage in ("poll", "decode", "series", "scoring", "incidents", "publish", "commit"):
        assert value("offkey_stage_duration_seconds_count", stage=stage) > 0


def test_a_poll_of_several_rounds_is_timed_and_counted_as_one() -> None:
    """A series with more points in a poll than its buffer has room for is scored in rounds."""
    bench = Bench(partitions=1)
    bench.fill(series_payloads(4 * SLACK))
    worker = bench.worker(max_poll_records=16 * SLACK)
    before = {
        stage: value("offkey_stage_duration_seconds_count", stage=stage) for stage in ("scoring", "incidents")
    }
    counters = ("offkey_incidents_allowed_total", "offkey_points_scored_total")
    allowed, scored = (value(name, stream="machines") for name in counters)
    worker.step()
    for stage, count in before.items():
        assert value("offkey_stage_duration_seconds_count", stage=stage) == count + 1
    allowed, scored = (
        value(name, stream="machines") - then for name, then in zip(counters, (allowed, scored), strict=True)
    )
    assert allowed == pytest.approx(scored / 1440)


def test_promtool_accepts_them() -> None:
    if shutil.which("promtool") is None:
        pytest.skip("promtool is missing; it comes with Debian's package prometheus")
    drain(Bench().worker())
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=generate_latest(), capture_output=True, timeout=30
    )
    assert checked.returncode == 0, checked.stdout.decode() + checked.stderr.decode()
    assert checked.stderr == b""


def test_what_has_not_happened_yet_is_zero() -> None:
    """A rate over a counter that begins with its first event does not see that one."""
    zeros.of_worker(["quiet"])
    zeros.of_recorder(["kept"])
    zeros.of_scheduler(["trained", "asked"], ["drift"], ["trained"])
    zeros.of_notify(["hook"])
    for name, labels in {
        "offkey_checkpoints_failed_total": {"stream": "quiet"},
        "offkey_records_rejected_total": {"stream": "quiet", "reason": "not_json"},
        "offkey_alerts_total": {"stream": "quiet", "state": "opened"},
        "offkey_snapshot_writes_failed_total": {"stream": "kept"},
        "offkey_retrain_runs_total": {"stream": "asked", "cause": "drift", "outcome": "memory_limit"},
        "offkey_retrain_refused_total": {"stream": "asked", "reason": "not_better"},
        "offkey_notify_alerts_total": {"receiver": "hook", "outcome": "given_up"},
    }.items():
        assert REGISTRY.get_sample_value(name, labels) == 0
    assert REGISTRY.get_sample_value("offkey_drift_probability", {"stream": "trained"}) == 1
    assert REGISTRY.get_sample_value("offkey_drift_probability", {"stream": "asked"}) is None


def test_scores_are_counted_by_what_they_reach() -> None:
    assert reached_by([np.array([9.9, 10.0, 35.0]), np.array([100.0])]) == [3, 2, 2, 1, 1, 1]
    assert reached_by([]) == [0] * len(LEVELS)

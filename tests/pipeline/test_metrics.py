"""Metrics are what the list says, and Prometheus accepts them."""

import shutil
import subprocess

import pytest
from prometheus_client import REGISTRY, generate_latest

from pipeline.stages.windows import SLACK
from tests.streams import Bench, drain, feature_payloads, series_payloads


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def test_they_count_what_happened() -> None:
    before = {
        name: value(name, stream="machines") for name in ("offkey_records_total", "offkey_points_scored_total")
    }
    rejected = value("offkey_records_rejected_total", stream="machines", reason="not_json")
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
    for stage in ("poll", "decode", "series", "scoring", "incidents", "publish", "commit"):
        assert value("offkey_stage_duration_seconds_count", stage=stage) > 0


def test_a_stage_of_several_rounds_is_timed_once_a_poll() -> None:
    """A series with more points in a poll than its buffer has room for is scored in rounds."""
    bench = Bench(partitions=1)
    bench.fill(series_payloads(4 * SLACK))
    worker = bench.worker(max_poll_records=16 * SLACK)
    before = {
        stage: value("offkey_stage_duration_seconds_count", stage=stage) for stage in ("scoring", "incidents")
    }
    worker.step()
    for stage, count in before.items():
        assert value("offkey_stage_duration_seconds_count", stage=stage) == count + 1


def test_promtool_accepts_them() -> None:
    if shutil.which("promtool") is None:
        pytest.skip("promtool is missing; it comes with Debian's package prometheus")
    drain(Bench().worker())
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=generate_latest(), capture_output=True, timeout=30
    )
    assert checked.returncode == 0, checked.stdout.decode() + checked.stderr.decode()
    assert checked.stderr == b""

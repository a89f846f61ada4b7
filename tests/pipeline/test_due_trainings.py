"""Which training is due: first models, intervals, cron, what was missed, clocks that go wrong, looks for drift."""

import json
from datetime import timedelta

import pytest
from prometheus_client import REGISTRY

from pipeline.due_trainings import Cause
from tests.scheduling import (
    AT,
    DRIFT,
    FAILED,
    FIRST,
    LOST,
    MISTAKE,
    NO_DRIFT,
    REFUSED,
    REQUEST,
    SCHEDULE,
    Bench,
    runs,
)


def test_the_first_model_is_tried_until_the_gate_takes_one() -> None:
    bench = Bench()
    scheduler, waits = bench.scheduler(), []
    scheduler.step()
    for ended in (FAILED, REFUSED, MISTAKE, LOST):
        before = len(bench.begun)
        assert bench.causes[-1] == FIRST
        bench.conclude(scheduler, ended)
        waited = 0
        while len(bench.begun) == before:
            bench.pass_time(seconds=10)
            waited += 10
            scheduler.step()
        waits.append(waited)
    assert waits == [60, 120, 240, 480]
    bench.conclude(scheduler)
    bench.pass_time(hours=2)
    scheduler.step()
    assert len(bench.begun) == 5


def test_a_stream_without_a_schedule_is_trained_on_request_only() -> None:
    bench = Bench({"machines": {}})
    scheduler = bench.scheduler()
    scheduler.step()
    assert not bench.begun
    bench.ask()
    scheduler.step()
    assert bench.causes == [REQUEST]


def test_an_interval_counts_from_the_promotion_and_then_from_itself() -> None:
    bench = Bench()
    bench.promote()
    scheduler = bench.scheduler()
    bench.pass_time(hours=23)
    scheduler.step()
    assert not bench.begun
    bench.pass_time(hours=1, minutes=5)
    scheduler.step()
    assert bench.causes == [SCHEDULE]
    bench.conclude(scheduler, REFUSED)
    bench.pass_time(hours=23, minutes=50)
    scheduler.step()
    assert len(bench.begun) == 1
    bench.pass_time(minutes=6)
    scheduler.step()
    assert len(bench.begun) == 2


def test_what_was_missed_is_made_once_and_what_is_too_late_is_not(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench({"machines": {"every": "1h", "misfire_grace": "3h"}})
    bench.promote()
    bench.pass_time(hours=2, minutes=30)
    scheduler = bench.scheduler()
    scheduler.step()
    bench.conclude(scheduler, REFUSED)
    scheduler.step()
    assert bench.causes == [SCHEDULE]
    daily = Bench({"machines": {"every": "24h"}})
    daily.promote()
    daily.pass_time(hours=31)
    before = runs("schedule", "missed")
    scheduler = daily.scheduler()
    scheduler.step()
    daily.pass_time(minutes=1)
    scheduler.step()
    assert not daily.begun
    assert runs("schedule", "missed") == before + 1
    assert [line for line in caplog.messages if "late" in line] == [
        "stream machines: no training for 2026-03-03T12:00:00+00:00: it is more than 6.0 h late "
        "(`retrain.misfire_grace`)"
    ]
    daily.pass_time(hours=17)
    scheduler.step()
    assert daily.causes == [SCHEDULE]


def test_another_scheduler_goes_on_from_what_was_handled() -> None:
    bench = Bench()
    bench.promote()
    bench.pass_time(hours=24, minutes=1)
    first = bench.scheduler()
    first.step()
    bench.conclude(first, REFUSED)
    bench.pass_time(seconds=30)
    first.step()
    first.source.close()
    second = bench.scheduler()
    second.step()
    assert len(bench.begun) == 1
    bench.pass_time(hours=24)
    second.step()
    assert bench.causes == [SCHEDULE, SCHEDULE]


def test_a_training_that_a_crash_cuts_off_is_made_again() -> None:
    bench = Bench()
    bench.promote()
    bench.pass_time(hours=24, minutes=1)
    first = bench.scheduler()
    first.step()
    first.source.close()
    bench.pass_time(hours=1)
    bench.scheduler().step()
    assert bench.causes == [SCHEDULE, SCHEDULE]


def test_a_clock_that_is_set_back_an_hour_repeats_nothing() -> None:
    for retrain in ({"every": "24h"}, {"cron": "30 12 * * *"}):
        bench = Bench({"machines": retrain})
        bench.promote()
        scheduler = bench.scheduler()
        bench.pass_time(hours=24, minutes=31)
        scheduler.step()
        bench.conclude(scheduler, REFUSED)
        bench.now -= timedelta(hours=1)
        for _ in range(23 * 12):
            bench.pass_time(minutes=5)
            scheduler.step()
            assert len(bench.begun) == 1
        bench.pass_time(hours=2, minutes=5)
        scheduler.step()
        assert len(bench.begun) == 2


def test_times_that_a_wrong_clock_has_handled_are_believed_no_more() -> None:
    bench = Bench()
    bench.now = AT + timedelta(days=3650)
    bench.promote()
    bench.pass_time(hours=25)
    scheduler = bench.scheduler()
    scheduler.step()
    bench.conclude(scheduler, REFUSED)
    bench.now = AT
    bench.pass_time(seconds=30)
    scheduler.step()
    scheduler.source.close()
    fresh = bench.scheduler()
    for _ in range(24):
        fresh.step()
        assert len(bench.begun) == 1
        bench.pass_time(hours=1)
    fresh.step()
    assert len(bench.begun) == 2


def test_drift_is_looked_for_once_a_block() -> None:
    bench = Bench({"machines": {"on_drift": True, "drift_block": "6h"}})
    bench.promote()
    scheduler = bench.scheduler()
    for _ in range(25):
        scheduler.step()
        if len(bench.begun) and bench.begun[-1].end is None:
            bench.conclude(scheduler, NO_DRIFT)
        bench.pass_time(hours=1)
    assert bench.causes == [DRIFT] * 4
    assert REGISTRY.get_sample_value("offkey_drift_probability", {"stream": "machines"}) == 0.4


def test_storage_that_is_away_is_told_once_and_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    bench.promote()
    bench.pass_time(hours=24, minutes=1)
    bench.storage.left = 0
    scheduler = bench.scheduler()
    for _ in range(60):
        scheduler.step()
        bench.pass_time(seconds=10)
    assert not bench.begun
    assert scheduler.trouble == "storage is away"
    bench.storage.left = float("inf")
    scheduler.step()
    assert bench.causes == [SCHEDULE]
    assert scheduler.trouble == ""
    assert [line for line in caplog.messages if "storage" in line] == [
        "stream machines: what is due is not known: storage is away; it is asked again"
    ]


def test_a_damaged_log_of_promotions_keeps_its_stream_from_training_and_no_other() -> None:
    bench = Bench({"machines": {"every": "24h"}, "payments": {"every": "24h"}})
    bench.promote()
    bench.storage.put("models/machines/promotions/00000001.json", b"{")
    scheduler = bench.scheduler()
    scheduler.step()
    assert bench.causes == [("payments", Cause.FIRST)]
    assert "damaged promotion" in scheduler.trouble


def test_a_note_of_what_was_handled_that_is_damaged_counts_for_nothing(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    bench.promote()
    bench.storage.put("schedule/machines.json", b"{")
    bench.pass_time(hours=25)
    bench.scheduler().step()
    assert bench.causes == [SCHEDULE]
    assert "schedule/machines.json: damaged" in caplog.text


@pytest.mark.parametrize("impossible", [2**53, -1])
def test_a_note_of_a_time_that_is_none_is_damaged(impossible: int, caplog: pytest.LogCaptureFixture) -> None:
    for key in ("planned_ms", "looked_ms"):
        bench = Bench({"machines": {"every": "24h", "on_drift": True}})
        bench.promote()
        times = {"planned_ms": 0, "looked_ms": 0, key: impossible}
        bench.storage.put("schedule/machines.json", json.dumps(times).encode())
        bench.pass_time(hours=25)
        bench.scheduler().step()
        assert bench.causes == [SCHEDULE]
        assert f"$.{key}" in caplog.messages[0]
        caplog.clear()

"""What a scheduler trains and when, who leads, and what becomes of what fails; all in memory, with set clocks."""

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import pytest
from prometheus_client import REGISTRY

from pipeline.due_trainings import Cause
from pipeline.errors import AssignmentLost, TransientError
from pipeline.protocols import PartitionRecords
from pipeline.scheduler import Scheduler
from pipeline.stopping import Stop
from pipeline.versions.log import Promotion
from tests.scheduling import AT, FAILED, LOST, MISTAKE, NO_DRIFT, PLACE, REFUSED, Bench

FIRST, SCHEDULE, DRIFT, REQUEST = (
    ("machines", cause) for cause in (Cause.FIRST, Cause.SCHEDULE, Cause.DRIFT, Cause.REQUEST)
)


def runs(cause: str, outcome: str, stream: str = "machines") -> float:
    labels = {"stream": stream, "cause": cause, "outcome": outcome}
    return REGISTRY.get_sample_value("offkey_retrain_runs_total", labels) or 0.0


def deal_anew(scheduler: Scheduler) -> None:
    """The group takes the partition from its owner, and gives it back before that looks."""
    for places in (frozenset(), frozenset([PLACE])):
        scheduler.source.assign(places)  # type: ignore[attr-defined]


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


def test_one_training_at_a_time_and_each_stream_has_its_turn() -> None:
    bench = Bench({"machines": {"every": "24h"}, "payments": {"every": "24h"}})
    scheduler = bench.scheduler()
    for _ in range(3):
        scheduler.step()
    assert len(bench.begun) == 1
    bench.conclude(scheduler, FAILED)
    scheduler.step()
    assert bench.causes == [("machines", Cause.FIRST), ("payments", Cause.FIRST)]


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


def test_a_training_that_takes_too_long_or_too_much_is_killed_and_tried_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = Bench({"machines": {"every": "24h", "max_time": "10 min", "max_memory": "1 MiB"}})
    bench.promote()
    bench.pass_time(hours=24, minutes=1)
    scheduler, before = bench.scheduler(), (runs("schedule", "time_limit"), runs("schedule", "memory_limit"))
    scheduler.step()
    bench.pass_time(minutes=10)
    scheduler.step()
    assert not bench.begun[0].killed
    bench.pass_time(seconds=1)
    scheduler.step()
    assert bench.begun[0].killed
    assert caplog.messages[-1] == (
        "stream machines: training (schedule): time_limit: it was killed after 601 s, for `retrain.max_time` is "
        "600 s; it is tried again in 5 min"
    )
    bench.pass_time(minutes=5)
    scheduler.step()
    bench.begun[1].memory = 1 << 20
    scheduler.step()
    assert not bench.begun[1].killed
    bench.begun[1].memory = (1 << 20) + 1
    scheduler.step()
    assert bench.begun[1].killed
    assert (runs("schedule", "time_limit"), runs("schedule", "memory_limit")) == (before[0] + 1, before[1] + 1)
    assert "it is tried again in 10 min" in caplog.messages[-1]


def test_what_fails_five_times_waits_for_its_next_time() -> None:
    bench = Bench()
    bench.promote()
    bench.pass_time(hours=24, minutes=1)
    scheduler = bench.scheduler()
    scheduler.step()
    for _ in range(5):
        bench.conclude(scheduler, FAILED)
        bench.pass_time(hours=1)
        scheduler.step()
    bench.pass_time(hours=5)
    scheduler.step()
    assert len(bench.begun) == 5
    bench.pass_time(hours=14)
    scheduler.step()
    assert len(bench.begun) == 6


def test_a_mistake_of_the_configuration_is_not_tried_again_before_its_next_time() -> None:
    bench = Bench()
    bench.promote()
    bench.pass_time(hours=24, minutes=1)
    scheduler = bench.scheduler()
    scheduler.step()
    bench.conclude(scheduler, MISTAKE)
    bench.pass_time(hours=2)
    scheduler.step()
    assert len(bench.begun) == 1


def test_without_room_for_a_process_it_is_told_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench({"machines": {}})
    bench.no_room = True
    bench.ask()
    scheduler = bench.scheduler()
    scheduler.step()
    assert "no process can be started (Resource temporarily unavailable); it is tried again" in caplog.messages[-1]
    bench.no_room = False
    bench.pass_time(minutes=5)
    scheduler.step()
    assert bench.causes == [REQUEST]


def test_requests_are_committed_when_they_are_done_and_survive_a_restart() -> None:
    bench = Bench({"machines": {}, "payments": {}})
    bench.ask("machines")
    bench.ask("payments")
    bench.ask("machines")
    first = bench.scheduler()
    first.step()
    assert bench.causes == [REQUEST]
    assert bench.committed == 0
    bench.ask("machines")
    first.step()
    bench.conclude(first, REFUSED)
    # The one that came while it ran asks for another; payments are next.
    assert bench.committed == 1
    assert bench.causes[-1] == ("payments", Cause.REQUEST)
    first.source.close()
    second = bench.scheduler()
    second.step()
    assert bench.causes[-1] == ("payments", Cause.REQUEST)
    bench.conclude(second, REFUSED)
    assert bench.causes[-1] == REQUEST
    bench.conclude(second)
    assert bench.committed == 4
    bench.pass_time(hours=1)
    second.step()
    assert len(bench.begun) == 4


def test_a_request_that_comes_during_a_training_asks_for_another() -> None:
    """What it asks for may have come after that one has read its history; further ones are the same request."""
    bench = Bench({"machines": {}})
    scheduler = bench.scheduler()
    bench.ask()
    scheduler.step()
    bench.ask()
    bench.ask()
    scheduler.step()
    for _ in range(2):
        bench.conclude(scheduler, REFUSED)
    scheduler.step()
    assert (bench.causes, bench.committed) == ([REQUEST, REQUEST], 3)


def test_a_request_that_fails_is_kept_until_it_is_given_up() -> None:
    bench = Bench({"machines": {}})
    bench.ask()
    scheduler = bench.scheduler()
    scheduler.step()
    for _ in range(4):
        bench.conclude(scheduler, FAILED)
        assert bench.committed == 0
        bench.pass_time(hours=1)
        scheduler.step()
    bench.conclude(scheduler, FAILED)
    assert (bench.committed, len(bench.begun)) == (1, 5)


def test_what_is_no_request_is_counted_told_and_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    def counted(outcome: str) -> float:
        return REGISTRY.get_sample_value("offkey_retrain_requests_total", {"outcome": outcome}) or 0.0

    before = {outcome: counted(outcome) for outcome in ("unreadable", "unknown", "taken")}
    bench = Bench({"machines": {}})
    for value in (None, b"\xff", b"{}", b'{"request":"stop","stream":"machines","asked_ms":1}'):
        bench.send(value)
    bench.ask("nobody")
    bench.ask()
    scheduler = bench.scheduler()
    scheduler.step()
    assert bench.causes == [REQUEST]
    assert {outcome: counted(outcome) - count for outcome, count in before.items()} == {
        "unreadable": 4,
        "unknown": 1,
        "taken": 1,
    }
    assert bench.committed == 5
    said = [line for line in caplog.messages if "passed over" in line]
    assert said[0].startswith("control/0@0: not a request (")
    assert said[3].startswith("control/0@3: a request for 'stop', which this version does not know; ")
    assert said[4] == "control/0@4: there is no stream 'nobody'; it is passed over"


def test_one_of_two_leads_and_the_other_takes_over() -> None:
    bench = Bench({"machines": {}})
    first, second = bench.scheduler(), bench.scheduler()
    bench.ask()
    for scheduler in (first, second):
        scheduler.step()
    assert (first.leads, second.leads, len(bench.begun)) == (True, False, 1)
    first.source.close()
    second.step()
    assert second.leads
    assert len(bench.begun) == 2


def test_a_training_is_killed_when_the_lead_is_lost() -> None:
    bench = Bench({"machines": {}})
    scheduler, before = bench.scheduler(), runs("request", "stopped")
    bench.ask()
    scheduler.step()
    bench.broker.members.clear()
    bench.scheduler()  # It has the partition now.
    scheduler.source.assign(frozenset())  # type: ignore[attr-defined]
    scheduler.step()
    assert bench.begun[0].killed
    assert not scheduler.leads
    assert runs("request", "stopped") == before + 1


def test_a_training_is_killed_when_the_loop_stood_still() -> None:
    """As after SIGSTOP and SIGCONT: somebody else may lead, and we are told later."""
    bench = Bench({"machines": {}})
    scheduler = bench.scheduler()
    scheduler.options = replace(scheduler.options, session_s=10)
    bench.ask()
    scheduler.step()
    bench.pass_time(seconds=10)
    scheduler.step()
    assert not bench.begun[0].killed
    bench.pass_time(seconds=11)
    scheduler.step()
    assert bench.begun[0].killed
    assert len(bench.begun) == 2, "still a member, as the commit says: it begins anew"


def test_what_had_ended_when_the_loop_went_on_is_counted_as_what_it_was_and_not_handled() -> None:
    bench = Bench({"machines": {}})
    scheduler, before = bench.scheduler(), runs("request", "lost")
    scheduler.options = replace(scheduler.options, session_s=10)
    bench.ask()
    scheduler.step()
    bench.begun[0].end = LOST
    polled = scheduler.source.poll

    def stopped_while_polling(timeout_s: float) -> Sequence[PartitionRecords]:
        bench.pass_time(seconds=11)
        return polled(timeout_s)

    scheduler.source.poll = stopped_while_polling  # type: ignore[method-assign]
    scheduler.step()
    assert runs("request", "lost") == before + 1
    assert (len(bench.begun), bench.committed) == (2, 0)


def test_nothing_begins_before_the_group_has_taken_a_commit(caplog: pytest.LogCaptureFixture) -> None:
    """It believes to lead, and does not."""
    bench = Bench({"machines": {}})
    scheduler = bench.scheduler()
    scheduler.step()
    bench.ask()
    bench.broker.members.clear()
    with pytest.raises(AssignmentLost):
        scheduler.step()
    assert not bench.begun
    assert not scheduler.leads


def test_a_training_is_killed_when_the_coordinator_is_silent_for_too_long() -> None:
    bench = Bench({"machines": {}})
    scheduler = bench.scheduler()
    scheduler.options = replace(scheduler.options, session_s=10)
    bench.ask()
    scheduler.step()
    bench.broker.members.clear()
    for _ in range(3):
        bench.pass_time(seconds=5)
        scheduler.step()
    assert bench.begun[0].killed
    assert not scheduler.leads


def test_the_lead_comes_back_with_the_coordinator() -> None:
    """The group may never have missed us, so nothing is gained."""
    bench = Bench({"machines": {}})
    scheduler = bench.scheduler()
    scheduler.options = replace(scheduler.options, session_s=10)
    bench.ask()
    scheduler.step()
    members = bench.broker.members.copy()
    bench.broker.members.clear()
    for _ in range(4):
        bench.pass_time(seconds=5)
        scheduler.step()
    assert not scheduler.leads
    bench.broker.members.extend(members)
    scheduler.step()
    assert scheduler.leads
    assert bench.causes == [REQUEST, REQUEST]
    bench.conclude(scheduler, REFUSED)
    assert bench.committed == 1


def test_the_lead_does_not_come_back_with_the_coordinator_where_another_has_it() -> None:
    bench = Bench({"machines": {}})
    scheduler = bench.scheduler()
    scheduler.options = replace(scheduler.options, session_s=10)
    scheduler.step()
    members = bench.broker.members.copy()
    bench.broker.members.clear()
    for _ in range(4):
        bench.pass_time(seconds=5)
        scheduler.step()
    scheduler.source.assign(frozenset())  # type: ignore[attr-defined]
    bench.broker.members.extend(members)
    bench.ask()
    for _ in range(2):
        scheduler.step()
    assert not scheduler.leads
    assert not bench.begun


def test_a_look_that_takes_long_costs_no_training() -> None:
    """Of storage that is slow; the commit says that the group still counts on us."""
    bench = Bench()
    scheduler, champion = bench.scheduler(), bench.registry.champion
    scheduler.options = replace(scheduler.options, session_s=10)

    def slowly(stream: str) -> Promotion | None:
        bench.pass_time(seconds=11)
        return champion(stream)

    bench.registry.champion = slowly  # type: ignore[method-assign]
    scheduler.step()
    assert bench.causes == [FIRST]
    scheduler.step()
    assert not bench.begun[0].killed


def test_a_training_goes_on_where_the_partition_is_dealt_anew_and_to_us_again() -> None:
    bench = Bench({"machines": {}})
    scheduler = bench.scheduler()
    bench.ask()
    scheduler.step()
    bench.conclude(scheduler, FAILED)
    bench.pass_time(minutes=5)
    scheduler.step()
    assert bench.causes == [REQUEST, REQUEST]
    standby = bench.scheduler()
    for leaves in (False, True):
        if leaves:
            standby.source.close()
        deal_anew(scheduler)
        scheduler.step()
        assert not bench.begun[1].killed
    bench.ask()
    scheduler.step()
    assert scheduler.facts()["requests"] == 2, "the partition is read on, and nothing twice"
    bench.conclude(scheduler, FAILED)
    bench.pass_time(minutes=9)
    scheduler.step()
    assert len(bench.begun) == 2, "its second try has failed, so it waits for ten minutes"
    bench.pass_time(minutes=1)
    scheduler.step()
    bench.conclude(scheduler, REFUSED)
    scheduler.step()
    assert (len(bench.begun), bench.committed) == (3, 2)


def test_a_training_is_given_up_where_what_is_dealt_anew_is_no_more_the_same_topic() -> None:
    bench = Bench({"machines": {}})
    scheduler = bench.scheduler()
    bench.ask()
    scheduler.step()
    bench.broker.create_topic(PLACE.topic)
    deal_anew(scheduler)
    scheduler.step()
    assert bench.begun[0].killed
    bench.ask()
    scheduler.step()
    assert len(bench.begun) == 2


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


def test_a_stop_gives_the_training_up_and_the_request_stays() -> None:
    bench = Bench({"machines": {}})
    scheduler, stop = bench.scheduler(), Stop(1.0)
    bench.ask()
    step = scheduler.step

    def one_turn() -> None:
        step()
        stop.set()

    scheduler.step = one_turn  # type: ignore[method-assign]
    scheduler.run(stop)
    assert bench.begun[0].killed
    assert bench.committed == 0


def test_a_broker_that_stays_away_ends_it_and_its_training() -> None:
    bench = Bench({"machines": {}})
    scheduler, stop = bench.scheduler(), Stop(1.0)
    bench.ask()
    scheduler.step()
    scheduler.options = replace(scheduler.options, retry_deadline_s=-1)

    def away(timeout_s: float) -> None:
        raise TransientError("the broker is away")

    scheduler.source.poll = away  # type: ignore[assignment, method-assign]
    bench.passed_s += 1
    with pytest.raises(TransientError, match="the broker is away"):
        scheduler.run(stop)
    assert bench.begun[0].killed


def test_requests_that_expired_are_told_and_the_rest_is_read(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench({"machines": {}})
    bench.broker.committed[PLACE] = 7
    bench.ask()
    scheduler = bench.scheduler()
    scheduler.step()
    assert bench.causes == [REQUEST]
    assert "the topic was made anew" in caplog.text


def test_the_log_says_what_a_training_came_to(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench({"machines": {}})
    bench.ask()
    scheduler = bench.scheduler()
    with caplog.at_level(logging.INFO, "pipeline"):
        scheduler.step()
        bench.conclude(scheduler, REFUSED)
    assert "stream machines: training (request): refused: not better" in caplog.messages
    assert scheduler.facts() == {"streams": ["machines"], "leader": True, "training": None, "requests": 0}

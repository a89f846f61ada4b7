"""Who leads, and what becomes of a training that fails, takes too much, or is begun in vain; with set clocks."""

import inspect
import logging
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from pipeline import training_result
from pipeline.due_trainings import Cause
from pipeline.errors import AssignmentLost, TransientError
from pipeline.protocols import PartitionRecords
from pipeline.scheduler import Scheduler
from pipeline.stopping import Stop
from pipeline.training_process import Ended
from pipeline.training_result import FAULTS, label_of
from pipeline.versions.log import Promotion
from tests.scheduling import FAILED, FIRST, LOST, MISTAKE, PLACE, REFUSED, REQUEST, Bench, runs


def deal_anew(scheduler: Scheduler) -> None:
    """The group takes the partition from its owner, and gives it back before that looks."""
    for places in (frozenset(), frozenset([PLACE])):
        scheduler.source.assign(places)  # type: ignore[attr-defined]


def test_one_training_at_a_time_and_each_stream_has_its_turn() -> None:
    bench = Bench({"machines": {"every": "24h"}, "payments": {"every": "24h"}})
    scheduler = bench.scheduler()
    for _ in range(3):
        scheduler.step()
    assert len(bench.begun) == 1
    bench.conclude(scheduler, FAILED)
    scheduler.step()
    assert bench.causes == [("machines", Cause.FIRST), ("payments", Cause.FIRST)]


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
    scheduler = bench.scheduler(session_s=10)
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
    scheduler, before = bench.scheduler(session_s=10), runs("request", "lost")
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
    scheduler = bench.scheduler(session_s=10)
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
    scheduler = bench.scheduler(session_s=10)
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
    scheduler = bench.scheduler(session_s=10)
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
    scheduler, champion = bench.scheduler(session_s=10), bench.registry.champion

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


def test_the_log_says_what_a_training_came_to(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench({"machines": {}})
    bench.ask()
    scheduler = bench.scheduler()
    with caplog.at_level(logging.INFO, "pipeline"):
        scheduler.step()
        bench.conclude(scheduler, REFUSED)
    assert "stream machines: training (request): refused: not better" in caplog.messages
    assert scheduler.facts() == {"streams": ["machines"], "leader": True, "training": None, "requests": 0}


def test_why_the_gate_refuses_is_counted() -> None:
    def counted() -> dict[str, float]:
        labels = {fault: {"stream": "machines", "reason": label_of(fault)} for fault in FAULTS}
        return {
            fault: REGISTRY.get_sample_value("offkey_retrain_refused_total", each) or 0.0
            for fault, each in labels.items()
        }

    bench = Bench()
    bench.promote()
    scheduler = bench.scheduler()
    bench.ask()
    scheduler.step()
    scheduler.step()
    before = counted()
    reasons = ["worse: it misses 9 anomalies", "worse: flat found, 9 lost", "not calibrated: alarmed for 20%"]
    bench.conclude(scheduler, Ended(0, {"version": None, "verdict": {"accepted": False, "reasons": reasons}}, ""))
    rose = {fault: number - before[fault] for fault, number in counted().items()}
    assert rose == {"not sound": 0, "not calibrated": 1, "blind": 0, "worse": 1, "not better": 0}


def test_every_reason_of_the_gate_is_one_that_is_counted() -> None:
    source = Path(inspect.getfile(training_result)).with_name("gate.py").read_text()
    # What is not compared is told in the table, and refuses nothing.
    assert set(re.findall(r'"([a-z][a-z ]*): ', source)) - {"not compared"} == set(FAULTS)

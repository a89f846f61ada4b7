"""Requests to a scheduler: each is done or given up once, whoever leads; what is no request is passed over."""

import pytest
from prometheus_client import REGISTRY

from pipeline.due_trainings import Cause
from tests.scheduling import FAILED, PLACE, REFUSED, REQUEST, Bench


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


def test_requests_that_expired_are_told_and_the_rest_is_read(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench({"machines": {}})
    bench.broker.committed[PLACE] = 7
    bench.ask()
    scheduler = bench.scheduler()
    scheduler.step()
    assert bench.causes == [REQUEST]
    assert "the topic was made anew" in caplog.text

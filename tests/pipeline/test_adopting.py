"""A model is swapped between two records: which one judges what, whatever ends or fails meanwhile."""

import threading
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pipeline.adopting import Adopting
from pipeline.adoptions import Adoption
from pipeline.connectors.memory import MemoryAdoptions, MemorySource
from pipeline.errors import AssignmentLost, TransientError
from pipeline.protocols import TopicPartition
from pipeline.stream import Lane
from pipeline.worker import Worker
from tests.pipeline.test_worker import by_id
from tests.sabotage import Countdown, Killed, Saboteur
from tests.streams import (
    VERSIONS,
    Bench,
    bench_options,
    counted,
    drain,
    series_payloads,
    state_of,
)

PLACES = [TopicPartition("metrics", 0), TopicPartition("metrics", 1)]
POINTS = 200


def machines(worker: Worker) -> Lane:
    return next(lane for lane in worker.lanes if lane.name == "machines")


def promote(worker: Worker, version: str) -> None:
    """Put a version into the slot, as the watcher does."""
    slot = machines(worker).slot
    slot.champion = slot.of(version)


def swapped(bench: Bench, worker: Worker, after: int = 3, version: str = "v2") -> None:
    """Work to the end, with a new champion after so many steps."""
    for _ in range(after):
        worker.step()
    promote(worker, version)
    drain(worker)


def filled(**options: Any) -> Bench:
    bench = Bench(options=bench_options(checkpoint_every_s=0), **options)
    bench.fill(series_payloads(POINTS))
    return bench


def worker_of(bench: Bench, version: str = "v1", **options: Any) -> Worker:
    return bench.worker(version=version, architecture="vanilla", others=VERSIONS, **options)


def undisturbed(bench: Bench) -> list[dict[str, Any]]:
    """Return the alerts of a run that nothing happens to, given the adoptions that a disturbed one has written."""
    twin = filled(partitions=bench.partitions, exactly_once=bench.exactly_once)
    twin.adoptions.storage.objects = dict(bench.adoptions.storage.objects)
    drain(worker_of(twin, bench.adopted(PLACES[0])[-1].version, max_poll_records=400))
    return twin.alerts()


def test_records_before_the_first_offset_are_judged_by_the_old_model_and_those_after_by_the_new() -> None:
    bench = filled()
    swapped(bench, worker_of(bench, max_poll_records=70), after=3)
    last = {place.partition: bench.adopted(place)[-1] for place in PLACES}
    assert [last[number].version for number in (0, 1)] == ["v2", "v2"]
    assert [last[number].first_offset for number in (0, 1)] == [350, 0]
    versions = {
        (alert["offset"] >= last[alert["partition"]].first_offset, alert["model_version"])
        for alert in bench.alerts()
    }
    assert versions == {(False, "v1"), (True, "v2")}


@pytest.mark.parametrize("max_poll_records", [1, 13, 4000])
def test_polls_do_not_matter_to_a_run_that_is_given_the_log(max_poll_records: int) -> None:
    bench = filled(partitions=1)
    swapped(bench, worker_of(bench, max_poll_records=70), after=5)
    assert bench.adopted(PLACES[0])[-1].first_offset == 490
    twin = filled(partitions=1)
    twin.adoptions.storage.objects = dict(bench.adoptions.storage.objects)
    drain(worker_of(twin, "v2", max_poll_records=max_poll_records))
    assert sorted(twin.alerts(), key=by_id) == sorted(bench.alerts(), key=by_id)
    states = [each.checkpoints.newest("machines", PLACES[0], 10**9) for each in (bench, twin)]
    assert [(state.next_offset, state.model_version) for state in states if state] == [(800, "v2")] * 2
    first, second = (state_of(state, others=VERSIONS, version="v2") for state in states if state)
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


@pytest.mark.parametrize("exactly_once", [False, True])
def test_a_worker_killed_anywhere_around_a_swap_publishes_what_its_log_says(exactly_once: bool) -> None:
    """The alerts are those of a run that nothing happens to, given the log that is left."""
    kill_at, seen, versions = 1, set[str](), set[str]()
    while True:
        bench, countdown = filled(exactly_once=exactly_once, partitions=1), Countdown(kill_at)
        first = worker_of(bench, wrap=Saboteur(countdown).wrap, max_poll_records=150)
        with suppress(Killed):
            swapped(bench, first, after=2)
        if countdown.left > 0:
            break
        seen.add(countdown.last)
        bench.broker.members.clear()
        # The one after it was started when v2 was the champion already.
        drain(worker_of(bench, "v2", max_poll_records=350))
        found, expected = bench.alerts(), undisturbed(bench)
        if exactly_once:
            assert sorted(found, key=by_id) == sorted(expected, key=by_id), countdown.last
        else:
            # Nor is any of those that were told twice of another version.
            by_name = {a["id"]: a for a in expected}
            assert {a["id"] for a in found} == by_name.keys(), countdown.last
            assert found == [by_name[a["id"]] for a in found], countdown.last
        versions |= {alert["model_version"] for alert in found}
        kill_at += 3
    assert versions == {"v1", "v2"}
    assert {step.split()[0] for step in seen} == {"before", "after"}
    assert len(seen) >= 10


def test_a_rollback_is_a_swap_like_another() -> None:
    bench = filled(partitions=1)
    worker = worker_of(bench, max_poll_records=40)
    for version in ("v2", "v1"):
        for _ in range(5):
            worker.step()
        promote(worker, version)
    drain(worker)
    versions = [entry.version for entry in bench.adopted(PLACES[0])]
    assert versions == ["v1", "v2", "v1"]
    assert {a["id"]: a for a in bench.alerts()} == {a["id"]: a for a in undisturbed(bench)}


def test_a_restart_goes_on_with_the_version_of_the_log_and_adopts_the_champion_behind_what_is_published() -> None:
    bench = filled(partitions=1)
    first = worker_of(bench, max_poll_records=100)
    first.step()
    first.step()
    bench.broker.members.clear()
    second = worker_of(bench, "v2", max_poll_records=100)
    drain(second)
    begun, taken_over, adopted = bench.adopted(PLACES[0])
    committed, most_of_a_poll = 200, 200
    assert (begun.version, begun.first_offset) == ("v1", 0)
    assert (taken_over.version, taken_over.first_offset) == ("v1", committed)
    assert (adopted.version, adopted.first_offset) == ("v2", committed + most_of_a_poll)
    assert begun.run != taken_over.run == adopted.run


@pytest.mark.parametrize("error", [Killed("commit"), TransientError("the broker is away")])
def test_what_was_published_and_not_committed_is_judged_again_by_the_same_version(
    error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else an incident that one version has told of would never end, where the next one does not see it."""
    bench = filled(partitions=1)
    first = worker_of(bench, max_poll_records=100)
    commit, committed = first.source.commit, bench.broker.committed

    def ends_once_alerts_are_out(offsets: Any) -> None:
        if any(alert["offset"] >= committed[PLACES[0]] for alert in bench.alerts()):
            raise error
        commit(offsets)

    with monkeypatch.context() as patch, suppress(type(error)):
        patch.setattr(first.source, "commit", ends_once_alerts_are_out)
        drain(first)
    told, begun = bench.alerts(), committed[PLACES[0]]
    if isinstance(error, Killed):
        bench.broker.members.clear()
        drain(worker_of(bench, "v2", max_poll_records=100))
    else:
        promote(first, "v2")
        drain(first)
    *before, last = bench.adopted(PLACES[0])
    assert {entry.version for entry in before} == {"v1"}
    assert (last.version, last.first_offset) == ("v2", begun + 200)
    again = {alert["id"]: alert for alert in bench.alerts()[len(told) :]}
    twice = [alert for alert in told if alert["offset"] >= begun]
    assert twice
    assert twice == [again[alert["id"]] for alert in twice]


class Failing(MemoryAdoptions):
    """Storage that takes no entries while it is told so."""

    def __init__(self, error: type[Exception] = TransientError) -> None:
        super().__init__()
        self.error, self.fails, self.failed = error, False, 0

    def write(self, stream: str, partition: TopicPartition, topic_id: str, adoption: Adoption) -> bool:
        if self.fails:
            self.failed += 1
            raise self.error("storage is full")
        return super().write(stream, partition, topic_id, adoption)


def test_where_storage_takes_no_adoption_the_old_model_goes_on_and_the_swap_waits(
    caplog: pytest.LogCaptureFixture,
) -> None:
    adoptions, before = Failing(), counted("offkey_model_adoptions_failed_total")
    bench = filled(partitions=1, adoptions=adoptions)
    now_s = [0.0]
    worker = replace_clock(worker_of(bench, max_poll_records=40), now_s)
    worker.step()
    adoptions.fails = True
    promote(worker, "v2")
    for _ in range(4):
        worker.step()
    assert adoptions.failed == 1
    assert counted("offkey_model_adoptions_failed_total") - before == 1
    assert "metrics/0: goes on with model v1 and adopts v2 later: storage is full" in caplog.text
    assert worker.partitions.adopting.version(PLACES[0]) == "v1"
    adoptions.fails, now_s[0] = False, 60.0
    drain(worker)
    assert worker.partitions.adopting.version(PLACES[0]) == "v2"
    assert {a["id"]: a for a in bench.alerts()} == {a["id"]: a for a in undisturbed(bench)}


def test_a_worker_that_cannot_say_that_it_takes_over_leaves_no_hole_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    adoptions = Failing()
    bench = filled(partitions=1, adoptions=adoptions)
    worker_of(bench, max_poll_records=40).step()
    bench.broker.members.clear()
    adoptions.fails, now_s = True, [0.0]
    second = replace_clock(worker_of(bench, "v2", max_poll_records=40), now_s)
    second.partitions.follow_assignment()
    assert "metrics/0: is taken over, but no entry says so yet: storage is full" in caplog.text
    adoptions.fails, now_s[0] = False, 60.0
    drain(second)
    # What was not said at first is said later: the number is taken that the owner before could still use.
    assert [(entry.number, entry.version) for entry in bench.adopted(PLACES[0])] == [(2, "v1"), (3, "v2")]
    assert {a["id"]: a for a in bench.alerts()} == {a["id"]: a for a in undisturbed(bench)}


def replace_clock(worker: Worker, now_s: list[float]) -> Worker:
    return replace(worker, clock=lambda: now_s[0])


class Slow(MemoryAdoptions):
    """Storage that answers when it is let, and has taken what it was given by then."""

    def __init__(self) -> None:
        super().__init__()
        self.let, self.slow = threading.Event(), False

    def write(self, stream: str, partition: TopicPartition, topic_id: str, adoption: Adoption) -> bool:
        if self.slow:
            self.let.wait(30)
        return super().write(stream, partition, topic_id, adoption)


def test_an_entry_that_comes_to_storage_after_it_was_given_up_is_taken_back(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Records were judged by the old model meanwhile, and the log says so in the end."""
    monkeypatch.setattr("pipeline.adopting._PATIENCE_S", 0.05)
    adoptions, now_s = Slow(), [0.0]
    bench = filled(partitions=1, adoptions=adoptions)
    worker = replace_clock(worker_of(bench, max_poll_records=100), now_s)
    worker.step()
    adoptions.slow = True
    promote(worker, "v2")
    for _ in range(4):
        worker.step()
        now_s[0] += 20
    assert "metrics/0: goes on with model v1 and adopts v2 later: storage has not answered" in caplog.text
    assert [thread.name for thread in threading.enumerate()].count("adoption") == 1, "one hangs, and none is tried"
    adoptions.slow = False
    adoptions.let.set()
    now_s[0] += 60
    drain(worker)
    *before, last = [(entry.version, entry.first_offset) for entry in bench.adopted(PLACES[0])]
    assert before == [("v1", 0), ("v2", 300), ("v1", 300)]
    assert last[0] == "v2"
    assert last[1] > 500
    assert {a["id"]: a for a in bench.alerts()} == {a["id"]: a for a in undisturbed(bench)}


def test_an_owner_that_was_asleep_adopts_nothing_once_another_has_taken_over() -> None:
    bench = filled(partitions=1)
    asleep = Adopting({"metrics": machines(worker_of(bench))}, bench.adoptions)
    topic_id = bench.broker.topic_id("metrics")
    asleep.take_over(PLACES[0], topic_id, 0, 0, None)
    bench.broker.members.clear()
    drain(worker_of(bench))
    slot = asleep._lane_of["metrics"].slot
    slot.champion = slot.of("v2")
    asleep.go_on({PLACES[0]: 0}, {})
    assert asleep._flights[PLACES[0]].landed(5)
    with pytest.raises(AssignmentLost, match="metrics/0: another worker has taken it over"):
        asleep.go_on({PLACES[0]: 0}, {})
    assert {entry.version for entry in bench.adopted(PLACES[0])} == {"v1"}


class Taken(MemoryAdoptions):
    """Logs in which another worker has always been first to adopt v2."""

    def write(self, stream: str, partition: TopicPartition, topic_id: str, adoption: Adoption) -> bool:
        return adoption.version != "v2" and super().write(stream, partition, topic_id, adoption)


def test_who_learns_amid_a_poll_that_it_was_asleep_forgets_all_and_joins_again() -> None:
    """The records that wait for the entry bring the news, and not the next turn of the loop."""
    bench = filled(partitions=1, adoptions=Taken())
    awake = worker_of(bench, max_poll_records=1)
    awake.step()
    promote(awake, "v2")
    assert isinstance(awake.source, MemorySource)
    awake.source._max_poll_records = 100
    with pytest.raises(AssignmentLost, match="metrics/0: another worker has taken it over"):
        awake.step()
    assert awake.partitions.progress == {}


def test_a_version_that_cannot_be_had_any_more_is_replaced_in_a_replay(caplog: pytest.LogCaptureFixture) -> None:
    bench = filled(partitions=1)
    first = worker_of(bench, max_poll_records=100)
    first.step()
    bench.broker.members.clear()
    second = bench.worker(version="v2", others={})
    drain(second)
    assert "stream machines: what was judged by model v1 goes on with v2" in caplog.text
    assert "there is no such version" in caplog.text
    assert bench.adopted(PLACES[0])[-1].version == "v2"
    assert sum(len(records) for records in bench.broker.topics["metrics"]) == bench.broker.committed[PLACES[0]]

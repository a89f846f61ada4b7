"""The worker on in-memory twins: what it publishes, and what is left of it after a crash anywhere."""

import json
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from pipeline.connectors.memory import MemoryPublisher, MemorySource
from pipeline.errors import AssignmentLost, DeliveryError, RecordError, TransientError
from pipeline.protocols import Assignment, TopicPartition
from pipeline.stopping import Stop
from tests.sabotage import Countdown, Killed, Saboteur
from tests.streams import (
    BEGIN_MS,
    SERIES,
    Bench,
    bench_options,
    counted,
    drain,
    feature_payloads,
    lanes,
    series_payloads,
)


@pytest.fixture(scope="module")
def undisturbed() -> list[dict[str, Any]]:
    bench = Bench()
    bench.fill(series_payloads(), feature_payloads())
    drain(bench.worker())
    return bench.alerts()


def test_spikes_become_incidents(undisturbed: list[dict[str, Any]]) -> None:
    opened = [alert for alert in undisturbed if alert["state"] == "opened" and alert["stream"] == "machines"]
    at = {(alert["series"], (alert["event_ms"] - BEGIN_MS) // 60_000 - 600) for alert in opened}
    assert {("a", 60), ("a", 140), ("b", 100), ("new", 150)} <= at
    assert len(at) <= 6
    assert {alert["state"] for alert in undisturbed} >= {"opened", "resolved"}
    for alert in undisturbed:
        assert sum(view["share"] for view in alert["features"].values()) == pytest.approx(1, abs=0.001)
    payments = {alert["offset"] for alert in undisturbed if alert["stream"] == "payments"}
    assert {50, 51, 300} <= payments
    assert len(payments) <= 6


@pytest.mark.parametrize("max_poll_records", [1, 13, 4000])
def test_polls_do_not_matter(undisturbed: list[dict[str, Any]], max_poll_records: int) -> None:
    bench = Bench()
    bench.fill(series_payloads(), feature_payloads())
    drain(bench.worker(max_poll_records=max_poll_records))

    assert sorted(bench.alerts(), key=by_id) == sorted(undisturbed, key=by_id)


def killed_at_every_call(exactly_once: bool) -> Iterator[tuple[str, Bench]]:
    """Kill at every call of every protocol in turn; a new worker on the same broker and storage goes on."""
    kill_at = 1
    while True:
        bench = Bench(exactly_once=exactly_once)
        bench.options = bench_options(checkpoint_every_s=0)
        bench.fill([*series_payloads(), (b"b", b"nonsense")], feature_payloads())
        countdown = Countdown(kill_at)
        first = bench.worker(Saboteur(countdown).wrap, max_poll_records=500)
        try:
            drain(first)
        except Killed:
            pass
        else:
            return
        bench.broker.members.clear()
        drain(bench.worker(max_poll_records=350))
        yield countdown.last, bench
        kill_at += 1


CALLS = ("poll", "send", "finish", "settle", "write", "start", "committed", "assignment", "lag")


def test_a_worker_killed_anywhere_loses_no_alert(undisturbed: list[dict[str, Any]]) -> None:
    expected = {alert["id"]: alert for alert in undisturbed}
    seen: set[str] = set()
    for step, bench in killed_at_every_call(exactly_once=False):
        seen.add(step)
        assert {alert["id"]: alert for alert in bench.alerts()} == expected, f"killed {step}"
        assert {letter.value for letter in bench.broker.records("dead")} == {b"nonsense"}
    assert seen >= {f"{when} {call}" for call in (*CALLS, "flush", "commit") for when in ("before", "after")}


def by_id(alert: dict[str, Any]) -> str:
    return str(alert["id"])


def test_exactly_once_a_worker_killed_anywhere_leaves_the_same_list(undisturbed: list[dict[str, Any]]) -> None:
    expected = sorted(undisturbed, key=by_id)
    seen: set[str] = set()
    for step, bench in killed_at_every_call(exactly_once=True):
        seen.add(step)
        assert sorted(bench.alerts(), key=by_id) == expected, f"killed {step}"
        assert [letter.value for letter in bench.broker.records("dead")] == [b"nonsense"]
    assert seen >= {f"{when} {call}" for call in CALLS for when in ("before", "after")}


def test_replayed_records_are_not_published_again(undisturbed: list[dict[str, Any]]) -> None:
    bench = Bench()
    bench.options = bench_options(checkpoint_every_s=1e9)
    bench.fill(series_payloads(), feature_payloads())
    first = bench.worker()
    for _ in range(6):
        first.step()
    bench.broker.members.clear()  # Gone without a checkpoint later than the one of its birth.
    drain(bench.worker())
    published = [alert["id"] for alert in bench.alerts()]
    assert len(published) == len(set(published))
    assert set(published) == {alert["id"] for alert in undisturbed}


def test_rebalances_move_state_along(undisturbed: list[dict[str, Any]]) -> None:
    bench = Bench()
    bench.options = bench_options(checkpoint_every_s=1e9)
    bench.fill(series_payloads(), feature_payloads())
    one = bench.worker(max_poll_records=60)
    for _ in range(5):
        one.step()
    two = bench.worker(max_poll_records=45)
    for _ in range(4):
        one.step()
        two.step()
    one.source.close()
    drain(two)
    by_id = {alert["id"]: alert for alert in bench.alerts()}
    assert by_id == {alert["id"]: alert for alert in undisturbed}


def around(kind: type[Any], wrapper: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Wrap one kind of what a worker talks to."""
    return lambda part: wrapper(part) if isinstance(part, kind) else part


class Refusing:
    """A publisher whose flush fails some times."""

    def __init__(self, publisher: Any, failures: int) -> None:
        self._publisher, self._failures = publisher, failures
        self.send, self.close = publisher.send, publisher.close

    def flush(self, timeout_s: float) -> None:
        if self._failures:
            self._failures -= 1
            self._publisher._sent.clear()
            raise DeliveryError("not confirmed")
        self._publisher.flush(timeout_s)


def test_a_failed_delivery_is_repeated_from_the_committed_offset(undisturbed: list[dict[str, Any]]) -> None:
    bench = Bench()
    bench.fill(series_payloads(), feature_payloads())
    worker = bench.worker(around(MemoryPublisher, lambda publisher: Refusing(publisher, 3)))
    failures = 0
    idle = 0
    while idle < 3:
        try:
            idle = idle + 1 if worker.step() == 0 else 0
        except TransientError:
            failures += 1
    assert failures == 3
    assert {alert["id"] for alert in bench.alerts()} == {alert["id"] for alert in undisturbed}


def test_the_worker_ends_when_the_outside_stays_away() -> None:
    bench = Bench()
    bench.fill(series_payloads())
    now_s = iter(range(0, 10_000, 25))
    worker = bench.worker(around(MemoryPublisher, lambda publisher: Refusing(publisher, 10**6)))
    worker.clock = lambda: float(next(now_s))

    class Impatient(Stop):
        def wait(self, timeout: float | None = None) -> bool:
            return False

    with pytest.raises(DeliveryError):
        worker.run(Impatient())


def test_bad_records_are_dead_lettered_once_and_their_neighbours_scored() -> None:
    bench = Bench(partitions=1)
    good = series_payloads(120)
    bad = [(b"a", b"nonsense"), (b"a", None), (b"a", b'{"ts": 1, "cpu": NaN, "mem": 1}'), (None, good[0][1])]
    mixed = list(good)
    for place, item in zip((400, 300, 200, 100), reversed(bad), strict=True):
        mixed.insert(place, item)
    bench.fill(mixed)
    drain(bench.worker())
    assert [letter.value for letter in bench.broker.records("dead")] == [value for _, value in bad]
    clean = Bench(partitions=1)
    clean.fill(good)
    drain(clean.worker())
    strip = ("id", "incident", "offset")
    assert [{k: v for k, v in a.items() if k not in strip} for a in bench.alerts()] == [
        {k: v for k, v in a.items() if k not in strip} for a in clean.alerts()
    ]


def test_too_many_rejects_in_a_row_stop_the_worker_with_nothing_committed() -> None:
    bench = Bench(partitions=1)
    bench.options = bench_options(max_rejects_in_a_row=50)
    bench.fill([(b"a", b"{}")] * 80)
    worker = bench.worker(max_poll_records=30)
    with pytest.raises(RecordError, match=r"metrics/0@50 \(missing_field"):
        drain(worker)
    assert bench.broker.committed[TopicPartition("metrics", 0)] == 30
    assert len(bench.broker.records("dead")) == 30


def test_a_record_too_large_to_dead_letter_stops_the_worker() -> None:
    bench = Bench(partitions=1)
    bench.fill([(b"a", b"x" * 5_000_000)])
    with pytest.raises(RecordError, match="metrics/0@0: 5000001 bytes are more than topic dead takes"):
        drain(bench.worker())
    assert bench.broker.committed[TopicPartition("metrics", 0)] == 0


def test_a_late_record_is_counted_and_left_out() -> None:
    bench = Bench(partitions=1)
    good = series_payloads(100)
    bench.fill([*good, *good[:7], *good[-4:]])
    before = counted("offkey_records_late_total")
    drain(bench.worker())
    assert counted("offkey_records_late_total") - before == 11
    assert bench.broker.records("dead") == []
    clean = Bench(partitions=1)
    clean.fill(good)
    drain(clean.worker())
    assert bench.alerts() == clean.alerts() != []
    assert bench.broker.committed[TopicPartition("metrics", 0)] == 411


def test_held_points_never_alert() -> None:
    holding = SERIES.model_copy(update={"missing": "hold"})
    bench = Bench(partitions=1)
    payloads = [item for item in series_payloads(80) if item[0] == b"a"]
    last = json.loads(payloads[-1][1] or b"")
    for gap in range(1, 8):
        payloads.append((b"a", json.dumps({"ts": last["ts"] + gap * 60_000, "cpu": None, "mem": 500}).encode()))
    bench.fill(payloads)
    drain(bench.worker(series=holding))
    assert max(alert["event_ms"] for alert in bench.alerts()) <= last["ts"]
    assert len(bench.broker.records("dead")) == 2  # The sixth and seventh in a row.


def test_run_checkpoints_at_the_end() -> None:
    bench = Bench()
    bench.fill(series_payloads(30), feature_payloads())
    worker = bench.worker()
    stop = Stop()
    steps = iter(range(20))
    step = worker.step

    def counted() -> int:
        if next(steps, None) == 3:
            stop.set()
        return step()

    worker.step = counted  # type: ignore[method-assign]
    worker.run(stop)
    newest = bench.checkpoints.newest("machines", TopicPartition("metrics", 0), 10**9)
    assert newest is not None
    assert newest.next_offset == bench.broker.committed[TopicPartition("metrics", 0)]


def test_the_recurrent_model_runs_in_the_same_worker() -> None:
    bench = Bench()
    bench.fill(series_payloads())
    drain(bench.worker(architecture="recurrent"))
    assert {"a", "b", "new"} <= {alert["series"] for alert in bench.alerts()}
    assert len(lanes()) == 2


class Stumbling:
    """A source that gives its partitions back once, and does not answer one question about them."""

    def __init__(self, source: Any) -> None:
        self._source = source
        self._regained = False
        self.stumbles = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def regain(self) -> None:
        """Rebalance eagerly, to the same partitions: they are paused and told as gained."""
        self._source._position.clear()
        self._regained, self.stumbles = True, 1

    def assignment(self) -> Assignment:
        change = self._source.assignment()
        gained = self._source._assigned if self._regained else change.gained
        self._regained = False
        return Assignment(gained, change.lost)

    def committed(self, partition: TopicPartition) -> int | None:
        if self.stumbles:
            self.stumbles -= 1
            raise TransientError("no answer")
        committed: int | None = self._source.committed(partition)
        return committed


def test_a_hiccup_while_partitions_come_back_does_not_stall_them(undisturbed: list[dict[str, Any]]) -> None:
    bench = Bench()
    bench.fill(series_payloads(), feature_payloads())
    worker = bench.worker(around(MemorySource, Stumbling))
    stumbling = cast(Stumbling, worker.source)
    for _ in range(4):
        worker.step()
    stumbling.regain()
    with pytest.raises(TransientError):
        worker.step()
    drain(worker)
    assert {alert["id"] for alert in bench.alerts()} == {alert["id"] for alert in undisturbed}


class Evicted:
    """A source whose member was thrown out: no commit succeeds until a poll has joined the group again."""

    def __init__(self, source: Any) -> None:
        self._source, self._out = source, True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def commit(self, offsets: Any) -> None:
        if self._out:
            raise AssignmentLost("thrown out")
        self._source.commit(offsets)

    def poll(self, timeout_s: float) -> Any:
        self._out = False
        return self._source.poll(timeout_s)


def test_a_member_thrown_out_while_it_adopts_joins_again(undisturbed: list[dict[str, Any]]) -> None:
    bench = Bench()
    bench.fill(series_payloads(), feature_payloads())
    worker = bench.worker(around(MemorySource, Evicted))
    with pytest.raises(AssignmentLost):
        worker.step()
    drain(worker)
    assert {alert["id"] for alert in bench.alerts()} == {alert["id"] for alert in undisturbed}

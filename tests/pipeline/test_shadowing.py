"""A version in shadow beside a worker: it alerts nobody, whatever becomes of it, and what it finds is counted."""

import logging
import time
from contextlib import suppress
from itertools import count
from typing import Any

import pytest

from pipeline.connectors.memory import MemoryStorage
from pipeline.connectors.shadows import StoredShadows
from pipeline.errors import DeliveryError, TransientError
from pipeline.shadowing import EVERY_S, Shadowing
from pipeline.shadows import Counts, Tally, together
from pipeline.stream import Lane
from pipeline.worker import Worker
from tests.pipeline.test_feedback_acts import filled as filled_with_repeats
from tests.pipeline.test_feedback_acts import hearing, marked
from tests.sabotage import Countdown, Killed, Saboteur
from tests.streams import (
    VERSIONS,
    Bench,
    bench_options,
    counted,
    drain,
    feature_payloads,
    series_detector,
    series_payloads,
)

POINTS = 200
OTHERS = {**VERSIONS, "same": series_detector, "views": lambda: series_detector("views")}


def filled(**options: Any) -> Bench:
    bench = Bench(options=bench_options(checkpoint_every_s=0), **options)
    bench.fill(series_payloads(POINTS), feature_payloads())
    return bench


def worker_of(bench: Bench, storage: MemoryStorage, beside: str = "same", **options: Any) -> Worker:
    """Return a worker with a version in shadow from its first step on."""
    worker = bench.worker(architecture="vanilla", version="v1", others=OTHERS, **options)
    worker.shadowing = Shadowing(StoredShadows(storage))
    put_beside(worker, beside)
    return worker


def machines(worker: Worker) -> Lane:
    return next(lane for lane in worker.lanes if lane.name == "machines")


def put_beside(worker: Worker, version: str) -> None:
    """Put a version into the slot, as the watcher does."""
    slot = machines(worker).slot
    slot.shadow = slot.beside(version) if version else None


def finished(worker: Worker) -> None:
    drain(worker)
    assert worker.shadowing is not None
    worker.shadowing.close(30)


def seen(storage: MemoryStorage, version: str = "same") -> Tally:
    tallies, faults = StoredShadows(storage).seen("machines", version)
    assert not faults
    whole = together(tallies)
    assert whole is not None
    return whole


def published(bench: Bench) -> list[tuple[Any, ...]]:
    return [(record.key, record.value, record.headers) for record in bench.broker.records("alerts")]


def undisturbed() -> list[tuple[Any, ...]]:
    """What a worker publishes that has nothing in shadow."""
    bench = filled()
    drain(bench.worker(architecture="vanilla", version="v1", others=OTHERS))
    return published(bench)


@pytest.mark.parametrize("beside", ["same", "v2", "views"])
def test_alerts_and_state_are_those_of_a_worker_with_nothing_in_shadow(beside: str) -> None:
    bench, storage = filled(), MemoryStorage()
    finished(worker_of(bench, storage, beside))
    assert published(bench) == undisturbed()
    assert seen(storage, beside).records == 4 * POINTS


def test_the_same_model_agrees_on_everything() -> None:
    bench, storage = filled(), MemoryStorage()
    finished(worker_of(bench, storage))
    tally = seen(storage)
    begun = [a for a in bench.alerts() if a["stream"] == "machines" and a["state"] in ("opened", "reopened")]
    assert tally.champion == tally.shadow
    assert (tally.shadow.incidents, tally.shadow.shared, tally.shadow.alone) == (len(begun), len(begun), 0)
    assert len(begun) > 3
    assert tally.examples == []


def test_another_model_agrees_on_some() -> None:
    bench, storage = filled(), MemoryStorage()
    before = {
        (side, found): counted("offkey_shadow_incidents_total", side=side, found=found)
        for side in ("champion", "shadow")
        for found in ("both", "alone")
    }
    finished(worker_of(bench, storage, "v2"))
    tally = seen(storage, "v2")
    assert tally.shadow.shared
    assert tally.shadow.alone
    assert {(each.side, each.topic) for each in tally.examples} >= {("shadow", "metrics")}
    grown = {
        key: counted("offkey_shadow_incidents_total", side=key[0], found=key[1]) - before[key] for key in before
    }
    assert grown == {
        ("champion", "both"): tally.champion.shared,
        ("champion", "alone"): tally.champion.alone,
        ("shadow", "both"): tally.shadow.shared,
        ("shadow", "alone"): tally.shadow.alone,
    }


@pytest.mark.parametrize("max_poll_records", [1, 13, 4000])
def test_polls_do_not_matter(max_poll_records: int) -> None:
    tallies = []
    for size in (97, max_poll_records):
        storage = MemoryStorage()
        finished(worker_of(filled(partitions=1), storage, "v2", max_poll_records=size))
        tallies.append(seen(storage, "v2"))
    assert tallies[0] == tallies[1]


def test_it_begins_in_mid_stream_with_the_champions_state() -> None:
    bench, storage = filled(partitions=1), MemoryStorage()
    worker = worker_of(bench, storage, "", max_poll_records=100)
    for _ in range(4):
        worker.step()
    put_beside(worker, "same")
    finished(worker)
    tally = seen(storage)
    assert (tally.records, tally.champion) == (400, tally.shadow)
    # None of its points is spent on warming up.
    assert tally.shadow.points == 400


def test_a_model_that_cannot_take_the_state_over_warms_up() -> None:
    bench, storage = filled(partitions=1), MemoryStorage()
    worker = worker_of(bench, storage, "", max_poll_records=100)
    for _ in range(4):
        worker.step()
    put_beside(worker, "views")
    finished(worker)
    tally = seen(storage, "views")
    window = machines(worker).slot.beside("views").detector.spec.window
    assert tally.champion.points - tally.shadow.points == 4 * window


def test_what_is_read_again_is_counted_once() -> None:
    """Publishing fails three times, and the state is restored far back; the shadow's with it."""
    bench, storage = Bench(partitions=1, options=bench_options(checkpoint_every_s=1e9)), MemoryStorage()
    bench.fill(series_payloads(POINTS))
    calls = count(1)

    def unsure(step: str) -> None:
        if step == "before finish" and next(calls) in (3, 9, 20):
            raise DeliveryError("the broker is away")

    worker, before = worker_of(bench, storage, wrap=Saboteur(unsure).wrap, max_poll_records=100), replayed()
    idle = 0
    while idle < 6:
        with suppress(TransientError):
            idle = idle + 1 if worker.step() == 0 else 0
    assert worker.shadowing is not None
    worker.shadowing.close(30)
    tally = seen(storage)
    assert replayed() - before > 500
    assert (tally.records, tally.champion) == (4 * POINTS, tally.shadow)
    assert tally.shadow == undisturbed_counts()


def replayed() -> float:
    return counted("offkey_records_replayed_total")


def test_a_worker_that_is_killed_anywhere_loses_what_it_saw_since_it_told_and_no_more() -> None:
    whole = undisturbed_counts()
    for kill_at in range(20, 140, 12):
        bench, storage = filled(partitions=1), MemoryStorage()
        first = worker_of(bench, storage, wrap=Saboteur(Countdown(kill_at)).wrap, max_poll_records=100)
        with pytest.raises(Killed):
            drain(first)
        bench.broker.members.clear()
        committed = bench.broker.committed
        begin = sum(at for place, at in committed.items() if place.topic == "metrics")
        finished(worker_of(bench, storage, max_poll_records=100))
        tally = seen(storage)
        # The first told nothing, or what came before the second began.
        assert 4 * POINTS - begin <= tally.records <= 4 * POINTS
        assert tally.champion == tally.shadow
        assert tally.shadow.incidents <= whole.incidents


def undisturbed_counts() -> Counts:
    storage = MemoryStorage()
    finished(worker_of(filled(partitions=1), storage, max_poll_records=100))
    return seen(storage).shadow


def test_what_was_said_acts_in_shadow_too() -> None:
    bench, storage = filled_with_repeats(), MemoryStorage()
    worker = hearing(bench, worker_of(bench, storage, max_poll_records=60))
    marked(bench, worker)
    before = counted("offkey_points_excused_total")
    finished(worker)
    assert counted("offkey_points_excused_total") > before
    tally = seen(storage)
    assert (tally.champion, tally.shadow.alone) == (tally.shadow, 0)


def test_whatever_fails_in_shadow_ends_it_and_the_champion_goes_on(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, storage = filled(), MemoryStorage()
    worker, before = worker_of(bench, storage), counted("offkey_shadow_failed_total")
    worker.step()
    model = machines(worker).slot.shadow
    assert model is not None

    def out_of_memory(*_: Any) -> Any:
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(model.scorer, "score_windows", out_of_memory)
    assert counted("offkey_shadow_info", version="same") == 1
    finished(worker)
    assert published(bench) == undisturbed()
    assert counted("offkey_shadow_failed_total") - before == 1
    assert counted("offkey_shadow_info", version="same") == 0
    assert "stream machines: model same has failed in shadow, and the champion goes on without it" in caplog.text
    assert 0 < seen(storage).records < 4 * POINTS


def test_what_was_seen_is_told_now_and_then_and_at_the_end() -> None:
    bench, storage, now = filled(partitions=1), MemoryStorage(), [0.0]
    worker = worker_of(bench, storage, max_poll_records=100)
    worker.shadowing = Shadowing(StoredShadows(storage), lambda: now[0])
    for _ in range(3):
        worker.step()
    assert storage.list("shadows") == []
    now[0] += EVERY_S
    worker.step()
    worker.shadowing.prepare(machines(worker), worker.partitions.standing)
    wait_until_stored(storage)
    assert seen(storage).records == 300
    put_beside(worker, "")
    worker.step()
    assert counted("offkey_shadow_info", version="same") == 0


def wait_until_stored(storage: MemoryStorage) -> None:
    deadline_s = time.monotonic() + 30
    while not storage.list("shadows"):
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def test_storage_that_takes_nothing_is_said_and_loses_no_alert(caplog: pytest.LogCaptureFixture) -> None:
    bench, now = filled(), [0.0]

    class Full(MemoryStorage):
        def put(self, name: str, content: bytes) -> None:
            raise TransientError("storage memory: cannot write it (full)")

    worker = worker_of(bench, Full())
    worker.shadowing = Shadowing(StoredShadows(Full()), lambda: now[0])
    while worker.step():
        now[0] += EVERY_S
    finished(worker)
    assert published(bench) == undisturbed()
    assert "stream machines: what was seen in shadow is not stored: storage memory: cannot write it" in caplog.text


def test_an_incident_of_one_alone_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "pipeline.shadowing")
    finished(worker_of(filled(), MemoryStorage(), "v2"))
    assert "stream machines: model v2 is in shadow, beside v1" in caplog.text
    assert "stream machines: model v2 in shadow alone had an incident of " in caplog.text


def test_records_of_features_are_compared_one_by_one() -> None:
    bench, storage = filled(), MemoryStorage()
    worker = worker_of(bench, storage, "")
    payments = next(lane for lane in worker.lanes if lane.name == "payments")
    payments.slot.shadow = payments.slot.champion
    finished(worker)
    tallies, _ = StoredShadows(storage).seen("payments", "v1")
    (tally,) = tallies
    alerts = [alert for alert in bench.alerts() if alert["stream"] == "payments"]
    assert (tally.records, tally.champion) == (400, tally.shadow)
    assert tally.shadow.incidents == tally.shadow.shared == len(alerts) > 0

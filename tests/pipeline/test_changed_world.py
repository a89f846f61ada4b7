"""What changes around a worker: clocks, keys, window and features, rights to storage. Each has one result."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.files import from_files, to_files
from models.spec import ModelSpec
from pipeline.connectors.connection import Connection
from pipeline.connectors.embedded import free_port
from pipeline.connectors.kafka import KafkaCluster
from pipeline.lanes import build_lane
from pipeline.protocols import TopicPartition
from pipeline.worker import Worker
from tests.commands import (
    Running,
    committed,
    configured,
    events,
    metrics_of,
    only_line,
    produce,
    promote,
    wait_for,
)
from tests.streams import (
    BEGIN_MS,
    CPU,
    HISTORY,
    SERIES,
    STEP_MS,
    Bench,
    Payload,
    counted,
    drain,
    fit,
    series_payloads,
    series_rows,
)

PLACE = TopicPartition("metrics", 0)
CUT = 4 * 102
"""Records before it: an incident of the series b is open then."""


def judged(alerts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the alerts without what tells of their place in the topic."""
    return [
        {key: value for key, value in alert.items() if key not in ("id", "incident", "offset", "partition")}
        for alert in alerts
    ]


def set_back(payloads: list[Payload], after: int, steps: int) -> list[Payload]:
    """Return records of producers whose clock is set back by so many steps after so many points of each series."""
    changed: list[Payload] = []
    for number, (key, value) in enumerate(payloads):
        row = json.loads(value or b"")
        row["ts"] -= steps * STEP_MS * (number // 4 >= after)
        changed.append((key, json.dumps(row).encode()))
    return changed


def test_a_producers_clock_set_back_costs_the_records_until_it_has_caught_up() -> None:
    """They are counted as late and left out; no alert comes of the step, and none is lost after it."""
    payloads = set_back(series_payloads(), after=70, steps=20)
    bench, before = Bench(partitions=1), counted("offkey_records_late_total")
    bench.fill(payloads)
    drain(bench.worker())
    assert counted("offkey_records_late_total") - before == 4 * 20
    assert bench.broker.records("dead") == []
    twin = Bench(partitions=1)
    twin.fill(payloads[: 4 * 70] + payloads[4 * 90 :])
    drain(twin.worker())
    assert judged(bench.alerts()) == judged(twin.alerts())
    assert {alert["series"] for alert in judged(bench.alerts())} >= {"a", "b", "new"}


def test_a_series_in_two_partitions_is_judged_in_each_by_itself_counted_and_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench, before = Bench(partitions=2), counted("offkey_series_moved_total")
    for partition in (0, 1):
        for key, value in series_payloads():
            bench.broker.append("metrics", value, key=key, partition=partition, timestamp=BEGIN_MS + 10**9)
    drain(bench.worker())
    assert counted("offkey_series_moved_total") - before == 4
    assert caplog.text.count("series or more are in two partitions") == 1
    assert "key topic metrics by series" in caplog.text
    twin = Bench(partitions=1)
    twin.fill(series_payloads())
    drain(twin.worker())
    for partition in (0, 1):
        found = [alert for alert in bench.alerts() if alert["partition"] == partition]
        assert judged(found) == judged(twin.alerts())


def trained_anew(window: int, features: tuple[str, ...]) -> Callable[[Worker], Worker]:
    """Return what gives a worker the stream's model of another window or other features."""
    names = ["a", "b", "c"]
    values = series_rows(names, HISTORY, 1, {})[:, :, : len(features)]
    time_ms = BEGIN_MS + STEP_MS * np.arange(HISTORY)
    columns = {name: (time_ms, values[i]) for i, name in enumerate(names)}
    detector = fit(ModelSpec("series", features, window), "vanilla", {"hidden": 8, "max_epochs": 2}, columns)
    settings = SERIES.model_copy(update={"window": window, "features": list(features)})

    def give(worker: Worker) -> Worker:
        lane = build_lane("machines", settings, from_files(to_files(detector)), "v2", CPU)
        lanes = [lane, *(each for each in worker.lanes if each.name != "machines")]
        return Worker(lanes, worker.source, worker.delivery, worker.checkpoints, worker.adoptions, worker.settings)

    return give


@pytest.mark.parametrize(("window", "features"), [(12, ("cpu", "mem")), (8, ("cpu",)), (8, ("mem", "cpu"))])
def test_another_window_or_other_features_begin_at_the_committed_offset_without_state(
    window: int, features: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    """No record is read again and no alert published again: series warm up anew, and open incidents get no end."""
    bench, payloads = Bench(partitions=1), series_payloads()
    bench.fill(payloads[:CUT])
    first = bench.worker()
    drain(first)
    first.checkpoint()
    published = bench.alerts()
    bench.broker.members.clear()
    bench.fill(payloads[CUT:])
    replayed, cold = counted("offkey_records_replayed_total"), counted("offkey_state_restored_total", how="cold")
    warming = counted("offkey_points_warming_total")
    second = trained_anew(window, features)(bench.worker())
    drain(second)
    said = [record for record in caplog.records if f"begins at offset {CUT} without state" in record.message]
    assert len(said) == 1
    assert "the checkpoint was made for series window=8" in said[0].message
    assert counted("offkey_records_replayed_total") == replayed
    assert counted("offkey_state_restored_total", how="cold") - cold == 1
    assert counted("offkey_points_warming_total") - warming == 4 * window
    assert bench.broker.committed[PLACE] == 800
    assert bench.alerts()[: len(published)] == published
    later = bench.alerts()[len(published) :]
    assert all(alert["offset"] >= CUT for alert in later)
    open_then = {alert["incident"] for alert in published} - {
        alert["incident"] for alert in published if alert["state"] == "resolved"
    }
    assert open_then
    assert not open_then & {alert["incident"] for alert in later}
    # The state of the one before is no way back: its checkpoint lies behind what is committed.
    bench.broker.members.clear()
    second.checkpoint()
    kept = bench.checkpoints.newest("machines", PLACE, 10**9)
    assert kept is not None
    assert kept.next_offset == 800


class Restricted(Running):
    """A worker whose user has no more rights than files give, even where tests are run by root."""

    def __init__(self, config: Path) -> None:
        # PR_CAPBSET_DROP of CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH; who is not root may not, and has neither.
        code = "import ctypes, os, sys; libc = ctypes.CDLL(None); [libc.prctl(24, n, 0, 0, 0) for n in (1, 2)]; "
        code += "os.execv(sys.executable, [sys.executable, '-c', sys.argv[1], *sys.argv[2:]])"
        offkey = ["from pipeline.cli import main; main()", "--log-level", "error", "worker", str(config)]
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, *offkey],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    folders = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
    for each in folders:
        each.chmod(0o555)
    try:
        yield
    finally:
        for each in folders:
            each.chmod(0o755)


@pytest.mark.skipif(sys.platform != "linux", reason="root's rights can be taken away on Linux")
def test_storage_that_is_read_only(apache_broker: str, unique: Callable[[str], str], tmp_path: Path) -> None:
    """From the start: refused, with nothing read. Later: scoring goes on, and checkpoints do when they can."""
    topic, alerts, dead, group = map(unique, ("metrics", "alerts", "dead", "group"))
    connection, storage = Connection(apache_broker), tmp_path / "storage"
    with closing(KafkaCluster(connection)) as cluster:
        cluster.create_topics({topic: 1, alerts: 1, dead: 1})
    config = configured(
        tmp_path,
        apache_broker,
        kafka={"bootstrap_servers": apache_broker, "group_id": group},
        topics={"alerts": alerts, "dead_letters": dead},
        streams={"machines": SERIES.model_dump(mode="json", exclude_unset=True) | {"topic": topic}},
        metrics={"port": free_port()},
        worker={"checkpoint_every": 0.2},
    )
    promote(config)
    payloads = series_payloads()
    produce(connection, topic, payloads[:80])
    with read_only(storage), Restricted(config) as refused:
        said = refused.process.communicate(timeout=60)[1]
    assert refused.process.returncode == 2, said
    assert f"storage {storage.as_uri()}: no right to write checkpoints/" in only_line(said)
    assert committed(apache_broker, group) == {}

    with Restricted(config) as running:
        wait_for(lambda: committed(apache_broker, group) == {topic: 80}, running)
        with read_only(storage):
            produce(connection, topic, payloads[80:])
            wait_for(lambda: committed(apache_broker, group) == {topic: 800}, running)
            published = events(connection, alerts)
            failed = re.compile(r"^offkey_checkpoints_failed_total{.*} [1-9]", re.MULTILINE)
            wait_for(lambda: bool(failed.search(metrics_of(config))), running)
        assert {alert["series"] for alert in published} >= {"a", "b", "new"}
        said = running.end()
    assert running.process.returncode == 0
    assert said.count("\n") == 1
    assert f"{topic}/0: no checkpoint: storage {storage.as_uri()}: no right to write checkpoints/" in said

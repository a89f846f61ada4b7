"""Exactly once on Apache Kafka: whatever happens to a worker, readers of committed records see the same list."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from models.files import to_files
from pipeline.connectors.checkpoints import StoredCheckpoints
from pipeline.connectors.connection import Connection
from pipeline.connectors.kafka import KafkaCluster, history
from pipeline.connectors.storage import ObjectStorage
from pipeline.protocols import TopicPartition
from tests.commands import committed, events, produce
from tests.sabotage import Setting, Step, run_process, work
from tests.streams import Payload, series_detector, series_payloads, state_of

_DEADLINE_S = 90.0

PARTS = ("settle", "poll", "committed", "assignment", "start", "commit", "write", "send", "finish")
CLIENT = ("confirm", "begin_transaction", "send_offsets_to_transaction", "begin_commit", "wait")


def payloads() -> list[Payload]:
    """Records whose polls each bring alerts, dead letters, both or neither."""
    good = series_payloads(160)
    return [*good[:100], (b"a", b"nonsense"), *good[100:420], (b"b", b"{}"), (None, b""), *good[420:]]


@dataclass(frozen=True)
class Left:
    """What readers of committed records find in the end, and where the group and its state stand."""

    alerts: list[dict[str, Any]]
    letters: list[tuple[bytes | None, dict[str, bytes]]]
    committed: int
    state: dict[str, bytes]


@dataclass
class Scene:
    """One input topic; each run has outputs, a group and storage of its own."""

    broker: str
    topic: str
    folder: Path
    model: dict[str, bytes]
    runs: int = 0

    def setting(self, name: str) -> Setting:
        outputs = {kind: f"{self.topic}-{name}-{kind}" for kind in ("alerts", "dead")}
        with closing(KafkaCluster(Connection(self.broker))) as cluster:
            cluster.create_topics(dict.fromkeys(outputs.values(), 1))
        return Setting(
            self.broker,
            self.topic,
            outputs["alerts"],
            outputs["dead"],
            f"{self.topic}-{name}",
            self.folder / name,
            self.model,
            len(payloads()),
        )

    def run(self, setting: Setting, fatal: Step | None = None) -> tuple[int | None, dict[str, int]]:
        """Run a worker process to its end; return its exit status and how often it went through each step."""
        steps = setting.storage.with_suffix(".steps")
        status = run_process(work, setting, fatal, steps, within_s=_DEADLINE_S)
        assert status is not None, f"{fatal}: the worker did not end"
        return status, json.loads(steps.read_text())

    def left(self, setting: Setting) -> Left:
        connection = Connection(self.broker)
        letters = [
            (record.value, dict(record.headers))
            for arrived in history(connection, setting.dead, 1000)
            for record in arrived.records
        ]
        checkpoints = StoredCheckpoints(ObjectStorage(setting.storage.as_uri()))
        newest = checkpoints.newest("machines", TopicPartition(self.topic, 0), setting.end)
        assert newest is not None
        return Left(
            sorted(events(connection, setting.alerts), key=lambda alert: str(alert["id"])),
            letters,
            committed(self.broker, setting.group)[self.topic],
            {name: array.tobytes() for name, array in state_of(newest).items()},
        )


@pytest.fixture
def scene(apache_broker: str, unique: Callable[[str], str], tmp_path: Path) -> Scene:
    topic = unique("metrics")
    with closing(KafkaCluster(Connection(apache_broker))) as cluster:
        cluster.create_topics({topic: 1})
    produce(Connection(apache_broker), topic, payloads())
    return Scene(apache_broker, topic, tmp_path, to_files(series_detector()))


def test_a_worker_killed_at_any_step_leaves_what_an_undisturbed_one_does(scene: Scene) -> None:
    setting = scene.setting("undisturbed")
    status, gone_through = scene.run(setting)
    expected = scene.left(setting)
    assert status == 0
    assert len(expected.alerts) > 5
    assert [value for value, _ in expected.letters] == [b"nonsense", b"{}", b""]
    assert expected.committed == setting.end
    kinds = [f"{when} {call}" for call in (*PARTS, *CLIENT) for when in ("before", "after")]
    assert gone_through.keys() >= set(kinds)
    # The first batch has only warming points, so the first transaction is that of a later one.
    fatal = [(kind, time) for kind in kinds for time in (1, 2, 3) if time <= gone_through[kind]]

    def killed(step: Step) -> tuple[Step, Left]:
        disturbed = scene.setting(f"{step[0].replace(' ', '-')}-{step[1]}")
        status, _ = scene.run(disturbed, step)
        assert status == -9, f"{step} was never reached"
        status, _ = scene.run(disturbed)
        assert status == 0, step
        return step, scene.left(disturbed)

    with ThreadPoolExecutor(4) as pool:
        for step, left in pool.map(killed, fatal):
            assert left == expected, f"killed {step}"

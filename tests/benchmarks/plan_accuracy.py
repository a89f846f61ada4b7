"""What `offkey plan` says against what then happens: `python -m tests.benchmarks.plan_accuracy [--seconds S]`.

Each leg has a topic, a trained model and a plan, made before the worker starts. Then `offkey worker`, a process as
users run it, takes every series' first points as fast as they come until all buffers are full, then further points
of each, faster than they would come, in which false incidents are counted (`opened` and `reopened`), and at last,
for so many seconds, records in their pace, one by one. Of that time are the share of a core, the processor's own
time whatever else the machine does, and the memory at its end. The checkpoint is that in storage.

`ratio` is planned over measured. `turn` compares the turns of the loop; `rest_cpu_s` is what a measured one takes
of the processor beside what the plan measured of the stages, and `waited_s` for how long it did not work:
`pipeline.jobs.sizing_turns.CLIENT` is set by them. The worker has a core of its own; broker and producer have the
others.
Needs KAFKA_HOME.
"""

import argparse
import json
import os
import platform
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from pipeline.connectors.connection import Connection
from pipeline.connectors.embedded import free_port
from pipeline.connectors.kafka import KafkaCluster
from pipeline.connectors.kafka_client import KafkaProducer
from tests.benchmarks.latency import busy_s, on_cores
from tests.brokers import MISSING, ApacheBroker
from tests.commands import Running, metrics_of, offkey, wait_for

FEATURES = ("cpu", "mem", "net")
TRAINED, HISTORY = 40, 1_000
SETTLE_S = 5.0
BEGIN_MS = 1_700_000_000_000


@dataclass(frozen=True)
class Leg:
    name: str
    series: int
    interval_s: float
    kafka: dict[str, Any]
    model: dict[str, Any]
    warm: int
    """Points of each series before anything is counted: its buffer is full."""
    counted: int
    """Points of each in which incidents are counted."""


LEGS = (
    Leg("default", 20_000, 60.0, {}, {}, 60, 60),
    Leg(
        "gathering", 50_000, 10.0, {"fetch_min_bytes": 20_000}, {"architecture": "vanilla", "max_epochs": 2}, 36, 0
    ),
)


class Records:
    """Values of series in their cycles, with noise; nothing strange is among them."""

    def __init__(self, leg: Leg) -> None:
        self._interval_ms = 1000 * leg.interval_s
        self._random = np.random.default_rng(0)

    def of(self, point: int, low: int, high: int, prefix: str = "host") -> list[tuple[bytes, bytes]]:
        """Return the records (key, value) of the series from `low` to `high` at one point of time."""
        phase = np.arange(low, high)[:, None] * 0.37 + np.arange(len(FEATURES)) + point / 20
        rows = (np.sin(phase) + 0.1 * self._random.standard_normal(phase.shape)).round(4).tolist()
        time_ms = BEGIN_MS + round(point * self._interval_ms)
        return [
            (b"%s-%06d" % (prefix.encode(), number), b'{"ts":%d,"cpu":%r,"mem":%r,"net":%r}' % (time_ms, *row))
            for number, row in zip(range(low, high), rows, strict=True)
        ]


def configuration(folder: Path, broker: str, leg: Leg) -> Path:
    path = folder / f"{leg.name}.yaml"
    settings = {
        "kafka": {"bootstrap_servers": broker, "group_id": leg.name, **leg.kafka},
        "storage": (folder / leg.name).as_uri(),
        "topics": {"alerts": f"{leg.name}-alerts", "dead_letters": f"{leg.name}-dead"},
        "streams": {
            "hosts": {
                "topic": leg.name,
                "time": "ts",
                "max_ahead": "36500 days",
                "features": list(FEATURES),
                "model": leg.model,
                "alerts": {"budget": "1 per day"},
                "start": "latest",
            }
        },
        "metrics": {"port": free_port()},
        "device": "cpu",
    }
    path.write_text(json.dumps(settings))
    return path


def sum_of(text: str, metric: str, labels: str = "") -> float:
    """Return the sum of a metric's values whose labels hold this text."""
    found = re.findall(rf"^{metric}({{[^}}]*}})? ([0-9.e+-]+)$", text, re.MULTILINE)
    return sum(float(value) for held, value in found if labels in held)


def at_once(producer: KafkaProducer, topic: str, records: Records, series: int, points: range) -> None:
    for point in points:
        for key, value in records.of(point, 0, series):
            producer.send(topic, key=key, value=value)
    producer.flush(60)


def in_pace(producer: KafkaProducer, leg: Leg, records: Records, first: int, seconds: float) -> int:
    """Send one record after the other, evenly; return how many."""
    rate, sent, began_s = leg.series / leg.interval_s, 0, time.perf_counter()
    ready: list[tuple[bytes, bytes]] = []
    while (gone_s := time.perf_counter() - began_s) < seconds:
        while sent < int(gone_s * rate):
            if not ready:
                point, low = divmod(first * leg.series + sent, leg.series)
                ready = records.of(point, low, min(low + 100, leg.series))[::-1]
            key, value = ready.pop()
            producer.send(leg.name, key=key, value=value)
            sent += 1
        # Half of the time between two of them, and little enough that none is late by more.
        time.sleep(min(0.5 / rate, 0.002))
    return sent


def run(folder: Path, broker: str, leg: Leg, seconds: float, worker_core: set[int]) -> dict[str, Any]:
    config, records, connection = configuration(folder, broker, leg), Records(leg), Connection(broker)
    with closing(KafkaCluster(connection)) as cluster:
        cluster.create_topics({leg.name: 1, f"{leg.name}-alerts": 1, f"{leg.name}-dead": 1})
    with closing(KafkaProducer(bootstrap_servers=broker, linger_ms=0, batch_size=1 << 17)) as producer:
        for point in range(HISTORY):
            for key, value in records.of(point, 0, TRAINED, "trained"):
                producer.send(leg.name, key=key, value=value)
        producer.flush(60)
        trained = offkey("train", str(config))
        assert trained.returncode == 0, trained.stderr
        arguments = ("--series", str(leg.series), "--interval", str(leg.interval_s), "--json")
        said = on_cores_run(worker_core, ("plan", str(config), *arguments))
        planned = json.loads(said)
        with on_cores(worker_core, lambda: Running(config)) as running:
            process = psutil.Process(running.process.pid)
            wait_for(lambda: _assigned(config), running)
            at_once(producer, leg.name, records, leg.series, range(HISTORY, HISTORY + leg.warm))
            _caught_up(config, running, leg.series * leg.warm)
            before = metrics_of(config)
            live = HISTORY + leg.warm + leg.counted
            at_once(producer, leg.name, records, leg.series, range(HISTORY + leg.warm, live))
            _caught_up(config, running, leg.series * (leg.warm + leg.counted))
            after = metrics_of(config)
            settled = in_pace(producer, leg, records, live, SETTLE_S)
            begun = metrics_of(config)
            before_s, began_s = busy_s(process), time.monotonic()
            # Where the settling ended, so that times go on.
            sent = in_pace(producer, leg, records, live + 1 + settled // leg.series, seconds)
            used_s, took_s = busy_s(process) - before_s, time.monotonic() - began_s
            ended, memory = metrics_of(config), process.memory_info().rss
            status = Path(f"/proc/{process.pid}/status").read_text()
            peak = next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))
            said = running.end()
            assert running.process.returncode == 0, said
    turns = sum_of(ended, "offkey_batch_records_count") - sum_of(begun, "offkey_batch_records_count")
    checkpoint = full_checkpoint_bytes(folder / leg.name / "checkpoints" / "hosts" / leg.name / "0")
    stages_s = (planned["cpu_share"] - planned["client_share"]) * planned["turn"]["seconds"]
    measured = {
        "memory_bytes": memory,
        "checkpoint_bytes": checkpoint,
        "cpu_share": round(used_s / took_s, 4),
    }
    if leg.counted:
        incidents = sum(
            sum_of(after, "offkey_alerts_total", state) - sum_of(before, "offkey_alerts_total", state)
            for state in ('"opened"', '"reopened"')
        )
        measured["incidents_a_day"] = round(incidents * 86_400 / (leg.counted * leg.interval_s))
    return {
        "series": leg.series,
        "interval_s": leg.interval_s,
        "points_per_s": round(sent / took_s),
        "planned": {key: planned[key] for key in measured},
        "measured": measured,
        "ratio": {key: round(planned[key] / value, 3) for key, value in measured.items() if value},
        "peak_bytes": {"planned at most": planned["most_memory_bytes"], "measured": peak},
        "turn": {
            "planned_s": planned["turn"]["seconds"],
            "measured_s": round(took_s / turns, 6),
            "planned_cpu_s": round(planned["cpu_share"] * planned["turn"]["seconds"], 6),
            "measured_cpu_s": round(used_s / turns, 6),
            "rest_cpu_s": round(used_s / turns - stages_s, 6),
            "waited_s": round((took_s - used_s) / turns, 6),
        },
        "unpacking_s": planned["unpacking_s"],
    }


def full_checkpoint_bytes(folder: Path) -> int:
    """Return the size of one that holds all: the parts of the newest chain up to its first state."""
    names = sorted(path.name for path in folder.iterdir())
    for chain in sorted({name.rsplit("-", 3)[0] for name in names}, reverse=True):
        parts = [folder / name for name in names if name.startswith(f"{chain}-")]
        closing = [number for number, part in enumerate(parts) if not part.name.endswith("open")]
        if closing:
            return sum(part.stat().st_size for part in parts[: closing[0] + 1])
    raise AssertionError("there is no checkpoint")


def on_cores_run(cores: set[int], arguments: Sequence[str]) -> str:
    """Run a command on the worker's core and return what it printed."""
    ours = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        done = offkey(*arguments)
    finally:
        os.sched_setaffinity(0, ours)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _assigned(config: Path) -> bool:
    try:
        return 'offkey_partitions_assigned{stream="hosts"} 1.0' in metrics_of(config)
    except OSError:
        return False


def _caught_up(config: Path, running: Running, records: int) -> None:
    """Wait for the worker, ten minutes at most; asked twice a second, since its answers take of its own core."""
    deadline_s = time.monotonic() + 600
    while sum_of(metrics_of(config), "offkey_records_total") < records:
        assert running.process.poll() is None, running.process.communicate()[1]
        assert time.monotonic() < deadline_s, "the worker does not catch up"
        time.sleep(0.5)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--legs", nargs="*", default=[leg.name for leg in LEGS])
    asked = parser.parse_args(arguments)
    if not os.environ.get("KAFKA_HOME"):
        sys.exit(MISSING)
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, set(cores[1:]) or {cores[0]})
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        broker = stack.enter_context(closing(ApacheBroker(folder)))
        chosen = [leg for leg in LEGS if leg.name in asked.legs]
        legs = {}
        for leg in chosen:
            legs[leg.name] = run(folder, broker.bootstrap_servers, leg, asked.seconds, {cores[0]})
            print(leg.name, json.dumps(legs[leg.name]), file=sys.stderr, flush=True)
    machine = f"{platform.machine()}, {len(cores)} cores, Python {platform.python_version()}"
    print(json.dumps({"legs": legs, "machine": machine}))


if __name__ == "__main__":
    main()

"""A worker under full load for minutes: it holds no more memory, files or threads at the end than early on.

Full load is that records always wait for it. A producer in Python is slower than a worker, so its batches are small
here: each is a transaction, which costs it more than the records, and is what might leave something behind.
"""

import json
import multiprocessing
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import count
from multiprocessing.synchronize import Event
from pathlib import Path

import psutil
import pytest

from pipeline.connectors.connection import Connection
from pipeline.connectors.embedded import free_port
from pipeline.connectors.kafka import KafkaCluster, KafkaPublisher
from pipeline.protocols import Message
from tests.brokers import ApacheBroker
from tests.chaos.resources import MIB, Watch, growth
from tests.chaos.test_fuzz import counted
from tests.commands import Running, configured, metrics_of, promote, wait_for
from tests.streams import BEGIN_MS, HISTORY, SERIES, STEP_MS, Payload

_SERIES, _PORTION = 1_000, 5_000
_ENOUGH = 100_000
"""Records ahead of the worker at which the producer waits."""
_STRANGE, _MALFORMED = 0.0005, 0.001
# A process that has loaded nothing of ours but what it needs.
_PROCESSES = multiprocessing.get_context("spawn")


def load() -> Iterator[Payload]:
    """Yield records without end: a thousand series in turn, with strange points and malformed ones among them."""
    draw = random.Random(1)
    keys = [b"series-%d" % number for number in range(_SERIES)]
    for point in count():
        time_ms = BEGIN_MS + STEP_MS * (HISTORY + point)
        for key in keys:
            chance = draw.random()
            if chance < _MALFORMED:
                yield key, b"{"
                continue
            shift = 8 if chance > 1 - _STRANGE else 0
            cpu, mem = draw.random() + shift, draw.random() - shift
            yield key, b'{"ts":%d,"cpu":%.4f,"mem":%.4f}' % (time_ms, cpu, mem)


def produce_for(bootstrap_servers: str, topic: str, seconds: float, enough: Event) -> None:
    """Write as fast as the client can, but not while there is enough."""
    until_s, records, pause = time.monotonic() + seconds, load(), threading.Event()
    with closing(KafkaPublisher(Connection(bootstrap_servers), 60)) as publisher:
        while time.monotonic() < until_s:
            if enough.is_set():
                pause.wait(0.1)
                continue
            for _ in range(_PORTION):
                publisher.send(Message(topic, *next(records)))
            publisher.flush(60)


@pytest.mark.timeout(0)
@pytest.mark.parametrize("delivery", ["exactly_once"])
def test_nothing_grows_under_full_load(
    delivery: str,
    chaos_broker: ApacheBroker,
    request: pytest.FixtureRequest,
    tell: Callable[[str], None],
    tmp_path: Path,
    unique: Callable[[str], str],
) -> None:
    seconds = request.config.getoption("chaos_soak_s", 0)
    if not seconds:
        pytest.skip("takes minutes: `make chaos` runs it, or --chaos-soak-s 600")
    names = {kind: unique(kind) for kind in ("soak", "alerts", "dead")}
    servers = chaos_broker.bootstrap_servers
    with closing(KafkaCluster(Connection(servers))) as cluster:
        cluster.create_topics(dict.fromkeys(names.values(), 1))
    config = configured(
        tmp_path,
        servers,
        kafka={"bootstrap_servers": servers, "delivery": delivery, "max_poll_records": 200},
        topics={"alerts": names["alerts"], "dead_letters": names["dead"]},
        streams={"machines": {**SERIES.model_dump(mode="json", exclude_unset=True), "topic": names["soak"]}},
        metrics={"port": free_port()},
    )
    promote(config)
    enough, lags = _PROCESSES.Event(), list[float]()
    producer = _PROCESSES.Process(target=produce_for, args=(servers, names["soak"], seconds, enough), daemon=True)
    with Running(config) as worker:
        producer.start()
        wait_for(lambda: listening(config) and counted(config, "records") > 0, worker)
        process, begun_s, pause = psutil.Process(worker.process.pid), time.monotonic(), threading.Event()
        first, cpu_s = counted(config, "records"), sum(process.cpu_times()[:2])
        with closing(Watch(worker.process.pid, every_s=min(1.0, seconds / 60))) as watch:
            while producer.is_alive() and worker.process.poll() is None:
                pause.wait(0.5)
                lags.append(lag(config))
                if lags[-1] > _ENOUGH:
                    enough.set()
                else:
                    enough.clear()
        took_s = time.monotonic() - begun_s
        assert worker.process.poll() is None, worker.process.communicate()[1]
        behind_share = sum(each > 0 for each in lags) / len(lags)
        told = {
            "seconds": round(took_s),
            "records_per_s": round((counted(config, "records") - first) / took_s),
            "cpu_share": round((sum(process.cpu_times()[:2]) - cpu_s) / took_s, 2),
            "behind_share": round(behind_share, 2),
            "alerts": counted(config, "alerts"),
            "dead_letters": counted(config, "records_rejected"),
            "memory_mib": [round(each.memory_bytes / MIB) for each in watch.samples[:: len(watch.samples) // 10]],
            "files": watch.samples[-1].files,
            "threads": watch.samples[-1].threads,
        }
        worker.end()
    tell(json.dumps({"soak": told}))
    assert worker.process.returncode == 0
    assert behind_share > 0.8, told
    assert told["alerts"]
    assert told["dead_letters"]
    assert growth(watch.samples) == [], told


def lag(config: Path) -> float:
    """Return how many records lie ahead of the worker."""
    found = re.search(r'^offkey_lag_records\{stream="machines"\} (\S+)$', metrics_of(config), re.MULTILINE)
    assert found is not None
    return float(found[1])


def listening(config: Path) -> bool:
    try:
        counted(config, "records")
    except OSError:
        return False
    return True

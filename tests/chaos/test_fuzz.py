"""Malformed payloads among good records: each is accepted or dead-lettered byte for byte, and memory is flat."""

import json
import math
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pipeline.connectors.connection import Connection
from pipeline.connectors.embedded import free_port
from pipeline.connectors.kafka import KafkaCluster, KafkaPublisher, history
from pipeline.protocols import Message
from pipeline.stages.decode import REASONS
from tests.brokers import ApacheBroker
from tests.chaos.comparison import letters_of
from tests.chaos.payloads import fuzzed, good
from tests.chaos.resources import MIB, Watch, growth
from tests.commands import Running, configured, metrics_of, promote
from tests.streams import SERIES, Payload

_GOOD_SHARE = 0.3
_PORTION = 5_000
_TELLING = 100_000
"""So many payloads take long enough to tell growth from the first batches' arenas; fewer say nothing of memory."""
_PACE = 500
"""Payloads a second that even a busy machine works off."""


class Sent(NamedTuple):
    """A payload on its way; the one partition numbers them from 0."""

    payload: Payload
    is_good: bool


def sent(count: int) -> Iterator[Sent]:
    """Yield so many malformed payloads with good ones between them, the same each time."""
    draw, point = random.Random(11), 0
    for payload in fuzzed(12, count):
        yield Sent(payload, False)
        if draw.random() < _GOOD_SHARE:
            point += 1
            yield Sent(good("steady", point, [draw.gauss(0, 1), draw.gauss(0, 1)]), True)


def produce(connection: Connection, topic: str, count: int) -> int:
    total = 0
    with closing(KafkaPublisher(connection, 60)) as publisher:
        for number, each in enumerate(sent(count)):
            publisher.send(Message(topic, *each.payload))
            total += 1
            if number % _PORTION == 0:
                publisher.flush(60)
        publisher.flush(60)
    return total


def counted(config: Path, *names: str) -> int:
    """Return the sum of the worker's counters of these names."""
    text = metrics_of(config)
    found = [float(n) for name in names for n in re.findall(rf"^offkey_{name}_total{{.*}} (\S+)$", text, re.M)]
    return int(sum(found))


def is_record(key: bytes | None, value: bytes | None) -> bool:
    """Tell by the standard library whether a payload may be taken for a record: a second opinion."""
    try:
        (key or b"").decode()
        row = json.loads((value or b"").decode(), parse_constant=lambda name: pytest.fail(name))
    except ValueError:
        return False
    numbers: list[Any] = [row.get(name) for name in ("ts", "cpu", "mem")] if isinstance(row, dict) else [None]
    return key is not None and all(type(number) in (int, float) and math.isfinite(number) for number in numbers)


@pytest.mark.timeout(3600)
def test_what_is_not_accepted_is_dead_lettered_as_it_came(
    chaos_broker: ApacheBroker,
    request: pytest.FixtureRequest,
    tell: Callable[[str], None],
    tmp_path: Path,
    unique: Callable[[str], str],
) -> None:
    count = request.config.getoption("chaos_payloads", 20_000)
    names = {kind: unique(kind) for kind in ("fuzz", "alerts", "dead")}
    connection = Connection(chaos_broker.bootstrap_servers)
    with closing(KafkaCluster(connection)) as cluster:
        cluster.create_topics(dict.fromkeys(names.values(), 1))
    stream = {**SERIES.model_dump(mode="json", exclude_unset=True), "topic": names["fuzz"]}
    config = configured(
        tmp_path,
        chaos_broker.bootstrap_servers,
        kafka={"bootstrap_servers": connection.bootstrap_servers, "max_poll_records": 2000},
        topics={"alerts": names["alerts"], "dead_letters": names["dead"]},
        streams={"machines": stream},
        metrics={"port": free_port()},
    )
    promote(config)
    pause = threading.Event()
    with Running(config) as worker:
        with closing(Watch(worker.process.pid, every_s=1)) as watch:
            total = produce(connection, names["fuzz"], count)
            until_s = time.monotonic() + 120 + total / _PACE
            while time.monotonic() < until_s and worker.process.poll() is None:
                try:
                    done = counted(config, "records")
                except OSError:
                    done = 0  # It is not listening yet.
                if done >= total:
                    break
                pause.wait(0.3)
            assert done == total, worker.process.communicate()[1] if worker.process.poll() else done
        rejected = counted(config, "records_rejected")
        accepted = counted(config, "points_scored", "points_warming", "records_late")
        worker.end()
    assert accepted + rejected == total

    expected, letters, reasons = enumerate(sent(count)), 0, set()
    for arrived in history(connection, names["dead"], total + 1):
        for letter in letters_of(arrived.records):
            offset = int(letter.id.rpartition("@")[2])
            reasons.add(dict(letter.headers)["__connect.errors.exception.class.name"].decode())
            letters += 1
            for number, each in expected:
                if number == offset:
                    assert (letter.key, letter.value) == each.payload
                    assert not each.is_good, f"a good record was dead-lettered: {each.payload}"
                    break
                # Passed over, so accepted.
                assert is_record(*each.payload), f"accepted: {each.payload}"
            else:
                raise AssertionError(f"{letter.id} is there twice, or out of order")
    assert all(is_record(*each.payload) for _, each in expected)
    assert letters == rejected
    assert {f"offkey.{reason}" for reason in REASONS} - reasons <= {
        *("offkey.not_arrow", "offkey.not_image", "offkey.bad_image"),  # The records are JSON.
        *("offkey.wrong_size", "offkey.wrong_mode"),
        "offkey.too_large",  # By default a megabyte.
        "offkey.time_ahead",
        "offkey.held_too_long",
    }
    held = [round(each.memory_bytes / MIB) for each in watch.samples]
    told = {"malformed": count, "produced": total, "accepted": accepted, "dead_lettered": letters}
    tell(json.dumps({"fuzz": told | {"memory_mib": held[:: max(len(held) // 10, 1)]}}))
    if count >= _TELLING:
        assert growth(watch.samples) == [], held

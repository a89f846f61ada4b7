"""What a member of a group holds in memory: a poll keeps to its bytes, and nothing piles up while nobody polls."""

import json
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest
from kafka import KafkaAdminClient

from pipeline.connectors.connection import Connection, GroupOptions
from pipeline.connectors.kafka import KafkaCluster, KafkaPublisher, KafkaSource, history
from pipeline.connectors.poll_size import PollSize
from pipeline.protocols import Message, PartitionRecords, TopicPartition
from tests.commands import Running, configured, promote, wait_for
from tests.contracts.worlds import gain_all
from tests.records import Record
from tests.streams import BEGIN_MS, SERIES, STEP_MS

MIB = 1024 * 1024
LARGE = 1_000_000
PARTITIONS = 4


def polled(count: int, value_bytes: int) -> Sequence[PartitionRecords]:
    records = [Record(n, BEGIN_MS, b"a", bytes(value_bytes)) for n in range(count)]
    return [PartitionRecords(TopicPartition("metrics", 0), records)] if records else []


def test_the_number_of_records_follows_from_their_size() -> None:
    size = PollSize(16_000, 32 * MIB)
    asked = []
    for value_bytes in [74] * 6 + [LARGE] * 2 + [5 * 32 * MIB, 0]:
        asked.append(size.records)
        size.note(polled(min(size.records, 2_000), value_bytes))
    assert asked == [32, 128, 512, 2048, 8192, 16_000, 16_000, 33, 33, 1]
    assert size.records == 4


def test_a_poll_without_records_says_nothing_of_their_size() -> None:
    size = PollSize(100, 32 * MIB)
    size.note([])
    assert size.records == 32


def test_a_bound_below_one_record_takes_them_one_by_one() -> None:
    assert PollSize(100, 1).records == 1


@pytest.fixture
def packed(apache_broker: str, unique: Callable[[str], str]) -> tuple[str, int]:
    """A topic whose broker packs its records to a thousandth, and how many it holds."""
    topic, count = unique("packed"), 100
    options = {"num_partitions": PARTITIONS, "replication_factor": 1, "configs": {"compression.type": "zstd"}}
    with closing(KafkaAdminClient(bootstrap_servers=apache_broker)) as admin:
        admin.create_topics({topic: options})
    with closing(KafkaPublisher(Connection(apache_broker))) as publisher:
        for number in range(count):
            publisher.send(Message(topic, b"%d" % number, b"x" * LARGE))
            publisher.flush(30)
    return topic, count


@pytest.fixture
def plain(apache_broker: str, unique: Callable[[str], str]) -> str:
    """A topic with 100 MB."""
    topic = unique("plain")
    with closing(KafkaCluster(Connection(apache_broker))) as cluster:
        cluster.create_topics({topic: PARTITIONS})
    with closing(KafkaPublisher(Connection(apache_broker))) as publisher:
        for number in range(100):
            publisher.send(Message(topic, b"%d" % number, b"x" * LARGE))
        publisher.flush(60)
    return topic


@pytest.fixture
def member(apache_broker: str) -> Iterator[Callable[[str], KafkaSource]]:
    """Join as a member that has begun at the start of all partitions."""
    opened: list[KafkaSource] = []

    def join(topic: str) -> KafkaSource:
        options = GroupOptions(f"group-{topic}", max_poll_bytes=8 * MIB, fetch_max_bytes=4 * MIB)
        opened.append(KafkaSource(Connection(apache_broker), options, [topic]))
        for place in gain_all(opened[-1], PARTITIONS):
            opened[-1].start(place, 0)
        return opened[-1]

    yield join
    for source in opened:
        source.close()


def test_a_poll_of_packed_records_keeps_to_its_bytes(
    packed: tuple[str, int], member: Callable[[str], KafkaSource]
) -> None:
    topic, count = packed
    source = member(topic)
    sizes: list[int] = []
    deadline_s = time.monotonic() + 60
    while sum(sizes) < count * LARGE and time.monotonic() < deadline_s:
        arrived = source.poll(0.5)
        sizes.append(sum(len(record.value or b"") for each in arrived for record in each.records))
    assert sum(sizes) == count * LARGE
    assert max(sizes) <= 8 * MIB
    assert max(sizes) > 4 * MIB


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_nothing_piles_up_while_nobody_polls(plain: str, member: Callable[[str], KafkaSource]) -> None:
    """As while alerts are confirmed slowly: heartbeats go on meanwhile, on a thread that could fetch too."""
    source = member(plain)
    while not source.poll(0.5):
        pass
    grown, before = [], resident_bytes()
    until_s = time.monotonic() + 3
    while time.monotonic() < until_s:
        grown.append(resident_bytes() - before)
        time.sleep(0.05)
    assert max(grown) < 2 * (4 * MIB + LARGE)
    assert source.poll(5)


def test_a_worker_keeps_to_its_bound_with_records_of_a_megabyte(
    apache_broker: str, unique: Callable[[str], str], tmp_path: Path
) -> None:
    """A backlog that the broker has packed; every fifth record is rejected, so that its bytes go out again."""
    names = {name: unique(name) for name in ("metrics", "alerts", "dead", "group")}
    connection, topic, count = Connection(apache_broker), names["metrics"], 300
    packs = {"compression.type": "zstd", "max.message.bytes": str(2 * MIB)}
    with closing(KafkaAdminClient(bootstrap_servers=apache_broker)) as admin:
        for name, partitions in (("metrics", PARTITIONS), ("alerts", 1), ("dead", 1)):
            options = {"num_partitions": partitions, "replication_factor": 1, "configs": packs}
            admin.create_topics({names[name]: options})
    config = configured(
        tmp_path,
        apache_broker,
        kafka={"bootstrap_servers": apache_broker, "group_id": names["group"]},
        topics={"alerts": names["alerts"], "dead_letters": names["dead"]},
        streams={"machines": SERIES.model_dump(mode="json", exclude_unset=True) | {"topic": topic}},
    )
    promote(config)
    # Of a small record first: what a worker takes by itself.
    taken, produced = [], 0
    with closing(KafkaPublisher(connection)) as publisher:
        for records, size in ((1, 10), (count - 1, LARGE)):
            for number in range(produced, produced + records):
                publisher.send(Message(topic, b"%d" % (number % 20), payload(number, size)))
                publisher.flush(30)
            produced += records
            with Running(config) as running:
                wait_for(lambda: sum(offsets_of(apache_broker, names["group"])) == produced, running)  # noqa: B023
                taken.append(most_resident_bytes(running.process.pid))
                assert running.end() == ""
    rejected = sum(len(each.records) for each in history(connection, names["dead"], 1000))
    assert rejected == len(range(4, count, 5))
    # Two answers of the one broker, a poll's records, and those of them that are rejected on their way out.
    assert taken[1] - taken[0] < 2 * 16 * MIB + 2 * 32 * MIB + 16 * MIB, taken


def most_resident_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return 1024 * int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0])


def payload(number: int, size: int) -> bytes:
    row = {"ts": BEGIN_MS + STEP_MS * number, "cpu": 0.5, "mem": 0.5, "note": "x" * size}
    return json.dumps(row if number % 5 != 4 else row | {"cpu": "none"}).encode()


def offsets_of(broker: str, group: str) -> list[int]:
    """Return the group's committed offsets."""
    with closing(KafkaAdminClient(bootstrap_servers=broker)) as admin:
        return [at.offset for at in admin.list_group_offsets({group: None})[group].values()]

"""A partition that is added to a topic in flight loses none of its records, whatever `start` says."""

import pytest

from pipeline.errors import ConfigError
from pipeline.protocols import TopicPartition
from pipeline.worker import Worker
from tests.streams import BEGIN_MS, SERIES, Bench, counted, drain, series_payloads

ADDED = TopicPartition("metrics", 2)


def add_partition(bench: Bench, records: int) -> None:
    """Add the third partition, with records that came before anyone knew of it."""
    bench.broker.topics["metrics"].append([])
    for key, value in series_payloads(records)[:records]:
        bench.broker.append("metrics", value, key=key, partition=2, timestamp=BEGIN_MS + 10**9)


def starting(bench: Bench, start: str) -> Worker:
    return bench.worker(series=SERIES.model_copy(update={"start": start}))


@pytest.mark.parametrize("start", ["latest", "fail"])
@pytest.mark.parametrize("restarted", [False, True])
def test_it_is_read_from_its_earliest_record(start: str, restarted: bool, caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    bench.fill(series_payloads(10))
    if start == "fail":
        bench.broker.committed |= {TopicPartition("metrics", number): 0 for number in (0, 1)}
    bench.broker.committed[TopicPartition("payments", 0)] = 0
    worker = starting(bench, start)
    drain(worker)
    before, records = counted("offkey_partitions_added_total"), counted("offkey_records_total")
    add_partition(bench, 20)
    if restarted:
        bench.broker.members.clear()
        worker = starting(bench, start)
    bench.broker.rebalance()
    drain(worker)
    assert bench.broker.committed[ADDED] == 20
    assert counted("offkey_records_total") - records == 20
    assert counted("offkey_partitions_added_total") - before == 1
    assert caplog.text.count("metrics/2: the partition was added after the group began") == 1


def test_what_expired_in_it_before_it_was_found_is_counted() -> None:
    bench = Bench()
    worker = starting(bench, "latest")
    drain(worker)
    before = counted("offkey_offsets_lost_total")
    add_partition(bench, 20)
    bench.broker.begin[ADDED] = 7
    bench.broker.rebalance()
    worker.step()
    assert counted("offkey_offsets_lost_total") - before == 7


def test_two_workers_that_start_together_take_none_for_added() -> None:
    """The second finds commits of the first: its own partitions are there from the start nevertheless."""
    bench = Bench()
    bench.fill(series_payloads(10))
    one, two = starting(bench, "latest"), starting(bench, "latest")
    one.step()
    assert len(bench.broker.committed) == 2
    two.step()
    assert bench.broker.committed[TopicPartition("metrics", 1)] == len(bench.broker.topics["metrics"][1]) > 0


def test_a_refused_start_is_no_start() -> None:
    bench, before = Bench(), counted("offkey_partitions_added_total")
    worker = starting(bench, "fail")
    with pytest.raises(ConfigError, match="has no committed offset"):
        worker.step()
    bench.broker.members.clear()
    add_partition(bench, 20)
    drain(starting(bench, "latest"))
    assert bench.broker.committed[ADDED] == 20
    assert counted("offkey_partitions_added_total") == before

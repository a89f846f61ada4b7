"""Logs of adoptions forget what is old: beside the records, in time, and never what a restart needs."""

import logging

import pytest

from pipeline.adoptions import Adoption
from pipeline.connectors.memory import MemoryAdoptions
from pipeline.errors import ConfigError, TransientError
from pipeline.forgetting import Forgetting
from pipeline.protocols import TopicPartition
from tests.receiving import until
from tests.streams import Bench, drain, series_payloads

PLACE, ID, KEPT = TopicPartition("metrics", 0), "metrics#1", 256


class Refusing(MemoryAdoptions):
    """Storage that removes nothing while it is told so."""

    error: Exception | None = None

    def prune(self, stream: str, partition: TopicPartition, topic_id: str, offset: int) -> None:
        if self.error is not None:
            raise self.error
        super().prune(stream, partition, topic_id, offset)


def written(adoptions: MemoryAdoptions, first: int, last: int, *, offset: int = 0) -> None:
    for number in range(first, last + 1):
        assert adoptions.write("machines", PLACE, ID, Adoption(number, offset, "v1", "earlier"))


def entries(adoptions: MemoryAdoptions) -> int:
    return len(adoptions.storage.list("adoptions"))


def test_a_log_is_looked_at_once_and_then_now_and_then() -> None:
    adoptions = MemoryAdoptions()
    forgetting = Forgetting(adoptions)
    written(adoptions, 1, 300)
    forgetting.look("machines", PLACE, ID, 300, -1)
    forgetting.look("machines", PLACE, ID, 300, 0)
    until(lambda: entries(adoptions) == KEPT)
    written(adoptions, 301, 316)
    assert forgetting._flight is not None
    until(lambda: forgetting._is_free())
    forgetting.look("machines", PLACE, ID, 315, 0)
    assert forgetting._flight is None
    forgetting.look("machines", PLACE, ID, 316, 0)
    until(lambda: entries(adoptions) == KEPT)
    # A topic that is made anew has a log of its own.
    until(lambda: forgetting._is_free())
    forgetting.look("machines", PLACE, "metrics#2", 16, 0)
    assert forgetting._flight is not None


@pytest.mark.parametrize("error", [TransientError("storage is away"), ConfigError("no right to delete")])
def test_what_storage_does_not_remove_is_said_and_stays(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    adoptions = Refusing()
    written(adoptions, 1, 316)
    adoptions.error = error
    forgetting = Forgetting(adoptions)
    forgetting.look("machines", PLACE, ID, 300, 0)
    until(lambda: forgetting._is_free())
    said = f"metrics/0: old entries of its log of adoptions are left: {error}"
    assert [(each.levelno, each.getMessage()) for each in caplog.records] == [(logging.WARNING, said)]
    assert entries(adoptions) == 316
    adoptions.error = None
    forgetting.look("machines", PLACE, ID, 316, 0)
    until(lambda: entries(adoptions) == KEPT)


def test_a_worker_forgets_beside_its_records() -> None:
    bench = Bench(partitions=1)
    bench.fill(series_payloads())
    written(bench.adoptions, 1, 400)
    worker = bench.worker()
    drain(worker)
    assert bench.adopted(PLACE)[-1].number == 401
    until(lambda: len(bench.adoptions.storage.list(f"adoptions/machines/metrics/{ID}/0")) == KEPT)

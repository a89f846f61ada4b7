"""Where a partition begins: by its committed offset, its checkpoint, what the broker holds, and `start`."""

import pytest

from pipeline.config import StreamSettings
from pipeline.errors import ConfigError, TransientError
from pipeline.protocols import Part, TopicPartition
from tests.streams import (
    SERIES,
    Bench,
    arrays_of,
    bench_options,
    counted,
    drain,
    series_payloads,
)

PLACE = TopicPartition("metrics", 0)


def lost() -> float:
    """Records that are known to go unread."""
    return counted("offkey_offsets_lost_total")


def starting(start: str) -> StreamSettings:
    return SERIES.model_copy(update={"start": start})


@pytest.mark.parametrize("committed", [0, 10])
@pytest.mark.parametrize(("start", "expected"), [("earliest", 40), ("latest", 100)])
def test_expired_offsets_are_reported_and_start_decides(
    start: str, expected: int, committed: int, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench(partitions=1)
    bench.fill(series_payloads(25))
    bench.broker.committed[PLACE] = committed
    bench.broker.begin[PLACE] = 40
    before = lost()
    bench.worker(series=starting(start)).step()
    assert f"committed offset {committed} is not among those held, 40 to 100" in caplog.text
    assert bench.broker.committed[PLACE] == 100
    begun = bench.checkpoints.newest("machines", PLACE, 10**9)
    assert begun is not None
    assert begun.next_offset == expected
    assert lost() - before == expected - committed


def test_a_gap_is_counted_once_though_storage_is_away(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(partitions=1)
    bench.fill(series_payloads(25))
    bench.broker.committed[PLACE], bench.broker.begin[PLACE] = 10, 40
    before, worker = lost(), bench.worker()

    def away(part: Part) -> None:
        raise TransientError("storage is away")

    with monkeypatch.context() as patched:
        patched.setattr(bench.checkpoints, "write", away)
        with pytest.raises(TransientError, match="storage is away"):
            worker.step()
    drain(worker)
    assert bench.broker.committed[PLACE] == 100
    assert lost() - before == 30
    assert caplog.text.count("not among those held") == 1


@pytest.mark.parametrize("start", ["earliest", "latest"])
def test_a_first_start_loses_nothing(start: str, caplog: pytest.LogCaptureFixture) -> None:
    """What has expired, or what `latest` leaves out, was never promised to this group."""
    bench = Bench(partitions=1)
    bench.fill(series_payloads(25))
    bench.broker.begin[PLACE] = 40
    before = lost()
    bench.worker(series=starting(start)).step()
    assert lost() == before
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def interrupted(points: int) -> Bench:
    """A bench whose worker has checkpointed at offset 100 and ended, and whose group's offsets have expired."""
    bench = Bench(partitions=1)
    bench.fill(series_payloads(25))
    worker = bench.worker()
    drain(worker)
    worker.checkpoint()
    bench.broker.members.clear()
    bench.broker.committed.clear()
    bench.fill(series_payloads(points)[100:])
    return bench


@pytest.mark.parametrize(("start", "first", "gone"), [("earliest", 0, 0), ("latest", 240, 140)])
def test_a_checkpoint_without_a_committed_offset_is_reported_and_start_decides(
    start: str, first: int, gone: int, caplog: pytest.LogCaptureFixture
) -> None:
    """It may be another group's: to go on at it would skip what this group never read."""
    bench, before = interrupted(60), lost()
    worker = bench.worker(series=starting(start))
    worker.step()
    assert "metrics/0: the group has no committed offset, but its stream has a checkpoint at 100" in caplog.text
    assert f"beginning at the {start} one, {first}" in caplog.text
    assert lost() - before == gone
    begun = bench.checkpoints.newest("machines", PLACE, first)
    assert begun is not None
    assert begun.next_offset == first
    assert not arrays_of(begun)["count"].any()


def test_what_expired_behind_a_checkpoint_is_counted() -> None:
    bench, before = interrupted(60), lost()
    bench.broker.begin[PLACE] = 130
    bench.worker().step()
    assert lost() - before == 30


def test_a_checkpoint_without_a_committed_offset_is_refused_where_start_is_fail() -> None:
    with pytest.raises(ConfigError, match=r"has a checkpoint at 100.*streams\.machines\.start is `fail`"):
        interrupted(60).worker(series=starting("fail")).step()


@pytest.mark.parametrize(("committed", "restored"), [(100, 100), (99, 97), (97, 97), (96, 0)])
def test_a_checkpoint_newer_than_the_commit_is_passed_over(
    committed: int, restored: int, caplog: pytest.LogCaptureFixture
) -> None:
    """The group's offsets were set back: the state there has seen records that are to be read again."""
    with caplog.at_level("INFO", "pipeline"):
        set_back(committed, 97).worker(max_poll_records=1).step()
    assert f"metrics/0: restored at offset {restored}, replays to {committed}" in caplog.text


def test_without_a_checkpoint_as_old_as_the_commit_state_is_lost(caplog: pytest.LogCaptureFixture) -> None:
    set_back(7, 20).worker(max_poll_records=1).step()
    assert "metrics/0: begins at offset 7 without state: there is no checkpoint at or below" in caplog.text


def set_back(committed: int, polled: int) -> Bench:
    """A bench whose worker has ended after a checkpoint of every poll; then the commit was set back."""
    bench = Bench(partitions=1, options=bench_options(checkpoint_every_s=0))
    bench.fill(series_payloads(25))
    drain(bench.worker(max_poll_records=polled))
    bench.broker.members.clear()
    bench.broker.committed[PLACE] = committed
    return bench


def test_another_model_than_that_of_the_checkpoint_is_named(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "pipeline")
    bench = Bench(partitions=1)
    bench.fill(series_payloads(25))
    first = bench.worker()
    drain(first)
    first.checkpoint()
    bench.broker.members.clear()
    second = bench.worker()
    second.step()
    assert "goes on with" not in caplog.text
    bench.broker.members.clear()
    third = bench.worker(version="v2")
    third.step()
    assert "stream machines: what was judged by model v1 goes on with v2, and so does what is read" in caplog.text


def test_start_fail_refuses() -> None:
    bench = Bench(partitions=1)
    with pytest.raises(ConfigError, match=r"metrics/0: the group has no committed offset.*`earliest` or `latest`"):
        bench.worker(series=SERIES.model_copy(update={"start": "fail"})).step()


def test_a_topic_made_anew_begins_again_by_its_start(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(partitions=1)
    bench.fill(series_payloads(40))
    first = bench.worker()
    drain(first)
    first.checkpoint()
    bench.broker.members.clear()
    bench.broker.create_topic("metrics", 1)
    bench.fill(series_payloads(45))
    second = bench.worker()
    drain(second)
    assert (
        "the topic was made anew, committed offset 160 is of the earlier one; beginning at the earliest"
        in caplog.text
    )
    assert bench.broker.committed[TopicPartition("metrics", 0)] == 180
    assert second.lanes[0].pipeline.series_held == 4


@pytest.mark.parametrize("committed", [None, 100])
@pytest.mark.parametrize(("start", "first"), [("earliest", 0), ("latest", 180)])
def test_what_start_leaves_out_of_a_topic_made_anew_is_counted(
    start: str, first: int, committed: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    """Kafka forgets the committed offsets of a topic that is deleted; other brokers may not."""
    bench = interrupted(60)
    bench.broker.create_topic("metrics", 1)
    bench.fill(series_payloads(45))
    if committed is not None:
        bench.broker.committed[PLACE] = committed
    before = lost()
    bench.worker(series=starting(start)).step()
    earlier = "the checkpoint at 100" if committed is None else f"committed offset {committed}"
    assert f"the topic was made anew, {earlier} is of the earlier one" in caplog.text
    assert lost() - before == first
    assert bench.broker.committed[PLACE] >= first


def test_a_topic_made_anew_under_a_running_worker_is_noticed(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(partitions=1)
    bench.fill(series_payloads(20))
    worker = bench.worker()
    drain(worker)
    bench.broker.create_topic("metrics", 1)
    bench.fill(series_payloads(30))
    worker.checkpoint()
    drain(worker)
    assert "the topic was made anew" in caplog.text
    assert bench.broker.committed[TopicPartition("metrics", 0)] == 120

"""A replay: the record's own bytes, where it came from, once; whatever crashes and whoever else runs."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from pipeline.connectors.memory import MemoryTransactions
from pipeline.errors import ConfigError, DeliveryError, RecordError
from pipeline.letters.lines import Repair, line_of, read_repairs, sha256_of
from pipeline.letters.tally import Tally
from pipeline.protocols import Message, TopicPartition
from pipeline.stages.dead_letters import Letter
from tests.pipeline.letters.desks import BEGIN_MS, TOPIC, Desk, rejected
from tests.streams import Bench, drain, series_payloads

PAYLOADS: Sequence[tuple[bytes | None, bytes | None]] = [
    (b"a", b"nonsense"),
    (None, b"\xff\x00\x01"),
    (b"\x00", None),
    (None, None),
    (b"", b""),
]


@pytest.fixture
def desk() -> Desk:
    return Desk()


def letters(desk: Desk) -> list[Letter]:
    return [found for arrived in desk.log.read() for found in Tally().take(arrived)]


def test_the_record_comes_back_as_it_was_to_its_partition(desk: Desk) -> None:
    own = [("trace", b"\x00\xff"), ("trace", b""), ("__connect.errors.topic", b"elsewhere")]
    for number, (key, value) in enumerate(PAYLOADS):
        desk.write(rejected(number, partition=2, key=key, value=value, headers=own), number % 2)
    sent = desk.replay()
    assert (sent.by_kind, sent.moved) == (Counter({("metrics", "not_json"): 5}), 0)
    came = desk.records("metrics", 2)
    assert sorted(map(str, ((each.key, each.value) for each in came))) == sorted(map(str, PAYLOADS))
    assert all(list(each.headers) == [*own, ("offkey.replays", b"1")] for each in came)
    assert desk.records("metrics", 0) == desk.records("metrics", 1) == desk.records("payments", 0) == []


def test_a_second_replay_sends_nothing(desk: Desk) -> None:
    desk.write(rejected(0))
    desk.replay()
    assert not desk.replay().by_kind
    assert len(desk.broker.records("metrics")) == 1


def test_a_partition_that_is_gone_is_left_to_the_key(desk: Desk) -> None:
    desk.write(rejected(0, topic="payments", partition=5))
    assert desk.replay().moved == 1
    assert len(desk.records("payments", 0)) == 1


def test_only_records_timed_by_kafka_keep_the_time_of_their_letter(desk: Desk) -> None:
    desk.write(rejected(0, topic="payments"), timestamp=BEGIN_MS + 5)
    desk.write(rejected(0), timestamp=BEGIN_MS + 6)
    desk.replay()
    assert [each.timestamp for each in desk.records("payments", 0)] == [BEGIN_MS + 5]
    assert [each.timestamp for each in desk.records("metrics", 0)] == [-1]  # The twin has no clock.


def test_what_a_filter_leaves_out_waits(desk: Desk) -> None:
    for offset in range(2000):
        topic, reason = ("metrics", "payments")[offset % 2], ("not_json", "empty", "tombstone")[offset % 3]
        desk.write(rejected(offset, topic=topic, reason=reason, value=b"%d" % offset), offset % 7 % 2)
    expected = {b"%d" % offset for offset in range(2000)}
    first = desk.replay(stream="metrics", reason="empty", most_letters=37)
    assert sum(first.by_kind.values()) == len([n for n in range(2000) if n % 6 == 4])
    assert {int(each.value or b"") % 6 for each in desk.broker.records("metrics")} == {4}
    second = desk.replay(reason="empty")
    assert second.by_kind == Counter({("payments", "empty"): len([n for n in range(2000) if n % 6 == 1])})
    assert sum(desk.replay().by_kind.values()) == 2000 - sum(first.by_kind.values()) - sum(second.by_kind.values())
    came = [each.value for topic in ("metrics", "payments") for each in desk.broker.records(topic)]
    assert len(came) == 2000
    assert set(came) == expected


def test_foreign_records_stay_where_they_are(desk: Desk) -> None:
    for number in range(6):
        desk.write(rejected(number) if number % 2 else Message(TOPIC, b"k", b"foreign", [("ce_id", b"1")]))
    before = list(desk.records(TOPIC, 0))
    desk.replay()
    assert desk.records(TOPIC, 0)[: len(before)] == before
    assert {each.value for each in desk.broker.records("metrics")} == {b"v"}


def test_a_loop_can_be_seen(desk: Desk) -> None:
    desk.write(rejected(0, partition=1, headers=[("trace", b"1")]))
    for round_ in range(1, 4):
        desk.replay()
        came = desk.records("metrics", 1)
        assert len(came) == round_
        assert list(came[-1].headers) == [("trace", b"1"), ("offkey.replays", b"%d" % round_)]
        desk.reject_again("metrics", 1, round_ - 1)
    (kind,) = desk.count().kinds.values()
    assert (kind.letters, kind.replayed, kind.again, kind.most_replays) == (4, 3, 3, 3)


class Failing(MemoryTransactions):
    """Its process ends at its n-th transaction: before it, or after it and before it is known."""

    def __init__(self, desk: Desk, at: int, committed: bool) -> None:
        super().__init__(desk.broker, None, "replay")
        self._left, self._committed = at, committed

    def finish(self, offsets: Mapping[TopicPartition, int], timeout_s: float) -> None:
        self._left -= 1
        if self._left or self._committed:
            super().finish(offsets, timeout_s)
        if not self._left:
            raise DeliveryError("killed")


@pytest.mark.parametrize("committed", [False, True])
def test_a_crash_at_any_transaction_sends_each_letter_once(desk: Desk, committed: bool) -> None:
    for offset in range(25):
        desk.write(rejected(offset, value=b"%d" % offset), offset % 2)
    crashes = 0
    for at in (1, 2, 1, 3, 1):
        with pytest.raises(DeliveryError):
            desk.replay(Failing(desk, at, committed), most_letters=3)
        crashes += 1
    desk.replay(most_letters=3)
    assert crashes == 5
    assert Counter(each.value for each in desk.broker.records("metrics")) == Counter(b"%d" % n for n in range(25))


def test_of_two_replays_at_a_time_the_older_is_shut_out(desk: Desk) -> None:
    for offset in range(10):
        desk.write(rejected(offset, value=b"%d" % offset))

    class Late(MemoryTransactions):
        """Another replay begins and ends while this one is about to send."""

        def finish(self, offsets: Mapping[TopicPartition, int], timeout_s: float) -> None:
            desk.replay()
            super().finish(offsets, timeout_s)

    with pytest.raises(DeliveryError, match=r"another process has begun .*; start the replay again"):
        desk.replay(Late(desk.broker, None, "replay"))
    assert Counter(each.value for each in desk.broker.records("metrics")) == Counter(b"%d" % n for n in range(10))


def test_a_record_too_large_for_its_topic_is_named_and_none_is_sent(desk: Desk) -> None:
    desk.write(rejected(0))
    desk.write(rejected(1, value=b"x" * 2000))
    desk.broker.max_message_bytes = 1000
    with pytest.raises(RecordError, match="dead/0@1: 2001 bytes are more than topic metrics takes"):
        desk.replay()
    assert not desk.broker.records("metrics")
    (kind,) = desk.count().kinds.values()
    assert kind.waiting == 2


def repair(letter: Letter, **changes: bytes | None) -> Repair:
    return Repair(1, sha256_of(letter), changes)


def test_repaired_bytes_go_in_place_of_the_letters(desk: Desk) -> None:
    for offset in range(5):
        desk.write(rejected(offset, value=b"%d" % offset))
    own = letters(desk)
    repairs = {
        (0, 1): repair(own[1], value=b"good"),
        (0, 2): repair(own[2], key=None, value=None),
        (0, 4): repair(own[4]),
    }
    sent = desk.replay(repairs=repairs)
    assert sum(sent.by_kind.values()) == 3
    assert [(each.key, each.value) for each in desk.records("metrics", 0)] == [
        (b"k", b"good"),
        (None, None),
        (b"k", b"4"),
    ]
    assert not desk.replay(repairs=repairs).by_kind
    assert desk.plan(repairs=repairs).replayed_already == 3
    assert {each.origin_offset for each in desk.plan().letters(desk.log)} == {0, 3}


def test_a_repair_of_a_repeat_is_refused(desk: Desk) -> None:
    desk.write(rejected(0), 0)
    desk.write(rejected(0), 1)
    own = letters(desk)
    with pytest.raises(ConfigError, match=":1: another letter tells of the same record, and stands for both"):
        desk.plan(repairs={(1, 0): repair(own[1])})
    assert sum(desk.replay(repairs={(0, 0): repair(own[0])}).by_kind.values()) == 1
    assert not desk.replay().by_kind


def test_transactions_stay_small(desk: Desk) -> None:
    """By count, and by bytes."""

    sizes: list[int] = []

    class Counting(MemoryTransactions):
        def finish(self, offsets: Mapping[TopicPartition, int], timeout_s: float) -> None:
            sizes.append(len(self._sent) - 1)  # One of them is the mark.
            super().finish(offsets, timeout_s)

    for offset in range(10):
        desk.write(rejected(offset, value=b"x" * 900_000 if offset >= 5 else b"x"))
    desk.replay(Counting(desk.broker, None, "replay"), most_letters=4)
    assert sizes == [4, 4, 2]
    sizes.clear()
    for offset in range(10, 32):
        desk.write(rejected(offset, value=b"x" * 900_000))
    desk.replay(Counting(desk.broker, None, "replay"))
    assert sizes == [10, 10, 2]


def test_an_empty_topic_is_left_empty(desk: Desk) -> None:
    assert not desk.replay().by_kind
    assert not desk.broker.records(TOPIC)


def test_what_a_worker_rejects_twice_after_a_lost_commit_goes_back_once() -> None:
    bench = Bench(partitions=1)
    bench.fill([*series_payloads(20), (b"a", b"one"), (None, b"two"), (b"a", b"one")])
    first = bench.worker()
    drain(first)
    first.source.close()
    bench.broker.committed.clear()
    drain(bench.worker())
    desk = Desk(bench.broker, make_topics=False)
    assert (len(bench.broker.records(TOPIC)), desk.count().repeats) == (6, 3)
    assert desk.replay().by_kind == Counter({("metrics", "not_json"): 3})
    assert not desk.replay().by_kind


def test_a_worker_takes_repaired_records_and_rejects_the_others_again(tmp_path: Path) -> None:
    bench = Bench(partitions=1)
    bench.fill([*series_payloads(20), (b"a", b"one"), (b"b", b"two")])
    worker = bench.worker()
    drain(worker)
    desk = Desk(bench.broker, make_topics=False)
    planned = desk.plan()
    lines = [json.loads(line_of(each, "machines")) for each in planned.letters(desk.log)]
    assert [line["value"] for line in lines] == ["one", "two"]
    lines[0]["value"] = json.dumps({"ts": BEGIN_MS + 10**12, "cpu": 1.0, "mem": 1.0})
    path = tmp_path / "edited"
    path.write_text("\n".join(map(json.dumps, lines)))
    assert desk.replay(repairs=read_repairs(path, TOPIC)).by_kind == Counter({("metrics", "not_json"): 2})
    drain(worker)
    (kind,) = desk.count().kinds.values()
    assert (kind.letters, kind.replayed, kind.again) == (3, 2, 1)
    (again,) = desk.plan().letters(desk.log)
    assert (again.record.value, again.replays) == (b"two", 1)

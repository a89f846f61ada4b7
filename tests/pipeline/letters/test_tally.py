"""What a dead-letter topic comes to: kinds, marks, foreign records; and in which memory."""

import tracemalloc
from collections.abc import Iterator

import pytest

from pipeline.connectors.memory import MemoryRecord
from pipeline.errors import RecordError
from pipeline.letters.tally import MARK, Tally, examples_of, marks, tally, waiting
from pipeline.protocols import Message, PartitionRecords, TopicPartition
from pipeline.stages.dead_letters import letter
from tests.pipeline.letters.desks import BEGIN_MS, TOPIC, Desk, rejected, unread


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_letters_are_counted_by_topic_and_reason_with_their_times(desk: Desk) -> None:
    for offset in range(5):
        desk.write(rejected(offset), offset % 2, BEGIN_MS + (7 * offset) % 5)
    desk.write(rejected(0, topic="payments"))
    desk.write(rejected(9, reason="too_large"), 1)
    counted = desk.count()
    found = {key: (kind.letters, kind.waiting) for key, kind in counted.kinds.items()}
    assert found == {
        ("metrics", "not_json"): (5, 5),
        ("payments", "not_json"): (1, 1),
        ("metrics", "too_large"): (1, 1),
    }
    times = counted.kinds["metrics", "not_json"]
    assert (times.first_ms, times.last_ms) == (BEGIN_MS, BEGIN_MS + 4)


def test_marks_count_what_they_name_and_nothing_else(desk: Desk) -> None:
    for offset in range(10):
        desk.write(rejected(offset), offset % 2)
    counted = desk.count()
    sent = [each for each in waiting(desk.log, counted, list(counted.kinds.values())) if each.origin_offset != 4]
    for placed in marks(TOPIC, sent[:6]):
        assert placed.partition is not None
        desk.write(placed, placed.partition)
        desk.write(placed, placed.partition)  # Twice changes nothing.
    again = desk.count()
    kind = again.kinds["metrics", "not_json"]
    assert (kind.letters, kind.replayed, again.foreign) == (10, 6, 0)
    left = {each.origin_offset for each in waiting(desk.log, again, [kind])}
    assert left == set(range(10)) - {each.origin_offset for each in sent[:6]}
    assert 4 in left


def test_a_mark_outlives_its_letters_and_is_of_no_harm(desk: Desk) -> None:
    for offset in range(4):
        desk.write(rejected(offset))
    letters = [found for arrived in desk.log.read() for found in Tally().take(arrived)]
    (placed,) = marks(TOPIC, letters)
    desk.write(placed)
    desk.broker.begin[TopicPartition(TOPIC, 0)] = 3
    (kind,) = desk.count().kinds.values()
    assert (kind.letters, kind.replayed) == (1, 1)


@pytest.mark.parametrize(
    "value", [b"", None, b"{", b"[]", b'{"version": 2, "offsets": []}', b'{"version": 1, "offsets": [[1]]}']
)
def test_a_mark_of_another_format_is_refused(desk: Desk, value: bytes | None) -> None:
    desk.write(rejected(0))
    desk.write(Message(TOPIC, None, value, [MARK]))
    with pytest.raises(RecordError, match="dead/0@1: no mark of replayed letters that this version reads"):
        desk.count()


def ours() -> list[tuple[str, bytes]]:
    return list(rejected(3).headers)


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("ce_id", b"1")],
        ours()[:-1],
        [*ours(), ("more", b"")],
        [*ours()[1:], ours()[0]],
        [*ours()[:4], ("__connect.errors.exception.class.name", b"org.apache.kafka.Bad"), ours()[5]],
        [ours()[0], ("__connect.errors.partition", b"x"), *ours()[2:]],
        [ours()[0], ("__connect.errors.partition", b"-1"), *ours()[2:]],
        [("__connect.errors.topic", b"\xff"), *ours()[1:]],
        [("__connect.errors.topic", None), *ours()[1:]],
        [*ours(), MARK],
    ],
)
def test_records_with_other_headers_are_foreign(desk: Desk, headers: list[tuple[str, bytes]]) -> None:
    desk.write(Message(TOPIC, b"k", b"v", headers))
    desk.write(rejected(0))
    counted = desk.count()
    assert counted.foreign == 1
    assert [kind.letters for kind in counted.kinds.values()] == [1]
    assert counted.kind_of(0, 0) is None


def test_examples_are_the_first_that_wait_of_each_kind(desk: Desk) -> None:
    for offset in range(300):
        desk.write(rejected(offset, reason="not_json" if offset % 2 else "empty"))
    desk.write(rejected(0, topic="payments"))
    desk.replay(reason="empty", most_letters=500)
    for offset in range(300, 310):
        desk.write(rejected(offset, reason="empty"))
    counted = desk.count()
    kinds = list(counted.kinds.values())
    shown = [
        (each.origin.topic, each.reason, each.origin_offset) for each in examples_of(desk.log, counted, kinds, 2)
    ]
    assert sorted(shown) == [
        ("metrics", "empty", 300),
        ("metrics", "empty", 301),
        ("metrics", "not_json", 1),
        ("metrics", "not_json", 3),
        ("payments", "not_json", 0),
    ]
    assert not list(examples_of(desk.log, counted, kinds, 0))


def test_what_comes_after_the_count_is_left_for_another_time(desk: Desk) -> None:
    desk.write(rejected(0))
    counted = desk.count()
    desk.write(rejected(1))
    assert [each.origin_offset for each in waiting(desk.log, counted, list(counted.kinds.values()))] == [0]


def test_a_letter_that_was_written_again_is_no_letter_of_its_own(desk: Desk) -> None:
    for place in (0, 1, 0):
        desk.write(rejected(7, value=b"same"), place)
    desk.write(rejected(7, value=b"other bytes"))
    desk.write(rejected(8, value=b"same"))
    desk.write(rejected(7, partition=1, value=b"same"))
    counted = desk.count()
    (kind,) = counted.kinds.values()
    assert (kind.letters, kind.waiting, counted.repeats) == (4, 4, 2)
    assert len(list(waiting(desk.log, counted, [kind]))) == 4


@pytest.mark.parametrize("place", [0, 1])
def test_a_repeat_that_comes_after_the_replay_does_not_wait(desk: Desk, place: int) -> None:
    desk.write(rejected(7, value=b"same"), 1 - place)
    desk.replay()
    desk.write(rejected(7, value=b"same"), place)
    counted = desk.count()
    (kind,) = counted.kinds.values()
    assert (kind.letters, kind.replayed, counted.repeats) == (1, 1, 1)
    assert not desk.replay().by_kind


class Endless:
    """So many letters of a kilobyte, made while they are read."""

    def __init__(self, letters: int) -> None:
        self._letters = letters

    def retained(self) -> int:
        return self._letters

    def read(self) -> Iterator[PartitionRecords]:
        for low in range(0, self._letters, 1000):
            letters = (rejected(offset, value=b"x" * 1000) for offset in range(low, low + 1000))
            records = [
                MemoryRecord(low + n, BEGIN_MS, None, own.value, own.headers) for n, own in enumerate(letters)
            ]
            yield PartitionRecords(TopicPartition(TOPIC, 0), records)


def test_a_quarter_of_a_million_letters_take_twelve_megabytes() -> None:
    tracemalloc.start()
    counted = tally(Endless(250_000), unread)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    (kind,) = counted.kinds.values()
    assert kind.letters == 250_000
    assert counted.repeats == 0
    assert peak < 13_000_000


def test_a_gap_in_offsets_takes_no_memory(desk: Desk) -> None:
    counted = Tally()
    message = rejected(0)
    tracemalloc.start()
    for offset in (0, 10**12):
        record = MemoryRecord(offset, 0, None, None, message.headers)
        assert list(counted.take(PartitionRecords(TopicPartition(TOPIC, 0), [record])))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 600_000
    assert counted.kind_of(0, 10**12) is counted.kind_of(0, 0) is not None


def test_a_record_that_came_with_error_headers_gets_its_own_back() -> None:
    own = [("trace", b"1"), *rejected(1).headers]
    message = rejected(2, headers=own)
    found = letter(TopicPartition(TOPIC, 0), MemoryRecord(0, 0, None, None, message.headers))
    assert found is not None
    assert (list(found.headers), found.origin_offset, found.replays) == (own, 2, 0)

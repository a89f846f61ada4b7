"""The comparison catches a worker that loses a record, doubles one, or changes what one says."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.connectors.memory import MemorySource
from pipeline.protocols import Message, PartitionRecords, TopicPartition
from pipeline.worker import WorkerOptions
from tests.chaos.comparison import (
    Chapter,
    Outcome,
    alerts_of,
    differences,
    final_state,
    letters_of,
    undisturbed,
)
from tests.pipeline.test_feedback_acts import PLACE, filled, marked, worker_of
from tests.streams import Bench, drain, feature_payloads, series_payloads

Alter = Callable[[Message], Sequence[Message]]


def bench(exactly_once: bool = True) -> Bench:
    options = WorkerOptions("alerts", "dead", poll_timeout_s=0, checkpoint_every_s=0)
    made = Bench(exactly_once=exactly_once, options=options)
    good = series_payloads(110)
    made.fill([*good[:90], (b"a", b"nonsense"), *good[90:], (b"b", b"")], feature_payloads(310))
    return made


@pytest.fixture(scope="module")
def chapter() -> Chapter:
    broker = bench().broker
    logs = {
        TopicPartition(topic, number): log
        for topic in ("metrics", "payments")
        for number, log in enumerate(broker.topics[topic])
    }
    nothing = dict.fromkeys(logs, 0)
    return Chapter(logs, nothing, nothing)


@pytest.fixture(scope="module")
def expected(chapter: Chapter) -> Outcome:
    return undisturbed(chapter)


def left(run: Bench, wrap: Callable[[Any], Any] = lambda part: part, **options: Any) -> Outcome:
    """Run a worker to the end, and return what it left."""
    worker = run.worker(wrap, **options)
    drain(worker)
    worker.checkpoint()
    broker = run.broker
    ends = {
        TopicPartition(topic, number): len(log)
        for topic in ("metrics", "payments")
        for number, log in enumerate(broker.topics[topic])
    }
    state = final_state(run.checkpoints, ends)
    return Outcome(alerts_of(broker.records("alerts")), letters_of(broker.records("dead")), state)


class Losing:
    """A source that loses one record of a partition."""

    def __init__(self, source: MemorySource, partition: TopicPartition, offset: int) -> None:
        self._source, self._place, self._offset = source, partition, offset

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def poll(self, timeout_s: float) -> Sequence[PartitionRecords]:
        polled = self._source.poll(timeout_s)
        kept = [
            PartitionRecords(
                each.partition,
                [one for one in each.records if each.partition != self._place or one.offset != self._offset],
            )
            for each in polled
        ]
        return [each for each in kept if each.records]


class Altering:
    """A delivery, or what publishes for one, that puts other messages in place of one."""

    def __init__(self, delivery: Any, alter: Alter) -> None:
        self._delivery, self._alter = delivery, alter

    def __getattr__(self, name: str) -> Any:
        return getattr(self._delivery, name)

    def send(self, message: Message) -> None:
        for each in self._alter(message):
            self._delivery.send(each)


def altering(change: Alter, topic: str, which: int) -> Callable[[Any], Any]:
    """Return a wrap that changes the which-eth message to a topic."""
    seen = 0

    def alter(message: Message) -> Sequence[Message]:
        nonlocal seen
        if message.topic != topic:
            return [message]
        seen += 1
        return change(message) if seen == which else [message]

    return lambda part: Altering(part, alter) if hasattr(part, "finish") else part


def lose(message: Message) -> Sequence[Message]:
    return []


def double(message: Message) -> Sequence[Message]:
    return [message, message]


def change_score(message: Message) -> Sequence[Message]:
    body = json.loads(message.value or b"")
    body["score"] += 0.001
    return [replace(message, value=json.dumps(body).encode())]


def change_bytes(message: Message) -> Sequence[Message]:
    return [replace(message, value=(message.value or b"") + b" ")]


def test_a_worker_that_does_its_work_differs_in_nothing(expected: Outcome) -> None:
    assert len(expected.alerts) > 5
    assert len(expected.letters) == 2
    for size in (7, 97, 5000):
        assert differences(expected, left(bench(), max_poll_records=size), exactly_once=True) == []


@settings(max_examples=25)
@given(number=st.sampled_from([0, 1]), share=st.floats(0, 1, exclude_max=True))
def test_any_record_that_is_lost_is_missed(expected: Outcome, chapter: Chapter, number: int, share: float) -> None:
    place = TopicPartition("metrics", number)
    # But for the last, whose offset says where the state stands.
    offset = int(share * (len(chapter.logs[place]) - 1))
    losing = left(bench(), lambda part: Losing(part, place, offset) if isinstance(part, MemorySource) else part)
    assert differences(expected, losing, exactly_once=True)


@pytest.mark.parametrize("topic", ["alerts", "dead"])
@pytest.mark.parametrize(("change", "told"), [(lose, "is missing"), (double, "is there twice")])
def test_a_message_that_is_lost_or_doubled_is_named(
    expected: Outcome, change: Alter, told: str, topic: str
) -> None:
    found = differences(expected, left(bench(), altering(change, topic, 2)), exactly_once=True)
    assert len(found) == 1
    assert told in found[0]


def test_at_least_once_a_repeat_is_none_but_a_loss_is(expected: Outcome) -> None:
    repeated = left(bench(exactly_once=False), altering(double, "alerts", 2))
    assert len(repeated.alerts) == len(expected.alerts) + 1
    assert differences(expected, repeated, exactly_once=False) == []
    lost = left(bench(exactly_once=False), altering(lose, "alerts", 2))
    assert ["is missing" in line for line in differences(expected, lost, exactly_once=False)] == [True]


@pytest.mark.parametrize("exactly_once", [True, False])
def test_another_score_is_named(expected: Outcome, exactly_once: bool) -> None:
    found = left(bench(exactly_once), altering(change_score, "alerts", 3))
    (line,) = differences(expected, found, exactly_once=exactly_once)
    assert "alert says something else" in line
    assert "score is" in line


def test_a_repeat_that_says_something_else_is_none(expected: Outcome) -> None:
    both = altering(lambda message: [message, *change_score(message)], "alerts", 3)
    assert differences(expected, left(bench(exactly_once=False), both), exactly_once=False)


def test_dead_letters_are_compared_by_the_byte(expected: Outcome) -> None:
    (line,) = differences(expected, left(bench(), altering(change_bytes, "dead", 1)), exactly_once=True)
    assert "dead letter says something else" in line


def test_another_order_is_named(expected: Outcome) -> None:
    ((place, _),) = Counter(each.place for each in expected.alerts).most_common(1)
    first, second = [i for i, each in enumerate(expected.alerts) if each.place == place][:2]
    swapped = list(expected.alerts)
    swapped[first], swapped[second] = swapped[second], swapped[first]
    found = replace(expected, alerts=swapped)
    assert differences(expected, found, exactly_once=True) == [
        f"alerts of {place.topic}/{place.partition} are in another order"
    ]


def test_a_state_that_differs_in_one_bit_is_named(expected: Outcome) -> None:
    place = TopicPartition("metrics", 0)
    state = {name: dict(arrays) for name, arrays in expected.state[place].items()}
    series = next(name for name in state if name)
    array = next(iter(state[series]))
    state[series][array] = state[series][array][:-1] + bytes([state[series][array][-1] ^ 1])
    found = replace(expected, state={**expected.state, place: state})
    (line,) = differences(expected, found, exactly_once=True)
    assert line == f"state of metrics/0, series {series}: {array} differ"


def test_a_chapter_tells_only_of_its_own_records(chapter: Chapter, expected: Outcome) -> None:
    """State that goes on publishes nothing of before; state that begins anew knows nothing of before."""
    middle = {place: len(log) // 2 for place, log in chapter.logs.items()}
    going_on = undisturbed(replace(chapter, publishes=middle))
    assert 0 < len(going_on.alerts) < len(expected.alerts)
    assert [each for each in expected.alerts if each in going_on.alerts] == list(going_on.alerts)
    assert going_on.state == expected.state
    anew = undisturbed(replace(chapter, begins=middle, publishes=middle))
    assert anew.state != expected.state


def test_feedback_acts_in_an_undisturbed_run_by_the_log_alone() -> None:
    run = filled()
    worker = worker_of(run)
    marked(run, worker, "confirmed")
    drain(worker)
    logs = {PLACE: run.broker.topics["metrics"][0], TopicPartition("payments", 0): run.broker.topics["payments"][0]}
    adopted = {PLACE: run.adopted(PLACE)}
    words = [run.adoptions.words("machines", name) for name in {entry.words for entry in adopted[PLACE]} - {""}]
    said = {"machines": [each for each in words if each is not None]}
    nothing = dict.fromkeys(logs, 0)
    heard = Outcome(alerts_of(run.broker.records("alerts")), letters_of(run.broker.records("dead")))
    assert any("feedback" in json.loads(each.value or b"") for each in heard.alerts)

    def found(chapter: Chapter) -> list[str]:
        return differences(replace(undisturbed(chapter), state={}), heard, exactly_once=True)

    given = Chapter(logs, nothing, nothing, adopted, said)
    assert found(given) == []
    deaf = replace(given, adopted={PLACE: [replace(entry, words="") for entry in adopted[PLACE]]})
    assert any("alert says something else" in line and "feedback is" in line for line in found(deaf))

"""A worker's streams hear what was said: all of it before any of it, what comes later, and what was taken back."""

import logging
from collections.abc import Sequence

import pytest
from prometheus_client import REGISTRY

from pipeline.connectors.memory import MemoryBroker, MemoryFeedback
from pipeline.errors import TransientError
from pipeline.feedback import Feedback, FeedbackSlot, message, tombstone
from pipeline.listening import EVERY_S, Listening
from pipeline.protocols import Message, PartitionRecords
from tests.said import said


class Room:
    """A topic of feedback, and a worker of the streams `machines` and `payments` that listens to it."""

    def __init__(self, *messages: Message, portion: int = 100) -> None:
        self.broker = MemoryBroker()
        self.broker.create_topic("feedback", 1)
        self.say(*messages)
        self.now_s = 0.0
        self.topic = MemoryFeedback(self.broker, "feedback", portion)
        self.slots = {"machines": FeedbackSlot(), "payments": FeedbackSlot()}
        self.listening = Listening(self.topic, "feedback", self.slots, lambda: self.now_s)

    def say(self, *messages: Message) -> None:
        for each in messages:
            self.broker.append("feedback", each.value, key=each.key)

    def look(self) -> dict[str, list[str] | None]:
        """Look when it is time to; return the incidents of which each stream has heard."""
        self.now_s += EVERY_S
        self.listening.look()
        return {name: None if slot.words is None else list(slot.words.said) for name, slot in self.slots.items()}


def of(*pieces: Feedback) -> list[Message]:
    return [message(each, "feedback") for each in pieces]


def test_each_stream_hears_of_its_own_incidents() -> None:
    room = Room(*of(said("i1"), said("i2", stream="payments")))
    assert room.look() == {"machines": ["i1"], "payments": ["i2"]}
    room.say(*of(said("i3")), tombstone("i2", "feedback"))
    assert room.look() == {"machines": ["i1", "i3"], "payments": []}


def test_nothing_counts_before_all_of_it_is_read() -> None:
    class Slow(MemoryFeedback):
        """Brings one record a look, as a broker whose answers take a while."""

        polls = 0

        def poll(self) -> Sequence[PartitionRecords]:
            self.polls += 1
            return super().poll() if self.polls % 2 else ()

    room = Room(*of(said("i1"), said("i1", "confirmed")), tombstone("i1", "feedback"))
    slow = Slow(room.broker, "feedback", 1)
    room.listening = Listening(slow, "feedback", room.slots, lambda: room.now_s)
    assert [room.look()["machines"] for _ in range(3)] == [None, None, []]


def test_a_topic_that_holds_nothing_says_that_nothing_was_said() -> None:
    assert Room().look() == {"machines": [], "payments": []}


def test_it_looks_now_and_then_only() -> None:
    room = Room()
    room.look()
    room.say(*of(said("i1")))
    room.now_s += EVERY_S / 2
    room.listening.look()
    words = room.slots["machines"].words
    assert words is not None
    assert not words.said
    assert room.look()["machines"] == ["i1"]


def test_the_same_words_again_are_no_other_words() -> None:
    room = Room(*of(said("i1")))
    room.look()
    before = room.slots["machines"].words
    room.say(*of(said("i1")), *of(said("i2", stream="payments")))
    room.look()
    assert room.slots["machines"].words is before


def test_what_is_unreadable_is_counted_and_what_is_of_other_streams_is_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    before = REGISTRY.get_sample_value("offkey_feedback_unreadable_total") or 0.0
    room = Room(Message("feedback", b"i1", b"{"), *of(said("i2", stream="elsewhere"), said("i3")))
    with caplog.at_level(logging.WARNING):
        assert room.look() == {"machines": ["i3"], "payments": []}
        room.look()
    assert REGISTRY.get_sample_value("offkey_feedback_unreadable_total") == before + 1
    assert REGISTRY.get_sample_value("offkey_feedback", {"stream": "machines"}) == 1
    assert caplog.text.count("feedback on streams that this worker does not read is left alone: ['elsewhere']") == 1


def test_a_broker_that_refuses_is_said_once_and_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    class Refusing(MemoryFeedback):
        refuses = False

        def poll(self) -> Sequence[PartitionRecords]:
            if self.refuses:
                raise TransientError("topic feedback: no answer")
            return super().poll()

    room = Room(*of(said("i1")))
    refusing = Refusing(room.broker, "feedback")
    room.listening = Listening(refusing, "feedback", room.slots, lambda: room.now_s)
    room.look()
    refusing.refuses = True
    room.say(*of(said("i2")))
    assert [room.look()["machines"] for _ in range(2)] == [["i1"], ["i1"]]
    assert caplog.text.count("what was said before goes on to count: topic feedback: no answer") == 1
    refusing.refuses = False
    assert room.look()["machines"] == ["i1", "i2"]

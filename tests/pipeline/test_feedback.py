"""Messages of feedback: the newest word on each incident, and what cannot be read stops nobody."""

import logging

import msgspec
import pytest

from pipeline.connectors.memory import MemoryRecord
from pipeline.feedback import Book, Deviation, Unreadable, Words, decoded, is_compacted, message, tombstone
from pipeline.protocols import Message
from tests.said import said


def record(key: bytes | None, value: bytes | None, offset: int = 0) -> MemoryRecord:
    return MemoryRecord(offset, 0, key, value, ())


def of(*messages: Message) -> list[MemoryRecord]:
    return [record(each.key, each.value, offset) for offset, each in enumerate(messages)]


def test_a_message_is_keyed_by_its_incident_and_comes_back_whole() -> None:
    given = said("i1", "expected", until_ms=5, note="new disks")
    sent = message(given, "feedback")
    assert (sent.topic, sent.key) == ("feedback", b"i1")
    assert decoded(sent.key, sent.value) == ("i1", given)
    assert msgspec.json.decode(sent.value or b"")["version"] == 1


def test_a_tombstone_takes_it_back() -> None:
    sent = tombstone("i1", "feedback")
    assert decoded(sent.key, sent.value) == ("i1", None)


def test_what_a_later_version_adds_is_passed_over() -> None:
    sent = message(said("i1"), "feedback")
    assert sent.value is not None
    assert decoded(b"i1", sent.value.replace(b'"note"', b'"weight":3,"note"')) == ("i1", said("i1"))


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        (b'"version":1', b'"version":2', "version"),
        (b'"version":1,', b"", "missing required field `version`"),
        (b'"false_alarm"', b'"false"', "Invalid enum value"),
        (b'"false_alarm"', b'"expected"', "`until_ms` belongs to `expected`"),
        (b'"until_ms":null', b'"until_ms":7', "`until_ms` belongs to `expected`"),
        (b'"peak":50.0', b'"peak":null', "a deviation has a peak"),
        (b'"peak":50.0', b'"peak":1e300', "Expected `float` <= "),
        (b'"cpu":0.9', b'"cpu":-0.9', "Expected `float` >= 0"),
        (b'"cpu":1}', b'"cpu":2}', "Invalid enum value 2"),
        (b'"opened_ms":100', b'"opened_ms":99999999999999999999', "opened_ms"),
        (b'"incident":"i1"', b'"incident":"i2"', "its key is 'i1', it speaks of 'i2'"),
        (b"{", b"", "Expected `object`, got `str`"),
        (b"{", b"[" * 100_000, "Expected `object`, got `array`"),
    ],
)
def test_what_is_no_feedback_is_unreadable(old: bytes, new: bytes, why: str) -> None:
    value = message(said("i1"), "feedback").value
    assert value is not None
    assert old in value
    with pytest.raises(Unreadable, match=why):
        decoded(b"i1", value.replace(old, new, 1))


@pytest.mark.parametrize("key", [None, b"", b"\xff"])
def test_a_key_that_names_no_incident_is_unreadable(key: bytes | None) -> None:
    with pytest.raises(Unreadable, match="key"):
        decoded(key, None)


def test_the_book_holds_the_newest_word_and_tells_what_has_changed() -> None:
    book = Book("feedback")
    first, second = said("i1"), said("i1", "confirmed")
    assert book.take(of(message(first, "f"), message(said("i2"), "f"))) == {"i1": first, "i2": said("i2")}
    assert book.take(of(message(first, "f"))) == {}
    assert book.take(of(message(second, "f"), tombstone("i2", "f"), tombstone("i3", "f"))) == {
        "i1": second,
        "i2": None,
    }
    assert book.said == {"i1": second}


def test_an_unreadable_message_is_counted_and_said_and_leaves_the_word_before_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    book = Book("feedback")
    with caplog.at_level(logging.WARNING):
        changed = book.take([*of(message(said("i1"), "f")), record(b"i1", b"{", 7), record(None, b"{}", 8)])
    assert changed == {"i1": said("i1")}
    assert (book.said, book.unreadable) == ({"i1": said("i1")}, 2)
    assert "feedback@7: feedback that cannot be read" in caplog.text


@pytest.mark.parametrize(
    ("policy", "kept"), [("compact", True), ("delete", False), ("compact,delete", False), ("", False)]
)
def test_only_a_topic_that_deletes_nothing_keeps_what_was_said(policy: str, kept: bool) -> None:
    assert is_compacted(policy) is kept


def test_the_verdict_says_whether_there_is_an_end() -> None:
    with pytest.raises(ValueError, match="`until_ms` belongs to `expected`"):
        said("i1", "confirmed", until_ms=1)
    assert Deviation({"cpu": 1.0}).signs == {}


def test_words_are_kept_by_their_content_whatever_order_they_came_in() -> None:
    one, two, other = said("i1"), said("i2", "confirmed"), said("i3", stream="payments")
    book, again = Book("f"), Book("f")
    book.take(of(message(one, "f"), message(two, "f"), message(other, "f")))
    again.take(of(message(two, "f"), tombstone("i1", "f"), message(one, "f")))
    words = book.of("machines")
    assert words.said == {"i1": one, "i2": two}
    assert (words.name, words.content) == (again.of("machines").name, again.of("machines").content)
    assert Words.of(words.content) == words
    assert words.name != book.of("payments").name != ""
    assert Words().name == book.of("nobody's").name == ""
    with pytest.raises(Unreadable):
        Words.of(words.content[:-1])

import json
import logging
import sys

from pipeline import logs
from pipeline.protocols import TopicPartition


def record_of(
    text: str, *args: object, level: int = logging.INFO, extra: dict[str, object] | None = None
) -> logging.LogRecord:
    record = logging.LogRecord("pipeline.worker", level, __file__, 1, text, args, None)
    record.__dict__.update(extra or {})
    record.created = 1_700_000_000.25
    return record


def test_a_line_of_json_says_what_the_event_is_about() -> None:
    about = logs.about(TopicPartition("metrics", 3), stream="machines", offset=7, version="v2")
    line = logs.JsonLines().format(record_of("judged by %s\nfrom now on", "v2", extra=about))
    assert "\n" not in line
    assert json.loads(line) == {
        "time": "2023-11-14T22:13:20.250+00:00",
        "level": "info",
        "logger": "pipeline.worker",
        "message": "judged by v2\nfrom now on",
        "topic": "metrics",
        "partition": 3,
        "stream": "machines",
        "offset": 7,
        "version": "v2",
    }


def test_it_holds_the_process_and_the_exception() -> None:
    record = record_of("a bug", level=logging.ERROR)
    try:
        raise ValueError("\x1b[31mred")
    except ValueError:
        record.exc_info = sys.exc_info()
    line = logs.JsonLines(process=2).format(record)
    assert "\x1b" not in line
    said = json.loads(line)
    assert (said["process"], said["level"]) == (2, "error")
    assert said["exception"].endswith("ValueError: \x1b[31mred")


def test_lines_of_one_kind_are_told_a_few_times_a_minute_and_then_counted() -> None:
    now_s = [0.0]
    repeats = logs.Repeats(lambda: now_s[0])
    told = [repeats.filter(record_of("no checkpoint of %s", number)) for number in range(50)]
    assert told == [True] * 20 + [False] * 30
    assert repeats.filter(record_of("another kind"))
    now_s[0] = 59.9
    assert not repeats.filter(record_of("no checkpoint of %s", 50))
    now_s[0] = 60.0
    first = record_of("no checkpoint of %s", 51)
    assert repeats.filter(first)
    assert first.getMessage() == "no checkpoint of 51 (and 31 more like it before)"
    second = record_of("no checkpoint of %s", 52)
    assert repeats.filter(second)
    assert second.getMessage() == "no checkpoint of 52"


def test_whoever_asks_for_everything_gets_it() -> None:
    repeats = logs.Repeats(lambda: 0.0)
    assert all(repeats.filter(record_of("offsets", level=logging.DEBUG)) for _ in range(100))


def test_kinds_are_forgotten_that_were_not_seen_for_long() -> None:
    repeats = logs.Repeats(lambda: 0.0)
    for number in range(2000):
        assert repeats.filter(record_of(f"kind {number}"))
    assert len(repeats._kinds) == 1000

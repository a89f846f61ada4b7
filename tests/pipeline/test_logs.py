import ast
import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from models.files import to_files
from pipeline import logs
from pipeline.protocols import ModelVersion, TopicPartition
from pipeline.versions.log import Promotion
from tests import notifying, recording, scheduling
from tests.pipeline.test_swap import registered, watching
from tests.receiving import Hook, Reply
from tests.streams import retrained_detector


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


_CHATTY = """
import logging
from pipeline import logs

logs.begin(logging.INFO)
logs.use("json", 3)
for number in range(30):
    logging.getLogger("a").info("line %d", number)
"""


def test_a_command_that_runs_tells_them_so() -> None:
    run = subprocess.run([sys.executable, "-c", _CHATTY], capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in run.stderr.splitlines()]
    assert [line["message"] for line in lines] == [f"line {n}" for n in range(20)]
    assert {line["process"] for line in lines} == {3}


def test_whoever_asks_for_everything_gets_it() -> None:
    repeats = logs.Repeats(lambda: 0.0)
    assert all(repeats.filter(record_of("offsets", level=logging.DEBUG)) for _ in range(100))


def test_kinds_are_forgotten_that_were_not_seen_for_long() -> None:
    repeats = logs.Repeats(lambda: 0.0)
    for number in range(2000):
        assert repeats.filter(record_of(f"kind {number}"))
    assert len(repeats._kinds) == 1000


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """Return our own lines as JSON has them, without what each has."""
    said = [
        json.loads(logs.JsonLines().format(record))
        for record in caplog.records
        if record.name.startswith("pipeline.")
    ]
    return [{key: text for key, text in line.items() if key not in ("time", "level", "logger")} for line in said]


def about(caplog: pytest.LogCaptureFixture, text: str) -> dict[str, Any]:
    """Return the fields of the one line whose message holds a text."""
    (line,) = (line for line in lines(caplog) if text in line["message"])
    return {key: value for key, value in line.items() if key != "message"}


def test_lines_of_a_recorder(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    bench = recording.Bench(partitions=1)
    bench.fill(recording.payloads(100), days=0)
    recorder = bench.recorder()
    place = {"stream": "machines", "topic": "metrics", "partition": 0}
    recorder.step()
    assert about(caplog, "records from offset") == {**place, "offset": 0}
    bench.storage.left = 0
    recorder.step()
    recorder.step()
    assert about(caplog, "no file: ") == {**place, "offset": 0}


def test_lines_of_a_scheduler(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    bench = scheduling.Bench({"machines": {}})
    bench.promote()
    bench.send(b"what is this?")
    bench.ask()
    scheduler = bench.scheduler()
    for _ in range(3):
        scheduler.step()
    assert about(caplog, "is ours") == {"topic": "control"}
    assert about(caplog, "it is passed over") == {"topic": "control", "partition": 0, "offset": 0}
    assert about(caplog, "asks for a training") == {
        "topic": "control",
        "partition": 0,
        "offset": 1,
        "stream": "machines",
    }
    assert about(caplog, "(request) begins") == {"stream": "machines", "cause": "request"}
    bench.conclude(scheduler, scheduling.REFUSED)
    assert about(caplog, "not better") == {"stream": "machines", "cause": "request", "outcome": "refused"}


def test_lines_of_a_notifier(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with Hook() as hook:
        world = notifying.World(hook)
        world.publish(*notifying.incidents("a"))
        hook.usual = notifying.DOWN
        notifier = world.notifier()
        notifier.step()
        place = {"topic": "alerts", "partition": 0, "offset": 0, "stream": "machines", "receiver": "hook"}
        assert about(caplog, "nothing is lost meanwhile") == place
        hook.usual = Reply(400)
        world.now_s += 60
        notifier.step()
        assert about(caplog, "becomes a dead letter") == place


def test_lines_of_a_swap(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    registry = registered("v1")
    _, watcher = watching(registry)
    registry.add(ModelVersion("machines", "v2", to_files(retrained_detector())))
    registry.promote("machines", Promotion(2, "v2", 5000, "a test"))
    watcher.look()
    assert about(caplog, "is loaded") == {"stream": "machines", "version": "v2"}
    registry.promote("machines", Promotion(3, "v3", 6000, "a test"))
    watcher.look()
    assert about(caplog, "v3") == {"stream": "machines", "version": "v3"}


def test_no_line_names_a_stream_or_a_receiver_in_its_text_alone() -> None:
    bare = []
    for path in sorted((Path(logs.__file__).parent).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if not (isinstance(node, ast.Call) and called.startswith("logger.") and called != "logger.debug"):
                continue
            texts = [arg.value for arg in node.args[:2] if isinstance(arg, ast.Constant)]
            named = any(str(text).startswith(("stream %s", "receiver %s", "%s: ")) for text in texts)
            if named and "extra" not in {keyword.arg for keyword in node.keywords}:
                bare.append(f"{path.name}:{node.lineno}")
    assert bare == []

"""`offkey feedback`, as its users type it, on both brokers; and what `check` and `retrain` make of it."""

import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pipeline.config import load_settings
from pipeline.connectors.connection import Connection
from pipeline.connectors.embedded import free_port
from pipeline.connectors.kafka import KafkaCluster, KafkaLog, KafkaPublisher
from pipeline.feedback import Feedback, read_book
from pipeline.protocols import Message
from pipeline.stages.alerts import Alert, message
from tests.commands import Running, configured, events, metrics_of, only_line, produce, promote, wait_for
from tests.pipeline.stages.test_alerts import alert
from tests.pipeline.test_incident_log import UP
from tests.said import said
from tests.streams import SERIES, payloads_of, series_rows

Run = Callable[..., tuple[int, str, str]]
FIRST, SECOND = "3f2a9c41d07be65890abf3e1c2d47765", "3f88" + "0" * 28
T0 = 1_700_000_000_000


@dataclass
class Setting:
    config: Path
    connection: Connection
    alerts: str
    feedback: str

    def publish(self, *messages: Message) -> None:
        with closing(KafkaPublisher(self.connection)) as publisher:
            for each in messages:
                publisher.send(each)
            publisher.flush(30)

    def tell(self, *alerts: Alert) -> None:
        self.publish(*(message(each, self.alerts) for each in alerts))

    def said(self) -> dict[str, Feedback]:
        return read_book(KafkaLog(self.connection, self.feedback), self.feedback).said


def create(connection: Connection, topic: str, policy: str) -> None:
    with closing(KafkaCluster(connection)) as cluster:
        configs = {"cleanup.policy": policy}
        cluster._admin.create_topics({topic: {"num_partitions": 1, "replication_factor": 1, "configs": configs}})


@pytest.fixture
def setting(any_broker: str, unique: Callable[[str], str], tmp_path: Path) -> Setting:
    connection = Connection(any_broker)
    names = {name: unique(name) for name in ("alerts", "dead", "feedback", "metrics")}
    with closing(KafkaCluster(connection)) as cluster:
        cluster.create_topics({names[name]: 1 for name in ("alerts", "dead", "metrics")})
    create(connection, names["feedback"], "compact")
    stream = SERIES.model_dump(mode="json", exclude_unset=True) | {"topic": names["metrics"]}
    topics = {"alerts": names["alerts"], "dead_letters": names["dead"], "feedback": names["feedback"]}
    config = configured(tmp_path, any_broker, topics=topics, streams={"machines": stream})
    made = Setting(config, connection, names["alerts"], names["feedback"])
    made.tell(
        alert(incident=FIRST, series="a", opened_ms=T0, event_ms=T0, features=UP),
        alert(incident=SECOND, series="b", opened_ms=T0, event_ms=T0),
        alert(incident=FIRST, series="a", state="resolved", score=50.0, opened_ms=T0, event_ms=T0 + 60_000),
        alert(incident="e" * 32, stream="machine", series="a"),
    )
    return made


def test_the_path_of_a_user(setting: Setting, run: Run) -> None:
    """Said by the beginning of an id, said again, listed, taken back."""
    config = str(setting.config)
    status, printed, wrong = run("feedback", config, "3f2", "false_alarm", "--note", "the weekly backup")
    assert (status, wrong) == (0, "")
    assert printed.splitlines() == [
        f"{FIRST}: false_alarm",
        "  machines a, opened 2023-11-14 22:13:20, ended 2023-11-14 22:14:20; highest score 50.0",
        "  deviations of its kind in a alert above 57.0 from now on",
    ]
    kept = setting.said()[FIRST]
    assert (kept.verdict, kept.series, kept.peak, kept.threshold) == ("false_alarm", "a", 50.0, 31.25)
    assert (kept.topic, kept.partition, kept.opened_ms, kept.ended_ms) == ("metrics", 3, T0, T0 + 60_000)
    assert kept.deviations[0].shares == {"cpu": 0.75, "mem": 0.25}
    assert kept.note == "the weekly backup"
    assert "@" in kept.by
    status, printed, _ = run("feedback", config, FIRST, "expected", "--until", "2090-01-01T00:00:00Z")
    assert (status, printed.splitlines()[0]) == (0, f"{FIRST}: expected, was false_alarm")
    assert setting.said()[FIRST].until_ms == 3_786_912_000_000
    status, printed, _ = run("feedback", config, SECOND, "confirmed", "--json")
    assert (status, json.loads(printed)["incident"]) == (0, SECOND)
    status, printed, _ = run("feedback", config, "--list", "--json")
    assert [json.loads(line)["verdict"] for line in printed.splitlines()] == ["expected", "confirmed"]
    status, printed, _ = run("feedback", config, "--list")
    assert status == 0
    assert printed.splitlines()[:2] == [
        f"{FIRST}: expected until 2090-01-01 00:00:00",
        "  machines a, opened 2023-11-14 22:13:20, ended 2023-11-14 22:14:20; highest score 50.0",
    ]
    assert printed.splitlines()[3] == f"{SECOND}: confirmed"
    status, printed, _ = run("feedback", config, "3f2a", "--retract")
    assert (status, printed) == (0, f"{FIRST}: expected is taken back; thresholds are as before it\n")
    assert list(setting.said()) == [SECOND]
    assert json.loads(run("feedback", config, SECOND, "--retract", "--json")[1])["retracted"] == "confirmed"
    assert run("feedback", config, "--list")[1] == "nothing was said of any incident\n"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["none", "confirmed"], "tells of no incident 'none'; the newest are: "),
        ([FIRST[:-1] + "6", "confirmed"], f"did you mean {FIRST}?"),
        (["3f", "confirmed"], "incident '3f': 2 begin so; write more of it: "),
        (["e", "confirmed"], f"incident {'e' * 32}: there is no stream 'machine'; did you mean 'machines'?"),
        (["none", "--retract"], "nothing was said of incident 'none'; see: offkey feedback CONFIG --list"),
    ],
)
def test_an_incident_that_is_not_there(setting: Setting, run: Run, arguments: list[str], line: str) -> None:
    status, printed, wrong = run("feedback", str(setting.config), *arguments)
    assert (status, printed) == (2, "")
    assert line in only_line(wrong)
    assert setting.said() == {}


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["x", "false_alrm"], "there is no verdict 'false_alrm'; did you mean 'false_alarm'?"),
        (["x", "wrong"], "there is no verdict 'wrong'; there are: false_alarm, confirmed, expected"),
        (["x"], "what was it? write one of false_alarm, confirmed, expected behind the incident, or --retract"),
        ([], "which incident? name one, as in: offkey feedback CONFIG INCIDENT false_alarm; or --list"),
        (
            ["x", "expected"],
            "`expected` needs an end: --until 2026-03-01T22:00:00Z, or from now, as in --until 36h",
        ),
        (["x", "confirmed", "--until", "2h"], "--until belongs to `expected`, not to confirmed; leave it out"),
        (["x", "expected", "--until", "2020-01-01T00:00:00Z"], "--until 2020-01-01T00:00:00Z: that has passed; "),
        (["x", "expected", "--until", "0s"], "--until 0s: that has passed; write a moment to come"),
        (["x", "expected", "--until", "soon"], "--until: 'soon' is no moment; write one with its zone, such as "),
        (["x", "expected", "--until", "2090-01-01"], "--until: '2090-01-01' is no moment; write one with its zone"),
        (["x", "expected", "--until", "20900101"], "--until: '20900101' is no moment; write one with its zone"),
        (["x", "expected", "--until", "99999999999d"], "that is too far away; write a moment before the year 2100"),
        (["x", "confirmed", "--note", "a\nb"], "--note: it takes one line of up to 1000 characters; write less"),
        (["x", "--list"], "--list shows what was said of all incidents; give nothing but CONFIG with it"),
        (["x", "confirmed", "--retract"], "--retract takes back what was said; give no verdict with it, nor "),
    ],
)
def test_mistakes_are_a_line_and_need_no_broker(tmp_path: Path, run: Run, arguments: list[str], line: str) -> None:
    status, printed, wrong = run("feedback", str(configured(tmp_path)), *arguments)
    assert (status, printed) == (2, "")
    assert line in only_line(wrong)


def test_a_broker_that_is_not_there(tmp_path: Path, run: Run) -> None:
    for arguments in (["x", "confirmed"], ["--list"], ["x", "--retract"]):
        status, _, wrong = run("feedback", str(configured(tmp_path)), *arguments)
        assert status == 1
        assert "is the broker running" in only_line(wrong)


def test_what_is_open_may_rise(setting: Setting, run: Run) -> None:
    printed = run("feedback", str(setting.config), SECOND, "false_alarm")[1]
    assert "b, opened 2023-11-14 22:13:20, open; highest score 41.5" in printed
    assert printed.endswith("alert above 48.5 from now on; say it again when it has ended, should it rise\n")


def test_what_moves_no_threshold_says_so(setting: Setting, run: Run) -> None:
    silent = alert(incident="5" * 32, state="silent", score=None, threshold=None, features={})
    setting.tell(silent, alert(incident="6" * 32, features={}))
    printed = run("feedback", str(setting.config), "5", "false_alarm")[1]
    assert printed.splitlines()[-1] == "  it has no score, so no threshold moves"
    printed = run("feedback", str(setting.config), "6", "confirmed")[1]
    assert printed.splitlines()[-1] == (
        "  its alerts tell of no feature, so no threshold moves; retraining leaves its span out"
    )


def test_unreadable_messages_are_counted_and_the_others_listed(setting: Setting, run: Run) -> None:
    setting.publish(
        Message(setting.feedback, b"i1", msgspec.json.encode(said("i1", note="a\u202eb"))),
        Message(setting.feedback, b"i2", b"{}"),
        Message(setting.feedback, b"i3", b"\xff"),
    )
    status, printed, wrong = run("feedback", str(setting.config), "--list")
    assert status == 0
    assert "a\\u202eb" in printed
    assert only_line(wrong) == "messages that could not be read and are left out: 2"


def rows(run: Run, config: Path) -> dict[str, dict[str, Any]]:
    return {row["what"]: row for row in json.loads(run("check", "--json", str(config))[1])}


def test_check_says_whether_the_topic_is_there_and_compacted(
    apache_broker: str, unique: Callable[[str], str], tmp_path: Path, run: Run
) -> None:
    connection, topic, deleting = Connection(apache_broker), unique("said"), unique("deleting")
    create(connection, topic, "compact")
    create(connection, deleting, "compact,delete")
    config = configured(tmp_path, apache_broker, topics={"feedback": topic})
    found = rows(run, config)["topic of feedback"]
    assert (found["verdict"], found["found"]) == ("ok", f"{topic}, partitions: 1, compacted")
    config = configured(tmp_path, apache_broker, topics={"feedback": deleting})
    found = rows(run, config)["topic of feedback"]
    assert found["verdict"] == "wrong"
    assert "cleanup.policy is compact,delete" in found["found"]
    assert found["remedy"] == "set cleanup.policy=compact for it"
    status, _, wrong = run("feedback", str(config), "x", "confirmed")
    assert (status, "would be lost in time; set cleanup.policy=compact for it" in only_line(wrong)) == (2, True)
    missing = unique("missing")
    found = rows(run, configured(tmp_path, apache_broker, topics={"feedback": missing}))["topic of feedback"]
    assert found["verdict"] == "warning"
    assert found["remedy"] == f"to use `offkey feedback`, create {missing} with cleanup.policy=compact"


def test_training_asks_the_topics_which_spans_teach_nothing(setting: Setting, run: Run) -> None:
    from pipeline.cli_training import Opened

    for incident, verdict in ((FIRST, "confirmed"), (SECOND, "false_alarm")):
        assert run("feedback", str(setting.config), incident, verdict)[0] == 0
    setting.tell(alert(incident="7" * 32, series="c", opened_ms=T0, event_ms=T0))
    spans = Opened(setting.config, None).spans("machines")
    assert [(span.series, span.from_ms, span.why) for span in spans] == [
        ("a", T0, f"incident {FIRST}"),
        ("c", T0, f"incident {'7' * 32}"),
    ]
    assert spans[0].to_ms == T0 + 60_001


def test_training_goes_on_where_nothing_was_ever_said(
    any_broker: str, unique: Callable[[str], str], tmp_path: Path
) -> None:
    from pipeline.cli_training import Opened

    topics = {"alerts": unique("none"), "feedback": unique("nothing")}
    assert Opened(configured(tmp_path, any_broker, topics=topics), None).spans("machines") == []


def test_a_running_worker_heeds_what_is_said(setting: Setting, run: Run) -> None:
    """The spike that was a false alarm comes again and is not told; after the retraction it is."""
    names, spikes = ["a", "b", "c"], [60, 120, 180]
    payloads = payloads_of(names, series_rows(names, 240, 2, {"a": spikes}))
    topic = load_settings(setting.config).streams["machines"].topic
    setting.config.write_text(
        json.dumps({**json.loads(setting.config.read_text()), "metrics": {"port": free_port()}})
    )
    promote(setting.config)

    def told() -> list[str]:
        new = [each for each in events(setting.connection, setting.alerts) if each["topic"] == topic]
        return [each["incident"] for each in new if each["state"] == "opened" and each["series"] == "a"]

    def metric(line: str) -> Callable[[], bool]:
        return lambda: line in metrics_of(setting.config)

    def scored(records: int) -> Callable[[], bool]:
        return metric(f'offkey_records_total{{stream="machines"}} {float(records)}\n')

    with Running(setting.config) as worker:
        wait_for(lambda: _answers(setting.config), worker)
        produce(setting.connection, topic, payloads[: 3 * 90])
        wait_for(scored(3 * 90), worker)
        (incident,) = told()
        assert run("feedback", str(setting.config), incident, "false_alarm")[0] == 0
        wait_for(metric('offkey_feedback{stream="machines"} 1.0\n'), worker)
        produce(setting.connection, topic, payloads[3 * 90 : 3 * 150])
        wait_for(scored(3 * 150), worker)
        assert told() == [incident]
        assert metric('offkey_feedback_adoptions_total{stream="machines"} 1.0\n')()
        assert run("feedback", str(setting.config), incident, "--retract")[0] == 0
        wait_for(metric('offkey_feedback{stream="machines"} 0.0\n'), worker)
        produce(setting.connection, topic, payloads[3 * 150 :])
        wait_for(scored(3 * 240), worker)
        assert len(told()) == 2
        assert worker.end() == ""


def _answers(config: Path) -> bool:
    try:
        return "offkey_partitions_assigned" in metrics_of(config)
    except OSError:
        return False

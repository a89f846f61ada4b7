"""Settings from environment variables: what they win over, how their values are read, and what is none of ours."""

from pathlib import Path

import pytest

from pipeline.config import load_settings
from pipeline.errors import ConfigError
from tests.pipeline.configurations import GOOD, write


def test_the_environment_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFFKEY_KAFKA__BOOTSTRAP_SERVERS", "kafka:9092")
    monkeypatch.setenv("OFFKEY_STREAMS__MACHINES__HOLD_POINTS", "64")
    settings = load_settings(write(tmp_path, "kafka: {bootstrap_servers: 'x:1', group_id: g}\n" + GOOD))
    assert (settings.kafka.bootstrap_servers, settings.kafka.group_id) == ("kafka:9092", "g")
    assert settings.streams["machines"].hold_points == 64
    assert settings.streams["machines"].topic == "metrics"


def test_the_environment_takes_streams_in_any_case_and_values_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OFFKEY_STREAMS__WEB-1__FEATURES", "[cpu, mem.used]")
    monkeypatch.setenv("OFFKEY_STREAMS__WEB-1__MODEL__HIDDEN", "3")
    monkeypatch.setenv("OFFKEY_STREAMS__WEB-1__TIME", "2024")
    monkeypatch.setenv("OFFKEY_KAFKA__GROUP_ID", "007")
    monkeypatch.setenv("OFFKEY_KAFKA__CONNECT_TIMEOUT", "2 min")
    monkeypatch.setenv("OFFKEY_TOPICS", "{alerts: first, dead_letters: dead}")
    monkeypatch.setenv("OFFKEY_TOPICS__ALERTS", "second")
    settings = load_settings(write(tmp_path, "streams:\n  Web-1:\n    topic: metrics\n"))
    stream = settings.streams["Web-1"]
    assert (stream.features, stream.time, stream.model.options) == (["cpu", "mem.used"], "2024", {"hidden": 3})
    assert (settings.kafka.group_id, settings.kafka.connect_timeout) == ("007", 120)
    assert (settings.topics.alerts, settings.topics.dead_letters) == ("second", "dead")


@pytest.mark.parametrize(
    ("variable", "text", "said"),
    [
        ("OFFKEY_METRICS__PORT", "many", "metrics.port is 'many'; it takes a whole number"),
        ("OFFKEY_METRICS__PORT", "", "metrics.port is empty; it takes a whole number"),
        ("OFFKEY_KAFKA__GROUP", "x", "kafka.group is no setting; did you mean 'group_id'?"),
        ("OFFKEY_KAFKAA__X", "1", "kafkaa is no setting; did you mean 'kafka'?"),
        ("OFFKEY_STREAM__A__TOPIC", "t", "stream is no setting; did you mean 'streams'?"),
        ("OFFKEY_KAFKA_GROUP_ID", "x", "kafka_group_id is no setting; did you mean OFFKEY_KAFKA__GROUP_ID?"),
        ("OFFKEY_KAFKA__GROUP_ID__X", "3", "kafka.group_id takes a value and has no keys below it; take __X off"),
        ("OFFKEY_ZZZ", "1", "zzz is no setting; there are: device, kafka"),
        ("OFFKEY_STREAMS", "x", "streams is 'x'; it takes keys of its own below it"),
        ("OFFKEY_KAFKA", "[1]", "kafka is [1]; it takes keys of its own below it"),
        ("OFFKEY_KAFKA", "{", "kafka: not YAML: "),
        ("OFFKEY_STREAMS__MACHINES", "x", "streams.machines is 'x'; it takes keys of its own below it"),
        ("OFFKEY_STREAMS__MACHINES__FEATURES", "[", "streams.machines.features: not YAML: "),
        ("OFFKEY_STREAMS__MACHINES__FEATURES", "cpu", "streams.machines.features is 'cpu'; it takes a list"),
        ("OFFKEY_STREAMS__OTHER__WINDOW", "9", "streams.other.topic is missing; add it"),
        ("OFFKEY_WORKER__RETRY_DEADLINE", "0", "worker.retry_deadline: 0 is too short or too long"),
    ],
)
def test_a_mistake_in_the_environment_is_said_to_be_there(
    variable: str, text: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, text)
    with pytest.raises(ConfigError) as caught:
        load_settings(write(tmp_path, GOOD + "kafka: {group_id: g}\n" * (variable != "OFFKEY_KAFKA")))
    assert str(caught.value).startswith(f"environment variable {variable}: {said}")
    assert str(caught.value).isprintable()


def test_what_kubernetes_tells_of_its_services_is_not_taken_for_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service named offkey or offkey-metrics puts these into the pods beside it."""
    for variable, text in {
        "OFFKEY_SERVICE_HOST": "10.0.0.1",
        "OFFKEY_SERVICE_PORT": "9108",
        "OFFKEY_SERVICE_PORT_METRICS": "9108",
        "OFFKEY_PORT": "tcp://10.0.0.1:9108",
        "OFFKEY_METRICS_PORT": "tcp://10.0.0.1:9108",
        "OFFKEY_METRICS_PORT_9108_TCP_ADDR": "10.0.0.1",
    }.items():
        monkeypatch.setenv(variable, text)
    assert load_settings(write(tmp_path, GOOD)).metrics.port == 9108
    monkeypatch.setenv("OFFKEY_METRICS_PORT", "9109")
    with pytest.raises(ConfigError, match="did you mean OFFKEY_METRICS__PORT"):
        load_settings(write(tmp_path, GOOD))

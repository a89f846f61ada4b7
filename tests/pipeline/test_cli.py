"""Commands: every failure is one line that names the thing and the remedy, with its exit status."""

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from models.files import to_files
from pipeline import cli
from pipeline.config import load_settings
from pipeline.connectors.connection import Connection
from pipeline.connectors.kafka import KafkaCluster, KafkaPublisher
from pipeline.connectors.registry import StoredRegistry
from pipeline.connectors.storage import ObjectStorage
from pipeline.protocols import Message, ModelVersion, Promotion
from tests.streams import SERIES, series_detector, series_payloads


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run a command in this process; return (exit status, stdout, stderr)."""

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["offkey", "--log-level", "error", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    return call


def configured(tmp_path: Path, broker: str = "127.0.0.1:1", **changes: Any) -> Path:
    settings = {
        "kafka": {"bootstrap_servers": broker, "connect_timeout": 5 if broker != "127.0.0.1:1" else 0.5},
        "storage": (tmp_path / "storage").as_uri(),
        "streams": {"machines": SERIES.model_dump(mode="json", exclude_unset=True)},
        "metrics": {"port": 0},
        "device": "cpu",
    }
    path = tmp_path / "offkey.yaml"
    path.write_text(json.dumps({**settings, **changes}))
    return path


def promote(path: Path, damage: bool = False) -> None:
    """Put a model into the registry of a configuration."""
    registry = StoredRegistry(ObjectStorage(load_settings(path).storage))
    files = to_files(series_detector())
    if damage:
        files["model.safetensors"] = files["model.safetensors"][:-1] + b"\x00"
    registry.add(ModelVersion("machines", "v1", files))
    registry.promote("machines", Promotion(1, "v1", 0, "test"))


def test_init_writes_a_configuration_that_loads(run: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    path = tmp_path / "offkey.yaml"
    assert run("init", str(path))[0] == 0
    assert load_settings(path).streams["machines"].series == ["host"]
    status, _, said = run("init", str(path))
    assert (status, said) == (
        2,
        f"offkey: {path} is there already; take another name, or --force to overwrite it\n",
    )
    assert run("init", "--force", str(path))[0] == 0
    assert run("init", str(tmp_path / "none" / "x.yaml"))[0] == 2


def test_version(run: Callable[..., tuple[int, str, str]]) -> None:
    assert run("--version")[1].startswith("offkey 0.")


def test_an_unknown_log_level_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["offkey", "--log-level", "loud", "check", "x"])
    with pytest.raises(SystemExit, match="2"):
        cli.main()
    assert "there are debug, info, warning and error" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["train", "worker"])
def test_a_broker_that_is_not_there(run: Callable[..., tuple[int, str, str]], tmp_path: Path, command: str) -> None:
    path = configured(tmp_path)
    promote(path)
    status, _, said = run(command, str(path))
    assert status == 1
    assert said.startswith("offkey: Kafka at 127.0.0.1:1: no answer")
    assert said.count("\n") == 1


def test_check_without_a_broker_says_so(run: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    status, printed, _ = run("check", "--json", str(configured(tmp_path)))
    rows = {row["what"]: row for row in json.loads(printed)}
    assert status == 1
    assert rows["storage"]["verdict"] == "ok"
    assert rows["broker"]["verdict"] == "wrong"


def test_a_worker_without_a_model_names_the_command(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    status, _, said = run("worker", str(configured(tmp_path)))
    assert (status, said) == (
        1,
        "offkey: stream machines: there is no model yet; train one with: offkey train CONFIG machines\n",
    )


def test_a_damaged_model_is_refused(run: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    path = configured(tmp_path)
    promote(path, damage=True)
    status, _, said = run("worker", str(path))
    assert status == 1
    assert "model machines v1: model.safetensors is damaged, its sha256 differs" in said


def test_a_model_for_other_features_is_refused(run: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    stream = SERIES.model_dump(mode="json", exclude_unset=True) | {"features": ["cpu", "disk"]}
    path = configured(tmp_path, streams={"machines": stream})
    promote(path)
    status, _, said = run("worker", str(path))
    assert status == 2
    assert "was made for series ['cpu', 'mem'] in windows of 8" in said
    assert "['cpu', 'disk']" in said


def test_an_unknown_stream_is_named(run: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    status, _, said = run("train", str(configured(tmp_path)), "machine")
    assert (status, said) == (2, "offkey: there is no stream 'machine'; there are: machines\n")


def test_storage_that_cannot_be_written(run: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    status, _, said = run("worker", str(configured(tmp_path, storage=(tmp_path / "file" / "x").as_uri())))
    assert status == 2
    assert "cannot be opened" in said


def test_topics_that_are_not_there(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path, broker: str, unique: Callable[[str], str]
) -> None:
    topics = {"alerts": unique("alerts"), "dead_letters": unique("dead")}
    stream = SERIES.model_dump(mode="json", exclude_unset=True) | {"topic": unique("gone")}
    path = configured(tmp_path, broker, topics=topics, streams={"machines": stream})
    promote(path)
    status, _, said = run("worker", str(path))
    assert status == 2
    assert f"topic {topics['alerts']} is not there" in said
    assert f"topic {stream['topic']} is not there" in run("train", str(path))[2]
    status, printed, _ = run("check", "--json", str(path))
    wrong = [row["what"] for row in json.loads(printed) if row["verdict"] == "wrong"]
    assert wrong == ["topic of alerts", "topic of dead letters", "machines: topic"]


def test_check_tells_what_is_wrong_with_records(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path, apache_broker: str, unique: Callable[[str], str]
) -> None:
    connection, topic = Connection(apache_broker), unique("metrics")
    topics = {"alerts": unique("alerts"), "dead_letters": unique("dead")}
    with closing(KafkaCluster(connection)) as cluster:
        cluster.create_topics({topic: 2, **dict.fromkeys(topics.values(), 1)})
    with closing(KafkaPublisher(connection)) as publisher:
        for number, (key, value) in enumerate(series_payloads(30)):
            # Without a key the client spreads records over the partitions.
            named = json.loads(value or b"") | {"host": (key or b"").decode()}
            publisher.send(Message(topic, b"%d" % number, json.dumps(named).encode()))
        publisher.send(Message(topic, b"a", b"nonsense"))
        publisher.flush(20)
    stream = SERIES.model_dump(mode="json", exclude_unset=True) | {"topic": topic, "series": ["host"]}
    path = configured(tmp_path, apache_broker, topics=topics, streams={"machines": stream})
    status, printed, _ = run("check", str(path))
    assert status == 1  # There is no model yet.
    rows = {row["what"]: row for row in json.loads(run("check", "--json", str(path))[1])}
    assert "rejected: not_json 1" in rows["machines: records"]["found"]
    assert rows["machines: series"]["verdict"] == "warning"
    assert rows["machines: model"]["remedy"].startswith("train one with")
    assert "machines: records" in printed


def test_training_without_records_or_numbers(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path, broker: str, unique: Callable[[str], str]
) -> None:
    connection, topic = Connection(broker), unique("metrics")
    with closing(KafkaCluster(connection)) as cluster:
        cluster.create_topics({topic: 1})
    stream: dict[str, Any] = {"topic": topic, "window": 8}
    path = configured(tmp_path, broker, streams={"machines": stream})
    status, _, said = run("train", str(path))
    assert status == 1
    assert "no field holds a number" in said
    with closing(KafkaPublisher(connection)) as publisher:
        for number in range(20):
            publisher.send(Message(topic, b"a", json.dumps({"cpu": number, "host": "a"}).encode()))
        publisher.flush(20)
        publisher.send(Message(topic, b"a", b'{"cpu": 1, "host": "a"}'))
        publisher.flush(20)
    status, _, said = run("train", str(path))
    assert status == 1
    assert "holds 21 usable records of 21; training needs 50 at least" in said
    stream["model"] = {"architecture": "recurent"}
    with closing(KafkaPublisher(connection)) as publisher:
        for number in range(60):
            publisher.send(Message(topic, b"a", json.dumps({"cpu": number, "host": "a"}).encode()))
        publisher.flush(20)
    status, _, said = run("train", str(configured(tmp_path, broker, streams={"machines": stream})))
    assert status == 2
    assert "there is no architecture 'recurent'; did you mean 'recurrent'?" in said

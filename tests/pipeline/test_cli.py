"""Commands: every failure is one line that names the thing and the remedy, with its exit status."""

import json
import signal
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from pipeline import cli
from pipeline.config import load_settings
from pipeline.connectors.connection import Connection
from pipeline.connectors.kafka import KafkaCluster, KafkaPublisher
from pipeline.protocols import Message
from tests.chaos.object_store import LoopbackStore
from tests.commands import Running, configured, offkey, only_line, produce, promote, wait_for
from tests.pipeline.lasting import lasting_training
from tests.plugins import installed
from tests.streams import SERIES, series_payloads


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
    assert only_line(said).startswith("Kafka at 127.0.0.1:1: no answer")


def test_check_without_a_broker_says_what_can_be_said(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    path = configured(tmp_path)
    promote(path)
    status, printed, _ = run("check", "--json", str(path))
    assert status == 1
    assert [(row["what"], row["verdict"]) for row in json.loads(printed)] == [
        ("configuration", "ok"),
        ("storage", "ok"),
        ("broker", "wrong"),
        ("machines: model", "ok"),
    ]
    assert "is the broker running" in json.loads(printed)[2]["remedy"]
    assert "training points; scores above" in json.loads(printed)[3]["found"]


@pytest.mark.parametrize("command", ["check", "train", "worker"])
def test_mistakes_in_the_configuration_are_a_line_each(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path, command: str
) -> None:
    path = tmp_path / "offkey.yaml"
    path.write_text("streams:\n  machines:\n    topic: metrics\n    fetures: [a]\n    window: 1\n")
    status, printed, said = run(command, str(path))
    assert (status, printed) == (2, "")
    assert said.splitlines() == [
        f"offkey: {path}:4: streams.machines.fetures is no setting; did you mean 'features'?",
        f"offkey: {path}:5: streams.machines.window is 1; it takes 2 or more",
    ]


def test_a_mistake_in_a_model_has_its_place_too(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "offkey.yaml"
    outside = f"storage: {(tmp_path / 'storage').as_uri()}\n"
    outside += "kafka: {bootstrap_servers: '127.0.0.1:1', connect_timeout: 500ms}\n"
    model = "    model:\n      architecture: recurrent\n      hidden: 3\n      hiden: 3\n"
    path.write_text(outside + f"streams:\n  a:\n    topic: a\n  b:\n    topic: b\n{model}")
    status, _, said = run("train", str(path))
    assert status == 2
    expected = f"{path}:11: streams.b.model: architecture recurrent has no option 'hiden'; did you mean 'hidden'"
    assert only_line(said).startswith(expected)
    status, printed, _ = run("check", "--json", str(path))
    (wrong,) = (row for row in json.loads(printed) if row["what"] == "b: model's options")
    assert wrong["found"].startswith(f"{path}:11: architecture recurrent has no option 'hiden'")
    assert "did you mean 'hidden'" in wrong["remedy"]
    monkeypatch.setenv("OFFKEY_STREAMS__A__MODEL__ARCHITECTURE", "recurent")
    assert only_line(run("train", str(path))[2]) == (
        "environment variable OFFKEY_STREAMS__A__MODEL__ARCHITECTURE: streams.a.model: there is no architecture "
        "'recurent'; did you mean 'recurrent'?"
    )


@pytest.mark.parametrize("network", ["architecture", "network"])
def test_an_architecture_that_cannot_be_loaded_is_one_line(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, network: str
) -> None:
    stream = {"topic": "metrics", "model": {network: "mine"}}
    path = configured(tmp_path, streams={"machines": stream})
    with installed(tmp_path / "broken", monkeypatch, "import no_such_library"):
        status, _, said = run("train", str(path))
    assert status == 2
    assert "architecture 'mine' of added 1.0 cannot be loaded (No module named" in only_line(said)


def test_a_worker_without_a_model_names_the_command(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    status, _, said = run("worker", str(configured(tmp_path)))
    assert (status, said) == (
        1,
        "offkey: stream machines: there is no model yet; train one with: offkey train CONFIG machines\n",
    )


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"model": b"\x00"}, "model.safetensors is damaged, its sha256 differs; take another version"),
        ({"model": b""}, "model.safetensors is damaged, its sha256 differs; take another version"),
        ({"model": None}, "model.safetensors is missing; train again or take another version"),
        ({"manifest": b"{"}, "manifest.json is damaged"),
        ({"manifest": b"[]"}, "manifest.json is damaged"),
        ({"manifest": b"\xff"}, "manifest.json is damaged"),
    ],
)
def test_a_damaged_or_missing_model_file_is_named(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path, files: dict[str, bytes | None], said: str
) -> None:
    path = configured(tmp_path)
    promote(path, **files)
    status, _, printed = run("worker", str(path))
    assert status == 1
    assert only_line(printed).startswith(f"model machines v1: {said}")


def test_a_version_that_is_gone_is_named(run: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    path = configured(tmp_path)
    promote(path)
    (tmp_path / "storage" / "models" / "machines" / "versions" / "v1" / "manifest.json").unlink()
    status, _, printed = run("worker", str(path))
    assert status == 1
    line = only_line(printed)
    assert line.startswith("model machines v1: not in ")
    assert line.endswith("or not complete; promote another version")


def test_a_model_for_other_features_is_refused(run: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    stream = SERIES.model_dump(mode="json", exclude_unset=True) | {"features": ["cpu", "disk"]}
    path = configured(tmp_path, streams={"machines": stream})
    promote(path)
    status, _, said = run("worker", str(path))
    assert status == 2
    assert "was made for series of mem, cpu in windows of 8" in said
    assert "the configuration says series of disk, cpu in windows of 8" in said


def test_a_message_about_thousands_of_features_stays_short(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    names = ["cpu", "mem", *(f"f{number}" for number in range(9_998))]
    stream = SERIES.model_dump(mode="json", exclude_unset=True) | {"features": names}
    path = configured(tmp_path, streams={"machines": stream})
    promote(path)
    said = only_line(run("worker", str(path))[2])
    assert "the configuration says series of f0, f1, f2, f3, f4, f5, f6, f7 and 9,992 more in windows of 8" in said


def test_an_unknown_stream_is_named(run: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    status, _, said = run("train", str(configured(tmp_path)), "machine")
    assert (status, said) == (2, "offkey: there is no stream 'machine'; did you mean 'machines'?\n")


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
    assert rows["machines: record size"]["verdict"] == "ok"
    assert rows["group"]["found"] == "offkey, committed partitions: 0"
    assert "machines: records" in printed


def test_check_tells_storage_and_records_that_are_of_no_use(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path, embedded_broker: str, unique: Callable[[str], str]
) -> None:
    (tmp_path / "file").write_text("")
    names = [unique(name) for name in ("texts", "rejects", "empty")]
    with closing(KafkaCluster(Connection(embedded_broker))) as cluster:
        cluster.create_topics(dict.fromkeys(names, 1))
    produce(Connection(embedded_broker), names[0], [(b"a", b'{"host": "web-1"}')])
    produce(Connection(embedded_broker), names[1], [(b"a", b"x")])
    streams: dict[str, dict[str, Any]] = {
        name: {"topic": topic} for name, topic in zip(("texts", "rejects", "empty"), names, strict=True)
    }
    streams["rejects"] |= {"features": ["cpu"]}
    storage = (tmp_path / "file" / "x").as_uri()
    path = configured(tmp_path, embedded_broker, storage=storage, streams=streams)
    status, printed, _ = run("check", "--json", str(path))
    assert status == 1
    rows = {row["what"]: row for row in json.loads(printed)}
    assert rows["storage"]["verdict"] == "wrong"
    assert rows["storage"]["remedy"].startswith("set `storage` to a folder that this user may write")
    assert rows["texts: records"]["verdict"] == "wrong"
    assert rows["texts: records"]["remedy"] == "name the features in the stream's `features`"
    assert rows["rejects: records"]["verdict"] == "wrong"
    assert rows["rejects: records"]["found"].startswith(
        "0 of the newest 1 decode; features: cpu; rejected: not_json 1"
    )
    assert rows["empty: records"]["verdict"] == "warning"
    assert not [what for what in rows if what.endswith("model")]


@pytest.mark.parametrize("writes_over", [True, False])
def test_check_tells_a_store_that_writes_over_what_is_there(
    run: Callable[..., tuple[int, str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    writes_over: bool,
) -> None:
    with closing(LoopbackStore()) as store:
        store.writes_over = writes_over
        for name, text in store.environment.items():
            monkeypatch.setenv(name, text)
        _, printed, _ = run("check", "--json", str(configured(tmp_path, storage=store.url)))
        assert store.objects == {}
    (row,) = (row for row in json.loads(printed) if row["what"] == "storage")
    if writes_over:
        assert row["verdict"] == "wrong"
        assert row["found"].endswith("writes over what is there when it is asked not to (If-None-Match: *)")
    else:
        assert row["verdict"] == "ok"


def test_check_prints_names_with_brackets_as_they_are(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path, embedded_broker: str, unique: Callable[[str], str]
) -> None:
    topic = unique("metrics")
    with closing(KafkaCluster(Connection(embedded_broker))) as cluster:
        cluster.create_topics({topic: 1})
    produce(Connection(embedded_broker), topic, [(b"a", b'{"[/red]": 1, "[b]": 2}')])
    path = configured(tmp_path, embedded_broker, streams={"machines": {"topic": topic}})
    assert "[/red], [b]" in " ".join(run("check", str(path))[1].split())


def test_check_warns_of_a_feature_that_may_be_a_label(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path, embedded_broker: str, unique: Callable[[str], str]
) -> None:
    topic = unique("metrics")
    with closing(KafkaCluster(Connection(embedded_broker))) as cluster:
        cluster.create_topics({topic: 1})
    produce(Connection(embedded_broker), topic, [(b"a", b'{"cpu": 1, "label": 0}')])
    stream: dict[str, Any] = {"topic": topic}
    found = []
    for named in (None, ["cpu"]):
        path = configured(tmp_path, embedded_broker, streams={"machines": {**stream, "features": named}})
        found.append({row["what"]: row for row in json.loads(run("check", "--json", str(path))[1])})
    assert found[0]["machines: features"] == {
        "verdict": "warning",
        "what": "machines: features",
        "found": "taken for features, but called like labels: label",
        "remedy": "name the fields to judge in the stream's `features`",
    }
    assert "machines: features" not in found[1]


def test_training_without_records_or_numbers(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path, broker: str, unique: Callable[[str], str]
) -> None:
    connection, topic = Connection(broker), unique("metrics")
    with closing(KafkaCluster(connection)) as cluster:
        cluster.create_topics({topic: 1})
    stream: dict[str, Any] = {"topic": topic}
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


def test_a_training_stopped_by_ctrl_c_goes_on(
    tmp_path: Path, embedded_broker: str, unique: Callable[[str], str]
) -> None:
    path, storage = lasting_training(tmp_path, embedded_broker, unique, 8)
    with Running(path, command="train") as first:
        wait_for(lambda: bool(storage.list("models/machines")), first)
        first.end(signal.SIGINT)
        assert first.process.returncode == 130
    assert storage.list("models/machines") == ["models/machines/unfinished/view0"]
    second = offkey("train", str(path))
    assert second.returncode == 0
    assert "machines: goes on with the training that was interrupted, after " in second.stderr
    assert second.stdout.startswith("machines: vanilla on 400 records of 4 series")
    assert not storage.list("models/machines/unfinished")

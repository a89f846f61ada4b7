"""Every mistake in a configuration is one line that names file, line, key and remedy."""

from pathlib import Path

import pytest

from pipeline.config import load_settings
from pipeline.errors import ConfigError
from tests.pipeline.configurations import GOOD, check_one_clear_line, each_of, write

MISTAKES = [
    # Keys.
    (GOOD + "    fetures: [a]\n", ":4: streams.machines.fetures is no setting; did you mean 'features'?"),
    (
        GOOD + "kafka:\n  bootstrap_server: x\n",
        ":5: kafka.bootstrap_server is no setting; did you mean 'bootstrap_",
    ),
    ("kafak: {}\n" + GOOD, ":1: kafak is no setting; did you mean 'kafka'?"),
    (GOOD + "zzz: 1\n", ":4: zzz is no setting; there are: device, kafka"),
    (GOOD + "_env_file: x\n", ":4: _env_file is no setting; there are: device, kafka"),
    (GOOD + "Kafka: {}\n", ":4: Kafka is no setting; did you mean 'kafka'?"),
    (GOOD + "    topic: b\n", ":4: streams.machines.topic is there already, in line 3; keep one"),
    (GOOD + "kafka:\n", ":4: kafka is empty; it takes keys of its own below it: write that"),
    (GOOD + "kafka: [a]\n", ":4: kafka is ['a']; it takes keys of its own below it"),
    ("streams:\n  a:\n", ":2: streams.a is empty; it takes keys of its own below it"),
    ("streams:\n  a: metrics\n", ":2: streams.a is 'metrics'; it takes keys of its own below it"),
    ("streams: [a]\n", ":1: streams is ['a']; it takes keys of its own below it"),
    ("streams:\n  a: {}\n", ":2: streams.a.topic is missing; add it"),
    ("kafka: {}\n", ":1: streams is missing; add it"),
    ("streams: {}\n", ":1: streams is empty; write at least one below it"),
    (GOOD + "    retrain: {evry: 1h}\n", ":4: streams.machines.retrain.evry is no setting; did you mean 'every'?"),
    # Values.
    (
        GOOD + "    kind: seris\n",
        ":4: streams.machines.kind is 'seris'; it takes 'series', 'features' or 'images'; did you mean",
    ),
    (GOOD + "    kind: zzz\n", ":4: streams.machines.kind is 'zzz'; it takes 'series', 'features' or 'images'"),
    (
        GOOD + "    features: cpu\n",
        ":4: streams.machines.features is 'cpu'; it takes a list, such as [cpu, memory]",
    ),
    (GOOD + "    features: [1]\n", ":4: streams.machines.features.0 is 1; it takes text: put quotes around it"),
    (GOOD + "    window: 1\n", ":4: streams.machines.window is 1; it takes 2 or more"),
    (GOOD + "    window: 8.5\n", ":4: streams.machines.window is 8.5; it takes a whole number"),
    (GOOD + "    window: .nan\n", ":4: streams.machines.window is nan; it takes a whole number"),
    (GOOD + "    window: [8]\n", ":4: streams.machines.window is [8]; it takes a whole number"),
    (GOOD + "    window: wide\n", ":4: streams.machines.window is 'wide'; it takes a whole number"),
    (GOOD + "    hold_points: true\n", ":4: streams.machines.hold_points: True is no number; write one"),
    (GOOD + "kafka: {max_poll_records: 1" + "0" * 30 + "}\n", ":4: kafka.max_poll_records is 10000"),
    (GOOD + "metrics: {port: 70000}\n", ":4: metrics.port is 70000; it takes 65535 or less"),
    (GOOD + "metrics: {host: ''}\n", ":4: metrics.host: '' is no name"),
    (GOOD + "    retrain: {on_drift: 1}\n", ":4: streams.machines.retrain.on_drift: 1 is neither true nor false"),
    (
        GOOD + "    format: arow\n",
        ":4: streams.machines.format is 'arow'; it takes 'json', 'arrow', 'png' or 'jpeg'; did you mean",
    ),
]


@each_of(MISTAKES)
def test_a_mistake_is_one_clear_line(text: str, said: str, tmp_path: Path) -> None:
    check_one_clear_line(tmp_path, text, said)


def test_several_mistakes_are_several_lines(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(write(tmp_path, GOOD + "    kind: x\n    fetures: []\ndevice: tpu\n"))
    assert len(str(caught.value).splitlines()) == 3


def test_a_setting_knows_where_it_was_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFFKEY_STREAMS__MACHINES__HOLD_POINTS", "64")
    path = write(tmp_path, GOOD + "    model:\n      hidden: 3\n")
    settings = load_settings(path)
    assert settings.place_of("streams", "machines", "model") == f"{path}:4"
    assert settings.place_of("streams", "machines", "model", "seed") == f"{path}:4"
    assert settings.place_of("streams", "machines", "hold_points") == (
        "environment variable OFFKEY_STREAMS__MACHINES__HOLD_POINTS"
    )


def test_streams_are_chosen_once_each_in_the_order_asked_for(tmp_path: Path) -> None:
    settings = load_settings(write(tmp_path, GOOD + "  disks: {topic: disks}\n"))
    assert settings.chosen(None) == settings.chosen([]) == ["machines", "disks"]
    assert settings.chosen(["disks", "machines", "disks"]) == ["disks", "machines"]
    with pytest.raises(ConfigError, match="there is no stream 'machine'; did you mean 'machines'"):
        settings.chosen(["disks", "machine"])

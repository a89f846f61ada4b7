"""Names of topics, streams and fields, and addresses: what can be none is one line."""

from pathlib import Path

from pipeline.setting_types import split_path
from tests.pipeline.configurations import GOOD, check_one_clear_line, each_of

MISTAKES = [
    ("streams:\n  a:\n    topic: 'a b'\n", ":3: streams.a.topic: 'a b' is no name for Kafka; write up to 249"),
    ("streams:\n  a:\n    topic: ..\n", ":3: streams.a.topic: '..' is no name for Kafka"),
    ("streams:\n  a:\n    topic: ''\n", ":3: streams.a.topic: '' is no name for Kafka"),
    ("streams:\n  a:\n    topic: 3\n", ":3: streams.a.topic is 3; it takes text: put quotes around it"),
    ("streams:\n  a:\n    topic: " + "x" * 250 + "\n", ":3: streams.a.topic: 'xxxx"),
    (GOOD + "topics: {alerts: 'ümläut'}\n", ":4: topics.alerts: 'ümläut' is no name for Kafka"),
    (GOOD + "kafka: {bootstrap_servers: ''}\n", ":4: kafka.bootstrap_servers: '' is no address; write host:port"),
    (GOOD + "kafka: {bootstrap_servers: 'a:1,'}\n", ":4: kafka.bootstrap_servers: '' is no address"),
    (GOOD + "kafka: {bootstrap_servers: 'a:x'}\n", ":4: kafka.bootstrap_servers: 'a:x' is no address"),
    (GOOD + "kafka: {bootstrap_servers: 'a:99999'}\n", ":4: kafka.bootstrap_servers: 'a:99999' is no address"),
    (GOOD + "kafka: {bootstrap_servers: 'SSL://a:1'}\n", ":4: kafka.bootstrap_servers: 'SSL://a:1' is no address"),
    (GOOD + "kafka: {group_id: ''}\n", ":4: kafka.group_id: '' is no name"),
    (GOOD + "kafka: {instance_id: 'a b'}\n", ":4: kafka.instance_id: 'a b' is no name for Kafka"),
    (GOOD + "storage: ftp://x\n", ":4: storage: 'ftp://x' is neither file:///folder nor s3://bucket/prefix; write"),
    ("streams:\n  'a b':\n    topic: t\n", ":2: streams.a b: a stream's name has letters, digits"),
    ('streams:\n  "a\\nb": {}\n', ":2: 'streams.a\\nb.topic' is missing; add it"),
    ('streams:\n  "a\\nb": {topic: a, topic: b}\n', ":2: 'streams.a\\nb.topic' is there already, in line 2"),
    (GOOD + "x" * 500 + ": 1\n", ":4: 'xxxx"),
    # Fields.
    (GOOD + "    features: [a, a]\n", ":4: streams.machines.features: 'a' is listed twice; keep one"),
    (GOOD + "    series: [a, a]\n", ":4: streams.machines.series: 'a' is listed twice; keep one"),
    (GOOD + "    features: []\n", ":4: streams.machines.features: the list is empty; name some fields"),
    (GOOD + "    series: []\n", ":4: streams.machines.series: the list is empty; name some fields"),
    (
        GOOD + "    features: [a..b]\n",
        ":4: streams.machines.features.0: 'a..b' is no field: a name between dots is",
    ),
    (GOOD + '    time: "a\\0b"\n', ":4: streams.machines.time: 'a\\x00b' is no name"),
    (
        GOOD + "    time: ts\n    features: [ts]\n",
        ":5: streams.machines.features: 'ts' is in `time` too; take it out of one of them",
    ),
    (
        GOOD + "    series: [host]\n    time: host\n",
        ":4: streams.machines.series: 'host' is in `time` too; take it out of one of them",
    ),
    (
        GOOD + "    features: [cpu.load, b, cpu]\n",
        ":4: streams.machines.features: 'cpu.load' lies inside 'cpu' in `features`",
    ),
]


@each_of(MISTAKES)
def test_a_mistake_is_one_clear_line(text: str, said: str, tmp_path: Path) -> None:
    check_one_clear_line(tmp_path, text, said)


def test_paths() -> None:
    assert split_path("cpu.load") == ("cpu", "load")
    assert split_path(r"cpu\.load.x") == ("cpu.load", "x")

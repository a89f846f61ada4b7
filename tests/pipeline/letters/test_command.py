"""`offkey dead-letters` as users run it, on real brokers: listed, looked at, sent back, and what it refuses."""

import json
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from pipeline.connectors.kafka import KafkaPublisher
from pipeline.protocols import Message
from tests.commands import configured, offkey, only_line
from tests.pipeline.letters.desks import rejected
from tests.pipeline.letters.on_brokers import Setting, listed, replayed

OWN = [("trace", b"\x00\xff"), ("trace", b"2")]
FOREIGN = Message("", b"k", b"of another program", [("ce_id", b"1")])


def test_the_path_of_a_user(on_any: Setting) -> None:
    """2,000 letters: listed, looked at without sending, sent by filters, sent once, bytes as they were."""
    config, letters = str(on_any.config), []
    for number in range(2000):
        topic, reason = ("metrics", "payments")[number % 2], ("not_json", "empty", "tombstone")[number % 3]
        value = {"not_json": b"\x1b[31m%d\xff" % number, "empty": b"", "tombstone": None}[reason]
        key = None if number % 5 == 0 else b"k%d" % (number % 7)
        partition = number % 3 if topic == "metrics" else 0
        letters.append(
            rejected(number, topic=topic, partition=partition, key=key, value=value, headers=OWN, reason=reason)
        )
    letters += [rejected(5000, topic="metrics", partition=9, key=b"moved", value=b"partition 9", headers=OWN)]
    on_any.letters([FOREIGN, *letters, FOREIGN])

    shown = offkey("dead-letters", "list", config, "--stream", "machines")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "\x1b" not in shown.stdout
    assert "\\x1b[31m" in shown.stdout
    assert "left alone: 2 records of" in shown.stdout
    kinds, examples = listed(on_any.config, "--examples", "2")
    assert {(kind["stream"], kind["reason"]): kind["letters"] for kind in kinds[1:]} == {
        ("machines", "not_json"): 335,
        ("machines", "empty"): 333,
        ("machines", "tombstone"): 333,
        ("payments", "not_json"): 333,
        ("payments", "empty"): 334,
        ("payments", "tombstone"): 333,
    }
    assert (kinds[0]["letters"], kinds[0]["foreign"]) == (2001, 2)
    assert Counter((each["stream"], each["reason"]) for each in examples) == dict.fromkeys(
        ((kind["stream"], kind["reason"]) for kind in kinds[1:]), 2
    )

    looked = offkey("dead-letters", "replay", config, "--dry-run", "--reason", "empty")
    assert looked.returncode == 0, looked.stderr
    assert f"machines, empty: 333 to topic {on_any.metrics}" in looked.stdout
    assert "would send back 667 letters; nothing was sent" in looked.stdout
    assert not on_any.records(on_any.metrics)

    assert replayed(on_any.config, "--stream", "machines", "--reason", "empty") == {("machines", "empty"): 333}
    assert {record.value for _, record in on_any.records(on_any.metrics)} == {b""}
    assert sum(replayed(on_any.config).values()) == 2001 - 333
    assert replayed(on_any.config) == {}

    expected = Counter(
        (partition_of(message), message.key, message.value)
        for message in letters
        if "moved" not in str(message.key)
    )
    found: Counter[Any] = Counter()
    for topic in (on_any.metrics, on_any.payments):
        for partition, record in on_any.records(topic):
            assert [tuple(each) for each in record.headers] == [*OWN, ("offkey.replays", b"1")]
            if record.key != b"moved":
                found[topic.partition("-")[0], partition, record.key, record.value] += 1
    assert found == Counter({(*place, key, value): n for (place, key, value), n in expected.items()})
    assert on_any.came()[b"partition 9"] == 1
    kinds, examples = listed(on_any.config)
    assert (kinds[0]["foreign"], examples) == (2, [])
    assert all(kind["replayed"] == kind["letters"] for kind in kinds[1:])


def partition_of(message: Message) -> tuple[str, int]:
    errors = dict(message.headers)
    return errors["__connect.errors.topic"].decode(), int(errors["__connect.errors.partition"])


def test_an_empty_topic_is_one_line(on_any: Setting) -> None:
    done = offkey("dead-letters", "list", str(on_any.config))
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{on_any.dead} holds no dead letters\n", "")
    done = offkey("dead-letters", "replay", str(on_any.config), "--yes")
    assert (done.returncode, done.stdout) == (0, "nothing waits to be sent back\n")


@pytest.mark.parametrize("command", ["list", "replay"])
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--stream", "machine"), "there is no stream 'machine'; did you mean 'machines'?"),
        (("--stream", "x"), "there is no stream 'x'; there are: machines"),
        (("--reason", "no_json"), "there is no reason 'no_json'; did you mean 'not_json'?"),
    ],
)
def test_unknown_names_are_told_the_nearest(
    tmp_path: Path, command: str, arguments: tuple[str, str], said: str
) -> None:
    done = offkey("dead-letters", command, str(configured(tmp_path)), *arguments)
    assert done.returncode == 2
    assert only_line(done.stderr) == said


@pytest.mark.parametrize("command", ["list", "replay"])
def test_a_broker_that_is_not_there(tmp_path: Path, command: str) -> None:
    done = offkey("dead-letters", command, str(configured(tmp_path)), *(["--yes"] if command == "replay" else []))
    assert done.returncode == 1
    assert only_line(done.stderr).startswith("Kafka at 127.0.0.1:1: no answer")


def test_topics_that_are_gone_are_named_and_others_letters_left(
    on_apache: Setting, unique: Callable[[str], str], tmp_path: Path
) -> None:
    on_apache.letters([rejected(0), rejected(1, topic="payments")])
    settings = json.loads(on_apache.config.read_text())
    del settings["streams"]["payments"]
    on_apache.config.write_text(json.dumps(settings))
    done = offkey("dead-letters", "replay", str(on_apache.config), "--yes")
    assert done.returncode == 0, done.stderr
    assert "left alone: 1 letter of topics that no stream here reads" in done.stdout
    assert not on_apache.records(on_apache.payments)

    settings["streams"]["machines"]["topic"] = gone = unique("gone")
    letter = rejected(0)
    headers = [
        (name, gone.encode() if name == "__connect.errors.topic" else value) for name, value in letter.headers
    ]
    with closing(KafkaPublisher(on_apache.connection)) as publisher:
        publisher.send(Message(on_apache.dead, b"k", b"v", headers))
        publisher.flush(20)
    on_apache.config.write_text(json.dumps(settings))
    done = offkey("dead-letters", "replay", str(on_apache.config), "--yes")
    assert done.returncode == 2
    assert only_line(done.stderr).startswith(f"topic {gone} is not there")
    settings["topics"]["dead_letters"] = unique("never")
    on_apache.config.write_text(json.dumps(settings))
    for command in ("list", "replay"):
        done = offkey("dead-letters", command, str(on_apache.config), *(["--yes"] if command == "replay" else []))
        assert done.returncode == 2
        assert "is not there" in only_line(done.stderr)

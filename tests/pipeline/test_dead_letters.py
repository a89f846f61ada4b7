"""`offkey dead-letters` as users run it, on real brokers."""

import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline.connectors.connection import Connection
from pipeline.connectors.kafka import KafkaCluster, KafkaLog, KafkaPublisher, KafkaTransactions
from pipeline.connectors.kafka_client import KafkaProducer
from pipeline.protocols import Message
from tests.commands import configured, offkey, only_line
from tests.pipeline.letters.desks import rejected
from tests.sabotage import Step, run_process, send_back
from tests.streams import FEATURES, SERIES

_DEADLINE_S = 60.0
OWN = [("trace", b"\x00\xff"), ("trace", b"2")]
FOREIGN = Message("", b"k", b"of another program", [("ce_id", b"1")])


@dataclass
class Setting:
    """A configuration of two streams, and its topics on a broker."""

    config: Path
    connection: Connection
    metrics: str
    payments: str
    dead: str

    def letters(self, messages: Sequence[Message]) -> None:
        """Publish letters, which name the topics `metrics` and `payments`, and other records as they are."""
        own = {"metrics": self.metrics.encode(), "payments": self.payments.encode()}
        with closing(KafkaPublisher(self.connection)) as publisher:
            for message in messages:
                headers = [
                    (name, own[value.decode()] if name == "__connect.errors.topic" else value)
                    for name, value in message.headers
                ]
                publisher.send(Message(self.dead, message.key, message.value, headers))
            publisher.flush(30)

    def records(self, topic: str) -> list[Any]:
        """Return (partition, record) of all committed records."""
        return [
            (arrived.partition.partition, record)
            for arrived in KafkaLog(self.connection, topic).read()
            for record in arrived.records
        ]

    def came(self) -> Counter[bytes]:
        """Return how often each value has come back to the topic `metrics`."""
        return Counter(record.value for _, record in self.records(self.metrics))


def setting(broker: str, unique: Callable[[str], str], tmp_path: Path) -> Setting:
    metrics, payments, dead = map(unique, ("metrics", "payments", "dead"))
    connection = Connection(broker)
    with closing(KafkaCluster(connection)) as cluster:
        cluster.create_topics({metrics: 3, payments: 1, dead: 2})
    streams = {
        "machines": SERIES.model_dump(mode="json", exclude_unset=True) | {"topic": metrics},
        "payments": FEATURES.model_dump(mode="json", exclude_unset=True) | {"topic": payments},
    }
    topics = {"alerts": unique("alerts"), "dead_letters": dead}
    return Setting(
        configured(tmp_path, broker, streams=streams, topics=topics), connection, metrics, payments, dead
    )


@pytest.fixture
def on_any(any_broker: str, unique: Callable[[str], str], tmp_path: Path) -> Setting:
    return setting(any_broker, unique, tmp_path)


@pytest.fixture
def on_apache(apache_broker: str, unique: Callable[[str], str], tmp_path: Path) -> Setting:
    return setting(apache_broker, unique, tmp_path)


def listed(config: Path, *arguments: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the lines of kinds and those of letters."""
    done = offkey("dead-letters", "list", str(config), "--json", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return [line for line in lines if "letters" in line], [line for line in lines if "letter" in line]


def replayed(config: Path, *arguments: str) -> dict[tuple[str, str], int]:
    done = offkey("dead-letters", "replay", str(config), "--yes", "--json", *arguments)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {(line["stream"], line["reason"]): line["sent"] for line in lines}


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


def test_a_person_repairs_two_of_three(on_any: Setting, tmp_path: Path) -> None:
    on_any.letters([rejected(n, value=b"%d\xff" % n) for n in range(3)])
    text = offkey("dead-letters", "list", str(on_any.config), "--json").stdout
    lines = [json.loads(line) for line in text.splitlines()]
    letters = sorted((line for line in lines if "letter" in line), key=lambda line: line["record"])
    del letters[0]["value_base64"]
    letters[0]["value"] = '{"cpu": 1}'
    path = tmp_path / "edited.jsonl"
    path.write_text("\n".join(map(json.dumps, [lines[0], lines[1], letters[0], letters[2]])))
    assert replayed(on_any.config, "--edit", str(path)) == {("machines", "not_json"): 2}
    assert on_any.came() == Counter([b'{"cpu": 1}', b"2\xff"])
    again = offkey("dead-letters", "replay", str(on_any.config), "--edit", str(path), "--yes")
    assert (again.returncode, again.stderr) == (0, "")
    assert again.stdout.splitlines() == [
        "sent back before, and not again: 2 letters of the file",
        "nothing waits to be sent back",
    ]
    letters[1]["sha256"] = "0"
    path.write_text(json.dumps(letters[1]))
    refused = offkey("dead-letters", "replay", str(on_any.config), "--edit", str(path), "--yes")
    assert refused.returncode == 2
    assert only_line(refused.stderr).startswith(f"{path}:1: {letters[1]['letter']} has other bytes")


def answered(config: Path, answer: bytes) -> tuple[int, str]:
    """Run a replay on a terminal, and answer its question."""
    ours, theirs = pty.openpty()
    code = "from pipeline.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "dead-letters", "replay", str(config)],
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    os.close(theirs)
    os.write(ours, answer)
    said = process.communicate(timeout=60)[0]
    os.close(ours)
    return process.returncode, said


def test_it_asks_before_it_sends(on_any: Setting) -> None:
    on_any.letters([rejected(n) for n in range(3)])
    status, said = answered(on_any.config, b"n\n")
    assert status == 1
    assert f"machines, not_json: 3 to topic {on_any.metrics}" in said
    assert "Send 3 letters back? [y/N]" in said
    assert said.rstrip().endswith("nothing was sent")
    assert not on_any.records(on_any.metrics)
    status, said = answered(on_any.config, b"y\n")
    assert status == 0
    assert said.rstrip().endswith("sent back 3 letters")
    assert len(on_any.records(on_any.metrics)) == 3


def test_without_a_terminal_it_does_not_send(on_any: Setting) -> None:
    on_any.letters([rejected(0)])
    done = offkey("dead-letters", "replay", str(on_any.config))
    assert done.returncode == 2
    assert only_line(done.stderr).startswith("a replay asks before it sends, and there is no terminal; give --yes")


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


def test_killed_between_record_and_mark(on_apache: Setting) -> None:
    """The record lies in its topic, its mark does not, and the process is gone: the letter is sent once."""
    on_apache.letters([rejected(0, value=b"once")])
    name = f"offkey-dead-letters-{on_apache.dead}"
    killed = KafkaProducer(**on_apache.connection.options(), transactional_id=name, acks="all")
    killed.init_transactions()
    killed.begin_transaction()
    killed.send(on_apache.metrics, value=b"once", partition=0).get(timeout=10)
    assert replayed(on_apache.config) == {("machines", "not_json"): 1}
    killed._sender.force_close()
    killed.close(timeout=5)
    assert on_apache.came() == Counter([b"once"])
    assert replayed(on_apache.config) == {}


_SLOW = """
import sys
from pipeline.letters import replay
replay.replay.__defaults__ = (20,)
sys.argv = ["offkey", "dead-letters", "replay", sys.argv[1], "--yes"]
from pipeline.cli import main
main()
"""
"""The command with transactions of 20 letters, so that there are many to be killed in."""


def test_killed_anywhere_it_sends_each_letter_once(on_apache: Setting) -> None:
    on_apache.letters([rejected(n, partition=n % 3, value=b"%d" % n) for n in range(2000)])
    pause, kills, seen = threading.Event(), 0, 0
    deadline_s = time.monotonic() + _DEADLINE_S
    while time.monotonic() < deadline_s:
        process = subprocess.Popen([sys.executable, "-c", _SLOW, str(on_apache.config)], stdout=subprocess.PIPE)
        while process.poll() is None:
            # Retained records count those of open transactions too.
            if KafkaLog(on_apache.connection, on_apache.metrics).retained() > seen + 150 * (kills + 1):
                process.send_signal(signal.SIGKILL)
            pause.wait(0.005)
        process.communicate(timeout=30)
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL
        kills += 1
        seen = KafkaLog(on_apache.connection, on_apache.metrics).retained()
    assert process.returncode == 0
    assert kills >= 2
    assert on_apache.came() == Counter(b"%d" % n for n in range(2000))
    assert replayed(on_apache.config) == {}


def test_killed_at_any_step_it_sends_each_letter_once(
    apache_broker: str, unique: Callable[[str], str], tmp_path: Path
) -> None:
    """As the test before, but at every call that there is, and not at random."""
    values = [b"%d" % number for number in range(3)]

    def sent_back(name: str, fatal: Step | None) -> dict[str, int]:
        folder = tmp_path / name
        folder.mkdir()
        own = setting(apache_broker, lambda what: unique(f"{what}-{name}"), folder)
        own.letters([rejected(n, key=None, value=value) for n, value in enumerate(values)])
        steps = folder / "steps"
        for step in (fatal, None) if fatal else (None,):
            status = run_process(send_back, own.config, step, steps, within_s=_DEADLINE_S)
            assert status == (-signal.SIGKILL if step else 0), name
            seen: dict[str, int] = json.loads(steps.read_text())
        assert own.came() == Counter(values), name
        assert replayed(own.config) == {}, name
        return seen

    gone_through = sent_back("undisturbed", None)
    assert gone_through["after begin_commit"] == len(values)
    # The second time, some are sent already.
    fatal = [(kind, min(times, 2)) for kind, times in gone_through.items()]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda step: sent_back(f"{step[0].replace(' ', '-')}-{step[1]}", step), fatal))


def test_a_replay_that_another_one_shuts_out_ends_with_its_reason(on_apache: Setting) -> None:
    on_apache.letters([rejected(0)])
    ours, theirs = pty.openpty()
    code = "from pipeline.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "dead-letters", "replay", str(on_apache.config)],
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(theirs)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("machines, not_json: 1 to topic")
    name = f"offkey-dead-letters-{on_apache.dead}"
    with closing(KafkaTransactions(on_apache.connection, None, name)) as other:
        other.settle()
        os.write(ours, b"y\n")
        said = process.communicate(timeout=60)[1]
        other.send(Message(on_apache.metrics, None, b"of the other one"))
        other.finish({}, 20)
    os.close(ours)
    assert process.returncode == 1
    assert "another process has its name" in only_line(said)
    assert on_apache.came() == Counter([b"of the other one"])

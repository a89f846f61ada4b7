"""A person at `offkey dead-letters`: repairs letters in a file, and is asked before any is sent."""

import json
import os
import pty
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from pipeline.connectors.kafka import KafkaTransactions
from pipeline.protocols import Message
from tests.commands import offkey, only_line
from tests.pipeline.letters.desks import rejected
from tests.pipeline.letters.on_brokers import Setting, replayed


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


@contextmanager
def on_a_terminal(config: Path, stderr: int) -> Iterator[tuple[subprocess.Popen[str], Callable[[bytes], int]]]:
    """Run a replay on a terminal; yield its process, and what types an answer to its question."""
    ours, theirs = pty.openpty()
    code = "from pipeline.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "dead-letters", "replay", str(config)],
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
    )
    os.close(theirs)
    yield process, lambda answer: os.write(ours, answer)
    os.close(ours)


def answered(config: Path, answer: bytes) -> tuple[int, str]:
    """Run a replay on a terminal, and answer its question."""
    with on_a_terminal(config, subprocess.STDOUT) as (process, type_in):
        type_in(answer)
        said = process.communicate(timeout=60)[0]
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


def test_a_replay_that_another_one_shuts_out_ends_with_its_reason(on_apache: Setting) -> None:
    on_apache.letters([rejected(0)])
    with on_a_terminal(on_apache.config, subprocess.PIPE) as (process, type_in):
        assert process.stdout is not None
        assert process.stdout.readline().startswith("machines, not_json: 1 to topic")
        name = f"offkey-dead-letters-{on_apache.dead}"
        with closing(KafkaTransactions(on_apache.connection, None, name)) as other:
            other.settle()
            type_in(b"y\n")
            said = process.communicate(timeout=60)[1]
            other.send(Message(on_apache.metrics, None, b"of the other one"))
            other.finish({}, 20)
    assert process.returncode == 1
    assert "another process has its name" in only_line(said)
    assert on_apache.came() == Counter([b"of the other one"])

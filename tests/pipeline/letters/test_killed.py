"""`offkey dead-letters replay` that is killed, at random and at any step: each letter is sent once."""

import json
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pipeline.connectors.kafka import KafkaLog
from pipeline.connectors.kafka_client import KafkaProducer
from tests.pipeline.letters.desks import rejected
from tests.pipeline.letters.on_brokers import Setting, replayed, setting
from tests.sabotage import Step, run_process, send_back

_DEADLINE_S = 60.0


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

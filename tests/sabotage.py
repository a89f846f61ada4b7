"""Processes that end between two steps: at any call of what they talk to, and in the middle of a transaction."""

import json
import multiprocessing
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path
from typing import Any

import torch
from kafka.producer.transaction_manager import TransactionalRequestResult, TransactionManager

from models.files import from_files
from pipeline.cli_letters import replay_letters
from pipeline.connectors.adoptions import StoredAdoptions
from pipeline.connectors.checkpoints import StoredCheckpoints
from pipeline.connectors.connection import Connection, GroupOptions, transactional_id
from pipeline.connectors.kafka import KafkaLog, KafkaPublisher, KafkaSource, KafkaTransactions
from pipeline.connectors.storage import ObjectStorage
from pipeline.errors import TransientError
from pipeline.lanes import build_lane
from pipeline.letters import replay
from pipeline.worker import Worker, WorkerOptions
from tests.streams import CPU, SERIES

# Children are forked from a process that has loaded everything and has no threads.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.sabotage"])
_ONE_AT_A_TIME = threading.Lock()

Step = tuple[str, int]
"""`before` or `after` the name of a call, and the how many-eth time."""


def run_process(target: Callable[..., None], *args: Any, within_s: float) -> int | None:
    """Run a function in a process of its own; return how it ended, None where it takes longer.

    May be called on several threads. A child's status can be read once, and whoever starts a process looks after
    all children: a second reader would take the status for 255.
    """
    process = PROCESSES.Process(target=target, args=args)
    with _ONE_AT_A_TIME:
        process.start()
    connection.wait([process.sentinel], within_s)
    with _ONE_AT_A_TIME:
        process.join(0)
        return process.exitcode


class Saboteur:
    """Wraps what a worker talks to, and is asked at each step whether the worker ends there."""

    def __init__(self, tick: Callable[[str], None]) -> None:
        self._tick = tick

    def wrap(self, part: Any) -> Any:
        saboteur = self

        class Wrapped:
            def __getattr__(self, name: str) -> Any:
                return saboteur.around(name, getattr(part, name))

        return Wrapped()

    def around(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            self._tick(f"before {name}")
            result = function(*args, **named)
            self._tick(f"after {name}")
            return result

        return call

    def patch(self, owner: type[Any], name: str) -> None:
        """Wrap a method in place: for processes that end anyway."""
        setattr(owner, name, self.around(name, getattr(owner, name)))


class Killed(BaseException):
    """Ends a worker between two steps, as SIGKILL would: nothing catches it."""


class Countdown:
    """Ends a worker at its n-th step."""

    def __init__(self, kill_at: int) -> None:
        self.left = kill_at
        self.last = ""

    def __call__(self, step: str) -> None:
        self.left -= 1
        self.last = step
        if self.left == 0:
            raise Killed(step)


@dataclass(frozen=True)
class Setting:
    """Where a worker process runs; all of it can be sent to one."""

    broker: str
    topic: str
    alerts: str
    dead: str
    group: str
    storage: Path
    model: Mapping[str, bytes]
    end: int
    """Offset to stop before."""
    instance: str | None = "replica-0"


def work(setting: Setting, fatal: Step | None, steps: Path) -> None:
    """Run a worker exactly once to the end of its topic; at the fatal step it kills its process.

    What it has gone through is left in the file `steps`.
    """
    torch.set_num_threads(1)
    saboteur, seen = _ending_at(fatal, steps)
    for owner, name in (
        (KafkaPublisher, "confirm"),
        (TransactionManager, "begin_transaction"),
        (TransactionManager, "send_offsets_to_transaction"),
        (TransactionManager, "begin_commit"),
        (TransactionalRequestResult, "wait"),
    ):
        saboteur.patch(owner, name)
    broker = Connection(setting.broker)
    group = GroupOptions(setting.group, setting.instance, session_timeout_s=6, max_poll_records=150)
    stream = SERIES.model_copy(update={"topic": setting.topic})
    lane = build_lane("machines", stream, from_files(setting.model), "v1", CPU)
    storage = ObjectStorage(setting.storage.as_uri())
    checkpoints, adoptions = StoredCheckpoints(storage), StoredAdoptions(storage)
    options = WorkerOptions(setting.alerts, setting.dead, checkpoint_every_s=0, checkpoint_wait_s=30)
    with closing(KafkaSource(broker, group, [setting.topic])) as source:
        name = transactional_id(setting.group, setting.instance)
        with closing(KafkaTransactions(broker, source, name)) as delivery:
            wrap = saboteur.wrap
            worker = Worker([lane], wrap(source), wrap(delivery), wrap(checkpoints), wrap(adoptions), options)
            finish(worker, setting.end)
    steps.write_text(json.dumps(seen))


def send_back(config: Path, fatal: Step | None, steps: Path) -> None:
    """Replay dead letters as the command does, each in its own transaction; at the fatal step it kills its process.

    What it has gone through is left in the file `steps`.
    """
    saboteur, seen = _ending_at(fatal, steps)
    for owner, name in (
        (KafkaTransactions, "settle"),
        (KafkaLog, "read"),
        (KafkaPublisher, "send"),
        (KafkaPublisher, "confirm"),
        (TransactionManager, "begin_transaction"),
        (TransactionManager, "begin_commit"),
        (TransactionalRequestResult, "wait"),
    ):
        saboteur.patch(owner, name)
    replay._MOST_BYTES = 1
    replay_letters(config, yes=True, as_json=True)
    steps.write_text(json.dumps(seen))


def _ending_at(fatal: Step | None, steps: Path) -> tuple[Saboteur, Counter[str]]:
    """Return who kills this process at the fatal step, and the count of what it has gone through."""
    seen: Counter[str] = Counter()

    def tick(step: str) -> None:
        seen[step] += 1
        if (step, seen[step]) == fatal:
            steps.write_text(json.dumps(seen))
            os.kill(os.getpid(), signal.SIGKILL)

    return Saboteur(tick), seen


def finish(worker: Worker, end: int) -> None:
    """Step until the state stands before the offset `end`, whatever fails for a while."""
    while not any(progress.next_offset >= end for progress in worker.partitions.progress.values()):
        try:
            worker.step()
        except TransientError:
            continue

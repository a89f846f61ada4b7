"""Kills of a whole deployment, drawn from a seed: recorder, trainer, scheduler and worker, each by SIGKILL.

`python -m tests.chaos.kills SEED...` plays some by themselves; KAFKA_HOME must name a distribution of Apache Kafka.

Records flow and an operator rolls back what is promoted. So there is always something to train, to promote, to
adopt and to lose: the first model serves what it never saw, and a challenger beats it, for the incidents that come
are no more than the stream's budget. Who was killed is started again, the trainer by its scheduler.

What has to hold is told in `tests.chaos.accounts`. It is asked again and again while they die, as far as it can
hold at any moment, and once more when all has settled.
"""

import random
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from unittest.mock import patch

from models.manifest import ModelFileError
from pipeline.errors import OffkeyError
from tests.brokers import ApacheBroker
from tests.chaos.accounts import settled
from tests.chaos.deployment import Deployment, Kill, Role
from tests.chaos.object_store import LoopbackStore
from tests.chaos.payloads import good, malformed
from tests.chaos.stage import BROKER_SETTINGS
from tests.streams import Payload, series_rows

_SHORT = 2
"""So many of ten seeds have few kills; the first of them is for a test run that plays no others."""
_NAMES = ["a", "b", "c", "f"]
"""Some for each partition."""
_POINTS = 500
"""Of each series, before anything is started: enough to learn from."""
_WRITES: Mapping[Role, tuple[str, ...]] = {
    "recorder": (r"/snapshots/.*\.parquet$", r"/snapshots/.*-1of[23]\.parquet$"),
    "trainer": (r"versions/[^/]+/model\.", r"versions/[^/]+/manifest\.", r"/promotions/"),
    "scheduler": (r"versions/[^/]+/model\.", r"/promotions/", r"/schedule/"),
    "worker": (r"/adoptions/", r"/checkpoints/"),
}
"""What each role writes, or what is written on its behalf."""
_LOOK_S = 2.0
_DAY_MS = 86_400_000


@dataclass(frozen=True)
class Plan:
    """What a seed stands for."""

    seed: int
    storage: Literal["folder", "store"]
    named: bool
    delivery: Literal["at_least_once", "exactly_once"]
    chains: tuple[tuple[Kill, ...], tuple[Kill, ...]]
    """Kills one behind the other; both chains at the same time."""

    def __str__(self) -> str:
        chains = "; ".join(", ".join(str(kill) for kill in chain) for chain in self.chains)
        return f"{self.storage}, {self.delivery}, {'' if self.named else 'not '}named: {chains}"


def plan_of(seed: int) -> Plan:
    """Draw who is killed, and when.

    A scheduler tries again a training that was killed after five minutes only, so it dies behind its trainer. The
    next one promotes; the worker dies about when it adopts that.
    """
    draw = random.Random(f"kills {seed}")
    storage: Literal["folder", "store"] = "folder" if seed % 2 else "store"

    def kill(role: Role) -> Kill:
        at_write = storage == "store" and draw.random() < 0.7
        return Kill(role, draw.uniform(0.2, 7), draw.choice(_WRITES[role]) if at_write else "")

    rounds = 1 if seed % 10 < _SHORT else 2
    roles: tuple[Role, ...] = ("trainer", "scheduler", "worker")
    training = [kill(role) for _ in range(rounds) for role in roles]
    others: list[Role] = ["recorder", "worker", "recorder"] * rounds
    draw.shuffle(others)
    delivery: Literal["at_least_once", "exactly_once"] = "at_least_once" if seed % 4 > 1 else "exactly_once"
    chains = tuple(training), tuple(kill(role) for role in others)
    return Plan(seed, storage, draw.random() < 0.7, delivery, chains)


def _payloads(draw: random.Random) -> Iterator[Payload]:
    """Records of some series without end, a few of which are none; each series is strange now and then."""
    first = 0
    while True:
        spikes = {name: [draw.randrange(5, _POINTS)] for name in _NAMES}
        values = series_rows(_NAMES, _POINTS, draw.randrange(1 << 30), spikes)
        for point in range(_POINTS):
            for number, name in enumerate(_NAMES):
                yield good(name, first + point, values[number, point].tolist())
            if draw.random() < 0.04:
                yield malformed(draw, b"bad")
        first += _POINTS


def play(plan: Plan, deployment: Deployment) -> list[str]:
    """Play a plan to its end, and see that all of it holds; return what alerts and dead letters differ in.

    Raises:
        AssertionError: something does not hold.
    """
    draw = random.Random(f"play {plan.seed}")
    payloads, pause = _payloads(draw), threading.Event()
    bulk = [next(payloads) for _ in range(_POINTS * len(_NAMES))]
    for number, days in enumerate((2, 1, 0)):
        deployment.produce(bulk[number * 700 : (number + 1) * 700], days * _DAY_MS)
    deployment.start("recorder")
    deployment.start("worker")
    deployment.settle(
        "the history is recorded", lambda: deployment.committed(f"{deployment.group}-recorder") == len(bulk)
    )
    deployment.ask()
    deployment.start("scheduler")
    chains = [(0.0, deployment.strike(chain)) for chain in plan.chains]
    look_s = rollback_s = 0.0
    age_ms = 0
    while chains:
        now_s = time.monotonic()
        going = []
        for due_s, chain in chains:
            if now_s < due_s:
                going.append((due_s, chain))
            elif (wait_s := next(chain, None)) is not None:
                going.append((now_s + wait_s, chain))
        chains = going
        deployment.look_after()
        if draw.random() < 0.1:
            # Files of past days are merged, and some ranges are of several days.
            age_ms = draw.randrange(3) * _DAY_MS
        deployment.produce([next(payloads) for _ in range(draw.randrange(1, 12))], age_ms)
        if now_s >= look_s:
            deployment.look()
            look_s = time.monotonic() + _LOOK_S
        if now_s >= rollback_s:
            deployment.roll_back()
            rollback_s = now_s + draw.uniform(0.5, 3)
        pause.wait(0.1)
    return settled(deployment)


def run(seed: int, broker: ApacheBroker, folder: Path) -> tuple[Plan, Deployment, list[str]]:
    """Play a seed on a broker; return what has happened, and the differences."""
    plan = plan_of(seed)
    with ExitStack() as opened:
        store = opened.enter_context(closing(LoopbackStore())) if plan.storage == "store" else None
        opened.enter_context(patch.dict("os.environ", store.environment if store is not None else {}))
        suffix = f"{seed}-{uuid.uuid4().hex[:6]}"
        deployment = Deployment(plan.named, plan.delivery, broker, folder, suffix, store)
        opened.enter_context(closing(deployment))
        try:
            found = play(plan, deployment)
        except (AssertionError, ModelFileError, OffkeyError) as error:
            raise AssertionError(f"{report(plan, deployment)}\n{error}") from error
    return plan, deployment, found


def report(plan: Plan, deployment: Deployment) -> str:
    """Return what was planned and what has happened."""
    trained = [line for line in deployment.said_by_schedulers if "pipeline.scheduler: " in line]
    return "\n".join([f"kills {plan.seed}: {plan}", *deployment.told, *trained])


def summary(plan: Plan, deployment: Deployment, found: list[str], took_s: float) -> str:
    """Return what a run was, in a line."""
    killed = ", ".join(f"{role} {count}" for role, count in sorted(deployment.killed.items()))
    last = "; ".join(line.partition(": ")[2] for line in deployment.told[-2:])
    verdict = "DIFFERS" if found else "as undisturbed"
    return f"kills {plan.seed}: {verdict}; {plan.storage}, {plan.delivery}; killed {killed}; {last}; {took_s:.0f} s"


def main() -> int:
    failed = 0
    with tempfile.TemporaryDirectory() as folder, ExitStack() as opened:
        broker_folder = Path(folder) / "broker"
        broker_folder.mkdir()
        broker = opened.enter_context(closing(ApacheBroker(broker_folder, rights=True, settings=BROKER_SETTINGS)))
        for seed in [int(text) for text in sys.argv[1:]] or [1]:
            begun_s = time.monotonic()
            place = Path(folder) / f"kills-{seed}"
            place.mkdir()
            try:
                plan, deployment, found = run(seed, broker, place)
            except AssertionError as error:
                print(error, flush=True)
                failed += 1
                continue
            print(report(plan, deployment), *found, sep="\n", flush=True)
            failed += bool(found)
            print(summary(plan, deployment, found, time.monotonic() - begun_s), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

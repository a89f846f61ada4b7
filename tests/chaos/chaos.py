"""A run with faults: drawn from a seed, played on Apache Kafka with real workers, compared with an undisturbed one.

`python -m tests.chaos.chaos SEED` plays one by itself; KAFKA_HOME must name a distribution of Apache Kafka.

A run has two acts, in which records come in all the time and faults begin at drawn moments, one before another has
been mended if it so happens; between the acts stands a fault that changes the outcome. Every act has a worker
killed, another champion or a rollback, and feedback on incidents of which this very run has told. The other kinds
of fault are dealt to the seeds like cards, so that any three beginning with a multiple of three meet all of them.

What is compared, for each part of a run: every alert with all that it says, every dead letter byte for byte, and
the final state, with those of a run without faults that follows the log of adoptions which this one has written.
Feedback has to have been adopted in each part; how many alerts tell of it is in the summary.

The schedule is the same whenever a seed is played. What a fault meets depends on how fast the machine is.
"""

import json
import random
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal
from unittest.mock import patch

from tests.brokers import ApacheBroker
from tests.chaos.comparison import differences, undisturbed
from tests.chaos.crew import COMMAND
from tests.chaos.faults import PASSING, TURNING, Steps
from tests.chaos.incoming import Records
from tests.chaos.object_store import LoopbackStore
from tests.chaos.stage import BROKER_SETTINGS, Setup, Stage

ACT_S = 6.0
"""How long faults may begin in an act; those that have begun are mended in their own time."""
_TICK_S = 0.05
_PORTION = 12
"""Most records that come in at once."""
_ALWAYS = ("kill", "swap", "say")
"""Faults of every act."""


@dataclass(frozen=True)
class Planned:
    """A fault and when it begins."""

    at_s: float
    """After the begin of its act."""
    fault: str
    seed: int


@dataclass(frozen=True)
class Schedule:
    """What a seed stands for."""

    seed: int
    setup: Setup
    workers: int
    acts: Sequence[Sequence[Planned]]
    turn: str | None

    def __str__(self) -> str:
        lines = [f"seed {self.seed}: {self.workers} workers, {self.setup}"]
        for number, act in enumerate(self.acts):
            if number:
                lines.append(f"  turn: {self.turn}")
            lines += [f"  {planned.at_s:.1f} s: {planned.fault}" for planned in act]
        return "\n".join(lines)


def schedule_of(seed: int) -> Schedule:
    """Draw what goes wrong in a run."""
    draw, hand = random.Random(f"schedule {seed}"), _dealt(seed)
    storage: Literal["folder", "store"] = draw.choice(["folder", "store"])
    setup = Setup(
        delivery="exactly_once" if seed % 2 else "at_least_once",
        storage="store" if "storage_slow" in hand else storage,
        named=draw.random() < 0.7,
        leave=draw.random() < 0.5,
        start=draw.choice(["earliest", "latest"]),
        checkpoint_every_s=draw.choice([0.3, 1.0, 3.0]),
        max_poll_records=draw.choice([20, 100, 1000]),
    )
    # Every act has a kill, the fault that users fear most, and a swap and feedback, for the others to meet.
    first, second = [*_ALWAYS, *hand[:1]], [*_ALWAYS, *hand[1:]]
    acts = []
    for faults in (first, second):
        planned = [Planned(draw.uniform(0.5, ACT_S), fault, draw.randrange(1 << 30)) for fault in faults]
        acts.append(sorted(planned, key=lambda each: each.at_s))
    return Schedule(seed, setup, draw.choice([2, 2, 3]), acts, _turn(seed))


def _dealt(seed: int) -> list[str]:
    """Return a seed's share of the kinds of fault."""
    deck = sorted([*(PASSING.keys() - {*_ALWAYS}), "freeze"])
    random.Random(f"deck {seed // 3}").shuffle(deck)
    return deck[3 * (seed % 3) : 3 * (seed % 3) + 3]


def _turn(seed: int) -> str:
    deck = sorted(TURNING)
    random.Random(f"turns {seed // 3}").shuffle(deck)
    return deck[seed % 3]


def play(schedule: Schedule, stage: Stage) -> list[str]:
    """Play a schedule to its end; return what differs from an undisturbed run, in each part of it.

    Raises:
        AssertionError: the workers do not work off what is there, or one ended without a reason.
    """
    draw = random.Random(f"records {schedule.seed}")
    records = Records(draw)
    for _ in range(schedule.workers):
        stage.crew.add()
    stage.settle("the workers begin", stage.begun)
    for number, act in enumerate(schedule.acts):
        if number and schedule.turn is not None:
            turn = TURNING[schedule.turn]
            turn(stage, records, random.Random(f"turn {schedule.seed}"))
            _enlist(stage, schedule.workers)
            stage.settle("the workers begin again", stage.begun)
            stage.made_anew.clear()
        _act(stage, records, draw, act)
        stage.settle("all is worked off", stage.caught_up)
        stage.crew.excuse = ""
    stage.stop_all()
    stage.end_chapter()
    found = compare(stage)
    assert all(stage.heard()), f"feedback was not adopted in each part: {stage.heard()}"
    return found


def compare(stage: Stage) -> list[str]:
    """Return what differs from undisturbed runs of what each part of a run had before it."""
    found = []
    for number, (chapter, _) in enumerate(stage.chapters):
        left, expected = stage.found(number), undisturbed(chapter)
        stage.alerts += len(expected.alerts)
        stage.moved += sum("feedback" in json.loads(each.value or b"") for each in expected.alerts)
        if number < len(stage.chapters) - 1:
            # State has only been kept of the end.
            left, expected = replace(left, state={}), replace(expected, state={})
        of_chapter = differences(expected, left, exactly_once=stage.exactly_once)
        found += [f"part {number + 1}: {line}" for line in of_chapter]
    assert stage.alerts, "a run without alerts shows nothing"
    return found


def _enlist(stage: Stage, workers: int) -> None:
    """See that there are workers after a turn, which may have stopped all."""
    for slot in stage.crew.slots[:workers]:
        if not slot.wanted:
            slot.wanted, slot.asked_to_stop_s = True, None


def _act(stage: Stage, records: Records, draw: random.Random, act: Sequence[Planned]) -> None:
    """Let records come in, and faults begin and end, until the last one is mended."""
    begun_s, pause = time.monotonic(), threading.Event()
    waiting = list(act)
    running: list[tuple[float, Steps, str]] = []
    portion_s = 0.0
    while waiting or running or time.monotonic() - begun_s < ACT_S:
        now_s = time.monotonic() - begun_s
        while waiting and waiting[0].at_s <= now_s and stage.broker_is_up:
            planned = waiting.pop(0)
            stage.crew.note(planned.fault)
            running.append((now_s, PASSING[planned.fault](stage, random.Random(planned.seed)), planned.fault))
        running = [step for each in running if (step := _step(stage, each, begun_s)) is not None]
        stage.crew.look_after()
        stage.require_no_wrong()
        if stage.broker_is_up and now_s >= portion_s:
            stage.produce(records.take(draw.randrange(1, _PORTION)))
            portion_s = now_s + draw.uniform(0, 0.15)
        pause.wait(_TICK_S)


def _step(stage: Stage, running: tuple[float, Steps, str], begun_s: float) -> tuple[float, Steps, str] | None:
    """Let a fault go on if it is time; return when it goes on next, None at its end."""
    due_s, steps, fault = running
    if time.monotonic() - begun_s < due_s or not (stage.broker_is_up or fault == "restart_broker"):
        return running
    try:
        wait_s = next(steps)
    except StopIteration:
        return None
    return time.monotonic() - begun_s + wait_s, steps, fault


def run(seed: int, broker: ApacheBroker, folder: Path, code: str = COMMAND) -> tuple[Schedule, Stage, list[str]]:
    """Play a seed on a broker; return the schedule, what has happened, and the differences."""
    schedule = schedule_of(seed)
    with ExitStack() as opened:
        store = opened.enter_context(closing(LoopbackStore())) if schedule.setup.storage == "store" else None
        environment: Mapping[str, str] = store.environment if store is not None else {}
        opened.enter_context(patch.dict("os.environ", environment))
        stage = Stage(broker, folder, schedule.setup, f"{seed}-{uuid.uuid4().hex[:6]}", store, code)
        opened.enter_context(closing(stage))
        try:
            found = play(schedule, stage)
        except AssertionError as error:
            raise AssertionError(f"{report(schedule, stage)}\n{error}") from error
    return schedule, stage, found


def report(schedule: Schedule, stage: Stage) -> str:
    """Return what was planned and what has happened, and how to play it again."""
    happened = "\n".join(f"  {line}" for line in stage.crew.told)
    again = f"python -m pytest tests/chaos/test_chaos.py --chaos-seed {schedule.seed}"
    return f"{schedule}\nwhat happened:\n{happened}\nplay it again: {again}"


def summary(schedule: Schedule, stage: Stage, found: Sequence[str], took_s: float) -> str:
    """Return a run in one line."""
    restarts = sum(slot.restarts for slot in stage.crew.slots)
    faults = [planned.fault for act in schedule.acts for planned in act]
    return (
        f"seed {schedule.seed}: {'DIFFERS' if found else 'as undisturbed'}; {schedule.setup.delivery}, "
        f"{schedule.setup.storage}, {', '.join(faults)}, {schedule.turn}; {stage.produced} records, "
        f"{stage.alerts} alerts, {stage.moved} of them moved by feedback, {restarts} restarts, {took_s:.0f} s"
    )


def main() -> int:
    seeds = [int(text) for text in sys.argv[1:]] or [0]
    failed = 0
    with tempfile.TemporaryDirectory() as folder, ExitStack() as opened:
        broker_folder = Path(folder) / "broker"
        broker_folder.mkdir()
        broker = opened.enter_context(closing(ApacheBroker(broker_folder, rights=True, settings=BROKER_SETTINGS)))
        for seed in seeds:
            begun_s = time.monotonic()
            place = Path(folder) / f"seed-{seed}"
            place.mkdir()
            try:
                schedule, stage, found = run(seed, broker, place)
            except AssertionError as error:
                print(error, flush=True)
                failed += 1
                continue
            if found:
                print(report(schedule, stage), *found, sep="\n", flush=True)
                failed += 1
            print(summary(schedule, stage, found, time.monotonic() - begun_s), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

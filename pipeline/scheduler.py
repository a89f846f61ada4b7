"""The scheduler: who leads, when which stream is trained, and what became of it.

It leads while it owns the control topic's one partition in a consumer group. That is no lock: a scheduler that was
stopped does not know that it leads no more, and the training that it began goes on. So a training is killed when
the lead is lost, or when the loop has not turned for longer than the group waits for a member; one begins only
after the group has taken a commit from us; and what serves is decided by the log of promotions, on which a training
builds as it was when it began: of two on the same log one wins.

A stream is trained for one of four causes, in this order: a **request**, its **first** model, its **schedule**, its
**drift**. One training runs at a time. The first model is tried until the gate takes one, at waits that double up
to an hour. A training that fails for another cause is tried again after 5 minutes, then 10, and so on,
`_MOST_TRIES` times in all; one that ended by a mistake of the configuration is not. Until the last try its time or
its request counts as not handled, so another scheduler tries too. Whatever fails leaves what serves as it is.

A request is committed once it and all before it are done, so a restart may repeat one that was done before an
earlier one was.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from pipeline import metrics
from pipeline.attempts import Attempts
from pipeline.control_queue import ControlQueue
from pipeline.due_trainings import Cause, DueTrainings, Task
from pipeline.errors import AssignmentLost, TransientError
from pipeline.handled import Storage
from pipeline.logs import about
from pipeline.patience import Patience
from pipeline.protocols import Registry, Source
from pipeline.retrain_settings import RetrainSettings
from pipeline.stopping import Stop
from pipeline.training_process import Ended
from pipeline.training_result import (
    FAILED,
    LOST,
    MEMORY_LIMIT,
    PROMOTED,
    STOPPED,
    SUCCESSES,
    TIME_LIMIT,
    faults_of,
    outcome_of,
    show_drift,
    told,
)

logger = logging.getLogger(__name__)

_FIRST_WAIT_S, _AGAIN_WAIT_S = 60.0, 300.0
_MOST_TRIES = 5
_USERS_MISTAKE = 2


class Training(Protocol):
    """A training that runs; see `pipeline.training_process`."""

    def ended(self) -> Ended | None: ...
    def memory_bytes(self) -> int | None: ...
    def kill(self) -> None: ...


@dataclass(frozen=True, slots=True)
class SchedulerOptions:
    """How patient the scheduler is."""

    session_s: float = 10.0
    """How long the group waits for a member that is silent."""
    poll_timeout_s: float = 0.2
    retry_deadline_s: float = 60.0


@dataclass(frozen=True, slots=True)
class _Running:
    task: Task
    training: Training
    since_s: float
    term: int
    """Of the lead in which it began."""


@dataclass
class Scheduler:
    """Trains streams when it is time. Everything happens on the thread that calls `run`."""

    streams: Mapping[str, RetrainSettings]
    source: Source
    topic: str
    """The control topic, which `source` reads."""
    registry: Registry
    storage: Storage
    begin: Callable[[Task], Training]
    """Starts a training; raises OSError where the machine has no room for it."""
    options: SchedulerOptions
    now: Callable[[], datetime]
    """The time of day, by which timetables go."""
    clock: Callable[[], float] = time.monotonic
    """By which everything else is measured."""
    joined: bool = field(default=False, init=False)
    """Whether the group counted this scheduler in at the last turn."""
    turned_s: float | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._queue = ControlQueue(self.source, self.topic, self.streams)
        self._running: _Running | None = None
        self._attempts = Attempts()
        self._due = DueTrainings(self.streams, self.registry, self.storage, self._attempts, self.now, self.clock)
        self._joined_s = self.clock()
        self._trouble = ""
        self._stop = Stop()

    @property
    def leads(self) -> bool:
        return self._queue.owned

    @property
    def stopping(self) -> bool:
        return self._stop.is_set()

    @property
    def trouble(self) -> str:
        """What makes it try again just now."""
        return self._trouble or self._due.trouble

    def facts(self) -> dict[str, object]:
        """Return what the probes tell beside the verdict; may be asked on another thread."""
        running = self._running
        training = None if running is None else {"stream": running.task.stream, "cause": str(running.task.cause)}
        return {
            "streams": list(self.streams),
            "leader": self.leads,
            "training": training,
            "requests": self._queue.waiting,
        }

    def missing(self) -> Iterator[str]:
        """Yield nothing: one that does not lead is ready to."""
        yield from ()

    def unfinished(self) -> str:
        """Say what an end at once leaves undone; may be asked on another thread."""
        running = self._running
        return "nothing is lost" if running is None else f"the training of {running.task.stream} is made again"

    def run(self, stop: Stop) -> None:
        """Train until `stop` is set; a training that runs then is given up.

        Raises:
            TransientError: the broker stayed away for longer than `retry_deadline_s`.
            ConfigError: the control topic, or a right to it, is missing.
        """
        patience = Patience(self.options.retry_deadline_s, self.clock)
        self._stop = stop
        stop.begun = True
        try:
            while not stop.is_set():
                try:
                    self.step()
                    self._trouble = ""
                    patience.renew()
                except TransientError as error:
                    self._trouble = str(error)
                    patience.wait(error, stop)
        finally:
            self._give_up("the scheduler ends")

    def step(self) -> None:
        """Take one turn: follow the lead, read requests, watch the training or begin one.

        Raises:
            TransientError: the broker failed; the next step goes on.
        """
        try:
            self._turn()
            self._follow()
            self._queue.read(self.options.poll_timeout_s)
            # Where it waits, it is most likely to be stopped.
            self._turn()
            self._watch()
            self._queue.commit()
            if self.leads and self._running is None:
                self._begin_next()
        except AssignmentLost as error:
            self._lose(str(error))
            # Only a poll joins the group again.
            self.source.poll(0)
            raise
        metrics.RETRAIN_REQUESTS_OPEN.set(self._queue.waiting)

    def _turn(self) -> None:
        """Note that the loop turns, and give up what was begun before it stood still."""
        now_s = self.clock()
        if self.turned_s is not None and now_s - self.turned_s > self.options.session_s:
            self._give_up(f"the scheduler stood still for {now_s - self.turned_s:.0f} s")
        self.turned_s = now_s

    def _follow(self) -> None:
        """Take the lead or lose it, as the group has it."""
        led, term = self.leads, self._queue.term
        self.joined = self.source.joined()
        if self.joined:
            self._joined_s = self.clock()
        elif led and self.clock() - self._joined_s > self.options.session_s:
            self._lose("the group's coordinator has not answered for longer than the group waits")
            self._queue.gain_anew()
        try:
            # A standby that comes or goes has the partition dealt anew. While a training runs, which began by a
            # commit of ours, and the loop has not stood still since, nobody else has led for long.
            self._queue.follow_assignment(keep=self._running is not None)
        finally:
            if self._running is not None and (not self.leads or self._running.term != self._queue.term):
                self._give_up("the group has given the control topic away")
            metrics.SCHEDULER_LEADER.set(self.leads)
        if self._queue.term != term:
            logger.info("leads: %s is ours", self.topic, extra=about(topic=self.topic))
            self._attempts.clear()
            self._due.begin_anew()
        elif led and not self.leads:
            logger.warning("leads no more: %s is another scheduler's", self.topic, extra=about(topic=self.topic))

    def _lose(self, why: str) -> None:
        if self.leads:
            logger.warning("leads no more: %s", why, extra=about(topic=self.topic))
        self._give_up(why)
        self._queue.forget()
        metrics.SCHEDULER_LEADER.set(0)

    def _give_up(self, why: str) -> None:
        """End the training that runs; its time or request counts as not handled, even if it is over by now."""
        if self._running is not None:
            running = self._running
            ended = running.training.ended()
            running.training.kill()
            said = about(stream=running.task.stream, cause=str(running.task.cause))
            logger.warning("stream %s: its training is given up: %s", running.task.stream, why, extra=said)
            self._count(running.task, running.since_s, STOPPED if ended is None else outcome_of(ended))

    def _count(self, task: Task, since_s: float, outcome: str) -> None:
        self._running = None
        metrics.RETRAIN_RUNS.labels(task.stream, str(task.cause), outcome).inc()
        metrics.RETRAIN_DURATION_SECONDS.labels(task.stream).observe(self.clock() - since_s)
        metrics.RETRAIN_RUNNING.labels(task.stream).set(0)

    def _watch(self) -> None:
        """See whether the training has ended, or has to."""
        if self._running is None:
            return
        running, task = self._running, self._running.task
        settings = self.streams[task.stream]
        if (ended := running.training.ended()) is not None:
            self._conclude(task, running.since_s, outcome_of(ended), ended)
            return
        took_s, held = self.clock() - running.since_s, running.training.memory_bytes()
        if took_s > settings.max_time:
            running.training.kill()
            why = f"it was killed after {took_s:,.0f} s, for `retrain.max_time` is {settings.max_time:,.0f} s"
            self._conclude(task, running.since_s, TIME_LIMIT, Ended(1, None, why))
        elif held is not None and held > settings.max_memory:
            running.training.kill()
            why = f"it was killed at {_mib(held)}, for `retrain.max_memory` is {_mib(settings.max_memory)}"
            self._conclude(task, running.since_s, MEMORY_LIMIT, Ended(1, None, why))

    def _conclude(self, task: Task, since_s: float, outcome: str, ended: Ended) -> None:
        """Note what a training came to: it is handled, or tried again."""
        self._count(task, since_s, outcome)
        self._due.look_at_once()
        key, again, now_s = (task.stream, task.cause), "", self.clock()
        for fault in faults_of(ended):
            metrics.RETRAIN_REFUSED.labels(task.stream, fault).inc()
        if outcome in SUCCESSES:
            metrics.RETRAIN_LAST_SUCCESS.labels(task.stream).set(self.now().timestamp())
            show_drift(task.stream, ended)
        if task.cause is Cause.FIRST and outcome != PROMOTED:
            self._attempts.fail(key, now_s, _FIRST_WAIT_S)
        elif outcome not in (*SUCCESSES, LOST) and ended.status != _USERS_MISTAKE:
            if self._attempts.fail(key, now_s, _AGAIN_WAIT_S) >= _MOST_TRIES:
                self._attempts.forget(key)
        else:
            self._attempts.forget(key)
        if wait_s := self._attempts.wait_s(key, now_s):
            again = f"; it is tried again in {wait_s / 60:,.0f} min"
        elif task.cause is Cause.REQUEST:
            self._queue.done(task.stream)
        else:
            self._due.done(task)
        level = logging.INFO if outcome in SUCCESSES else logging.ERROR
        logger.log(
            level,
            "stream %s: training (%s): %s: %s%s",
            *(task.stream, task.cause, outcome, told(ended), again),
            extra=about(stream=task.stream, cause=str(task.cause), outcome=outcome),
        )

    def _begin_next(self) -> None:
        """Begin the training that is due, if there is one."""
        for stream in self._queue.requested():
            if self._attempts.may((stream, Cause.REQUEST), self.clock()):
                self._begin(Task(stream, Cause.REQUEST, self.streams[stream].history))
                return
        if (task := self._due.next()) is not None:
            self._begin(task)

    def _begin(self, task: Task) -> None:
        # The group takes it from its member alone: another scheduler may lead by now.
        self._queue.commit(always=True)
        # To find what is due may have taken long, but the group still counts on us.
        self.turned_s = self.clock()
        if task.cause is Cause.REQUEST:
            self._queue.take(task.stream)
        said = about(stream=task.stream, cause=str(task.cause))
        logger.info("stream %s: training (%s) begins", task.stream, task.cause, extra=said)
        metrics.RETRAIN_RUNNING.labels(task.stream).set(1)
        try:
            training = self.begin(task)
        except OSError as error:
            why = f"no process can be started ({error.strerror})"
            self._conclude(task, self.clock(), FAILED, Ended(1, None, why))
            return
        self._running = _Running(task, training, self.clock(), self._queue.term)


def _mib(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"

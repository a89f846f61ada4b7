"""Which training is due: what the log of promotions, the timetables and earlier tries say of each stream."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum

from pipeline import metrics
from pipeline.attempts import Attempts
from pipeline.errors import ConfigError, RegistryError, TransientError
from pipeline.handled import Handled, Storage, read_handled, write_handled
from pipeline.logs import about
from pipeline.protocols import Registry
from pipeline.retrain_settings import RetrainSettings
from pipeline.timetable import Timetable
from pipeline.training_result import MISSED

logger = logging.getLogger(__name__)

_LOOK_S = 10.0
"""How often it finds out what is due."""
_ALWAYS_S = 3650 * 86_400.0
"""A look for drift is never too late."""


class Cause(StrEnum):
    """Why a stream is trained."""

    REQUEST = "request"
    FIRST = "first"
    SCHEDULE = "schedule"
    DRIFT = "drift"


@dataclass(frozen=True, slots=True)
class Task:
    """What a training is to do."""

    stream: str
    cause: Cause
    history_s: float
    due_ms: int = 0
    """The time that it is made for, where it is made for one."""


class DueTrainings:
    """What is due by itself; requests are others' to know."""

    def __init__(
        self,
        streams: Mapping[str, RetrainSettings],
        registry: Registry,
        storage: Storage,
        attempts: Attempts,
        now: Callable[[], datetime],
        clock: Callable[[], float],
    ) -> None:
        self._streams = {name: settings for name, settings in streams.items() if settings.scheduled}
        self._registry, self._storage, self._attempts = registry, storage, attempts
        self._now, self._clock = now, clock
        self._handled: dict[str, Handled] = {}
        self._unwritten: set[str] = set()
        self._look_due_s = float("-inf")
        self._troubles: dict[str, str] = {}

    @property
    def trouble(self) -> str:
        """Why it is not known what some stream is due for; may be asked on another thread."""
        return next(iter(self._troubles.copy().values()), "")

    def begin_anew(self) -> None:
        """Believe what storage says, for others may have led meanwhile."""
        self._handled.clear()
        self._unwritten.clear()
        self.look_at_once()

    def look_at_once(self) -> None:
        self._look_due_s = float("-inf")

    def next(self) -> Task | None:
        """Return the first that is due; it looks every `_LOOK_S` only.

        A stream of which storage tells nothing is due for none.
        """
        if self._clock() < self._look_due_s:
            return None
        self._look_due_s = self._clock() + _LOOK_S
        for stream, settings in self._streams.items():
            try:
                task = self._due(stream, settings)
            except (TransientError, ConfigError, RegistryError) as error:
                metrics.SCHEDULER_STORAGE_FAILED.labels(stream).inc()
                if self._troubles.get(stream) != str(error):
                    said = about(stream=stream)
                    logger.error(
                        "stream %s: what is due is not known: %s; it is asked again", stream, error, extra=said
                    )
                self._troubles[stream] = str(error)
                continue
            if self._troubles.pop(stream, None):
                logger.info("stream %s: what is due is known again", stream, extra=about(stream=stream))
            if task is not None:
                return task
        return None

    def done(self, task: Task) -> None:
        """Note that what a training was made for is done."""
        if task.cause not in (Cause.SCHEDULE, Cause.DRIFT):
            return
        handled = self._handled[task.stream]
        if task.cause is Cause.SCHEDULE:
            self._note(task.stream, replace(handled, planned_ms=task.due_ms))
        else:
            self._note(task.stream, replace(handled, looked_ms=task.due_ms))

    def _due(self, stream: str, settings: RetrainSettings) -> Task | None:
        """Return the training that a stream is due for now.

        Raises:
            TransientError: storage does not answer.
            ConfigError: there is no right to it.
            RegistryError: whether there is a champion is not known.
        """
        entry = self._registry.champion(stream)
        if entry is None:
            return self._task(stream, Cause.FIRST)
        if stream not in self._handled:
            self._handled[stream] = read_handled(self._storage, stream, entry.promoted_ms)
        self._doubt(stream)
        task = self._planned(stream, settings) or self._drift_look(stream, settings)
        if stream in self._unwritten:
            write_handled(self._storage, stream, self._handled[stream])
            self._unwritten.discard(stream)
        return task

    def _doubt(self, stream: str) -> None:
        """Count from now on where a clock that was far ahead has handled what is yet to come."""
        handled, now = self._handled[stream], self._now()
        for key in ("planned_ms", "looked_ms"):
            if not Timetable.is_believed(_moment(getattr(handled, key)), now):
                logger.warning(
                    "stream %s: what it is due for counts from now on: a clock was far ahead",
                    stream,
                    extra=about(stream=stream),
                )
                handled = replace(handled, **{key: _ms(now)})
                self._note(stream, handled)

    def _planned(self, stream: str, settings: RetrainSettings) -> Task | None:
        if settings.every is None and settings.cron is None:
            return None
        handled, grace_s = self._handled[stream], settings.misfire_grace
        timetable = Timetable(stream, settings.every, settings.cron, settings.jitter, grace_s)
        due = timetable.due(_moment(handled.planned_ms), self._now())
        metrics.RETRAIN_NEXT.labels(stream).set(due.next.timestamp())
        if due.missed is not None:
            logger.warning(
                "stream %s: no training for %s: it is more than %.1f h late (`retrain.misfire_grace`)",
                *(stream, due.missed.isoformat(timespec="seconds"), grace_s / 3600),
                extra=about(stream=stream),
            )
            metrics.RETRAIN_RUNS.labels(stream, str(Cause.SCHEDULE), MISSED).inc()
            self._note(stream, replace(handled, planned_ms=_ms(due.missed)))
        return None if due.run is None else self._task(stream, Cause.SCHEDULE, _ms(due.run))

    def _drift_look(self, stream: str, settings: RetrainSettings) -> Task | None:
        if not settings.on_drift:
            return None
        looks = Timetable(stream, settings.drift_block, None, settings.jitter, _ALWAYS_S)
        due = looks.due(_moment(self._handled[stream].looked_ms), self._now())
        return None if due.run is None else self._task(stream, Cause.DRIFT, _ms(due.run))

    def _task(self, stream: str, cause: Cause, due_ms: int = 0) -> Task | None:
        if not self._attempts.may((stream, cause), self._clock()):
            return None
        return Task(stream, cause, self._streams[stream].history, due_ms)

    def _note(self, stream: str, handled: Handled) -> None:
        """Keep it, and write it at the next look: storage may be away."""
        self._handled[stream] = handled
        self._unwritten.add(stream)


def _moment(at_ms: int) -> datetime:
    return datetime.fromtimestamp(at_ms / 1000, UTC)


def _ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)

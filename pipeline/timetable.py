"""When a run is due: intervals and cron by APScheduler's triggers, lateness, jitter, and what was missed.

Only the triggers of APScheduler 3.11 are used, which are functions of time. Its schedulers read the clock
themselves, hold their jobs in memory and run them on threads; here the loop of `pipeline.scheduler` asks, the time
is an argument, and what was handled lies in storage, so that another scheduler goes on from there.

What APScheduler calls `coalesce` holds always: of all times that have come since the last one handled, one run is
made. One that is later than `misfire_grace` is made no more. The jitter of a time is a share that its stream and
the time decide, so a restart draws no other, and the times themselves stay where they are.

A clock that is set back by up to a day delays what follows and repeats nothing: times that were handled stay so.
One handled further ahead than that was a wrong clock's, and is believed no more.
"""

import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol

from apscheduler.triggers.cron import CronTrigger
from apscheduler.triggers.interval import IntervalTrigger

_BELIEVED = timedelta(days=1)
_MOMENT = timedelta(milliseconds=10)
"""More than times are rounded by, when they are reckoned with and stored."""
_SOME_DAY = datetime(2000, 1, 1, tzinfo=UTC)


class _Trigger(Protocol):
    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime | None: ...


@dataclass(frozen=True, slots=True)
class Due:
    """What a timetable says at one moment."""

    run: datetime | None
    """The time for which a run is to begin now; None: none."""
    missed: datetime | None
    """The last time that is too late to begin for; None: there is none."""
    next: datetime
    """When to look again at the latest."""


@dataclass(frozen=True, slots=True)
class Timetable:
    """The times of one stream."""

    stream: str
    every_s: float | None = None
    cron: str | None = None
    jitter_s: float = 0.0
    grace_s: float = 6 * 3600.0

    @staticmethod
    def is_believed(handled: datetime, now: datetime) -> bool:
        """Tell whether a time that was handled is none of a wrong clock; else it has to be set to now, once."""
        return handled <= now + _BELIEVED

    def due(self, handled: datetime, now: datetime) -> Due:
        """Tell what is to be done now; `handled` is the last time that a run was made for, or was missed."""
        trigger, grace = self._trigger(handled), timedelta(seconds=self.grace_s)
        missed = _last(trigger, handled, now - grace - _MOMENT)
        begins = handled if missed is None else missed
        last = _last(trigger, begins, now)
        following = _first(trigger, max(now, begins))
        if last is not None:
            if now >= last + self._jitter(last):
                return Due(last, missed, following)
            following = last + self._jitter(last)
        return Due(None, missed, following)

    def _trigger(self, anchor: datetime) -> _Trigger:
        if self.cron is not None:
            trigger: _Trigger = CronTrigger.from_crontab(self.cron, timezone=UTC)
            return trigger
        assert self.every_s is not None, "a timetable has one of both"
        # The first time is the one after the anchor: `_first` looks behind it.
        of_interval: _Trigger = IntervalTrigger(seconds=self.every_s, start_date=anchor, timezone=UTC)
        return of_interval

    def _jitter(self, at: datetime) -> timedelta:
        drawn = random.Random(f"{self.stream}/{at.isoformat()}")
        return timedelta(seconds=drawn.uniform(0, self.jitter_s))


def require_cron(text: str) -> None:
    """See that a line of cron is one, and comes at some time.

    Raises:
        ValueError: it is none.
    """
    remedy = "write minute, hour, day of month, month, day of week, as in `30 2 * * sun`"
    fields = text.split()
    if len(fields) == 5 and any(sign.isdigit() for sign in fields[4].partition("/")[0]):
        # APScheduler counts from Monday, cron from Sunday.
        raise ValueError(f"{text!r:.60} has a number for the day of the week, which is read in two ways; {remedy}")
    try:
        comes = CronTrigger.from_crontab(text, timezone=UTC).get_next_fire_time(None, _SOME_DAY)
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{text!r:.60} is no time of cron ({error}); {remedy}") from error
    if comes is None:
        raise ValueError(f"{text!r:.60} never comes; {remedy}")


def _first(trigger: _Trigger, after: datetime) -> datetime:
    found = trigger.get_next_fire_time(None, after + _MOMENT)
    assert found is not None, "there is always a next time"
    return found


def _last(trigger: _Trigger, after: datetime, until: datetime) -> datetime | None:
    """Return the last time in (after, until], found by halving: there may be many."""
    if until <= after or _first(trigger, after) > until:
        return None
    low, high = after, until
    while high - low > timedelta(seconds=1):
        middle = low + (high - low) / 2
        low, high = (middle, high) if _first(trigger, middle) <= until else (low, middle)
    found = _first(trigger, low)
    while (following := _first(trigger, found)) <= until:
        found = following
    return found

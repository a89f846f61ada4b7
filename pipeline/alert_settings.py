"""When a stream alerts, and what it leaves untold: the keys below `alerts`."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Self

from pydantic import BeforeValidator, Field, model_validator

from pipeline.budgets import parse_budget
from pipeline.mistakes import mistake_at
from pipeline.setting_types import (
    LARGEST,
    BudgetText,
    Duration,
    DurationOrNever,
    Moment,
    Name,
    Section,
    Whole,
    between,
    no_truth,
)

_EPOCH, _MS = datetime(1970, 1, 1, tzinfo=UTC), timedelta(milliseconds=1)
OF_SERIES = {
    "accept_after": "have no level that stays",
    "repeat_after": "raise incidents that do not last",
    "silence": "have no interval",
    "stream_budget": "have one budget for the stream already",
    "storm": "belong to no series",
}
"""Keys that say nothing of records judged one by one, and why."""


class MaintenanceSettings(Section):
    """A span in which series are expected to be strange."""

    series: Name = "*"
    """Names of series, as a pattern: `*` stands for any text, `?` for one character."""
    from_: Annotated[Moment, Field(alias="from")]
    """First moment of event time, with its zone: 2026-03-01T22:00:00Z."""
    to: Moment
    """First moment after it."""
    note: Name | None = None
    """What is done then, for people."""

    @property
    def from_ms(self) -> int:
        return _ms_of(self.from_)

    @property
    def to_ms(self) -> int:
        return _ms_of(self.to)

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if not self.from_ms < self.to_ms:
            raise mistake_at(("to",), "it is not later than `from`; write the end of the window")
        return self


def _ms_of(moment: datetime) -> int:
    # Integer arithmetic: a float of seconds would round some milliseconds.
    return (moment - _EPOCH) // _MS


class AlertSettings(Section):
    budget: BudgetText = "1 per week"
    """False incidents that one series may raise (for features: the stream): `1 per day`, `1 per 1000 records`."""
    stream_budget: BudgetText | None = None
    """False incidents that all series together may raise in a time: `10 per day`. The more series there are, the
    higher are their thresholds then. By default there is no such bound."""
    delay: Annotated[int, Field(ge=0, le=4096), BeforeValidator(no_truth)] = 0
    """Later points that a point waits for before it is judged: later alerts, and better ones."""
    quiet_points: Whole = 5
    """Points below the threshold, less `hysteresis`, after which an incident is resolved."""
    hysteresis: Annotated[float, Field(ge=0, le=100), BeforeValidator(no_truth)] = 5.0
    """How far scores may lie under the threshold while an incident goes on: at 10, points ten times as common."""
    merge_points: Annotated[int, Field(ge=0, le=LARGEST), BeforeValidator(no_truth)] = 20
    """A series that is strange again within so many points after a resolution has its incident `reopened`."""
    repeat_after: DurationOrNever = None
    """After how long an incident that goes on unchanged is told again, as `repeated`; by default never."""
    silence: Annotated[int, Field(ge=2, le=LARGEST), BeforeValidator(no_truth)] | None = None
    """Intervals without a point after which a series has an incident `silent`; by default it has none."""
    accept_after: DurationOrNever = 86_400
    """How long a series is strange until its level is accepted, so usual, and its incident ends; never: none is."""
    storm: Annotated[int, Field(ge=2, le=100_000), BeforeValidator(no_truth)] | None = None
    """So many series of a partition that begin an incident within `storm_within` are one alert, `storm`, and those
    that follow are muted; by default each is told."""
    storm_within: Annotated[Duration, between("1ms", "1 day")] = 300
    """Span of the partition's time in which the series of a storm are counted."""
    maintenance: list[MaintenanceSettings] = Field(default=[])
    """Windows of event time in which incidents that begin are muted; what is open at their end is told then."""

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.stream_budget is not None:
            for key in ("stream_budget", "budget"):
                if parse_budget(getattr(self, key)).per_s is None:
                    raise mistake_at(
                        (key,), "a budget of all series needs times, not records; write both as in '1 per week'"
                    )
        if self.storm is None and "storm_within" in self.model_fields_set:
            raise mistake_at(("storm_within",), "it needs `storm`, a number of series; set that too")
        return self

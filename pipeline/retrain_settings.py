"""When a stream is trained again and what that may take: the keys below its `retrain`, and below `scheduler`."""

from typing import Annotated, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from pipeline.mistakes import mistake_at
from pipeline.setting_types import LONGEST_WAIT, WRITTEN, Duration, Section, Size, Wait, between, no_truth, truth

_HOUR_S, _DAY_S = 3600, 86_400


def _cron(text: str) -> str:
    from pipeline.timetable import require_cron

    require_cron(text)
    return text


class RetrainSettings(Section):
    every: Annotated[float, between("1s", "3650 days"), WRITTEN] | None = None
    """So often a challenger is trained, counted from when the champion was promoted; or `cron`."""
    cron: Annotated[str, AfterValidator(_cron)] | None = None
    """When it is trained: minute, hour, day of month, month, day of week by name, as in `30 2 * * sun`; UTC."""
    on_drift: Annotated[bool, BeforeValidator(truth)] = False
    """Train when the scores of the newest snapshots have shifted for good; looked at once a `drift_block`."""
    drift_block: Annotated[float, between("6h", "90 days"), WRITTEN] = _DAY_S
    """How long a block is of which the newest seven are compared with the first fourteen after training: one
    season of the stream, or some."""
    history: Annotated[float, between("1s", "36500 days"), WRITTEN] = 30 * _DAY_S
    """Snapshots of so long are learned from."""
    jitter: Duration = 0
    """A run on time begins up to so much later, each stream by another share of it."""
    misfire_grace: Annotated[float, between("1s", LONGEST_WAIT), WRITTEN] = 6 * _HOUR_S
    """A run that could not begin in time begins so late at most; several that were missed are one."""
    max_time: Wait = 2 * _HOUR_S
    """A training that takes longer is killed."""
    max_memory: Size = 4 << 30
    """A training that takes more memory is killed."""

    @property
    def scheduled(self) -> bool:
        """Whether anything but a request has the stream trained; its first model is then trained too."""
        return self.every is not None or self.cron is not None or self.on_drift

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.every is not None and self.cron is not None:
            raise mistake_at(("cron",), "`every` says when already; keep one of them")
        return self


class SchedulerSettings(Section):
    port: Annotated[int, Field(ge=0, le=65_535), BeforeValidator(no_truth)] = 9110
    """Where its metrics and probes listen, on `metrics.host`; 0 takes a free port and logs it."""

"""How the commands begin that run until they are stopped: logs, signals, metrics and probes."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pipeline.cli_endpoint import open_endpoint

if TYPE_CHECKING:
    from pipeline.config import Settings
    from pipeline.health import Health
    from pipeline.notify import Notify
    from pipeline.recorder import Recorder
    from pipeline.scheduler import Scheduler
    from pipeline.stopping import Stop


@dataclass(frozen=True)
class Begun:
    """A command that hears signals and answers probes already, while what it runs is still to be built."""

    stop: "Stop"
    health: "Health"
    address: str
    """Of its metrics."""

    def run(self, built: "Notify | Recorder | Scheduler") -> None:
        """Run what was built, until it is stopped."""
        from pipeline.collector import quiet_collector

        self.health.worker = built
        quiet_collector()
        built.run(self.stop)


def begin(settings: "Settings", section: Literal["recorder", "scheduler", "notify"], awaited: str) -> Begun:
    """Log as the settings say, hear signals, and serve metrics and probes on a section's port.

    Args:
        awaited: what the probes say is waited for until `run`.

    Raises:
        ConfigError: as `open_endpoint` does.
    """
    from pipeline import logs
    from pipeline.health import Health
    from pipeline.stopping import Stop, stop_on_signals

    logs.use(settings.logs.format)
    kafka, stop = settings.kafka, Stop(settings.worker.stop_timeout)
    health = Health(kafka.max_poll_interval + kafka.connect_timeout, awaited=awaited)
    stop_on_signals(stop, health.unfinished)
    return Begun(stop, health, open_endpoint(settings, section, health))

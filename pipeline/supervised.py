"""A worker as one of several processes: what its number makes of the settings, and its tie to who started it.

The tie is the standard input, of which the supervisor holds the other end and says nothing: its end is the
supervisor's, however that came, and the worker then stops as on SIGTERM. A signal at the parent's death exists on
Linux only, and comes when the parent's *thread* ends; an end of file comes everywhere. The worker tells that it is
ready by a line on its standard output, once.
"""

import os
import select
import signal
import threading
from dataclasses import dataclass
from typing import Self

from pipeline import metrics
from pipeline.config import Settings
from pipeline.errors import ConfigError
from pipeline.health import Health
from pipeline.stopping import Stop

READY = b"ready"
_LOOK_S = 0.2
"""How often it looks whether the worker is ready, until it is."""
_LONGEST_NAME = 249
_LARGEST_PORT = 65_535


@dataclass(frozen=True, slots=True)
class Place:
    """Which of a machine's processes this is, and how often it was started again; on command lines `2/0`."""

    number: int
    restarts: int

    def __str__(self) -> str:
        return f"{self.number}/{self.restarts}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises:
        ConfigError: a person wrote it.
        """
        try:
            number, restarts = map(int, text.split("/"))
        except ValueError as error:
            raise ConfigError(f"--supervised {text}: that is for `offkey worker --processes N` to set") from error
        return cls(number, restarts)

    def tie(self, health: Health, stop: Stop) -> None:
        """Tell the supervisor when the worker is ready for the first time, and stop when the supervisor is gone.

        The supervisor has no endpoint: what it has counted of a process, that process shows.
        """
        metrics.PROCESS_RESTARTS.inc(self.restarts)
        threading.Thread(target=_watch, args=(health, stop), name="supervisor", daemon=True).start()


def settings_of(settings: Settings, number: int) -> Settings:
    """Return the settings of one process: an instance id and a port of its own.

    Its transactions are named after its instance id. Port 0 stays: each process takes a free one.

    Raises:
        ConfigError: there is no such port, or the instance id is too long with the number.
    """
    kafka, endpoint = settings.kafka, settings.metrics
    if kafka.instance_id is not None:
        instance_id = f"{kafka.instance_id}-{number}"
        if len(instance_id) > _LONGEST_NAME:
            raise ConfigError(
                f"{settings.place_of('kafka', 'instance_id')}: kafka.instance_id: with the number of a process, "
                f"-{number}, it is longer than the {_LONGEST_NAME} characters that Kafka takes; shorten it"
            )
        kafka = kafka.model_copy(update={"instance_id": instance_id})
    if endpoint.port:
        port = endpoint.port + number
        if port > _LARGEST_PORT:
            raise ConfigError(
                f"{settings.place_of('metrics', 'port')}: metrics.port: process {number} would listen on {port}, "
                f"and {_LARGEST_PORT} is the last port; set a lower one, or 0"
            )
        endpoint = endpoint.model_copy(update={"port": port})
    return settings.model_copy(update={"kafka": kafka, "metrics": endpoint})


def _watch(health: Health, stop: Stop) -> None:
    told = False
    while True:
        readable, _, _ = select.select([0], [], [], None if told else _LOOK_S)
        if readable and not os.read(0, 1024):
            break
        if not told and health.ready()[0]:
            try:
                os.write(1, READY + b"\n")
            except BrokenPipeError:
                break
            told = True
    # Whoever writes to a pipe that nobody reads fails, and what is said at the end may not keep it from ending.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    if not stop.is_set():  # A second signal would end it at once.
        os.kill(os.getpid(), signal.SIGTERM)

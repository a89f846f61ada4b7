"""The command `offkey schedule`."""

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from pipeline.cli_options import ConfigPath
from pipeline.cli_running import begin
from pipeline.cli_who_when import now

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.config import Settings
    from pipeline.due_trainings import Task
    from pipeline.scheduler import Scheduler
    from pipeline.stopping import Stop
    from pipeline.training_process import TrainingProcess

logger = logging.getLogger(__name__)


def schedule(config: ConfigPath) -> None:
    """Train streams when it is time, on drift and on request, until SIGTERM or Ctrl-C.

    Of several schedulers of one group one trains, and the others stand by.
    """
    from pipeline.config import load_settings
    from pipeline.training_process import memory_is_told

    settings = load_settings(config)
    begun = begin(settings, "scheduler", awaited="storage and cluster")
    with _scheduler(config, settings, begun.stop) as built:
        scheduled = [name for name, stream in settings.streams.items() if stream.retrain.scheduled]
        logger.info("metrics on %s", begun.address)
        if scheduled:
            logger.info("trains %s when it is time; all streams on request", ", ".join(scheduled))
        else:
            logger.warning("no stream has `retrain: {every: ...}` or the like; streams are trained on request only")
        if not memory_is_told():
            logger.warning(
                "`retrain.max_memory` bounds nothing: this machine has no /proc that tells what a training takes"
            )
        begun.run(built)
    logger.info("left the group")


@contextlib.contextmanager
def _scheduler(config: "Path", settings: "Settings", stop: "Stop") -> "Iterator[Scheduler]":
    """Build the production scheduler; it leaves its group when the block ends, in what is left of a stop's budget.

    Raises:
        ConfigError: the control topic is not there, or has more than one partition.
        TransientError: the broker does not answer.
    """
    from dataclasses import replace

    from pipeline import zeros
    from pipeline.connectors.connection import Connection, GroupOptions
    from pipeline.connectors.kafka import KafkaSource
    from pipeline.connectors.registry import StoredRegistry
    from pipeline.connectors.storage import ObjectStorage
    from pipeline.control import require_one_partition
    from pipeline.due_trainings import Cause
    from pipeline.scheduler import Scheduler, SchedulerOptions

    on_drift = [name for name, stream in settings.streams.items() if stream.retrain.on_drift]
    zeros.of_scheduler(settings.streams, Cause, on_drift)
    kafka, topic, storage = settings.kafka, settings.topics.control, ObjectStorage(settings.storage)
    # Without an instance id: all schedulers share one configuration, and one that ends is not waited for.
    group = replace(GroupOptions.of(kafka), group_id=f"{kafka.group_id}-scheduler", instance_id=None)
    with contextlib.ExitStack() as opened:
        source = KafkaSource(Connection.of(kafka), group, [topic])
        opened.callback(lambda: source.close(stop.closing_s()))
        require_one_partition(topic, source.partition_count(topic))
        yield Scheduler(
            {name: stream.retrain for name, stream in settings.streams.items()},
            source,
            topic,
            StoredRegistry(storage),
            storage,
            _starter(config),
            SchedulerOptions(kafka.session_timeout, retry_deadline_s=settings.worker.retry_deadline),
            now,
        )


def _starter(config: "Path") -> "Callable[[Task], TrainingProcess]":
    """Return what starts a training."""
    from pipeline.due_trainings import Cause
    from pipeline.own_program import own_program
    from pipeline.training_process import TrainingProcess

    retrain = [sys.executable, *own_program(), "retrain", str(config)]

    def start(task: "Task") -> "TrainingProcess":
        asked = ["--snapshots", f"{task.history_s}s", "--json", "--scheduled"]
        drifted = ["--if-drifted"] if task.cause is Cause.DRIFT else []
        return TrainingProcess(task.stream, [*retrain, task.stream, *asked, *drifted])

    return start

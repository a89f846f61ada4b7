"""The command `offkey worker`: one process, or several under a supervisor."""

import contextlib
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli_options import ConfigPath

if TYPE_CHECKING:
    from pipeline.config import Settings
    from pipeline.stopping import Stop
    from pipeline.worker import Worker

logger = logging.getLogger(__name__)


def worker(
    config: ConfigPath,
    leave: Annotated[
        bool, typer.Option("--leave", help="When it stops, give up kafka.instance_id: partitions move at once.")
    ] = False,
    processes: Annotated[
        int | None, typer.Option(min=1, help="Run so many on this machine; one that dies is started again.")
    ] = None,
    supervised: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Score records and publish alerts, until SIGTERM or Ctrl-C."""
    from pipeline import logs
    from pipeline.config import load_settings
    from pipeline.supervised import Place, settings_of

    settings, place = load_settings(config), Place.parse(supervised) if supervised else None
    logs.use(settings.logs.format, place.number if place else None)
    if leave and settings.kafka.instance_id is None:
        logger.warning("--leave is needless without kafka.instance_id: the worker leaves whenever it stops")
    if processes is not None:
        from pipeline.supervisor import supervise

        return supervise(config, settings, processes, leave)

    from pipeline.cli_endpoint import open_endpoint
    from pipeline.errors import ConfigError, TransientError
    from pipeline.health import Health
    from pipeline.stopping import Stop, stop_on_signals

    settings = settings_of(settings, place.number) if place else settings
    kafka, stop = settings.kafka, Stop(settings.worker.stop_timeout)
    # The group takes away the partitions of who is longer than the first; the waits for others come on top.
    health = Health(kafka.max_poll_interval + max(kafka.connect_timeout, kafka.delivery_timeout))
    # The signals are this command's until the process has ended, for that may hang too.
    stop_on_signals(stop, health.unfinished)
    if place:
        place.tie(health, stop)
    try:
        address = open_endpoint(settings, "metrics", health)
    except ConfigError as error:
        if place is None or not place.restarts:
            raise
        # It was served before: whoever renews a certificate may not be done yet, and with 2 all would end.
        raise TransientError(str(error)) from error
    with _worker(settings, stop) as built:
        from pipeline.collector import quiet_collector
        from pipeline.heap import give_back_large_pieces

        logger.info("scoring %s; metrics on %s", ", ".join(settings.streams), address)
        health.worker = built
        quiet_collector()
        give_back_large_pieces()
        built.run(stop)
    if leave and kafka.instance_id is not None:
        _leave_for_good(settings, kafka.instance_id, stop)
    logger.info("left the group; all offsets are committed")


def _leave_for_good(settings: "Settings", instance_id: str, stop: "Stop") -> None:
    """Take a static member out of its group: the client itself only goes silent, to come back later."""
    from dataclasses import replace

    from pipeline.connectors.connection import Connection
    from pipeline.connectors.kafka import KafkaCluster

    quick = replace(Connection.of(settings.kafka), connect_timeout_s=max(stop.left_s(), 0.1))
    with contextlib.closing(KafkaCluster(quick)) as cluster:
        if not cluster.remove_member(settings.kafka.group_id, instance_id):
            logger.warning("the group has no member %s any more", instance_id)


@contextlib.contextmanager
def _worker(settings: "Settings", stop: "Stop") -> "Iterator[Worker]":
    """Build the production worker; it leaves its group when the block ends, in what is left of a stop's budget."""
    from functools import partial

    import torch

    from pipeline import metrics, zeros
    from pipeline.connectors.adoptions import StoredAdoptions
    from pipeline.connectors.checkpoints import StoredCheckpoints
    from pipeline.connectors.connection import Connection, GroupOptions
    from pipeline.connectors.kafka import KafkaCluster, KafkaFeedback, KafkaSource, open_delivery
    from pipeline.connectors.registry import StoredRegistry
    from pipeline.connectors.shadows import StoredShadows
    from pipeline.connectors.storage import ObjectStorage
    from pipeline.lanes import champion_of, choose_device, lane_around, load_model
    from pipeline.listening import Listening
    from pipeline.shadowing import Shadowing
    from pipeline.swap import Watcher
    from pipeline.worker import Worker, WorkerOptions

    zeros.of_worker(settings.streams)
    kafka, storage = settings.kafka, ObjectStorage(settings.storage)
    connection = Connection.of(kafka)
    device, registry = choose_device(settings.device), StoredRegistry(storage)
    if device.type == "cuda":
        metrics.GPU_MEMORY_BYTES.set_function(lambda: torch.cuda.memory_reserved(device))
    # A chunk of windows is too small for a second thread; the other cores are for other workers.
    torch.set_num_threads(1)
    loads = {name: partial(load_model, name, stream, registry, device) for name, stream in settings.streams.items()}
    champions = {name: champion_of(name, registry) for name in loads}
    models = {name: load(champions[name].version) for name, load in loads.items()}
    lanes = []
    with contextlib.closing(KafkaCluster(connection)) as cluster:
        for topic in (settings.topics.alerts, settings.topics.dead_letters):
            cluster.topic(topic, "WRITE")
        heard = cluster.has(settings.topics.feedback)
        for name, stream in settings.streams.items():
            shared = stream.alerts.stream_budget is not None
            partitions = cluster.topic(stream.topic).partitions if shared else 1
            lanes.append(lane_around(name, stream, models[name], partitions, loads[name]))
            metrics.MODEL_PROMOTED.labels(name).set(champions[name].promoted_ms / 1000)
    group = GroupOptions.of(kafka)
    options = WorkerOptions(
        settings.topics.alerts,
        settings.topics.dead_letters,
        delivery_timeout_s=kafka.delivery_timeout,
        checkpoint_every_s=settings.worker.checkpoint_every,
        retry_deadline_s=settings.worker.retry_deadline,
        max_rejects_in_a_row=settings.worker.max_rejects_in_a_row,
    )
    with contextlib.ExitStack() as opened:
        source = KafkaSource(connection, group, [lane.topic for lane in lanes])
        opened.callback(lambda: source.close(stop.closing_s()))
        delivery = open_delivery(kafka.delivery, connection, group, source, kafka.delivery_timeout)
        opened.callback(lambda: delivery.close(stop.closing_s()))
        shadows = StoredShadows(storage)
        watcher = Watcher({lane.name: lane.slot for lane in lanes}, registry, shadows)
        opened.callback(watcher.begin(settings.worker.watch_every).set)
        worker = Worker(lanes, source, delivery, StoredCheckpoints(storage), StoredAdoptions(storage), options)
        worker.shadowing = Shadowing(shadows)
        if heard:
            said = KafkaFeedback(connection, settings.topics.feedback)
            opened.callback(said.close)
            slots = {lane.name: lane.feedback for lane in lanes}
            worker.listening = Listening(said, settings.topics.feedback, slots)
        else:
            logger.info(
                "topic %s is not there, or this user may not see it: no feedback is heard", settings.topics.feedback
            )
        yield worker

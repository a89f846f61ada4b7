"""The command `offkey`. Nothing else builds concrete objects; heavy imports stay inside the commands."""

import contextlib
import json
import logging
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline import cli_letters
from pipeline.errors import ConfigError, OffkeyError

if TYPE_CHECKING:
    from pipeline.config import Settings
    from pipeline.connectors.connection import Connection
    from pipeline.connectors.storage import ObjectStorage
    from pipeline.stopping import Stop
    from pipeline.worker import Worker

app = typer.Typer(
    name="offkey",
    help="Anomaly detection on Kafka streams, with autoencoders.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(cli_letters.app)

_NEWEST_RECORDS = 64
"""So many of a topic tell how many rows its records have."""
ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG", help="The configuration file.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print for programs.")]


def main() -> None:
    """Run a command; an error of ours is one line for each mistake, and its exit status."""
    try:
        app()
    except OffkeyError as error:
        for line in str(error).splitlines():
            print(f"offkey: {line}", file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # The reader of our output has left, as `head` does.
        sys.stderr.close()
        sys.exit(0)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"offkey {version('offkey')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
) -> None:
    level = logging.getLevelNamesMapping().get(log_level.upper())
    if level is None:
        raise ConfigError(f"--log-level {log_level}: there are debug, info, warning and error")
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)-7s %(name)s: %(message)s", stream=sys.stderr)
    # The client reports each lost connection several times; what matters of it comes as one error of ours.
    logging.getLogger("kafka").setLevel(logging.CRITICAL if level > logging.DEBUG else level)


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="Where to write it.")] = Path("offkey.yaml"),
    force: Annotated[bool, typer.Option(help="Overwrite a file that is there.")] = False,
) -> None:
    """Write a commented configuration to start from."""
    from importlib.resources import files

    if path.exists() and not force:
        raise ConfigError(f"{path} is there already; take another name, or --force to overwrite it")
    try:
        path.write_text(files("pipeline").joinpath("template.yaml").read_text())
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror})") from error
    print(f"wrote {path}; edit it, then: offkey check {path}")


@app.command()
def check(config: ConfigPath, as_json: AsJson = False) -> None:
    """Say what is right, what is not, and what to do."""
    from dataclasses import asdict

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from pipeline.check import Outside, check_all
    from pipeline.config import load_settings
    from pipeline.connectors.kafka import KafkaCluster, history, refuses_zombies
    from pipeline.connectors.registry import StoredRegistry

    settings = load_settings(config)
    connection = _connection(settings)
    outside = Outside(
        storage=lambda: _storage(settings),
        registry=lambda: StoredRegistry(_storage(settings)),
        cluster=lambda: KafkaCluster(connection),
        history=lambda topic, most: history(connection, topic, most),
        refuses_zombies=lambda: refuses_zombies(connection, settings.kafka.group_id),
    )
    rows = check_all(settings, outside)
    if as_json:
        print(json.dumps([asdict(row) for row in rows], indent=1))
    else:
        table = Table("")
        for head in ("What", "Found", "What to do"):
            table.add_column(head, overflow="fold")
        marks = {"ok": "[green]ok[/]", "warning": "[yellow]look[/]", "wrong": "[red]wrong[/]"}
        for row in rows:
            # As text: what was found may hold brackets, which rich would take for its own.
            table.add_row(marks[row.verdict], *(Text(cell) for cell in (row.what, row.found, row.remedy)))
        Console().print(table)
    if any(row.verdict == "wrong" for row in rows):
        raise typer.Exit(1)


@app.command()
def train(
    config: ConfigPath,
    streams: Annotated[list[str] | None, typer.Argument(metavar="[STREAM]...", help="Default: all.")] = None,
    max_records: Annotated[
        int, typer.Option(min=1, help="Newest records of each topic to learn from; of Arrow so many rows.")
    ] = 1_000_000,
    as_json: AsJson = False,
) -> None:
    """Train a model for each stream on its topic's records, and promote it."""
    from dataclasses import asdict
    from datetime import UTC, datetime

    from pipeline.config import load_settings

    settings = load_settings(config)
    chosen = _chosen(settings, streams)

    from models.resume import Unfinished
    from pipeline.connectors.kafka import history
    from pipeline.connectors.registry import StoredRegistry
    from pipeline.fields import records_of_rows
    from pipeline.lanes import choose_device
    from pipeline.train import train_stream, wrong_option

    for name in chosen:
        if wrong := wrong_option(settings.streams[name]):
            place = settings.place_of("streams", name, "model", wrong[0])
            raise ConfigError(f"{place}: streams.{name}.model: {wrong[1]}")
    storage = _storage(settings)
    registry, device = StoredRegistry(storage), choose_device(settings.device)
    for name in chosen:
        stream = settings.streams[name]

        def say(text: str, name: str = name) -> None:
            print(f"{name}: {text}", file=sys.stderr)

        newest = history(_connection(settings), stream.topic, _NEWEST_RECORDS)
        most = records_of_rows(max_records, stream, newest)
        with _training_bar(name, hidden=as_json) as progress:
            trained = train_stream(
                name,
                stream,
                history(_connection(settings), stream.topic, most),
                registry,
                now=lambda: datetime.now(UTC),
                device=device,
                progress=progress,
                unfinished=Unfinished(storage, f"models/{name}/unfinished", say),
            )
        if as_json:
            print(json.dumps(asdict(trained)), flush=True)
        else:
            kind = "series" if stream.kind == "series" else "stream"
            print(
                f"{name}: {trained.architecture} on {trained.records:,} records of {trained.series:,} {kind}, "
                f"{len(trained.features)} features, in {trained.seconds:.0f} s; "
                f"{trained.rejected:,} rejected, {trained.late:,} late; version {trained.version}"
            )
            print(f"{name}: {trained.support}")


@app.command()
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
    from pipeline.config import load_settings

    settings = load_settings(config)
    logger = logging.getLogger(__name__)
    if leave and settings.kafka.instance_id is None:
        logger.warning("--leave is needless without kafka.instance_id: the worker leaves whenever it stops")
    if processes is not None:
        from pipeline.supervisor import supervise

        return supervise(config, settings, processes, leave)

    from pipeline.health import Health, serve
    from pipeline.stopping import Stop, stop_on_signals
    from pipeline.supervised import Place, settings_of

    place = Place.parse(supervised) if supervised else None
    settings = settings_of(settings, place.number) if place else settings
    kafka, stop = settings.kafka, Stop(settings.worker.stop_timeout)
    # The group takes away the partitions of who is longer than the first; the waits for others come on top.
    health = Health(kafka.max_poll_interval + max(kafka.connect_timeout, kafka.delivery_timeout))
    # The signals are this command's until the process has ended, for that may hang too.
    stop_on_signals(stop, lambda: health.worker.unfinished() if health.worker else "nothing was begun")
    if place:
        place.tie(health, stop)
    host, port = settings.metrics.host, serve(settings.metrics.host, settings.metrics.port, health)
    with _worker(settings, stop) as built:
        from pipeline.worker import quiet_collector

        logger.info("scoring %s; metrics on http://%s:%d/metrics", ", ".join(settings.streams), host, port)
        health.worker = built
        quiet_collector()
        built.run(stop)
    if leave and kafka.instance_id is not None:
        _leave_for_good(settings, kafka.instance_id, stop)
    logger.info("left the group; all offsets are committed")


@app.command()
def evaluate(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Parquet files, or folders of them.")],
    out: Annotated[Path, typer.Option(help="Folder for scores, metrics.csv and figures.")],
    workers: Annotated[int, typer.Option(min=1, help="Processes, each with one thread.")] = 1,
    architecture: Annotated[str, typer.Option(help="`default`, or one of models/architectures.")] = "default",
    seed: Annotated[int, typer.Option(min=0, help="Of training, and of the split of tables.")] = 0,
    setting: Annotated[
        str, typer.Option(help="Tables learn from normal rows (S) or from contaminated ones (U).")
    ] = "S",
    delays: Annotated[
        str, typer.Option(help="Also measure scores that have seen so many later points, as in 2,4,8.")
    ] = "",
    online: Annotated[
        bool, typer.Option("--online", help="Recalibrate the scores of series as they go on, as a worker does.")
    ] = False,
    accept_after: Annotated[
        str | None, typer.Option(help="With --online: accept a level that stays so long, as in 1d.")
    ] = None,
    figures: Annotated[bool, typer.Option("--figures", help="Draw each series with its scores.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Most files of each group.")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure detection on files with labels; a run that was stopped goes on."""
    from rich.console import Console

    from pipeline.jobs import evaluate as job
    from pipeline.jobs.evaluate_report import by_group, note, progress_bar, report

    if setting not in ("S", "U"):
        raise ConfigError(f"--setting {setting}: S learns from normal rows of a table, U from contaminated ones")
    if figures:
        import pipeline.jobs.figure  # noqa: F401  # says at once if matplotlib is missing
    further = job.parse_delays(delays)
    way = job.parse_online(online, accept_after)
    options = job.Options(paths, out, architecture, seed, setting, further, workers, figures, limit, way)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    screen = Console(stderr=True)
    planned = job.plan(options)
    for remark in planned.remarks:
        screen.print(f"[yellow]look:[/] {remark}", highlight=False, soft_wrap=True)
    if planned.kept:
        screen.print(f"{len(planned.kept):,} series are there already and kept", highlight=False)
    try:
        with progress_bar(screen) as progress:
            outcome = job.evaluate(options, planned, progress)
    except job.Stopped as stopped:
        print(f"offkey: {stopped}", file=sys.stderr)
        raise typer.Exit(130) from stopped
    if as_json:
        print(json.dumps(by_group(outcome.results)))
    elif outcome.results:
        Console().print(report(outcome.results))
        print(f"\n{note(way)}\nwrote {out / job.METRICS}")
    for failure in outcome.failures:
        print(f"offkey: {failure}", file=sys.stderr)
    if outcome.failures:
        raise typer.Exit(1)


@app.command()
def demo(
    keep: Annotated[bool, typer.Option(help="Leave broker and worker running, until Ctrl-C.")] = False,
    out: Annotated[Path, typer.Option(help="Folder for alerts, summary and report.")] = Path("demo-output"),
) -> None:
    """Run the whole path on real series, with a broker of its own."""
    from pipeline.demo.run import run_demo

    run_demo(out, keep)


def _chosen(settings: "Settings", streams: list[str] | None) -> list[str]:
    unknown = [name for name in streams or () if name not in settings.streams]
    if unknown:
        raise ConfigError(f"there is no stream {unknown[0]!r}; there are: {', '.join(settings.streams)}")
    return streams or list(settings.streams)


def _connection(settings: "Settings") -> "Connection":
    from pipeline.connectors.connection import Connection

    kafka = settings.kafka
    return Connection(kafka.bootstrap_servers, kafka.client_id, kafka.connect_timeout)


def _storage(settings: "Settings") -> "ObjectStorage":
    from pipeline.connectors.storage import ObjectStorage

    return ObjectStorage(settings.storage)


def _leave_for_good(settings: "Settings", instance_id: str, stop: "Stop") -> None:
    """Take a static member out of its group: the client itself only goes silent, to come back later."""
    from dataclasses import replace

    from pipeline.connectors.kafka import KafkaCluster

    quick = replace(_connection(settings), connect_timeout_s=max(stop.left_s(), 0.1))
    with contextlib.closing(KafkaCluster(quick)) as cluster:
        if not cluster.remove_member(settings.kafka.group_id, instance_id):
            logging.getLogger(__name__).warning("the group has no member %s any more", instance_id)


@contextlib.contextmanager
def _worker(settings: "Settings", stop: "Stop") -> "Iterator[Worker]":
    """Build the production worker; it leaves its group when the block ends, in what is left of a stop's budget."""
    import torch

    from pipeline import metrics
    from pipeline.connectors.checkpoints import StoredCheckpoints
    from pipeline.connectors.connection import GroupOptions
    from pipeline.connectors.kafka import KafkaCluster, KafkaSource, open_delivery
    from pipeline.connectors.registry import StoredRegistry
    from pipeline.lanes import build_lane, choose_device, load_champion
    from pipeline.worker import Worker, WorkerOptions

    storage, connection, kafka = _storage(settings), _connection(settings), settings.kafka
    device, registry = choose_device(settings.device), StoredRegistry(storage)
    # A chunk of windows is too small for a second thread; the other cores are for other workers.
    torch.set_num_threads(1)
    champions = {name: load_champion(name, stream, registry) for name, stream in settings.streams.items()}
    lanes = []
    with contextlib.closing(KafkaCluster(connection)) as cluster:
        for topic in (settings.topics.alerts, settings.topics.dead_letters):
            cluster.topic(topic, "WRITE")
        for name, (detector, version) in champions.items():
            stream = settings.streams[name]
            shared = stream.alerts.stream_budget is not None
            partitions = cluster.topic(stream.topic).partitions if shared else 1
            lanes.append(build_lane(name, stream, detector, version, device, partitions))
            metrics.MODEL.labels(name, version, detector.name).set(1)
            metrics.MODEL_PROMOTED.labels(name).set(registry.promotions(name)[-1].promoted_ms / 1000)
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
        opened.callback(lambda: source.close(min(5.0, stop.left_s())))
        delivery = open_delivery(kafka.delivery, connection, group, source, kafka.delivery_timeout)
        opened.callback(lambda: delivery.close(min(5.0, stop.left_s())))
        yield Worker(lanes, source, delivery, StoredCheckpoints(storage), options)


@contextlib.contextmanager
def _training_bar(stream: str, hidden: bool) -> "Iterator[Callable[[str, float], None]]":
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("training {task.description}"), BarColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=hidden or not console.is_terminal) as bar:
        task = bar.add_task(stream, total=1.0)
        yield lambda _, share: bar.update(task, completed=share)

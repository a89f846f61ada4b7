"""The command `offkey`. Nothing else builds concrete objects; heavy imports stay inside the commands."""

import json
import logging
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline import (
    cli_backtest,
    cli_feedback,
    cli_generate,
    cli_letters,
    cli_models,
    cli_notify,
    cli_record,
    cli_reduce,
    cli_retrain,
    cli_schedule,
    cli_shadow,
    cli_sizing,
    cli_worker,
    logs,
)
from pipeline.cli_options import AsJson, ConfigPath, Streams
from pipeline.errors import ConfigError, OffkeyError

if TYPE_CHECKING:
    from pipeline.config import Settings
    from pipeline.connectors.storage import ObjectStorage

app = typer.Typer(
    name="offkey",
    help="Anomaly detection on Kafka streams, with autoencoders.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(cli_letters.app)
app.add_typer(cli_models.app)
cli_models.app.command("shadow")(cli_shadow.shadow)


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
    logs.begin(level)


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
    from functools import cache

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from pipeline.check import Outside, check_all
    from pipeline.config import load_settings
    from pipeline.connectors.connection import Connection
    from pipeline.connectors.door import Door
    from pipeline.connectors.kafka import KafkaCluster, history, refuses_zombies
    from pipeline.connectors.registry import StoredRegistry

    settings = load_settings(config)

    @cache
    def connection() -> Connection:
        return Connection.of(settings.kafka)

    outside = Outside(
        storage=lambda: _storage(settings),
        registry=lambda: StoredRegistry(_storage(settings)),
        cluster=lambda: KafkaCluster(connection()),
        history=lambda topic, most: history(connection(), topic, most),
        refuses_zombies=lambda: refuses_zombies(connection(), settings.kafka.group_id),
        door=lambda: Door(settings.metrics),
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


app.command("plan")(cli_sizing.plan)


@app.command()
def train(
    config: ConfigPath,
    streams: Streams = None,
    max_records: Annotated[
        int, typer.Option(min=1, help="Newest records of each topic to learn from; of Arrow so many rows.")
    ] = 1_000_000,
    nproc: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Processes of this machine that train together, each on a GPU where there are.",
            show_default="1",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train a model for each stream on its topic's records, and promote it."""
    from pipeline.cli_training import Opened, train_all

    opened = Opened(config, streams)

    from pipeline.torchrun import check_count, is_launched, joined, launch

    if nproc is not None:
        check_count(nproc, opened.device)
    if nproc is None or nproc == 1 or is_launched():
        with joined(opened.device, nproc) as ranks:
            train_all(opened, max_records, as_json, ranks)
        return
    told = ["train", str(config), *opened.streams]
    told += ["--max-records", str(max_records), "--nproc", str(nproc), *(["--json"] if as_json else [])]
    launch(told, nproc)


app.command("retrain")(cli_retrain.retrain)
app.command("worker")(cli_worker.worker)
app.command("record")(cli_record.record)
app.command("feedback")(cli_feedback.feedback)
app.command("schedule")(cli_schedule.schedule)
app.command("reduce")(cli_reduce.reduce)
app.command("features")(cli_reduce.features)
app.command("generate")(cli_generate.generate)
app.command("notify")(cli_notify.notify)
app.command("backtest")(cli_backtest.backtest)


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

    from pipeline.interrupting import Stopped
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
    except Stopped as stopped:
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


def _storage(settings: "Settings") -> "ObjectStorage":
    from pipeline.connectors.storage import ObjectStorage

    return ObjectStorage(settings.storage)

"""The command `offkey retrain`."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.errors import ConfigError, RegistryError, SnapshotError

if TYPE_CHECKING:
    from rich.table import Table

    from pipeline.retrain import Retrained

_NEWEST_RECORDS = 64
"""So many of a topic tell how many rows its records have."""


def retrain(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="The configuration file.")],
    streams: Annotated[list[str] | None, typer.Argument(metavar="[STREAM]...", help="Default: all.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what the gate says, and promote nothing.")
    ] = False,
    max_records: Annotated[
        int, typer.Option(min=1, help="Newest records of each topic to learn from; of Arrow so many rows.")
    ] = 1_000_000,
    snapshots: Annotated[
        str | None,
        typer.Option(metavar="D", help="Learn from the snapshots of so long, as in 30d, and not from the topic."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print for programs.")] = False,
) -> None:
    """Train a challenger for each stream, and promote it if it beats the champion on what is held out.

    A challenger that is refused is no error: the champion stays.
    """
    from datetime import UTC, datetime
    from functools import partial

    from pipeline.budgets import parse_duration
    from pipeline.config import load_settings

    settings = load_settings(config)
    try:
        of_last_s = None if snapshots is None else parse_duration(snapshots)
    except ValueError as error:
        raise ConfigError(f"--snapshots: {error}") from error
    unknown = [name for name in streams or () if name not in settings.streams]
    if unknown:
        raise ConfigError(f"there is no stream {unknown[0]!r}; there are: {', '.join(settings.streams)}")

    from models.resume import Unfinished
    from pipeline.cli_bar import training_bar
    from pipeline.cli_models import who
    from pipeline.connectors.connection import Connection
    from pipeline.connectors.kafka import history
    from pipeline.connectors.registry import StoredRegistry
    from pipeline.connectors.storage import ObjectStorage
    from pipeline.fields import records_of_rows
    from pipeline.lanes import choose_device
    from pipeline.retrain import retrain_stream
    from pipeline.train import read_history, read_snapshots

    storage, connection = ObjectStorage(settings.storage), Connection.of(settings.kafka)
    registry, device = StoredRegistry(storage), choose_device(settings.device)
    now, failed = partial(datetime.now, UTC), False
    for name in dict.fromkeys(streams or settings.streams):
        stream = settings.streams[name]

        def say(text: str, name: str = name) -> None:
            print(f"{name}: {text}", file=sys.stderr)

        try:
            if of_last_s is None:
                most = records_of_rows(max_records, stream, history(connection, stream.topic, _NEWEST_RECORDS))
                names, read = read_history(name, stream, history(connection, stream.topic, most))
            else:
                from pipeline.connectors.snapshots import StoredSnapshots

                to_ms = int(now().timestamp() * 1000)
                from_ms = to_ms - int(1000 * of_last_s)
                names, read = read_snapshots(name, stream, StoredSnapshots(storage), from_ms, to_ms)
            with training_bar(name, hidden=as_json) as progress:
                done = retrain_stream(
                    name,
                    stream,
                    names,
                    read,
                    registry,
                    now=now,
                    device=device,
                    progress=progress,
                    unfinished=Unfinished(storage, f"models/{name}/unfinished", say),
                    promote=not dry_run,
                    by=who(),
                )
        except (SnapshotError, RegistryError) as error:
            # The other streams have their turn; what serves this one goes on serving.
            print(f"offkey: {error}", file=sys.stderr)
            failed = True
            continue
        if as_json:
            print(json.dumps(as_document(done)), flush=True)
        else:
            _show(done)
    if failed:
        raise typer.Exit(1)


def as_document(done: "Retrained") -> dict[str, Any]:
    """Return what `--json` prints."""
    from dataclasses import fields

    import msgspec

    of_verdict = msgspec.to_builtins(done.verdict)
    return {**{field.name: getattr(done, field.name) for field in fields(done)}, "verdict": of_verdict}


def _show(done: "Retrained") -> None:
    from rich.console import Console

    left_out = f", {done.left_out:,} left out ({', '.join(done.reasons_left_out)})" if done.left_out else ""
    print(
        f"{done.stream}: {done.architecture} learned {done.trained_rows:,} of {done.records:,} rows of "
        f"{done.series:,} series in {done.seconds:.0f} s; {done.rejected:,} rejected, {done.late:,} late{left_out}"
    )
    if done.no_champion:
        print(f"{done.stream}: no champion to beat: {done.no_champion}")
    if done.verdict.rows:
        Console().print(table_of(done))
    outcome = "refused, the champion stays"
    if done.verdict.accepted:
        outcome = f"promoted as {done.version}" if done.version else "accepted, and not promoted (--dry-run)"
    elif done.champion is None:
        outcome = "refused; to have it serve all the same: offkey train CONFIG " + done.stream
    for number, reason in enumerate(done.verdict.reasons):
        print(f"{done.stream}: {reason}" if number else f"{done.stream}: {outcome}\n{done.stream}: {reason}")


def table_of(done: "Retrained") -> "Table":
    """Return the gate's table."""
    from rich.table import Table
    from rich.text import Text

    verdict = done.verdict
    against = f"; champion {done.champion}" if done.champion else ""
    title = f"{verdict.held_out_rows:,} rows held out, {verdict.anomalies:,} anomalies put into them{against}"
    table = Table("", title=title, title_justify="left")
    table.add_column("Measure", overflow="fold")
    table.add_column("Champion", justify="right")
    table.add_column("Challenger", justify="right")
    table.add_column("Limit", overflow="fold")
    for row in verdict.rows:
        figures = ("" if figure is None else f"{figure:,.4g}" for figure in (row.champion, row.challenger))
        mark = "[green]ok[/]" if row.ok else "[red]no[/]"
        table.add_row(mark, *(Text(cell) for cell in (row.measure, *figures, row.limit)))
    return table

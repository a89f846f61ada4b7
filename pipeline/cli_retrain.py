"""The command `offkey retrain`."""

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli_options import AsJson, ConfigPath, Streams, duration_s
from pipeline.cli_who_when import now, now_ms, who
from pipeline.errors import RegistryError, SnapshotError

if TYPE_CHECKING:
    from pipeline.retrain import Retrained


def retrain(
    config: ConfigPath,
    streams: Streams = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what the gate says, and promote nothing.")
    ] = False,
    max_records: Annotated[
        int,
        typer.Option(
            min=1, help="Newest records of each topic to learn from and compare on; of Arrow so many rows."
        ),
    ] = 1_000_000,
    snapshots: Annotated[
        str | None,
        typer.Option(metavar="D", help="Learn from the snapshots of so long, as in 30d, and not from the topic."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train a challenger for each stream, and promote it if it beats the champion on what is held out.

    A challenger that is refused is no error: the champion stays.
    """
    from dataclasses import asdict

    from pipeline.cli_training import Opened, training_bar

    of_last_s = duration_s("--snapshots", snapshots)
    opened = Opened(config, streams)

    from pipeline.retrain import retrain_stream
    from pipeline.train import read_history, read_snapshots

    failed = False
    for name in opened.streams:
        stream = opened.settings.streams[name]
        try:
            if of_last_s is None:
                names, read = read_history(name, stream, opened.history(name, max_records))
            else:
                to_ms = now_ms()
                from_ms = to_ms - int(1000 * of_last_s)
                names, read = read_snapshots(name, stream, opened.snapshots(), from_ms, to_ms)
            with training_bar(name, hidden=as_json) as progress:
                done = retrain_stream(
                    name,
                    stream,
                    names,
                    read,
                    opened.registry,
                    now=now,
                    device=opened.device,
                    progress=progress,
                    unfinished=opened.unfinished(name),
                    spans=opened.spans(name),
                    promote=not dry_run,
                    by=who(),
                )
        except (SnapshotError, RegistryError) as error:
            # The other streams have their turn; what serves this one goes on serving.
            print(f"offkey: {error}", file=sys.stderr)
            failed = True
            continue
        if as_json:
            print(json.dumps(asdict(done)), flush=True)
        else:
            _show(done)
    if failed:
        raise typer.Exit(1)


def _show(done: "Retrained") -> None:
    from rich.console import Console

    from pipeline.versions.report import gate_table

    left_out = f", {done.left_out:,} left out ({', '.join(done.reasons_left_out)})" if done.left_out else ""
    print(
        f"{done.stream}: {done.architecture} learned {done.trained_rows:,} of {done.records:,} rows of "
        f"{done.series:,} series in {done.seconds:.0f} s; {done.rejected:,} rejected, {done.late:,} late{left_out}"
    )
    if done.no_champion:
        print(f"{done.stream}: no champion to beat: {done.no_champion}")
    if done.verdict.rows:
        Console().print(gate_table(done.verdict, done.champion))
    outcome = "refused, the champion stays"
    if done.verdict.accepted:
        outcome = f"promoted as {done.version}" if done.version else "accepted, and not promoted (--dry-run)"
    elif done.champion is None:
        outcome = "refused; to have one serve all the same: offkey train CONFIG " + done.stream
    for number, reason in enumerate(done.verdict.reasons):
        print(f"{done.stream}: {reason}" if number else f"{done.stream}: {outcome}\n{done.stream}: {reason}")

"""The command `offkey retrain`."""

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli_options import AsJson, ConfigPath, Streams, duration_s
from pipeline.cli_who_when import now, now_ms, who
from pipeline.errors import ConfigError, RegistryError, SnapshotError

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.cli_training import Opened
    from pipeline.drift import Drift
    from pipeline.retrain import Retrained, Then


def retrain(
    config: ConfigPath,
    streams: Streams = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what the gate says, and promote nothing.")
    ] = False,
    shadow: Annotated[
        bool,
        typer.Option(
            "--shadow", help="Promote nothing; have it score beside the champion, whatever the gate says."
        ),
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
    if_drifted: Annotated[
        bool,
        typer.Option("--if-drifted", help="With --snapshots: only if the champion's scores have shifted for good."),
    ] = False,
    at_once: Annotated[
        bool,
        typer.Option("--now", help="Have the scheduler do it, as soon as no other training runs, and do not wait."),
    ] = False,
    scheduled: Annotated[bool, typer.Option("--scheduled", hidden=True)] = False,
    as_json: AsJson = False,
) -> None:
    """Train a challenger for each stream, and promote it if it beats the champion on what is held out.

    A challenger that is refused is no error: the champion stays.
    """
    if scheduled:
        from pipeline.training_process import tie

        tie()
    of_last_s = duration_s("--snapshots", snapshots)
    if if_drifted and of_last_s is None:
        raise ConfigError("--if-drifted: what has shifted is seen by snapshots; add for example --snapshots 30d")
    if dry_run and shadow:
        raise ConfigError("--shadow stores what --dry-run would not; leave one of them out")
    if at_once:
        if dry_run or shadow or snapshots or if_drifted:
            raise ConfigError(
                "--now: the scheduler trains as the configuration says, and promotes; set `retrain.history` there, "
                "or leave --now out"
            )
        _ask(config, streams)
        return

    from pipeline.cli_training import Opened

    opened = Opened(config, streams)
    if scheduled:
        from pipeline import logs

        logs.use(opened.settings.logs.format)
    then: Then = "keep" if shadow else "nothing" if dry_run else "promote"
    failed = False
    for name in opened.streams:
        try:
            _retrain(opened, name, max_records, of_last_s, if_drifted, then, as_json)
        except (SnapshotError, RegistryError) as error:
            # The other streams have their turn; what serves this one goes on serving.
            print(f"offkey: {error}", file=sys.stderr)
            if scheduled:
                print(json.dumps({"stream": name, "error": type(error).__name__}), flush=True)
            failed = True
    if failed:
        raise typer.Exit(1)


def _retrain(
    opened: "Opened",
    name: str,
    max_records: int,
    of_last_s: float | None,
    if_drifted: bool,
    then: "Then",
    as_json: bool,
) -> None:
    """Retrain one stream, and say what came of it; raises as what it calls does."""
    from dataclasses import asdict

    from pipeline.cli_training import training_bar
    from pipeline.retrain import retrain_stream
    from pipeline.train import read_history, read_snapshots

    stream = opened.settings.streams[name]
    drift: Drift | None = None
    # Before anything is read: a promotion that somebody makes meanwhile wins.
    log = opened.registry.log(name)
    if then == "keep" and log.champion is None:
        raise RegistryError(f"stream {name}: no champion is there to score beside; leave --shadow out")
    if if_drifted:
        from pipeline.drift_look import look

        drift = look(name, stream, opened.registry, opened.snapshots(), now_ms(), opened.spans(name))
        if not drift.drifted:
            _show_drift(name, drift, as_json)
            return
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
            log=log,
            then=then,
            by=who(),
        )
    if done.stored:
        _appoint(opened, name, done.stored)
    if as_json:
        looked = {} if drift is None else {"drift": asdict(drift)}
        print(json.dumps(asdict(done) | looked), flush=True)
        return
    if drift is not None:
        _show_drift(name, drift, as_json)
    _show(done)


def _appoint(opened: "Opened", stream: str, version: str) -> None:
    """Have a version that was stored score in shadow."""
    from pipeline.connectors.shadows import StoredShadows
    from pipeline.shadows import appoint

    shadows = StoredShadows(opened.storage)
    appoint(shadows, stream, shadows.appointed(stream), version, now_ms(), note="offkey retrain --shadow", by=who())


def _ask(config: "Path", streams: list[str] | None) -> None:
    """Send the scheduler a request for each stream."""
    from contextlib import closing

    from pipeline.config import load_settings
    from pipeline.connectors.connection import Connection
    from pipeline.connectors.kafka import KafkaCluster, KafkaPublisher
    from pipeline.control import Request, message_of, require_one_partition

    settings = load_settings(config)
    topic, chosen = settings.topics.control, settings.chosen(streams)
    connection = Connection.of(settings.kafka)
    with closing(KafkaCluster(connection)) as cluster:
        require_one_partition(topic, cluster.topic(topic, "WRITE").partitions)
    with closing(KafkaPublisher(connection)) as publisher:
        for name in chosen:
            publisher.send(message_of(Request(name, now_ms(), who()), topic))
        publisher.flush(settings.kafka.delivery_timeout)
    for name in chosen:
        print(f"{name}: asked for, on topic {topic}; what comes of it stands in the scheduler's log and metrics")


def _show_drift(name: str, drift: "Drift", as_json: bool) -> None:
    from dataclasses import asdict

    if as_json:
        print(json.dumps({"stream": name, "drift": asdict(drift)}), flush=True)
    else:
        print(f"{name}: {'drift' if drift.drifted else 'no drift, the champion stays'}: {drift.why}")


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
    if done.stored:
        verdict = "accepted" if done.verdict.accepted else "refused"
        outcome = f"{verdict}, and in shadow as {done.stored}; see: offkey models shadow CONFIG {done.stream}"
    for number, reason in enumerate(done.verdict.reasons):
        print(f"{done.stream}: {reason}" if number else f"{done.stream}: {outcome}\n{done.stream}: {reason}")

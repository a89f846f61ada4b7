"""The commands `offkey dead-letters list` and `replay`."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli_options import AsJson, ConfigPath
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from pipeline.config import Settings
    from pipeline.letters.tally import Kind
    from pipeline.stages.dead_letters import Letter

app = typer.Typer(
    name="dead-letters", help="See records that were rejected, and send them back.", no_args_is_help=True
)

OfStream = Annotated[str | None, typer.Option("--stream", metavar="NAME", help="Only letters of this stream.")]
OfReason = Annotated[
    str | None, typer.Option("--reason", metavar="R", help="Only letters with this reason, such as not_json.")
]


@app.command("list")
def list_letters(
    config: ConfigPath,
    stream: OfStream = None,
    reason: OfReason = None,
    examples: Annotated[
        int, typer.Option(min=0, help="Letters of each stream and reason to show, of those not sent back yet.")
    ] = 3,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON lines, letters whole: edit them for `replay --edit`.")
    ] = False,
) -> None:
    """Say how many records of which stream were rejected, why and when, with examples.

    `replayed` counts letters whose records were sent back.

    `again` counts letters of records that came back from a replay.
    """
    from rich.console import Console

    from pipeline.config import load_settings
    from pipeline.connectors.connection import Connection
    from pipeline.connectors.kafka import KafkaLog
    from pipeline.letters import report
    from pipeline.letters.lines import line_of
    from pipeline.letters.tally import examples_of, tally

    settings = load_settings(config)
    wanted = _wanted(settings, stream, reason)
    topic, streams = settings.topics.dead_letters, _streams(settings)
    log = KafkaLog(Connection.of(settings.kafka), topic)
    with _bar("reading", log.retained(), hidden=as_json) as told:
        counted = tally(log, told)
    kinds = sorted(filter(wanted, counted.kinds.values()), key=lambda kind: (kind.topic, kind.reason))
    shown = examples_of(log, counted, kinds, examples)
    if as_json:
        for line in report.kinds_json(topic, counted, kinds, streams):
            print(line)
        for letter in shown:
            print(line_of(letter, streams.get(letter.origin.topic)))
        return
    if kinds:
        Console().print(report.kinds_table(kinds, streams))
        of_kind: dict[tuple[str, str], list[Letter]] = {}
        for letter in shown:
            of_kind.setdefault((letter.origin.topic, letter.reason), []).append(letter)
        for kind in kinds:
            if letters := of_kind.get((kind.topic, kind.reason)):
                print(f"\n{report.name_of(kind, streams)}, {report.printable(kind.reason)}:")
                for letter in letters:
                    print("\n".join(report.example_lines(letter)))
    else:
        print(f"{topic} holds no dead letters" + (" of this kind" if counted.kinds else ""))
    for remark in report.not_counted(topic, counted):
        print(remark)


@app.command("replay")
def replay_letters(
    config: ConfigPath,
    stream: OfStream = None,
    reason: OfReason = None,
    edit: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Send only the letters of this file, as it holds them: edited lines of `list --json`.",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be sent, and send nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Send rejected records back to the topics they came from, each once.

    Key, value and headers are as they came; a header `offkey.replays` counts.

    Stopped anywhere, a replay that is started again sends what is left.
    """
    from pipeline.config import load_settings
    from pipeline.connectors.connection import Connection
    from pipeline.connectors.kafka import KafkaCluster, KafkaLog, KafkaTransactions
    from pipeline.letters import report
    from pipeline.letters.lines import read_repairs
    from pipeline.letters.replay import plan, replay

    settings = load_settings(config)
    wanted = _wanted(settings, stream, reason)
    topic, streams, connection = settings.topics.dead_letters, _streams(settings), Connection.of(settings.kafka)
    repairs = read_repairs(edit, topic) if edit else None
    if not (yes or dry_run or sys.stdin.isatty()):
        raise ConfigError("a replay asks before it sends, and there is no terminal; give --yes, or --dry-run")
    log = KafkaLog(connection, topic)
    total = log.retained()
    if not dry_run:
        with contextlib.closing(KafkaCluster(connection)) as cluster:
            cluster.topic(topic, "WRITE")
    with contextlib.ExitStack() as opened:
        delivery, timeout_s = None, settings.kafka.delivery_timeout
        if not dry_run:
            delivery = KafkaTransactions(connection, None, f"offkey-dead-letters-{topic}", timeout_s)
            opened.callback(delivery.close)
            # Before the letters are counted: what a replay before this one left open is decided by it.
            delivery.settle()
        with _bar("reading", total, hidden=as_json) as told:
            planned = plan(log, lambda kind: kind.topic in streams and wanted(kind), told, repairs, edit)
        number, screen = sum(planned.numbers.values()), sys.stderr if as_json else sys.stdout
        topics = {kind.topic for kind in planned.kinds if kind.code in planned.numbers}
        with contextlib.closing(KafkaCluster(connection)) as cluster:
            partitions = {name: cluster.topic(name, "WRITE").partitions for name in topics}
        for line in report.plan_lines(planned, streams):
            print(line, file=screen)
        for remark in report.left_alone(planned, topic, streams):
            print(remark, file=screen)
        if not number:
            print("nothing waits to be sent back", file=screen)
            return
        if delivery is None:
            print(f"would send back {report.amount(number)}; nothing was sent", file=screen)
            return
        if not (yes or typer.confirm(f"Send {report.amount(number)} back?", err=as_json)):
            print("nothing was sent", file=screen)
            raise typer.Exit(1)
        timed_by_kafka = {each.topic for each in settings.streams.values() if each.time is None}
        with _bar("sending", number, hidden=as_json) as told:
            sent = replay(log, delivery, planned, topic, partitions, timed_by_kafka, told, timeout_s)
    if as_json:
        for line in report.sent_json(planned, sent, streams):
            print(line)
    else:
        print(report.sent_line(sent))


def _wanted(settings: "Settings", stream: str | None, reason: str | None) -> "Callable[[Kind], bool]":
    """Return whether a kind passes the filters.

    Raises:
        ConfigError: there is no such stream or reason; the nearest one is named.
    """
    from pipeline.mistakes import unknown
    from pipeline.stages.decode import REASONS

    if stream is not None and stream not in settings.streams:
        raise ConfigError(unknown("stream", stream, settings.streams))
    if reason is not None and reason not in REASONS:
        raise ConfigError(unknown("reason", reason, REASONS))
    topic = settings.streams[stream].topic if stream is not None else None
    return lambda kind: topic in (None, kind.topic) and reason in (None, kind.reason)


def _streams(settings: "Settings") -> dict[str, str]:
    return {each.topic: name for name, each in settings.streams.items()}


@contextlib.contextmanager
def _bar(doing: str, total: int, hidden: bool) -> Iterator[Callable[[int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(f"{doing} dead letters"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=hidden or not console.is_terminal) as bar:
        task = bar.add_task(doing, total=total)
        yield lambda done: bar.advance(task, done)

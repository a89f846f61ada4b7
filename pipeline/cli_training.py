"""What `offkey train` and `offkey retrain` have alike: what they open, the newest records, and a progress bar."""

import contextlib
import json
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.cli_who_when import now, who
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from models.ranks import Ranks
    from models.resume import Unfinished
    from pipeline.excluded import Span
    from pipeline.feedback import Feedback
    from pipeline.incident_log import Course
    from pipeline.protocols import PartitionRecords
    from pipeline.snapshots import Snapshots

logger = logging.getLogger(__name__)

_NEWEST_RECORDS = 64
"""So many of a topic tell how many rows its records have."""


class Opened:
    """The streams that are asked for, and where their records and models are."""

    def __init__(self, config: Path, streams: list[str] | None) -> None:
        """Look at the configuration; nothing is read yet.

        Raises:
            ConfigError: there is no such stream, or an option of its model is wrong.
        """
        from pipeline.config import load_settings

        self.settings = load_settings(config)
        self.streams = self.settings.chosen(streams)

        from pipeline.connectors.connection import Connection
        from pipeline.connectors.registry import StoredRegistry
        from pipeline.connectors.storage import ObjectStorage
        from pipeline.lanes import choose_device
        from pipeline.train import wrong_option

        for name in self.streams:
            if wrong := wrong_option(self.settings.streams[name]):
                place = self.settings.place_of("streams", name, "model", wrong[0])
                raise ConfigError(f"{place}: streams.{name}.model: {wrong[1]}")
        self.storage, self._connection = ObjectStorage(self.settings.storage), Connection.of(self.settings.kafka)
        self.registry, self.device = StoredRegistry(self.storage), choose_device(self.settings.device)

    def history(self, stream: str, most_rows: int) -> "Iterator[PartitionRecords]":
        """Return the newest records of a stream's topic; of Arrow those that hold about so many rows."""
        from pipeline.connectors.kafka import history
        from pipeline.fields import records_of_rows

        settings = self.settings.streams[stream]
        newest = history(self._connection, settings.topic, _NEWEST_RECORDS)
        return history(self._connection, settings.topic, records_of_rows(most_rows, settings, newest))

    def snapshots(self) -> "Snapshots":
        from pipeline.connectors.snapshots import StoredSnapshots

        return StoredSnapshots(self.storage)

    def spans(self, stream: str) -> "list[Span]":
        """Return the spans of a stream's incidents that teach nothing, by alerts and by what was said of them."""
        from pipeline.excluded import incident_spans

        after_s = self.settings.streams[stream].alerts.accept_after
        return incident_spans(stream, *self._incidents, None if after_s is None else 1000 * after_s)

    @cached_property
    def _incidents(self) -> "tuple[Mapping[str, Course], Mapping[str, Feedback]]":
        """(the incidents that are open or of which something was said, what was said)."""
        from pipeline.connectors.kafka import KafkaCluster, KafkaLog
        from pipeline.feedback import read_book
        from pipeline.incident_log import read_incidents

        topics, said = self.settings.topics, {}
        with contextlib.closing(KafkaCluster(self._connection)) as cluster:
            there = [topic for topic in (topics.feedback, topics.alerts) if cluster.has(topic)]
        lost = {
            topics.alerts: "no span of an incident is left out",
            topics.feedback: "what was said of incidents does not count",
        }
        for topic in lost.keys() - set(there):
            logger.info("topic %s is not there, or this user may not see it: %s", topic, lost[topic])
        if topics.feedback in there:
            said = read_book(KafkaLog(self._connection, topics.feedback), topics.feedback).said
        if topics.alerts not in there:
            return {}, said
        found = read_incidents(
            KafkaLog(self._connection, topics.alerts),
            lambda course: course.ended_ms is None or course.incident in said,
        )
        return found.courses, said

    def unfinished(self, stream: str) -> "Unfinished":
        """Return where a stream's training is kept while it lasts."""
        from models.resume import Unfinished

        def say(text: str) -> None:
            print(f"{stream}: {text}", file=sys.stderr)

        return Unfinished(self.storage, f"models/{stream}/unfinished", say)


def train_all(opened: Opened, max_records: int, as_json: bool, ranks: "Ranks") -> None:
    """Train a model for each stream that was opened, and say what came of it; raises as `train_stream` does."""
    from pipeline.train import train_stream

    for name in opened.streams:
        stream = opened.settings.streams[name]
        with training_bar(name, hidden=as_json) as progress:
            trained = train_stream(
                name,
                stream,
                opened.history(name, max_records),
                opened.registry,
                now=now,
                device=opened.device,
                progress=progress,
                unfinished=opened.unfinished(name),
                by=who(),
                ranks=ranks,
            )
        if as_json:
            print(json.dumps(asdict(trained)), flush=True)
        else:
            kind = "series" if stream.kind == "series" else "stream"
            what = f"images of {stream.image.shape}" if stream.image else f"{len(trained.features)} features"
            print(
                f"{name}: {trained.architecture} on {trained.records:,} records of {trained.series:,} {kind}, "
                f"{what}, in {trained.seconds:.0f} s; "
                f"{trained.rejected:,} rejected, {trained.late:,} late; version {trained.version}"
            )
            print(f"{name}: {trained.support}")


@contextlib.contextmanager
def training_bar(stream: str, hidden: bool) -> Iterator[Callable[[str, float], None]]:
    """Show how far the training of a stream is, on standard error, if that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("training {task.description}"), BarColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=hidden or not console.is_terminal) as bar:
        task = bar.add_task(stream, total=1.0)
        yield lambda _, share: bar.update(task, completed=share)

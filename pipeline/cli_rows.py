"""The rows that an offline command goes through, as its options name them, and the bar that says how far it is."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli_options import range_ms
from pipeline.cli_who_when import now_ms
from pipeline.errors import ConfigError, SnapshotError

if TYPE_CHECKING:
    from pipeline.config import Settings, StreamSettings
    from pipeline.jobs.blocks import Divisible, Input, Progress
    from pipeline.jobs.engine import Engine

logger = logging.getLogger(__name__)

Stream = Annotated[str, typer.Argument(metavar="STREAM", help="The stream.")]
Output = Annotated[
    Path, typer.Option("--output", metavar="FOLDER", help="Where to write; made if it is not there.")
]
From = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="T",
        help="Rows that came in from then on, as 2026-03-01T00:00:00Z, or so long ago, as 30d. Default: all.",
    ),
]
Paths = Annotated[
    list[Path] | None,
    typer.Option(
        "--input", metavar="PATH", help="Parquet files or folders in place of snapshots; may be repeated."
    ),
]


EngineName = Annotated[
    str,
    typer.Option(
        "--engine",
        metavar="local|ray",
        help="What does the work: this process, or processes of Ray, on GPUs where it has some.",
    ),
]
LOCAL, RAY = "local", "ray"


def check_engine(name: str) -> None:
    """See that there is such an engine, before any work is done.

    Raises:
        ConfigError: there is none, or Ray is not installed.
    """
    if name not in (LOCAL, RAY):
        raise ConfigError(f"--engine {name}: there are {LOCAL} and {RAY}")
    if name == RAY:
        import pipeline.connectors.ray  # noqa: F401


@contextmanager
def engine_of(name: str, device: str) -> "Iterator[Engine | None]":
    """Give the engine that is asked for; None: this process.

    Args:
        name: as `check_engine` has seen it.
        device: of the configuration.

    Raises:
        ConfigError: Ray is not installed, or has no GPU where one is asked for.
        TransientError: Ray cannot be started, or reached.
    """
    if name == LOCAL:
        yield None
        return
    from pipeline.connectors.ray import opened_engine

    with opened_engine(device) as engine:
        yield engine


class Rows:
    """A stream, and where its rows come from."""

    def __init__(self, config: Path, stream: str) -> None:
        from pipeline.config import load_settings

        self.settings: Settings = load_settings(config)
        (self.name,) = self.settings.chosen([stream])
        self.stream: StreamSettings = self.settings.streams[self.name]
        self.image = self.stream.image_shape
        self.what = f"stream {self.name}"
        self.asked: dict[str, Any] = {}
        """Which rows were asked for."""
        self.begun: Mapping[str, Any] | None = None
        """What an earlier run was asked for, which this one goes on with."""

    def source(
        self,
        begin: str | None,
        end: str | None,
        paths: Sequence[Path] | None,
        kept: Sequence[str] = (),
        model: Path | None = None,
        shown: str | None = None,
    ) -> "Divisible":
        """Return the rows that are asked for.

        Args:
            shown: a column that is needed too, be it a feature or another.
        """
        if paths and self.image is not None:
            raise ConfigError(
                "--input: images are read from snapshots; leave it out, and keep some by `offkey record`"
            )
        if paths:
            refuse_beside("--input says which rows there are", {"--from": begin, "--to": end})
            return self._files(paths, kept, model, shown)
        if kept:
            raise ConfigError(f"--keep {kept[0]}: snapshots hold nothing more; it needs --input")
        return self._snapshots(begin, end)

    def _files(
        self, paths: Sequence[Path], kept: Sequence[str], model: Path | None, shown: str | None
    ) -> "Divisible":
        from pipeline.jobs.parquet_input import ParquetInput

        names = self.stream.features
        if names is None and model is not None:
            from pipeline.jobs.coding import features_of

            names = list(features_of(model))
        series = self.stream.series[0] if self.stream.series and len(self.stream.series) == 1 else None
        kept = [name for name in kept if names is None or name not in names]
        source = ParquetInput(paths, names, kept=kept, shown=shown, series=series, time=self.stream.time)
        if self.stream.kind != "series":
            source.series = source.time = None
        self.asked = {"input": [str(path) for path in paths]}
        self.what = str(paths[0]) if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"
        return source

    def _snapshots(self, begin: str | None, end: str | None) -> "Divisible":
        from pipeline.connectors.snapshots import StoredSnapshots
        from pipeline.connectors.storage import ObjectStorage
        from pipeline.jobs.blocks import SnapshotInput
        from pipeline.snapshots import mismatch

        from_ms, to_ms = range_ms(begin, end, now_ms)
        snapshots = StoredSnapshots(ObjectStorage(self.settings.storage))
        held = snapshots.schema(self.name)
        if held is None:
            raise SnapshotError(
                f"stream {self.name}: there are no snapshots in {self.settings.storage}; keep some with `offkey "
                "record`, or give Parquet files with --input"
            )
        if wrong := mismatch(held, self.stream.kind, self.image):
            raise SnapshotError(f"stream {self.name}: {wrong}")
        names = self.stream.features or held.features
        range_ = [-1 if from_ms is None else from_ms, now_ms() if to_ms is None else to_ms]
        until: dict[str, int] = dict(snapshots.ends(self.name))
        if self.begun and (self.begun.get("from"), self.begun.get("to")) == (begin, end):
            # What was there then: since, time has gone on, and records were kept.
            range_, until = self.begun.get("range_ms", range_), self.begun.get("until", until)
        self.asked = {"from": begin, "to": end, "range_ms": range_, "until": until}
        return SnapshotInput(snapshots, self.name, names, held.has_series, (range_[0], range_[1]), until)

    def tell_gaps(self, source: "Input") -> None:
        """Say which offsets no file tells of."""
        for gap in getattr(source, "gaps", ()):
            logger.warning("%s", gap)


def refuse_beside(why: str, others: Mapping[str, object]) -> None:
    """Refuse options that would be passed over in silence."""
    for name, given in others.items():
        if given is not None:
            raise ConfigError(f"{name}: {why}; leave it out")


@contextmanager
def progress_bar(step: "Callable[[], None]", hidden: bool) -> "Iterator[Progress]":
    """Show what is done on standard error, if that is a terminal; else a line of the log for each kind of work.

    Each time, take a `step`.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[rows]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    shown = console.is_terminal and not hidden
    with Progress(*columns, console=console, transient=True, disable=not shown) as bar:
        task = bar.add_task("starting", total=None, rows="")
        last = ""

        def progress(what: str, done: float, of: float | None) -> None:
            nonlocal last
            if what != last:
                bar.reset(task, description=what, total=of)
                if not shown:
                    logger.info("%s", what)
                last = what
            bar.update(task, completed=done, total=of, rows=f"{int(done):,} rows" if of != 1.0 else "")
            step()

        yield progress

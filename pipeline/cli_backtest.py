"""The command `offkey backtest`."""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli_options import AsJson, ConfigPath, Streams, To, range_ms
from pipeline.cli_rows import LOCAL, EngineName, check_engine, engine_of
from pipeline.cli_who_when import now_ms
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from pipeline.config import Settings, StreamSettings
    from pipeline.connectors.registry import StoredRegistry
    from pipeline.jobs.backtest_opening import Opening
    from pipeline.jobs.backtest_run import Ran

LIVE = "live"
_CONFIGURATIONS = (".yaml", ".yml", ".json")


def backtest(
    config: ConfigPath,
    streams: Streams = None,
    from_: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="T",
            help="Rows that came in from then on, as 2026-03-01T00:00:00Z, or so long ago, as 30d. Default: from "
            "where the workers began.",
        ),
    ] = None,
    to: To = None,
    version: Annotated[
        str | None,
        typer.Option("--version", metavar="V", help="Judge all by this version, and not as the workers' logs say."),
    ] = None,
    compare: Annotated[
        tuple[str, str] | None,
        typer.Option(
            "--compare",
            metavar="A B",
            help=f"Set two side by side: each a version, a configuration file, or `{LIVE}`, as the logs say.",
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="FOLDER", help="Folder for alerts, summary and report.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what an earlier one left there.")] = False,
    scores: Annotated[
        bool, typer.Option("--scores", help="With --output: keep the score of each point as Parquet.")
    ] = False,
    engine: EngineName = LOCAL,
    as_json: AsJson = False,
) -> None:
    """Say what would have been alerted on: snapshots through the very stages of a worker, much faster than live."""
    from_ms, to_ms = range_ms(from_, to, now_ms)
    if compare is not None and version is not None:
        raise ConfigError("--compare names what judges; leave --version out")
    if output is None and (overwrite or scores):
        raise ConfigError(f"--{'overwrite' if overwrite else 'scores'}: nothing is written without --output FOLDER")
    check_engine(engine)
    opened = _Opened(config)
    chosen = opened.settings.chosen(streams)

    import torch

    from pipeline.interrupting import interrupted_between_steps
    from pipeline.jobs.backtest_output import OURS
    from pipeline.jobs.backtest_run import compare_sides, run_side
    from pipeline.jobs.backtest_summary import print_compared, print_result
    from pipeline.jobs.new_folder import check_folder, unfinished

    # A chunk of windows is too small for a second thread, and the workers' scores are those of one.
    torch.set_num_threads(1)
    if output is not None:
        check_folder(output, overwrite, OURS.__contains__, "backtest")
    told: list[Callable[[], None]] = []
    try:
        with ExitStack() as stack:
            step = stack.enter_context(interrupted_between_steps())
            folder = None if output is None else stack.enter_context(unfinished(output))
            elsewhere = stack.enter_context(engine_of(engine, opened.settings.device))
            for name in chosen:
                asked = (version or LIVE,) if compare is None else compare
                sides = [opened.side(name, each) for each in asked]
                ran: list[Ran] = []
                for letter, side in zip("ab", sides, strict=False):
                    below = None if folder is None else folder / name / (letter if compare else ".")
                    with _counting(f"{name} {side.label}", step, hidden=as_json) as counted:
                        ran.append(
                            run_side(
                                *(side.opening.replay(opened.device), side.label, from_ms, to_ms),
                                *(counted, below, scores),
                                elsewhere=None if elsewhere is None else (elsewhere, side.opening),
                            )
                        )
                    step()
                if compare is None:
                    told.append(partial(print_result, ran[0].result, as_json))
                else:
                    a, b = ((each.label, each.result) for each in ran)
                    told.append(partial(print_compared, a, b, as_json))
                    if folder is not None:
                        compare_sides(folder / name, ran[0], ran[1])
                if folder is None and elsewhere is None:
                    told.pop()()
    except KeyboardInterrupt as error:
        print("offkey: stopped; nothing was written, the same command begins anew", file=sys.stderr)
        raise typer.Exit(130) from error
    if output is not None:
        where = f"{output}/STREAM" if len(chosen) > 1 else str(output / chosen[0])
        print(f"wrote {where}/report.html and what it rests on", file=sys.stderr)
    # Last: who reads it may have left, as `head` does, and the folder is there all the same.
    for tell in told:
        tell()


@dataclass(frozen=True)
class _Side:
    """What judges, ready to replay."""

    label: str
    opening: "Opening"


class _Opened:
    """A configuration, and what its storage holds."""

    def __init__(self, config: Path) -> None:
        from pipeline.config import load_settings
        from pipeline.connectors.storage import ObjectStorage

        self.settings: Settings = load_settings(config)
        self.storage: ObjectStorage = ObjectStorage(self.settings.storage)

    @cached_property
    def device(self) -> "torch.device":
        from pipeline.lanes import choose_device

        return choose_device(self.settings.device)

    @cached_property
    def registry(self) -> "StoredRegistry":
        from pipeline.connectors.registry import StoredRegistry

        return StoredRegistry(self.storage)

    def side(self, stream: str, asked: str) -> _Side:
        """Return what is asked for: as the logs say, a version, or another configuration.

        A configuration of the same storage is judged by as the logs say, one of another by its own champion.
        """
        from pipeline.lanes import champion_of

        settings, registry = self.settings.streams[stream], self.registry
        if asked == LIVE:
            return _Side(LIVE, self._opening(stream, settings, champion_of(stream, registry).version))
        if asked.endswith(_CONFIGURATIONS):
            other = _Opened(Path(asked))
            other.settings.chosen([stream])
            settings = other.settings.streams[stream]
            champion = champion_of(stream, other.registry).version
            if other.settings.storage == self.settings.storage:
                return _Side(asked, self._opening(stream, settings, champion))
            opening = self._opening(stream, settings, champion)
            return _Side(asked, replace(opening, models=other.settings.storage, version=champion))
        from pipeline.versions.naming import meant

        version = meant(stream, asked, registry, registry.log(stream))
        return _Side(version, replace(self._opening(stream, settings, version), version=version))

    def _opening(self, stream: str, settings: "StreamSettings", first: str) -> "Opening":
        from pipeline.jobs.backtest_opening import Opening

        return Opening(stream, settings, self.settings.storage, self.settings.storage, first, None)


@contextmanager
def _counting(what: str, step: Callable[[], None], *, hidden: bool) -> Iterator[Callable[[int], None]]:
    """Show how many rows were judged, on standard error, if that is a terminal; each time, take a `step`."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}: {task.completed:,.0f} rows"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=hidden or not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)

        def count(rows: int) -> None:
            bar.advance(task, rows)
            step()

        yield count

"""`offkey evaluate`: files with labels -> scores, metrics and figures, series by series in worker processes.

What is done stays done. A worker writes a series' score file whole, then its row enters `metrics.csv`; both
carry a hash of everything that the result depends on: the file's bytes, architecture, seed and other options,
the code of the models and of this job, the libraries that reckon, and the version of the distribution that an
architecture comes from. A later run keeps what has its hash and does the rest, whether the run before it was
stopped, killed, or made by other code.

Rows of other seeds and architectures, and of scores that were recalibrated otherwise, stay in `metrics.csv`; the
score files are those of the last run.
"""

import hashlib
import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import TypeVar

import models
from models import architectures
from pipeline.connectors.labelled import configuration_of, read_labelled
from pipeline.errors import ConfigError, OffkeyError, TransientError
from pipeline.interrupting import Stopped
from pipeline.jobs.alone import alone
from pipeline.jobs.judge import Online, Task, check_architecture, judge
from pipeline.jobs.results import Key, Result, read_results, write_results
from pipeline.setting_types import parse_duration_or_never

METRICS = "metrics.csv"


@dataclass(frozen=True)
class Options:
    """What to evaluate, and how."""

    paths: Sequence[Path]
    out: Path
    architecture: str
    seed: int
    setting: str
    delays: tuple[int, ...]
    workers: int
    figures: bool
    limit: int | None
    """Most files of each group; None for all."""
    online: Online | None = None
    """None: the scores are those of the trained detector alone."""


@dataclass(frozen=True)
class Plan:
    """What there is to do, known before anything is trained."""

    pending: Sequence[Task]
    """The largest files first, so that no long one is left for the end."""
    kept: Sequence[Result]
    """Results of this configuration that are there already."""
    keys: frozenset[Key]
    """Of the rows of this run; those of others stay as they are."""
    files: Mapping[tuple[str, str], Path]
    """By group and series."""
    remarks: Sequence[str]


@dataclass(frozen=True)
class Outcome:
    """What a run came to."""

    results: Sequence[Result]
    """Of this configuration, kept ones too."""
    failures: Sequence[str]
    """One line for each series that could not be trained on."""


Progress = Callable[[str, int, int], None]
"""Called with what was done last, how much is done, and of how much."""
T = TypeVar("T")
R = TypeVar("R")


def parse_delays(text: str) -> tuple[int, ...]:
    """Return the delays of a list like `2,4,8`, sorted.

    Raises:
        ConfigError: it is none.
    """
    try:
        delays = sorted({int(part) for part in text.split(",") if part.strip()})
    except ValueError as error:
        raise ConfigError(f"--delays {text}: write whole numbers, as in 2,4,8") from error
    if delays and delays[0] < 1:
        raise ConfigError(f"--delays {text}: the shortest delay is 1 point; causal scores are measured anyway")
    return tuple(delays)


def parse_online(online: bool, accept_after: str | None) -> Online | None:
    """Return how scores are recalibrated; None where that is not asked for.

    Raises:
        ConfigError: `accept_after` is no duration, or there is nothing that could accept.
    """
    if accept_after is not None and not online:
        raise ConfigError(f"--accept-after {accept_after}: only recalibrated scores learn a level; add --online")
    try:
        return Online(None if accept_after is None else parse_duration_or_never(accept_after)) if online else None
    except ValueError as error:
        raise ConfigError(f"--accept-after: {error}") from error


def plan(options: Options) -> Plan:
    """Find and check the files, and tell what is done already.

    Raises:
        ConfigError: a line for each file that cannot be evaluated.
    """
    check_architecture(options.architecture, options.seed)
    mistakes: list[str] = []
    remarks: list[str] = []
    tasks: dict[tuple[str, str], Task] = {}
    keys: dict[tuple[str, str], Key] = {}
    code = _code(options.architecture)
    for path in _files(options):
        try:
            rows = read_labelled(path)
        except ConfigError as error:
            mistakes.append(str(error))
            continue
        name = (rows.group, rows.name)
        if name in tasks:
            mistakes.append(f"{path}: {tasks[name].path} has the same group and name; rename one of them")
        remarks.extend(rows.remarks)
        scores = options.out / "scores" / rows.group / f"{rows.name}.parquet"
        setting = "" if rows.kind == "series" else f"{options.setting}:{options.seed}"
        online = options.online.text if options.online and rows.kind == "series" else ""
        keys[name] = (*name, options.architecture, options.seed, setting, online)
        tasks[name] = Task(
            path,
            scores,
            options.architecture,
            options.seed,
            options.setting,
            options.delays,
            _configuration(path, rows.kind, options, code),
            options.online,
        )
    if mistakes:
        raise ConfigError("\n".join(mistakes))
    written = {result.key: result for result in _written(options.out / METRICS)}
    kept: list[Result] = []
    pending: list[Task] = []
    for name, task in tasks.items():
        known = written.get(keys[name])
        if known and known.configuration == task.configuration == configuration_of(task.scores):
            kept.append(known)
        else:
            pending.append(task)
    pending.sort(key=lambda task: -task.path.stat().st_size)
    files = {name: task.path for name, task in tasks.items()}
    return Plan(pending, kept, frozenset(keys.values()), files, remarks)


def evaluate(options: Options, planned: Plan, progress: Progress) -> Outcome:
    """Do what is pending, then draw the figures that were asked for and are not there.

    Raises:
        Stopped: by Ctrl-C; the files that are there are whole.
    """
    results, failures = list(planned.kept), list[str]()
    metrics = options.out / METRICS
    with alone(options.out, "`offkey evaluate`", "--out"):
        _sweep(options.out)
        # Another run may have written since this one was planned.
        others = [result for result in _written(metrics) if result.key not in planned.keys]
        try:
            for outcome in _in_workers(judge, planned.pending, options.workers):
                if isinstance(outcome, str):
                    failures.append(outcome)
                    # Why it did is told at the end, once.
                    told = f"{outcome.partition(': ')[0]} failed"
                else:
                    results.append(outcome)
                    write_results(metrics, [*others, *results])
                    told = f"{outcome.group}/{outcome.series}"
                progress(told, len(results) + len(failures), len(planned.kept) + len(planned.pending))
            if others or results or metrics.exists():
                write_results(metrics, [*others, *results])
            if options.figures:
                failures += _draw(options, planned, results, progress)
        except KeyboardInterrupt as error:
            total = len(planned.kept) + len(planned.pending)
            raise Stopped(
                f"stopped: {len(results)} of {total} series are written; the same command goes on from there"
            ) from error
        finally:
            _sweep(options.out)
    return Outcome(sorted(results, key=lambda result: result.key), failures)


def _draw(options: Options, planned: Plan, results: Sequence[Result], progress: Progress) -> list[str]:
    """Draw what is not there yet; return one line for each figure that could not be drawn."""
    from pipeline.jobs.figure import FigureTask, draw

    tasks = []
    for result in results:
        path = planned.files[result.group, result.series]
        scores = options.out / "scores" / result.group / f"{result.series}.parquet"
        figure = options.out / "figures" / result.group / f"{result.series}.png"
        if not figure.exists() or figure.stat().st_mtime < scores.stat().st_mtime:
            tasks.append(FigureTask(figure, path, scores, result))
    failures = []
    for number, outcome in enumerate(_in_workers(draw, tasks, options.workers), 1):
        failures += [outcome] if isinstance(outcome, str) else []
        progress("figures", number, len(tasks))
    return failures


def _in_workers(work: Callable[[T], R], tasks: Sequence[T], workers: int) -> Iterator[R | str]:
    """Yield what `work` returns for each task as it is ready, or one line of why there is nothing."""
    if not tasks:
        return
    before = set(multiprocessing.active_children())
    # Forked from a process that has only imported what workers need: a fork of one that has run torch may hang.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([work.__module__])
    pool = ProcessPoolExecutor(min(workers, len(tasks)), mp_context=context, initializer=_begin_worker)
    try:
        for future in as_completed([pool.submit(work, task) for task in tasks]):
            try:
                yield future.result()
            except OffkeyError as error:
                yield str(error)
            except BrokenProcessPool as error:
                raise TransientError(
                    "a worker process was ended from outside, perhaps for want of memory; the same command goes on "
                    "from there, with fewer --workers it takes less"
                ) from error
        pool.shutdown()
    except BaseException:
        # A series may take minutes: whoever stops the run does not wait for it.
        children = set(multiprocessing.active_children()) - before
        pool.shutdown(wait=False, cancel_futures=True)
        for child in children:
            child.terminate()
        for child in children:
            child.join()
        raise


def _begin_worker() -> None:
    import torch

    # Ctrl-C reaches all processes of a terminal; the parent decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this worker when the parent was killed: nobody else would."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _files(options: Options) -> list[Path]:
    """Return the Parquet files under the paths, the first `limit` of each folder."""
    found: dict[Path, Path] = {}
    for path in options.paths:
        if not path.exists():
            raise ConfigError(f"{path}: there is no such file or folder")
        inside = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
        # The score files of an earlier run are no input, should they lie below.
        inside = [one for one in inside if not one.resolve().is_relative_to((options.out / "scores").resolve())]
        if not inside:
            raise ConfigError(f"{path}: there is no .parquet file in this folder")
        found |= {one.resolve(): one for one in inside}
    of_group: dict[Path, list[Path]] = {}
    for resolved, path in found.items():
        of_group.setdefault(resolved.parent, []).append(path)
    return [path for group in of_group.values() for path in group[: options.limit]]


def _configuration(path: Path, kind: str, options: Options, code: str) -> str:
    """Return a hash of what a result depends on: of a series not the setting of tables, of a table no delay."""
    of_series = {"delays": options.delays, "online": options.online.text if options.online else ""}
    parts = {
        "file": hashlib.sha256(path.read_bytes()).hexdigest(),
        "architecture": options.architecture,
        "seed": options.seed,
        **({"setting": options.setting} if kind == "table" else of_series),
        "code": code,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


_RECKONING = (
    "models",
    "pipeline/stages",
    "pipeline/connectors/labelled.py",
    "pipeline/connectors/parquet.py",
    "pipeline/jobs/judge.py",
    "pipeline/jobs/results.py",
    "pipeline/jobs/false_incidents.py",
    "pipeline/budgets.py",
    "pipeline/config.py",
)
"""What a result depends on, beside the file and the options."""


def _code(architecture: str) -> str:
    """Return a hash of the code that reads, trains, scores and counts, and of the libraries under it.

    Of an architecture that another distribution adds, that one's name and version count.
    """
    digest = hashlib.sha256()
    home = Path(models.__path__[0]).parent
    for part in _RECKONING:
        whole = home / part
        for path in sorted(whole.rglob("*.py")) if whole.is_dir() else [whole]:
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    digest.update("".join(version(library) for library in ("numpy", "torch")).encode())
    digest.update(" ".join(architectures.distribution_of(architecture) or ()).encode())
    return digest.hexdigest()


def _written(path: Path) -> list[Result]:
    if not path.exists():
        return []
    try:
        return read_results(path)
    except ValueError as error:
        raise ConfigError(f"{error}; move it away or take another --out") from error


def _sweep(out: Path) -> None:
    """Drop what a worker that was ended left unfinished."""
    unfinished = [(out / "scores").rglob(".*.parquet.*"), (out / "figures").rglob(".*.png"), out.glob(".*.csv.*")]
    for path in chain.from_iterable(unfinished):
        path.unlink(missing_ok=True)

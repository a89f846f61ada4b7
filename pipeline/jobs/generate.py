"""`offkey generate`: made-up records and series, variations of a window, and how true to the original they are.

All rows are read once: of records a sample, of series the newest rows. A fifth is held out to compare with, the
rest is learned from. Then rows are written as they are made.

Legend: N rows, F features, T steps of a window.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from models.detector import Detector
from models.generating import Generator, fit_generator, sampling_view
from models.injection import Fault, faults_of
from models.spec import Kind, shortened
from pipeline.errors import ConfigError, SnapshotError
from pipeline.jobs.blocks import FloatArray, Input, Progress
from pipeline.jobs.coding import require_features
from pipeline.jobs.generated_rows import Clock, Injection, Labels, check_names, write_rows, write_variations
from pipeline.jobs.newest_rows import Newest, SeriesRows, newest_rows
from pipeline.jobs.sample import HELD_OUT, look, require_rows

RECORDS, SERIES, VARIATIONS = "records.parquet", "series", "variations.parquet"
ANOMALIES, REPORT, PAGE, PICTURE = "anomalies.jsonl", "report.json", "report.html", "fidelity.png"
FORMAT = "offkey.generated"
ROWS, ROWS_OF_SERIES, WINDOW = 10_000, 2_000, 32
_MOST_LEARNED = 16_384
_LONGEST_NAME = 120
_TOLD_SERIES = 20


@dataclass(frozen=True)
class Options:
    """What to make."""

    rows: int | None = None
    """Records, or rows of each series."""
    series: tuple[str, ...] = ()
    """Names; empty: all."""
    at_ms: int | None = None
    """Vary the window that ends then, of the one series that is named."""
    variations: int = 10
    strength: float = 1.0
    window: int | None = None
    anomalies: int = 0
    faults: tuple[Fault, ...] = ()
    size: float = 6.0
    points: int | None = None
    seed: int = 0
    report: bool = True


@dataclass(frozen=True)
class Model:
    """A detector to sample from, and what it is called."""

    detector: Detector
    name: str


@dataclass(frozen=True)
class Learned:
    """A generator, and the rows that it was not shown."""

    generator: Generator
    learned: Mapping[str, Sequence[FloatArray]]
    held_out: Mapping[str, Sequence[FloatArray]]
    newest: Mapping[str, SeriesRows] = field(default_factory=dict)
    rows: int = 0
    unusable: int = 0
    late: int = 0


def check_options(options: Options, kind: Kind, features: Sequence[str]) -> None:
    """See that what is asked for can be made, before anything is read.

    Raises:
        ConfigError: it cannot.
    """
    check_names(features)
    if kind == "features":
        for option, given in (("--series", options.series), ("--at", options.at_ms), ("--window", options.window)):
            if given:
                raise ConfigError(f"{option}: records of `kind: features` belong to no series; leave it out")
    if options.at_ms is not None and len(options.series) != 1:
        raise ConfigError(f"--at is a moment of one series, and {len(options.series)} are named; give one --series")
    if options.at_ms is not None and options.anomalies:
        raise ConfigError("--inject: variations of a window take no anomalies; leave --at or --inject out")
    known = faults_of(kind, len(features))
    for fault in options.faults:
        if fault not in known:
            raise ConfigError(f"--fault {fault}: {kind} of {len(features)} features have {', '.join(known)}")
    if options.points and kind == "features" and options.points > 1:
        raise ConfigError(
            f"--points {options.points}: a record of `kind: features` is judged by itself; leave it out"
        )


def check_model(model: Model, kind: Kind, features: Sequence[str]) -> None:
    """See that a model samples, and what is asked for.

    Raises:
        ConfigError: it is of another kind or other features, or cannot sample.
    """
    spec = model.detector.spec
    if spec.kind != kind:
        raise ConfigError(
            f"{model.name}: it is of `kind: {spec.kind}`, and the stream of {kind}; take another model"
        )
    require_features(spec.features, features, model.name)
    try:
        sampling_view(model.detector, model.name)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def generate(
    source: Input, kind: Kind, options: Options, model: Model | None, folder: Path, what: str, progress: Progress
) -> dict[str, Any]:
    """Make rows into a folder; return the report.

    Args:
        what: the rows are called in an error.

    Raises:
        ConfigError: there is no such series or window.
        SnapshotError: there are too few rows to learn from.
        OSError: the folder cannot be written.
    """
    learned = _learned(source, kind, options, model, what, progress)
    generator = learned.generator
    names = _asked(generator, learned, options, what)
    report: dict[str, Any] = {
        "format": FORMAT,
        "command": "generate",
        "kind": kind,
        "features": list(generator.features),
        "seed": options.seed,
        "model": "trained for it" if model is None else model.name,
        "read": {"rows": learned.rows, "unusable": learned.unusable, "late": learned.late},
        "learned_rows": sum(len(x_RF) for own in learned.learned.values() for x_RF in own),
        "width": generator.sampler.width,
    }
    if kind == "series":
        report |= {"window": generator.window, "short_series": len(learned.newest) - len(generator.scale_of)}
    if options.at_ms is not None:
        report |= _vary(generator, learned, names[0], options, folder, what)
    else:
        report |= _rows(generator, learned, names, kind, options, folder, progress)
    report["grids"] = {
        name: {
            feature: grid.told for feature, grid in zip(generator.features, generator.grids_of[name], strict=True)
        }
        for name in names[:_TOLD_SERIES]
    }
    if kind == "features":
        report["grids"] = report["grids"][names[0]]
    if options.report:
        progress("comparing", 0.0, None)
        report["fidelity"] = _compare(generator, learned, kind, options, folder, report, what)
    if kind == "features":
        report["redrawn"] = generator.redrawn
    (folder / REPORT).write_text(json.dumps(report, indent=1) + "\n")
    return report


def _learned(
    source: Input, kind: Kind, options: Options, model: Model | None, what: str, progress: Progress
) -> Learned:
    if kind == "features":
        looked = look(source, options.seed, lambda rows: progress("reading", rows, None))
        require_rows(what, looked.rows, looked.unusable, source.features)
        learned = {"": [looked.learning.cut(0, _MOST_LEARNED).values_NF]}
        held_out = {"": [looked.held_out.values_NF]}
        generator = _fitted(source, kind, learned, options, model, what, progress)
        return Learned(generator, learned, held_out, rows=looked.rows, unusable=looked.unusable)
    found = newest_rows(source, lambda rows: progress("reading", rows, None))
    require_rows(what, found.rows, found.unusable, source.features)
    _check_series(found, options.series, what)
    # Of a report that nobody asked for no rows need be kept back.
    share = HELD_OUT if options.report else 0.0
    cut = {name: len(own.values_NF) - int(share * len(own.values_NF)) for name, own in found.of.items()}
    learned = {name: own.stretches(0, cut[name]) for name, own in found.of.items()}
    held_out = {name: own.stretches(cut[name], len(own.values_NF)) for name, own in found.of.items()}
    generator = _fitted(source, kind, learned, options, model, what, progress)
    return Learned(generator, learned, held_out, found.of, found.rows, found.unusable, found.late)


def _fitted(
    source: Input,
    kind: Kind,
    learned: Mapping[str, Sequence[FloatArray]],
    options: Options,
    model: Model | None,
    what: str,
    progress: Progress,
) -> Generator:
    try:
        return fit_generator(
            kind,
            source.features,
            learned,
            1 if kind == "features" else options.window or WINDOW,
            detector=None if model is None else model.detector,
            name="" if model is None else model.name,
            seed=options.seed,
            progress=lambda share: progress("learning", share, 1.0),
        )
    except ValueError as error:
        raise SnapshotError(f"{what}: {error}") from error


def _check_series(found: Newest, asked: Sequence[str], what: str) -> None:
    for name in asked:
        if name not in found.of:
            raise ConfigError(f"--series {name}: {what} has no such series; it has {shortened(sorted(found.of))}")


def _asked(generator: Generator, learned: Learned, options: Options, what: str) -> list[str]:
    """Return the series that are to be made."""
    for name in options.series:
        if name not in generator.scale_of:
            raise SnapshotError(
                f"{what}: series {name!r} has no {generator.window} rows that follow each other without a gap; "
                "give more rows, or a shorter --window"
            )
    return list(options.series) or list(generator.scale_of)


def _vary(
    generator: Generator, learned: Learned, name: str, options: Options, folder: Path, what: str
) -> dict[str, Any]:
    assert options.at_ms is not None
    own = learned.newest[name]
    x_TF = own.window_at(options.at_ms, generator.window)
    if x_TF is None:
        first, last = (np.datetime64(int(each), "ms") for each in (own.time_ms_N[0], own.time_ms_N[-1]))
        raise ConfigError(
            f"--at: series {name!r} of {what} has no {generator.window} rows without a gap that end then; those "
            f"that are held are of {first}Z to {last}Z"
        )
    x_BTF = generator.variations(name, x_TF, options.variations, options.strength, options.seed)
    end = int(np.searchsorted(own.time_ms_N, options.at_ms, side="right"))
    first_ms = int(own.time_ms_N[end - generator.window])
    write_variations(folder / VARIATIONS, x_BTF, generator.features, Clock(first_ms, own.interval_ms))
    off_B = np.abs((x_BTF - x_TF) / generator.scale_of[name][1]).mean(axis=(1, 2))
    return {
        "series": [name],
        "files": [VARIATIONS],
        "rows": x_BTF.shape[0] * x_BTF.shape[1],
        "variations": len(x_BTF),
        "strength": options.strength,
        "varied": {"first_ms": first_ms, "last_ms": int(own.time_ms_N[end - 1]), "mean_off": float(off_B.mean())},
    }


def _rows(
    generator: Generator,
    learned: Learned,
    names: Sequence[str],
    kind: Kind,
    options: Options,
    folder: Path,
    progress: Progress,
) -> dict[str, Any]:
    rows = options.rows or (ROWS if kind == "features" else ROWS_OF_SERIES)
    faults = options.faults or faults_of(kind, len(generator.features))
    points = options.points or (1 if kind == "features" else generator.window)
    gap = 1 if kind == "features" else generator.window
    injection = Injection(options.anomalies, faults, options.size, points, gap)
    files = _file_names(names) if kind == "series" else [RECORDS]
    done, of = 0, float(rows * len(names))
    if kind == "series":
        (folder / SERIES).mkdir()
    with Labels(folder / ANOMALIES) as labels:
        for number, (name, file) in enumerate(zip(names, files, strict=True)):
            parts: Iterator[FloatArray] = generator.records(rows, options.seed)
            clock = None
            if kind == "series":
                own = learned.newest[name]
                clock = Clock(int(own.time_ms_N[-1]) + own.interval_ms, own.interval_ms)
                parts = generator.series(name, rows, options.seed)
            writing = write_rows(
                *(folder / file, parts, rows, generator.features, generator.grids_of[name], injection, labels),
                np.random.default_rng([options.seed, number]).integers(2**32).item(),
                series=name,
                clock=clock,
            )
            for written in writing:
                progress("writing", done + written, of)
            done += rows
        injected = labels.count
    asked = options.anomalies * len(names)
    made: dict[str, Any] = {"files": files, "rows": rows * len(names), "anomalies": injected, "asked": asked}
    if kind == "series":
        made["series"] = list(names)
    if not options.anomalies:
        (folder / ANOMALIES).unlink()
    return made


def _file_names(names: Sequence[str]) -> list[str]:
    """Return a file for each series: its name, as far as a file may have it."""
    taken, found = set[str](), []
    for name in names:
        short = quote(name, safe=" ")[:_LONGEST_NAME].strip(" .") or "series"
        number = 1
        while (file := short if number == 1 else f"{short}-{number}") in taken:
            number += 1
        taken.add(file)
        found.append(f"{SERIES}/{file}.parquet")
    return found


def _compare(
    generator: Generator,
    learned: Learned,
    kind: Kind,
    options: Options,
    folder: Path,
    report: Mapping[str, Any],
    what: str,
) -> dict[str, Any]:
    from pipeline.jobs.fidelity import compared_records, compared_series, measured
    from pipeline.jobs.fidelity_page import page
    from pipeline.jobs.fidelity_picture import draw

    if kind == "features":
        compared = compared_records(generator, learned.learned[""][0], learned.held_out[""][0], options.seed)
    else:
        compared = compared_series(generator, report["series"], learned.learned, learned.held_out, options.seed)
    found = measured(compared, options.seed)
    if len(compared.real) and len(compared.made):
        draw(folder / PICTURE, compared, found, what)
    picture = (folder / PICTURE).read_bytes() if (folder / PICTURE).exists() else None
    (folder / PAGE).write_text(page({**report, "fidelity": found}, what, picture))
    return found


def ours(folder: Path) -> Callable[[str], bool]:
    """Return what tells whether an earlier run has written a file of this name."""
    fixed = {RECORDS, VARIATIONS, ANOMALIES, REPORT, PAGE, PICTURE}
    try:
        said = json.loads((folder / REPORT).read_bytes())
        files = said["files"] if said["format"] == FORMAT else []
    except (OSError, ValueError, KeyError, TypeError):
        files = []
    named = fixed | {Path(file).name for file in files}
    return named.__contains__

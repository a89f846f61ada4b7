"""What `offkey generate` writes: records, images, series, or variations of one, and what a report tells of them.

Legend: N rows, B variations, F features, T steps of a window.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from models.generator import Generator
from models.injection import faults_of
from models.spec import Kind
from pipeline.errors import ConfigError
from pipeline.jobs.blocks import FloatArray, Progress
from pipeline.jobs.generate_options import Options
from pipeline.jobs.generated_images import as_records, write_image_variations, write_images
from pipeline.jobs.generated_rows import Clock, Injection, Labels, write_rows, write_variations
from pipeline.jobs.newest_rows import SeriesRows

RECORDS, IMAGES, SERIES, VARIATIONS = "records.parquet", "images.parquet", "series", "variations.parquet"
ANOMALIES = "anomalies.jsonl"
ROWS: Mapping[Kind, int] = {"features": 10_000, "series": 2_000, "images": 1_000}
_LONGEST_NAME = 120


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
    varied_F: FloatArray | None = None
    """The record that is varied."""


def varied_record(generator: Generator, x_F: FloatArray, options: Options, folder: Path) -> dict[str, Any]:
    """Write variations of a record, or of an image."""
    (name,) = generator.scale_of
    x_B1F = generator.variations(name, x_F[None], options.variations, options.strength, options.seed)
    if generator.spec.image is None:
        write_variations(folder / VARIATIONS, x_B1F, generator.spec.features, None)
    else:
        write_image_variations(folder / VARIATIONS, x_B1F[:, 0], as_records(options.format, generator.spec.image))
    off_BF = np.abs(x_B1F[:, 0].astype(np.float64) - x_F) / generator.scale_of[name][1]
    return {
        "files": [VARIATIONS],
        "rows": len(x_B1F),
        "variations": len(x_B1F),
        "strength": options.strength,
        "varied": {"record": options.like, "mean_off": float(off_BF.mean())},
    }


def made_images(generator: Generator, options: Options, folder: Path, progress: Progress) -> dict[str, Any]:
    """Write images, with faults in some where they are asked for."""
    assert generator.spec.image is not None
    rows = options.rows or ROWS["images"]
    (name,) = generator.scale_of
    faults = options.faults or faults_of("images", len(generator.spec.features))
    with Labels(folder / ANOMALIES) as labels:
        writing = write_images(
            *(folder / IMAGES, generator.records(rows, options.seed), rows),
            *(as_records(options.format, generator.spec.image), generator.spec.image, generator.scale_of[name][1]),
            *(Injection(options.anomalies, faults, options.size), labels, options.seed),
        )
        for written in writing:
            progress("writing", written, float(rows))
    if not options.anomalies:
        (folder / ANOMALIES).unlink()
    return {"files": [IMAGES], "rows": rows, "anomalies": labels.count, "asked": options.anomalies}


def varied_window(
    generator: Generator, learned: Learned, name: str, options: Options, folder: Path, what: str
) -> dict[str, Any]:
    """Write variations of the window of a series that ends at a moment; raises `ConfigError` where none does."""
    assert options.at_ms is not None
    own = learned.newest[name]
    x_TF = own.window_at(options.at_ms, generator.spec.window)
    if x_TF is None:
        first, last = (np.datetime64(int(each), "ms") for each in (own.time_ms_N[0], own.time_ms_N[-1]))
        raise ConfigError(
            f"--at: series {name!r} of {what} has no {generator.spec.window} rows without a gap that end then; those "
            f"that are held are of {first}Z to {last}Z"
        )
    x_BTF = generator.variations(name, x_TF, options.variations, options.strength, options.seed)
    end = int(np.searchsorted(own.time_ms_N, options.at_ms, side="right"))
    first_ms = int(own.time_ms_N[end - generator.spec.window])
    write_variations(folder / VARIATIONS, x_BTF, generator.spec.features, Clock(first_ms, own.interval_ms))
    off_B = np.abs((x_BTF - x_TF) / generator.scale_of[name][1]).mean(axis=(1, 2))
    return {
        "series": [name],
        "files": [VARIATIONS],
        "rows": x_BTF.shape[0] * x_BTF.shape[1],
        "variations": len(x_BTF),
        "strength": options.strength,
        "varied": {"first_ms": first_ms, "last_ms": int(own.time_ms_N[end - 1]), "mean_off": float(off_B.mean())},
    }


def made_rows(
    generator: Generator,
    learned: Learned,
    names: Sequence[str],
    kind: Kind,
    options: Options,
    folder: Path,
    progress: Progress,
) -> dict[str, Any]:
    rows = options.rows or ROWS[kind]
    faults = options.faults or faults_of(kind, len(generator.spec.features))
    points = options.points or (1 if kind == "features" else generator.spec.window)
    gap = 1 if kind == "features" else generator.spec.window
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
                *(folder / file, parts, rows, generator.spec.features, generator.grids_of[name], injection, labels),
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

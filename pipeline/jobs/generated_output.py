"""What `offkey generate` writes: records, images, series, or variations of one, and what a report tells of them.

Legend: N rows, B variations, F features, T steps of a window.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from models.arrays import FloatArray
from models.generator import Generator
from models.injection import faults_of
from models.spec import Kind
from pipeline.errors import ConfigError
from pipeline.jobs.blocks import Progress
from pipeline.jobs.generate_options import Options
from pipeline.jobs.generated_images import as_records, write_image_variations, write_images
from pipeline.jobs.generated_rows import Injection, Labels, Times, write_rows, write_variations
from pipeline.jobs.newest_rows import SeriesRows

RECORDS, IMAGES, SERIES, VARIATIONS = "records.parquet", "images.parquet", "series", "variations.parquet"
ANOMALIES = "anomalies.jsonl"
ROWS: Mapping[Kind, int] = {"features": 10_000, "series": 2_000, "images": 1_000}
_LONGEST_NAME = 120


@dataclass(frozen=True)
class Learned:
    """A generator, the rows that it was shown, and those that it was not."""

    generator: Generator
    shown: Mapping[str, Sequence[FloatArray]]
    held_out: Mapping[str, Sequence[FloatArray]]
    newest: Mapping[str, SeriesRows] = field(default_factory=dict)
    rows: int = 0
    unusable: int = 0
    late: int = 0
    varied_F: FloatArray | None = None
    """The record that is varied."""


def varied_record(learned: Learned, options: Options, folder: Path) -> dict[str, Any]:
    """Write variations of a record, or of an image."""
    generator, x_F = learned.generator, learned.varied_F
    assert x_F is not None
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
    rows, shape = options.rows or ROWS["images"], generator.spec.image
    assert shape is not None
    ((_, spread_F),) = generator.scale_of.values()
    faults = options.faults or faults_of("images", shape.values)
    injection = Injection(options.anomalies, faults, options.size, seed=options.seed)
    encoded, parts = as_records(options.format, shape), generator.records(rows, options.seed)
    with Labels(folder / ANOMALIES) as labels:
        for written in write_images(folder / IMAGES, parts, rows, encoded, shape, spread_F, injection, labels):
            progress("writing", written, float(rows))
    if not options.anomalies:
        (folder / ANOMALIES).unlink()
    return {"files": [IMAGES], "rows": rows, "anomalies": labels.count, "asked": options.anomalies}


def varied_window(learned: Learned, name: str, options: Options, folder: Path, what: str) -> dict[str, Any]:
    """Write variations of the window of a series that ends at a moment; raises `ConfigError` where none does."""
    assert options.at_ms is not None
    generator, own = learned.generator, learned.newest[name]
    window = generator.spec.window
    x_TF = own.window_at(options.at_ms, window)
    if x_TF is None:
        first, last = (np.datetime64(int(each), "ms") for each in (own.time_ms_N[0], own.time_ms_N[-1]))
        raise ConfigError(
            f"--at: series {name!r} of {what} has no {window} rows without a gap that end then; those "
            f"that are held are of {first}Z to {last}Z"
        )
    x_BTF = generator.variations(name, x_TF, options.variations, options.strength, options.seed)
    end = int(np.searchsorted(own.time_ms_N, options.at_ms, side="right"))
    first_ms = int(own.time_ms_N[end - window])
    write_variations(folder / VARIATIONS, x_BTF, generator.spec.features, Times(name, first_ms, own.interval_ms))
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
    learned: Learned, names: Sequence[str], options: Options, folder: Path, progress: Progress
) -> dict[str, Any]:
    """Write records, or the rows of each of these series, with anomalies where they are asked for."""
    generator, spec = learned.generator, learned.generator.spec
    kind, rows = spec.kind, options.rows or ROWS[spec.kind]
    faults = options.faults or faults_of(kind, len(spec.features))
    points = options.points or spec.window
    injection = Injection(options.anomalies, faults, options.size, points, spec.window, options.seed)
    files = _file_names(names) if kind == "series" else [RECORDS]
    done, of = 0, float(rows * len(names))
    if kind == "series":
        (folder / SERIES).mkdir()
    with Labels(folder / ANOMALIES) as labels:
        for number, (name, file) in enumerate(zip(names, files, strict=True)):
            if kind == "series":
                own = learned.newest[name]
                times = Times(name, int(own.time_ms_N[-1]) + own.interval_ms, own.interval_ms)
                parts = generator.series(name, rows, options.seed)
            else:
                times, parts = None, generator.records(rows, options.seed)
            grids = dict(zip(spec.features, generator.grids_of[name], strict=True))
            drawn = replace(injection, seed=injection.seed_of(number))
            for written in write_rows(folder / file, parts, rows, grids, drawn, labels, times):
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

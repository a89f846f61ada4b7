"""`offkey reduce`: rows -> codes of few numbers in Parquet, and back; with how much of the rows the codes tell.

All rows are looked at once, for a sample and to see that they can be read; the autoencoder learns from most of the
sample, or is given; then all rows are coded, part by part. What codes tell is measured on the rest of the sample.

A code is of one row, of streams of all kinds; of an image it is of its pixels. A row that holds no number for a
feature has an empty code, and is counted.

Legend: N rows, F features, D numbers of a code.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.arrays import BoolArray
from models.codes import Coder
from models.manifest import MANIFEST as MODEL_MANIFEST
from models.spec import ImageShape, shortened
from pipeline.connectors.parquet import Array
from pipeline.errors import ConfigError, SnapshotError
from pipeline.interrupting import Stopped
from pipeline.jobs import coding
from pipeline.jobs.blocks import Block, Column, Divisible, Input, Progress, named_apart
from pipeline.jobs.decoding import Decoding
from pipeline.jobs.engine import Engine
from pipeline.jobs.parts import MODEL, PICTURE, REPORT, Parts, opened
from pipeline.jobs.sample import Look, look, require_rows
from pipeline.jobs.series_windows import SeriesWindows
from pipeline.jobs.spread import Begins, PartTask, spread
from pipeline.jobs.streaming import PART_ROWS, Step, stream


@dataclass(frozen=True)
class Options:
    """What to write, and how."""

    output: Path
    about: Mapping[str, Any] = field(default_factory=dict)
    """What was asked for; a run that goes on has to ask for the same."""
    dimensions: int | None = None
    model: Path | None = None
    """A folder of a model that was made before; None: one is trained."""
    seed: int = 0
    part_rows: int = PART_ROWS
    picture: str | None = None
    """What the picture's points are coloured by; None: there is none."""
    resume: bool = False
    overwrite: bool = False
    image: ImageShape | None = None
    """The size of images."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    engine: Engine | None = None
    """Makes the parts; None: this process does, one behind the other."""


class Reducing:
    """Codes and errors of rows."""

    carried = None

    def __init__(self, coder: Coder, threads: int | None = None) -> None:
        self._coder, self._threads = coder, threads

    def columns(self, block: Block) -> tuple[Mapping[str, Column], Mapping[str, Any]]:
        usable_N = block.usable_N
        coded = coding.code_rows(self._coder, block.values_NF, usable_N, threads=self._threads)
        codes = dict(zip(coding.names_of(self._coder), coded.code_ND.T, strict=True))
        written = {**named_apart(block.columns, [*codes, coding.ERROR]), **codes, coding.ERROR: coded.error_N}
        return written, sums_of(coded, usable_N)

    def passed(self, block: Block) -> None:
        """Rows are coded one by one: nothing is carried on."""


@dataclass(frozen=True)
class Recipe:
    """Makes `Reducing`, or `Decoding`, of what travels."""

    files: Mapping[str, bytes]
    """Of the model."""
    decodes: bool = False

    def __call__(self, device: torch.device) -> Step:
        coder = coding.coder_of(self.files, MODEL, device)
        return Decoding(coder) if self.decodes else Reducing(coder, coding.threads_beside_others(device))


def sums_of(coded: coding.Coded, usable_N: BoolArray) -> dict[str, Any]:
    """Return what is added up over all parts."""
    return {"usable": int(usable_N.sum()), "squared_errors": coded.square_F.tolist()}


def look_at(
    source: Input,
    options: Options,
    parts: Parts,
    what: str,
    progress: Progress,
    also: Sequence[Callable[[Block], None]] = (),
) -> Look:
    """Look at all rows; each block is shown to each of `also`.

    Raises:
        ConfigError: they are not those of the run that this one goes on with.
        SnapshotError: there are too few.
    """

    def shown(block: Block) -> None:
        for see in also:
            see(block)

    looked = look(source, options.seed, lambda rows: progress("looking", rows, None), shown)
    require_rows(what, looked.rows, looked.unusable, source.features)
    entries = parts.entries
    if entries and (entries[0]["digest"], entries[0]["of_rows"]) != (looked.digest, looked.rows):
        raise ConfigError(
            f"{parts.path}: it was begun on other rows ({entries[0]['of_rows']:,}, and there are {looked.rows:,} "
            "now or their content has changed); --overwrite begins anew"
        )
    return looked


def coder_for(source: Input, options: Options, parts: Parts, looked: Look, progress: Progress) -> Coder:
    """Return the model that reads the rows: the one that is given, or one that is trained; it lies in the output.

    Raises:
        ConfigError: it is of other features, or makes other codes.
        SnapshotError: nothing can be learned from the rows.
    """
    if options.model is not None:
        files = coding.read_files(options.model)
        coder = coding.coder_of(files, str(options.model), options.device)
        coding.require_features(coder.features, source.features, str(options.model))
        if options.dimensions not in (None, coder.dimensions):
            raise ConfigError(
                f"--dimensions {options.dimensions}: {options.model} makes codes of {coder.dimensions}; leave it "
                "out, or leave --model out to train one"
            )
        coding.keep(parts, files)
    elif not (parts.path / MODEL / MODEL_MANIFEST).exists():
        dimensions = coding.check_dimensions(options.dimensions, source.features)
        progress("training", 0.0, 1.0)
        coding.train(
            *(parts, looked, source.features, dimensions, options.seed, options.device),
            lambda share: progress("training", share, 1.0),
            options.image,
        )
    return coding.coder_of(coding.read_files(parts.path), str(parts.path / MODEL), options.device)


def begins_of(
    source: Divisible, options: Options, parts: Parts, carried: SeriesWindows | None = None
) -> Begins | None:
    """Return what notes where parts begin, with what is carried there; None: no engine asks for it."""
    if options.engine is None:
        return None
    return Begins(source, options.part_rows, options.engine, len(parts.entries), carried)


def reduce_rows(source: Divisible, options: Options, what: str, progress: Progress) -> dict[str, Any]:
    """Write codes of all rows; return the report.

    Args:
        what: the rows are called in an error.

    Raises:
        Stopped: by Ctrl-C; the parts that are there are whole.
        ConfigError, SnapshotError, TransientError: as those below it.
    """
    with opened(options.output, options.about, resume=options.resume, overwrite=options.overwrite) as parts:
        if parts.complete:
            return finished(parts)
        with stops(parts):
            begins = begins_of(source, options, parts)
            looked = look_at(source, options, parts, what, progress, [begins.see] if begins else [])
            coder = coder_for(source, options, parts, looked, progress)
            step, recipe = Reducing(coder), Recipe(coding.read_files(parts.path))
            make_all(source, parts, options, step, recipe, begins, looked, what, partial(progress, "reducing"))
            progress("judging", 0.0, None)
            quality = coding.judge(coder, looked)
            report = {"command": "reduce", **summed(parts, coder, looked), **told(quality, coder)}
            if (colour := options.picture) is not None:
                from pipeline.jobs.code_picture import draw_codes

                parts.drawn(PICTURE, lambda path: draw_codes(path, coder, looked, quality, colour, what))
            parts.finish(report)
            return report


def make_all(
    source: Divisible, parts: Parts, options: Options, step: Step, recipe: Callable[[torch.device], Step],
    begins: Begins | None, looked: Look, what: str, progress: Callable[[float, float | None], None],
) -> None:  # fmt: skip
    """Have a step make all parts of the rows that were looked at, here or by an engine; raises as `stream` does.

    Raises:
        SnapshotError: they are not as many any more.
    """
    seen = {"digest": looked.digest, "of_rows": looked.rows}

    def told(rows: int) -> None:
        progress(rows, float(looked.rows))

    if begins is None:
        stream(source, parts, options.part_rows, step, seen, told)
    else:
        spread(PartTask(source, options.part_rows, recipe), begins, parts, seen, told)
    if (rows := total_of(parts, "rows")) != looked.rows:
        raise SnapshotError(
            f"{what}: there were {looked.rows:,} rows at first, and {rows:,} a little later; see who changes or "
            "removes them, then begin anew with --overwrite"
        )


def decode_rows(source: Divisible, options: Options, codes: Path, progress: Progress) -> dict[str, Any]:
    """Write the rows that codes stand for; return the report.

    Raises:
        Stopped: by Ctrl-C; the parts that are there are whole.
        ConfigError, TransientError: as those below it.
    """
    with opened(options.output, options.about, resume=options.resume, overwrite=options.overwrite) as parts:
        if parts.complete:
            return finished(parts)
        with stops(parts):
            folder = options.model or codes
            coder = coding.coder_of(coding.read_files(folder), str(folder), options.device)
            if source.features != tuple(coding.names_of(coder)):
                raise ConfigError(
                    f"{codes}: it holds codes {shortened(source.features)}, and {folder} reads {coder.dimensions}; "
                    "name the model that made them with --model"
                )
            _decode_all(source, parts, options, coder, coding.read_files(folder), progress)
            rows, usable = total_of(parts, "rows"), total_of(parts, "usable")
            if not rows:
                raise SnapshotError(f"{codes}: there are no rows")
            squared = [each["squared_error"] for each in parts.entries if "squared_error" in each]
            report = {
                "command": "decode",
                "rows": rows,
                "empty": rows - usable,
                **features_of(coder),
                "dimensions": coder.dimensions,
                "error": math.sqrt(sum(squared) / max(usable, 1)) if squared else None,
                "parts": len(parts.entries),
            }
            parts.finish(report)
            return report


def _decode_all(
    source: Divisible, parts: Parts, options: Options, coder: Coder, files: Mapping[str, bytes], progress: Progress
) -> None:
    begins = begins_of(source, options, parts)

    def told(rows: int) -> None:
        progress("decoding", rows, None)

    if begins is None:
        stream(source, parts, options.part_rows, Decoding(coder), {}, told)
        return
    looked = 0
    for block in source.blocks():
        begins.see(block)
        looked += len(block)
        progress("looking", looked, None)
    spread(PartTask(source, options.part_rows, Recipe(files, decodes=True)), begins, parts, {}, told)


@contextmanager
def stops(parts: Parts) -> Iterator[None]:
    """Turn Ctrl-C into what is whole and how to go on."""
    try:
        yield
    except KeyboardInterrupt as error:
        # Of the disk, for a second Ctrl-C may have come between a part and its entry.
        whole, rows = parts.whole()
        raise Stopped(
            f"stopped: {rows:,} rows in {whole} parts are whole in {parts.path}; the same command with --resume "
            "goes on from there"
        ) from error


def total_of(parts: Parts, name: str) -> int:
    return sum(int(entry[name]) for entry in parts.entries)


def summed(parts: Parts, coder: Coder, looked: Look) -> dict[str, Any]:
    """Return what is known of all rows."""
    usable = total_of(parts, "usable")
    square_F: Array = np.sum([entry["squared_errors"] for entry in parts.entries], axis=0)
    each = {}
    if coder.detector.spec.image is None:
        each = dict(zip(coder.features, np.sqrt(square_F / max(usable, 1)).tolist(), strict=True))
    return {
        "rows": looked.rows,
        "empty": looked.rows - usable,
        **features_of(coder),
        "dimensions": coder.dimensions,
        "error": math.sqrt(float(square_F.mean()) / max(usable, 1)),
        "error_by_feature": each,
        "parts": len(parts.entries),
    }


def features_of(coder: Coder) -> dict[str, Any]:
    """Return for the report what the rows hold; of images the size alone."""
    image = coder.detector.spec.image
    return {"features": list(coder.features)} if image is None else {"features": [], "image": str(image)}


def told(quality: coding.Quality, coder: Coder) -> dict[str, Any]:
    """Return a comparison with PCA for the report; None of a feature that is constant."""

    def number(value: float) -> float | None:
        return None if math.isnan(value) else value

    names = coder.features if coder.detector.spec.image is None else ["pixels"]
    each = zip(names, quality.coder_F.tolist(), quality.pca_F.tolist(), strict=True)
    return {
        "learned_rows": quality.learned_rows,
        "held_out_rows": quality.held_out_rows,
        "r2": number(_mean(quality.coder_F)),
        "r2_of_pca": number(_mean(quality.pca_F)),
        "r2_by_feature": {name: {"codes": number(own), "pca": number(pca)} for name, own, pca in each},
    }


def _mean(of_F: Sequence[float] | Array) -> float:
    known_F = np.asarray(of_F)[~np.isnan(of_F)]
    return float(known_F.mean()) if len(known_F) else math.nan


def finished(parts: Parts) -> dict[str, Any]:
    """Return the report of a run that is complete."""
    report: dict[str, Any] = json.loads((parts.path / REPORT).read_bytes())
    return report

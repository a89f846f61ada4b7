"""`offkey generate`: made-up records, images and series, variations of one, and how true to the original they are.

All rows are read once: of records and images a sample, of series the newest rows. A fifth is held out to compare
with, the rest is learned from. Then rows are written as they are made.

Legend: N rows, F features, T steps of a window.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from models.arrays import FloatArray
from models.generating import fit_generator
from models.generator import Generator
from models.spec import shortened
from pipeline.errors import ConfigError, SnapshotError
from pipeline.jobs.blocks import Input, Progress
from pipeline.jobs.generate_options import Model, Options
from pipeline.jobs.generated_output import (
    ANOMALIES,
    IMAGES,
    RECORDS,
    VARIATIONS,
    Learned,
    made_images,
    made_rows,
    varied_record,
    varied_window,
)
from pipeline.jobs.newest_rows import Newest, newest_rows
from pipeline.jobs.one_record import OneRecord
from pipeline.jobs.sample import HELD_OUT, look, require_rows

REPORT, PAGE, PICTURE = "report.json", "report.html", "fidelity.png"
FORMAT = "offkey.generated"
WINDOW = 32
_MOST_LEARNED = 16_384
_TOLD_SERIES = 20


def generate(
    source: Input, options: Options, model: Model | None, folder: Path, what: str, progress: Progress
) -> dict[str, Any]:
    """Make rows into a folder; return the report.

    Args:
        what: the rows are called in an error.

    Raises:
        ConfigError: there is no such series or window.
        SnapshotError: there are too few rows to learn from.
        OSError: the folder cannot be written.
    """
    learn = _of_series if options.kind == "series" else _of_records
    learned = learn(source, options, model, what, progress)
    generator, spec = learned.generator, learned.generator.spec
    names = _asked(generator, options, what)
    report: dict[str, Any] = {
        "format": FORMAT,
        "command": "generate",
        "kind": spec.kind,
        "features": list(spec.features) if spec.image is None else [],
        **({} if spec.image is None else {"image": str(spec.image)}),
        "seed": options.seed,
        "model": "trained for it" if model is None else model.name,
        "read": {"rows": learned.rows, "unusable": learned.unusable, "late": learned.late},
        "learned_rows": sum(len(x_RF) for own in learned.shown.values() for x_RF in own),
        "width": generator.sampler.width,
    }
    if spec.kind == "series":
        report |= {"window": spec.window, "short_series": len(learned.newest) - len(generator.scale_of)}
    if learned.varied_F is not None:
        report |= varied_record(learned, options, folder)
    elif options.at_ms is not None:
        report |= varied_window(learned, names[0], options, folder, what)
    elif spec.kind == "images":
        report |= made_images(generator, options, folder, progress)
    else:
        report |= made_rows(learned, names, options, folder, progress)
    report["grids"] = _grids(generator, names)
    if options.report:
        progress("comparing", 0.0, None)
        report["fidelity"] = _compare(learned, options.seed, folder, report, what)
    if spec.kind != "series":
        report["redrawn"] = generator.redrawn
    (folder / REPORT).write_text(json.dumps(report, indent=1) + "\n")
    return report


def _grids(generator: Generator, names: Sequence[str]) -> dict[str, Any]:
    features = generator.spec.features
    if generator.spec.image is not None:
        return {}
    told = {
        name: {feature: grid.told for feature, grid in zip(features, generator.grids_of[name], strict=True)}
        for name in names[:_TOLD_SERIES]
    }
    return told if generator.spec.kind == "series" else told[names[0]]


def _of_records(source: Input, options: Options, model: Model | None, what: str, progress: Progress) -> Learned:
    one = None if options.like is None else OneRecord("--like", options.like, source.names)
    looked = look(source, options.seed, lambda rows: progress("reading", rows, None), one.look_at if one else None)
    require_rows(what, looked.rows, looked.unusable, source.features)
    varied_F = None if one is None else one.record(what)
    learned = {"": [looked.learning.cut(0, _MOST_LEARNED).values_NF]}
    held_out = {"": [looked.held_out.values_NF]}
    generator = _fitted(source, learned, options, model, what, progress)
    return Learned(generator, learned, held_out, rows=looked.rows, unusable=looked.unusable, varied_F=varied_F)


def _of_series(source: Input, options: Options, model: Model | None, what: str, progress: Progress) -> Learned:
    found = newest_rows(source, lambda rows: progress("reading", rows, None))
    require_rows(what, found.rows, found.unusable, source.features)
    _check_series(found, options.series, what)
    # Of a report that nobody asked for no rows need be kept back.
    share = HELD_OUT if options.report else 0.0
    cut = {name: len(own.values_NF) - int(share * len(own.values_NF)) for name, own in found.of.items()}
    learned = {name: own.stretches(0, cut[name]) for name, own in found.of.items()}
    held_out = {name: own.stretches(cut[name], len(own.values_NF)) for name, own in found.of.items()}
    generator = _fitted(source, learned, options, model, what, progress)
    return Learned(generator, learned, held_out, found.of, found.rows, found.unusable, found.late)


def _fitted(
    source: Input,
    learned: Mapping[str, Sequence[FloatArray]],
    options: Options,
    model: Model | None,
    what: str,
    progress: Progress,
) -> Generator:
    try:
        return fit_generator(
            options.kind,
            source.features,
            learned,
            options.window or WINDOW if options.kind == "series" else 1,
            detector=None if model is None else model.detector,
            name="" if model is None else model.name,
            image=options.image,
            seed=options.seed,
            progress=lambda share: progress("learning", share, 1.0),
        )
    except ValueError as error:
        raise SnapshotError(f"{what}: {error}") from error


def _check_series(found: Newest, asked: Sequence[str], what: str) -> None:
    for name in asked:
        if name not in found.of:
            raise ConfigError(f"--series {name}: {what} has no such series; it has {shortened(sorted(found.of))}")


def _asked(generator: Generator, options: Options, what: str) -> list[str]:
    """Return the series that are to be made."""
    for name in options.series:
        if name not in generator.scale_of:
            window = generator.spec.window
            raise SnapshotError(
                f"{what}: series {name!r} has no {window} rows that follow each other without a gap; "
                "give more rows, or a shorter --window"
            )
    return list(options.series) or list(generator.scale_of)


def _compare(learned: Learned, seed: int, folder: Path, report: Mapping[str, Any], what: str) -> dict[str, Any]:
    from pipeline.jobs.fidelity import compared_records, compared_series, measured
    from pipeline.jobs.fidelity_page import page
    from pipeline.jobs.fidelity_picture import draw

    generator, known, held_out = learned.generator, learned.shown, learned.held_out
    if generator.spec.kind != "series":
        compared = compared_records(generator, known[""][0], held_out[""][0], seed)
    else:
        compared = compared_series(generator, report["series"], known, held_out, seed)
    found = measured(compared, seed)
    if len(compared.real) and len(compared.made):
        draw(folder / PICTURE, compared, found, what)
    picture = (folder / PICTURE).read_bytes() if (folder / PICTURE).exists() else None
    (folder / PAGE).write_text(page({**report, "fidelity": found}, what, picture))
    return found


def ours(folder: Path) -> Callable[[str], bool]:
    """Return what tells whether an earlier run has written a file of this name."""
    fixed = {RECORDS, IMAGES, VARIATIONS, ANOMALIES, REPORT, PAGE, PICTURE}
    try:
        said = json.loads((folder / REPORT).read_bytes())
        files = said["files"] if said["format"] == FORMAT else []
    except (OSError, ValueError, KeyError, TypeError):
        files = []
    named = fixed | {Path(file).name for file in files}
    return named.__contains__

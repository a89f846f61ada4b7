"""The commands `offkey reduce` and `offkey features`."""

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli_options import AsJson, ConfigPath, To
from pipeline.cli_rows import (
    LOCAL,
    EngineName,
    From,
    Output,
    Paths,
    Rows,
    Stream,
    check_engine,
    engine_of,
    progress_bar,
    refuse_beside,
)
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from models.spec import ImageShape
    from pipeline.jobs.blocks import Input, Progress
    from pipeline.jobs.engine import Engine
    from pipeline.jobs.reduce import Options

Dimensions = Annotated[
    int | None,
    typer.Option(min=1, help="Numbers of a code.", show_default="half as many as features, 8 at most"),
]
Model = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help="A model that was made before, or the output that holds it.")
]
Keep = Annotated[
    list[str] | None,
    typer.Option(metavar="COLUMN", help="With --input: have this column go along; may be repeated."),
]
Seed = Annotated[int | None, typer.Option(min=0, help="Of the sample and the training.", show_default="0")]
PartRows = Annotated[int, typer.Option(min=1_000, help="Rows of each file that is written.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with what a stopped run has left.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Begin anew where an earlier run has written.")]

_PART_ROWS, _PART_VALUES = 262_144, 2**27
"""Rows of a part, or of images as many as hold so many values: a byte each."""


def reduce(
    config: ConfigPath,
    stream: Stream,
    output: Output,
    dimensions: Dimensions = None,
    begin: From = None,
    end: To = None,
    paths: Paths = None,
    model: Model = None,
    decode: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Turn the codes of this output back into rows.")
    ] = None,
    keep: Keep = None,
    color: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="What the picture's points are coloured by: `score`, how strange the model finds a row, `error`, "
            "or a column.",
            show_default="score",
        ),
    ] = None,
    picture: Annotated[
        bool | None,
        typer.Option(
            "--picture/--no-picture", help="Draw the picture; it needs matplotlib.", show_default="picture"
        ),
    ] = None,
    seed: Seed = None,
    part_rows: PartRows = _PART_ROWS,
    engine: EngineName = LOCAL,
    resume: Resume = False,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Write rows as codes of few numbers, by an autoencoder; say how much they tell, beside PCA of the same size.

    The rows are those of a stream's snapshots, or of Parquet files. --decode turns codes back into rows.
    """
    opened = _Opened(config, stream, output, engine, resume, overwrite)
    if decode is not None:
        asked = {"--dimensions": dimensions, "--from": begin, "--to": end, "--input": paths, "--keep": keep}
        asked |= {"--color": color, "--seed": seed, "--picture": picture or None}
        refuse_beside("--decode turns codes back as they are", asked)
        opened.decode(decode, model, part_rows, as_json)
        return
    drawn = picture is not False
    if color is not None and not drawn:
        raise ConfigError(f"--color {color}: nothing is drawn with --no-picture; leave one of them out")
    from pipeline.jobs.reduce import reduce_rows

    drawing = shown = None
    if drawn:
        # It says at once if matplotlib is missing.
        from pipeline.jobs.code_picture import SCORE, check_colour, is_made

        drawing = color or SCORE
        shown = None if is_made(drawing) else drawing
    source = opened.source(begin, end, paths, keep or (), model, shown)
    if shown:
        check_colour(source.names, source.features, shown)
    options = opened.options("reduce", source, dimensions, model, seed or 0, part_rows, picture=drawing)
    report = opened.run(
        source,
        as_json,
        lambda engine, progress: reduce_rows(source, replace(options, engine=engine), opened.what, progress),
    )
    opened.tell(report, drawn, as_json)


def features(
    config: ConfigPath,
    stream: Stream,
    output: Output,
    dimensions: Dimensions = None,
    window: Annotated[
        int | None,
        typer.Option(min=2, help="Rows of a window.", show_default="the stream's `window`, or 32"),
    ] = None,
    begin: From = None,
    end: To = None,
    paths: Paths = None,
    model: Model = None,
    keep: Keep = None,
    seed: Seed = None,
    part_rows: PartRows = _PART_ROWS,
    engine: EngineName = LOCAL,
    resume: Resume = False,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Write what a classifier or a clustering can learn from: codes, errors, statistics of windows of series."""
    opened = _Opened(config, stream, output, engine, resume, overwrite)
    of_series = opened.stream.kind == "series"
    if window is not None and not of_series:
        raise ConfigError("--window: it needs `kind: series`: records of features are told by themselves")
    rows = (window or opened.stream.window or 32) if of_series else None
    source = opened.source(begin, end, paths, keep or (), model)
    options = opened.options("features", source, dimensions, model, seed or 0, part_rows, window=rows)
    from pipeline.jobs.features import feature_rows

    report = opened.run(
        source,
        as_json,
        lambda engine, progress: feature_rows(source, replace(options, engine=engine), rows, opened.what, progress),
    )
    opened.tell(report, False, as_json)


class _Opened(Rows):
    """A stream, and where to write."""

    def __init__(self, config: Path, stream: str, output: Path, engine: str, resume: bool, overwrite: bool) -> None:
        if resume and overwrite:
            raise ConfigError("--resume goes on and --overwrite begins anew; give one of them")
        check_engine(engine)
        super().__init__(config, stream)
        self.output, self._engine, self._resume, self._overwrite = output, engine, resume, overwrite

        # Before anything is read.
        from pipeline.jobs.parts import begun, refuse

        self.begun = begun(output) if resume else None
        if not (resume or overwrite):
            refuse(output)

    def options(
        self,
        command: str,
        source: "Input",
        dimensions: int | None,
        model: Path | None,
        seed: int,
        part_rows: int,
        **further: Any,
    ) -> "Options":
        """Return what to write, and how.

        Args:
            further: what else a run that goes on has to ask for again; a `picture` is drawn.
        """
        from pipeline.jobs.coding import check_dimensions, hash_of, read_files
        from pipeline.jobs.reduce import Options
        from pipeline.lanes import choose_device

        if model is None and (command == "reduce" or len(source.features) > 1):
            check_dimensions(dimensions, source.features)
        part_rows = rows_of_part(part_rows, self.image)
        about = {
            "command": command,
            "stream": self.name,
            **self.asked,
            "features": list(source.features) if self.image is None else str(self.image),
            "columns": list(source.names),
            "dimensions": dimensions,
            "model": None if model is None else hash_of(read_files(model)),
            "seed": seed,
            "part_rows": part_rows,
            **further,
        }
        return Options(
            self.output,
            about,
            dimensions,
            model,
            seed,
            part_rows,
            picture=further.get("picture"),
            resume=self._resume,
            overwrite=self._overwrite,
            image=self.image,
            device=choose_device(self.settings.device),
        )

    def decode(self, codes: Path, model: Path | None, part_rows: int, as_json: bool) -> None:
        """Turn codes back into rows, and say what came of it."""
        from pipeline.jobs.coding import hash_of, image_of, read_files
        from pipeline.jobs.parquet_input import codes_input
        from pipeline.jobs.reduce import Options, decode_rows
        from pipeline.lanes import choose_device

        source = codes_input(codes)
        part_rows = rows_of_part(part_rows, image_of(model or codes))
        about = {
            "command": "decode",
            "codes": str(codes),
            "columns": [*source.features, *source.names],
            "model": hash_of(read_files(model or codes)),
            "part_rows": part_rows,
        }
        options = Options(
            self.output,
            about,
            model=model,
            part_rows=part_rows,
            resume=self._resume,
            overwrite=self._overwrite,
            device=choose_device(self.settings.device),
        )
        report = self.run(
            source,
            as_json,
            lambda engine, progress: decode_rows(source, replace(options, engine=engine), codes, progress),
        )
        self.tell(report, False, as_json)

    def run(
        self,
        source: "Input",
        hidden: bool,
        work: "Callable[[Engine | None, Progress], dict[str, Any]]",
    ) -> dict[str, Any]:
        """Do the work by the engine, under a progress bar; what stops it says how to go on."""
        from pipeline.interrupting import Stopped, interrupted_between_steps

        try:
            with (
                interrupted_between_steps() as step,
                progress_bar(step, hidden) as progress,
                engine_of(self._engine, self.settings.device) as engine,
            ):
                return work(engine, progress)
        except Stopped as stopped:
            print(f"offkey: {stopped}", file=sys.stderr)
            raise typer.Exit(130) from stopped
        finally:
            self.tell_gaps(source)

    def tell(self, report: Mapping[str, Any], picture: bool, as_json: bool) -> None:
        """Print what came of it."""
        if as_json:
            print(json.dumps(report))
            return
        from pipeline.jobs.reduce_report import lines

        for line in lines(report, self.name, self.output, picture):
            print(line)


def rows_of_part(asked: int, image: "ImageShape | None") -> int:
    """Return how many rows a part has; of images no more than memory holds well."""
    return asked if image is None else max(1, min(asked, _PART_VALUES // image.values))

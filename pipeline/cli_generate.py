"""The command `offkey generate`."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli_options import AsJson, ConfigPath, To, moment_ms
from pipeline.cli_rows import From, Output, Paths, Rows, Stream, progress_bar
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from models.injection import Fault
    from pipeline.jobs.generate_options import Model
    from pipeline.jobs.generated_images import Format

_FAULTS = ("spike", "level", "drift", "flat", "correlation", "period", "cover", "noise", "shade")


def generate(
    config: ConfigPath,
    stream: Stream,
    output: Output,
    rows: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Records, images, or rows of each series.",
            show_default="10000; of series 2000, images 1000",
        ),
    ] = None,
    series: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Make one like this series; may be repeated. Default: all."),
    ] = None,
    at: Annotated[
        str | None,
        typer.Option(
            metavar="T",
            help="Vary the window of the --series that ends then, as 2026-03-01T00:00:00Z, or so long ago.",
        ),
    ] = None,
    like: Annotated[
        str | None,
        typer.Option(
            metavar="RECORD",
            help="Vary this record of `kind: features` or `images`: PARTITION/OFFSET, or of files FILE/ROW.",
        ),
    ] = None,
    variations: Annotated[
        int | None, typer.Option(min=1, help="With --at or --like: so many.", show_default="10")
    ] = None,
    strength: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="With --at or --like: 0 is the original itself, 1 as far off as rows lie apart.",
            show_default="1",
        ),
    ] = None,
    window: Annotated[
        int | None,
        typer.Option(min=2, help="Rows of a window of series.", show_default="the stream's `window`, or 32"),
    ] = None,
    inject: Annotated[
        int,
        typer.Option(metavar="N", min=0, help="Put so many labelled anomalies into each series, or the records."),
    ] = 0,
    fault: Annotated[
        list[str] | None,
        typer.Option(metavar="FAULT", help=f"With --inject: {', '.join(_FAULTS)}; may be repeated. Default: each."),
    ] = None,
    size: Annotated[
        float | None, typer.Option(min=0, help="With --inject: in spreads of the features.", show_default="6")
    ] = None,
    points: Annotated[
        int | None, typer.Option(min=1, help="With --inject: rows of each.", show_default="a window; of records 1")
    ] = None,
    begin: From = None,
    end: To = None,
    paths: Paths = None,
    version: Annotated[
        str | None, typer.Option(metavar="V", help="Sample this version of the stream's models, or `champion`.")
    ] = None,
    model: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Sample the model in this folder.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of all that is drawn.")] = 0,
    report: Annotated[
        bool, typer.Option("--report/--no-report", help="Compare with rows held out; it needs scikit-learn.")
    ] = True,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what an earlier run has left.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make up records, images, or series, like those of a stream: in their units, on their grid, no copies.

    They are drawn by a variational autoencoder, which is trained on the stream's snapshots, or on Parquet files, or
    is one of the stream's own versions. The report says how true they are.
    """
    varied = at if at is not None else like
    _refuse_alone("--at or --like", varied, {"--variations": variations, "--strength": strength})
    _refuse_alone("--inject", inject or None, {"--fault": fault, "--size": size, "--points": points})
    if version is not None and model is not None:
        raise ConfigError("--version and --model each name a model; leave one of them out")
    if varied is not None and rows is not None:
        raise ConfigError(
            "--rows: variations are as long as what is varied, and --variations says how many; leave it out"
        )

    import torch

    from pipeline.cli_who_when import now_ms
    from pipeline.interrupting import interrupted_between_steps
    from pipeline.jobs.fidelity_page import lines
    from pipeline.jobs.generate import generate as make
    from pipeline.jobs.generate import ours
    from pipeline.jobs.generate_options import Options, check_model, check_options
    from pipeline.jobs.generated_images import as_records
    from pipeline.jobs.new_folder import check_folder, unfinished

    # A chunk of windows is too small for a second thread.
    torch.set_num_threads(1)
    opened = Rows(config, stream)
    check_folder(output, overwrite, ours(output), "run of `offkey generate`")
    if report:
        # They say at once what is missing.
        import pipeline.jobs.figure
        import pipeline.jobs.two_sample  # noqa: F401
    source = opened.source(begin, end, paths, model=model)
    options = Options(
        opened.stream.kind,
        rows=rows,
        series=tuple(series or ()),
        at_ms=moment_ms("--at", at, now_ms),
        like=like,
        variations=variations or 10,
        strength=1.0 if strength is None else strength,
        window=window or opened.stream.window,
        anomalies=inject,
        faults=tuple(_fault(name) for name in fault or ()),
        size=6.0 if size is None else size,
        points=points,
        seed=seed,
        report=report,
        image=opened.image,
        format=_format(opened),
    )
    check_options(options, source.features)
    if opened.image is not None:
        # Here, where it says at once what is missing.
        as_records(options.format, opened.image)
    sampled = _model(opened, version, model)
    if sampled is not None:
        if window is not None:
            raise ConfigError(f"--window: {sampled.name} has windows of its own; leave it out")
        check_model(sampled, options, source.features)
    try:
        with interrupted_between_steps() as step, unfinished(output) as folder:
            with progress_bar(step, hidden=as_json) as progress:
                told = make(source, options, sampled, folder, opened.what, progress)
            step()
    except KeyboardInterrupt as error:
        print("offkey: stopped; nothing was written, the same command begins anew", file=sys.stderr)
        raise typer.Exit(130) from error
    finally:
        opened.tell_gaps(source)
    if as_json:
        print(json.dumps(told))
        return
    for line in lines(told, stream, output):
        print(line)
    if report:
        print(f"{stream}: report in {output / 'report.html'}")


def _format(opened: Rows) -> "Format":
    """Return what an image is written as: as the stream's records are."""
    kind = opened.stream.format
    return "png" if kind == "json" else kind


def _model(opened: Rows, version: str | None, folder: Path | None) -> "Model | None":
    from pipeline.jobs.generate_options import Model

    if folder is not None:
        from models.files import from_files
        from models.manifest import ModelFileError
        from pipeline.jobs.coding import read_files

        try:
            return Model(from_files(read_files(folder), str(folder)), str(folder))
        except ModelFileError as error:
            raise ConfigError(str(error)) from error
    if version is None:
        return None
    from pipeline.connectors.registry import StoredRegistry
    from pipeline.connectors.storage import ObjectStorage
    from pipeline.lanes import read_version
    from pipeline.versions.naming import meant

    registry, stream = StoredRegistry(ObjectStorage(opened.settings.storage)), opened.name
    name = meant(stream, version, registry, registry.log(stream))
    return Model(read_version(registry.load(stream, name), opened.stream), f"version {name}")


def _fault(name: str) -> "Fault":
    from typing import get_args

    from models.injection import Fault

    if name not in (known := get_args(Fault)):
        raise ConfigError(f"--fault {name}: there are {', '.join(known)}")
    return name  # type: ignore[return-value]


def _refuse_alone(option: str, given: object, others: dict[str, object]) -> None:
    """Refuse what says something about an option that is not there."""
    for name, own in others.items():
        if own is not None and given is None:
            raise ConfigError(f"{name}: it says something of {option}; give that too, or leave it out")

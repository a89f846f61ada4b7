"""The command `offkey plan`."""

import json
import sys
from typing import Annotated

import typer

from pipeline.cli_options import AsJson, ConfigPath


def plan(
    config: ConfigPath,
    series: Annotated[int, typer.Option(help="Series of each stream; for features its sources.")],
    interval: Annotated[float, typer.Option(help="Seconds between two points of a series.")],
    streams: Annotated[list[str] | None, typer.Option("--stream", help="Only this one; may be repeated.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say what a worker will take: alerts, memory, checkpoints, processor. Needs no broker and writes nothing."""
    from pipeline.config import load_settings

    settings = load_settings(config)
    chosen = settings.chosen(streams)

    from pipeline.jobs.sizing import Asked, size
    from pipeline.jobs.sizing_report import as_document, report

    sized = size(settings, Asked(series, interval, chosen), lambda text: print(text, file=sys.stderr))
    if as_json:
        print(json.dumps(as_document(sized)))
    else:
        print(report(sized))

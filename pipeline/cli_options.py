"""Arguments and options that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.errors import ConfigError

ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG", help="The configuration file.")]
Streams = Annotated[list[str] | None, typer.Argument(metavar="[STREAM]...", help="Default: all.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print for programs.")]


def duration_s(option: str, text: str | None) -> float | None:
    """Return the seconds that an option says; None where it is not there.

    Raises:
        ConfigError: it is no duration.
    """
    from pipeline.budgets import parse_duration

    try:
        return None if text is None else parse_duration(text)
    except ValueError as error:
        raise ConfigError(f"{option}: {error}") from error

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


def moment_ms(option: str, text: str) -> int:
    """Return the moment that an option says, in ms since 1970; without a zone it is UTC.

    Raises:
        ConfigError: it is no moment.
    """
    from datetime import UTC, datetime

    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(f"{option} {text}: write a moment as 2026-11-29 or 2026-11-29T08:00:00Z") from error
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)

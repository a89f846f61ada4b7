"""Arguments and options that several commands have."""

from collections.abc import Callable
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


def moment_ms(option: str, text: str | None, now_ms: Callable[[], int]) -> int | None:
    """Return the moment that an option says, in ms since the epoch; None where it is not there.

    Raises:
        ConfigError: it is neither a moment with its zone nor how long ago.
    """
    from pipeline.budgets import parse_duration
    from pipeline.setting_types import parse_moment

    if text is None:
        return None
    try:
        return int(parse_moment(text).timestamp() * 1000)
    except ValueError as error:
        try:
            # A number without a unit might be meant as a date.
            return now_ms() - int(parse_duration(text if text[-1:].isalpha() else "none") * 1000)
        except ValueError:
            raise ConfigError(f"{option}: {error}, or how long ago, as 30d") from error

"""Arguments and options that several commands have."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from pipeline.errors import ConfigError

ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG", help="The configuration file.")]
To = Annotated[str | None, typer.Option("--to", metavar="T", help="Rows that came in before it. Default: all.")]
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


def range_ms(begin: str | None, end: str | None, now_ms: Callable[[], int]) -> tuple[int | None, int | None]:
    """Return what --from and --to say, in ms since the epoch; None where one is not there.

    Raises:
        ConfigError: one is neither a moment with its zone nor how long ago, or the range is empty.
    """
    from_ms, to_ms = moment_ms("--from", begin, now_ms), moment_ms("--to", end, now_ms)
    if from_ms is not None and from_ms >= (now_ms() if to_ms is None else to_ms):
        raise ConfigError(f"--from {begin}: that is not before --to; swap the two, or leave one out")
    return from_ms, to_ms


def moment_ms(option: str, text: str | None, now_ms: Callable[[], int], *, ahead: bool = False) -> int | None:
    """Return the moment that an option says, in ms since the epoch; None where it is not there.

    `ahead`: what is no moment is how long from now, and not how long ago.

    Raises:
        ConfigError: it is neither.
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
            off_ms = int(parse_duration(text if text[-1:].isalpha() else "none") * 1000)
        except ValueError:
            how = "from now, as in 36h" if ahead else "ago, as 30d"
            raise ConfigError(f"{option}: {error}, or how long {how}") from error
    return now_ms() + (off_ms if ahead else -off_ms)

"""Names of versions: when each was trained, and which one is meant."""

from collections.abc import Collection
from datetime import UTC, datetime

from pipeline.errors import ConfigError
from pipeline.mistakes import unknown
from pipeline.protocols import Registry
from pipeline.versions.log import PromotionLog

CHAMPION = "champion"
_MOST_TOLD = 5


def name_of(at: datetime, fingerprint: str) -> str:
    """Return the name of a version that was trained then; names sort by that time."""
    return f"{at.astimezone(UTC):%Y%m%dT%H%M%S}-{fingerprint}"


def trained_ms(version: str) -> int | None:
    """Return when a version was trained by its name, in ms since the epoch; None where it does not tell."""
    try:
        at = datetime.strptime(version.partition("-")[0], "%Y%m%dT%H%M%S").replace(tzinfo=UTC)
    except ValueError:
        return None
    return int(at.timestamp() * 1000)


def meant(stream: str, wanted: str, registry: Registry, log: PromotionLog) -> str:
    """Return the version of those that were not removed that is meant; raises as `resolve` does."""
    known = [version for version in registry.versions(stream) if version not in log.removed]
    return resolve(stream, wanted, known, log.champion.version if log.champion else None)


def resolve(stream: str, wanted: str, versions: Collection[str], champion: str | None) -> str:
    """Return the version that is meant by its name, by the beginning of it that no other has, or by `champion`.

    Raises:
        ConfigError: none is, or several are.
    """
    if wanted == CHAMPION:
        if champion is None:
            raise ConfigError(f"stream {stream} has no champion; see `offkey models list`")
        return champion
    if wanted in versions:
        return wanted
    begun = sorted(version for version in versions if wanted and version.startswith(wanted))
    if len(begun) > 1:
        more = f" and {len(begun) - _MOST_TOLD} more" if len(begun) > _MOST_TOLD else ""
        raise ConfigError(
            f"stream {stream}: {wanted!r} may be {', '.join(begun[:_MOST_TOLD])}{more}; write more of the name"
        )
    if begun:
        return begun[0]
    if not versions:
        raise ConfigError(f"stream {stream} has no versions; train one with: offkey train CONFIG {stream}")
    raise ConfigError(f"stream {stream}: {unknown('version', wanted, versions)}")

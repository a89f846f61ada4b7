"""Which versions may go.

Never the champion, the one a rollback goes to, the one in shadow, or one that a newest checkpoint names; where one
of these is not known, none goes. The age of a version is that in its name, by the clock of who trained it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.errors import RegistryError
from pipeline.protocols import Registry
from pipeline.versions.log import PromotionLog
from pipeline.versions.naming import trained_ms
from pipeline.versions.promoting import PRUNE, append, knows_what_served_before, served_before
from pipeline.versions.usage import Serving

_YOUNG_MS = 24 * 3600 * 1000
"""Whoever stores a version and promotes it has done so by then, or was killed; far more than clocks differ by."""


@dataclass(frozen=True, slots=True)
class Pruning:
    """What a prune does."""

    removed: tuple[str, ...]
    """Versions that the log has to take out of service first."""
    leftovers: tuple[str, ...]
    """What an interrupted prune or training has left: nobody can serve it."""
    kept: Sequence[tuple[str, str]]
    """(version, why it stays)"""


def plan(
    stream: str,
    versions: Sequence[str],
    unfinished: Sequence[str],
    log: PromotionLog,
    serving: Sequence[Serving],
    *,
    shadow: str = "",
    keep: int,
    older_than_ms: int | None,
    now_ms: int,
) -> Pruning:
    """Return what goes but for the newest `keep` versions; with `older_than_ms` only what is older than that.

    Raises:
        RegistryError: it is not known what has to stay.
    """
    champion, before = log.champion, served_before(log.tail)
    if champion is None and (versions or log.faults):
        why = log.faults[-1] if log.faults else f"promote one: offkey models promote CONFIG {stream} VERSION"
        raise RegistryError(f"stream {stream} has no champion, and so nothing is removed; {why}")
    if not knows_what_served_before(log):
        raise RegistryError(
            f"stream {stream}: what served before {champion and champion.version} is not known, and so nothing is "
            f"removed; {log.faults[-1]}"
        )
    unread = [each.partition for each in serving if each.model_version is None]
    if unread:
        raise RegistryError(
            f"stream {stream}: the newest checkpoint of {unread[0]} does not tell which version "
            "serves, and so nothing is removed; let a worker write another one, or remove it"
        )
    in_service = [version for version in versions if version not in log.removed]
    newest = set(in_service[len(in_service) - keep :]) if keep else set()
    used = {each.model_version: str(each.partition) for each in serving}
    promoted = {entry.version for entry in log.entries}
    kept, removed = [], []
    for version in in_service:
        made_ms = trained_ms(version)
        if champion and version == champion.version:
            kept.append((version, "champion"))
        elif version == before:
            kept.append((version, "served before; a rollback goes to it"))
        elif version == shadow:
            kept.append((version, "in shadow"))
        elif version in used:
            kept.append((version, f"in use: the newest checkpoint of {used[version]} names it"))
        elif version not in promoted and _is_young(version, now_ms):
            kept.append((version, "trained within a day, and not promoted yet"))
        elif version in newest:
            kept.append((version, f"one of the newest {keep}"))
        elif older_than_ms is not None and made_ms is None:
            kept.append((version, "its name does not tell how old it is"))
        elif older_than_ms is not None and made_ms is not None and now_ms - made_ms <= older_than_ms:
            kept.append((version, "not old enough"))
        else:
            removed.append(version)
    dead = [version for version in unfinished if _is_left(version, log, now_ms)]
    leftovers = sorted({*dead, *(version for version in versions if version in log.removed)})
    return Pruning(tuple(removed), tuple(leftovers), kept)


def carry_out(
    registry: Registry, stream: str, log: PromotionLog, planned: Pruning, at_ms: int, by: str = ""
) -> None:
    """Take versions out of service by the entry that follows `log`, then delete them.

    Where it is interrupted, the next prune goes on: they are leftovers then.

    Raises:
        PromotionLost: the log has gone on since it was read; nothing was removed.
        TransientError: storage does not answer.
    """
    champion = log.champion
    if planned.removed:
        assert champion is not None, "without a champion nothing is planned"
        append(registry, stream, log, champion.version, PRUNE, at_ms, by=by, removed=planned.removed)
    for version in (*planned.leftovers, *planned.removed):
        registry.remove(stream, version)


def _is_left(version: str, log: PromotionLog, now_ms: int) -> bool:
    return version in log.removed or (trained_ms(version) is not None and not _is_young(version, now_ms))


def _is_young(version: str, now_ms: int) -> bool:
    made_ms = trained_ms(version)
    return made_ms is not None and now_ms - made_ms <= _YOUNG_MS

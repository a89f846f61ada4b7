"""Who serves next: entries of the log, each decided on the log as it was read."""

from collections.abc import Callable, Iterable

from pipeline.errors import RegistryError
from pipeline.protocols import ModelVersion, Registry
from pipeline.versions.log import Promotion, PromotionLog
from pipeline.versions.origin import ORIGIN, OriginError, from_file

TRAIN, RETRAIN = "offkey train", "offkey retrain"
PROMOTE, ROLLBACK, PRUNE = "offkey models promote", "offkey models rollback", "offkey models prune"


def append(
    registry: Registry,
    stream: str,
    log: PromotionLog,
    version: str,
    reason: str,
    at_ms: int,
    *,
    note: str = "",
    by: str = "",
    removed: tuple[str, ...] = (),
) -> Promotion:
    """Write the entry that follows `log`, which was read before anything was decided; return it.

    That the version is there and whole is for the caller to see, after the log was read: so nobody can have taken
    it out of service without taking the number.

    Raises:
        PromotionLost: the log has gone on since.
        RegistryError: the version was taken out of service.
    """
    _require_in_service(stream, version, log)
    entry = Promotion(log.last_number + 1, version, at_ms, reason, note, by, removed)
    registry.promote(stream, entry)
    return entry


def promote(
    registry: Registry,
    stream: str,
    log: PromotionLog,
    version: str,
    reason: str,
    at_ms: int,
    verify: Callable[[ModelVersion], object],
    *,
    note: str = "",
    by: str = "",
) -> Promotion:
    """Have a version serve from the next entry on, once it is there, whole, and found good by `verify`.

    Raises:
        PromotionLost: the log has gone on since it was read.
        RegistryError: the version is missing, not complete, damaged, or out of service; nothing was written.
        Whatever `verify` raises.
    """
    _require_in_service(stream, version, log)
    model = registry.load(stream, version)
    if content := model.files.get(ORIGIN):
        try:
            from_file(content)
        except OriginError as error:
            raise RegistryError(
                f"model {stream} {version}: {error}; promote another version, or remove that file"
            ) from error
    verify(model)
    return append(registry, stream, log, version, reason, at_ms, note=note, by=by)


def served_before(entries: Iterable[Promotion]) -> str | None:
    """Return the version that a rollback goes to; None: no other has served, as far as these entries tell.

    A rollback takes back what it left behind, so the next one goes further back, and not to what was bad before.
    """
    served: list[str] = []
    for entry in entries:
        if entry.reason == ROLLBACK and entry.version in served:
            del served[served.index(entry.version) + 1 :]
        elif not served or served[-1] != entry.version:
            served.append(entry.version)
    return served[-2] if len(served) > 1 else None


def _require_in_service(stream: str, version: str, log: PromotionLog) -> None:
    if version in log.removed:
        raise RegistryError(f"model {stream} {version}: removed by `offkey models prune`; promote another version")


def knows_what_served_before(log: PromotionLog) -> bool:
    """Whether the end of the log that can be read tells what a rollback goes to, or that there is nothing."""
    return len(log.tail) == log.last_number or served_before(log.tail) is not None

"""Registries with versions in them, for tests: small models, their names a day apart."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from models.manifest import ModelFileError, whole
from pipeline.connectors.memory import MemoryRegistry
from pipeline.connectors.registry import StoredRegistry
from pipeline.errors import RegistryError
from pipeline.protocols import ModelVersion
from pipeline.train import publish
from pipeline.versions.log import Promotion, PromotionLog
from pipeline.versions.origin import Origin
from pipeline.versions.promoting import ROLLBACK
from tests.streams import series_detector

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
DAY_MS = 24 * 3600 * 1000


def train(
    registry: StoredRegistry, day: float, origin: Origin | None = None, log: PromotionLog | None = None
) -> str:
    """Store and promote a version; the models of days 0 to 1, 2 to 3 and so on are linear."""
    detector = series_detector("linear" if day % 2 < 1 else "vanilla")
    return publish("machines", detector, registry, BEGIN + timedelta(days=day), origin, log=log)


def trained(days: int) -> tuple[MemoryRegistry, list[str]]:
    """Return a registry whose versions were trained on so many days, and their names."""
    registry = MemoryRegistry()
    return registry, [train(registry, day) for day in range(days)]


def verify(model: ModelVersion) -> None:
    """Look at every byte, as `pipeline.lanes.read_version` does, which also builds the model."""
    try:
        whole(model.files)
    except ModelFileError as error:
        raise RegistryError(str(error)) from error


def log_of(*versions: str, first: int = 1) -> PromotionLog:
    """Return a log of these promotions; `<v` is a rollback to v, `v-w` a prune of w while v serves."""
    entries = [_entry(number, told) for number, told in enumerate(versions, first)]
    return PromotionLog(entries, first - 1 + len(entries), ["a hole"] if first > 1 else [])


def _entry(number: int, told: str) -> Promotion:
    version, _, removed = told.removeprefix("<").partition("-")
    reason = ROLLBACK if told.startswith("<") else "test"
    return Promotion(number, version, number, reason, removed=(removed,) if removed else ())


def names(registry: StoredRegistry) -> Sequence[str]:
    return registry.versions("machines")


def day_ms(day: float) -> int:
    return int(BEGIN.timestamp() * 1000 + day * DAY_MS)

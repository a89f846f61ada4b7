"""What is known of a version, from its small files and from the log."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from models.manifest import MANIFEST, ModelFileError, features_of, read_manifest
from pipeline.protocols import Registry
from pipeline.versions.log import Promotion, PromotionLog
from pipeline.versions.naming import trained_ms
from pipeline.versions.origin import ORIGIN, Origin, OriginError, from_file
from pipeline.versions.promoting import served_before
from pipeline.versions.usage import Serving


@dataclass(frozen=True, slots=True)
class Learned:
    """What the manifest says."""

    kind: str
    architecture: str
    views: int
    window: int
    features: Sequence[str]
    series: int
    rows: int | None
    """None: a model of an early version does not say."""
    first_ms: int | None
    last_ms: int | None
    """Event times of the first and the last row."""
    libraries: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Facts:
    """One version."""

    version: str
    learned: Learned | None
    """None: the manifest is damaged."""
    origin: Origin | None
    """None: it is not known, or damaged."""
    faults: Sequence[str]
    """What is damaged, a line each."""
    promotions: Sequence[Promotion]
    """Those that made it serve."""
    size_bytes: int
    is_champion: bool
    is_before: bool
    """Whether a rollback goes to it."""
    is_removed: bool
    """Whether it is being removed."""
    is_shadow: bool
    """Whether it scores in shadow."""
    serving: Sequence[Serving]
    """The partitions that it serves."""

    @property
    def trained_ms(self) -> int | None:
        return self.origin.trained_ms if self.origin else trained_ms(self.version)


def facts_of(
    registry: Registry,
    stream: str,
    version: str,
    log: PromotionLog,
    serving: Iterable[Serving],
    shadow: str = "",
) -> Facts:
    """Read the manifest and the origin of a version; its tensors are not looked at.

    `shadow` is the version in shadow, if any.
    """
    faults = []
    learned, origin = None, None
    name = f"model {stream} {version}"
    try:
        learned = _learned(read_manifest(registry.file(stream, version, MANIFEST) or b"", name))
    except ModelFileError as error:
        faults.append(str(error))
    except (KeyError, TypeError, ValueError) as error:
        faults.append(f"{name}: {MANIFEST} is whole, and says what is not known here ({error!r})")
    if content := registry.file(stream, version, ORIGIN):
        try:
            origin = from_file(content)
        except OriginError as error:
            faults.append(f"{name}: {error}; remove that file, without which the model serves as well")
    champion = log.champion
    return Facts(
        version,
        learned,
        origin,
        faults,
        [entry for entry in log.entries if entry.version == version and not entry.removed],
        registry.size_bytes(stream, version),
        champion is not None and champion.version == version,
        served_before(log.tail) == version,
        version in log.removed,
        version == shadow,
        [each for each in serving if each.model_version == version],
    )


def _learned(manifest: Mapping[str, Any]) -> Learned:
    training, views = manifest.get("training", {}), manifest["views"]
    return Learned(
        manifest["kind"],
        " + ".join(dict.fromkeys(view["architecture"] for view in views)),
        len(views),
        manifest["window"],
        list(features_of(manifest)),
        len(manifest["series"]),
        training.get("rows"),
        training.get("first_ms"),
        training.get("last_ms"),
        manifest.get("libraries", {}),
    )

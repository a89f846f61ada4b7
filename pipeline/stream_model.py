"""What a version of its model brings to a stream's stages, and the slot that says which one serves.

The slot's `champion` is one reference: whoever has loaded and tried the next version replaces it, on any thread,
and the worker looks at it between two batches. So is `shadow`, the version that scores beside it
(`pipeline.shadowing`). Models that records are still judged by, or judged by again after a restart, live as long as
somebody holds them.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from weakref import WeakValueDictionary

from models.detector import Detector
from models.spec import shortened
from pipeline.errors import RegistryError
from pipeline.stages.scoring import Scorer
from pipeline.stages.thresholds import OfBudget


@dataclass(frozen=True, eq=False)
class StreamModel:
    """What a version of its model brings to a stream's stages, on the device that scores."""

    version: str
    detector: Detector
    scorer: Scorer
    thresholds: OfBudget

    @cached_property
    def mark(self) -> int:
        """A number by which a series tells from which version it has its scaling, in checkpoints too; never 0."""
        return 1 + int.from_bytes(hashlib.blake2b(self.version.encode(), digest_size=4).digest()) % (2**32 - 1)

    def unlike(self, other: "StreamModel") -> str:
        """Return why the state of series that another model has judged cannot go on with this one; "": it can."""
        mine, theirs = self.detector.spec, other.detector.spec
        if mine != theirs:
            return f"it reads windows of {mine.window} of {shortened(mine.features)}"
        if not self.scorer.keeps_as(other.scorer):
            return "its views look at other windows, or forget their errors at another pace"
        return ""


class ModelSlot:
    """The models of one stream."""

    def __init__(self, champion: StreamModel, load: Callable[[str], StreamModel] | None = None) -> None:
        """`load` gets a version that is whole and scores here; None: there is no other version."""
        self.champion = champion
        self.shadow: StreamModel | None = None
        self._load = load
        self._held = WeakValueDictionary({champion.version: champion})

    def of(self, version: str) -> StreamModel:
        """Return a version, for the state that the champion's stages hold.

        Raises:
            RegistryError: it is missing or damaged, scores otherwise here, or cannot take over that state.
            ConfigError: it was made for something else than the configuration says now.
            TransientError: storage does not answer.
        """
        model = self.beside(version)
        if why := model.unlike(self.champion):
            raise RegistryError(
                f"model {version} cannot take over the state of {self.champion.version}: {why}; it serves after a "
                "restart of the workers, and series warm up again"
            )
        return model

    def beside(self, version: str) -> StreamModel:
        """Return a version that need not take over any state; raises as `of` does but for that."""
        held = self._held.get(version)
        if held is not None:
            return held
        if self._load is None:
            raise RegistryError(f"model {version}: there is no registry to take it from")
        model = self._held[version] = self._load(version)
        return model

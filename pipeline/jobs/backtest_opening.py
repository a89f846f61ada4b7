"""What a backtest needs, from addresses to a replay that is ready: also where another process opens it."""

from dataclasses import dataclass
from functools import partial

import torch

from pipeline.config import StreamSettings
from pipeline.connectors.adoptions import StoredAdoptions
from pipeline.connectors.checkpoints import StoredCheckpoints
from pipeline.connectors.registry import StoredRegistry
from pipeline.connectors.snapshots import StoredSnapshots
from pipeline.connectors.storage import ObjectStorage
from pipeline.jobs.backtest import Replay
from pipeline.lanes import lane_around, load_model
from pipeline.replayed import ReplayDecoder


@dataclass(frozen=True)
class Opening:
    """One stream, what judges it, and where both lie."""

    stream: str
    settings: StreamSettings
    storage: str
    """URL of what holds snapshots, checkpoints and logs."""
    models: str
    """URL of what holds the versions."""
    first: str
    """The version that is loaded at once."""
    version: str | None
    """Judges all; None: those that the logs name."""

    def replay(self, device: torch.device) -> Replay:
        """Open it; raises as `load_model` and `Replay` do."""
        storage, registry = ObjectStorage(self.storage), StoredRegistry(ObjectStorage(self.models))
        snapshots = StoredSnapshots(storage)
        load = partial(load_model, self.stream, self.settings, registry, device)
        lane = lane_around(
            self.stream,
            self.settings,
            load(self.first),
            max(len(snapshots.partitions(self.stream)), 1),
            load,
            ReplayDecoder(stateless=self.settings.kind != "series"),
        )
        return Replay(lane, snapshots, StoredCheckpoints(storage), StoredAdoptions(storage), self.version)

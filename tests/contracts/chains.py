"""Chains of checkpoints, as runs of a worker write and owners read them."""

import numpy as np

from pipeline.errors import CheckpointError
from pipeline.part_memory import Arrays, PartMemory
from pipeline.protocols import Chain, Checkpoint, Checkpoints, Part, TopicPartition

PLACE = TopicPartition("metrics", 3)
FOLDER = "checkpoints/machines/metrics/3"


class Run:
    """One run of a worker: its parts of a partition, each an array of the offset that it stands at."""

    def __init__(self, checkpoints: Checkpoints, topic_id: str = "t1", place: TopicPartition = PLACE) -> None:
        self.checkpoints, self.topic_id, self.place = checkpoints, topic_id, place
        self.chain = Chain()

    def write(self, *offsets: int, closes: bool = True) -> None:
        for offset in offsets:
            self.write_arrays(offset, {"rows": np.full((2, 3), offset, np.float32)}, closes=closes)

    def write_arrays(self, offset: int, arrays: Arrays, *, closes: bool = True) -> None:
        checkpoint = Checkpoint("machines", self.place, self.topic_id, offset, "v1", "series window=8")
        self.checkpoints.write(Part(checkpoint, self.chain, PartMemory.of(arrays), closes))

    def renew(self) -> None:
        """Begin a new chain, as when the old one has grown long."""
        self.chain = Chain(self.chain.run)


def found(checkpoints: Checkpoints, at_or_below: int = 10**12) -> list[int] | None:
    """Return where the parts of the newest checkpoint stand; damage that is met on the way is passed."""
    while (newest := checkpoints.newest("machines", PLACE, at_or_below)) is not None:
        try:
            offsets = [int(arrays["rows"][0, 0]) for arrays in newest.parts()]
        except CheckpointError:
            continue
        assert offsets[-1] == newest.next_offset
        return offsets
    return None

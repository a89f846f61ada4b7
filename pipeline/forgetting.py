"""Logs of adoptions forget their oldest entries, of no need to who goes on from a partition's newest checkpoint.

One log at a time, on a thread of its own beside the records: a store may take long for each entry. What is cut off
goes on with the next look.
"""

import logging
from functools import partial

from pipeline.adoptions import Adoptions
from pipeline.errors import ConfigError, TransientError
from pipeline.flight import Flight
from pipeline.logs import about
from pipeline.protocols import TopicPartition

logger = logging.getLogger(__name__)

_EVERY = 16
"""A log is looked at when so many entries have come to it, and once by each worker."""


class Forgetting:
    """Prunes the logs of one worker's partitions; called from the records' thread."""

    def __init__(self, adoptions: Adoptions) -> None:
        self._adoptions = adoptions
        self._looked: dict[tuple[TopicPartition, str], int] = {}
        """Number of the newest entry at the last look, by partition and id of its topic."""
        self._flight: Flight[None] | None = None

    def look(self, stream: str, partition: TopicPartition, topic_id: str, last: int, checkpointed: int) -> None:
        """Prune a log in the background, if it is time to and no other one is under way.

        Args:
            last: number of its newest entry.
            checkpointed: the offset of the partition's newest checkpoint; -1: there is none.
        """
        log = partition, topic_id
        if last - self._looked.get(log, 0) < _EVERY or checkpointed < 0 or not self._is_free():
            return
        self._looked[log] = last
        self._flight = Flight(partial(self._prune, stream, partition, topic_id, checkpointed), "pruning")

    def _is_free(self) -> bool:
        if self._flight is not None:
            if not self._flight.landed(0):
                return False
            self._flight.result()
            self._flight = None
        return True

    def _prune(self, stream: str, partition: TopicPartition, topic_id: str, checkpointed: int) -> None:
        try:
            self._adoptions.prune(stream, partition, topic_id, checkpointed)
        except (TransientError, ConfigError) as error:
            said = about(partition, stream=stream)
            logger.warning("%s: old entries of its log of adoptions are left: %s", partition, error, extra=said)

"""Which score alarms: a threshold for each series, raised where all of them together would exceed a budget.

A series' threshold follows from its own budget of false incidents, and the more series a stream has, the more false
incidents it has. A stream's budget caps that sum. Each partition has an equal share of it; where the budgets of its
live series add up to more, each of them is halved until they do not. So between a half and the whole of the share
is used, and thresholds seldom move.

How many series are live is counted at each record in offset order, so a replay raises the same thresholds at the
same records. An incident keeps the threshold that it opened with.

Legend: K judged points, S slots.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from models.arrays import FloatArray, IntArray
from pipeline.protocols import TopicPartition
from pipeline.stages.series import SeriesTable
from pipeline.stages.silence import Passed

OfBudget = Callable[[Sequence[str], FloatArray, int], FloatArray]
"""(names, ms between their points, how often their budget is halved) -> thresholds."""


class Thresholds:
    """The alert thresholds of a stream's series, by slot."""

    def __init__(self, table: SeriesTable, of_budget: OfBudget, series_in_budget: float | None) -> None:
        """`series_in_budget`: so many live series use up a partition's share of the stream's budget; None: any."""
        self._table = table
        self.of_budget = of_budget
        self._series_in_budget = math.inf if series_in_budget is None else series_in_budget
        self._threshold_S: dict[int, FloatArray] = {}
        """By how often budgets are halved; infinite where it has not been asked for."""

    def forget(self, slots: IntArray) -> None:
        """Forget those of slots that lost their series."""
        for threshold_S in self._threshold_S.values():
            threshold_S[slots[slots < len(threshold_S)]] = np.inf

    def halvings(self, slot_K: IntArray, offset_K: IntArray, passed: Mapping[TopicPartition, Passed]) -> IntArray:
        """Return how often the budget of each judged point is halved; `passed` is how time went on in its poll."""
        halvings_K = np.zeros(len(slot_K), np.int64)
        if math.isinf(self._series_in_budget):
            return halvings_K
        for partition, own in passed.items():
            of_partition_K = self._table.are_of(partition, slot_K)
            live_K = own.live_at(offset_K[of_partition_K])
            halvings_K[of_partition_K] = halvings_of(live_K, self._series_in_budget)
        return halvings_K

    def of(self, slot_K: IntArray, halvings_K: IntArray) -> FloatArray:
        """Return the threshold of each judged point."""
        if math.isinf(self._series_in_budget):
            return self._halved(0, slot_K)
        threshold_K = np.zeros(len(slot_K))
        asked = np.unique(halvings_K).tolist()
        for halvings in asked:
            chosen_K = halvings_K == halvings
            threshold_K[chosen_K] = self._halved(halvings, slot_K[chosen_K])
        self._threshold_S = {halvings: self._threshold_S[halvings] for halvings in asked}
        return threshold_K

    def allowed(
        self, slot_K: IntArray, halvings_K: IntArray, points_per_incident: Callable[[FloatArray], FloatArray]
    ) -> float:
        """Return the false incidents that are allowed for so many judged points.

        `points_per_incident`: ms between points -> how many of them stand for one incident.
        """
        points_K = points_per_incident(self._table.columns["interval_ms"][slot_K])
        return float(np.ldexp(1 / points_K, -halvings_K).sum())

    def _halved(self, halvings: int, slot_K: IntArray) -> FloatArray:
        kept_S = self._threshold_S.get(halvings, np.zeros(0))
        more = self._table.capacity - len(kept_S)
        if more:
            kept_S = np.append(kept_S, np.full(more, np.inf))
            self._threshold_S[halvings] = kept_S
        new = np.unique(slot_K[np.isinf(kept_S[slot_K])])
        if len(new):
            names = list(map(self._table.names.__getitem__, new.tolist()))
            kept_S[new] = self.of_budget(names, self._table.columns["interval_ms"][new], halvings)
        return kept_S[slot_K]


def halvings_of(live_K: IntArray, series_in_budget: float) -> IntArray:
    """Return how often the budgets of so many live series are halved, so that they add up to no more."""
    times_K = np.log2(np.maximum(live_K / series_in_budget, 1.0))
    return np.ceil(times_K).astype(np.int64)

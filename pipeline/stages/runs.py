"""Points that are sorted by slot -> where those of each slot stand."""

from typing import NamedTuple

import numpy as np

from models.arrays import IntArray


class Runs(NamedTuple):
    """Where the points of each slot stand among points that are sorted by slot."""

    start_S: IntArray
    length_S: IntArray
    rank_N: IntArray
    """Each point's number among those of its slot, from 0."""


def runs(slot_N: IntArray) -> Runs:
    """Find the runs of equal slots."""
    start_S = np.flatnonzero(np.diff(slot_N, prepend=-1))
    length_S = np.diff(start_S, append=len(slot_N))
    return Runs(start_S, length_S, np.arange(len(slot_N)) - np.repeat(start_S, length_S))


def ranks(length_S: IntArray) -> IntArray:
    """Return each point's number among those of its slot, where so many of each slot stand together."""
    return np.arange(length_S.sum()) - np.repeat(np.cumsum(length_S) - length_S, length_S)

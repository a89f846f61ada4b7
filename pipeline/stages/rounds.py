"""What windows and scoring agree on: how far a judgement looks, and which points' windows lie in the buffers.

Legend: M points.
"""

from dataclasses import dataclass, field

from models.arrays import BoolArray, IntArray
from models.mapping import Reach


@dataclass(frozen=True, slots=True)
class Near:
    """How far the judgement of a row looks, and what is kept for it."""

    behind: int = 0
    ahead: int = 0
    """Later points that a row waits for."""
    views: int = 1
    reach: Reach | None = field(default=None, compare=False)
    """How errors fade; without it all are kept."""


@dataclass(frozen=True, slots=True)
class Round:
    """Points whose windows lie in the buffers now, until the next round is asked for."""

    position_M: IntArray
    """Where each point stands among the admitted `Points`."""
    end_M: IntArray
    """Row of each point in the flat buffers; its window is the T rows that end there."""
    read_M: BoolArray
    """Whether the point's window is to be read: not that of a held one."""
    judge_M: BoolArray
    """Whether the row that has waited for this point is to be judged."""

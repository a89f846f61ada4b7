"""A backtest by several processes: each judges whole partitions, which have no say in one another.

What they come to is put together in the order of the partitions, so it is what one process comes to. A topic of one
partition is judged by one process.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import torch

from pipeline.jobs.backtest import Begun, Replay
from pipeline.jobs.backtest_opening import Opening
from pipeline.jobs.backtest_output import ScoreColumns, score_columns
from pipeline.jobs.backtest_result import Tally
from pipeline.jobs.engine import Engine, Work
from pipeline.protocols import TopicPartition
from pipeline.snapshots import Gap


@dataclass(frozen=True)
class Piece:
    """Rows of a partition that were judged."""

    rows: int
    scores: ScoreColumns | None
    """None: they are not asked for."""


@dataclass(frozen=True)
class Partition:
    """What a whole partition came to, behind its pieces."""

    tally: Tally
    begun: Sequence[Begun]
    gaps: Sequence[Gap]
    replaced: Sequence[str]


@dataclass(frozen=True)
class ReplayTask:
    """Judges partitions in a range of time."""

    opening: Opening
    from_ms: int | None
    to_ms: int | None
    scores: bool

    def opened(self, device: torch.device) -> Work:
        replay = self.opening.replay(device)

        def judge(place: TopicPartition) -> Iterator[Piece | Partition]:
            tally, replay.begun, replay.gaps = Tally(), [], []
            for judged in replay.run_partition(place, self.from_ms, self.to_ms):
                tally.add(judged)
                yield Piece(len(judged.rows), score_columns(judged) if self.scores else None)
            yield Partition(tally, replay.begun, replay.gaps, replay.replaced)

        return judge


def judge_elsewhere(
    engine: Engine,
    opening: Opening,
    replay: Replay,
    from_ms: int | None,
    to_ms: int | None,
    scores: bool,
    tally: Tally,
) -> Iterator[Piece]:
    """Have an engine judge what `replay` would; yield its pieces, and put what they come to into replay and tally.

    Raises as `Replay.run`, and TransientError where a process of the engine has ended too often.
    """
    task = ReplayTask(opening, from_ms, to_ms, scores)
    with closing(engine.map(task, [engine.keep(place) for place in replay.places])) as made:
        for found in made:
            if isinstance(found, Piece):
                yield found
            else:
                tally.join(found.tally)
                replay.begun += found.begun
                replay.gaps += found.gaps
                replay.elsewhere |= {*found.replaced}
    if not tally.rows:
        raise replay.nothing(from_ms, to_ms)

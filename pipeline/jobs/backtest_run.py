"""A backtest from its first row to its report: replay, counts, and what is left in a folder."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline.feedback import Feedback
from pipeline.jobs.backtest import Replay, said_of
from pipeline.jobs.backtest_opening import Opening
from pipeline.jobs.backtest_output import (
    REPORT,
    SCORES,
    Scores,
    score_columns,
    write_alerts,
    write_summary,
)
from pipeline.jobs.backtest_pictures import pictures_of
from pipeline.jobs.backtest_report import compared_page, page
from pipeline.jobs.backtest_result import Result, Tally, compared, incidents_of
from pipeline.jobs.backtest_spread import judge_elsewhere
from pipeline.jobs.engine import Engine


@dataclass(frozen=True)
class Ran:
    """One backtest that has been run."""

    label: str
    result: Result
    said: dict[str, Feedback]
    """What was said of the stream's incidents."""


def run_side(
    replay: Replay,
    label: str,
    from_ms: int | None,
    to_ms: int | None,
    counted: Callable[[int], None],
    folder: Path | None,
    keep_scores: bool,
    clock: Callable[[], float] = time.perf_counter,
    elsewhere: tuple[Engine, Opening] | None = None,
) -> Ran:
    """Judge a range of a stream's snapshots, and write what comes of it into a folder, if there is one.

    `counted` is told of rows as they are judged, `elsewhere` by an engine, to which what is replayed is open, too.
    Raises as `Replay.run` or `judge_elsewhere`, and OSError where the folder cannot be written.
    """
    tally, scores = Tally(), None
    began_s = clock()
    if folder is not None:
        folder.mkdir(parents=True)
        scores = Scores(folder / SCORES, replay.lane.name)
    if elsewhere is None:
        for judged in replay.run(from_ms, to_ms):
            tally.add(judged)
            if scores is not None:
                scores.add(score_columns(judged))
            counted(len(judged.rows))
    else:
        for piece in judge_elsewhere(*elsewhere, replay, from_ms, to_ms, scores is not None, tally):
            if scores is not None and piece.scores is not None:
                scores.add(piece.scores)
            counted(piece.rows)
    took_s = clock() - began_s
    said = said_of(replay)
    incidents = incidents_of(tally.alerts, said)
    judged_by = "as the workers' logs say" if replay.version is None else f"all by {replay.version}"
    result = Result(
        *(replay.lane.name, judged_by, tally, replay.begun, replay.gaps, replay.replaced, incidents, took_s)
    )
    if folder is not None:
        assert scores is not None
        scores.close()
        write_alerts(folder, tally.in_order(), "")
        write_summary(folder, result.for_programs())
        pictures = pictures_of(replay, result, folder / SCORES, to_ms)
        (folder / REPORT).write_text(page(result, pictures))
        if not keep_scores:
            (folder / SCORES).unlink()
    return Ran(label, result, said)


def compare_sides(folder: Path, a: Ran, b: Ran) -> None:
    """Write what two backtests of the same rows have in common, beside their own folders."""
    both = compared(a.result.incidents, b.result.incidents)
    told = {"a": {"name": a.label, **a.result.for_programs()}, "b": {"name": b.label, **b.result.for_programs()}}
    write_summary(folder, {**told, "compared": both.for_programs()})
    (folder / REPORT).write_text(compared_page((a.label, a.result), (b.label, b.result), both))

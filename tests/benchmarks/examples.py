"""The best, a typical and the worst series as one figure.

    python -m tests.benchmarks.examples DATA METRICS.csv FIGURE.png [GROUP...]

Chosen by the default's settled VUS-PR in a `metrics.csv`, mean of its seeds, among the groups that are named (or
all): the highest, the median and the lowest. What is drawn is trained again, with seed 0.
"""

import argparse
import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path

from pipeline.jobs.figure import FigureTask, draw_below_each_other
from pipeline.jobs.judge import Task, judge
from pipeline.jobs.results import Result, read_results
from tests.benchmarks.quality import KINDS, OURS, by_series

TITLES = ("Best", "Typical", "Worst")


def chosen(results: Sequence[Result], groups: Collection[str]) -> list[tuple[str, str]]:
    """Return (group, series) of the best, the median and the worst."""
    values = by_series(results, OURS, KINDS["settled"])
    ranked = sorted((series for series in values if not groups or series[0] in groups), key=values.__getitem__)
    return [ranked[-1], ranked[len(ranked) // 2], ranked[0]]


def main() -> None:
    parser = argparse.ArgumentParser(description="A figure of the best, a typical and the worst series.")
    for name in ("data", "metrics", "figure"):
        parser.add_argument(name, type=Path)
    parser.add_argument("groups", nargs="*")
    asked = parser.parse_args()
    tasks = []
    with tempfile.TemporaryDirectory() as folder:
        for group, series in chosen(read_results(asked.metrics), asked.groups):
            path = asked.data / group / f"{series}.parquet"
            scores = Path(folder) / f"{group}-{series}.parquet"
            result = judge(Task(path, scores, OURS, 0, "S", (), ""))
            tasks.append(FigureTask(asked.figure, path, scores, result))
        draw_below_each_other(tasks, TITLES, asked.figure)


if __name__ == "__main__":
    main()

"""What `offkey evaluate` shows: its progress, then a table by group, and what its figures are figures of."""

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from statistics import fmean, median
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table

from pipeline.jobs.evaluate import Progress
from pipeline.jobs.judge import Online
from pipeline.jobs.results import Result

logger = logging.getLogger(__name__)

_TRAINED = (
    "Scores are those of the trained detector alone: nothing is learned while scoring, neither online nor a level "
    "that stays."
)
_ONLINE = "Scores of series are recalibrated online, as a worker does; {level}. Those of tables are not."
_FIGURES = (
    "Causal scores use no later point, settled ones those of one longest window ahead. "
    "False incidents: causal, budget 1 a day."
)


def note(online: Online | None) -> str:
    """Return what the scores are scores of, for people."""
    if online is None:
        return f"{_TRAINED} {_FIGURES}"
    level = "no level that stays is accepted"
    if online.accept_after_s is not None:
        level = f"a level that stays is accepted after {online.text}, or three windows where that is longer"
    return f"{_ONLINE.format(level=level)} {_FIGURES}"


@contextlib.contextmanager
def progress_bar(console: Console) -> Iterator[Progress]:
    """Yield what shows the progress: a bar on a terminal, else a line of the log for each series."""
    counts = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    told = TextColumn("{task.description}")
    with Bar(*counts, told, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("starting", total=None)

        def progress(what: str, done: int, total: int) -> None:
            bar.update(task, completed=done, total=total, description=what)
            if not console.is_terminal:
                logger.info("%d of %d: %s", done, total, what)

        yield progress


def by_group(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Return the figures of each group, and of series at the end the means of groups; None where there is none."""
    groups: dict[str, list[Result]] = {}
    for result in sorted(results, key=lambda result: result.key):
        groups.setdefault(result.group, []).append(result)
    rows = [{"group": name, **_figures(own)} for name, own in groups.items()]
    series = [row for row in rows if row["vus_pr_causal"] is not None]
    if len(series) > 1:
        means = {name: fmean(row[name] for row in series) for name in ("vus_pr_causal", "vus_pr_settled")}
        files = sum(row["files"] for row in series)
        rows.append({"group": "mean of groups", **_figures([]), **means, "files": files})
    return rows


def report(results: Sequence[Result]) -> Table:
    """Return the table for people."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("group", no_wrap=True)
    for column in ("files", "VUS-PR causal", "VUS-PR settled", "AUROC", "false/\nallowed", "fit s", "points/s"):
        table.add_column(column, justify="right")
    for row in by_group(results):
        last = row["group"] == "mean of groups"
        if last:
            table.add_section()
        allowed = row["allowed_incidents"]
        table.add_row(
            row["group"],
            str(row["files"]),
            _number(row["vus_pr_causal"], "{:.3f}"),
            _number(row["vus_pr_settled"], "{:.3f}"),
            _number(row["auroc"], "{:.3f}"),
            "" if allowed is None else f"{row['false_incidents']:,}/{allowed:,.1f}",
            _number(row["fit_s"], "{:.1f}"),
            _number(row["points_per_s"], "{:,.0f}"),
            style="bold" if last else None,
        )
    return table


def _figures(own: Sequence[Result]) -> dict[str, Any]:
    return {
        "files": len(own),
        "vus_pr_causal": _over(fmean, (result.vus_pr_causal for result in own)),
        "vus_pr_settled": _over(fmean, (result.vus_pr_settled for result in own)),
        "auroc": _over(fmean, (result.auroc for result in own)),
        "false_incidents": _over(sum, (result.false_incidents_1_per_day for result in own)),
        "allowed_incidents": _over(sum, (result.allowed_incidents_1_per_day for result in own)),
        "fit_s": _over(fmean, (result.fit_s for result in own)),
        "points_per_s": _over(median, (result.points_per_s for result in own)),
    }


def _over(summary: Callable[[list[Any]], Any], values: Iterable[float | None]) -> Any:
    known = [value for value in values if value is not None]
    return summary(known) if known else None


def _number(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)

"""One series and its scores as a picture: what the detector saw, what it said, and where the labels are.

The only module that draws with matplotlib; it takes no part in anything that is measured.

Legend: N rows of the series, S scored rows, F features.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from models.arrays import BoolArray
from pipeline.connectors.labelled import Labelled, read_labelled, read_scores
from pipeline.errors import ConfigError
from pipeline.jobs.results import Result

try:
    import matplotlib
    from matplotlib.colors import Colormap, LinearSegmentedColormap
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
    from matplotlib.figure import Figure, SubFigure
except ModuleNotFoundError as error:
    raise ConfigError("figures need matplotlib, not installed here: pip install 'offkey[evaluate]'") from error

INK, FAINT, GRID = "#243342", "#8a97a3", "#e3e8ec"
_CAUSAL, _SETTLED, _LABEL = "#14507a", "#8fc1de", "#e4572e"
_MOST_LINES = 10
_COLUMNS = 1200
"""Of the map that many features are shown as: about the pixels there are."""
_HIGHEST_SHOWN = 100.0
_STYLE: Any = {
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": GRID,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "agg.path.chunksize": 20_000,
}


@dataclass(frozen=True)
class FigureTask:
    """A figure to draw, and from what."""

    figure: Path
    path: Path
    scores: Path
    result: Result


def draw(task: FigureTask) -> None:
    """Write the figure, as PNG: of a series over time, of a table the scores of normal and labelled rows."""
    rows, scores = read_labelled(task.path), read_scores(task.scores)
    with matplotlib.rc_context(_STYLE):
        if rows.kind == "series":
            figure = Figure(figsize=(12, _height(rows)), layout="constrained")
            _series(figure, rows, scores, task.result)
        else:
            figure = _table(scores, task.result)
        _write(figure, task.figure)


def draw_below_each_other(tasks: Sequence[FigureTask], titles: Sequence[str], path: Path) -> None:
    """Write one figure of several series, each under a title that comes before its own."""
    each = [read_labelled(task.path) for task in tasks]
    with matplotlib.rc_context(_STYLE):
        heights = [_height(rows) for rows in each]
        figure = Figure(figsize=(12, sum(heights)), layout="constrained")
        parts = figure.subfigures(len(tasks), 1, height_ratios=heights, hspace=0.03, squeeze=False)[:, 0]
        for part, rows, task, title in zip(parts, each, tasks, titles, strict=True):
            _series(part, rows, read_scores(task.scores), task.result, f"{title}: ")
        _write(figure, path)


def shades(colours: Sequence[str]) -> Colormap:
    """Return a scale that goes through these colours."""
    return LinearSegmentedColormap.from_list("", list(colours))


@contextmanager
def picture(path: Path, width: float, height: float) -> Iterator[Figure]:
    """Yield a figure of this many inches, in the style of all of them; it is written when it was drawn on."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        _write(figure, path)


def dated(axis: Any) -> None:
    """Have an axis tell moments, which matplotlib counts in days."""
    locator = AutoDateLocator(minticks=4, maxticks=9)  # type: ignore[no-untyped-call]
    axis.set_major_locator(locator)
    axis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]


def _write(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}")
    try:
        figure.savefig(unfinished, dpi=120, format="png", facecolor="white")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _height(rows: Labelled) -> float:
    return 1.4 + 0.85 * sum(_heights(rows))


def _heights(rows: Labelled) -> list[float]:
    """Return how high the panels of a series are: a line each or one map for its features, then the scores."""
    count = len(rows.features)
    return [*([0.75] * count if count <= _MOST_LINES else [3.2]), 2.2]


def _series(
    figure: Figure | SubFigure, rows: Labelled, scores: dict[str, npt.NDArray[Any]], result: Result, title: str = ""
) -> None:
    assert rows.train_N is not None
    heights, as_lines = _heights(rows), len(rows.features) <= _MOST_LINES
    panels = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights, squeeze=False)[:, 0]
    time_N = rows.time_ms_N.astype("datetime64[ms]")
    spans = _shown_spans(rows.label_N, time_N)
    if as_lines:
        for panel, name, x_N in zip(panels, rows.features, rows.x_NF.T, strict=False):
            panel.plot(time_N, x_N, color=INK, linewidth=0.6)
            panel.set_ylabel(name, rotation=0, ha="right", va="center")
            panel.locator_params(axis="y", nbins=3)
    else:
        _map(panels[0], rows, time_N)
    _scores(panels[-1], scores, result)
    for number, panel in enumerate(panels):
        panel.grid(axis="x", color=GRID, linewidth=0.6)
        panel.set_axisbelow(True)
        for first, last in spans:
            if as_lines or number:
                panel.axvspan(first, last, color=_LABEL, alpha=0.2, linewidth=0)
            else:
                # Over a map a tint would change what the colours say: a bar above it.
                panel.axvspan(first, last, 1.01, 1.04, color=_LABEL, linewidth=0, clip_on=False)
    trained = time_N[rows.train_N]
    panels[-1].axvspan(trained[0], trained[-1], color=GRID, alpha=0.6, linewidth=0)
    across = panels[-1].get_xaxis_transform()
    panels[-1].text(trained[0], 0.94, " learned from", transform=across, color=FAINT, va="top")
    panels[-1].set_xlim(time_N.min(), time_N.max())
    dated(panels[-1].xaxis)
    _title(figure, result, title)


def _map(panel: Any, rows: Labelled, time_N: npt.NDArray[Any]) -> None:
    """Show many features as rows of colour, each from its smallest to its largest value."""
    low_F, high_F = np.quantile(rows.x_NF, [0.005, 0.995], axis=0)
    wide_F = np.where(high_F > low_F, high_F - low_F, 1.0)
    shade_NF = np.clip((rows.x_NF - low_F) / wide_F, 0, 1)
    starts = np.unique(np.linspace(0, len(shade_NF), min(_COLUMNS, len(shade_NF)), endpoint=False).astype(int))
    # The largest of each column, so that a short peak is not averaged away.
    shade_CF = np.maximum.reduceat(shade_NF, starts, axis=0)
    edges = np.append(time_N[starts], time_N[-1])
    panel.pcolormesh(edges, np.arange(len(rows.features) + 1), shade_CF.T, cmap="Blues", rasterized=True)
    panel.invert_yaxis()
    panel.set_ylabel(f"{len(rows.features)} features")
    panel.set_yticks([])


def _scores(panel: Any, scores: dict[str, npt.NDArray[Any]], result: Result) -> None:
    time_S = scores["timestamp"].astype("datetime64[ms]")
    causal_S, settled_S = (np.clip(scores[name], 0, _HIGHEST_SHOWN) for name in ("causal", "settled"))
    panel.fill_between(time_S, settled_S, color=_SETTLED, alpha=0.75, linewidth=0, label="settled")
    panel.plot(time_S, causal_S, color=_CAUSAL, linewidth=0.7, label="causal")
    threshold = result.threshold_1_per_day
    if threshold is not None and threshold <= _HIGHEST_SHOWN:
        dashes = (0, (4, 3))
        panel.axhline(threshold, color=_LABEL, linewidth=0.9, linestyle=dashes, label="one false incident a day")
    panel.set_ylim(0, max(float(settled_S.max()), float(causal_S.max()), threshold or 0.0) * 1.08 + 1)
    panel.set_ylabel("score")
    panel.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, frameon=False, fontsize=8, borderpad=0)


def _table(scores: dict[str, npt.NDArray[Any]], result: Result) -> Figure:
    figure = Figure(figsize=(9, 4), layout="constrained")
    panel = figure.subplots()
    strange_S = scores["label"] == 1
    shown_S = np.clip(scores["causal"], 0, _HIGHEST_SHOWN)
    edges = np.linspace(0, max(float(shown_S.max()), 1.0), 60)
    for chosen_S, colour, name in ((~strange_S, _SETTLED, "normal"), (strange_S, _LABEL, "anomalous")):
        told = f"{name}: {int(chosen_S.sum()):,} rows"
        panel.hist(shown_S[chosen_S], edges.tolist(), density=True, color=colour, alpha=0.6, label=told)
    panel.set_xlabel("score")
    panel.set_ylabel("density")
    panel.legend(frameon=False)
    _title(figure, result)
    return figure


def _title(figure: Figure | SubFigure, result: Result, before: str = "") -> None:
    if result.vus_pr_causal is None:
        told = f"AUROC {result.auroc:.3f}, setting {result.setting}"
    else:
        told = f"VUS-PR {result.vus_pr_causal:.3f} causal, {result.vus_pr_settled:.3f} settled"
    name = f"{before}{result.group} / {result.series}"
    figure.suptitle(f"{name}     {told}     {result.architecture}", x=0.01, ha="left", fontsize=11, color=INK)


def _shown_spans(label_N: BoolArray, time_N: npt.NDArray[Any]) -> list[tuple[Any, Any]]:
    """Return the times of the labelled spans, none too narrow to be seen."""
    edges = np.flatnonzero(np.diff(label_N.astype(np.int8), prepend=0, append=0))
    least = (time_N[-1] - time_N[0]) // 400
    spans = []
    for first, end in zip(edges[::2], edges[1::2], strict=True):
        begin, until = time_N[first], time_N[min(end, len(time_N) - 1)]
        spans.append((begin, max(until, begin + least)))
    return spans

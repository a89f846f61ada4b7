"""What made-up rows look like beside real ones, as one picture: marginals, correlations, examples, distances.

Legend: N rows or windows, T steps of a window, F features.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from models.apart import FloatArray, deviations, distances, itself
from models.fidelity import autocorrelations, correlations
from pipeline.jobs.fidelity import Compared
from pipeline.jobs.figure import FAINT, GRID, INK, picture

_REAL, _MADE = "#14507a", "#e4572e"
_MOST_MARGINALS, _MOST_EXAMPLES, _BINS, _MOST_APART = 8, 3, 40, 2_000
_ENDS = 0.005
"""Share of the values at each end that may lie outside of an axis: one far value would hide all others."""


def draw(path: Path, compared: Compared, report: Mapping[str, Any], title: str) -> None:
    """Write the picture."""
    real_NF, made_NF = (x_NTF.reshape(-1, len(compared.features)) for x_NTF in (compared.real, compared.made))
    shown = _worst(report, compared.features)
    of_windows = compared.real.shape[1] > 1
    across = 4
    down = -(-len(shown) // across) + 1 + of_windows
    with picture(path, 13, 2.5 * down + 0.5) as figure:
        panels = figure.subplots(down, across, squeeze=False)
        for panel, column in zip(panels.flat, shown, strict=False):
            _marginal(panel, real_NF[:, column], made_NF[:, column], compared.features[column])
        panels.flat[0].legend(frameon=False, fontsize=8)
        for panel in panels.flat[len(shown) : across * -(-len(shown) // across)]:
            panel.set_axis_off()
        last = panels[-1 - of_windows]
        _correlation(last[0], real_NF, made_NF)
        if of_windows:
            _autocorrelation(last[1], compared, shown[0])
        else:
            _pair(last[1], compared, real_NF, made_NF)
        _apart(last[2], compared)
        _told(last[3], report)
        if of_windows:
            for number, panel in enumerate(panels[-1]):
                _examples(panel, compared, shown[number % len(shown)], number)
        figure.suptitle(
            f"{title}     {len(compared.made):,} made-up {report['of']} beside {len(compared.real):,} held out",
            x=0.01,
            ha="left",
            fontsize=11,
            color=INK,
        )


def _worst(report: Mapping[str, Any], features: tuple[str, ...]) -> list[int]:
    """Return the features whose marginals differ most."""
    return sorted(range(len(features)), key=lambda f: -report["marginals"][features[f]]["distance"])[
        :_MOST_MARGINALS
    ]


def _marginal(panel: Any, real_N: FloatArray, made_N: FloatArray, name: str) -> None:
    low, high = np.quantile(np.concatenate([real_N, made_N]), [_ENDS, 1 - _ENDS])
    edges = np.linspace(low, high if high > low else low + 1, _BINS)
    for x_N, colour, label in ((real_N, _REAL, "held out"), (made_N, _MADE, "made up")):
        weights = np.full(len(x_N), 1 / len(x_N))
        panel.hist(
            np.clip(x_N, edges[0], edges[-1]), edges, weights=weights, histtype="step", color=colour, label=label
        )
    panel.set_title(name if len(name) <= 28 else f"{name[:27]}…", loc="left", fontsize=9)
    panel.set_yticks([])


def _correlation(panel: Any, real_NF: FloatArray, made_NF: FloatArray) -> None:
    pairs = np.triu_indices(real_NF.shape[1], 1)
    if not len(pairs[0]):
        panel.set_axis_off()
        return
    panel.plot([-1, 1], [-1, 1], color=GRID, linewidth=1)
    real, made = (correlations(x_NF)[pairs] for x_NF in (real_NF, made_NF))
    panel.scatter(real, made, s=8, color=_REAL, alpha=0.6, linewidths=0)
    panel.set_title("correlation of two features", loc="left", fontsize=9)
    panel.set_xlabel("held out")
    panel.set_ylabel("made up")


def _pair(panel: Any, compared: Compared, real_NF: FloatArray, made_NF: FloatArray) -> None:
    """Draw the two features that belong together most, of a few rows of each."""
    of_FF = np.abs(np.triu(correlations(real_NF), 1))
    one, other = np.unravel_index(int(of_FF.argmax()), of_FF.shape)
    for x_NF, colour in ((real_NF, _REAL), (made_NF, _MADE)):
        panel.scatter(x_NF[:1_000, one], x_NF[:1_000, other], s=4, color=colour, alpha=0.5, linewidths=0)
    panel.set_xlabel(compared.features[one])
    panel.set_ylabel(compared.features[other])
    panel.set_title("the two that correlate most", loc="left", fontsize=9)


def _autocorrelation(panel: Any, compared: Compared, column: int) -> None:
    for x_NTF, colour in ((compared.real, _REAL), (compared.made, _MADE)):
        panel.plot(autocorrelations(x_NTF)[:, column], color=colour, linewidth=1.2)
    panel.set_title(f"autocorrelation of {compared.features[column]}", loc="left", fontsize=9)
    panel.set_xlabel("rows later")


def _apart(panel: Any, compared: Compared) -> None:
    """Draw how far samples lie from the nearest training row, and these from one another."""
    flat_SD = compared.learned.reshape(len(compared.learned), -1)
    unit_D = deviations(flat_SD)
    made_MD = np.unique(compared.made.reshape(len(compared.made), -1), axis=0)[:_MOST_APART] / unit_D
    if compared.overlapping is None:
        flat_SD = np.unique(flat_SD, axis=0)
        usual_S = distances(flat_SD / unit_D, flat_SD / unit_D, itself(len(flat_SD)))
    else:
        usual_S = distances(flat_SD / unit_D, flat_SD / unit_D, compared.overlapping)
    found_M = distances(made_MD, flat_SD / unit_D)
    for each, colour, label in ((usual_S, _REAL, "training rows"), (found_M, _MADE, "made up")):
        each = np.sort(each[np.isfinite(each)])
        panel.plot(each, np.linspace(0, 1, len(each)), color=colour, label=label)
    panel.set_xlim(0, max(float(np.quantile(found_M, 0.9)), 1e-9))
    panel.legend(frameon=False, fontsize=8)
    panel.set_title("distance to the nearest training row", loc="left", fontsize=9)
    panel.set_ylabel("share that lies nearer")


def _told(panel: Any, report: Mapping[str, Any]) -> None:
    panel.set_title("told from held-out rows", loc="left", fontsize=9)
    found = report["two_sample"]
    if found is None:
        panel.text(0.5, 0.5, "too few to tell", ha="center", color=FAINT, transform=panel.transAxes)
        panel.set_axis_off()
        return
    panel.bar([0, 1], [found["auroc"], found["auroc_of_learned"]], 0.6, color=[_MADE, _REAL])
    panel.scatter(np.zeros(len(found["auroc_of_folds"])), found["auroc_of_folds"], s=10, color=INK, zorder=3)
    panel.axhline(0.5, color=FAINT, linewidth=1, linestyle=(0, (4, 3)))
    panel.set_xticks([0, 1], ["made up", "learned rows"])
    panel.set_ylim(0.4, 1.0)
    panel.set_ylabel("AUROC; .5 is best")


def _examples(panel: Any, compared: Compared, column: int, begin: int) -> None:
    """Draw some windows of a feature, real ones above made-up ones, from the one of this number on."""
    steps = compared.real.shape[1]
    low, high = np.quantile(compared.real[:, :, column], [0.02, 0.98])
    spread = high - low or 1.0
    for x_NTF, colour, above in ((compared.real, _REAL, 1), (compared.made, _MADE, 0)):
        chosen = begin + np.linspace(0, len(x_NTF) - 1, min(_MOST_EXAMPLES, len(x_NTF))).astype(int)
        for number, window in enumerate((chosen % len(x_NTF)).tolist()):
            at = np.arange(steps) + number * steps * 1.1
            shown = np.clip(x_NTF[window, :, column], low, high)
            panel.plot(at, shown + above * spread * 1.1, color=colour, linewidth=0.9)
    panel.set_xticks([])
    panel.set_yticks([])
    panel.set_title(f"windows of {compared.features[column]}", loc="left", fontsize=9)

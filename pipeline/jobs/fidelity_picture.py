"""What made-up rows look like beside real ones, as one picture: marginals, correlations, examples, distances.

Legend: N rows or windows, T steps of a window, F features.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.apart import distances, itself, nearest
from models.arrays import FloatArray
from models.fidelity import autocorrelations, correlations
from pipeline.jobs.fidelity import Compared, Images
from pipeline.jobs.figure import FAINT, GRID, INK, picture

_REAL, _MADE = "#14507a", "#e4572e"
_MOST_MARGINALS, _MOST_EXAMPLES, _MOST_IMAGES, _BINS, _MOST_APART = 8, 3, 20, 40, 2_000
_ENDS = 0.005
"""Share of the values at each end that may lie outside of an axis: one far value would hide all others."""


def draw(path: Path, compared: Compared, report: Mapping[str, Any], title: str) -> None:
    """Write the picture."""
    real_NF, made_NF = (x_NTF.reshape(-1, len(compared.features)) for x_NTF in (compared.real, compared.made))
    shown = _worst(report, compared.features)
    of_windows = compared.real.shape[1] > 1
    across = 4
    examples = of_windows or compared.images is not None
    drawn: list[Callable[[Any], None]] = [
        partial(_marginal, real_N=real_NF[:, column], made_N=made_NF[:, column], name=compared.features[column])
        for column in shown
    ]
    # Of one feature nothing is drawn that takes two.
    if len(compared.features) > 1:
        drawn.append(partial(_correlation, real_NF=real_NF, made_NF=made_NF))
    if of_windows:
        drawn.append(partial(_autocorrelation, compared=compared, column=shown[0]))
    elif len(compared.features) > 1:
        drawn.append(partial(_pair, compared=compared, real_NF=real_NF, made_NF=made_NF))
    drawn += [partial(_apart, compared=compared), partial(_told, report=report)]
    down = -(-len(drawn) // across) + examples
    with picture(path, 13, 2.5 * down + 0.5) as figure:
        panels = figure.subplots(down, across, squeeze=False)
        for panel, draw_on in zip(panels.flat, drawn, strict=False):
            draw_on(panel)
        panels.flat[0].legend(frameon=False, fontsize=8)
        for panel in panels.flat[len(drawn) : across * (down - examples)]:
            panel.set_axis_off()
        if of_windows:
            for number, panel in enumerate(panels[-1]):
                _examples(panel, compared, shown[number % len(shown)], number)
        if compared.images is not None:
            grid = panels[-1][0].get_gridspec()
            for panel in panels[-1]:
                panel.remove()
            _sheet(figure.add_subplot(grid[-1, :]), compared.images)
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
    panel.set_title(name if len(name) <= 40 else f"{name[:39]}…", loc="left", fontsize=9)
    panel.set_yticks([])


def _correlation(panel: Any, real_NF: FloatArray, made_NF: FloatArray) -> None:
    pairs = np.triu_indices(real_NF.shape[1], 1)
    panel.plot([-1, 1], [-1, 1], color=GRID, linewidth=1)
    real, made = (correlations(x_NF)[pairs] for x_NF in (real_NF, made_NF))
    panel.scatter(real, made, s=8, color=_REAL, alpha=0.6, linewidths=0)
    panel.set_title("correlation of any two", loc="left", fontsize=9)
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
    what = "image" if compared.images else "row"
    all_MD, flat_SD, unit_D = compared.near
    made_MD = np.unique(all_MD, axis=0)[:_MOST_APART] / unit_D
    if compared.overlapping is None:
        flat_SD = np.unique(flat_SD, axis=0)
        some = slice(None, None, -(-len(flat_SD) // _MOST_APART))
        without = itself(len(flat_SD))
        usual_S = distances(flat_SD[some] / unit_D, flat_SD / unit_D, (without[0][some], without[1][some]))
    else:
        usual_S = distances(flat_SD / unit_D, flat_SD / unit_D, compared.overlapping)
    found_M = distances(made_MD, flat_SD / unit_D)
    for each, colour, label in ((usual_S, _REAL, f"training {what}s"), (found_M, _MADE, "made up")):
        each = np.sort(each[np.isfinite(each)])
        panel.plot(each, np.linspace(0, 1, len(each)), color=colour, label=label)
    panel.set_xlim(0, max(float(np.quantile(found_M, 0.9)), 1e-9))
    panel.legend(frameon=False, fontsize=8)
    panel.set_title(f"distance to the nearest training {what}", loc="left", fontsize=9)
    if compared.images is not None:
        panel.set_xlabel("root mean square of pixels")
    panel.set_ylabel("share that lies nearer")


def _told(panel: Any, report: Mapping[str, Any]) -> None:
    panel.set_title(f"told from held-out {report['of']}", loc="left", fontsize=9)
    found = report["two_sample"]
    if found is None:
        panel.text(0.5, 0.5, "too few to tell", ha="center", color=FAINT, transform=panel.transAxes)
        panel.set_axis_off()
        return
    panel.bar([0, 1], [found["auroc"], found["auroc_of_learned"]], 0.6, color=[_MADE, _REAL])
    panel.scatter(np.zeros(len(found["auroc_of_folds"])), found["auroc_of_folds"], s=10, color=INK, zorder=3)
    panel.axhline(0.5, color=FAINT, linewidth=1, linestyle=(0, (4, 3)))
    panel.set_xticks([0, 1], ["made up", "learned from"])
    panel.set_ylim(0.4, 1.0)
    panel.set_ylabel("AUROC; .5 is best")


def _examples(panel: Any, compared: Compared, column: int, begin: int) -> None:
    """Draw some windows of a feature, real ones above made-up ones, from the one of this number on."""
    steps = compared.real.shape[1]
    # Of both: by one alone the other might lie outside, and be drawn as what it is not.
    both = np.concatenate([compared.real[:, :, column].ravel(), compared.made[:, :, column].ravel()])
    low, high = np.quantile(both, [0.02, 0.98])
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


def _sheet(panel: Any, images: Images) -> None:
    """Draw some images that were held out, some that were made, and below these the nearest that were learned."""
    shape = images.shape
    count = min(_MOST_IMAGES, len(images.real_NF), len(images.made_MF))
    made_BF = images.made_MF[:count]
    others = torch.from_numpy(images.learned_SF.astype(np.float32))
    near_B = nearest(torch.from_numpy(made_BF.astype(np.float32)), others, 1).numpy()[:, 0]
    rows = (images.real_NF[:count], made_BF, images.learned_SF[near_B])
    gap = max(1, shape.width // 16)
    sheet = np.full((3, shape.height + gap, count, shape.width + gap, shape.channels), 255, np.uint8)
    for row, x_BF in enumerate(rows):
        sheet[row, gap:, :, gap:] = x_BF.reshape(-1, *shape).transpose(1, 0, 2, 3)
    whole = sheet.reshape(3 * (shape.height + gap), count * (shape.width + gap), shape.channels)
    panel.imshow(
        whole[:, :, 0] if shape.channels == 1 else whole, cmap="gray", vmin=0, vmax=255, interpolation="nearest"
    )
    panel.set_xticks([])
    panel.set_yticks((np.arange(3) + 0.5) * (shape.height + gap), ["held out", "made up", "nearest\nlearned"])
    panel.tick_params(length=0)
    for side in panel.spines.values():
        side.set_visible(False)
    panel.set_title("images, and below those made up the nearest that was learned from", loc="left", fontsize=9)

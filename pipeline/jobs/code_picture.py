"""What codes look like: two dimensions of them beside those of PCA, and how much of each feature both tell.

Of images some are shown as they are, and as either brings them back.

Legend: S rows of the sample, F features, D numbers of a code.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from models.arrays import FloatArray, IntArray
from models.codes import Coder
from models.spec import ImageShape, shortened
from pipeline.connectors.parquet import Coded
from pipeline.errors import ConfigError
from pipeline.jobs.blocks import TIME, Block
from pipeline.jobs.coding import ERROR, Quality, code_rows, principal
from pipeline.jobs.figure import FAINT, GRID, INK, dated, picture, shades
from pipeline.jobs.reduce_report import counted
from pipeline.jobs.sample import Look

_MOST_POINTS, _MOST_BARS, _MOST_NAMES, _MOST_IMAGES = 6_000, 16, 8, 5
_NAMED = ("#14507a", "#e4572e", "#4c9f70", "#8e5ea2", "#e0a030", "#3fa7d6", "#a23b72", "#6b7a3a")
_OTHERS = "#c3ccd4"
SCORE = "score"
_LEAST_ERROR, _HIGHEST_SCORE, _STRANGE_SCORE = 1e-6, 100.0, 30.0
_STRANGENESS = (_OTHERS, "#8fc1de", _NAMED[0], _NAMED[1])
"""What is usual lies back, and the strangest stands out on white."""
_TIMES, _DAY_MS = (TIME, "timestamp"), 86_400_000
_OUTSIDE = 0.002
"""Share of the points at each end of an axis that may lie outside of it: one far point would hide all others."""


def draw_codes(path: Path, coder: Coder, looked: Look, quality: Quality, colour: str, title: str) -> None:
    """Write the picture; raises as `check_colour` does.

    Args:
        colour: what points are coloured by: their `score` by the model, their `error`, or a column.
    """
    sample = looked.sample.cut(0, _MOST_POINTS)
    coded = code_rows(coder, sample.values_NF, sample.usable_N)
    image = coder.detector.spec.image
    pca = principal(looked.learning.values_NF, coder.dimensions, scaled=image is None)
    center_F, scale_F, components_FD = pca
    scaled_SF = (sample.values_NF - center_F) / scale_F
    by_pca_SD = scaled_SF @ components_FD
    off_pca_S = np.sqrt(np.square(scaled_SF - by_pca_SD @ components_FD.T).mean(axis=1))
    numbers = counted(coder.dimensions, "number")
    shade = colours(sample, coder, colour, coded.error_N)
    few = coder.features[:_MOST_BARS]
    what = "images" if image else "rows"
    with picture(path, 13, 4.6) as figure:
        left, middle, right = figure.subplots(1, 3, width_ratios=[1.15, 1, 0.8])
        shown = _points(left, _of_codes(coded.code_ND.astype(np.float64), coded.error_N), shade, colour)
        left.set_title(f"autoencoder, {numbers}", loc="left", fontsize=10)
        _points(middle, _of_components(by_pca_SD, off_pca_S), shade, colour)
        middle.set_title(f"PCA, {numbers}", loc="left", fontsize=10)
        _legend(figure, left, colour, shade, shown)
        if image is not None:
            _rebuilt(right, coder, image, looked.held_out.values_NF[:_MOST_IMAGES], pca)
        else:
            _bars(right, few, quality.coder_F[:_MOST_BARS], quality.pca_F[:_MOST_BARS])
        if image is None and len(coder.features) > len(few):
            right.set_title(f"the first {len(few)} of {len(coder.features)} features", loc="left", fontsize=10)
        figure.suptitle(
            f"{title}     {len(sample):,} of {looked.rows:,} {what}     R2 on rows held out: "
            f"{np.nanmean(quality.coder_F):.3f}, PCA {np.nanmean(quality.pca_F):.3f}",
            x=0.01,
            ha="left",
            fontsize=11,
            color=INK,
        )


def is_made(colour: str) -> bool:
    """Tell whether it is the model that makes what points are coloured by."""
    return colour in (SCORE, ERROR)


def check_colour(columns: Any, features: tuple[str, ...], colour: str) -> None:
    """See that a picture can be coloured by this column.

    Raises:
        ConfigError: there is no such column.
    """
    if colour not in features and colour not in columns:
        raise ConfigError(
            f"--color {colour}: there is no such column; there are "
            f"{shortened([SCORE, ERROR, *columns, *features], 20)}"
        )


def colours(sample: Block, coder: Coder, colour: str, error_S: npt.NDArray[Any]) -> npt.NDArray[Any] | Coded:
    """Return a number or name of each point, by which it is coloured; of times, days since 1970.

    Scores are those of a worker that serves this model: of normal rows one in 1,000 is above 30.
    """
    if colour == SCORE:
        return np.minimum(coder.detector.score_rows(sample.values_NF), _HIGHEST_SCORE)
    if colour == ERROR:
        return np.maximum(error_S.astype(np.float64), _LEAST_ERROR)
    if colour in sample.columns:
        column = sample.columns[colour]
        if isinstance(column, Coded):
            return column
        if column.dtype.kind == "b":
            return Coded([f"not {colour}", colour], column.astype(np.int64))
        return column / _DAY_MS if colour in _TIMES else column.astype(np.float64)
    check_colour(sample.columns, coder.features, colour)
    return sample.values_NF[:, coder.features.index(colour)]


_Shown = tuple[Any, Any, str, str]
"""Two coordinates of each point, and what they are."""


def _of_codes(z_SD: FloatArray, error_S: npt.NDArray[Any]) -> _Shown:
    """Return two dimensions of codes: of more than two their own principal components."""
    if z_SD.shape[1] == 1:
        return _beside_errors(z_SD, error_S, "code_0")
    if z_SD.shape[1] == 2:
        return z_SD[:, 0], z_SD[:, 1], "code_0", "code_1"
    centred_SD = z_SD - z_SD.mean(axis=0)
    variance_D, vectors_DD = np.linalg.eigh(centred_SD.T @ centred_SD)
    share_D = variance_D / max(variance_D.sum(), 1e-30)
    first, second = (
        f"{which} direction of the codes ({100 * share:.0f}%)"
        for which, share in (("first", share_D[-1]), ("second", share_D[-2]))
    )
    return centred_SD @ vectors_DD[:, -1], centred_SD @ vectors_DD[:, -2], first, second


def _of_components(z_SD: FloatArray, error_S: npt.NDArray[Any]) -> _Shown:
    if z_SD.shape[1] == 1:
        return _beside_errors(z_SD, error_S, "first component")
    return z_SD[:, 0], z_SD[:, 1], "first component", "second component"


def _beside_errors(z_SD: FloatArray, error_S: npt.NDArray[Any], name: str) -> _Shown:
    return z_SD[:, 0], np.log10(np.maximum(error_S, _LEAST_ERROR)), name, "error (logarithm)"


def _points(panel: Any, points: _Shown, shade: Any, colour: str) -> Any:
    x_S, y_S, x_name, y_name = points
    drawn = None
    if isinstance(shade, Coded):
        _named(panel, x_S, y_S, shade)
    else:
        drawn = _shaded(panel, x_S, y_S, shade, colour)
    for axis, along_S in (("x", x_S), ("y", y_S)):
        low, high = np.quantile(along_S, [_OUTSIDE, 1 - _OUTSIDE])
        room = 0.06 * (high - low) or 1.0
        getattr(panel, f"set_{axis}lim")(low - room, high + room)
    panel.set_xlabel(x_name)
    panel.set_ylabel(y_name)
    panel.grid(color=GRID, linewidth=0.6)
    panel.set_axisbelow(True)
    return drawn


def _named(panel: Any, x_S: Any, y_S: Any, shade: Coded) -> None:
    for number, (rows, colour, label) in enumerate(_groups(shade)):
        panel.scatter(
            x_S[rows], y_S[rows], s=5, color=colour, alpha=0.7, linewidths=0, label=label, rasterized=True,
            zorder=2 + number / 100,
        )  # fmt: skip


def _shaded(panel: Any, x_S: Any, y_S: Any, shade_S: Any, colour: str) -> Any:
    # The strangest last, so that they are seen.
    order = np.argsort(shade_S)
    low, high = np.nanquantile(shade_S, [0.01, 0.99])
    if colour == SCORE:
        low, high = 0.0, _STRANGE_SCORE
    return panel.scatter(
        x_S[order], y_S[order], c=shade_S[order], s=5, cmap=shades(_STRANGENESS) if is_made(colour) else "viridis",
        norm="log" if colour == ERROR else "linear", vmin=low, vmax=max(high, low * (1 + 1e-9) + 1e-9),
        alpha=0.7, linewidths=0, rasterized=True,
    )  # fmt: skip


def _groups(shade: Coded) -> list[tuple[IntArray, str, str]]:
    """Return the rows of each of the most frequent names, and of all others first: they lie below."""
    count = np.bincount(shade.code_N, minlength=len(shade.names))
    often = np.argsort(-count, kind="stable")[:_MOST_NAMES]
    often = often[count[often] > 0]
    groups = []
    others = np.flatnonzero(~np.isin(shade.code_N, often))
    if len(others):
        groups.append((others, _OTHERS, f"{int((count > 0).sum()) - len(often):,} others"))
    for colour, number in zip(_NAMED, often.tolist(), strict=False):
        groups.append((np.flatnonzero(shade.code_N == number), colour, str(shade.names[number])))
    return groups


def _legend(figure: Any, panel: Any, name: str, shade: Any, drawn: Any) -> None:
    if isinstance(shade, Coded):
        panel.legend(title=name, fontsize=7, markerscale=2, frameon=True, framealpha=0.85, edgecolor=GRID)
    else:
        bar = figure.colorbar(drawn, ax=panel, pad=0.02, aspect=40, extend="max" if name == SCORE else "neither")
        bar.set_label(f"{name}: one normal row in 1,000 is above 30" if name == SCORE else name)
        if name in _TIMES:
            dated(bar.ax.yaxis)
        bar.outline.set_visible(False)
        bar.solids.set_alpha(1)


def _rebuilt(panel: Any, coder: Coder, image: ImageShape, x_NF: Any, pca: tuple[Any, Any, Any]) -> None:
    """Show images in columns: as they are, by their codes, by as many components."""
    center_F, scale_F, components_FD = pca
    by_pca_NF = center_F + scale_F * ((x_NF - center_F) / scale_F @ components_FD @ components_FD.T)
    rows = []
    for each_NF in (x_NF, coder.read(x_NF)[1], by_pca_NF):
        shown_NHWC = each_NF.clip(0, 255).astype(np.uint8).reshape(-1, *image)[..., :3]
        bordered = np.pad(shown_NHWC, ((0, 0), (0, 1), (0, 1), (0, 0)), constant_values=255)
        rows.append(np.concatenate(list(bordered), axis=1))
    panel.imshow(np.concatenate(rows), cmap="gray", vmin=0, vmax=255)
    high = image.height + 1
    panel.set_yticks([high * (n + 0.5) for n in range(3)], ["as it is", "codes", "PCA"], color=INK)
    panel.set_xticks([])
    panel.tick_params(axis="y", length=0)
    panel.set_title("images held out", loc="left", fontsize=10)


def _bars(panel: Any, features: Sequence[str], coder_F: Any, pca_F: Any) -> None:
    place = np.arange(len(features))
    panel.barh(place - 0.2, np.clip(np.nan_to_num(coder_F), 0, 1), 0.38, color=_NAMED[0], label="autoencoder")
    panel.barh(place + 0.2, np.clip(np.nan_to_num(pca_F), 0, 1), 0.38, color=_OTHERS, label="PCA")
    panel.set_yticks(place, [name if len(name) <= 18 else f"{name[:17]}…" for name in features], color=INK)
    for number in np.flatnonzero(np.isnan(coder_F)).tolist():
        panel.text(0.01, number, "constant", color=FAINT, va="center", fontsize=7)
    panel.invert_yaxis()
    panel.set_xlim(0, 1)
    panel.set_xlabel("R2 of each feature, rows held out")
    panel.tick_params(axis="y", length=0)
    panel.legend(fontsize=8, frameon=False, loc="upper right", bbox_to_anchor=(1, 1.11), ncols=2, borderpad=0)
    panel.grid(axis="x", color=GRID, linewidth=0.6)
    panel.set_axisbelow(True)
    panel.xaxis.label.set_color(FAINT)

"""What each part of the default brings: `python -m tests.benchmarks.ablation DATA`.

Views are trained once for each series; then some are left out, or the memory, the offsets or the measures of single
windows. Prints VUS-PR as the mean over the groups, causal and settled, as a table in Markdown.

Legend: N rows of a series, V views.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models.arrays import FloatArray
from models.dataset import padded
from models.detector import Detector
from models.evaluation import period, vus
from models.fitting import fit_detector
from models.mapping import Delay, reach_of
from models.plan import plan_of
from models.scaling import tamed
from models.views import ViewConfig
from pipeline.connectors.labelled import Labelled, read_labelled

CPU = torch.device("cpu")
LEVEL, SHAPE, MOMENT = 0, 1, 2

Change = Callable[[ViewConfig], ViewConfig]
VARIANTS: Mapping[str, tuple[Sequence[int], Change]] = {
    "the default": ((LEVEL, SHAPE, MOMENT), lambda view: view),
    "level alone": ((LEVEL,), lambda view: view),
    "shape alone": ((SHAPE,), lambda view: view),
    "moment alone": ((MOMENT,), lambda view: view),
    "without level": ((SHAPE, MOMENT), lambda view: view),
    "without shape": ((LEVEL, MOMENT), lambda view: view),
    "without moment": ((LEVEL, SHAPE), lambda view: view),
    "without memory": ((LEVEL, SHAPE, MOMENT), lambda view: replace(view, fade=None)),
    "without offsets": ((LEVEL, SHAPE, MOMENT), lambda view: replace(view, offset=0.0)),
}
SCALINGS = {"scaled as `standard`": "standard", "scaled as `robust`": "robust"}


def measured(rows: Labelled) -> dict[str, dict[Delay, float]]:
    """Return VUS-PR of one series under each variant."""
    assert rows.train_N is not None
    detector = trained(rows, {})
    error_NV = errors_of(detector, rows.name, rows.x_NF)
    # What is usual is learned from training rows as training takes them.
    near_NF = rows.x_NF.copy()
    near_NF[rows.train_N] = tamed(rows.x_NF[rows.train_N])
    usual_NV = errors_of(detector, rows.name, near_NF)
    whole_N = np.flatnonzero(rows.train_N)[detector.spec.window - 1 :]
    usual_N = torch.from_numpy(whole_N if len(whole_N) >= 100 else np.flatnonzero(rows.train_N))
    scored_N = rows.scored_N
    found: dict[str, dict[Delay, float]] = {}
    widest = period(rows.x_NF[scored_N, 0])
    for name, (chosen, change) in VARIANTS.items():
        configs = [change(detector.views[number].config) for number in chosen]
        offset_V = torch.tensor([config.offset for config in configs])
        found[name] = {}
        for delay in (0, None):
            reach, own_NV = reach_of(configs, delay, CPU), error_NV[:, list(chosen)]
            known_NV = usual_NV[: int(usual_N[-1]) + 1, list(chosen)]
            trained_NV = reach.point_errors_of_series(known_NV)[usual_N]
            high_V = torch.quantile(trained_NV, 0.99, dim=0) + offset_V
            strange_N = (reach.point_errors_of_series(own_NV) - high_V).amax(dim=1)
            found[name][delay] = vus(rows.label_N[scored_N], strange_N.numpy()[scored_N], widest).pr
    for name, scaling in SCALINGS.items():
        scores = trained(rows, {"scaling": scaling}).score_series(rows.name, rows.x_NF)
        found[name] = {
            delay: vus(rows.label_N[scored_N], score_N[scored_N], widest).pr for delay, score_N in scores.items()
        }
    return found


def trained(rows: Labelled, options: Mapping[str, str]) -> Detector:
    assert rows.train_N is not None
    plan = plan_of("series", len(rows.features), "default", options)
    columns = {rows.name: (rows.time_ms_N[rows.train_N], rows.x_NF[rows.train_N])}
    return fit_detector("series", rows.features, plan, columns, device=CPU)


def errors_of(detector: Detector, name: str, x_NF: FloatArray) -> Tensor:
    """Return every view's error of the window that ends in each row, error_NV."""
    scaling = detector.scaling.for_series(name)
    assert scaling is not None
    z_NF: npt.NDArray[np.float32] = detector.scaling.apply(x_NF, *scaling)
    return detector.errors_of_rows(padded(z_NF, detector.spec.window - 1))


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    groups: dict[str, list[dict[str, dict[Delay, float]]]] = {}
    for path in sorted(folder.glob("*/*.parquet")):
        rows = read_labelled(path)
        if rows.train_N is not None:
            groups.setdefault(rows.group, []).append(measured(rows))
    print("| VUS-PR, mean of groups | causal | settled |\n|---|---:|---:|")
    for name in (*VARIANTS, *SCALINGS):
        causal, settled = (
            np.mean([np.mean([one[name][delay] for one in each]) for each in groups.values()])
            for delay in (0, None)
        )
        print(f"| {name} | {causal:.3f} | {settled:.3f} |")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""What an evaluation says of one series, and `metrics.csv`, the table of it.

Any detector can be measured by this, ours or another: it takes scores and labels. One row stands for one series
(or table), architecture, seed, setting and way of scoring.

Legend: N scored rows.
"""

import csv
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from models.arrays import BoolArray, FloatArray
from models.evaluation import auc_pr, auroc, period, vus

Key = tuple[str, str, str, int, str, str]

CAUSAL, SETTLED = "causal", "settled"
_DELAY = "vus_pr_delay_"


@dataclass(frozen=True)
class Result:
    """One row of `metrics.csv`; an empty field was not measured."""

    group: str
    series: str
    architecture: str
    seed: int
    vus_pr_causal: float | None = None
    vus_pr_settled: float | None = None
    auc_pr_causal: float | None = None
    auc_pr_settled: float | None = None
    auroc: float | None = None
    """Of a series the settled scores'."""
    fit_s: float | None = None
    points_per_s: float | None = None
    """Rows of the whole series through causal and settled scoring, on one thread."""
    false_incidents_per_week: float | None = None
    """Of causal scores, with the budget of one a day: in a week of rows outside the widened labelled spans."""
    setting: str = ""
    """Of a table, with the seed: `S:0`."""
    online: str = ""
    """Of a series whose scores were recalibrated as it went on: its `accept_after`, or `never`; else empty."""
    vus_roc_causal: float | None = None
    vus_roc_settled: float | None = None
    auroc_causal: float | None = None
    false_incidents_1_per_day: int | None = None
    allowed_incidents_1_per_day: float | None = None
    """What the budget allows in the rows outside the widened labelled spans."""
    false_incidents_1_per_1000: int | None = None
    allowed_incidents_1_per_1000: float | None = None
    threshold_1_per_day: float | None = None
    period: int | None = None
    """The widest border of the volumes, in rows."""
    rows: int | None = None
    train_rows: int | None = None
    scored_rows: int | None = None
    labelled_rows: int | None = None
    """Among the scored ones."""
    features: int | None = None
    configuration: str = ""
    """A hash of all that the row depends on."""
    vus_pr_by_delay: Mapping[int, float] = field(default_factory=dict)
    """VUS-PR of scores that have seen so many later points; a column `vus_pr_delay_K` each."""

    @property
    def key(self) -> Key:
        """What there is one row of."""
        return self.group, self.series, self.architecture, self.seed, self.setting, self.online


def series_measures(
    result: Result, label_N: BoolArray, scores: Mapping[str, FloatArray], first_N: FloatArray
) -> Result:
    """Return `result` with the metrics of a series.

    Args:
        scores: under "causal", "settled", and "delay_K" for each further delay.
        first_N: the first feature over the scored rows: its period is the widest border.
    """
    widest = period(first_N)
    volumes = {name: vus(label_N, score_N, widest) for name, score_N in scores.items()}
    return replace(
        result,
        period=widest,
        vus_pr_causal=volumes[CAUSAL].pr,
        vus_pr_settled=volumes[SETTLED].pr,
        vus_roc_causal=volumes[CAUSAL].roc,
        vus_roc_settled=volumes[SETTLED].roc,
        auc_pr_causal=auc_pr(label_N, scores[CAUSAL]),
        auc_pr_settled=auc_pr(label_N, scores[SETTLED]),
        auroc_causal=auroc(label_N, scores[CAUSAL]),
        auroc=auroc(label_N, scores[SETTLED]),
        vus_pr_by_delay={
            int(name.removeprefix("delay_")): one.pr for name, one in volumes.items() if name.startswith("delay_")
        },
    )


def write_results(path: Path, results: Iterable[Result]) -> None:
    """Write `metrics.csv`, sorted, whole or not at all."""
    ordered = sorted(results, key=lambda result: result.key)
    delays = sorted({delay for result in ordered for delay in result.vus_pr_by_delay})
    named = [each.name for each in fields(Result) if each.name != "vus_pr_by_delay"]
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    with unfinished.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*named, *(f"{_DELAY}{delay}" for delay in delays)])
        for result in ordered:
            values = [getattr(result, name) for name in named] + [
                result.vus_pr_by_delay.get(delay) for delay in delays
            ]
            writer.writerow(["" if value is None else _text(value) for value in values])
    unfinished.replace(path)


def read_results(path: Path) -> list[Result]:
    """Return the rows of a `metrics.csv`.

    Raises:
        ValueError: it has no such columns, or a field that is no number.
    """
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        lacking = {"group", "series", "architecture", "seed"} - set(reader.fieldnames or ())
        if lacking:
            raise ValueError(f"{path}: there is no column `{min(lacking)}`; it is no table of `offkey evaluate`")
        return [_result(path, row) for row in reader]


def _result(path: Path, row: Mapping[str, str]) -> Result:
    known: dict[str, Any] = {}
    for each in fields(Result):
        text = row.get(each.name, "")
        if each.name == "vus_pr_by_delay" or not text:
            continue
        try:
            known[each.name] = _parsed(str(each.type), text)
        except ValueError as error:
            raise ValueError(
                f"{path}: column `{each.name}` of {row['series']} holds {text!r}, no number"
            ) from error
    delays = {
        int(name.removeprefix(_DELAY)): float(text)
        for name, text in row.items()
        if name.startswith(_DELAY) and text
    }
    return Result(**known, vus_pr_by_delay=delays)


def _parsed(kind: str, text: str) -> Any:
    if "str" in kind:
        return text
    return float(text) if "float" in kind else int(text)


def _text(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if abs(value) >= 1e5 else f"{value:.6g}"

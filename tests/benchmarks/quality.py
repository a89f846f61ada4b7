"""Tables for `results/README.md` from one or several `metrics.csv`, as Markdown.

    python -m tests.benchmarks.quality METRICS.csv... > tables.md

Seeds of a series are averaged first: a series is what varies, a seed only blurs it. Intervals are of 95%, by
bootstrap over series; of the mean of groups, within each group. A difference is taken between pairs: a series
that only one of the two has is left out, and counted.
"""

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from models.arrays import FloatArray
from pipeline.jobs.results import Result, read_results

Value = Callable[[Result], float | None]
Series = tuple[str, str]
"""Group and series."""

OURS, PEER = "default", "pyod-window-50"
_DRAWS = 10_000
_LEAST_SERIES = 6
"""Groups with fewer have no interval of their own."""


def named(field: str) -> Value:
    """Return what reads a field of a result."""

    def value(result: Result) -> float | None:
        found: float | None = getattr(result, field)
        return found

    return value


def at_delay(delay: int) -> Value:
    """Return what reads the VUS-PR of scores that waited for so many points."""
    return lambda result: result.vus_pr_by_delay.get(delay)


KINDS = {"settled": named("vus_pr_settled"), "causal": named("vus_pr_causal")}


def by_series(results: Iterable[Result], architecture: str, value: Value) -> dict[Series, float]:
    """Return each series' value, the mean over its seeds."""
    found: dict[Series, list[float]] = {}
    for result in results:
        one = value(result)
        if result.architecture == architecture and one is not None:
            found.setdefault((result.group, result.series), []).append(one)
    return {series: float(np.mean(values)) for series, values in sorted(found.items())}


def groups_of(values: Mapping[Series, float]) -> dict[str, FloatArray]:
    """Return the values of each group."""
    groups: dict[str, list[float]] = {}
    for (group, _), value in values.items():
        groups.setdefault(group, []).append(value)
    return {group: np.array(own) for group, own in groups.items()}


def interval(groups: Sequence[FloatArray]) -> tuple[float, float]:
    """Return the 95% interval of the mean of the groups' means; of one group, of its mean."""
    random = np.random.default_rng(0)
    drawn = [values[random.integers(0, len(values), (_DRAWS, len(values)))].mean(axis=1) for values in groups]
    low, high = np.quantile(np.mean(drawn, axis=0), [0.025, 0.975])
    return float(low), float(high)


def ratio_interval(counted: FloatArray, allowed: FloatArray) -> tuple[float, float]:
    """Return the 95% interval of the pooled ratio."""
    random = np.random.default_rng(0)
    drawn = random.integers(0, len(counted), (_DRAWS, len(counted)))
    low, high = np.quantile(counted[drawn].sum(axis=1) / allowed[drawn].sum(axis=1), [0.025, 0.975])
    return float(low), float(high)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table, its first column to the left."""
    lines = [header, ["---", *["--:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def group_means(results: Sequence[Result]) -> str:
    """Return VUS-PR by architecture, settled and causal; and how far the means of single seeds lie apart."""
    names = sorted({result.group for result in results if result.vus_pr_causal is not None})
    rows = []
    for architecture in _architectures(results):
        own = [result for result in results if result.architecture == architecture]
        seeds = sorted({result.seed for result in own})
        for kind, value in KINDS.items():
            means = _means(own, architecture, value)
            if means:
                cells = [_figure(means.get(name)) for name in names]
                alone = [_means([one for one in own if one.seed == seed], architecture, value) for seed in seeds]
                each = [mean for mean in (_mean(of_seed, names) for of_seed in alone) if mean is not None]
                apart = _figure(max(each) - min(each) if len(each) > 1 else None)
                rows.append(
                    [f"{architecture}, {kind}", *cells, _figure(_mean(means, names)), str(len(seeds)), apart]
                )
    return table(["VUS-PR", *names, "mean of groups", "seeds", "apart"], rows)


def _means(results: Iterable[Result], architecture: str, value: Value) -> dict[str, float]:
    return {name: float(own.mean()) for name, own in groups_of(by_series(results, architecture, value)).items()}


def differences(results: Sequence[Result], ours: str, peer: str) -> str:
    """Return ours less the peer's, with intervals over pairs."""
    rows = []
    left_out = 0
    for kind, value in KINDS.items():
        one, other = (by_series(results, name, value) for name in (ours, peer))
        pairs = {series: one[series] - other[series] for series in one if series in other}
        left_out = len(one.keys() ^ other.keys())
        if not pairs:
            return f"There is no series that both `{ours}` and `{peer}` have."
        groups = groups_of(pairs)
        everything = np.array(list(pairs.values()))
        rows.append(_difference(f"{kind}: mean of groups", list(groups.values())))
        rows.append(_difference(f"{kind}: all series", [everything]))
        rows.extend(
            _difference(f"{kind}: {name}", [own]) for name, own in groups.items() if len(own) >= _LEAST_SERIES
        )
    header = [f"{ours} less {peer}", "series", "difference", "95%", "series ahead"]
    note = f"\n\n{left_out} series stand in one of the two only and are left out." if left_out else ""
    return table(header, rows) + note


def _difference(name: str, groups: Sequence[FloatArray]) -> list[str]:
    everything = np.concatenate(groups)
    low, high = interval(groups)
    mean = float(np.mean([values.mean() for values in groups]))
    ahead = f"{(everything > 0).mean():.0%}"
    return [name, str(len(everything)), f"{mean:+.3f}", f"{low:+.3f} to {high:+.3f}", ahead]


def by_delay(results: Sequence[Result], architecture: str) -> str:
    """Return VUS-PR against the points that a score waits for."""
    delays = sorted({delay for result in results for delay in result.vus_pr_by_delay})
    columns: dict[str, Value] = {"0 (causal)": named("vus_pr_causal")}
    columns |= {str(delay): at_delay(delay) for delay in delays}
    columns["all (settled)"] = named("vus_pr_settled")
    means = {
        name: {group: own.mean() for group, own in groups_of(by_series(results, architecture, value)).items()}
        for name, value in columns.items()
    }
    names = sorted({group for column in means.values() for group in column})
    rows = [[name, *(_figure(means[column].get(name)) for column in columns)] for name in names]
    rows.append(["mean of groups", *(_figure(_mean(column, names)) for column in means.values())])
    return table([f"{architecture}, points waited for", *columns], rows)


def false_incidents(results: Sequence[Result], architecture: str) -> str:
    """Return false incidents against what both budgets allow, pooled and for each group.

    A series without a row outside its widened spans can have none, and has no part in it.
    """
    budgets = {
        "1 per day": ("false_incidents_1_per_day", "allowed_incidents_1_per_day"),
        "1 per 1,000": ("false_incidents_1_per_1000", "allowed_incidents_1_per_1000"),
    }
    rows = []
    for budget, fields in budgets.items():
        counted, allowed = (
            by_series((r for r in results if not r.setting), architecture, named(field)) for field in fields
        )
        quiet = [series for series in counted if allowed[series] > 0]
        groups = {group: [series for series in quiet if series[0] == group] for group, _ in quiet}
        for name, chosen in {"pooled": quiet, **groups}.items():
            if not chosen:
                continue
            found, may = (np.array([values[series] for series in chosen]) for values in (counted, allowed))
            told = "" if len(chosen) < _LEAST_SERIES else "{:.2f} to {:.2f}".format(*ratio_interval(found, may))
            ratio = f"{found.sum() / may.sum():.2f}"
            rows.append([f"{budget}: {name}", f"{found.sum():,.1f}", f"{may.sum():,.1f}", ratio, told])
    return table([f"{architecture}, false incidents", "counted", "allowed", "ratio", "95%"], rows)


def speeds(results: Sequence[Result], ours: str, peer: str) -> str:
    """Return points a second by number of features, where both were measured."""
    rows = []
    counts = sorted({result.features for result in results if result.features and not result.setting})
    for count in counts:
        medians = [
            [r.points_per_s for r in results if r.architecture == name and r.features == count and r.points_per_s]
            for name in (ours, peer)
        ]
        if all(medians):
            one, other = (float(np.median(values)) for values in medians)
            rows.append([str(count), f"{one:,.0f}", f"{other:,.0f}", f"{one / other:.1f}"])
    return table(["features", f"{ours}, points/s", f"{peer}, points/s", "ratio"], rows)


def tables(results: Sequence[Result]) -> str:
    """Return AUROC of tables, by architecture and setting."""
    chosen = [result for result in results if result.setting]
    settings = sorted({result.setting.split(":")[0] for result in chosen})
    names = sorted({result.series for result in chosen})
    rows = []
    for architecture in _architectures(chosen):
        for setting in settings:
            own = [one for one in chosen if one.setting.split(":")[0] == setting]
            values = {name: value for (_, name), value in by_series(own, architecture, named("auroc")).items()}
            cells = [_figure(values.get(name)) for name in names]
            rows.append([f"{architecture}, {setting}", *cells, _figure(_mean(values, names))])
    return table(["AUROC", *names, "mean"], rows)


def _architectures(results: Sequence[Result]) -> list[str]:
    """Return them, the default first and others by name."""
    return sorted({result.architecture for result in results}, key=lambda name: (name != OURS, name))


def _mean(values: Mapping[str, float], names: Sequence[str]) -> float | None:
    """Return the mean where there is a value for each name: a mean of some would flatter or shame."""
    return float(np.mean([values[name] for name in names])) if set(names) <= values.keys() else None


def _figure(value: Any) -> str:
    return "" if value is None else f"{value:.3f}"


def report(results: Sequence[Result], ours: str, peer: str) -> str:
    """Return all tables that there are figures for."""
    series = [result for result in results if result.vus_pr_causal is not None]
    parts = []
    if series:
        parts += [group_means(series), differences(series, ours, peer)]
        parts += [by_delay(series, ours), false_incidents(series, ours), speeds(series, ours, peer)]
    if any(result.setting for result in results):
        parts.append(tables(results))
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description="Quality tables from metrics.csv files.")
    parser.add_argument("metrics", nargs="+", type=Path)
    parser.add_argument("--ours", default=OURS)
    parser.add_argument("--peer", default=PEER)
    asked = parser.parse_args()
    results = {result.key: result for path in asked.metrics for result in read_results(path)}
    print(report(list(results.values()), asked.ours, asked.peer))


if __name__ == "__main__":
    main()

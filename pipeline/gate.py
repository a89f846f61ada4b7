"""The gate: whether a challenger takes the champion's place, judged on data that it has not learned from.

Both score the held out span as a worker does (`pipeline.trial`), with and without injected anomalies
(`pipeline.held_out`). A challenger is accepted if it is **sound**, **calibrated**, **no worse** and **better**;
whatever it lacks is a reason, and a refusal is a value. "Beyond chance" is what happens to a model that is just
good enough in one of a hundred comparisons.

- Sound: its weights and scores are numbers.
- Calibrated: its false incidents in the span are no more than a model at `_FACTOR` times the budget would raise by
  chance, by Poisson's distribution. A span of days holds few incidents of a budget of one a week, so the same is
  asked of a budget of which the span holds `_ENOUGH`. Nor is it alarmed for more than a tenth of the span, which
  one endless incident can bring. Too few incidents are no fault here: what they may hide is missed anomalies. Real
  faults in the span that no excluded span covers count as false, for either model.
- No worse: of the anomalies that one of both finds and the other does not, it finds no fewer beyond chance, by the
  sign test, and by more than `_GAIN` of all; of no kind are there fewer, with a tenth of that chance; and the
  distance of values from the expected ones, in pairs of blocks of rows, is not larger beyond chance by more than
  `_GAIN`. Anomalies where a model is alarmed anyway do not count.
- Better in one of these: the champion is not calibrated; it finds more anomalies, beyond chance and by more than
  `_GAIN` of all; values lie nearer to the expected ones beyond chance, by `_GAIN` at least. The margins keep models
  that differ in nothing but their newest rows from replacing one another every night.

Scores and incidents mean the same of any model, so a champion with other windows, or one that knows some of the
features only, is compared like any other; the distance then needs equal features.

The first model of a stream, and one that follows a champion which a worker could not start with (features that are
gone, a window that the configuration has changed, damaged, not sound), has nobody to beat. It is sound and
calibrated, and finds half of the large anomalies, or is not below that beyond chance. So a model whose one fault is
a budget that is hardly used does serve.

What is not told apart is not refused: a loss of one anomaly in fifty takes more than the hundred or so that a short
span holds. How often the gate errs is measured by `tests/benchmarks/gate_power.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from models.arrays import BoolArray
from models.detector import Detector
from models.injection import Anomaly
from pipeline.alert_settings import AlertSettings
from pipeline.budgets import Budget, parse_budget
from pipeline.chance import binomial_at_least, most_by_chance, sign_test
from pipeline.held_out import SIZES, HeldOut, rounds_of
from pipeline.trial import LATE, Trial, tried
from pipeline.versions.origin import GateResult, GateRow

_CHANCE = 0.01
_CHANCE_OF_KIND = 0.001
_FACTOR = 2.0
"""Times the budget that a model may raise: on measured series, calibrated models raise .4 to 1.9 times it."""
_ENOUGH = 10.0
_MOST_ALARMED, _USUAL_POINTS = 0.1, 16
"""A generous budget allows more: an incident of noise lasts about so many points, the quiet ones at its end too."""
_GAIN = 0.05
_LARGE_FOUND = 0.5
_LEAST_FOUND = 10
"""Large anomalies without which nothing is said of how many are found."""
_LEAST = 1e-6
"""Distances below this, in spreads, are none."""


def judge(
    champion: Detector | None,
    challenger: Detector,
    held: HeldOut,
    alerts: AlertSettings,
    *,
    halvings: int = 0,
    seed: int = 0,
) -> GateResult:
    """Compare two detectors on a held out span.

    Args:
        champion: what a worker would serve, be it with some of the features; None where there is nothing to beat.
        challenger: made for the kind and the features of the span.
        held: what both are compared on; some of its rows count.
        alerts: the stream's settings.
        halvings: how often the stream's budget halves that of a series, see `pipeline.stages.thresholds`.
        seed: of injected anomalies.
    """
    if not has_finite_weights(challenger):
        return _unsound("weights", champion, held)
    budgets = _budgets(alerts, held, halvings)
    window = max(each.spec.window for each in (challenger, champion) if each is not None)
    gap, late = (window + alerts.quiet_points + LATE, LATE) if held.kind == "series" else (1, 0)
    rounds = rounds_of(held, gap, late, seed)
    asked = [each.budget for each in budgets]
    new = tried(challenger, held, rounds, alerts, asked)
    if not new.finite:
        return _unsound("scores", champion, held)
    old = None
    if champion is not None and has_finite_weights(champion):
        own = held.of_features(champion.spec.features)
        old = tried(champion, own, [one.of_features(held, own) for one in rounds], alerts, asked)
    anomalies = [injected.anomaly for one in rounds for _, injected in one.anomalies]
    if old is None or not old.finite:
        return _first(new, budgets, anomalies, held)
    assert champion is not None
    same = champion.spec.features == challenger.spec.features
    return _compared(old, new, budgets, anomalies, held, same)


def has_finite_weights(detector: Detector) -> bool:
    """Tell whether all weights of a detector, and what it scales and is calibrated by, are numbers."""
    arrays = [tensor.cpu().numpy() for view in detector.views for tensor in view.state_dict().values()]
    arrays += detector.scaling.arrays().values()
    for judgement in detector.calibration.judgements.values():
        tail = judgement.tail
        tensors = (tail.error_knots, tail.surprise_knots, tail.slope, judgement.reference_V)
        arrays += [tensor.cpu().numpy() for tensor in tensors]
        arrays.append(np.array([*judgement.quantiles_of_series.values()]))
    return all(bool(np.isfinite(array).all()) for array in arrays)


@dataclass(frozen=True, slots=True)
class _Allowed:
    """A budget, and what it comes to in a held out span."""

    text: str
    budget: Budget
    incidents: float

    @property
    def most(self) -> int:
        """The largest number of incidents that chance makes of a budget exceeded by no more than `_FACTOR`."""
        return most_by_chance(_FACTOR * self.incidents, _CHANCE)


def _budgets(alerts: AlertSettings, held: HeldOut, halvings: int) -> list[_Allowed]:
    """Return the stream's budget and, where the span holds few incidents of it, one of which it holds enough."""
    whole = parse_budget(alerts.budget)
    own = replace(whole, incidents=whole.incidents / 2.0**halvings)
    allowed = sum(
        # More than one a point is none that a model could raise.
        float(counted_N.sum()) / max(float(own.points_per_incident(held.interval_ms(name))), 1.0)
        for name, counted_N in held.counted.items()
    )
    text = (
        alerts.budget if not halvings else f"{alerts.budget}, of which the stream's budget leaves 1/{2**halvings}"
    )
    budgets = [_Allowed(text, own, allowed)]
    if allowed < _ENOUGH:
        points = max(held.rows / _ENOUGH, 1.0)
        budgets.append(_Allowed(f"1 per {points:,.0f} points", Budget(1.0, per_records=points), held.rows / points))
    return budgets


def _unsound(what: str, champion: Detector | None, held: HeldOut) -> GateResult:
    reason = f"not sound: some of its {what} are no finite numbers; lower `learning_rate`, or look at the records"
    return GateResult(False, "first" if champion is None else "champion", (reason,), (), held.rows, 0)


def _first(new: Trial, budgets: Sequence[_Allowed], anomalies: Sequence[Anomaly], held: HeldOut) -> GateResult:
    rows, reasons = _calibrated(None, new, budgets, held)
    kept_I = ~new.alarmed_I
    rows += _by_fault(None, new, anomalies, kept_I)
    large_I = kept_I & np.array([one.size >= SIZES[-1] for one in anomalies], np.bool_)
    found, there = int(new.found_I[large_I].sum()), int(large_I.sum())
    if there >= _LEAST_FOUND:
        blind = 1 - binomial_at_least(found + 1, there, _LARGE_FOUND) < _CHANCE
        limit = f"{_LARGE_FOUND:.0%}, or no less beyond chance, of {there:,} of {SIZES[-1]:g} spreads"
        rows.append(GateRow("large anomalies found", None, round(found / there, 4), limit, not blind))
        if blind:
            reasons.append(
                f"blind: it finds {found:,} of {there:,} anomalies of {SIZES[-1]:g} spreads; look at the features, "
                "or at a longer history"
            )
    accepted = ("sound and calibrated, and there is no champion that a worker could start with",)
    return GateResult(not reasons, "first", tuple(reasons) or accepted, tuple(rows), held.rows, len(anomalies))


def _compared(
    old: Trial,
    new: Trial,
    budgets: Sequence[_Allowed],
    anomalies: Sequence[Anomaly],
    held: HeldOut,
    same_features: bool,
) -> GateResult:
    rows, reasons = _calibrated(old, new, budgets, held)
    better = [f"the champion is {fault}" for fault in _calibrated(None, old, budgets, held)[1][:1]]
    kept_I = ~(old.alarmed_I | new.alarmed_I)
    lost, gained = _changes(old, new, kept_I)
    margin = _GAIN * int(kept_I.sum())
    fewer = lost - gained > margin and sign_test(lost, gained) < _CHANCE
    more = gained - lost > margin and sign_test(gained, lost) < _CHANCE
    limit = f"no fewer beyond chance; {lost:,} lost, {gained:,} gained of {int(kept_I.sum()):,}"
    before, now = (_share(each.found_I[kept_I]) for each in (old, new))
    rows.append(GateRow("anomalies found", before, now, limit, not fewer))
    of_faults = _by_fault(old, new, anomalies, kept_I)
    rows += of_faults
    if fewer:
        reasons.append(f"worse: it misses {lost:,} anomalies that the champion finds, and gains {gained:,}")
    else:
        reasons += [f"worse: {row.measure}, {row.limit}" for row in of_faults if not row.ok]
    if more:
        better.append(f"it finds {gained:,} anomalies that the champion misses, and loses {lost:,}")
    row, distance = _distance(old, new, same_features)
    rows.append(row)
    if distance == "further":
        reasons.append(f"worse: values lie further from the expected ones, {row.limit}")
    elif distance == "nearer":
        better.append(f"values lie nearer to the expected ones, {row.limit}")
    if not reasons and not better:
        reasons.append(
            "not better: neither nearer to the values, nor does it find more, and the champion is calibrated"
        )
    return GateResult(not reasons, "champion", tuple(reasons or better), tuple(rows), held.rows, len(anomalies))


def _calibrated(
    old: Trial | None, new: Trial, budgets: Sequence[_Allowed], held: HeldOut
) -> tuple[list[GateRow], list[str]]:
    """Return how often and how long the models are alarmed, and why the new one is not calibrated."""
    rows, reasons = [], []
    for at, each in enumerate(budgets):
        opened, of_old = new.opened[at], None if old is None else float(old.opened[at])
        limit = f"{each.most:,} at most; the budget allows {each.incidents:.1f}"
        rows.append(GateRow(f"false incidents, {each.text}", of_old, float(opened), limit, opened <= each.most))
        if opened > each.most:
            reasons.append(
                f"not calibrated: {opened:,} false incidents where {each.text} allows {each.incidents:.1f}"
            )
    alarmed = None if old is None else round(old.alarmed, 4)
    most = max(_MOST_ALARMED, budgets[0].most * _USUAL_POINTS / max(held.rows, 1))
    ok = new.alarmed <= most
    rows.append(GateRow("share of time alarmed", alarmed, round(new.alarmed, 4), f"{most:.2g} at most", ok))
    if not ok:
        reasons.append(f"not calibrated: alarmed for {new.alarmed:.0%} of the time")
    return rows, reasons


def _changes(old: Trial, new: Trial, chosen_I: BoolArray) -> tuple[int, int]:
    """Return how many of these anomalies only the old model finds, and how many only the new one."""
    before_I, now_I = old.found_I[chosen_I], new.found_I[chosen_I]
    return int((before_I & ~now_I).sum()), int((now_I & ~before_I).sum())


def _by_fault(old: Trial | None, new: Trial, anomalies: Sequence[Anomaly], kept_I: BoolArray) -> list[GateRow]:
    """Return how many anomalies of each kind are found."""
    rows = []
    for fault in sorted({one.fault for one in anomalies}):
        of_it_I = kept_I & np.array([one.fault == fault for one in anomalies], np.bool_)
        share = _share(new.found_I[of_it_I])
        if old is None:
            rows.append(GateRow(f"{fault} found", None, share, f"of {int(of_it_I.sum()):,}"))
            continue
        lost, gained = _changes(old, new, of_it_I)
        limit = f"{lost:,} lost, {gained:,} gained of {int(of_it_I.sum()):,}"
        ok = sign_test(lost, gained) >= _CHANCE_OF_KIND
        rows.append(GateRow(f"{fault} found", _share(old.found_I[of_it_I]), share, limit, ok))
    return rows


def _distance(old: Trial, new: Trial, same_features: bool) -> tuple[GateRow, Literal["nearer", "further", "alike"]]:
    """Compare how far values lie from the expected ones, block by block."""
    before, now = (round(float(np.median(each.error_B)), 4) if len(each.error_B) else None for each in (old, new))
    measure = "distance from expected values, in spreads"
    if not same_features:
        return GateRow(measure, before, now, "not compared: the champion knows other features"), "alike"
    ratio_B = np.log(np.maximum(new.error_B, _LEAST)) - np.log(np.maximum(old.error_B, _LEAST))
    gain = np.log1p(_GAIN)
    further, nearer = int((ratio_B > gain).sum()), int((ratio_B < -gain).sum())
    said: Literal["nearer", "further", "alike"] = "alike"
    if sign_test(further, len(ratio_B) - further) < _CHANCE:
        said = "further"
    elif sign_test(nearer, len(ratio_B) - nearer) < _CHANCE:
        said = "nearer"
    limit = f"by {_GAIN:.0%} further in {further:,} of {len(ratio_B):,} blocks, nearer in {nearer:,}"
    return GateRow(measure, before, now, limit, said != "further"), said


def _share(found_I: BoolArray) -> float | None:
    return round(float(found_I.mean()), 4) if len(found_I) else None

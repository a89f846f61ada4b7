"""Each rule of the gate, with real detectors on small streams."""

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from models.arrays import FloatArray
from models.dataset import Columns
from models.detector import Detector
from models.spec import ModelSpec
from pipeline.alert_settings import AlertSettings
from pipeline.excluded import Span
from pipeline.gate import has_finite_weights, judge
from pipeline.held_out import HeldOut, cut_of, held_out_of
from pipeline.versions.origin import GateResult, GateRow
from tests.streams import (
    BEGIN_MS,
    FEATURES,
    SERIES,
    STEP_MS,
    feature_rows,
    features_detector,
    fit,
    series_detector,
    series_rows,
)

NAMES = ["a", "b", "c"]
ROWS, CUT = 1500, 1200
SPEC = ModelSpec("series", ("cpu", "mem"), 8)
Change = Callable[[FloatArray], None]


def columns_of(x_STF: FloatArray) -> Columns:
    return {
        name: (BEGIN_MS + STEP_MS * np.arange(len(x_TF)), x_TF) for name, x_TF in zip(NAMES, x_STF, strict=True)
    }


def history(change: Change = lambda x_STF: None) -> Columns:
    x_STF = series_rows(NAMES, ROWS, 5, {})
    change(x_STF)
    return columns_of(x_STF)


@cache
def trained(begin: int, end: int, change: Change = lambda x_STF: None, architecture: str = "vanilla") -> Detector:
    """A detector that has learned these rows of each series."""
    options = {"latent": 4} if architecture == "linear" else {"hidden": 16, "max_epochs": 6}
    rows = {name: (time_ms_T[begin:end], x_TF[begin:end]) for name, (time_ms_T, x_TF) in history(change).items()}
    return fit(SPEC, architecture, options, rows)


def test_a_budget_allows_no_more_than_one_incident_a_point() -> None:
    held = held_of(history())
    verdict = judge(None, trained(0, CUT), held, AlertSettings.model_validate({"budget": "1000 per 1 records"}))
    assert verdict.rows[0].limit.endswith(f"the budget allows {held.rows:.1f}")


def held_of(columns: Columns, spans: tuple[Span, ...] = ()) -> HeldOut:
    cut = cut_of("series", columns)
    assert set(cut.values()) == {CUT}
    return held_out_of("series", ["cpu", "mem"], columns, cut, spans, 8, 0)


def judged(champion: Detector | None, challenger: Detector, held: HeldOut, **alerts: Any) -> GateResult:
    return judge(champion, challenger, held, SERIES.alerts.model_copy(update=alerts))


def row(verdict: GateResult, measure: str) -> GateRow:
    (found,) = (each for each in verdict.rows if each.measure.startswith(measure))
    return found


def outage(x_STF: FloatArray) -> None:
    """What it looks like when half of the history was one."""
    x_STF[:, 300:700] = 0
    x_STF[:, 800:900] += 6


def shift(x_STF: FloatArray) -> None:
    """Another level, for good."""
    x_STF[:, 600:] += 4


def late_shift(x_STF: FloatArray) -> None:
    x_STF[:, 1150:] += 4


def test_the_champion_does_not_replace_itself() -> None:
    champion = trained(0, 600)
    verdict = judged(champion, champion, held_of(history()))
    assert not verdict.accepted
    assert verdict.rule == "champion"
    assert verdict.reasons == (
        "not better: neither nearer to the values, nor does it find more, and the champion is calibrated",
    )
    assert (verdict.held_out_rows, verdict.anomalies) == (900, 216)
    assert all(each.champion == each.challenger and each.ok for each in verdict.rows)
    assert row(verdict, "anomalies found").limit == "no fewer beyond chance; 0 lost, 0 gained of 216"


def test_one_that_learned_more_of_the_same_reconstructs_better() -> None:
    verdict = judged(trained(0, 600), trained(0, CUT), held_of(history()))
    assert verdict.accepted, verdict
    assert any(reason.startswith("values lie nearer") for reason in verdict.reasons)


def test_one_that_learned_an_outage_is_refused() -> None:
    held = held_of(history(outage))
    verdict = judged(trained(0, 300, outage), trained(0, CUT, outage), held)
    assert not verdict.accepted
    assert any(reason.startswith("worse: it misses") for reason in verdict.reasons), verdict
    found = row(verdict, "anomalies found")
    assert found.ok is False
    assert found.champion is not None
    assert found.challenger is not None
    assert found.challenger < found.champion / 2


def test_after_a_level_shift_the_challenger_wins() -> None:
    verdict = judged(trained(0, 600, shift), trained(620, CUT, shift), held_of(history(shift)))
    assert verdict.accepted, verdict
    assert any(reason.startswith("it finds") for reason in verdict.reasons)


def test_a_champion_that_is_always_alarmed_has_lost() -> None:
    """The shift is too young to be accepted. One incident goes on and on, which no budget counts."""
    held = held_of(history(late_shift))
    verdict = judged(series_detector(), trained(620, CUT, shift), held, accept_after=7 * 86_400)
    alarmed = row(verdict, "share of time alarmed")
    assert alarmed.champion is not None
    assert alarmed.champion > 0.9
    assert verdict.accepted, verdict
    assert verdict.reasons[0].startswith("the champion is not calibrated: alarmed for ")


def test_one_that_is_always_alarmed_is_refused() -> None:
    held = held_of(history(late_shift))
    verdict = judged(trained(620, CUT, shift), series_detector(), held, accept_after=7 * 86_400)
    assert not verdict.accepted
    assert any(reason.startswith("not calibrated: alarmed for ") for reason in verdict.reasons), verdict


def test_one_that_raises_too_many_incidents_is_not_calibrated() -> None:
    """Bursts that no excluded span covers are false incidents, for the champion too."""

    def bursts(x_STF: FloatArray) -> None:
        for begin in range(CUT + 10, ROWS, 40):
            x_STF[:, begin : begin + 3] += 6

    verdict = judged(trained(0, 600), trained(0, CUT), held_of(history(bursts)))
    assert not verdict.accepted
    opened = row(verdict, "false incidents, 1 per day")
    assert opened.ok is False
    assert opened.challenger is not None
    assert opened.challenger > 10
    said = f"not calibrated: {opened.challenger:.0f} false incidents where 1 per day allows 0.6"
    assert verdict.reasons[0] == said
    assert opened.champion is not None
    assert opened.champion > 10


def spoiled(value: float, what: str) -> Detector:
    detector = copy.deepcopy(trained(0, CUT))
    if what == "weight":
        with torch.no_grad():
            next(iter(detector.views[0].parameters())).view(-1)[0] = value
    else:
        detector.calibration.of(0).tail.slope.fill_(value)
    return detector


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("what", ["weight", "tail"])
def test_weights_that_are_no_numbers_are_refused(value: float, what: str) -> None:
    challenger = spoiled(value, what)
    assert has_finite_weights(trained(0, CUT))
    assert not has_finite_weights(challenger)
    for champion in (None, trained(0, 600)):
        verdict = judged(champion, challenger, held_of(history()))
        assert not verdict.accepted
        assert verdict.reasons[0].startswith("not sound: some of its weights are no finite numbers; ")


def test_a_champion_that_is_not_sound_has_nothing_to_defend() -> None:
    verdict = judged(spoiled(np.nan, "weight"), trained(0, CUT), held_of(history()))
    assert (verdict.accepted, verdict.rule) == (True, "first")


def test_scores_that_are_no_numbers_are_refused() -> None:
    """Weights that overflow only when they are used."""
    challenger = copy.deepcopy(trained(0, CUT))
    with torch.no_grad():
        for parameter in challenger.views[0].parameters():
            parameter.mul_(1e30)
    assert has_finite_weights(challenger)
    verdict = judged(trained(0, 600), challenger, held_of(history()))
    assert not verdict.accepted


def test_the_first_model_has_to_be_calibrated_and_to_find_what_is_large() -> None:
    verdict = judged(None, trained(0, CUT), held_of(history()))
    assert (verdict.accepted, verdict.rule) == (True, "first")
    large = row(verdict, "large anomalies found")
    assert large.challenger is not None
    assert large.challenger > 0.9
    assert {each.champion for each in verdict.rows} == {None}


def test_a_first_model_that_is_blind_is_refused() -> None:
    verdict = judged(None, trained(0, CUT, outage), held_of(history(outage)))
    assert (verdict.accepted, verdict.rule) == (False, "first")
    assert any(reason.startswith("blind: it finds ") for reason in verdict.reasons), verdict


def test_a_budget_that_is_hardly_used_is_no_fault_of_a_first_model() -> None:
    """The span is calmer than what was learned."""

    def calmer(x_STF: FloatArray) -> None:
        x_STF[:, CUT:] = 0.95 * series_rows(NAMES, ROWS, 5, {}, noise=0.02)[:, CUT:]

    verdict = judged(None, trained(0, CUT), held_of(history(calmer)), budget="40 per day")
    opened = row(verdict, "false incidents")
    assert (opened.challenger, opened.limit) == (0, "67 at most; the budget allows 25.0")
    assert verdict.accepted, verdict


def test_what_happens_in_an_excluded_span_does_not_count() -> None:
    def spikes(x_STF: FloatArray) -> None:
        for begin in range(CUT + 10, CUT + 140, 30):
            x_STF[:, begin : begin + 3] += 6

    columns = history(spikes)
    span = Span("*", BEGIN_MS + STEP_MS * CUT, BEGIN_MS + STEP_MS * (CUT + 140), "incident")
    open_, excluded = (judged(None, trained(0, CUT), held_of(columns, spans)) for spans in ((), (span,)))
    assert not open_.accepted
    assert excluded.accepted, excluded
    assert excluded.held_out_rows == 3 * (300 - 148)


def test_features_are_compared_record_by_record() -> None:
    rows_NF = feature_rows(4000, 7)
    columns = {"": (BEGIN_MS + 1000 * np.arange(4000), rows_NF)}
    held = held_out_of("features", ["a", "b", "c"], columns, cut_of("features", columns), (), 0, 0)
    verdict = judge(features_detector(), features_detector(), held, FEATURES.alerts)
    assert not verdict.accepted
    assert {each.measure.split(" ")[0] for each in verdict.rows} >= {"spike", "correlation"}
    assert not any(each.measure.startswith(("level", "flat", "drift", "period")) for each in verdict.rows)
    first = judge(None, features_detector(), held, FEATURES.alerts)
    assert first.accepted, first


def test_a_verdict_is_the_same_each_time_and_goes_through_json() -> None:
    one, again = (judged(trained(0, 600), trained(0, CUT), held_of(history())) for _ in range(2))
    assert one == again
    assert msgspec.json.decode(msgspec.json.encode(one), type=GateResult) == one


def test_a_budget_of_the_stream_halves_what_a_series_may_raise() -> None:
    held = held_of(history())
    whole, half = (
        judge(None, trained(0, CUT), held, SERIES.alerts, halvings=halvings).rows[0].limit for halvings in (0, 1)
    )
    assert (whole, half) == ("4 at most; the budget allows 0.6", "3 at most; the budget allows 0.3")


def test_a_delay_is_judged_as_the_worker_judges() -> None:
    held, alerts = held_of(history()), AlertSettings(budget="1 per day", delay=4)
    causal = judged(None, trained(0, CUT), held)
    assert judge(None, trained(0, CUT), held, alerts).rows != causal.rows

"""One model on the held out span, as a worker would run it: incidents, anomalies found, errors of reconstruction.

Scores are those of the stream's delay, recalibrated online from where training leaves each series. A model first
runs through what lies before the cut, so it has accepted and followed what its worker has by then; a challenger,
which learned from these rows, does as if it had served all along. Thresholds follow from the stream's budgets and
each series' own interval, and the stage of incidents counts.

An anomaly is found where an incident begins in it, or shortly after its end. Where a model is alarmed though
nothing was put there, nothing can be said of it.

Legend: T rows of a series, N held out rows of it, I anomalies, B blocks of rows, F features, S series.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models.arrays import BoolArray, FloatArray
from models.dataset import padded
from models.detector import Detector, windows_of_rows
from models.injection import Injected
from models.online_tail import SERIES_PACE, STREAM_PACE, OnlineTail
from models.scaling import LIMIT, Scaling
from pipeline.alert_settings import AlertSettings
from pipeline.budgets import Budget
from pipeline.held_out import HeldOut, Round
from pipeline.jobs.false_incidents import followed
from pipeline.stages.incidents import ENDS, STARTS

LATE = 16
"""An incident may begin so many rows after an anomaly's end."""
BLOCK = 32
"""Rows whose errors make one: neighbours err alike."""
_MOST_EXPLAINED, _MOST_EXPLAINED_VALUES = 50_000, 2**24
"""Rows whose reconstruction is compared; of images these many values."""


@dataclass(frozen=True)
class Trial:
    """What one model made of the held out span."""

    finite: bool
    """Whether each score is a number; where not, nothing below counts."""
    opened: Sequence[int]
    """Incidents, reopened ones too, under each of the budgets."""
    alarmed: float
    """Share of the rows that count in which an incident is open, under the first budget."""
    found_I: BoolArray
    """Which anomalies it found, in the order of the rounds, under the first budget."""
    alarmed_I: BoolArray
    """Where it is alarmed without the anomaly."""
    error_B: FloatArray
    """Median distance of values from the expected ones, as an alert would name them, in spreads, by block."""


def tried(
    detector: Detector,
    held: HeldOut,
    rounds: Sequence[Round],
    alerts: AlertSettings,
    budgets: Sequence[Budget],
) -> Trial:
    """Run a model over the held out span, and over it with anomalies.

    Args:
        detector: made for the kind and the features of the span.
        budgets: false incidents of one series; the first is that of its alerts.
    """
    return _Run(detector, held, alerts).trial(rounds, budgets)


class _Run:
    def __init__(self, detector: Detector, held: HeldOut, alerts: AlertSettings) -> None:
        self._detector, self._held, self._alerts = detector, held, alerts
        self._judgement = detector.calibration.of(alerts.delay if held.kind == "series" else 0)
        self._device = detector.views[0].step_F.device
        self._names = list(held.columns)
        self._slots = np.arange(len(self._names))
        self._scale = {name: self._scale_of(name) for name in self._names}
        # The windows near the first held out row reach back so far.
        self._back = {name: min(held.cut[name], 2 * detector.spec.window) for name in self._names}
        self._clean: dict[str, Tensor] = {}
        """Surprise of the held out rows as they are."""
        self._tail = self._begun()
        self._follow(self._tail, [self._surprise(name, x_TF)[: held.cut[name]] for name, x_TF in self._rows()])

    def trial(self, rounds: Sequence[Round], budgets: Sequence[Budget]) -> Trial:
        clean, accepted = self._scored({})
        if not all(np.isfinite(score_N).all() for score_N in clean):
            none = np.zeros(0, np.bool_)
            return Trial(False, [0] * len(budgets), 0.0, none, none, np.zeros(0))
        opened, alarmed = [], dict[str, BoolArray]()
        for budget in budgets:
            each = [self._alarms(*one, budget) for one in zip(self._names, clean, accepted, strict=True)]
            counted = [self._held.counted[name] for name in self._names]
            opened.append(sum(int(begun_N[c_N].sum()) for (begun_N, _), c_N in zip(each, counted, strict=True)))
            alarmed = alarmed or {name: open_N for name, (_, open_N) in zip(self._names, each, strict=True)}
        share = sum(int((open_N & self._held.counted[name]).sum()) for name, open_N in alarmed.items())
        found_I = [hit for one in rounds for hit in self._found(one, budgets[0])]
        alarmed_I = [bool(alarmed[name][self._at(where)].any()) for one in rounds for name, where in one.anomalies]
        return Trial(
            True,
            opened,
            share / max(self._held.rows, 1),
            np.array(found_I, np.bool_),
            np.array(alarmed_I, np.bool_),
            self._errors(),
        )

    def _at(self, where: Injected) -> slice:
        """Return the rows in which an anomaly may be found."""
        return slice(where.begin, where.end + (LATE if self._held.kind == "series" else 0))

    def _found(self, one: Round, budget: Budget) -> list[bool]:
        scores, accepted = self._scored(one.values)
        begun = {
            name: self._alarms(name, scores[place], accepted[place], budget)[0]
            for place, name in enumerate(self._names)
            if name in one.values
        }
        return [bool(begun[name][self._at(where)].any()) for name, where in one.anomalies]

    def _rows(self) -> list[tuple[str, FloatArray]]:
        return [(name, x_TF) for name, (_, x_TF) in self._held.columns.items()]

    def _scale_of(self, name: str) -> tuple[FloatArray, FloatArray]:
        scaling = self._detector.scaling
        if self._held.kind != "series":
            return scaling.center_F, scaling.scale_F
        first_TF = self._held.columns[name][1][: self._detector.spec.window]
        return scaling.for_series(name) or scaling.for_new(first_TF)

    def _scaled(self, name: str, x_TF: FloatArray) -> npt.NDArray[np.float32]:
        return padded(Scaling.apply(x_TF, *self._scale[name]), self._detector.spec.window - 1)

    @torch.no_grad()
    def _surprise(self, name: str, x_TF: FloatArray) -> Tensor:
        error_TV = self._detector.errors_of_rows(self._scaled(name, x_TF))
        return self._judgement.of_points(self._judgement.reach.point_errors_of_series(error_TV))

    def _begun(self) -> OnlineTail:
        series = self._held.kind == "series"
        pace = SERIES_PACE if series else STREAM_PACE
        tail = self._judgement.online_tail(self._device, pace, accepting=series)
        tail.begin(self._slots, self._names if series else ["" for _ in self._names])
        if series:
            interval_ms = np.array([self._held.interval_ms(name) for name in self._names])
            after_s = self._alerts.accept_after
            points = self._detector.points_to_accept(None if after_s is None else 1000 * after_s, interval_ms)
            tail.accept_after(self._slots, points)
        return tail

    def _scored(self, values: Mapping[str, FloatArray]) -> tuple[list[FloatArray], list[BoolArray]]:
        """Return (the scores of each series' held out rows, with which of them a level was accepted)."""
        tail = self._begun()
        tail.scatter(self._slots, self._tail.gather(self._slots))
        surprise = []
        for name, x_TF in self._rows():
            cut, back = self._held.cut[name], self._back[name]
            if name in values:
                rows_TF = np.concatenate([x_TF[cut - back : cut], values[name]])
                surprise.append(self._surprise(name, rows_TF)[back:])
                continue
            if name not in self._clean:
                self._clean[name] = self._surprise(name, x_TF[cut - back :])[back:]
            surprise.append(self._clean[name])
        return self._follow(tail, surprise)

    def _follow(self, tail: OnlineTail, surprise: Sequence[Tensor]) -> tuple[list[FloatArray], list[BoolArray]]:
        lengths = [len(surprise_N) for surprise_N in surprise]
        score_K, accepted_K = tail.follow(np.repeat(self._slots, lengths), torch.cat(list(surprise)))
        borders = np.cumsum(lengths)[:-1]
        scores = np.split(score_K.cpu().numpy().astype(np.float64), borders)
        return scores, np.split(accepted_K.cpu().numpy(), borders)

    def _alarms(
        self, name: str, score_N: FloatArray, accepted_N: BoolArray, budget: Budget
    ) -> tuple[BoolArray, BoolArray]:
        """Tell of each held out row whether an incident begins there, and whether one is open."""
        points = np.array([float(budget.points_per_incident(self._held.interval_ms(name)))])
        of_series = name if self._held.kind == "series" else ""
        threshold = float(self._judgement.thresholds([of_series], points)[0])
        if self._held.kind != "series":
            return score_N >= threshold, score_N >= threshold
        time_ms_N = self._held.columns[name][0][self._held.cut[name] :]
        begun_N, open_N = np.zeros(len(score_N), np.bool_), np.zeros(len(score_N), np.bool_)
        since = -1
        for one in followed(time_ms_N, score_N, accepted_N, threshold, self._alerts):
            if one.state in STARTS:
                since, begun_N[one.position] = one.position, True
            elif one.state in ENDS:
                open_N[since : one.position + 1] = True
                since = -1
        if since >= 0:
            open_N[since:] = True
        return begun_N, open_N

    @torch.no_grad()
    def _errors(self) -> FloatArray:
        """Return the median error of each block of rows that all count."""
        found, rows = list[FloatArray](), 0
        for name, x_TF in self._rows():
            if rows >= _MOST_EXPLAINED:
                break
            cut, window = self._held.cut[name], self._detector.spec.window
            if self._held.image is not None:
                x_TF = x_TF[: cut + max(BLOCK, _MOST_EXPLAINED_VALUES // self._held.image.values)]
            x_NF, (center_F, scale_F) = x_TF[cut:], self._scale[name]
            z_NF = torch.from_numpy(self._scaled(name, x_TF)[cut:]).to(self._device).clamp_(-LIMIT, LIMIT)
            expected = [self._detector.explain(z_BTF).expected_BF for z_BTF in windows_of_rows(z_NF, window)]
            expected_NF = torch.cat(expected).cpu().numpy() * scale_F + center_F
            off_N = (np.abs(x_NF - expected_NF) / self._held.spread_F(name)).mean(axis=1)
            for begin in range(0, len(off_N) - BLOCK + 1, BLOCK):
                if self._held.counted[name][begin : begin + BLOCK].all():
                    found.append(off_N[begin : begin + BLOCK])
            rows += len(off_N)
        return np.median(np.stack(found), axis=1) if found else np.zeros(0)

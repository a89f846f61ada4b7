"""A stream's history -> a challenger, the gate, and a promotion or a refusal.

The newest part of the history is held out; on what lies before it the challenger learns, without the spans that
teach nothing. A refused challenger is not stored, unless it is to score in shadow, whatever the gate says. A
promotion is decided on the log as it was when the retraining began: one that somebody else has written meanwhile
wins.

Whatever ends here leaves the serving model as it is, but for a promotion.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

import numpy as np
import torch

from models.dataset import Columns, rows_where, usable_rows
from models.detector import Detector
from models.resume import Unfinished
from models.spec import shortened
from pipeline.config import StreamSettings
from pipeline.errors import ConfigError, RegistryError, SnapshotError
from pipeline.excluded import Kept, Span, kept_of, maintenance_of
from pipeline.gate import judge
from pipeline.held_out import HeldOut, cut_of, held_out_of
from pipeline.history import Read
from pipeline.lanes import load_champion, series_in_budget
from pipeline.logs import about
from pipeline.protocols import Registry
from pipeline.stages.thresholds import halvings_of
from pipeline.train import fit_stream, origin_of, plan_of_settings, publish, store
from pipeline.versions.log import PromotionLog
from pipeline.versions.origin import GateResult
from pipeline.versions.promoting import RETRAIN

logger = logging.getLogger(__name__)

Then = Literal["promote", "keep", "nothing"]
"""What becomes of a challenger."""
_LEAST_HELD_OUT = 100
"""Rows without which nothing can be said of a model."""


@dataclass(frozen=True, slots=True)
class Retrained:
    """What one retraining came to."""

    stream: str
    verdict: GateResult
    version: str | None
    """Of the challenger, where it was promoted."""
    champion: str | None
    """The version that it was compared with."""
    no_champion: str
    """Why there was none to compare with; "" where there was one."""
    architecture: str
    features: Sequence[str]
    series: int
    records: int
    rejected: int
    late: int
    left_out: int
    """Rows in spans that teach nothing."""
    reasons_left_out: Sequence[str]
    trained_rows: int
    seconds: float
    stored: str | None = None
    """The version of a challenger that was only stored."""


def retrain_stream(
    name: str,
    settings: StreamSettings,
    names: Sequence[str],
    read: Read,
    registry: Registry,
    *,
    now: Callable[[], datetime],
    device: torch.device,
    progress: Callable[[str, float], None],
    unfinished: Unfinished | None = None,
    spans: Sequence[Span] = (),
    log: PromotionLog | None = None,
    then: Then = "promote",
    seed: int = 0,
    by: str = "",
) -> Retrained:
    """Train a challenger on a stream's columns, compare it with the champion, and promote it if it is better.

    Args:
        name: of the stream.
        settings: of the stream.
        names: of the features.
        read: the history.
        registry: where the champion is, and where the challenger goes.
        now: the time, for the version's name.
        device: to train and to score on.
        progress: called with the stream's name and the share of the training that is done.
        unfinished: where the training is kept while it lasts.
        spans: what teaches nothing, beside the maintenance windows of the settings.
        log: the log of promotions as it was before the history was read; None: as it is now.
        then: what becomes of it. promote: it serves, if it is better; keep: it is stored, whatever the gate says;
            nothing: only say what would become of it.
        seed: of the anomalies by which they are compared.
        by: who promotes, for the log.

    Raises:
        SnapshotError: the history holds too little to learn from, or to compare on.
        PromotionLost: another promotion came first; the version is stored all the same.
    """
    started = now()
    log = registry.log(name) if log is None else log
    champion, version, no_champion = _champion_of(name, settings, names, registry)
    margin = plan_of_settings(settings, len(names)).window if settings.kind == "series" else 0
    spans = [*maintenance_of(settings.alerts), *spans]
    columns = _usable(read.columns)
    cut = cut_of(settings.kind, columns)
    held = held_out_of(settings.kind, names, columns, cut, spans, margin, seed, settings.image_shape)
    early = {
        series: (time_ms_T[: cut[series]], x_TF[: cut[series]]) for series, (time_ms_T, x_TF) in columns.items()
    }
    kept = kept_of(early, spans, margin)
    _check(name, kept, held, early)
    challenger = fit_stream(
        name,
        settings,
        names,
        replace(read, columns=kept.columns),
        device=device,
        progress=lambda share: progress(name, share),
        unfinished=unfinished,
        begins_ms=kept.begins_ms if settings.kind == "series" else None,
    )
    verdict = judge(
        None if champion is None else champion.to(device),
        challenger,
        held,
        settings.alerts,
        halvings=_halvings(settings, len(columns)),
        seed=seed,
    )
    ended = now()
    origin = origin_of(RETRAIN, settings, read, ended, (ended - started).total_seconds(), version, verdict)
    stored = promoted = None
    if then == "keep":
        stored = store(name, challenger, registry, ended, origin)
    elif then == "promote" and verdict.accepted:
        promoted = publish(name, challenger, registry, ended, origin, log=log, reason=RETRAIN, by=by)
    if unfinished:
        unfinished.clear()
    logger.info(
        "stream %s: challenger %s: %s",
        name,
        f"promoted as {promoted}" if promoted else ("accepted" if verdict.accepted else "refused"),
        "; ".join(verdict.reasons),
        extra=about(stream=name, version=promoted or stored, champion=version),
    )
    return Retrained(
        name,
        verdict,
        promoted,
        version,
        no_champion,
        challenger.name,
        names,
        len(columns),
        read.records,
        read.rejected,
        read.late,
        kept.left_out,
        kept.reasons,
        challenger.training["rows"],
        (now() - started).total_seconds(),
        stored,
    )


def _champion_of(
    name: str, settings: StreamSettings, names: Sequence[str], registry: Registry
) -> tuple[Detector | None, str | None, str]:
    """Return (the detector that serves, its version, why there is none)."""
    if registry.champion(name) is None:
        return None, None, "the stream has no model yet"
    try:
        detector, version = load_champion(name, settings, registry)
    except (RegistryError, ConfigError) as error:
        return None, None, f"no worker could start with the champion: {error}"
    there = set(names)
    gone = [feature for feature in detector.spec.features if feature not in there]
    if gone:
        return None, None, f"the champion {version} needs features that records have no more: {shortened(gone)}"
    return detector, version, ""


def _usable(columns: Columns) -> Columns:
    """Return the rows of which every value can be reckoned with."""
    found = {}
    for series, (time_ms_T, x_TF) in columns.items():
        usable_T = usable_rows(x_TF)
        if usable_T.any():
            found[series] = rows_where(usable_T, time_ms_T, x_TF)
    return found


def _check(name: str, kept: Kept, held: HeldOut, early: Columns) -> None:
    rows = sum(len(time_ms_T) for time_ms_T, _ in early.values())
    if rows and not kept.columns:
        raise SnapshotError(
            f"stream {name}: all {rows:,} rows to learn from lie in spans that teach nothing "
            f"({', '.join(kept.reasons)}); wait for others, or make these spans shorter"
        )
    held_out = sum(len(counted_N) for counted_N in held.counted.values())
    if held_out < _LEAST_HELD_OUT:
        raise SnapshotError(
            f"stream {name}: the newest fifth of its {rows + held_out:,} rows is {held_out:,} to compare on; it "
            f"takes {_LEAST_HELD_OUT}: let more arrive"
        )
    if held.rows < _LEAST_HELD_OUT:
        raise SnapshotError(
            f"stream {name}: of the newest {held_out:,} rows {held.rows:,} lie outside spans that teach nothing; "
            f"comparing takes {_LEAST_HELD_OUT}: wait for more, or make these spans shorter"
        )


def _halvings(settings: StreamSettings, series: int) -> int:
    """Return how often the stream's budget halves that of a series, were its topic one partition."""
    whole = series_in_budget(settings.alerts, 1)
    return 0 if whole is None else int(halvings_of(np.array([series]), whole)[0])

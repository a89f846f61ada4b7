"""Counters that tell 0 from the start of a process on.

A counter with labels appears with its first event, as 1: Prometheus sees no rise there, and the alert that waits
for one says nothing the first time, which may be the only one. So each process shows what it may ever count, label
by label.
"""

from collections.abc import Iterable, Sequence
from typing import get_args

from pipeline import metrics
from pipeline.stages.bounds import Reason
from pipeline.stages.dead_letters import UndeliveredReason
from pipeline.stages.decode import REASONS
from pipeline.stages.incidents import State
from pipeline.stages.muting import MuteReason
from pipeline.training_result import FAULTS, OUTCOMES, label_of

_ANSWERS = ("2xx", "3xx", "4xx", "5xx", "no_answer")
_REMOVED = ("age", "size", "merged", "damaged")
_REQUESTS = ("taken", "unreadable", "unknown")


def of_worker(streams: Iterable[str]) -> None:
    """Show what a worker counts of its streams; points that reach a score appear with the first poll."""
    stream, state = list(streams), get_args(State)
    metrics.show(
        metrics.RECORDS,
        metrics.POINTS_SCORED,
        metrics.RECORDS_LATE,
        metrics.POINTS_WARMING,
        metrics.POINTS_HELD,
        metrics.POINTS_EXCUSED,
        metrics.RECORDS_REPLAYED,
        metrics.INCIDENTS_ALLOWED,
        metrics.BATCH_RECORDS,
        metrics.MODEL_ADOPTIONS,
        metrics.MODEL_ADOPTIONS_FAILED,
        metrics.MODEL_LOADS_FAILED,
        metrics.SHADOW_POINTS,
        metrics.SHADOW_FAILED,
        metrics.STATE_RESET,
        metrics.OFFSETS_LOST,
        metrics.PARTITIONS_ADDED,
        metrics.CHECKPOINTS_FAILED,
        metrics.CHECKPOINTS_REFUSED,
        metrics.SERIES_MOVED,
        metrics.FEEDBACK_ADOPTIONS,
        stream=stream,
    )
    metrics.show(metrics.RECORDS_REJECTED, stream=stream, reason=REASONS)
    metrics.show(metrics.ALERTS, stream=stream, state=state)
    metrics.show(metrics.ALERTS_MUTED, stream=stream, state=state, reason=get_args(MuteReason))
    metrics.show(metrics.SHADOW_INCIDENTS, stream=stream, side=("champion", "shadow"), found=("both", "alone"))
    metrics.show(metrics.STATE_RESTORED, stream=stream, how=("checkpoint", "cold"))
    metrics.show(metrics.SERIES_EVICTED, stream=stream, reason=get_args(Reason))


def of_recorder(streams: Iterable[str]) -> None:
    """Show what a recorder counts of its streams."""
    stream = list(streams)
    metrics.show(
        metrics.RECORDS,
        metrics.OFFSETS_LOST,
        metrics.PARTITIONS_ADDED,
        metrics.SNAPSHOT_ROWS,
        metrics.SNAPSHOT_BYTES,
        metrics.SNAPSHOT_FILES,
        metrics.SNAPSHOT_WRITES_FAILED,
        metrics.SNAPSHOT_FILES_REFUSED,
        metrics.SNAPSHOT_FILES_MERGED,
        stream=stream,
    )
    metrics.show(metrics.SNAPSHOT_REJECTED, stream=stream, reason=REASONS)
    metrics.show(metrics.SNAPSHOT_FILES_REMOVED, stream=stream, reason=_REMOVED)


def of_scheduler(streams: Iterable[str], causes: Iterable[str], on_drift: Sequence[str]) -> None:
    """Show what a scheduler counts of its streams; `on_drift` are those that are looked at for drift."""
    stream = list(streams)
    metrics.show(metrics.RETRAIN_RUNS, stream=stream, cause=list(causes), outcome=OUTCOMES)
    metrics.show(metrics.RETRAIN_REFUSED, stream=stream, reason=[label_of(fault) for fault in FAULTS])
    metrics.show(metrics.RETRAIN_DURATION_SECONDS, metrics.SCHEDULER_STORAGE_FAILED, stream=stream)
    metrics.show(metrics.RETRAIN_REQUESTS, outcome=_REQUESTS)
    for name in stream:
        metrics.RETRAIN_RUNNING.labels(name).set(0)
    for name in on_drift:
        metrics.DRIFT_PROBABILITY.labels(name).set(1)
        metrics.DRIFT_SHIFTED_RATIO.labels(name).set(0)


def of_notify(receivers: Iterable[str]) -> None:
    """Show what is counted of receivers."""
    receiver = list(receivers)
    outcomes = ("delivered", *get_args(UndeliveredReason))
    metrics.show(metrics.NOTIFY_ALERTS, receiver=receiver, outcome=outcomes)
    metrics.show(metrics.NOTIFY_REQUESTS, receiver=receiver, answer=_ANSWERS)
    metrics.show(metrics.NOTIFY_REQUEST_DURATION_SECONDS, metrics.NOTIFY_OFFSETS_LOST, receiver=receiver)

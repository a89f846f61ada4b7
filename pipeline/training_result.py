"""What the end of a training process comes to: an outcome, as metrics and log lines name it."""

from pipeline import metrics
from pipeline.training_process import Ended

PROMOTED, REFUSED, NO_DRIFT = "promoted", "refused", "no_drift"
FAILED, LOST, STOPPED, MISSED = "failed", "lost", "stopped", "missed"
TIME_LIMIT, MEMORY_LIMIT = "time_limit", "memory_limit"
SUCCESSES = (PROMOTED, REFUSED, NO_DRIFT)
"""It came to a verdict."""
OUTCOMES = (*SUCCESSES, FAILED, LOST, TIME_LIMIT, MEMORY_LIMIT, STOPPED, MISSED)
FAULTS = ("not sound", "not calibrated", "blind", "worse", "not better")
"""How the gate's reasons for a refusal begin."""


def outcome_of(ended: Ended) -> str:
    """Return what a training came to that has ended by itself, or was killed by somebody else."""
    result = ended.result or {}
    if ended.status != 0:
        return LOST if result.get("error") == "PromotionLost" else FAILED
    if result.get("version"):
        return PROMOTED
    if result.get("verdict"):
        return REFUSED
    return NO_DRIFT if result.get("drift") else FAILED


def told(ended: Ended) -> str:
    """Return in a few words what it came to, or why it came to nothing."""
    result = ended.result or {}
    if ended.status != 0:
        return ended.why
    reasons = [(result.get("drift") or {}).get("why"), *((result.get("verdict") or {}).get("reasons") or ())]
    said = "; ".join(str(reason) for reason in reasons if reason)
    return said or "it has not said what it came to"


def faults_of(ended: Ended) -> list[str]:
    """Return what the gate finds wrong with a challenger that it refuses, each once, as labels of a metric."""
    verdict = (ended.result or {}).get("verdict") or {}
    said = [] if verdict.get("accepted") else [str(reason) for reason in verdict.get("reasons") or ()]
    return [label_of(fault) for fault in FAULTS if any(reason.startswith(fault) for reason in said)]


def label_of(fault: str) -> str:
    return fault.replace(" ", "_")


def show_drift(stream: str, ended: Ended) -> None:
    """Set the gauges of a look for drift, where it was one that compared."""
    drift = (ended.result or {}).get("drift") or {}
    if drift.get("probability") is not None:
        metrics.DRIFT_PROBABILITY.labels(stream).set(drift["probability"])
        metrics.DRIFT_SHIFTED_RATIO.labels(stream).set(drift["shifted"])

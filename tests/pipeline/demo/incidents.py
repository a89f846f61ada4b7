"""Alerts as the worker publishes them, for tests of what the demo makes of them."""

from typing import Any

from pipeline.stages.alerts import Alert, FeatureView


def alert(incident: str, event_ms: int, **changed: Any) -> Alert:
    """Return an alert that opens an incident."""
    fields: dict[str, Any] = {
        "stream": "metrics",
        "series": "cpu",
        "fields": {"metric": "cpu"},
        "state": "opened",
        "severity": "minor",
        "score": 31.5,
        "threshold": 27.0,
        "opened_ms": event_ms,
        "features": {"value": FeatureView(9.0, 1.5, 1.0)},
        "model_version": "v1",
        "topic": "demo.metrics",
        "partition": 0,
        "offset": event_ms,
    }
    return Alert(incident=incident, event_ms=event_ms, **(fields | changed))

"""Settings of alerts: budgets, delays, levels that are accepted, storms, maintenance; each mistake is one line."""

from pathlib import Path

import pytest

from pipeline.config import load_settings
from tests.pipeline.configurations import GOOD, check_one_clear_line, each_of, write

MISTAKES = [
    # Budgets.
    (GOOD + "    alerts: {budget: 3 a day}\n", ":4: streams.machines.alerts.budget: '3 a day' is no budget; write"),
    (GOOD + "    alerts: {budget: 3}\n", ":4: streams.machines.alerts.budget is 3; it takes text: put quotes"),
    (
        GOOD + "    alerts:\n      stream_budget: 1 per 1000 records\n",
        ":5: streams.machines.alerts.stream_budget: a budget of all series needs times, not records",
    ),
    (
        GOOD + "    alerts:\n      stream_budget: 1 per day\n      budget: 1 per 1000 points\n",
        ":6: streams.machines.alerts.budget: a budget of all series needs times, not records",
    ),
    (
        GOOD + "    kind: features\n    alerts:\n      stream_budget: 1 per day\n",
        ":6: streams.machines.alerts.stream_budget: it needs `kind: series`: records of features have one budget",
    ),
    # When incidents begin and end, and when they are told.
    (
        GOOD + "    kind: features\n    alerts:\n      delay: 2\n",
        ":6: streams.machines.alerts.delay: it needs `kind: series`: after a record of features comes no other",
    ),
    (
        GOOD + "    kind: features\n    alerts:\n      accept_after: 2d\n",
        ":6: streams.machines.alerts.accept_after: it needs `kind: series`: records of features have no level",
    ),
    (
        GOOD + "    alerts: {accept_after: soon}\n",
        ":4: streams.machines.alerts.accept_after: 'soon' is no duration; write for example 30s, 5 min, 2h or 1 day"
        ", or never",
    ),
    (
        GOOD + "    alerts: {accept_after: 0}\n",
        ":4: streams.machines.alerts.accept_after: 0 is too short or too long; write one from 1s to 36500 days, or "
        "never",
    ),
    (
        GOOD + "    kind: features\n    alerts:\n      silence: 5\n",
        ":6: streams.machines.alerts.silence: it needs `kind: series`: records of features have no interval",
    ),
    (
        GOOD + "    kind: features\n    alerts:\n      repeat_after: 1h\n",
        ":6: streams.machines.alerts.repeat_after: it needs `kind: series`: records of features raise",
    ),
    (
        GOOD + "    alerts: {repeat_after: often}\n",
        ":4: streams.machines.alerts.repeat_after: 'often' is no duration; write for example 30s, 5 min, 2h or 1 "
        "day, or never",
    ),
    (GOOD + "    alerts: {silence: 1}\n", ":4: streams.machines.alerts.silence is 1; it takes 2 or more"),
    (GOOD + "    alerts: {hysteresis: -1}\n", ":4: streams.machines.alerts.hysteresis is -1; it takes 0.0 or more"),
    (GOOD + "    alerts: {merge_points: true}\n", ":4: streams.machines.alerts.merge_points: True is no number"),
    (GOOD + "    alerts: {accept_after: null}\n", ":4: streams.machines.alerts.accept_after: None is no duration"),
    (GOOD + "    alerts: {delay: -1}\n", ":4: streams.machines.alerts.delay is -1; it takes 0 or more"),
    (GOOD + "    alerts: {delay: 4097}\n", ":4: streams.machines.alerts.delay is 4097; it takes 4096 or less"),
    (GOOD + "    alerts: {delay: 1.5}\n", ":4: streams.machines.alerts.delay is 1.5; it takes a whole number"),
    (GOOD + "    alerts: {delay: yes}\n", ":4: streams.machines.alerts.delay: True is no number; write one"),
    # Storms and maintenance.
    (GOOD + "    alerts: {storm: 1}\n", ":4: streams.machines.alerts.storm is 1; it takes 2 or more"),
    (
        GOOD + "    alerts: {storm_within: 1 min}\n",
        ":4: streams.machines.alerts.storm_within: it needs `storm`, a number of series; set that too",
    ),
    (
        GOOD + "    alerts: {storm: 5, storm_within: 2 days}\n",
        ":4: streams.machines.alerts.storm_within: '2 days' is too short or too long; write one from 1ms to 1 day",
    ),
    (
        GOOD
        + "    alerts:\n      maintenance:\n      - {from: 2026-03-01T22:00Z, to: 2026-03-02T22:00Z, form: a}\n",
        ":6: streams.machines.alerts.maintenance.0.form is no setting; did you mean 'from'?",
    ),
    (
        GOOD + "    alerts:\n      maintenance:\n      - {to: 2026-03-02T22:00:00Z}\n",
        ":6: streams.machines.alerts.maintenance.0.from is missing; add it",
    ),
    (
        GOOD + "    alerts:\n      maintenance:\n      - {from: 2026-03-01T22:00:00, to: 2026-03-02T22:00:00Z}\n",
        ":6: streams.machines.alerts.maintenance.0.from: '2026-03-01 22:00:00' is no moment; write one with its",
    ),
    (
        GOOD + "    alerts:\n      maintenance:\n      - {from: tonight, to: 2026-03-02T22:00:00Z}\n",
        ":6: streams.machines.alerts.maintenance.0.from: 'tonight' is no moment; write one with its zone",
    ),
    (
        GOOD + "    alerts:\n      maintenance:\n      - {from: 2026-03-02T22:00:00Z, to: 2026-03-02T22:00:00Z}\n",
        ":6: streams.machines.alerts.maintenance.0.to: it is not later than `from`; write the end of the window",
    ),
]


@each_of(MISTAKES)
def test_a_mistake_is_one_clear_line(text: str, said: str, tmp_path: Path) -> None:
    check_one_clear_line(tmp_path, text, said)


@pytest.mark.parametrize(
    ("alerts", "seconds"),
    [("{}", 86_400), ("{accept_after: 6h}", 21_600), ("{accept_after: 90}", 90), ("{accept_after: never}", None)],
)
def test_a_level_is_accepted_after_a_day_or_as_is_said(tmp_path: Path, alerts: str, seconds: float | None) -> None:
    settings = load_settings(write(tmp_path, GOOD + f"    alerts: {alerts}\n"))
    assert settings.streams["machines"].alerts.accept_after == seconds


@pytest.mark.parametrize("alerts", ["{}", "{accept_after: never}", "{budget: 1 per day}"])
def test_records_of_features_accept_no_level(tmp_path: Path, alerts: str) -> None:
    load_settings(write(tmp_path, GOOD + f"    kind: features\n    alerts: {alerts}\n"))


def test_a_maintenance_window_is_read_with_its_zone(tmp_path: Path) -> None:
    window = "{series: 'db-*', from: 2026-03-01T22:00:00.5+01:00, to: '2026-03-01T22:00:00Z', note: disks}"
    settings = load_settings(write(tmp_path, f"{GOOD}    alerts:\n      maintenance:\n      - {window}\n"))
    (kept,) = settings.streams["machines"].alerts.maintenance
    assert (kept.series, kept.from_ms, kept.to_ms) == ("db-*", 1_772_398_800_500, 1_772_402_400_000)

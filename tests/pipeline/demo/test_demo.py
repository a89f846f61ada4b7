"""The whole demo on a little of its data: real broker, real training, real worker."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import escape
from pathlib import Path

import jsonschema
import psutil
import pytest

from pipeline.demo.data import STREAMS, Recorded, Shipment, Span, load, load_labels
from pipeline.demo.run import run_demo
from pipeline.errors import ConfigError, OffkeyError
from pipeline.stages.alerts import json_schema

KEPT = {"machines": (1, 1500, 1500), "metrics": (20, 230, 700), "requests": (1, 4000, 30000)}
"""For each stream: series, rows of history, rows of replay."""


def _cut(recorded: Recorded) -> tuple[Recorded, int]:
    """Return the rows around the border between history and replay, and how many were cut before them."""
    _, history, replayed = KEPT[recorded.stream]
    first = max(recorded.train_rows - history, 0)
    rows = slice(first, recorded.train_rows + replayed)
    time_ms_N = None if recorded.time_ms_N is None else recorded.time_ms_N[rows]
    return replace(
        recorded, values_NF=recorded.values_NF[rows], time_ms_N=time_ms_N, train_rows=recorded.train_rows - first
    ), first


def a_little() -> Shipment:
    """Return the first series of each stream, cut short."""
    cut = {name: [_cut(recorded) for recorded in load(name)[-KEPT[name][0] :]] for name in STREAMS}

    def labels_of(stream: str) -> Mapping[str, Sequence[Span]]:
        return {
            recorded.name: [
                (first - before, last - before)
                for first, last in load_labels(stream)[recorded.name]
                if last - before < len(recorded)
            ]
            for recorded, before in cut[stream]
        }

    return Shipment({name: [recorded for recorded, _ in parts] for name, parts in cut.items()}, labels_of)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Return the folder of a short demo, and what it printed."""
    out, printed = tmp_path_factory.mktemp("demo"), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        for stream in STREAMS:
            patch.setenv(f"OFFKEY_STREAMS__{stream.upper()}__MODEL__MAX_SECONDS", "2")
        run_demo(out, keep=False, shipment=a_little())
    return out, printed.getvalue()


def test_the_summary_has_every_figure_for_each_stream(outcome: tuple[Path, str]) -> None:
    summary = json.loads((outcome[0] / "summary.json").read_text())
    assert list(summary["streams"]) == list(STREAMS)
    shipment = a_little()
    for name, figures in summary["streams"].items():
        assert figures.keys() == summary["total"].keys()
        assert figures["records"] == sum(len(one) - one.train_rows for one in shipment.streams[name])
        assert figures["incidents_labelled"] >= figures["incidents_found"] >= 0
        assert figures["seconds"] > 0
    assert "false alarm" in summary["counting"]


def test_every_alert_is_a_valid_event_and_counted_once(outcome: tuple[Path, str]) -> None:
    events = [json.loads(line) for line in (outcome[0] / "alerts.jsonl").read_text().splitlines()]
    validator = jsonschema.Draft202012Validator(json_schema())
    for event in events:
        validator.validate(event)
    summary = json.loads((outcome[0] / "summary.json").read_text())
    ids = {event["id"] for event in events}
    assert summary["total"]["alerts"] == len(ids) > 0
    assert summary["alerts_repeated"] == len(events) - len(ids)


def test_the_worker_is_killed_once_and_nothing_is_lost(outcome: tuple[Path, str]) -> None:
    out, printed = outcome
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["restarts"], summary["alerts_lost"]) == (1, 0)
    assert "killed the worker on purpose (SIGKILL)" in printed
    assert "restored at offset" in (out / "worker-restarted.log").read_text()


def test_a_model_is_retrained_and_swapped_and_feedback_given(outcome: tuple[Path, str]) -> None:
    out, printed = outcome
    life = json.loads((out / "summary.json").read_text())["life"]
    html, alerts = (out / "report.html").read_text(), (out / "alerts.jsonl").read_text()
    assert life["stream"] == "metrics"
    assert life["reasons"]
    assert all(escape(reason) in html for reason in life["reasons"])
    assert f"the gate {'accepts' if life['accepted'] else 'refuses'} it" in printed
    versions = {path.name for path in (out / "models" / "metrics" / "versions").iterdir()}
    assert versions == {life["champion"], life["challenger"]} - {None}
    if life["accepted"]:
        assert life["swapped"]
        assert "swapped: every partition of metrics is judged by the new version" in printed
        assert all(f'"model_version":"{version}"' in alerts for version in versions)
    assert life["feedback"] in alerts
    assert "feedback: an incident of " in printed
    assert list((out / "snapshots").rglob("*.parquet"))


def test_the_report_shows_the_incidents(outcome: tuple[Path, str]) -> None:
    html = (outcome[0] / "report.html").read_text()
    opened = [
        event["data"]
        for event in map(json.loads, (outcome[0] / "alerts.jsonl").read_text().splitlines())
        if event["data"]["state"] == "opened"
    ]
    series = [alert for alert in opened if alert["series"]]
    assert all(alert["series"] in html for alert in series)
    strongest = max(opened, key=lambda alert: alert["score"])
    assert f"id=i{strongest['incident']}" in html


def test_it_prints_its_steps_and_where_the_report_is(outcome: tuple[Path, str]) -> None:
    printed = outcome[1]
    for step in (
        "broker on",
        "records of history",
        "autoencoder",
        "worker ready, metrics",
        "records scored",
        "report.html",
    ):
        assert step in printed


def test_a_failing_child_ends_the_demo_with_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFFKEY_STREAMS__MACHINES__MODEL__HIDDEN_TYPO", "3")
    with pytest.raises(OffkeyError, match=r"offkey train ended with status \d: .*hidden_typo"):
        run_demo(tmp_path, keep=False, shipment=a_little())


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        ConfigError, match=r"file: cannot be written to \(File exists\); name another folder with --out"
    ):
        run_demo(tmp_path / "file", keep=False, shipment=a_little())


def test_sigterm_ends_broker_and_children(tmp_path: Path) -> None:
    program = (
        "from pathlib import Path; from pipeline.demo.run import run_demo; "
        "from tests.pipeline.demo.test_demo import a_little; "
        f"run_demo(Path({str(tmp_path)!r}), keep=False, shipment=a_little())"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=environment
    ) as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            if "offkey train" in line:
                break
        children = _children(demo.pid)
        demo.send_signal(signal.SIGTERM)
        assert demo.wait(timeout=30) == 128 + signal.SIGTERM
    assert len(children) >= 2
    assert [child.pid for child in children if child.is_running()] == []


def _children(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)

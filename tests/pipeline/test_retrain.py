"""A history -> a challenger that serves, or a stated reason why not; the champion stays but for a promotion."""

import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
import torch

from models.arrays import FloatArray
from models.dataset import Columns
from models.files import from_files, to_files
from models.resume import Unfinished
from pipeline.config import StreamSettings
from pipeline.connectors.memory import MemoryRegistry
from pipeline.connectors.storage import ObjectStorage
from pipeline.errors import RegistryError, SnapshotError
from pipeline.excluded import Span
from pipeline.history import Read
from pipeline.lanes import load_champion
from pipeline.protocols import ModelVersion
from pipeline.retrain import Retrained, retrain_stream
from pipeline.train import publish, read_history
from pipeline.versions.log import Promotion
from pipeline.versions.origin import ORIGIN, from_file
from tests.records import arrived, record
from tests.streams import BEGIN_MS, CPU, STEP_MS, feature_rows, fit, series_detector, series_rows

NAMES, ROWS = ["a", "b", "c"], 1500
QUICK: dict[str, Any] = {"architecture": "vanilla", "hidden": 16, "max_epochs": 3}
AT = datetime(2026, 1, 1, tzinfo=UTC)
SECONDS = iter(range(10**6))


def settings(**changes: Any) -> StreamSettings:
    stream = {"topic": "metrics", "time": "ts", "features": ["cpu", "mem"], "window": 8, "model": QUICK}
    return StreamSettings.model_validate({**stream, "alerts": {"budget": "1 per day"}, **changes})


def columns_of(x_STF: FloatArray) -> Columns:
    return {
        name: (BEGIN_MS + STEP_MS * np.arange(len(x_TF)), x_TF) for name, x_TF in zip(NAMES, x_STF, strict=False)
    }


def history() -> FloatArray:
    return series_rows(NAMES, ROWS, 5, {})


def retrained(
    columns: Columns | FloatArray,
    registry: MemoryRegistry | None = None,
    stream: StreamSettings | None = None,
    features: Sequence[str] = ("cpu", "mem"),
    **how: Any,
) -> Retrained:
    columns = columns if isinstance(columns, dict) else columns_of(columns)  # type: ignore[arg-type]
    rows = sum(len(time_ms_T) for time_ms_T, _ in columns.values())
    return retrain_stream(
        "machines",
        stream or settings(),
        features,
        Read(columns, rows, 0, 0, [], {}),
        registry if registry is not None else MemoryRegistry(),
        now=lambda: AT.replace(microsecond=next(SECONDS)),
        device=CPU,
        progress=lambda name, share: None,
        **how,
    )


def serving(begin: int = 0, end: int = 600) -> MemoryRegistry:
    """A registry whose champion has learned a part of the history."""
    registry = MemoryRegistry()
    rows = {name: (t[begin:end], x[begin:end]) for name, (t, x) in columns_of(history()).items()}
    detector = fit(series_detector().spec, "vanilla", {"hidden": 16, "max_epochs": 3}, rows, delays=[0])
    publish("machines", detector, registry, AT.replace(year=2025))
    return registry


def test_the_first_model_serves_when_it_is_calibrated() -> None:
    registry = MemoryRegistry()
    done = retrained(history(), registry)
    assert (done.verdict.accepted, done.verdict.rule, done.champion) == (True, "first", None)
    assert done.no_champion == "the stream has no model yet"
    assert (done.trained_rows, done.verdict.held_out_rows, done.series) == (3600, 900, 3)
    (promotion,) = registry.log("machines").entries
    assert (promotion.version, promotion.reason) == (done.version, "offkey retrain")
    assert load_champion("machines", settings(), registry)[1] == done.version


def test_a_version_tells_how_the_gate_judged_it() -> None:
    registry = serving(0, 150)
    done = retrained(history(), registry)
    assert done.version is not None
    origin = from_file(registry.load("machines", done.version).files[ORIGIN])
    assert (origin.command, origin.parent, origin.series) == ("offkey retrain", done.champion, 3)
    assert origin.gate is not None
    assert (origin.gate.accepted, origin.gate.rule) == (True, "champion")
    assert origin.gate.reasons == done.verdict.reasons
    assert [row.measure for row in origin.gate.rows] == [row.measure for row in done.verdict.rows]


def test_a_better_challenger_takes_the_champions_place() -> None:
    registry = serving(0, 150)
    done = retrained(history(), registry)
    before, after = registry.log("machines").entries
    assert done.verdict.accepted, done.verdict
    assert (done.champion, done.version) == (before.version, after.version)
    assert done.no_champion == ""


def test_a_challenger_that_is_not_better_is_refused_and_not_stored(caplog: pytest.LogCaptureFixture) -> None:
    """Trained on the very rows that it learns from, by the same settings: the champion is its twin."""
    registry = serving(0, 1200)
    with caplog.at_level(logging.INFO, "pipeline.retrain"):
        done = retrained(history(), registry)
    assert not done.verdict.accepted
    assert done.verdict.reasons[0].startswith("not better: ")
    assert done.version is None
    assert len(registry.log("machines").entries) == len(registry.versions("machines")) == 1
    assert caplog.messages == [f"stream machines: challenger refused: {done.verdict.reasons[0]}"]


def test_a_dry_run_promotes_nothing() -> None:
    registry = MemoryRegistry()
    done = retrained(history(), registry, then="nothing")
    assert done.verdict.accepted
    assert done.version is None
    assert not registry.versions("machines")


def test_a_promotion_that_came_meanwhile_wins() -> None:
    registry = serving(0, 150)

    def meanwhile(name: str, share: float) -> None:
        if share == 1.0:
            publish("machines", series_detector(), registry, AT.replace(year=2024))

    with pytest.raises(RegistryError):
        retrain_stream(
            "machines",
            settings(),
            ["cpu", "mem"],
            Read(columns_of(history()), 4500, 0, 0, [], {}),
            registry,
            now=lambda: AT,
            device=CPU,
            progress=meanwhile,
        )
    assert [each.number for each in registry.log("machines").entries] == [1, 2]
    assert registry.log("machines").entries[-1].reason == "offkey train"


def test_an_outage_that_is_named_teaches_nothing() -> None:
    """Half of what is learned was one: in a span that was expected the model is as good as without it."""
    x_STF = history()
    x_STF[:, 300:700] = 0
    x_STF[:, 800:900] += 6
    blind = retrained(x_STF)
    assert any(reason.startswith("blind: ") for reason in blind.verdict.reasons), blind.verdict
    spans = [
        Span("*", BEGIN_MS + STEP_MS * begin, BEGIN_MS + STEP_MS * end, "incident")
        for begin, end in ((300, 700), (800, 900))
    ]
    told = retrained(x_STF, spans=spans)
    assert told.verdict.accepted, told.verdict
    assert (told.left_out, list(told.reasons_left_out)) == (3 * (500 + 4 * 8), ["incident"])
    assert told.trained_rows == 3600 - told.left_out


def test_maintenance_windows_of_the_configuration_are_left_out() -> None:
    at = [datetime.fromtimestamp((BEGIN_MS + STEP_MS * row) / 1000, UTC).isoformat() for row in (300, 400)]
    window = {"series": "a", "from": at[0], "to": at[1]}
    done = retrained(history(), stream=settings(alerts={"budget": "1 per day", "maintenance": [window]}))
    assert (done.left_out, list(done.reasons_left_out)) == (100 + 2 * 8, ["maintenance"])


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (1, "the newest fifth of its 3 rows is 3 to compare on; it takes 100: let more arrive"),
        (0, "the newest fifth of its 0 rows is 0 to compare on; it takes 100: let more arrive"),
        (150, "the newest fifth of its 450 rows is 90 to compare on; it takes 100: let more arrive"),
    ],
)
def test_too_short_a_history(rows: int, said: str) -> None:
    registry = serving()
    with pytest.raises(SnapshotError) as caught:
        retrained(history()[:, :rows], registry)
    assert str(caught.value) == f"stream machines: {said}"
    assert len(registry.log("machines").entries) == 1


def test_no_records_at_all() -> None:
    with pytest.raises(SnapshotError, match="no field holds a number in every sampled record"):
        read_history("machines", settings(features=None), [])
    with pytest.raises(SnapshotError, match="topic metrics holds 0 usable records of 0; training needs 50"):
        read_history("machines", settings(), [])
    few = [arrived([record({"ts": 1, "cpu": 1.0, "mem": 2.0})])]
    with pytest.raises(SnapshotError, match="topic metrics holds 1 usable records of 1; training needs 50"):
        read_history("machines", settings(), few)


@pytest.mark.parametrize(
    ("from_row", "to_row", "said"),
    [
        (
            0,
            1200,
            "all 3,600 rows to learn from lie in spans that teach nothing (incident 7); wait for others, or ",
        ),
        (
            1200,
            9999,
            "of the newest 900 rows 0 lie outside spans that teach nothing; comparing takes 100: wait for ",
        ),
        (0, 1190, "the longest of 3 series has 2 finite rows; training needs 16 of one series; let more arrive"),
    ],
)
def test_only_excluded_spans(from_row: int, to_row: int, said: str) -> None:
    span = Span("*", BEGIN_MS + STEP_MS * from_row, BEGIN_MS + STEP_MS * to_row, "incident 7")
    with pytest.raises(SnapshotError) as caught:
        retrained(history(), spans=[span])
    assert str(caught.value).startswith(f"stream machines: {said}")


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_constants_have_a_model_that_finds_what_moves(value: float) -> None:
    done = retrained(np.full((3, ROWS, 2), value))
    assert done.verdict.accepted, done.verdict
    (large,) = (row for row in done.verdict.rows if row.measure == "large anomalies found")
    assert large.challenger == 1.0


def test_a_month_without_records_is_a_stretch_of_no_rows() -> None:
    columns = {
        name: (time_ms_T + 30 * 86_400_000 * (np.arange(ROWS) >= 700), x_TF)
        for name, (time_ms_T, x_TF) in columns_of(history()).items()
    }
    done = retrained(columns)
    assert done.verdict.accepted, done.verdict
    assert done.verdict.held_out_rows == 900


def test_a_training_that_runs_away_is_refused() -> None:
    registry = serving()
    done = retrained(history(), registry, settings(model={**QUICK, "learning_rate": 1e30}))
    assert done.verdict.reasons == (
        "not sound: some of its weights are no finite numbers; lower `learning_rate`, or look at the records",
    )
    assert len(registry.versions("machines")) == 1


def test_values_that_cannot_be_reckoned_with_are_left_out() -> None:
    x_STF = history()
    x_STF[:, ::100, 0] = 1e300
    done = retrained(x_STF)
    assert done.trained_rows + done.verdict.held_out_rows == 3 * (ROWS - 15)


def test_a_champion_that_no_worker_could_start_with_has_nothing_to_defend() -> None:
    registry = serving()
    wider = retrained(history(), registry, settings(window=12), then="nothing")
    assert (wider.verdict.rule, wider.champion) == ("first", None)
    assert wider.no_champion.startswith("no worker could start with the champion: stream machines: model ")
    version = registry.versions("machines")[0]
    files = dict(registry.load("machines", version).files)
    files["model.safetensors"] = files["model.safetensors"][:-1]
    registry.add(ModelVersion("machines", "damaged", files))
    registry.promote("machines", Promotion(2, "damaged", 0, "test"))
    damaged = retrained(history(), registry, then="nothing")
    assert "damaged" in damaged.no_champion
    renamed = retrained(history(), serving(), settings(features=None), ("cpu", "disk"), then="nothing")
    assert "needs features that records have no more: mem" in renamed.no_champion


def test_a_champion_that_knows_some_of_the_features_is_compared_all_the_same() -> None:
    """Nobody named the features, and the records have one more."""
    x_STF = np.concatenate([history(), series_rows(NAMES, ROWS, 6, {})[:, :, :1]], axis=2)
    done = retrained(x_STF, serving(), settings(features=None), ("cpu", "mem", "disk"), then="nothing")
    assert done.verdict.rule == "champion"
    assert done.no_champion == ""
    (distance,) = (row for row in done.verdict.rows if row.measure.startswith("distance"))
    assert distance.limit == "not compared: the champion knows other features"


def test_a_stream_of_features() -> None:
    stream = StreamSettings.model_validate(
        {
            "topic": "payments",
            "kind": "features",
            "features": ["a", "b", "c"],
            "model": QUICK,
            "alerts": {"budget": "1 per 1000 records"},
        }
    )
    rows_NF = feature_rows(4000, 1)
    columns = {"": (BEGIN_MS + 1000 * np.arange(4000), rows_NF)}
    registry = MemoryRegistry()
    first = retrained(columns, registry, stream, ("a", "b", "c"))
    assert first.verdict.accepted, first.verdict
    assert (first.trained_rows, first.verdict.held_out_rows) == (3200, 800)
    again = retrained(columns, registry, stream, ("a", "b", "c"))
    assert not again.verdict.accepted


def test_an_interrupted_retraining_goes_on(tmp_path: Any) -> None:
    storage, said = ObjectStorage(f"file://{tmp_path}"), list[str]()
    unfinished = Unfinished(storage, "models/machines/unfinished", said.append, every_s=0)

    def interrupted(name: str, share: float) -> None:
        if share > 0.3:
            raise KeyboardInterrupt

    read = Read(columns_of(history()), 4500, 0, 0, [], {})
    with pytest.raises(KeyboardInterrupt):
        retrain_stream(
            "machines",
            settings(),
            ["cpu", "mem"],
            read,
            MemoryRegistry(),
            now=lambda: AT,
            device=CPU,
            progress=interrupted,
            unfinished=unfinished,
        )
    done = retrained(history(), unfinished=unfinished)
    assert [line.partition(",")[0] for line in said] == ["goes on with the training that was interrupted"]
    assert storage.list("models/machines/unfinished") == []
    whole = retrained(history())
    assert whole.verdict == done.verdict


def test_weights_of_what_is_promoted_are_those_that_were_judged() -> None:
    registry = MemoryRegistry()
    done = retrained(history(), registry)
    assert done.version is not None
    stored = from_files(registry.load("machines", done.version).files)
    again = from_files(to_files(stored))
    assert torch.equal(*(next(iter(each.views[0].parameters())) for each in (stored, again)))
    assert stored.training["rows"] == done.trained_rows

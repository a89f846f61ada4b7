"""Training on a history: what is refused, what a version tells, and its promotion."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.files import from_files, to_files
from models.plan import plan_of
from models.resume import Unfinished
from pipeline.config import StreamSettings
from pipeline.connectors.memory import MemoryRegistry
from pipeline.connectors.registry import StoredRegistry
from pipeline.connectors.storage import ObjectStorage
from pipeline.errors import ConfigError, SnapshotError
from pipeline.fields import features_of
from pipeline.lanes import load_champion, support_of
from pipeline.protocols import PartitionRecords, TopicPartition
from pipeline.train import Trained, publish, train_stream, wrong_option
from pipeline.versions.origin import Origin, from_file
from tests.records import NOW_MS, Record, arrived, record
from tests.streams import FEATURES, SERIES, features_detector, series_detector, series_payloads

CPU = torch.device("cpu")


def stream(**changes: Any) -> StreamSettings:
    return StreamSettings.model_validate({"topic": "metrics", "time": "ts", **changes})


def history(points: int = 200) -> list[PartitionRecords]:
    records = [Record(n, NOW_MS * 2, key, value) for n, (key, value) in enumerate(series_payloads(points))]
    return [PartitionRecords(("metrics", 0), records[low : low + 90]) for low in range(0, len(records), 90)]  # type: ignore[arg-type]


def trained(settings: StreamSettings, rows: Iterable[dict[str, Any]]) -> Trained:
    return train_stream(
        "machines",
        settings,
        [arrived([record(row) for row in rows])],
        MemoryRegistry(),
        now=lambda: datetime(2026, 1, 1, tzinfo=UTC),
        device=CPU,
        progress=lambda name, share: None,
    )


@pytest.mark.parametrize("times", [range(99, -1, -1), [7] * 100], ids=["reversed", "standing still"])
def test_a_topic_out_of_order_is_told_as_such(times: Sequence[int]) -> None:
    rows = ({"ts": NOW_MS + time, "v": n % 7} for n, time in enumerate(times))
    with pytest.raises(SnapshotError) as caught:
        trained(stream(), rows)
    assert str(caught.value) == (
        "stream machines: 99 of 100 records are not later than an earlier one of their series and were left out, "
        "so the longest of 1 series has 1 finite rows; training needs 107 of one series; produce a series in the "
        "order of its time, or name the right field as `time`"
    )


def test_late_records_are_counted_in_the_summary() -> None:
    rows = ({"ts": NOW_MS + n - 5 * (n % 10 == 9), "v": n % 7} for n in range(100))
    assert trained(stream(model=dict(QUICK), window=4), rows).late == 10


def test_a_history_too_short_for_any_window_has_to_grow() -> None:
    rows = [{"ts": NOW_MS + n, "v": n % 7} for n in range(60)]
    with pytest.raises(
        SnapshotError, match=r"60 rows of 1 series hold 53 windows of 8 rows; .* 100; let more arrive$"
    ):
        trained(stream(), rows)


@pytest.mark.parametrize(
    ("changes", "remedy"),
    [
        ({"model": {"architecture": "vanilla"}}, "let more arrive or set a shorter `window`"),
        ({"model": {"views": [{"window": 40}]}}, "let more arrive or set a shorter `window`"),
    ],
)
def test_a_shorter_window_is_advised_where_one_can_be_set(changes: dict[str, Any], remedy: str) -> None:
    rows = ({"ts": NOW_MS + n, "v": n % 7} for n in range(60))
    with pytest.raises(SnapshotError, match=f"series has 60 finite rows; training needs .*; {remedy}$"):
        trained(stream(**changes), rows)


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        ("1 per 1000 points", "the threshold for the budget is 30.0 (one in 1,000 points)"),
        ("1 per 100000 points", "the threshold for the budget is 50.0 (one in 100,000 points)"),
    ],
)
def test_it_is_said_how_far_the_tail_extrapolates(budget: str, said: str) -> None:
    """Of 2,000 points 100, one in 20, lie where the tail is a line: above a score of 13."""
    settings = FEATURES.model_copy(update={"alerts": FEATURES.alerts.model_copy(update={"budget": budget})})
    detector = features_detector()
    assert str(support_of(settings, detector)) == (
        f"2,000 training points; scores above 13.0 (one in 20 points) are extrapolated; {said}"
    )
    assert support_of(settings, from_files(to_files(detector))) == support_of(settings, detector)


def test_a_model_of_an_older_format_does_not_say_how_many_points_it_has_seen() -> None:
    folder = Path(__file__).parent.parent / "fixtures" / "v1" / "model"
    detector = from_files({path.name: path.read_bytes() for path in folder.iterdir()})
    assert str(support_of(SERIES, detector)).startswith("scores above ")


def test_features_that_no_record_has_are_named() -> None:
    rows = ({"ts": NOW_MS + n, "cpu": n % 7, "mem": None} for n in range(60))
    with pytest.raises(SnapshotError, match="no record has a value of: mem, disk; take that out of `features`"):
        trained(stream(features=["mem", "cpu", "disk"], missing="hold"), rows)


def test_features_are_the_numbers_of_every_record() -> None:
    rows = [
        {"ts": 1, "host": "a", "cpu": 1, "net.in": 2, "disk": {"used": 3, "name": "sda"}, "up": True, "odd": 1},
        {"ts": 2, "host": "b", "cpu": 1.5, "net.in": 2, "disk": {"used": 4, "name": "sdb"}, "up": False},
    ]
    sample = [arrived([record(row) for row in rows] + [record(b"nonsense"), record(None)])]
    assert features_of(sample, stream(series=["host"])) == ["cpu", "net\\.in", "disk.used"]
    assert features_of(sample, stream(time=None, series=["disk.used"])) == ["ts", "cpu", "net\\.in"]
    with pytest.raises(SnapshotError, match="no field holds a number"):
        features_of([arrived([record({"a": "x"})])], stream())


def test_a_feature_that_nobody_named_and_that_may_be_a_label_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    def train(**changes: Any) -> list[str]:
        caplog.clear()
        rows = [{"ts": NOW_MS + n, "cpu": n % 7, "is_anomaly": 0, "meta": {"Label": n % 2}} for n in range(100)]
        trained(stream(model=dict(QUICK), window=4, **changes), rows)
        return [line.getMessage() for line in caplog.records if line.levelname == "WARNING"]

    assert train() == [
        "stream machines: taken for features, but called like labels: is_anomaly, meta.Label; "
        "name the fields to judge in the stream's `features`"
    ]
    assert train(features=["cpu"]) == []
    assert train(features=["cpu", "is_anomaly"]) == []


def test_a_version_is_stored_promoted_and_served() -> None:
    registry, moments = (
        MemoryRegistry(),
        iter(datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=n) for n in range(9)),
    )
    settings = SERIES.model_copy(update={"features": None, "model": stream(model=dict(QUICK)).model})
    shares: list[float] = []
    first = train_stream(
        "machines",
        settings,
        history(),
        registry,
        now=lambda: next(moments),
        device=CPU,
        progress=lambda name, share: shares.append(share),
        by="me@here",
    )
    assert (first.records, first.rejected, first.late, first.series) == (800, 0, 0, 4)
    assert list(first.features) == ["cpu", "mem"]
    assert shares[-1] == 1.0
    assert [(p.number, p.version) for p in registry.log("machines").entries] == [(1, first.version)]
    detector, version = load_champion("machines", settings, registry)
    assert version == first.version
    files = registry.load("machines", version).files
    manifest = json.loads(files["manifest.json"])
    assert manifest["training"]["rows"] == 800
    assert from_file(files["origin.json"]) == Origin(
        "offkey train",
        int(datetime(2026, 1, 1, 0, 0, 1, tzinfo=UTC).timestamp() * 1000),
        "metrics",
        {0: (0, 800)},
        records=800,
        series=4,
        seconds=1.0,
    )
    (entry,) = registry.log("machines").entries
    assert (entry.reason, entry.by) == ("offkey train", "me@here")
    # Of 800 rows the 7 before the first window is full do not count, of each of four series.
    (causal,) = (each for each in manifest["calibration"]["delays"] if each["delay"] == 0)
    assert causal["points"] == first.support.points == 800 - 4 * 7
    assert causal["extrapolated_above"] == first.support.extrapolated_above
    assert support_of(settings, detector) == first.support
    assert np.isfinite(detector.calibration.interval_ms)


def test_what_served_when_a_version_was_trained_is_kept_and_which_offsets_it_saw() -> None:
    registry = MemoryRegistry()
    old = publish("machines", series_detector(), registry, datetime(2025, 1, 1, tzinfo=UTC))
    raw = [Record(n + 5, NOW_MS * 2, key, value) for n, (key, value) in enumerate(series_payloads())]
    arrived = [
        PartitionRecords(TopicPartition("metrics", 3), raw[:400]),
        PartitionRecords(TopicPartition("metrics", 0), raw[400:]),
        PartitionRecords(TopicPartition("metrics", 3), [Record(900, NOW_MS * 2, b"x", b"nonsense")]),
    ]
    new = train_stream(
        "machines",
        SERIES.model_copy(update={"model": stream(model=dict(QUICK)).model}),
        arrived,
        registry,
        now=lambda: datetime(2026, 1, 1, tzinfo=UTC),
        device=CPU,
        progress=lambda name, share: None,
    )
    origin = from_file(registry.load("machines", new.version).files["origin.json"])
    assert (origin.parent, origin.rejected, origin.offsets) == (old, 1, {3: (5, 901), 0: (405, 805)})


QUICK = {"architecture": "vanilla", "hidden": 8, "max_epochs": 1}


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"architecture": "vanilla", "hidden": "many"}, r"option 'hidden' is 'many'; it takes a whole number"),
        ({"architecture": "vanilla", "hidden": 0}, r"option 'hidden' is 0; it takes a whole number of 1 or more"),
        ({"architecture": "vanilla", "max_seconds": "1h"}, r"option 'max_seconds' is '1h'; it takes a number"),
        (
            {"architecture": "vanilla", "learning_rate": float("nan")},
            r"option 'learning_rate' is nan; it takes a number",
        ),
        (
            {"architecture": "vanilla", "max_seconds": float("inf")},
            r"option 'max_seconds' is inf; it takes a number",
        ),
        ({"architecture": "vanilla", "seed": -1}, r"option 'seed' is -1; it takes a whole number of 0 or more"),
        ({"architecture": "vanila"}, r"streams\.machines\.model: there is no architecture 'vanila'; did you mean"),
        ({"network": "vanila"}, r"there is no architecture 'vanila'; did you mean 'vanilla'"),
        ({"network": "vanilla", "hiden": 3}, r"architecture vanilla has no option 'hiden'; did you mean 'hidden'"),
        ({"latnet": 3}, r"architecture linear has no option 'latnet'; did you mean 'latent'"),
        ({"max_secnds": 3}, r"architecture linear has no option 'max_secnds'; did you mean 'max_seconds'"),
        ({"learning_rat": 1e-3}, r"no option 'learning_rat'; did you mean 'learning_rate'"),
        ({"netwrk": "vanilla"}, r"no option 'netwrk'; did you mean 'network'"),
        ({"view": [{"window": 9}]}, r"no option 'view'; did you mean 'views'"),
        ({"architectur": "vanilla"}, r"no option 'architectur'; did you mean 'architecture'"),
        (
            {"architecture": "sparse", "windw": 9},
            r"architecture sparse has no option 'windw'; did you mean 'window'",
        ),
        ({"colour": 1}, r"no option 'colour'; there are: architecture, batch_windows, epoch_windows, latent, "),
        ({"views": [{"window": 4, "judged": 9}]}, r"a view of 4 rows judges 1 to 4 of them, not 9"),
        ({"views": [{"window": 4, "architecture": "vanila"}]}, r"no architecture 'vanila'; did you mean 'vanilla'"),
        (
            {"architecture": "vanilla", "network": "linear"},
            r"architecture vanilla has no option 'network'; there are",
        ),
        (
            {"architecture": "vanilla", "hiden": 3},
            r"architecture vanilla has no option 'hiden'; did you mean 'hidden'",
        ),
    ],
)
def test_a_mistake_in_the_model_is_the_users(model: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        train_stream(
            "machines",
            stream(model=model),
            history(),
            MemoryRegistry(),
            now=lambda: datetime.now(UTC),
            device=CPU,
            progress=lambda name, share: None,
        )


def test_a_delay_that_the_model_was_not_calibrated_for_is_one_line() -> None:
    registry = MemoryRegistry()
    publish("machines", series_detector(), registry, datetime(2026, 1, 1, tzinfo=UTC))
    late = SERIES.model_copy(update={"alerts": SERIES.alerts.model_copy(update={"delay": 5})})
    with pytest.raises(ConfigError) as caught:
        load_champion("machines", late, registry)
    assert str(caught.value) == (
        "stream machines: alerts.delay: the model was calibrated for delays of 0, 2, 3, 4, 8, 16, 32 points, "
        "not 5; train again with: offkey train CONFIG machines"
    )


def test_training_calibrates_for_the_configured_delay() -> None:
    registry = MemoryRegistry()
    alerts = SERIES.alerts.model_copy(update={"delay": 5})
    late = SERIES.model_copy(update={"alerts": alerts, "model": stream(model=dict(QUICK)).model})
    train_stream(
        "machines",
        late,
        history(),
        registry,
        now=lambda: datetime(2026, 1, 1, tzinfo=UTC),
        device=CPU,
        progress=lambda name, share: None,
    )
    detector, _ = load_champion("machines", late, registry)
    assert detector.calibration.of(5).reach.ahead == 5


def test_an_interrupted_training_goes_on_and_leaves_nothing_behind(tmp_path: Path) -> None:
    storage, said, told = ObjectStorage(f"file://{tmp_path}"), list[str](), list[float]()
    settings = SERIES.model_copy(update={"model": stream(model={**QUICK, "max_epochs": 6}).model})

    def train(progress: Callable[[str, float], None]) -> Trained:
        return train_stream(
            "machines",
            settings,
            history(),
            StoredRegistry(storage),
            now=lambda: datetime(2026, 1, 1, tzinfo=UTC),
            device=CPU,
            progress=progress,
            unfinished=Unfinished(storage, "models/machines/unfinished", said.append, every_s=0),
        )

    def interrupted(name: str, share: float) -> None:
        if share > 0.2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(interrupted)
    assert storage.list("models") == ["models/machines/unfinished/view0"]
    version = train(lambda name, share: told.append(share)).version
    assert said == ["goes on with the training that was interrupted, after 3 epochs"]
    assert told[0] == pytest.approx(4 / 6 / 2)
    assert StoredRegistry(storage).versions("machines") == [version]
    assert storage.list("models/machines/unfinished") == []


@pytest.mark.parametrize(
    ("model", "key"),
    [
        ({"views": [{"window": 4, "judged": 9}]}, "views"),
        ({"network": "vanila", "hidden": 3}, "network"),
        ({"network": "vanilla", "hidden": 0}, "hidden"),
        ({"architecture": "vanila"}, "architecture"),
    ],
)
def test_a_mistake_in_the_model_is_said_of_its_key(model: dict[str, Any], key: str) -> None:
    wrong = wrong_option(stream(model=model))
    assert wrong is not None
    assert wrong[0] == key


@pytest.mark.parametrize(
    "model",
    [
        {"network": "vanilla", "hidden": 3, "seed": 1},
        {"hidden": 3, "network": "sparse", "views": [{"window": 2}, {"window": 9, "inputs": "centred"}]},
    ],
)
def test_options_are_those_of_the_named_network(model: dict[str, Any]) -> None:
    assert wrong_option(stream(model=model)) is None


def test_zero_turns_a_decay_off() -> None:
    plan_of("series", 2, "vanilla", {"weight_decay": 0, "seed": 0})


def test_a_mistake_in_the_model_is_told_before_the_topic_is_read() -> None:
    def unread() -> Iterator[PartitionRecords]:
        raise AssertionError("the topic was read")
        yield

    with pytest.raises(ConfigError, match="no architecture"):
        train_stream(
            "machines",
            stream(model={"architecture": "vanila"}),
            unread(),
            MemoryRegistry(),
            now=lambda: datetime.now(UTC),
            device=CPU,
            progress=lambda name, share: None,
        )

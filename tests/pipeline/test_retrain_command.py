"""`offkey retrain` as users run it: the table, who is promoted, what is put into shadow."""

import json
from collections.abc import Callable
from pathlib import Path

from pipeline.config import load_settings
from pipeline.connectors.connection import Connection
from pipeline.connectors.registry import StoredRegistry
from pipeline.connectors.shadows import StoredShadows
from pipeline.connectors.storage import ObjectStorage
from tests.commands import configured, only_line, produce
from tests.streams import SERIES, payloads_of, series_payloads, series_rows


def test_a_retraining_shows_the_gates_table_and_promotes_what_is_better(
    embedded_broker: str, run: Callable[..., tuple[int, str, str]], unique: Callable[[str], str], tmp_path: Path
) -> None:
    stream = SERIES.model_dump(mode="json", exclude_unset=True)
    stream |= {"topic": unique("metrics"), "model": {"architecture": "vanilla", "hidden": 8, "max_epochs": 2}}
    path = configured(tmp_path, embedded_broker, streams={"machines": stream})
    produce(
        Connection(embedded_broker), stream["topic"], payloads_of(["a", "b"], series_rows(["a", "b"], 900, 3, {}))
    )

    status, _, wrong = run("retrain", str(path), "--shadow")
    assert (status, only_line(wrong)) == (
        1,
        "stream machines: no champion is there to score beside; leave --shadow out",
    )
    status, said, _ = run("retrain", str(path), "--dry-run")
    assert status == 0
    assert "no champion to beat: the stream has no model yet" in said
    assert "machines: accepted, and not promoted (--dry-run)" in said
    assert not StoredRegistry(ObjectStorage(load_settings(path).storage)).versions("machines")

    status, printed, _ = run("retrain", "--json", str(path), "machines")
    first = json.loads(printed)
    assert (status, first["verdict"]["accepted"], first["verdict"]["rule"]) == (0, True, "first")

    status, said, _ = run("retrain", str(path))
    assert status == 0
    assert "machines: refused, the champion stays\nmachines: not better: " in said
    assert "anomalies found" in said
    registry = StoredRegistry(ObjectStorage(load_settings(path).storage))
    assert [promotion.version for promotion in registry.log("machines").entries] == [first["version"]]

    status, said, _ = run("retrain", str(path), "--shadow")
    (_, stored) = registry.versions("machines")
    assert status == 0
    assert f"machines: refused, and in shadow as {stored}; see: offkey models shadow CONFIG machines" in said
    appointed = StoredShadows(ObjectStorage(load_settings(path).storage)).appointed("machines")
    assert appointed is not None
    assert (appointed.version, appointed.note) == (stored, "offkey retrain --shadow")
    assert [promotion.version for promotion in registry.log("machines").entries] == [first["version"]]


def test_a_stream_that_cannot_be_retrained_leaves_the_others_their_turn(
    embedded_broker: str, run: Callable[..., tuple[int, str, str]], unique: Callable[[str], str], tmp_path: Path
) -> None:
    stream = SERIES.model_dump(mode="json", exclude_unset=True)
    stream["model"] = {"architecture": "vanilla", "hidden": 8, "max_epochs": 2}
    topics = {name: unique(name) for name in ("empty", "metrics")}
    path = configured(
        tmp_path, embedded_broker, streams={name: {**stream, "topic": topic} for name, topic in topics.items()}
    )
    produce(Connection(embedded_broker), topics["metrics"], payloads_of(["a"], series_rows(["a"], 900, 3, {})))
    produce(Connection(embedded_broker), topics["empty"], series_payloads(1))
    status, said, wrong = run("retrain", str(path))
    assert status == 1
    assert only_line(wrong).startswith(f"stream empty: topic {topics['empty']} holds 4 usable records of 4; ")
    assert "metrics: promoted as " in said


def test_retraining_a_stream_that_is_not_there(run: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    status, _, said = run("retrain", str(configured(tmp_path)), "machine")
    assert (status, said) == (2, "offkey: there is no stream 'machine'; did you mean 'machines'?\n")

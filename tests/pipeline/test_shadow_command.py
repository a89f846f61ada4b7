"""`offkey models shadow` as users run it: on storage, and beside a running worker on Apache Kafka."""

import json
from pathlib import Path

import pytest

from pipeline.config import load_settings
from pipeline.connectors.shadows import StoredShadows
from pipeline.connectors.storage import ObjectStorage
from pipeline.shadows import Counts, Example, Tally
from tests.commands import Running, configured, events, metrics_of, offkey, only_line, produce, wait_for
from tests.pipeline.test_models import Desk, Run, as_json, rows_of
from tests.pipeline.test_running import Deployed, deployed
from tests.pipeline.test_swap_command import add, watching
from tests.streams import series_payloads

__all__ = ["deployed"]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.setenv("COLUMNS", "200")
    return Desk(configured(tmp_path))


def test_a_version_is_put_into_shadow_and_taken_out(run: Run, desk: Desk) -> None:
    first, second = desk.train(2)
    arguments = ("models", "shadow", str(desk.config), "machines")
    assert run(*arguments)[1] == (
        "machines: no version is in shadow; name one: offkey models shadow CONFIG machines VERSION\n"
    )
    status, printed, _ = run(*arguments, "20260101", "--note", "as [it] was")
    assert (status, printed.splitlines()[0]) == (0, f"machines: {first} is in shadow now, beside {second}")
    assert run(*arguments, first)[1] == f"machines: {first} is in shadow already; nothing was written\n"
    told = run(*arguments)[1].splitlines()
    assert told[0].startswith(f"machines: {first} is in shadow since ")
    assert told[0].endswith(": as [it] was")
    assert told[1] == "machines: nothing was seen yet; running workers tell twice a minute"
    assert " in shadow" in run("models", "list", str(desk.config))[1]
    assert run("models", "show", str(desk.config), "machines", first)[1].startswith(
        f"machines {first}: before the champion; in shadow"
    )
    assert as_json(run("models", "show", str(desk.config), "machines", first, "--json")[1])["shadow"] is True
    assert as_json(run(*arguments, "--end", "--json")[1]) == {"stream": "machines", "changed": True, "shadow": None}
    assert run(*arguments, "--end")[1] == "machines: none is in shadow; nothing was written\n"


def test_what_was_seen_is_shown(run: Run, desk: Desk) -> None:
    first, second = desk.train(2)
    assert run("models", "shadow", str(desk.config), "machines", first)[0] == 0
    shadows = StoredShadows(desk.storage)
    example = Example("shadow", "i1", "web-1\x1b[31m", 0, 60_000, 41.55, "metrics", 2, 77)
    for run_name in ("one", "two"):
        counts = Counts(9000, 3, 2, 1), Counts(8000, 2, 2, 0)
        shadows.keep("machines", run_name, Tally(first, 0, 90_000, 9000, *counts, [example]))
    lines = rows_of(run("models", "shadow", str(desk.config))[1])
    assert lines[1:4] == [
        "machines: 18,000 records, 1970-01-01 00:00:00 to 1970-01-01 00:01:30 UTC",
        "champion 18,000 points scored, 6 incidents: 4 of both, 2 alone",
        "in shadow 16,000 points scored, 4 incidents: 4 of both, 0 alone",
    ]
    assert "in shadow web-1\\x1b[31m 1970-01-01 00:00:00 1970-01-01 00:01:00 41.5 metrics/2@77" in lines
    told = as_json(run("models", "shadow", str(desk.config), "machines", "--json")[1])
    assert (told["champion"], told["shadow"], told["seen"]["records"]) == (second, first, 18_000)
    desk.storage.put(f"shadows/machines/seen/{first}/two.json", b"{")
    assert "look: " in run("models", "shadow", str(desk.config))[1]


def test_what_cannot_be_in_shadow_is_refused(run: Run, desk: Desk) -> None:
    first, second = desk.train(2)
    arguments = ("models", "shadow", str(desk.config), "machines")
    for asked, why in (
        ((second,), f"stream machines: {second} is the champion; name another version to compare it with"),
        ((first, "--end"), f"--end: no version is in shadow then; leave {first} out, or --end"),
    ):
        status, _, said = run(*arguments, *asked)
        assert (status, only_line(said)) == (2, why)
    assert run("models", "shadow", str(desk.config), "--end")[0] == 2
    desk.damage(f"models/machines/versions/{first}/model.safetensors")
    status, _, said = run(*arguments, first)
    assert (status, "model.safetensors is damaged" in only_line(said)) == (1, True)
    assert StoredShadows(desk.storage).appointed("machines") is None


def test_prune_leaves_what_is_in_shadow_and_takes_what_was_seen_with_a_version(run: Run, desk: Desk) -> None:
    first, second, third, _ = desk.train(4)
    assert run("models", "shadow", str(desk.config), "machines", second)[0] == 0
    shadows = StoredShadows(desk.storage)
    for version in (first, second):
        shadows.keep("machines", "one", Tally(version, 0, 0, 1))
    status, printed, _ = run("models", "prune", str(desk.config), "--keep", "1", "--yes")
    assert status == 0
    assert f"machines: {second} stays: in shadow" in printed
    assert list(desk.registry.versions("machines"))[:2] == [second, third]
    assert shadows.seen("machines", first) == ([], [])
    assert len(shadows.seen("machines", second)[0]) == 1


def test_a_running_worker_scores_it_beside_the_champion_and_alerts_nobody(deployed: Deployed) -> None:
    config, payloads = watching(deployed), series_payloads(200)
    add(config, "v2")
    with Running(config, "info") as running:
        assert offkey("models", "shadow", str(config), "machines", "v2").returncode == 0
        wait_for(lambda: 'offkey_shadow_info{stream="machines",version="v2"} 1.0' in metrics_of(config), running)
        produce(deployed.connection, deployed.topic, payloads)
        wait_for(lambda: deployed.reached(800), running)
        said = running.end()
    assert "stream machines: model v2 is in shadow, beside v1" in said
    assert {alert["model_version"] for alert in events(deployed.connection, deployed.alerts)} == {"v1"}
    told = json.loads(offkey("models", "shadow", str(config), "--json").stdout)
    assert (told["champion"], told["shadow"], told["seen"]["records"]) == ("v1", "v2", 800)
    storage = ObjectStorage(load_settings(config).storage)
    (tally,) = StoredShadows(storage).seen("machines", "v2")[0]
    assert tally.shadow.incidents
    assert tally.champion.points == tally.shadow.points

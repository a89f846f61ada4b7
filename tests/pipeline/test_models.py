"""`offkey models` as users run it, on a folder and on a bucket."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.files import to_files
from pipeline import cli
from pipeline.config import load_settings
from pipeline.connectors.checkpoints import StoredCheckpoints
from pipeline.connectors.registry import StoredRegistry
from pipeline.connectors.storage import ObjectStorage
from pipeline.part_memory import PartMemory
from pipeline.protocols import Chain, Checkpoint, ModelVersion, Part, TopicPartition
from pipeline.versions.origin import GateResult, GateRow, Origin
from tests.commands import configured, offkey, only_line
from tests.pipeline.versions.desks import day_ms, train
from tests.streams import SERIES, features_detector

Run = Callable[..., tuple[int, str, str]]
GATE = GateResult(True, "champion", ("finds more",), (GateRow("false incidents", 3.0, 2.5, "at most 4"),), 900, 60)


class Desk:
    """A configuration, and what is in its storage."""

    def __init__(self, config: Path) -> None:
        self.config = config
        self.storage = ObjectStorage(load_settings(config).storage)
        self.registry = StoredRegistry(self.storage)

    def train(self, days: int) -> list[str]:
        origin = Origin(
            "offkey train", day_ms(1), "metrics", {0: (5, 905), 1: (0, 7)}, 907, 3, 1, 3, 1.5, "v0", GATE
        )
        return [train(self.registry, day, origin if day == 1 else None) for day in range(days)]

    def champion(self) -> str:
        champion = self.registry.champion("machines")
        assert champion is not None
        return champion.version

    def checkpoint(self, partition: int, version: str) -> None:
        place = TopicPartition("metrics", partition)
        memory = PartMemory.of({"rows": np.zeros(9)})
        checkpoint = Checkpoint("machines", place, "t1", 10, version, "shape")
        StoredCheckpoints(self.storage).write(Part(checkpoint, Chain(), memory, closes=True, whole=True))

    def damage(self, name: str) -> None:
        content = self.storage.get(name)
        assert content is not None
        self.storage.put(name, content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])


@pytest.fixture(params=["folder", "bucket"])
def desk(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.setenv("COLUMNS", "200")
    storage = {"storage": request.getfixturevalue("bucket")} if request.param == "bucket" else {}
    return Desk(configured(tmp_path, **storage))


def as_json(printed: str) -> dict[str, Any]:
    (line,) = printed.splitlines()
    told: dict[str, Any] = json.loads(line)
    return told


def rows_of(printed: str) -> list[str]:
    return [" ".join(line.split()) for line in printed.splitlines()]


def test_versions_are_listed_with_what_they_learned_from_and_who_serves(run: Run, desk: Desk) -> None:
    first, second, third = desk.train(3)
    desk.checkpoint(0, first)
    desk.checkpoint(4, first)
    status, printed, _ = run("models", "list", str(desk.config))
    assert status == 0
    head, *rows = rows_of(printed)
    assert head == "machines rows until (UTC) model gate serves"
    assert rows == [
        f"{first} 1,800 2023-11-15 linear in use by 2 of metrics",
        f"{second} 1,800 2023-11-15 vanilla accepted before the champion",
        f"{third} 1,800 2023-11-15 linear champion",
    ]
    told = as_json(run("models", "list", str(desk.config), "machines", "--json")[1])
    assert (told["stream"], told["champion"], told["faults"]) == ("machines", third, [])
    assert [each["version"] for each in told["versions"]] == [first, second, third]
    assert [each["rollback_target"] for each in told["versions"]] == [False, True, False]
    assert [entry["number"] for entry in told["promotions"]] == [1, 2, 3]


def test_a_stream_without_versions_names_the_command(run: Run, desk: Desk) -> None:
    assert run("models", "list", str(desk.config)) == (
        0,
        "machines has no versions; train one with: offkey train CONFIG machines\n",
        "",
    )
    status, _, said = run("models", "show", str(desk.config), "machines", "champion")
    assert (status, only_line(said)) == (2, "stream machines has no champion; see `offkey models list`")


def test_a_version_is_shown_with_origin_gate_and_use(run: Run, desk: Desk) -> None:
    _, second, _ = desk.train(3)
    desk.checkpoint(0, second)
    desk.checkpoint(3, second)
    status, printed, _ = run("models", "show", str(desk.config), "machines", "20260102")
    assert status == 0
    rows = rows_of(printed)
    assert rows[0] == f"machines {second}: before the champion; in use by 2 of metrics"
    assert rows[1] == "trained 2026-01-02 00:00:00 UTC, by offkey train in 2 s, when v0 served"
    assert rows[2] == "learned from 1,800 rows of 3 series, 2023-11-14 22:13:20 to 2023-11-15 08:12:20 UTC"
    assert rows[3] == "records 907: 3 rejected, 1 late"
    assert rows[4] == "topic metrics: 0@5-904, 1@0-6"
    assert rows[5] == "features 2: cpu, mem"
    assert rows[6].startswith("model vanilla, 1 view, of up to 8 rows; ")
    assert rows[8] == "promotion 2 2026-01-02 00:00:00 UTC, offkey train"
    assert rows[9].startswith("in use by partitions 0, 3 of topic metrics, as of 20")
    assert rows[10:12] == [
        "gate accepted; finds more",
        "900 rows held out, 60 anomalies put into them; champion v0",
    ]
    assert "│ ok │ false incidents │ 3 │ 2.5 │ at most 4 │" in rows
    told = as_json(run("models", "show", str(desk.config), "machines", second, "--json")[1])
    assert told["origin"]["gate"]["rows"][0]["measure"] == "false incidents"
    assert [(each["topic"], each["partition"]) for each in told["serving"]] == [("metrics", 0), ("metrics", 3)]


@pytest.mark.parametrize("file", ["model.safetensors", "manifest.json", "origin.json"])
def test_a_byte_that_was_damaged_is_found_and_never_promoted(run: Run, desk: Desk, file: str) -> None:
    _, second, third = desk.train(3)
    desk.damage(f"models/machines/versions/{second}/{file}")
    status, printed, said = run("models", "show", str(desk.config), "machines", second)
    assert status == 1
    assert only_line(said).startswith(f"model machines {second}: {file} is damaged")
    assert printed.startswith(f"machines {second}: before the champion")
    for command in (("promote", second), ("rollback",), ("rollback", "--to", second)):
        status, _, said = run("models", command[0], str(desk.config), "machines", *command[1:])
        assert status == 1
        assert f"{file} is damaged" in only_line(said)
    assert desk.champion() == third
    assert desk.registry.log("machines").last_number == 3
    _, printed, _ = run("models", "list", str(desk.config))
    assert (f"look: model machines {second}: {file} is damaged" in printed) == (file != "model.safetensors")


def test_promote_says_what_it_came_to_and_keeps_the_note(run: Run, desk: Desk) -> None:
    first, second, third = desk.train(3)
    desk.checkpoint(0, third)
    status, printed, said = run(
        "models", "promote", str(desk.config), "machines", "20260101", "--note", "as [it] was"
    )
    assert (status, said) == (0, "")
    lines = printed.splitlines()
    assert lines[:2] == [
        f"machines: {first} is the champion now, in the place of {third} (promotion 4)",
        "machines: running workers adopt it between two batches; they look every `worker.watch_every`",
    ]
    assert lines[2].startswith(f"machines: {third} is in use by partition 0 of topic metrics, as of ")
    entry = desk.registry.champion("machines")
    assert entry is not None
    assert (entry.version, entry.reason, entry.note) == (first, "offkey models promote", "as [it] was")
    assert "@" in entry.by
    assert run("models", "promote", str(desk.config), "machines", first)[1] == (
        f"machines: {first} is the champion already; nothing was written\n"
    )
    told = as_json(run("models", "promote", str(desk.config), "machines", second, "--json")[1])
    assert (told["stream"], told["changed"], told["version"], told["number"]) == ("machines", True, second, 5)
    assert desk.champion() == second


def test_rollbacks_go_further_back_until_there_is_nothing(run: Run, desk: Desk) -> None:
    first, second, third = desk.train(3)
    for expected in (second, first):
        assert run("models", "rollback", str(desk.config), "machines", "--note", "too many alerts")[0] == 0
        assert desk.champion() == expected
    status, _, said = run("models", "rollback", str(desk.config), "machines")
    assert status == 2
    assert only_line(said).endswith("name one: offkey models rollback CONFIG machines --to VERSION")
    assert run("models", "rollback", str(desk.config), "machines", "--to", third)[0] == 0
    assert desk.champion() == third


def test_a_version_for_other_features_is_refused_before_every_worker_would_refuse_it(run: Run, desk: Desk) -> None:
    (first,) = desk.train(1)
    desk.registry.add(ModelVersion("machines", "other", to_files(features_detector())))
    status, _, said = run("models", "promote", str(desk.config), "machines", "other")
    assert status == 2
    assert "model other was made for features of a, b, c" in only_line(said)
    assert desk.champion() == first


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["show", "machine", "champion"], "there is no stream 'machine'; did you mean 'machines'?"),
        (["list", "x"], "there is no stream 'x'; there are: machines"),
        (["show", "machines", "2026"], "stream machines: '2026' may be 2026"),
        (["promote", "machines", "nonsense"], "stream machines: there is no version 'nonsense'; there are: 2026"),
        (["rollback", "machines", "--to", "nonsense"], "stream machines: there is no version 'nonsense'"),
        (
            ["prune", "machines"],
            "a prune asks before it removes, and there is no terminal; give --yes, or --dry-run",
        ),
        (["prune", "machines", "--yes", "--older-than", "long"], "--older-than: "),
    ],
)
def test_mistakes_are_one_line(run: Run, tmp_path: Path, arguments: Sequence[str], said: str) -> None:
    desk = Desk(configured(tmp_path))
    desk.train(2)
    status, printed, error = run("models", arguments[0], str(desk.config), *arguments[1:])
    assert (status, printed) == (2, "")
    assert only_line(error).startswith(said)
    assert desk.registry.log("machines").last_number == 2


def test_a_hole_in_the_log_is_told_and_stops_only_what_needs_it(run: Run, desk: Desk) -> None:
    first, second, third = desk.train(3)
    desk.storage.delete("models/machines/promotions/00000002.json")
    status, printed, _ = run("models", "list", str(desk.config))
    assert status == 0
    assert f" champion\nlook: {desk.storage.url}/models/machines/promotions/00000002.json: " in (
        "\n".join(line.rstrip() for line in printed.splitlines())
    )
    status, _, said = run("models", "rollback", str(desk.config), "machines")
    assert status == 1
    assert "what served before is not known; " in only_line(said)
    assert "00000002.json: missing from the log of promotions" in said
    assert run("models", "prune", str(desk.config), "--keep", "1", "--yes")[0] == 1
    assert len(desk.registry.versions("machines")) == 3
    assert run("models", "rollback", str(desk.config), "machines", "--to", first)[0] == 0
    assert run("models", "promote", str(desk.config), "machines", second)[0] == 0
    assert run("models", "rollback", str(desk.config), "machines")[0] == 0
    assert desk.champion() == first
    assert third in desk.registry.versions("machines")


def test_a_damaged_last_entry_is_mended_by_the_next_promotion(run: Run, desk: Desk) -> None:
    first, _ = desk.train(2)
    desk.storage.put("models/machines/promotions/00000002.json", b"{")
    status, _, said = run("worker", str(desk.config))
    assert status == 1
    assert "00000002.json: damaged promotion" in only_line(said)
    assert "offkey models promote CONFIG machines VERSION" in said
    assert run("models", "promote", str(desk.config), "machines", first)[0] == 0
    assert desk.champion() == first
    assert run("models", "list", str(desk.config))[0] == 0


def test_of_two_promotions_at_once_one_loses_clearly(run: Run, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, _ = desk.train(3)
    create = ObjectStorage.create

    def late(storage: ObjectStorage, name: str, content: bytes) -> bool:
        """Someone else promotes when we have decided, and just before we write."""
        monkeypatch.setattr(ObjectStorage, "create", create)
        assert cli.app(["models", "promote", str(desk.config), "machines", second], standalone_mode=False) is None
        return create(storage, name, content)

    monkeypatch.setattr(ObjectStorage, "create", late)
    status, _, said = run("models", "promote", str(desk.config), "machines", first)
    assert status == 1
    assert only_line(said) == (
        "stream machines: promotion 4 was made by someone else meanwhile, and this one does not count; see "
        "`offkey models list CONFIG machines`, and do it again if it should still be"
    )
    assert desk.champion() == second


def test_prune_removes_what_nobody_needs_and_says_why_the_rest_stays(run: Run, desk: Desk) -> None:
    versions = desk.train(6)
    desk.checkpoint(2, versions[1])
    arguments = ("models", "prune", str(desk.config), "--keep", "1")
    status, printed, _ = run(*arguments, "--dry-run")
    assert status == 0
    assert printed.splitlines() == [
        f"machines: {versions[1]} stays: in use: the newest checkpoint of metrics/2 names it",
        f"machines: {versions[4]} stays: served before; a rollback goes to it",
        f"machines: {versions[5]} stays: champion",
        f"machines: {versions[0]} goes",
        f"machines: {versions[2]} goes",
        f"machines: {versions[3]} goes",
        "machines: nothing was removed",
    ]
    assert list(desk.registry.versions("machines")) == versions
    status, printed, said = run(*arguments, "--yes", "--json")
    assert status == 0
    assert as_json(printed)["removed"] == [versions[0], versions[2], versions[3]]
    assert f"{versions[0]} goes" in said
    assert list(desk.registry.versions("machines")) == [versions[1], versions[4], versions[5]]
    assert desk.champion() == versions[5]
    assert run(*arguments, "--yes")[1].endswith("machines: nothing was removed\n")


def test_a_bucket_that_is_not_there_is_one_line(run: Run, desk: Desk, tmp_path: Path, bucket: str) -> None:
    path = configured(tmp_path, storage="s3://never-made/prefix")
    for command in (["models", "list"], ["worker"]):
        status, _, said = run(*command, str(path))
        assert status == 2
        assert only_line(said).startswith("storage s3://never-made/prefix: there is no such bucket; create it, or ")


def test_a_prune_without_a_yes_removes_nothing(tmp_path: Path) -> None:
    """On a terminal it asks."""
    import os
    import pty

    desk = Desk(configured(tmp_path))
    versions = desk.train(4)
    ours, theirs = pty.openpty()
    code = "from pipeline.cli import main; main()"
    command = [sys.executable, "-c", code, "models", "prune", str(desk.config), "--keep", "1"]
    asked = subprocess.Popen(command, stdin=theirs, stdout=subprocess.PIPE, text=True)
    os.write(ours, b"n\n")
    printed, _ = asked.communicate(timeout=60)
    os.close(ours)
    os.close(theirs)
    assert asked.returncode == 1
    assert printed.endswith("machines: remove 2 for ever? [y/N]: machines: nothing was removed\n")
    assert list(desk.registry.versions("machines")) == versions


def test_listing_is_quick_for_it_needs_no_torch(tmp_path: Path) -> None:
    desk = Desk(configured(tmp_path))
    (version,) = desk.train(1)
    for command in (["list", str(desk.config)], ["show", str(desk.config), "machines", "champion"]):
        code = (
            f"import sys; sys.argv = ['offkey', 'models', *{command!r}]\n"
            "from pipeline.cli import main\n"
            "try:\n    main()\nexcept SystemExit:\n    print('torch' in sys.modules)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
        assert version in done.stdout, done.stderr
        assert done.stdout.endswith("False\n")


def test_a_stream_of_features_is_shown_too(tmp_path: Path) -> None:
    stream = {"topic": "payments", "kind": "features"}
    path = configured(tmp_path, streams={"payments": stream, "machines": SERIES.model_dump(exclude_unset=True)})
    desk = Desk(path)
    desk.registry.add(ModelVersion("payments", "v1", to_files(features_detector())))
    shown = offkey("models", "show", str(path), "payments", "v1")
    assert shown.returncode == 0
    rows = rows_of(shown.stdout)
    assert rows[0] == "payments v1: has never served"
    assert "learned from 2,000 rows, 2023-11-14 22:13:20 to 2023-11-14 22:46:39 UTC" in rows
    assert any(row.startswith("model vanilla, 1 view; ") for row in rows)

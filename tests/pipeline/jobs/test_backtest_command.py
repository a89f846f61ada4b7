"""`offkey backtest` as its users run it: what it prints, what it leaves, and what it refuses."""

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from models.files import to_files
from pipeline.config import load_settings
from pipeline.connectors.registry import StoredRegistry
from pipeline.connectors.snapshots import StoredSnapshots
from pipeline.connectors.storage import ObjectStorage
from pipeline.errors import ConfigError, TransientError
from pipeline.jobs.backtest_output import OURS
from pipeline.jobs.new_folder import check_folder, unfinished
from pipeline.protocols import ModelVersion, OffsetRange
from tests.commands import Running, configured, offkey, only_line, promote, wait_for
from tests.pipeline.stages.test_alerts import SCHEMA
from tests.snapshots import rows_of
from tests.streams import BEGIN_MS, HISTORY, STEP_MS, retrained_detector, series_rows

NAMES = ["a", "b", "c"]


def snapshots(config: Path, points: int = 300, repeat: int = 1) -> None:
    """Keep rows of three series, two of which have spikes, in the configuration's storage."""
    values = series_rows(NAMES, points, 2, {"a": [100, 200], "b": [150]})
    time_ms = BEGIN_MS + STEP_MS * (HISTORY + np.arange(points * repeat))
    x_TSF = np.tile(values.transpose(1, 0, 2), (repeat, 1, 1))
    made = rows_of(x_TSF, time_ms, NAMES)
    storage = ObjectStorage(load_settings(config).storage)
    StoredSnapshots(storage).write("machines", made, OffsetRange(0, len(made)), int(time_ms[-1]))


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A stream with two versions and snapshots, that no worker has read."""
    path = configured(tmp_path)
    promote(path)
    registry = StoredRegistry(ObjectStorage(load_settings(path).storage))
    registry.add(ModelVersion("machines", "v2", to_files(retrained_detector())))
    snapshots(path)
    return path


def test_it_says_what_was_found_and_leaves_alerts_and_a_report(config: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = offkey("backtest", str(config), "--output", str(out))
    assert done.returncode == 0, done.stderr
    assert "machines: 900 rows of 3 series" in done.stdout
    assert "begins without state: series warm up" in done.stdout
    assert {path.name for path in (out / "machines").iterdir()} == {"alerts.jsonl", "summary.json", "report.html"}
    told = json.loads((out / "machines" / "summary.json").read_text())
    assert told["incidents"] >= 3
    assert f"machines: {told['incidents']} incidents" in done.stdout
    events = [json.loads(line) for line in (out / "machines" / "alerts.jsonl").read_text().splitlines()]
    for event in events:
        jsonschema.validate(event, SCHEMA)
    assert len({event["data"]["incident"] for event in events}) == told["incidents"]
    assert [event["data"]["event_ms"] for event in events] == sorted(event["data"]["event_ms"] for event in events)
    page = (out / "machines" / "report.html").read_text()
    assert all(f"<h3>{name}</h3>" in page for name in ("a", "b"))
    # What is shaded is the first stretch, and each mark leads to its incident.
    assert 'class="span"' in page
    marks = set(re.findall(r'href="#(i\w+)"', page))
    assert marks
    assert marks <= set(re.findall(r"<tr id=(i\w+)>", page))


def test_a_range_is_by_kafka_timestamps(config: Path) -> None:
    from_ms = BEGIN_MS + STEP_MS * (HISTORY + 120)
    moments = [f"{np.datetime64(ms, 'ms')}Z" for ms in (from_ms, BEGIN_MS + STEP_MS * (HISTORY + 220))]
    done = offkey("backtest", str(config), "machines", "--json", "--from", moments[0], "--to", moments[1])
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["rows"] == 3 * 100
    assert (told["first_ms"], told["partitions"][0]["offset"]) == (from_ms, 3 * 120)
    assert told["partitions"][0]["begins"] == "cold"


def test_two_versions_and_two_configurations_side_by_side(config: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = offkey("backtest", str(config), "--compare", "v1", "v2", "--output", str(out), "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["a"]["name"], told["b"]["name"]) == ("v1", "v2")
    assert (set(told["a"]["versions"]), set(told["b"]["versions"])) == ({"v1"}, {"v2"})
    assert told["compared"]["in_both_of_a"] + told["compared"]["only_a"] == told["a"]["incidents"]
    assert told["compared"]["in_both_of_b"] + told["compared"]["only_b"] == told["b"]["incidents"]
    assert told["compared"]["in_both_of_a"] >= 3
    assert "v2" in (out / "machines" / "report.html").read_text()
    assert (out / "machines" / "a" / "alerts.jsonl").exists()
    assert (out / "machines" / "b" / "report.html").exists()

    settings = json.loads(config.read_text())
    settings["streams"]["machines"]["alerts"] = {"budget": "1 per 36500 days"}
    other = tmp_path / "rarer.json"
    other.write_text(json.dumps(settings))
    done = offkey("backtest", str(config), "--compare", "live", str(other))
    assert done.returncode == 0, done.stderr
    assert re.search(r"machines: .* in A only, 0 in B only", done.stdout)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["--from", "2026-02-01T00:00:00Z", "--to", "2026-01-01T00:00:00Z"], "--from .* is not before --to; swap"),
        (["--from", "30"], "--from: '30' is no moment.*or how long ago"),
        (["payments"], "no stream 'payments'.*machines"),
        (["--version", "v3"], "no version 'v3'"),
        (["--compare", "v1", "v2", "--version", "v1"], "--compare names what judges; leave --version out"),
        (["--scores"], "--scores: nothing is written without --output"),
        (["--overwrite"], "--overwrite: nothing is written without --output"),
    ],
)
def test_mistakes_are_one_line_and_status_2(config: Path, asked: list[str], said: str) -> None:
    done = offkey("backtest", str(config), *asked)
    assert done.returncode == 2, done.stderr
    assert re.search(said, only_line(done.stderr))


def test_nothing_in_the_range_is_status_1_and_says_what_there_is(config: Path) -> None:
    done = offkey("backtest", str(config), "--from", "1d")
    assert done.returncode == 1
    assert "hold no rows of that time; the oldest came in at 2023-11-1" in only_line(done.stderr)


def test_a_model_of_another_window_is_named(config: Path, tmp_path: Path) -> None:
    settings = json.loads(config.read_text())
    settings["streams"]["machines"] |= {"window": 16}
    config.write_text(json.dumps(settings))
    done = offkey("backtest", str(config))
    assert done.returncode == 2
    assert re.search("model v1 was made for series of cpu, mem in windows of 8", only_line(done.stderr))


def test_a_folder_that_is_there_is_refused_and_overwritten_when_asked(config: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    asked = ["backtest", str(config), "--output", str(out)]
    assert offkey(*asked).returncode == 0
    (out / "machines" / "summary.json").write_text("earlier")
    done = offkey(*asked)
    assert done.returncode == 2
    assert "it is there already; name another folder, or give --overwrite" in only_line(done.stderr)
    assert (out / "machines" / "summary.json").read_text() == "earlier"
    assert offkey(*asked, "--overwrite", "--scores").returncode == 0
    assert json.loads((out / "machines" / "summary.json").read_text())["rows"] == 900
    assert (out / "machines" / "scores.parquet").exists()
    (out / "notes.txt").write_text("mine")
    done = offkey(*asked, "--overwrite")
    assert done.returncode == 2
    assert "it holds notes.txt, which no backtest has written" in only_line(done.stderr)
    assert (out / "machines" / "scores.parquet").exists()


def test_who_stops_reading_gets_the_folder(config: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-c", "from pipeline.cli import main; main()"]
    reads, writes = os.pipe()
    os.close(reads)
    with closing(os.fdopen(writes, "wb")) as nobody:
        done = subprocess.run(
            [*command, "backtest", str(config), "--output", str(out)],
            stdout=nobody,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.stderr == f"wrote {out}/machines/report.html and what it rests on\n"
    assert json.loads((out / "machines" / "summary.json").read_text())["rows"] == 900


def test_ctrl_c_leaves_nothing_and_says_so(tmp_path: Path) -> None:
    config, out = configured(tmp_path), tmp_path / "out"
    promote(config)
    snapshots(config, repeat=600)
    with Running(config, "warning", "backtest", "--output", str(out)) as running:
        wait_for(lambda: any(tmp_path.glob(".out.*/machines/scores.parquet")), running)
        said = running.end(signal.SIGINT)
    assert running.process.returncode == 130
    assert only_line(said) == "stopped; nothing was written, the same command begins anew"
    assert not out.exists()
    assert not list(tmp_path.glob(".out*"))


def test_what_does_not_fit_on_the_disk_leaves_nothing(tmp_path: Path) -> None:
    """/dev/full takes no byte, as a disk that is full."""
    out = tmp_path / "out"

    def write() -> None:
        with unfinished(out) as folder:
            (folder / "alerts.jsonl").write_text("whole")
            with open("/dev/full", "w") as full:
                full.write("more")

    with pytest.raises(TransientError, match="the disk is full; nothing was left there: make room"):
        write()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["there", "link", "."])
def test_what_was_there_gives_way_to_the_whole_result_alone(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By whatever name the folder is called; what fails at the last moment leaves the earlier result."""
    there = tmp_path / "there"
    there.mkdir()
    (there / "summary.json").write_text("earlier")
    (tmp_path / "link").symlink_to(there)
    monkeypatch.chdir(there)
    out = Path(name) if name == "." else tmp_path / name
    rename = Path.rename

    def interrupted(old: Path, new: Path) -> Path:
        if not old.name.endswith(".earlier") and not new.name.endswith(".earlier"):
            raise KeyboardInterrupt
        return rename(old, new)

    def write() -> None:
        with unfinished(out) as folder:
            (folder / "summary.json").write_text("new")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write()
    assert (there / "summary.json").read_text() == "earlier"
    write()
    assert (there / "summary.json").read_text() == "new"
    assert {path.name for path in tmp_path.iterdir()} == {"there", "link"}


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(ConfigError, match="that is a file; name a folder"):
        check_folder(file, True, OURS.__contains__, "backtest")
    with pytest.raises(ConfigError, match="nothing can take the place of a mounted folder"):
        check_folder(Path("/"), True, OURS.__contains__, "backtest")
    with pytest.raises(ConfigError, match=r"--output .*: it cannot be written"), unfinished(file / "below"):
        pass

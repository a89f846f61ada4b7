"""`offkey evaluate`: writes what it says, keeps what is done, stops cleanly, names what it cannot do."""

import csv
import fcntl
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from rich.console import Console

from pipeline.connectors.labelled import read_scores
from pipeline.errors import ConfigError
from pipeline.jobs.evaluate import Options, Outcome, evaluate, parse_delays, plan
from pipeline.jobs.evaluate_report import by_group, note, report
from pipeline.jobs.judge import Online
from pipeline.jobs.results import Result, read_results
from tests.labelled import series_columns, table_columns, write
from tests.plugins import CHOOSY, installed


def fill(folder: Path) -> Path:
    """Write two groups of series and a table; return where."""
    for group, name, seed in (("cars", "a", 0), ("cars", "b", 1), ("pumps", "a", 2)):
        write(folder / "data" / group / f"{name}.parquet", series_columns(300, seed=seed))
    write(folder / "data" / "tables" / "t.parquet", table_columns(200))
    return folder / "data"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Files to evaluate."""
    return fill(tmp_path)


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files that are evaluated already, for tests that change nothing."""
    folder = fill(tmp_path_factory.mktemp("evaluated"))
    run(options(folder))
    return folder


def options(data: Path, **changes: Any) -> Options:
    whole = Options([data], data.parent / "out", "vanilla", 0, "S", (), 1, False, None)
    return replace(whole, **changes)


def run(asked: Options) -> Outcome:
    return evaluate(asked, plan(asked), lambda what, done, total: None)


def offkey(*words: str) -> list[str]:
    return [sys.executable, "-c", "from pipeline.cli import main; main()", "evaluate", *words]


def test_the_command_writes_scores_metrics_and_a_table(data: Path) -> None:
    out = data.parent / "out"
    words = offkey(str(data), "--out", str(out), "--architecture", "vanilla", "--workers", "2")
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "1 of 4: " in done.stderr
    assert "mean of groups" in done.stdout
    assert "nothing is learned while scoring" in " ".join(done.stdout.split())
    assert note(None).split(".")[0] in done.stdout
    written = sorted(str(path.relative_to(out)) for path in out.rglob("*.*") if path.name != ".lock")
    expected = ["cars/a", "cars/b", "pumps/a", "tables/t"]
    assert written == ["metrics.csv", *(f"scores/{name}.parquet" for name in expected)]
    with (out / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [f"{row['group']}/{row['series']}" for row in rows] == expected
    assert {row["architecture"] for row in rows} == {"vanilla"}
    assert [row["setting"] for row in rows] == ["", "", "", "S:0"]
    assert all(float(row["vus_pr_causal"]) > 0.5 for row in rows[:3])
    # One worker and two, a kept result and a fresh one: all the same.
    before = (out / "metrics.csv").read_bytes()
    again = subprocess.run([*words, "--json"], capture_output=True, text=True, timeout=120)
    assert "4 series are there already and kept" in again.stderr
    assert (out / "metrics.csv").read_bytes() == before
    assert [row["group"] for row in json.loads(again.stdout)] == ["cars", "pumps", "tables", "mean of groups"]
    alone = run(options(data, out=data.parent / "alone"))
    timed = ("fit_s", "points_per_s", "configuration")
    assert [_without(one, timed) for one in read_results(data.parent / "alone" / "metrics.csv")] == [
        _without(one, timed) for one in read_results(out / "metrics.csv")
    ]
    assert not alone.failures


def _without(result: Result, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name, value in vars(result).items() if name not in names}


def test_what_is_done_is_kept_and_what_changed_is_done_again(data: Path) -> None:
    asked = options(data)
    run(asked)
    assert plan(asked).pending == []
    assert len(plan(asked).kept) == 4
    scores = asked.out / "scores"

    (scores / "cars" / "a.parquet").unlink()
    write(data / "cars" / "b.parquet", series_columns(300, seed=7))
    whole = (scores / "pumps" / "a.parquet").read_bytes()
    (scores / "pumps" / "a.parquet").write_bytes(whole[: len(whole) // 2])
    assert sorted(task.scores.relative_to(scores).as_posix() for task in plan(asked).pending) == [
        "cars/a.parquet",
        "cars/b.parquet",
        "pumps/a.parquet",
    ]
    kept = (scores / "tables" / "t.parquet").stat()
    assert len(run(asked).results) == 4
    assert (scores / "tables" / "t.parquet").stat().st_mtime_ns == kept.st_mtime_ns
    assert plan(asked).pending == []


@pytest.mark.parametrize(
    ("change", "again"),
    [
        ({"seed": 1}, 4),
        ({"architecture": "sparse"}, 4),
        ({"delays": (2,)}, 3),
        ({"setting": "U"}, 1),
        ({"online": Online(None)}, 3),
        ({"online": Online(3600.0)}, 3),
        ({"workers": 2, "figures": True, "limit": 5}, 0),
    ],
)
def test_another_configuration_is_done_again(evaluated: Path, change: dict[str, Any], again: int) -> None:
    assert len(plan(options(evaluated, **change)).pending) == again


def test_an_architecture_of_another_distribution_counts_by_its_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data" / "cars"
    write(data / "a.parquet", series_columns(300))
    asked = options(data, architecture="mine")
    with installed(tmp_path / "one", monkeypatch, CHOOSY):
        outcome = run(asked)
        assert not outcome.failures
        assert [result.architecture for result in outcome.results] == ["mine"]
        assert plan(asked).pending == []
    with installed(tmp_path / "two", monkeypatch, CHOOSY, version="2.0"):
        assert len(plan(asked).pending) == 1


def test_an_architecture_that_cannot_be_loaded_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "data" / "a.parquet", series_columns(300))
    with installed(tmp_path / "broken", monkeypatch, "import no_such_library"):
        asked = offkey(str(file), "--out", str(tmp_path / "out"), "--architecture", "mine")
        done = subprocess.run(asked, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr == (
        "offkey: --architecture mine: architecture 'mine' of added 1.0 cannot be loaded "
        "(No module named 'no_such_library'); install what it needs, or another version\n"
    )


def test_rows_of_other_seeds_stay_in_the_table(data: Path) -> None:
    run(options(data, paths=[data / "cars"]))
    run(options(data, paths=[data / "cars"], seed=1))
    rows = read_results(data.parent / "out" / "metrics.csv")
    assert [(row.series, row.seed) for row in rows] == [("a", 0), ("a", 1), ("b", 0), ("b", 1)]
    # The score files are those of seed 1: seed 0 is not taken for done.
    assert len(plan(options(data, paths=[data / "cars"])).pending) == 2


def test_recalibrated_scores_stand_beside_those_of_training_alone(data: Path) -> None:
    out = data.parent / "out"
    words = offkey(str(data), "--out", str(out), "--architecture", "vanilla")
    run(options(data))
    trained = read_scores(out / "scores" / "cars" / "a.parquet")["causal"]
    done = subprocess.run([*words, "--online", "--accept-after", "2h"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    # A table's rows have no order to go on in.
    assert "1 series are there already and kept" in done.stderr
    said = " ".join(done.stdout.split())
    assert "recalibrated online, as a worker does; a level that stays is accepted after 7200 s" in said
    rows = read_results(out / "metrics.csv")
    assert [row.online for row in rows if row.group == "cars"] == ["", "7200 s", "", "7200 s"]
    assert [row.online for row in rows if row.group == "tables"] == [""]
    assert (read_scores(out / "scores" / "cars" / "a.parquet")["causal"] != trained).any()
    assert len(plan(options(data, online=Online(7200.0))).kept) == 4
    assert len(plan(options(data, online=Online(None))).kept) == 1


def test_stopped_it_leaves_whole_files_and_goes_on(data: Path) -> None:
    # The largest file is begun with, and takes long.
    write(data / "cars" / "long.parquet", series_columns(40_000, features=8))
    for seed in range(5):
        write(data / "cars" / f"more{seed}.parquet", series_columns(1000, seed=seed))
    out = data.parent / "out"
    words = offkey(str(data / "cars"), "--out", str(out), "--architecture", "recurrent", "--workers", "2")
    child = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stderr is not None
    assert any("1 of 8: " in line for line in child.stderr)
    processes = psutil.Process(child.pid).children(recursive=True)
    os.kill(child.pid, signal.SIGINT)
    _, said = child.communicate(timeout=60)
    assert child.returncode == 130
    assert "of 8 series are written; the same command goes on from there" in said
    assert "Traceback" not in said
    assert not psutil.wait_procs(processes, timeout=10)[1]
    assert not (out / "scores" / "cars" / "long.parquet").exists(), "it waited for the end of a training"
    rows = read_results(out / "metrics.csv")
    assert 1 <= len(rows) < 8
    files = sorted((out / "scores").rglob("*"))
    assert [path for path in files if path.is_file() and path.suffix != ".parquet"] == []
    for path in files:
        if path.is_file():
            assert np.isfinite(read_scores(path)["causal"]).all()
    going_on = plan(options(data / "cars", out=out, architecture="recurrent"))
    assert sorted(one.key for one in going_on.kept) == sorted(one.key for one in rows)


def test_sigterm_stops_it_as_ctrl_c_does(data: Path) -> None:
    words = offkey(str(data), "--out", str(data.parent / "out"), "--architecture", "recurrent")
    child = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stderr is not None
    assert any("1 of 4: " in line for line in child.stderr)
    child.terminate()
    _, said = child.communicate(timeout=60)
    assert (child.returncode, "the same command goes on" in said) == (130, True)


def test_workers_end_with_a_parent_that_was_killed(data: Path) -> None:
    write(data / "cars" / "long.parquet", series_columns(40_000, features=8))
    words = offkey(
        str(data / "cars"), "--out", str(data.parent / "out"), "--architecture", "recurrent", "--workers", "2"
    )
    child = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert child.stderr is not None
    assert any("1 of 3: " in line for line in child.stderr)
    workers = psutil.Process(child.pid).children(recursive=True)
    assert len(workers) >= 2
    child.kill()
    child.communicate(timeout=60)
    gone, alive = psutil.wait_procs(workers, timeout=15)
    for worker in alive:
        worker.kill()
    assert len(gone) == len(workers)


def test_what_a_killed_worker_left_is_swept(data: Path) -> None:
    left = data.parent / "out" / "scores" / "cars" / ".a.parquet.4711"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    run(options(data))
    assert not left.exists()


def test_two_runs_do_not_share_a_folder(data: Path) -> None:
    out = data.parent / "out"
    out.mkdir()
    with (out / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        with pytest.raises(ConfigError, match="another `offkey evaluate` writes here"):
            run(options(data))
    assert not run(options(data, limit=1)).failures


def test_every_file_that_cannot_be_evaluated_is_named_before_anything_is_trained(data: Path) -> None:
    columns = series_columns(300)
    write(data / "cars" / "bad.parquet", {name: c for name, c in columns.items() if name != "label"})
    (data / "pumps" / "worse.parquet").write_text("no")
    words = offkey(str(data), "--out", str(data.parent / "out"))
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "bad.parquet: there is no column `label`" in done.stderr
    assert "worse.parquet: is not a whole Parquet file" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (data.parent / "out" / "metrics.csv").exists()


def test_a_series_that_cannot_be_trained_on_is_named_and_the_rest_is_done(data: Path) -> None:
    columns = series_columns(300)
    columns["train"] = np.arange(300) < 1
    write(data / "cars" / "short.parquet", columns)
    words = offkey(str(data), "--out", str(data.parent / "out"))
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "short.parquet: " in done.stderr
    assert "Traceback" not in done.stderr
    assert len(read_results(data.parent / "out" / "metrics.csv")) == 4


def test_where_nothing_could_be_done_there_is_no_table(tmp_path: Path) -> None:
    columns = series_columns(300)
    columns["train"] = np.arange(300) < 5
    file = write(tmp_path / "data" / "short.parquet", columns)
    words = offkey(str(file), "--out", str(tmp_path / "out"))
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (1, "")
    told = [line for line in done.stderr.splitlines() if "finite rows" in line]
    assert told == [
        f"offkey: {file}: the longest of 1 series has 5 finite rows; training needs 107 of one series; "
        "mark more rows `train`"
    ]
    assert "1 of 1: " in done.stderr
    assert not (tmp_path / "out" / "metrics.csv").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--setting", "X"], "--setting X: S learns from normal rows of a table, U from contaminated ones"),
        (["--delays", "2,x"], "--delays 2,x: write whole numbers"),
        (["--delays", "0,2"], "--delays 0,2: the shortest delay is 1 point"),
        (["--architecture", "vanila"], "--architecture vanila: "),
        (["--accept-after", "1d"], "--accept-after 1d: only recalibrated scores learn a level; add --online"),
        (["--online", "--accept-after", "soon"], "--accept-after: 'soon' is no duration; write for example"),
    ],
)
def test_a_mistake_in_an_option_is_one_line(data: Path, words: list[str], said: str) -> None:
    asked = offkey(str(data), "--out", str(data.parent / "out"), *words)
    done = subprocess.run(asked, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith(f"offkey: {said}")
    assert len(done.stderr.splitlines()) == 1


def test_paths_that_hold_nothing_and_names_that_come_twice(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such file or folder"):
        plan(options(data, paths=[data / "boats"]))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"there is no \.parquet file in this folder"):
        plan(options(data, paths=[tmp_path / "empty"]))
    write(tmp_path / "other" / "cars" / "a.parquet", series_columns(300))
    with pytest.raises(ConfigError, match="has the same group and name; rename one"):
        plan(options(data, paths=[data, tmp_path / "other"]))
    # A file that is named twice is one file, and scores below a path are no input.
    run(options(data, out=data / "out", limit=1))
    assert len(plan(options(data, paths=[data, data / "cars" / "a.parquet"], out=data / "out")).pending) == 1


def test_a_table_of_another_origin_is_not_overwritten(data: Path) -> None:
    out = data.parent / "out"
    out.mkdir()
    (out / "metrics.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ConfigError, match="move it away or take another --out"):
        plan(options(data))


def test_figures_are_drawn_once(data: Path) -> None:
    write(data / "pumps" / "wide.parquet", series_columns(300, features=14))
    write(data / "cars" / "c.parquet", series_columns(300))
    asked = options(data, figures=True, limit=2)
    run(asked)
    figures = sorted((asked.out / "figures").rglob("*.*"))
    names = [path.relative_to(asked.out / "figures").as_posix() for path in figures]
    assert names == ["cars/a.png", "cars/b.png", "pumps/a.png", "pumps/wide.png", "tables/t.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in figures)
    drawn = [path.stat().st_mtime_ns for path in figures]
    figures[1].unlink()
    run(asked)
    after = [path.stat().st_mtime_ns for path in figures]
    assert [one != other for one, other in zip(drawn, after, strict=True)] == [False, True, False, False, False]


def test_groups_weigh_alike_in_the_mean() -> None:
    rows = [
        Result("a", "1", "default", 0, 0.2, 0.4, fit_s=1.0, points_per_s=100.0),
        Result("a", "2", "default", 0, 0.4, 0.6, fit_s=3.0, points_per_s=300.0),
        Result("b", "1", "default", 0, 0.9, 0.9, false_incidents_1_per_day=3, allowed_incidents_1_per_day=1.5),
        Result("t", "1", "default", 0, auroc=0.8, setting="S:0"),
    ]
    first, second, third, last = by_group(rows)
    assert (first["files"], first["fit_s"], first["false_incidents"]) == (2, 2.0, None)
    assert (first["vus_pr_causal"], first["vus_pr_settled"]) == pytest.approx((0.3, 0.5))
    assert (second["false_incidents"], second["allowed_incidents"]) == (3, 1.5)
    assert (third["auroc"], third["vus_pr_causal"]) == (0.8, None)
    assert last["group"] == "mean of groups"
    assert (last["vus_pr_causal"], last["vus_pr_settled"]) == pytest.approx((0.6, 0.7))
    assert last["files"] == 3
    console = Console(width=120)
    with console.capture() as shown:
        console.print(report(rows))
    assert "3/1.5" in shown.get()
    assert "0.600" in shown.get()


def test_delays_are_sorted_and_taken_once() -> None:
    assert parse_delays("8, 2,2") == (2, 8)
    assert parse_delays("") == ()

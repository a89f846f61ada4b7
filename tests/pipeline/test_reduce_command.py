"""`offkey reduce` and `offkey features` as their users run them: on snapshots, on files, stopped, and refused."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.connectors.parquet import Reader
from pipeline.connectors.snapshots import StoredSnapshots
from pipeline.connectors.storage import ObjectStorage
from pipeline.protocols import OffsetRange
from tests.commands import Running, configured, offkey, only_line, wait_for
from tests.reducing import FEATURES, contents, drawn, forget_parts, manifest, model, write_rows
from tests.snapshots import at_day, rows_of
from tests.streams import SERIES

STREAM = SERIES.model_dump(mode="json", exclude_unset=True) | {"features": list(FEATURES)}
POINTS = 600


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return configured(tmp_path, streams={"machines": STREAM})


@pytest.fixture
def recorded(config: Path, tmp_path: Path) -> Path:
    """A configuration whose storage holds snapshots of two series, of two days."""
    for day in range(2):
        record(tmp_path, day)
    return config


def record(tmp_path: Path, day: int) -> None:
    snapshots = StoredSnapshots(ObjectStorage((tmp_path / "storage").as_uri()))
    x_TSF = drawn(2 * POINTS, day).reshape(POINTS, 2, len(FEATURES))
    time_ms_T = at_day(day) + 1000 * np.arange(POINTS)
    made = rows_of(x_TSF, time_ms_T, ["a", "b"], FEATURES, begin=day * 2 * POINTS)
    covered = OffsetRange(day * 2 * POINTS, (day + 1) * 2 * POINTS)
    snapshots.write("machines", made, covered, int(time_ms_T[-1]))


def test_snapshots_to_codes_and_back_and_to_features(recorded: Path, tmp_path: Path) -> None:
    codes, back, features = (str(tmp_path / name) for name in ("codes", "back", "features"))
    done = offkey("reduce", str(recorded), "machines", "--output", codes, "--dimensions", "3", "--color", "series")
    assert done.returncode == 0, done.stderr
    assert f"machines: 2,400 rows of 6 features, codes of 3 numbers, in {codes}" in done.stdout
    assert "PCA of the same size" in done.stdout
    assert (tmp_path / "codes" / "picture.png").read_bytes().startswith(b"\x89PNG")
    part = Reader(tmp_path / "codes" / "part-000000.parquet").read()
    assert part.names == [
        *("partition", "offset", "row", "time_ms", "series", "late", "code_0", "code_1", "code_2", "error")
    ]
    assert part.array("offset").tolist() == list(range(2_400))

    done = offkey("reduce", str(recorded), "machines", "--output", back, "--decode", codes, "--json")
    report = json.loads(done.stdout)
    assert report["error"] == pytest.approx(json.loads((tmp_path / "codes" / "report.json").read_text())["error"])

    done = offkey(
        *("features", str(recorded), "machines", "--output", features, "--model", codes),
        *("--window", "10", "--json"),
        *("--from", "40000 days", "--to", "2100-01-01T00:00:00Z"),
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["rows"], report["series"], report["warming"], report["window"]) == (2_400, 2, 18, 10)
    part = Reader(tmp_path / "features" / "part-000000.parquet").read()
    assert {"code_2", "error_f5", "mean_f0", "slope_f5", "warming"} <= set(part.names)


def test_matplotlib_is_asked_for_by_the_picture_alone(config: Path, tmp_path: Path) -> None:
    rows, made = write_rows(tmp_path / "rows.parquet", drawn(200)), model(tmp_path / "model")
    code = "import sys; sys.modules['matplotlib'] = None; from pipeline.cli import main; main()"
    asked = [sys.executable, "-c", code, "reduce", str(config), "machines", "--input", str(rows)]
    asked += ["--model", str(made), "--output", str(tmp_path / "out")]
    refused = subprocess.run(asked, capture_output=True, text=True, timeout=60)
    assert (refused.returncode, only_line(refused.stderr)[:24]) == (2, "figures need matplotlib,")
    done = subprocess.run([*asked, "--no-picture"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_ctrl_c_says_how_to_go_on_and_the_end_is_the_same(config: Path, tmp_path: Path) -> None:
    rows, made = write_rows(tmp_path / "rows.parquet", drawn(400_000)), model(tmp_path / "model")
    asked = ["machines", "--input", str(rows), "--model", str(made), "--part-rows", "2000", "--no-picture"]
    whole, cut = str(tmp_path / "whole"), str(tmp_path / "cut")
    with Running(config, "warning", "reduce", *asked, "--output", cut) as running:
        wait_for(lambda: (tmp_path / "cut" / "part-000002.parquet").exists(), running)
        said = only_line(running.end(signal.SIGINT))
        assert running.process.returncode == 130
    count = len(manifest(tmp_path / "cut")["parts"])
    assert 2 <= count < 200
    assert said == (
        f"stopped: {2000 * count:,} rows in {count} parts are whole in {cut}; the same command with --resume goes "
        "on from there"
    )
    for output, further in ((cut, ["--resume"]), (whole, [])):
        done = offkey("reduce", str(config), *asked, "--output", output, *further)
        assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_a_run_goes_on_with_what_was_there_when_it_began(recorded: Path, tmp_path: Path) -> None:
    """Without --to it ends now; meanwhile the recorder has kept more, and half of it came in before then."""
    out, made = tmp_path / "out", model(tmp_path / "model")
    asked = ["reduce", str(recorded), "machines", "--model", str(made), "--no-picture", "--part-rows", "1000"]
    assert offkey(*asked, "--output", str(out)).returncode == 0
    said = manifest(out)
    assert len(said["parts"]) == 3
    forget_parts(out, 2)
    record(tmp_path, 2)
    done = offkey(*asked, "--output", str(out), "--resume")
    assert done.returncode == 0, done.stderr
    assert manifest(out) == said
    other = offkey("--log-level", "warning", *asked, "--output", str(out), "--resume", "--from", "9000 days")
    assert only_line(other.stderr).startswith(f"{out}: it was begun with from None, and 9000 days is asked for")


def test_ctrl_c_before_the_first_part_says_so_too(config: Path, tmp_path: Path) -> None:
    """It looks at the rows and learns before."""
    rows, out = write_rows(tmp_path / "rows.parquet", drawn(20_000)), tmp_path / "out"
    asked = ["machines", "--input", str(rows), "--output", str(out), "--no-picture"]
    with Running(config, "info", "reduce", *asked) as running:
        stderr = running.process.stderr
        assert stderr is not None
        assert any(line.endswith(": training\n") for line in stderr)
        said = running.end(signal.SIGINT)
    assert running.process.returncode == 130
    assert said.splitlines()[-1] == (
        f"offkey: stopped: 0 rows in 0 parts are whole in {out}; the same command with --resume goes on from there"
    )
    assert not list(out.glob("part-*"))


@pytest.mark.parametrize(
    ("asked", "status", "said"),
    [
        (["--dimensions", "6"], 2, "--dimensions 6: there are 6 features (f0, f1, f2, f3, f4, f5), so it takes 1"),
        (["--to", "2001-01-01T00:00:00Z"], 1, "stream machines: there are no rows; ask for"),
        (["--from", "yesterday"], 2, "--from: 'yesterday' is no moment; write one with its zone"),
        (["--from", "1d", "--to", "2d"], 2, "--from 1d: that is not before --to; swap the two, or leave one out"),
        (["--from", "1d", "--input", "x"], 2, "--from: --input says which rows there are; leave it out"),
        (["--color", "colour"], 2, "--color colour: there is no such column; there are score, error, partition"),
        (["--color", "series", "--no-picture"], 2, "--color series: nothing is drawn with --no-picture"),
        (["--keep", "label"], 2, "--keep label: snapshots hold nothing more; it needs --input"),
        (["--model", "nowhere"], 2, "nowhere: holds no model"),
        (["--resume", "--overwrite"], 2, "--resume goes on and --overwrite begins anew; give one of them"),
        (["--input", "nowhere"], 2, "nowhere: there is no such file or folder"),
    ],
)
def test_what_is_asked_wrongly_is_one_line(
    recorded: Path, tmp_path: Path, asked: list[str], status: int, said: str
) -> None:
    quiet, output = ("--log-level", "warning"), str(tmp_path / "out")
    done = offkey(*quiet, "reduce", str(recorded), "machines", "--output", output, *asked)
    assert only_line(done.stderr).startswith(said)
    assert done.returncode == status


def test_no_snapshots_are_told(config: Path, tmp_path: Path) -> None:
    done = offkey("features", str(config), "machines", "--output", str(tmp_path / "out"))
    assert only_line(done.stderr).startswith("stream machines: there are no snapshots in file://")
    assert done.returncode == 1


def test_an_output_that_is_there_is_refused_before_anything_is_read(config: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    done = offkey("reduce", str(config), "machines", "--output", str(tmp_path / "out"))
    assert only_line(done.stderr) == f"{tmp_path}/out: it holds other files (notes.txt); take another --output"
    assert done.returncode == 2


@pytest.mark.parametrize("name", ["--dimensions", "--from", "--input", "--keep", "--color", "--seed"])
def test_what_decoding_has_no_use_for_is_refused(config: Path, tmp_path: Path, name: str) -> None:
    asked = ["machines", "--output", str(tmp_path / "back"), "--decode", str(tmp_path / "codes"), name, "1"]
    done = offkey("reduce", str(config), *asked)
    assert only_line(done.stderr) == f"{name}: --decode turns codes back as they are; leave it out"
    assert done.returncode == 2


def test_snapshots_of_another_kind_are_told(recorded: Path, tmp_path: Path) -> None:
    settings = json.loads(recorded.read_text())
    settings["streams"]["machines"] = {"topic": "metrics", "kind": "features", "features": list(FEATURES)}
    recorded.write_text(json.dumps(settings))
    done = offkey("reduce", str(recorded), "machines", "--output", str(tmp_path / "out"))
    assert only_line(done.stderr).startswith(
        "stream machines: its snapshots hold series, and records of no series are asked for; set `kind` back"
    )
    assert done.returncode == 1

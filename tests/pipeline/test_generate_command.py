"""`offkey generate` as its users run it: on snapshots, on files, with anomalies, stopped, and refused."""

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.files import to_files
from models.spec import ModelSpec
from pipeline.connectors.labelled import read_labelled
from pipeline.connectors.parquet import Reader, Writer, encode
from pipeline.connectors.snapshots import StoredSnapshots
from pipeline.connectors.storage import ObjectStorage
from pipeline.jobs import generated_rows
from pipeline.protocols import OffsetRange
from tests.commands import Running, configured, only_line, promote, wait_for
from tests.generating import Run, runner
from tests.snapshots import rows_of
from tests.streams import BEGIN_MS, FEATURES, SERIES, STEP_MS, feature_rows, features_detector, fit, series_rows

NAMES = ["a", "b/1"]
POINTS = 700


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Two streams, of which storage holds snapshots of `machines`: two series, one of hundredths."""
    streams = {
        "machines": SERIES.model_dump(mode="json", exclude_unset=True),
        "payments": FEATURES.model_dump(mode="json", exclude_unset=True),
    }
    path = configured(tmp_path, streams=streams)
    values = np.round(series_rows(NAMES, POINTS, 2, {}), 2)
    time_ms = BEGIN_MS + STEP_MS * np.arange(POINTS)
    made = rows_of(values.transpose(1, 0, 2), time_ms, NAMES)
    StoredSnapshots(ObjectStorage((tmp_path / "storage").as_uri())).write(
        "machines", made, OffsetRange(0, len(made)), int(time_ms[-1])
    )
    return path


@pytest.fixture
def payments(tmp_path: Path) -> Path:
    return write_records(tmp_path / "payments.parquet", np.round(feature_rows(600, 3), 1))


def write_records(path: Path, x_NF: np.ndarray[Any, Any], names: tuple[str, ...] = ("a", "b", "c")) -> Path:
    path.write_bytes(encode(dict(zip(names, np.ascontiguousarray(x_NF.T), strict=True)), {}))
    return path


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], config: Path) -> Run:
    return runner(monkeypatch, capsys, config, epochs=2)


def test_series_come_out_as_evaluate_takes_them(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, said, err = run("machines", "--output", str(out), "--rows", "600", "--inject", "6", "--seed", "3")
    assert code == 0, err
    assert "machines: 1,200 rows of 2 series" in said
    report = json.loads((out / "report.json").read_text())
    assert report["files"] == ["series/a.parquet", "series/b%2F1.parquet"]
    assert report["window"] == 8
    labels = [json.loads(line) for line in (out / "anomalies.jsonl").read_text().splitlines()]
    assert len(labels) == report["anomalies"] == 12
    assert {each["fault"] for each in labels} == {"spike", "level", "drift", "flat", "correlation", "period"}
    for name, file in zip(NAMES, report["files"], strict=True):
        rows = read_labelled(out / file)
        assert rows.features == ("cpu", "mem")
        assert rows.time_ms_N.tolist() == (BEGIN_MS + STEP_MS * (POINTS + np.arange(600))).tolist()
        assert rows.train_N is not None
        assert rows.train_N.tolist() == [True] * 300 + [False] * 300
        # The labels are the spans that were injected, and no others.
        spans = np.zeros(600, np.bool_)
        for each in labels:
            if each["series"] == name:
                spans[each["begin"] : each["end"]] = True
                assert each["begin_ms"] == rows.time_ms_N[each["begin"]]
        assert rows.label_N.tolist() == spans.tolist()
        assert not spans[:300].any()
        assert rows.x_NF.tolist() == np.round(rows.x_NF, 2).tolist()
    page = (out / "report.html").read_text()
    assert "data:image/png;base64," in page
    assert (out / "fidelity.png").read_bytes().startswith(b"\x89PNG")
    assert report["fidelity"]["two_sample"]["auroc"] <= 1
    assert report["fidelity"]["autocorrelation"]["mean_difference"] < 0.5


def test_what_was_injected_is_all_that_differs(run: Run, tmp_path: Path) -> None:
    asked = ["--rows", "400", "--series", "a", "--no-report", "--seed", "1"]
    assert run("machines", "--output", str(tmp_path / "plain"), *asked)[0] == 0
    spiked = [*asked, "--inject", "3", "--fault", "spike", "--points", "5", "--size", "20"]
    assert run("machines", "--output", str(tmp_path / "spiked"), *spiked)[0] == 0
    assert not (tmp_path / "plain" / "anomalies.jsonl").exists()
    plain, other = (Reader(tmp_path / each / "series" / "a.parquet").read() for each in ("plain", "spiked"))
    label_N = other.array("label") == 1
    assert label_N.sum() == 15
    assert not plain.array("label").any()
    differ_N = (plain.array("cpu") != other.array("cpu")) | (plain.array("mem") != other.array("mem"))
    assert differ_N.tolist() == label_N.tolist()


def test_records_are_written_with_their_labels_in_every_stretch(
    run: Run, payments: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generated_rows, "STRETCH", 1_000)
    out = tmp_path / "out"
    asked = ["--input", str(payments), "--rows", "5500", "--inject", "55", "--json"]
    code, said, err = run("payments", "--output", str(out), *asked)
    assert code == 0, err
    report = json.loads(said)
    table = Reader(out / "records.parquet").read()
    assert table.names == ["label", "a", "b", "c"]
    label_N = table.array("label")
    assert len(label_N) == report["rows"] == 5_500
    assert label_N.sum() == report["anomalies"] == 55
    assert min(part.sum() for part in np.split(label_N[:5_000], 5)) >= 9
    labels = [json.loads(line) for line in (out / "anomalies.jsonl").read_text().splitlines()]
    assert sorted(each["begin"] for each in labels) == np.flatnonzero(label_N).tolist()
    values = table.array("a")
    assert values.tolist() == np.round(values, 1).tolist()
    assert report["grids"]["a"]["grid"] == "step"
    assert report["grids"]["a"]["step"] == pytest.approx(0.1)
    assert report["fidelity"]["privacy"]["copies_of_one"] == 0
    assert read_labelled(out / "records.parquet").kind == "table"


def test_the_same_seed_writes_the_same_bytes(run: Run, payments: Path, tmp_path: Path) -> None:
    written = []
    for name, seed in (("one", "5"), ("other", "5"), ("third", "6")):
        asked = ["--input", str(payments), "--rows", "300", "--seed", seed, "--no-report"]
        assert run("payments", "--output", str(tmp_path / name), *asked)[0] == 0
        written.append((tmp_path / name / "records.parquet").read_bytes())
    assert written[0] == written[1] != written[2]


def test_variations_of_a_window(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    moment = f"{np.datetime64(BEGIN_MS + STEP_MS * 299, 'ms')}Z"
    asked = ["--series", "a", "--at", moment, "--variations", "4", "--strength", "0.5", "--no-report"]
    code, said, err = run("machines", "--output", str(out), *asked)
    assert code == 0, err
    assert "4 variations of 8 rows of a, strength 0.5" in said
    table = Reader(out / "variations.parquet").read()
    assert table.names == ["variation", "timestamp", "label", "cpu", "mem"]
    assert table.array("variation").tolist() == np.repeat(range(4), 8).tolist()
    assert table.array("timestamp")[:8].tolist() == (BEGIN_MS + STEP_MS * np.arange(292, 300)).tolist()
    own = np.round(series_rows(NAMES, POINTS, 2, {}), 2)[0, 292:300, 0]
    off = [np.abs(each - own).mean() for each in table.array("cpu").reshape(4, 8)]
    assert 0 < max(off) < 0.5
    code, _, err = run("machines", "--output", str(tmp_path / "o"), *asked, "--at", "2001-01-01T00:00:00Z")
    assert code == 2
    assert only_line(err).startswith(
        "--at: series 'a' of stream machines has no 8 rows without a gap that end then"
    )


REFUSED = [
    (["--series", "nobody"], 2, "--series nobody: stream machines has no such series; it has a, b/1"),
    (["--at", "2026-01-01T00:00:00Z"], 2, "--at is a moment of one series, and 0 are named; give one --series"),
    (["--variations", "3"], 2, "--variations: it says something of --at or --like; give that too, or leave it out"),
    (["--size", "3"], 2, "--size: it says something of --inject; give that too, or leave it out"),
    (
        ["--inject", "1", "--fault", "fire"],
        2,
        "--fault fire: there are spike, level, drift, flat, correlation, period",
    ),
    (["--version", "v1", "--model", "x"], 2, "--version and --model each name a model; leave one of them out"),
    (["--from", "2001-01-01T00:00:00Z", "--to", "2002-01-01T00:00:00Z"], 1, "stream machines: there are no rows"),
    (
        ["--window", "5000"],
        1,
        "stream machines: the longest stretch without a gap has 560 rows, and a window has 5,000",
    ),
]


@pytest.mark.parametrize(("options", "status", "text"), REFUSED, ids=[each[2][:24] for each in REFUSED])
def test_mistakes_of_series_are_one_line(
    run: Run, tmp_path: Path, options: list[str], status: int, text: str
) -> None:
    code, _, err = run("machines", "--output", str(tmp_path / "out"), *options)
    assert code == status
    assert only_line(err).startswith(text)
    assert not list(tmp_path.glob("*out*"))


def test_models_are_refused_that_cannot_sample_or_are_of_something_else(
    run: Run, config: Path, payments: Path, tmp_path: Path
) -> None:
    promote(config)
    folder = tmp_path / "model"
    folder.mkdir()
    for name, content in to_files(features_detector()).items():
        (folder / name).write_bytes(content)
    out = ["--output", str(tmp_path / "out")]
    code, _, err = run("machines", *out, "--version", "champion")
    assert code == 2
    assert only_line(err) == (
        "version v1: a vanilla model cannot sample; leave it out, and a variational one is trained for the "
        "purpose, or train the stream with `model: {architecture: variational}`"
    )
    code, _, err = run("machines", *out, "--model", str(folder))
    assert (code, only_line(err)) == (
        2,
        f"{folder}: it is of `kind: features`, and the stream of series; take another model",
    )
    other = write_records(tmp_path / "other.parquet", feature_rows(100, 3)[:, :2], ("a", "z"))
    code, _, err = run("payments", *out, "--model", str(folder), "--input", str(other))
    assert code == 2
    assert "has no column b" in only_line(err)


def test_rows_that_lack_a_number_are_counted_and_too_few_refused(run: Run, tmp_path: Path) -> None:
    x_NF = feature_rows(400, 3)
    x_NF[::4, 1] = np.nan
    holed = write_records(tmp_path / "holed.parquet", x_NF)
    asked = ["--rows", "50", "--no-report"]
    code, said, _ = run("payments", "--input", str(holed), "--output", str(tmp_path / "out"), *asked)
    assert code == 0
    assert "payments: 100 rows lack a number, and nothing was learned from them" in said
    assert np.isfinite(Reader(tmp_path / "out" / "records.parquet").read().array("b")).all()
    few = write_records(tmp_path / "few.parquet", x_NF[:60])
    code, _, err = run("payments", "--input", str(few), "--output", str(tmp_path / "o"), *asked)
    assert code == 1
    assert only_line(err).startswith(f"{few}: 45 of 60 rows hold a number for each of a, b, c; 50 are needed")


def test_a_folder_that_is_there_is_overwritten_only_if_it_is_ours(run: Run, payments: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    asked = ["--input", str(payments), "--output", str(out), "--rows", "100", "--no-report"]
    assert run("payments", *asked)[0] == 0
    code, _, err = run("payments", *asked)
    assert (code, only_line(err)) == (
        2,
        f"--output {out}: it is there already; name another folder, or give --overwrite",
    )
    assert run("payments", *asked, "--overwrite")[0] == 0
    (out / "thesis.parquet").write_bytes(b"")
    code, _, err = run("payments", *asked, "--overwrite")
    assert code == 2
    assert "it holds thesis.parquet, which no run of `offkey generate` has written" in only_line(err)
    assert (out / "thesis.parquet").exists()


def test_a_full_disk_leaves_nothing(
    run: Run, payments: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every write to /dev/full fails as on a full disk."""
    monkeypatch.setattr(generated_rows, "Writer", lambda facts, path: Writer(facts, Path("/dev/full")))
    out = tmp_path / "below" / "out"
    asked = ["--input", str(payments), "--output", str(out), "--rows", "20000", "--no-report"]
    code, _, err = run("payments", *asked)
    assert code == 1
    assert only_line(err).startswith(f"--output {out}: the disk is full; nothing was left there")
    assert not list((tmp_path / "below").iterdir())


def test_ctrl_c_leaves_nothing(config: Path, payments: Path, tmp_path: Path) -> None:
    below, model = tmp_path / "below", tmp_path / "model"
    model.mkdir()
    spec = ModelSpec("features", ("a", "b", "c"), 1)
    columns = {"": (np.arange(600), feature_rows(600, 3))}
    for name, content in to_files(fit(spec, "variational", {"max_epochs": 1}, columns)).items():
        (model / name).write_bytes(content)
    asked = ["payments", "--input", str(payments), "--output", str(below / "out"), "--rows", "50000000"]
    with Running(config, "warning", "generate", *asked, "--no-report", "--model", str(model)) as running:
        wait_for(lambda: bool(list(below.glob(".out.*/records.parquet"))), running)
        said = only_line(running.end(signal.SIGINT))
        assert running.process.returncode == 130
    assert said == "stopped; nothing was written, the same command begins anew"
    assert not list(below.iterdir())


def test_features_named_like_columns_are_refused(run: Run, config: Path, tmp_path: Path) -> None:
    settings = json.loads(config.read_text())
    settings["streams"]["payments"]["features"] = ["a", "label"]
    config.write_text(json.dumps(settings))
    rows = write_records(tmp_path / "r.parquet", feature_rows(100, 3)[:, :2], ("a", "label"))
    code, _, err = run("payments", "--input", str(rows), "--output", str(tmp_path / "out"))
    assert code == 2
    assert only_line(err).startswith("feature 'label' has the name of a column of generated files")

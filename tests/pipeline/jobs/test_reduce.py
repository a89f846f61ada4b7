"""Codes of all rows, part by part: cut anywhere they end the same, and say how much they tell."""

import itertools
import json
import signal
from pathlib import Path

import numpy as np
import pytest

from models.codes import Coder
from models.files import from_files
from pipeline.connectors.parquet import Reader
from pipeline.errors import ConfigError, SnapshotError
from pipeline.jobs.coding import read_files
from pipeline.jobs.parquet_input import ParquetInput, codes_input
from pipeline.jobs.reduce import decode_rows, reduce_rows
from pipeline.jobs.sample import keys
from tests.reducing import FEATURES, PART_ROWS, contents, drawn, manifest, model, options, run, run_cut, write_rows


def test_each_row_has_the_code_that_the_model_gives_it(tmp_path: Path) -> None:
    x_NF = drawn(2_500)
    rows, made = write_rows(tmp_path / "rows.parquet", x_NF), model(tmp_path / "model")
    report = run(rows, tmp_path / "out", made)
    parts = [Reader(path).read() for path in sorted((tmp_path / "out").glob("part-*.parquet"))]
    assert [part.rows for part in parts] == [1_000, 1_000, 500]
    assert parts[0].names == ["offset", "series", "code_0", "code_1", "code_2", "error"]
    codes, rebuilt = Coder(from_files(read_files(made))).read(x_NF)
    found = np.concatenate([[part.array(f"code_{n}") for n in range(3)] for part in parts], axis=1).T
    assert np.array_equal(found, codes)
    assert np.concatenate([part.array("offset") for part in parts]).tolist() == list(range(2_500))
    scale = Coder(from_files(read_files(made))).detector.scaling.scale_F
    error = np.sqrt(np.square((x_NF - rebuilt) / scale).mean(axis=1))
    assert np.allclose(np.concatenate([part.array("error") for part in parts]), error, rtol=1e-3, atol=1e-6)
    assert report["rows"] == 2_500
    assert report["error"] == pytest.approx(np.sqrt(np.square(error).mean()), rel=1e-3)


@pytest.mark.parametrize(
    ("step", "number"), [*itertools.product(("before", "after", "entered"), (1, 3)), ("entered", 5)]
)
def test_a_run_that_was_killed_ends_in_the_same_bytes(tmp_path: Path, step: str, number: int) -> None:
    rows, made = write_rows(tmp_path / "rows.parquet", drawn(4_700)), model(tmp_path / "model")
    run(rows, tmp_path / "whole", made)
    assert run_cut(rows, tmp_path / "cut", made, step, number) == -signal.SIGKILL
    listed = len(manifest(tmp_path / "cut")["parts"])
    assert listed == (number if step == "entered" else number - 1)
    left = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cut").glob("part-*.parquet")}
    run(rows, tmp_path / "cut", made, resume=True)
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")
    kept = sorted(left)[:listed]
    assert [left[name] for name in kept] == [(tmp_path / "cut" / name).stat().st_mtime_ns for name in kept]


def test_a_run_may_be_killed_again_and_again(tmp_path: Path) -> None:
    rows, made = write_rows(tmp_path / "rows.parquet", drawn(2_700)), model(tmp_path / "model")
    run(rows, tmp_path / "whole", made)
    for resume in (False, True, True):
        assert run_cut(rows, tmp_path / "cut", made, "entered", 1, resume=resume) == -signal.SIGKILL
    run(rows, tmp_path / "cut", made, resume=True)
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_how_rows_are_stored_makes_no_difference(tmp_path: Path) -> None:
    x_NF, made = drawn(3_000), model(tmp_path / "model")
    run(write_rows(tmp_path / "one" / "rows.parquet", x_NF), tmp_path / "of_one", made)
    for number, part in enumerate(np.split(x_NF, [700, 1_950])):
        offset = {0: 0, 1: 700, 2: 1_950}[number] + np.arange(len(part))
        write_rows(tmp_path / "many" / f"{number}.parquet", part, offset=offset)
    run(tmp_path / "many", tmp_path / "of_many", made)
    codes = ["code_0", "code_1", "code_2", "error", "offset"]
    for name in (f"part-{number:06d}.parquet" for number in range(3)):
        one, many = (Reader(tmp_path / each / name).read() for each in ("of_one", "of_many"))
        assert all(np.array_equal(one.array(column), many.array(column)) for column in codes)


def test_a_complete_run_is_not_done_again(tmp_path: Path) -> None:
    rows, made = write_rows(tmp_path / "rows.parquet", drawn(1_500)), model(tmp_path / "model")
    report = run(rows, tmp_path / "out", made)
    before = contents(tmp_path / "out")
    rows.unlink()
    write_rows(rows, drawn(10))
    assert run(rows, tmp_path / "out", made, resume=True) == json.loads(json.dumps(report))
    assert contents(tmp_path / "out") == before


def test_it_does_not_go_on_with_other_rows(tmp_path: Path) -> None:
    rows, made = write_rows(tmp_path / "rows.parquet", drawn(2_500)), model(tmp_path / "model")
    run_cut(rows, tmp_path / "out", made, "entered", 1)
    write_rows(rows, drawn(2_600))
    with pytest.raises(ConfigError, match=r"begun on other rows \(2,500, and there are 2,600 now"):
        run(rows, tmp_path / "out", made, resume=True)


def test_rows_that_change_between_look_and_work_are_told(tmp_path: Path) -> None:
    rows, made = write_rows(tmp_path / "rows.parquet", drawn(2_500)), model(tmp_path / "model")

    def progress(what: str, done: float, of: float | None) -> None:
        if (what, done) == ("reducing", 0):
            write_rows(rows, drawn(2_600))

    with pytest.raises(SnapshotError, match="there were 2,500 rows at first, and 2,600 a little later"):
        reduce_rows(ParquetInput([rows], FEATURES), options(tmp_path / "out", made), "rows", progress)
    assert not manifest(tmp_path / "out")["complete"]


def test_it_does_not_go_on_with_other_options(tmp_path: Path) -> None:
    rows, made = write_rows(tmp_path / "rows.parquet", drawn(2_500)), model(tmp_path / "model")
    run_cut(rows, tmp_path / "out", made, "entered", 1)
    with pytest.raises(ConfigError, match=r"begun with model .*, and other is asked for"):
        run(rows, tmp_path / "out", made, resume=True, about={"model": "other"})


def test_rows_without_a_number_have_no_code_and_are_counted(tmp_path: Path) -> None:
    x_NF, made = drawn(2_500), model(tmp_path / "model")
    x_NF[10, 2], x_NF[11, 0], x_NF[2_400, 5] = np.nan, np.inf, 1e200
    report = run(write_rows(tmp_path / "rows.parquet", x_NF), tmp_path / "out", made)
    first, _, last = (Reader(path).read() for path in sorted((tmp_path / "out").glob("part-*.parquet")))
    for name in ("code_0", "error"):
        assert np.flatnonzero(np.isnan(first.array(name))).tolist() == [10, 11]
        assert np.flatnonzero(np.isnan(last.array(name))).tolist() == [400]
    assert report["empty"] == 3
    assert np.isfinite(report["error"])


def test_it_says_what_the_codes_tell_and_what_pca_does(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.parquet", drawn(4_000))
    report = run(rows, tmp_path / "out", None, dimensions=3)
    assert (report["learned_rows"], report["held_out_rows"]) == (3_200, 800)
    assert report["r2"] > report["r2_of_pca"] > 0.5
    assert list(report["r2_by_feature"]) == list(FEATURES)
    # The held-out rows, reckoned here: PCA by another way, on the same rows.
    x_NF = drawn(4_000)
    order = np.argsort(keys(0, 4_000, 0))
    learning, held_out = x_NF[order[:3_200]], x_NF[order[3_200:]]
    mean, std = learning.mean(axis=0), learning.std(axis=0)
    _, _, components = np.linalg.svd((learning - mean) / std, full_matrices=False)
    rebuilt = mean + std * (((held_out - mean) / std) @ components[:3].T @ components[:3])
    r2 = 1 - np.square(held_out - rebuilt).sum(axis=0) / np.square(held_out - held_out.mean(axis=0)).sum(axis=0)
    assert report["r2_of_pca"] == pytest.approx(r2.mean(), rel=1e-9)


def test_a_model_of_other_features_is_named(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.parquet", drawn(500)[:, :2], ("cpu", "mem"))
    source = ParquetInput([rows], ("cpu", "mem"))
    with pytest.raises(ConfigError, match=r"model: it was made for the features f0, f1, .*the rows hold cpu, mem"):
        reduce_rows(source, options(tmp_path / "out", model(tmp_path / "model")), "rows", lambda *_: None)
    # So that the same command with another model is not refused for what this one has begun.
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("rows", "said"), [(0, "there are no rows"), (60, "20 of 60 rows hold a number")])
def test_too_few_rows_are_refused(tmp_path: Path, rows: int, said: str) -> None:
    x_NF = drawn(rows)
    x_NF[20:] = np.nan
    with pytest.raises(SnapshotError, match=said):
        run(write_rows(tmp_path / "rows.parquet", x_NF), tmp_path / "out", model(tmp_path / "model"))


def test_codes_lead_back_to_rows(tmp_path: Path) -> None:
    x_NF, made = drawn(2_500), model(tmp_path / "model")
    x_NF[7, 1] = np.nan
    reduced = run(write_rows(tmp_path / "rows.parquet", x_NF), tmp_path / "codes", made)
    source = codes_input(tmp_path / "codes")
    report = decode_rows(source, options(tmp_path / "back", None), tmp_path / "codes", lambda *_: None)
    parts = [Reader(path).read() for path in sorted((tmp_path / "back").glob("part-*.parquet"))]
    assert parts[0].names == ["offset", "series", "error", *FEATURES]
    found = np.concatenate([[part.array(name) for name in FEATURES] for part in parts], axis=1).T
    assert np.isnan(found[7]).all()
    whole = np.delete(np.arange(2_500), 7)
    assert np.array_equal(found[whole], Coder(from_files(read_files(made))).read(x_NF[whole])[1])
    assert report["error"] == pytest.approx(reduced["error"], rel=1e-5)
    assert report["rows"] == 2_500
    assert report["empty"] == 1


def test_codes_that_are_not_complete_are_refused(tmp_path: Path) -> None:
    rows, made = write_rows(tmp_path / "rows.parquet", drawn(2_500)), model(tmp_path / "model")
    run_cut(rows, tmp_path / "codes", made, "entered", 1)
    with pytest.raises(ConfigError, match="not complete; finish it"):
        codes_input(tmp_path / "codes")


def test_a_part_does_not_depend_on_how_many_there_are(tmp_path: Path) -> None:
    """Codes are the same whatever `part_rows` is."""
    rows, made = write_rows(tmp_path / "rows.parquet", drawn(2_500)), model(tmp_path / "model")
    run(rows, tmp_path / "some", made)
    run(rows, tmp_path / "one", made, part_rows=10 * PART_ROWS)
    some = [Reader(path).read().array("code_1") for path in sorted((tmp_path / "some").glob("part-*.parquet"))]
    (one,) = [Reader(path).read().array("code_1") for path in (tmp_path / "one").glob("part-*.parquet")]
    assert np.array_equal(np.concatenate(some), one)

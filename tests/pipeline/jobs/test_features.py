"""Codes, errors and window statistics of rows."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.codes import Coder
from models.files import from_files
from models.window_statistics import statistic_names, window_statistics
from pipeline.connectors.parquet import Coded, Reader
from pipeline.errors import SnapshotError
from pipeline.jobs.coding import read_files
from pipeline.jobs.features import feature_rows
from pipeline.jobs.parquet_input import ParquetInput
from tests.reducing import FEATURES, contents, drawn, forget_parts, model, options, write_rows

WINDOW = 5


def run(rows: Path, output: Path, made: Path | None, window: int | None = WINDOW, **further: Any) -> dict[str, Any]:
    source = ParquetInput([rows], None)
    return feature_rows(source, options(output, made, **further), window, "rows", lambda *_: None)


def read(output: Path, name: str) -> Any:
    return np.concatenate([Reader(path).read().array(name) for path in sorted(output.glob("part-*.parquet"))])


def test_a_row_has_its_code_its_errors_and_its_window(tmp_path: Path) -> None:
    x_NF, made = drawn(2_500), model(tmp_path / "model")
    report = run(write_rows(tmp_path / "rows.parquet", x_NF), tmp_path / "out", made)
    coder = Coder(from_files(read_files(made)))
    codes, rebuilt = coder.read(x_NF)
    assert np.array_equal(read(tmp_path / "out", "code_2"), codes[:, 2])
    assert np.allclose(read(tmp_path / "out", "error_f4"), coder.off(x_NF, rebuilt)[:, 4], rtol=1e-3, atol=1e-5)
    # Series `b` has every second row.
    expected = window_statistics(x_NF[1::2], WINDOW)
    for place, name in enumerate(statistic_names(FEATURES)):
        own = read(tmp_path / "out", name)[1::2]
        assert np.isnan(own[: WINDOW - 1]).all()
        assert np.allclose(own[WINDOW - 1 :], expected[WINDOW - 1 :, place], rtol=1e-12, atol=1e-12)
    assert np.flatnonzero(read(tmp_path / "out", "warming")).tolist() == list(range(8))
    assert (report["series"], report["warming"], report["late"], report["short_series"]) == (2, 8, 0, 0)


def test_a_run_that_goes_on_carries_windows_over(tmp_path: Path) -> None:
    rows, made = write_rows(tmp_path / "rows.parquet", drawn(2_500)), model(tmp_path / "model")
    run(rows, tmp_path / "whole", made)
    run(rows, tmp_path / "cut", made)
    forget_parts(tmp_path / "cut", 1)
    run(rows, tmp_path / "cut", made, resume=True)
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_a_window_longer_than_every_series_is_refused_before_training(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.parquet", drawn(100))
    with pytest.raises(SnapshotError, match="a window is 51 rows, and the longest of 2 series has 50"):
        run(rows, tmp_path / "out", None, 51)
    assert not (tmp_path / "out").exists()


def test_shorter_series_are_counted(tmp_path: Path) -> None:
    series = Coded(["a", "b"], np.r_[np.zeros(97, np.int64), np.ones(3, np.int64)])
    rows = write_rows(tmp_path / "rows.parquet", drawn(100), series=series)
    report = run(rows, tmp_path / "out", model(tmp_path / "model"))
    assert (report["short_series"], report["warming"]) == (1, 4 + 3)


def test_one_feature_has_statistics_and_no_code(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.parquet", drawn(300)[:, :1], ("cpu",))
    report = run(rows, tmp_path / "out", None)
    (part,) = (Reader(path).read() for path in (tmp_path / "out").glob("part-*.parquet"))
    assert part.names == ["offset", "series", "late", *statistic_names(["cpu"]), "warming"]
    assert "r2" not in report

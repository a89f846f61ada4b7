"""Labelled files: what is read is what was written, and what cannot be measured is refused with a remedy."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest

from pipeline.connectors.labelled import configuration_of, read_labelled, read_scores, write_scores
from pipeline.errors import ConfigError
from tests.labelled import series_columns, table_columns, write

Columns = dict[str, Any]


def test_a_series_is_read_as_it_was_written(tmp_path: Path) -> None:
    columns = series_columns()
    rows = read_labelled(write(tmp_path / "engines" / "left.parquet", columns))
    assert (rows.group, rows.name, rows.kind, rows.features) == ("engines", "left", "series", ("f00", "f01"))
    assert rows.remarks == ()
    assert rows.train_N is not None
    assert rows.x_NF.dtype == np.float64
    for name, found in (
        ("timestamp", rows.time_ms_N),
        ("train", rows.train_N),
        ("scored", rows.scored_N),
        ("label", rows.label_N),
        ("f01", rows.x_NF[:, 1]),
    ):
        assert found.tolist() == columns[name].tolist(), name


def test_a_table_has_no_time_and_every_row_counts(tmp_path: Path) -> None:
    rows = read_labelled(write(tmp_path / "t.parquet", table_columns()))
    assert (rows.kind, rows.train_N, rows.features) == ("table", None, ("f00", "f01", "f02"))
    assert rows.scored_N.all()
    assert rows.time_ms_N.tolist() == list(range(400))


@pytest.mark.parametrize("unit", ["s", "us"])
def test_a_parquet_time_becomes_milliseconds(tmp_path: Path, unit: str) -> None:
    columns = series_columns()
    expected = columns["timestamp"].tolist()
    as_time = pyarrow.array(columns["timestamp"], pyarrow.timestamp("ms", tz="UTC"))
    columns["timestamp"] = as_time.cast(pyarrow.timestamp(unit, tz="UTC"))
    assert read_labelled(write(tmp_path / "s.parquet", columns)).time_ms_N.tolist() == expected


def replaced(name: str, row: int, value: Any) -> Callable[[Columns], None]:
    def change(columns: Columns) -> None:
        values = columns[name].tolist()
        values[row] = value
        columns[name] = values

    return change


def dropped(*names: str) -> Callable[[Columns], None]:
    def change(columns: Columns) -> None:
        for name in names:
            del columns[name]

    return change


def made(name: str, value_of: Callable[[Columns], Any]) -> Callable[[Columns], None]:
    return lambda columns: columns.update({name: value_of(columns)})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (dropped("label"), "no column `label`"),
        (dropped("train"), "no column `train`; a series has timestamp, train, scored"),
        (dropped("timestamp", "scored"), "no column `timestamp`"),
        (dropped("f00", "f01"), "there is no feature"),
        (made("train", lambda c: np.zeros(600, bool)), "no row is marked `train`"),
        (made("scored", lambda c: np.zeros(600, bool)), "no row is marked `scored`"),
        (made("label", lambda c: np.zeros(600, int)), "no scored row is labelled 1"),
        (made("label", lambda c: c["train"].astype(int)), "no scored row is labelled 1"),
        (made("label", lambda c: np.ones(600, int)), "all scored rows are labelled 1"),
        (made("label", lambda c: ["yes"] * 600), "column `label` holds string; it takes 0 and 1"),
        (replaced("label", 7, 2), "column `label` takes 0 and 1; row 7 holds 2"),
        (replaced("label", 7, None), "column `label` takes 0 and 1; row 7 holds nan"),
        (replaced("train", 3, None), "column `train` takes 0 and 1; row 3"),
        (replaced("f01", 5, None), "column 'f01' holds 1 empty or infinite values, the first in row 5; fill"),
        (replaced("f01", 9, float("inf")), "column 'f01' holds 1 empty or infinite values, the first in row 9"),
        (replaced("f00", 0, float("nan")), "column 'f00' holds 1 empty or infinite values, the first in row 0"),
        (made("f00", lambda c: ["a"] * 600), "column 'f00' holds string, not numbers"),
        (made("timestamp", lambda c: c["timestamp"][::-1]), "goes back 599 times, first in row 1; sort"),
        (made("timestamp", lambda c: c["timestamp"] // 300_000), "sort the rows by time, keep one of equal ones"),
        (made("timestamp", lambda c: c["timestamp"] / 7), "`timestamp` takes whole milliseconds"),
        (replaced("timestamp", 4, None), "`timestamp` takes whole milliseconds, none of them empty"),
    ],
)
def test_what_cannot_be_measured_is_refused(tmp_path: Path, change: Callable[[Columns], None], said: str) -> None:
    columns = series_columns()
    change(columns)
    path = write(tmp_path / "s.parquet", columns)
    with pytest.raises(ConfigError) as raised:
        read_labelled(path)
    assert said in str(raised.value)
    assert str(raised.value).startswith(f"{path}: ")
    assert "\n" not in str(raised.value)


def test_no_rows_and_a_doubled_column(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no rows"):
        read_labelled(write(tmp_path / "s.parquet", {name: c[:0] for name, c in series_columns().items()}))
    columns = table_columns()
    twice = pyarrow.table([*columns.values(), columns["f00"]], names=[*columns, "f00"])
    pyarrow.parquet.write_table(twice, tmp_path / "t.parquet")
    with pytest.raises(ConfigError, match="column 'f00' is there twice"):
        read_labelled(tmp_path / "t.parquet")


def test_what_is_no_parquet_file(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_text("timestamp,label\n1,0\n")
    with pytest.raises(ConfigError, match="is not a whole Parquet file"):
        read_labelled(tmp_path / "a.parquet")
    whole = write(tmp_path / "b.parquet", series_columns()).read_bytes()
    (tmp_path / "b.parquet").write_bytes(whole[:-100])
    with pytest.raises(ConfigError, match="is not a whole Parquet file"):
        read_labelled(tmp_path / "b.parquet")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_labelled(tmp_path / "c.parquet")


def test_an_hour_that_comes_twice_is_remarked_upon(tmp_path: Path) -> None:
    columns = series_columns()
    columns["timestamp"][100:] -= 90_000
    (remark,) = read_labelled(write(tmp_path / "s.parquet", columns)).remarks
    assert "repeats or goes back 1 times, first in row 100" in remark


@pytest.mark.parametrize("leak", [lambda label: label, lambda label: 7.5 - 3 * label])
def test_a_label_handed_in_as_a_feature_is_remarked_upon(tmp_path: Path, leak: Callable[[Any], Any]) -> None:
    for columns in (series_columns(), table_columns()):
        columns["odd"] = leak(columns["label"])
        (remark,) = read_labelled(write(tmp_path / "s.parquet", columns)).remarks
        assert "feature 'odd' is the label under another name; drop it" in remark


def test_a_feature_that_is_called_like_a_label_is_remarked_upon(tmp_path: Path) -> None:
    columns = series_columns() | {"Attack": np.zeros(600)}
    (remark,) = read_labelled(write(tmp_path / "s.parquet", columns)).remarks
    assert "feature 'Attack' is called like a label" in remark


def test_rows_that_are_learned_from_and_scored_are_remarked_upon(tmp_path: Path) -> None:
    columns = series_columns()
    columns["scored"][:300] = columns["timestamp"][:300] % 2 == 0
    (remark,) = read_labelled(write(tmp_path / "s.parquet", columns)).remarks
    assert "300 rows are both `train` and `scored`" in remark


def test_scores_come_back_unclipped_and_say_what_they_were_made_with(tmp_path: Path) -> None:
    path = tmp_path / "scores" / "g" / "s.parquet"
    assert configuration_of(path) is None
    scores = {"causal": np.array([1.5, 1e6]), "settled": np.array([-2.0, 3e9])}
    write_scores(path, np.array([5, 6]), np.array([False, True]), scores, "abc")
    found = read_scores(path)
    assert {name: column.tolist() for name, column in found.items()} == {
        "timestamp": [5, 6],
        "label": [0, 1],
        "causal": [1.5, 1e6],
        "settled": [-2.0, 3e9],
    }
    assert configuration_of(path) == "abc"
    path.write_bytes(path.read_bytes()[:-30])
    assert configuration_of(path) is None


def test_a_score_file_of_another_origin_has_no_configuration(tmp_path: Path) -> None:
    assert configuration_of(write(tmp_path / "s.parquet", table_columns())) is None


def test_a_write_that_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "s.parquet"
    write_scores(path, np.array([5]), np.array([True]), {"causal": np.ones(1)}, "abc")
    before = path.read_bytes()
    with pytest.raises(pyarrow.ArrowInvalid):
        write_scores(path, np.array([5]), np.array([True]), {"causal": np.ones(2)}, "other")
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_without_pyarrow_the_command_names_the_extra() -> None:
    code = "import sys; sys.modules['pyarrow'] = None; sys.argv = ['offkey', 'evaluate', '.', '--out', 'o']; "
    code += "from pipeline.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "pip install 'offkey[evaluate]'" in done.stderr
    assert "Traceback" not in done.stderr

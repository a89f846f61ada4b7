"""Rows of snapshots and of Parquet files, and what is said of those that do not fit."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.connectors.memory import MemoryStorage
from pipeline.connectors.parquet import Coded, Reader, Writer, encode
from pipeline.connectors.snapshots import StoredSnapshots
from pipeline.errors import ConfigError, SnapshotError
from pipeline.jobs.blocks import Block, SnapshotInput, joined, recut
from pipeline.jobs.parquet_input import FilePlace, ParquetInput
from pipeline.jobs.sample import keys, look, rows_of_sample
from tests.reducing import FEATURES, drawn, write_rows
from tests.snapshots import FEATURES as OF_SNAPSHOTS
from tests.snapshots import at_day, write


def blocks_of(source: Any) -> Block:
    return joined(list(source.blocks()))


def test_a_range_of_snapshots_reads_its_rows_once() -> None:
    snapshots = StoredSnapshots(MemoryStorage())
    write(snapshots, 0, 50, (0,))
    write(snapshots, 40, 90, (1,))
    write(snapshots, 100, 120, (2,))
    source = SnapshotInput(snapshots, "machines", OF_SNAPSHOTS, True, (at_day(0), at_day(5)))
    block = blocks_of(source)
    offsets = block.columns["offset"]
    assert isinstance(offsets, np.ndarray)
    assert offsets.tolist() == [*range(90), *range(100, 120)]
    assert np.array_equal(block.values_NF[:, 0], np.sqrt(offsets))
    assert list(block.columns) == list(source.names) == ["partition", "offset", "row", "time_ms", "series", "late"]
    assert [(gap.begin, gap.end) for gap in source.gaps] == [(90, 100)]
    later = SnapshotInput(snapshots, "machines", OF_SNAPSHOTS, True, (at_day(2), at_day(3)))
    assert len(blocks_of(later)) == 20


def test_what_is_recorded_later_is_not_read() -> None:
    snapshots = StoredSnapshots(MemoryStorage())
    write(snapshots, 0, 50, (0,))
    range_ms, until = (at_day(0), at_day(5)), snapshots.ends("machines")
    write(snapshots, 50, 90, (1,))
    source = SnapshotInput(snapshots, "machines", OF_SNAPSHOTS, True, range_ms, until)
    assert len(blocks_of(source)) == 50


def test_snapshots_of_several_schemas_are_refused_by_name() -> None:
    snapshots = StoredSnapshots(MemoryStorage())
    write(snapshots, 0, 50, (0,), features=("cpu", "disk"))
    write(snapshots, 50, 90, (1,))
    source = SnapshotInput(snapshots, "machines", OF_SNAPSHOTS, True, (at_day(0), at_day(5)))
    with pytest.raises(SnapshotError, match="it holds the features cpu, disk, and cpu, mem are asked for"):
        blocks_of(source)


@pytest.mark.parametrize("rows", [1, 3, 7, 100])
def test_blocks_are_cut_anew(rows: int) -> None:
    names = Coded(["b", "a"], np.array([0, 1, 1, 0, 1]))
    parts = [
        Block({"n": np.arange(5), "series": names}, np.arange(10.0).reshape(5, 2)),
        Block({"n": np.arange(0), "series": Coded([], np.zeros(0, np.int64))}, np.empty((0, 2))),
        Block({"n": np.arange(5, 9), "series": Coded(["a", "c"], np.array([0, 1, 0, 1]))}, np.ones((4, 2))),
    ]
    cut = list(recut(parts, rows))
    assert [len(part) for part in cut] == [min(rows, 9 - begin) for begin in range(0, 9, rows)]
    whole = joined(cut)
    series = whole.columns["series"]
    assert isinstance(series, Coded)
    assert "".join(series.names[code] for code in series.code_N) == "baabaacac"
    assert np.asarray(whole.columns["n"]).tolist() == list(range(9))


def test_a_row_group_of_any_size_is_read_in_pieces(tmp_path: Path) -> None:
    x_NF = drawn(300_000)
    source = ParquetInput([write_rows(tmp_path / "rows.parquet", x_NF)], None)
    sizes = [len(block) for block in source.blocks()]
    assert sum(sizes) == 300_000
    assert max(sizes) <= 131_072
    assert np.array_equal(blocks_of(source).values_NF, x_NF)


def test_rows_of_later_row_groups_are_read_from_any_place_on(tmp_path: Path) -> None:
    path, x_NF = tmp_path / "rows.parquet", drawn(200)
    writer = Writer({}, path)
    for part_NF in np.split(x_NF, [70, 170]):
        writer.add(dict(zip(FEATURES, np.ascontiguousarray(part_NF.T), strict=True)))
    writer.close()
    source, reader = ParquetInput([path], None), Reader(path)
    assert reader.groups == 3
    for row in (0, 1, 69, 70, 71, 169, 170, 199):
        block = joined(list(source.blocks(FilePlace(0, row))))
        assert np.array_equal(block.values_NF, x_NF[row:]), row
        assert np.asarray(block.columns["file_row"]).tolist() == list(range(row, 200)), row
        batches = [batch.array("f5") for batch in reader.batches(["f5"], 30, row)]
        assert max(map(len, batches)) <= 30, row
        assert np.array_equal(np.concatenate(batches), x_NF[row:, 5]), row
    assert not list(reader.batches(["f5"], 30, 200))


def test_rows_without_offsets_are_named_by_file_and_place(tmp_path: Path) -> None:
    for number in range(2):
        (tmp_path / f"{number}.parquet").write_bytes(encode({"x": np.arange(3.0), "y": np.ones(3)}, {}))
    block = blocks_of(ParquetInput([tmp_path], None))
    file = block.columns["file"]
    assert isinstance(file, Coded)
    assert [file.names[code] for code in file.code_N] == ["0.parquet"] * 3 + ["1.parquet"] * 3
    assert np.asarray(block.columns["file_row"]).tolist() == [0, 1, 2, 0, 1, 2]


def test_what_names_rows_or_is_kept_is_no_feature(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.parquet", drawn(5), label=np.arange(5), ts=np.arange(5), cost=np.ones(5))
    source = ParquetInput([path], None, kept=["cost", "label"], time="ts")
    assert source.features == FEATURES
    assert list(source.names) == ["offset", "series", "ts", "cost", "label"]
    assert (source.series, source.time) == ("series", "ts")


def test_what_is_shown_stays_a_feature_if_it_is_one(tmp_path: Path) -> None:
    """A picture's colour does not change what is reduced."""
    path = write_rows(tmp_path / "rows.parquet", drawn(5), label=np.arange(5))
    for shown, also in (("f1", []), ("label", ["label"]), ("nothing", [])):
        source = ParquetInput([path], None, shown=shown)
        assert source.features == FEATURES
        assert list(source.names) == ["offset", "series", *also]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda folder: None, "there is no .parquet file in this folder"),
        (lambda folder: (folder / "a.parquet").write_bytes(b"PAR1"), "is not a whole Parquet file"),
        (lambda folder: write_rows(folder / "a.parquet", drawn(5)[:, :2], ("cpu", "mem")), "it has no column f0"),
        (
            lambda folder: (
                write_rows(folder / "a.parquet", drawn(5)),
                write_rows(folder / "b.parquet", drawn(5), offset=Coded(["x"], np.zeros(5, np.int64))),
            ),
            "b.parquet: column 'offset' holds dictionary.* give files of one schema",
        ),
        (
            lambda folder: write_rows(
                folder / "a.parquet", drawn(5)[:, 1:], FEATURES[1:], f0=Coded(["x"], np.zeros(5, np.int64))
            ),
            "column 'f0' holds dictionary.*, not numbers",
        ),
    ],
)
def test_files_that_do_not_fit_are_named(tmp_path: Path, make: Any, said: str) -> None:
    make(tmp_path)
    with pytest.raises(ConfigError, match=said):
        blocks_of(ParquetInput([tmp_path], FEATURES))


def test_a_sample_of_large_images_is_smaller() -> None:
    assert [rows_of_sample(values) for values in (6, 64, 8_192, 28**2, 128**2, 512**2)] == [
        *(65_536, 65_536, 1_024, 10_699, 1_000, 128)
    ]


def test_the_sample_is_one_of_all_rows_and_always_the_same(tmp_path: Path) -> None:
    x_NF = np.arange(200_000.0)[:, None]
    x_NF[5] = np.nan
    path = write_rows(tmp_path / "rows.parquet", x_NF, ("n",))
    source = ParquetInput([path], None)
    once, again, other = (look(source, seed, lambda rows: None) for seed in (0, 0, 1))
    drawn_N = once.sample.values_NF[:, 0].astype(np.int64)
    assert np.array_equal(once.sample.values_NF, again.sample.values_NF)
    assert once.digest == again.digest == other.digest
    assert set(drawn_N.tolist()) != set(other.sample.values_NF[:, 0].astype(np.int64).tolist())
    assert len(set(drawn_N.tolist())) == 65_536
    assert 5 not in drawn_N
    assert (once.rows, once.unusable) == (200_000, 1)
    # The smallest hashes of all, in their order.
    key_N = keys(0, 200_000, 0)
    key_N[5] = np.iinfo(np.uint64).max
    assert np.array_equal(np.argsort(key_N)[:65_536], drawn_N)
    assert abs(drawn_N.mean() - 100_000) < 1_000


def test_hashes_of_row_numbers_do_not_depend_on_blocks() -> None:
    assert np.array_equal(keys(0, 100, 3)[40:], keys(40, 60, 3))
    assert len(set(keys(0, 100_000, 0).tolist())) == 100_000

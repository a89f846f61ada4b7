"""The folder of an offline command: never half a part, never somebody else's files."""

import errno
import os
from pathlib import Path

import pytest

from pipeline.errors import ConfigError
from pipeline.jobs.parts import opened, refuse
from tests.reducing import contents, drawn, model, python, run, write_rows

_FULL_ROWS = 12_000
_FULL = """
import resource, sys
from pathlib import Path
from pipeline.errors import OffkeyError
from tests.reducing import run
rows, output, model = map(Path, sys.argv[1:4])
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[4]), int(sys.argv[4])))
try:
    run(rows, output, model, part_rows=int(sys.argv[5]), picture=(*sys.argv, None)[6])
except OffkeyError as error:
    print(error)
    sys.exit(error.exit_code)
"""


def test_where_no_more_can_be_written_no_half_part_is_left(tmp_path: Path) -> None:
    """The kernel refuses bytes in the middle of a file, as a full disk does."""
    made = model(tmp_path / "model")
    limit = max(path.stat().st_size for path in made.iterdir()) + 1
    x_NF = drawn(3 * _FULL_ROWS)
    # A part that takes little room, and larger ones behind it.
    x_NF[:_FULL_ROWS] = x_NF[0]
    rows = write_rows(tmp_path / "rows.parquet", x_NF)
    done = python(_FULL, rows, tmp_path / "full", made, limit, _FULL_ROWS)
    assert done.returncode == 1, done.stderr
    assert done.stdout.count("\n") == 1
    assert f"part-000001.parquet: cannot be written ({os.strerror(errno.EFBIG)})" in done.stdout
    assert f"--resume: {_FULL_ROWS:,} rows in 1 parts are whole" in done.stdout
    left = contents(tmp_path / "full")
    assert [name for name in left if "part-" in name] == ["part-000000.parquet"]
    run(rows, tmp_path / "full", made, part_rows=_FULL_ROWS, resume=True)
    run(rows, tmp_path / "whole", made, part_rows=_FULL_ROWS)
    assert contents(tmp_path / "full") == contents(tmp_path / "whole")


def test_a_picture_that_does_not_fit_leaves_nothing_of_it(tmp_path: Path) -> None:
    rows, made = write_rows(tmp_path / "rows.parquet", drawn(1_500)), model(tmp_path / "model")
    run(rows, tmp_path / "whole", made, picture="score")
    size = {name: len(content) for name, content in contents(tmp_path / "whole").items()}
    limit = size.pop("picture.png") - 1
    assert limit > max(size.values())
    done = python(_FULL, rows, tmp_path / "full", made, limit, 1_000, "score")
    assert f"picture.png: cannot be written ({os.strerror(errno.EFBIG)})" in done.stdout
    assert done.returncode == 1, done.stderr
    assert not list((tmp_path / "full").glob("*picture*")) + list((tmp_path / "full").glob(".*picture*"))
    run(rows, tmp_path / "full", made, picture="score", resume=True)
    assert contents(tmp_path / "full") == contents(tmp_path / "whole")


def test_a_folder_of_an_earlier_run_is_refused_and_says_what_to_do(tmp_path: Path) -> None:
    rows, made = write_rows(tmp_path / "rows.parquet", drawn(1_500)), model(tmp_path / "model")
    run(rows, tmp_path / "out", made)
    before = contents(tmp_path / "out")
    with pytest.raises(ConfigError, match=r"with 1,500 rows, complete; --resume goes on with it, --overwrite"):
        run(rows, tmp_path / "out", made)
    with pytest.raises(ConfigError, match="1,500 rows"):
        refuse(tmp_path / "out")
    assert contents(tmp_path / "out") == before


def test_overwriting_leaves_nothing_of_before(tmp_path: Path) -> None:
    made = model(tmp_path / "model")
    run(write_rows(tmp_path / "rows.parquet", drawn(3_500)), tmp_path / "out", made)
    fewer = write_rows(tmp_path / "fewer.parquet", drawn(1_500, 1))
    run(fewer, tmp_path / "out", made, overwrite=True)
    run(fewer, tmp_path / "new", made)
    assert contents(tmp_path / "out") == contents(tmp_path / "new")


@pytest.mark.parametrize("how", ["", "resume", "overwrite"])
def test_files_of_others_are_never_touched(tmp_path: Path, how: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    rows, made = write_rows(tmp_path / "rows.parquet", drawn(1_500)), model(tmp_path / "model")
    with pytest.raises(ConfigError, match=r"it holds other files \(thesis.txt\); take another --output"):
        run(rows, tmp_path / "out", made, **({how: True} if how else {}))
    assert (tmp_path / "out" / "thesis.txt").read_text() == "mine"


def test_a_manifest_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"format": "other"}')
    with pytest.raises(ConfigError, match=r"manifest.json: it is of something else"):
        refuse(tmp_path)


def test_two_runs_do_not_write_one_folder(tmp_path: Path) -> None:
    rows, made = write_rows(tmp_path / "rows.parquet", drawn(1_500)), model(tmp_path / "model")
    with (
        opened(tmp_path / "out", {}, resume=False, overwrite=False),
        pytest.raises(ConfigError, match="another command writes here"),
    ):
        run(rows, tmp_path / "out", made, resume=True, about={})


def test_a_part_that_was_listed_and_is_gone_is_told(tmp_path: Path) -> None:
    rows, made = write_rows(tmp_path / "rows.parquet", drawn(1_500)), model(tmp_path / "model")
    run(rows, tmp_path / "out", made)
    (tmp_path / "out" / "part-000001.parquet").unlink()
    with pytest.raises(ConfigError, match=r"part-000001\.parquet: it is listed as whole, and is gone"):
        run(rows, tmp_path / "out", made, resume=True)

"""Ray as an engine: what it is given it does as this process would, and again where one of its processes dies."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.errors import SnapshotError, TransientError
from pipeline.jobs.engine import Work
from pipeline.jobs.features import feature_rows
from pipeline.jobs.parquet_input import ParquetInput
from tests.commands import configured, offkey
from tests.reducing import contents, drawn, model, options, write_rows

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def engine() -> Iterator[Any]:
    """Ray with two processes, for all tests: it takes seconds to start."""
    pytest.importorskip("ray", reason="it comes with: pip install 'offkey[ray]'")
    from pipeline.connectors.ray import opened_engine

    with opened_engine("cpu") as opened:
        opened.actors = 2
        yield opened


@dataclass(frozen=True)
class Odd:
    """Squares numbers in several pieces; dies, or refuses, at one of them."""

    marks: Path
    dies_at: int = -1
    dies: int = 0
    refuses_at: int = -1

    def opened(self, device: torch.device) -> Work:
        def square(number: int) -> Iterator[tuple[int, int]]:
            yield number, 0
            if number == self.dies_at and len(list(self.marks.iterdir())) < self.dies:
                (self.marks / str(os.getpid())).touch()
                os.kill(os.getpid(), signal.SIGKILL)
            if number == self.refuses_at:
                raise SnapshotError(f"number {number}: there is none")
            yield number, number * number

        return square


def made_by(engine: Any, task: Odd, found: list[tuple[int, int]]) -> None:
    with closing(engine.map(task, [engine.keep(number) for number in range(6)])) as made:
        found += made


def test_parts_are_the_same_bytes(engine: Any, tmp_path: Path) -> None:
    rows, coder = write_rows(tmp_path / "rows.parquet", drawn(4_700)), model(tmp_path / "model")
    for name, by in (("here", None), ("there", engine)):
        source = ParquetInput([rows], None)
        feature_rows(source, options(tmp_path / name, coder, engine=by), 5, "rows", lambda *_: None)
    assert contents(tmp_path / "there") == contents(tmp_path / "here")
    assert len(list((tmp_path / "there").glob("part-*.parquet"))) == 5


def test_what_a_process_that_died_had_begun_is_done_again(engine: Any, tmp_path: Path) -> None:
    """Behind it something is wrong that was foreseen, which comes back as it was raised."""
    found: list[tuple[int, int]] = []
    with pytest.raises(SnapshotError, match=r"^number 5: there is none$"):
        made_by(engine, Odd(tmp_path, dies_at=3, dies=1, refuses_at=5), found)
    assert len(list(tmp_path.iterdir())) == 1
    assert found == [pair for number in range(5) for pair in ((number, 0), (number, number * number))] + [(5, 0)]


def test_work_that_kills_every_process_is_given_up(engine: Any, tmp_path: Path) -> None:
    with pytest.raises(TransientError, match="the process of Ray has died 3 times at the same work"):
        made_by(engine, Odd(tmp_path, dies_at=1, dies=100), [])
    assert len(list(tmp_path.iterdir())) == 3


def test_without_ray_its_extra_is_named() -> None:
    code = "import sys; sys.modules['ray'] = None; from pipeline.cli_rows import engine_of\n"
    code += "from pipeline.errors import ConfigError\ntry:\n    with engine_of('ray', 'cpu'): pass\n"
    code += "except ConfigError as error: print(error)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == (
        "--engine ray needs Ray, which is not installed: pip install 'offkey[ray]', or take --engine local\n"
    )


def test_an_engine_that_there_is_not_is_refused(tmp_path: Path) -> None:
    done = offkey("features", str(configured(tmp_path)), "machines", "--output", "out", "--engine", "dask")
    assert (done.returncode, done.stderr) == (2, "offkey: --engine dask: there are local and ray\n")

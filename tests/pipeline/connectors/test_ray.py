"""Ray as an engine: what it is given it does as this process would, and again where one of its processes dies."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.errors import TransientError
from pipeline.jobs.backtest_run import run_side
from pipeline.jobs.engine import Work
from pipeline.jobs.features import feature_rows
from pipeline.jobs.parquet_input import ParquetInput
from tests.commands import configured, offkey
from tests.reducing import contents, drawn, model, options, write_rows
from tests.replays import left_by, two_partitions
from tests.streams import CPU

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning"),
    # Each process of Ray imports torch: on a busy machine that takes its time, five times over.
    pytest.mark.timeout(400),
]


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
    """Squares numbers in two pieces each, between which its process dies at some: so many times at each."""

    marks: Path
    deaths: Mapping[int, int]

    def opened(self, device: torch.device) -> Work:
        def square(number: int) -> Iterator[tuple[int, int]]:
            yield number, 0
            died = len(list(self.marks.glob(f"{number}-*")))
            if died < self.deaths.get(number, 0):
                (self.marks / f"{number}-{died}").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            yield number, number * number

        return square


def test_parts_are_the_same_bytes(engine: Any, tmp_path: Path) -> None:
    rows, coder = write_rows(tmp_path / "rows.parquet", drawn(4_700)), model(tmp_path / "model")
    for name, by in (("here", None), ("there", engine)):
        source = ParquetInput([rows], None)
        feature_rows(source, options(tmp_path / name, coder, engine=by), 5, "rows", lambda *_: None)
    assert contents(tmp_path / "there") == contents(tmp_path / "here")
    assert len(list((tmp_path / "there").glob("part-*.parquet"))) == 5


def test_a_backtest_leaves_the_same(engine: Any, tmp_path: Path) -> None:
    opening = two_partitions(tmp_path)
    for name, elsewhere in (("here", None), ("there", (engine, opening))):
        replay, folder = opening.replay(CPU), tmp_path / name
        ran = run_side(replay, "live", None, None, lambda rows: None, folder, True, elsewhere=elsewhere)
        assert {each.partition.partition for each in ran.result.begun} == {0, 1}
    assert left_by(tmp_path / "there") == left_by(tmp_path / "here")


def test_what_a_process_that_died_had_begun_is_done_again_but_not_for_ever(engine: Any, tmp_path: Path) -> None:
    found: list[tuple[int, int]] = []
    task = Odd(tmp_path, {2: 1, 4: 100})
    said = "the process of Ray has died 3 times at the same work"
    made = engine.map(task, [engine.keep(number) for number in range(5)])
    with closing(made), pytest.raises(TransientError, match=said):
        found.extend(made)
    assert found[:8] == [pair for number in range(4) for pair in ((number, 0), (number, number * number))]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2-0", "4-0", "4-1", "4-2"]


def test_without_ray_its_extra_is_named() -> None:
    code = "import sys; sys.modules['ray'] = None; from pipeline.cli_rows import engine_of\n"
    code += "from pipeline.errors import ConfigError\ntry:\n    with engine_of('ray', 'cpu'): pass\n"
    code += "except ConfigError as error: print(error)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == (
        "--engine ray needs Ray, which is not installed: pip install 'offkey[ray]', or take --engine local\n"
    )


def test_a_ray_that_does_not_start_is_told_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that is not there after half a minute is a plain `Exception`; nobody waits that long here."""
    pytest.importorskip("ray", reason="it comes with: pip install 'offkey[ray]'")
    from pipeline.connectors import ray as connector

    def slow(*where: str, **how: object) -> None:
        raise Exception("The current node timed out during startup.\nMore of it.")

    monkeypatch.setattr("ray.init", slow)
    said = r"--engine ray: Ray cannot be had on this machine \(The current node timed out during startup\.\); mend"
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(TransientError, match=said):
        connector._start()


def test_an_engine_that_there_is_not_is_refused(tmp_path: Path) -> None:
    done = offkey("features", str(configured(tmp_path)), "machines", "--output", "out", "--engine", "dask")
    assert (done.returncode, done.stderr) == (2, "offkey: --engine dask: there are local and ray\n")

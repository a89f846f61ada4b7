"""A training that was killed goes on, and ends where it would have."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.files import to_files
from models.fitting import fit_detector
from models.manifest import MANIFEST
from models.plan import plan_of
from models.resume import Unfinished
from pipeline.connectors.storage import ObjectStorage
from tests.streams import series_rows

VIEWS = ({"window": 8, "inputs": "values"}, {"window": 6, "inputs": "centred"})
EPOCHS = 5
FOLDER = "models/s/unfinished"
SHORT: Any = {"max_epochs": 100_000, "patience": 10**9, "max_seconds": 0.5}


class Killing(ObjectStorage):
    """Storage of a process that is killed when it has written so often."""

    left = 0

    def put(self, name: str, content: bytes) -> None:
        super().put(name, content)
        self.left -= 1
        if not self.left:
            os.kill(os.getpid(), signal.SIGKILL)


def trained(
    network: str, unfinished: Unfinished | None, rows: int = 400, **options: Any
) -> tuple[dict[str, bytes], list[float]]:
    """Return the files of a detector of two views, and the progress that was told."""
    torch.set_num_threads(1)
    values = series_rows(["a", "b"], rows, 1, {})
    columns = {name: (60_000 * np.arange(rows), values[number]) for number, name in enumerate("ab")}
    options = {"max_epochs": EPOCHS, **options}
    plan = plan_of("series", 2, "default", {"network": network, **options}, views=VIEWS)
    told: list[float] = []
    detector = fit_detector(
        "series",
        ["cpu", "mem"],
        plan,
        columns,
        device=torch.device("cpu"),
        progress=told.append,
        unfinished=unfinished,
    )
    return to_files(detector), told


def kill_after(network: str, writes: int, url: str, **options: Any) -> None:
    """Train in a process of its own that is killed at the end of an epoch."""
    asked = [sys.executable, "-m", "tests.models.test_resume", network, str(writes), url, json.dumps(options)]
    root = Path(__file__).parents[2]
    done = subprocess.run(asked, cwd=root, env={**os.environ, "PYTHONPATH": str(root)}, timeout=120)
    assert done.returncode == -signal.SIGKILL


@pytest.mark.parametrize(("network", "writes"), [("denoising", 2), ("variational", 3), ("denoising", EPOCHS + 3)])
def test_a_killed_training_ends_as_if_nothing_had_happened(network: str, writes: int, tmp_path: Path) -> None:
    storage = ObjectStorage(f"file://{tmp_path}")
    said: list[str] = []
    kill_after(network, writes, storage.url)
    whole, _ = trained(network, None)
    resumed, told = trained(network, Unfinished(storage, FOLDER, said.append))
    assert resumed == whole
    assert said == [f"goes on with the training that was interrupted, after {writes} epochs"]
    # The first thing told is the epoch after the last one, or a whole view.
    assert told[0] == pytest.approx(min((writes + 1) / EPOCHS, 1) / 3)


@pytest.mark.parametrize("writes", [2, 3])
def test_a_training_that_was_about_to_end_early_still_does(writes: int, tmp_path: Path) -> None:
    """No batch brings nine tenths, so the second epoch is the half; killed with it or after it, four there are."""
    storage = ObjectStorage(f"file://{tmp_path}")
    options: Any = {"patience": 1, "least_gain": 0.9}
    kill_after("vanilla", writes, storage.url, **options)
    whole, told = trained("vanilla", None, **options)
    resumed, told_again = trained("vanilla", Unfinished(storage, FOLDER), **options)
    assert resumed == whole
    assert told_again == told[writes:]
    assert [view["epochs"] for view in json.loads(whole[MANIFEST])["training"]["views"]] == [4, 4]


@pytest.mark.parametrize("change", [{"rows": 401}, {"latent": 3}])
def test_another_training_starts_anew(change: dict[str, Any], tmp_path: Path) -> None:
    """Other rows, another option: what lies there is said to be of no use, and makes no difference."""
    storage = ObjectStorage(f"file://{tmp_path}")
    said: list[str] = []
    trained("vanilla", Unfinished(storage, FOLDER))
    resumed, _ = trained("vanilla", Unfinished(storage, FOLDER, said.append), **change)
    assert resumed == trained("vanilla", None, **change)[0]
    assert [line.rpartition(": ")[2] for line in said] == ["training starts anew"]


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\x08\0\0\0\0\0\0\0{}      "])
def test_a_file_of_something_else_is_no_training(content: bytes, tmp_path: Path) -> None:
    storage = ObjectStorage(f"file://{tmp_path}")
    said: list[str] = []
    storage.put(f"{FOLDER}/view0", content)
    assert trained("vanilla", Unfinished(storage, FOLDER, said.append))[0] == trained("vanilla", None)[0]
    assert [line.rpartition(": ")[2] for line in said] == ["training starts anew"]


def test_time_used_before_counts(tmp_path: Path) -> None:
    """Killed after its time was over, a view has no further epoch."""
    storage = ObjectStorage(f"file://{tmp_path}")
    first, _ = trained("vanilla", Unfinished(storage, FOLDER), **SHORT)
    again, told = trained("vanilla", Unfinished(storage, FOLDER), **SHORT)
    assert again == first
    assert told == [1 / 3, 2 / 3, 1.0]


@pytest.mark.parametrize(("every_s", "writes"), [(0.0, 2 * EPOCHS), (1e9, 2)])
def test_it_is_written_every_few_seconds_and_when_a_view_is_done(
    every_s: float, writes: int, tmp_path: Path
) -> None:
    storage = Killing(f"file://{tmp_path}")
    unfinished = Unfinished(storage, FOLDER, every_s=every_s)
    trained("vanilla", unfinished)
    assert storage.left == -writes
    assert storage.list(FOLDER) == [f"{FOLDER}/view0", f"{FOLDER}/view1"]
    unfinished.clear()
    assert storage.list(FOLDER) == []


if __name__ == "__main__":
    _, network, writes, url, options = sys.argv
    killing = Killing(url)
    killing.left = int(writes)
    trained(network, Unfinished(killing, FOLDER, every_s=0.0), **json.loads(options))

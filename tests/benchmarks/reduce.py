"""`offkey reduce` against the model's forward pass alone: `python -m tests.benchmarks.reduce [ROWS]`.

Snapshots of 10 million rows of 16 features are written to a folder; a model of 8 numbers a code is trained on a
sample. Then a process that does nothing else codes all of them with that model, as the command does: snapshots
read, rows scaled, coded, decoded for the error, and written as Parquet. `rows_per_s` is of that pass; the look at
all rows before it, which draws the sample and tells that a run may go on, is `look_s`, and with it the figure is
`rows_per_s_with_look`. The forward pass is that of the same network alone on rows that are scaled and in memory, in
chunks of the same shape and on as many threads, each with chunks of its own, in the same process before and after;
the mean of both counts. `processor_ratio` is the same of processor time, which tells more where other work runs
beside it. Memory is the largest the process held, libraries included.
"""

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from models.arrays import FloatArray
from models.codes import Coder, fit_coder
from models.files import from_files, to_files
from pipeline.connectors.snapshots import StoredSnapshots
from pipeline.connectors.storage import ObjectStorage
from pipeline.jobs.blocks import SnapshotInput
from pipeline.jobs.coding import read_files
from pipeline.jobs.reduce import Options, reduce_rows
from pipeline.protocols import OffsetRange, TopicPartition
from pipeline.snapshots import SnapshotRows

ROWS, FEATURES, DIMENSIONS, FILE_ROWS, SERIES = 10_000_000, 16, 8, 500_000, 100
NAMES = tuple(f"f{number:02}" for number in range(FEATURES))
THREADS = len(os.sched_getaffinity(0))
_FORWARD_ROWS, _CHUNK = 1_000_000, 1_024


def drawn(count: int, number: int) -> FloatArray:
    """Return rows that eight hidden numbers tell, bent and with noise."""
    fixed, random = np.random.default_rng(0), np.random.default_rng(number + 1)
    mixing = fixed.standard_normal((DIMENSIONS, FEATURES))
    hidden = random.standard_normal((count, DIMENSIONS))
    return np.asarray(np.tanh(hidden @ mixing) + 0.1 * random.standard_normal((count, FEATURES)))


def write_snapshots(folder: Path, rows: int) -> None:
    snapshots = StoredSnapshots(ObjectStorage(folder.as_uri()))
    for begin in range(0, rows, FILE_ROWS):
        offset_N = np.arange(begin, min(begin + FILE_ROWS, rows))
        part = SnapshotRows(
            TopicPartition("machines", 0),
            "machines#1",
            NAMES,
            offset_N,
            np.zeros(len(offset_N), np.int64),
            1_700_000_000_000 + offset_N,
            1_700_000_000_000 + offset_N,
            [f"s{number}" for number in range(SERIES)],
            offset_N % SERIES,
            drawn(len(offset_N), begin),
            np.zeros(len(offset_N), np.bool_),
        )
        snapshots.write("machines", part, OffsetRange(begin, begin + len(offset_N)), 1_700_000_000_000)


def write_input(folder: Path, rows: int) -> None:
    """Write the snapshots to `storage`, and the files of a model that was trained on a sample to `model`."""
    write_snapshots(folder / "storage", rows)
    coder = fit_coder(drawn(50_000, 3), DIMENSIONS, features=NAMES)
    (folder / "model").mkdir()
    for file, content in to_files(coder.detector).items():
        (folder / "model" / file).write_bytes(content)


def forward_rows_per_s(coder: Coder) -> tuple[float, float]:
    """Return how many rows a second the network alone takes there and back, by the clock and of processor time."""
    (view,) = coder.detector.views
    z_NTF = torch.from_numpy(drawn(_FORWARD_ROWS, 7)[:, None].astype(np.float32))

    @torch.no_grad()
    def forward(z_RTF: torch.Tensor) -> None:
        for z_BTF in torch.split(z_RTF, _CHUNK):
            view.network(z_BTF)

    with ThreadPoolExecutor(THREADS, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        began_s, used_s = time.perf_counter(), time.process_time()
        list(pool.map(forward, torch.split(z_NTF, 16 * _CHUNK)))
        return _FORWARD_ROWS / (time.perf_counter() - began_s), _FORWARD_ROWS / (time.process_time() - used_s)


def child(folder: Path) -> None:
    coder = Coder(from_files(read_files(folder / "model")))
    forward = [forward_rows_per_s(coder)]
    source = SnapshotInput(
        StoredSnapshots(ObjectStorage((folder / "storage").as_uri())), "machines", NAMES, True, (-1, 2**62)
    )
    began = {"start": (time.perf_counter(), time.process_time())}

    def progress(what: str, done: float, of: float | None) -> None:
        began.setdefault(what, (time.perf_counter(), time.process_time()))

    options = Options(folder / "codes", model=folder / "model")
    report = reduce_rows(source, options, "stream machines", progress)
    forward.append(forward_rows_per_s(coder))
    rows = report["rows"]
    forward_per_s, forward_per_used_s = (statistics.fmean(each) for each in zip(*forward, strict=True))
    reduce_s, used_s = (end - begin for begin, end in zip(began["reducing"], began["judging"], strict=True))
    whole_s = began["judging"][0] - began["start"][0]
    found = {
        "rows": rows,
        "rows_per_s": round(rows / reduce_s),
        "forward_rows_per_s": round(forward_per_s),
        "ratio": round(rows / reduce_s / forward_per_s, 3),
        "processor_ratio": round(rows / used_s / forward_per_used_s, 3),
        "rows_per_s_with_look": round(rows / whole_s),
        "look_s": round(whole_s - reduce_s, 1),
        "peak_rss_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "r2": round(report["r2"], 4),
        "r2_of_pca": round(report["r2_of_pca"], 4),
        "threads": THREADS,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
    }
    print(json.dumps(found))


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        child(Path(sys.argv[2]))
        return
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else ROWS
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_input(folder, rows)
        subprocess.run([sys.executable, "-m", "tests.benchmarks.reduce", "--child", name], check=True)


if __name__ == "__main__":
    main()

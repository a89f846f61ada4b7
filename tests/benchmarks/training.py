"""Seconds and memory of training the default: `python -m tests.benchmarks.training`.

A fresh process for each run trains on 100,000 seeded rows of 38 features with two threads, and says how long
`fit_detector` took and the most memory that the process ever held (importing torch is part of it). Then the same
once more while as many other processes keep the cores busy: threads that wait for one another pay for it.
"""

import json
import os
import platform
import resource
import subprocess
import sys
import time

RUNS, ROWS, FEATURES, THREADS = 3, 100_000, 38, 2
MIB = 2**20
_CHILD = "child"


def child() -> None:
    """Train, and print the figures of this process."""
    import numpy as np
    import torch

    from models.fitting import fit_detector
    from models.plan import plan_of

    torch.set_num_threads(THREADS)
    imported = peak_bytes()
    random = np.random.default_rng(0)
    phase_NF = np.arange(ROWS)[:, None] / random.uniform(20, 400, FEATURES) + random.uniform(0, 6, FEATURES)
    x_NF = np.sin(phase_NF) + 0.3 * random.standard_normal((ROWS, FEATURES))
    del phase_NF
    columns = {"s": (60_000 * np.arange(ROWS), x_NF)}
    names = [f"f{number:02}" for number in range(FEATURES)]
    before, began_s = peak_bytes(), time.perf_counter()
    fit_detector("series", names, plan_of("series", FEATURES, "default", {}), columns, device=torch.device("cpu"))
    seconds = time.perf_counter() - began_s
    print(json.dumps({"seconds": seconds, "imported": imported, "before": before, "peak": peak_bytes()}))


def peak_bytes() -> int:
    """Return the most memory that this process ever held."""
    # Linux counts in KiB.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def trained() -> dict[str, float]:
    """Return the figures of a fresh process."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(THREADS)}
    asked = [sys.executable, "-m", "tests.benchmarks.training", _CHILD]
    done = subprocess.run(asked, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def trained_beside_others() -> dict[str, float]:
    """Return the figures of a fresh process that shares its cores."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(THREADS)]
    try:
        return trained()
    finally:
        for other in others:
            other.kill()
            other.wait()


def main() -> None:
    runs, beside = [trained() for _ in range(RUNS)], trained_beside_others()
    found = {
        "rows": ROWS,
        "features": FEATURES,
        "threads": THREADS,
        "seconds": [round(run["seconds"], 1) for run in runs],
        "seconds_beside_others": round(beside["seconds"], 1),
        "peak_mib": [round(run["peak"] / MIB) for run in [*runs, beside]],
        "of_which_imports_mib": round(runs[0]["imported"] / MIB),
        "of_which_rows_mib": round((runs[0]["before"] - runs[0]["imported"]) / MIB),
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
    }
    print(json.dumps(found))


if __name__ == "__main__":
    child() if sys.argv[1:] == [_CHILD] else main()

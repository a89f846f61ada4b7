"""What a process holds over time: memory, file descriptors, threads; and whether it holds more and more."""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

MIB = 1024 * 1024


@dataclass(frozen=True)
class Held:
    """What a process holds at one moment."""

    at_s: float
    memory_bytes: int
    """Its anonymous memory. Pages of libraries are left out: what of them is a process's own, or its part of them,
    grows where others end that had them mapped too."""
    files: int
    threads: int


@dataclass
class Watch:
    """Samples of one process, taken on a thread of their own until `close`."""

    pid: int
    every_s: float = 1.0
    samples: list[Held] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(self.every_s):
            try:
                self.samples.append(held(self.pid))
            except (FileNotFoundError, ProcessLookupError):
                return  # It has ended.


def held(pid: int) -> Held:
    """Return what a process holds now."""
    process = Path("/proc") / str(pid)
    memory_kib = next(
        int(line.split()[1])
        for line in (process / "smaps_rollup").read_text().splitlines()
        if line.startswith("Anonymous:")
    )
    files, threads = len(list((process / "fd").iterdir())), len(list((process / "task").iterdir()))
    return Held(time.monotonic(), memory_kib * 1024, files, threads)


def growth(samples: Sequence[Held], warm_share: float = 0.3) -> list[str]:
    """Return what has grown after a warm-up, a line each; empty: nothing.

    Memory breathes with every batch, and its last arenas are taken late. So a line is put through the samples, and
    it counts as growth where the rise over the whole time is more than 3% of what is held and more than the samples
    scatter around the line. Files and threads come and go, but not by two for a third of the time: their median may
    not rise by so many from the first third to the last.
    """
    kept = samples[int(len(samples) * warm_share) :]
    if len(kept) < 9:
        raise ValueError(f"{len(samples)} samples are too few to tell")
    at_s = np.array([each.at_s for each in kept])
    memory = np.array([each.memory_bytes for each in kept], float)
    slope, level = np.polyfit(at_s - at_s[0], memory, 1)
    rise = slope * (at_s[-1] - at_s[0])
    scatter = float(np.std(memory - (level + slope * (at_s - at_s[0]))))
    found = []
    if rise > max(0.03 * level, scatter):
        found.append(
            f"memory: {rise / MIB:+.1f} MiB in {at_s[-1] - at_s[0]:.0f} s on {level / MIB:.0f} MiB, "
            f"scatter {scatter / MIB:.1f}"
        )
    third = len(kept) // 3
    for name in ("files", "threads"):
        counts = [getattr(each, name) for each in kept]
        first, last = np.median(counts[:third]), np.median(counts[-third:])
        if last - first >= 2:
            found.append(f"{name}: from {first:.0f} to {last:.0f}")
    return found

"""A leak is told from the breathing of a process that has none."""

import os
import threading
from contextlib import closing

import numpy as np
import pytest

from tests.chaos.resources import MIB, Held, Watch, growth, held


def samples(leak_bytes_per_s: float = 0, files_every_s: int = 0, threads_every_s: int = 0) -> list[Held]:
    """Ten minutes of a process of 300 MiB that takes up to 20 more for a batch."""
    random = np.random.default_rng(1)
    return [
        Held(
            float(second),
            300 * MIB + int(leak_bytes_per_s * second) + int(random.integers(20 * MIB)),
            40 + int(random.integers(4)) + (second // files_every_s if files_every_s else 0),
            9 + int(random.integers(2)) + (second // threads_every_s if threads_every_s else 0),
        )
        for second in range(600)
    ]


def test_breathing_is_no_growth() -> None:
    assert growth(samples()) == []


@pytest.mark.parametrize(
    ("leak", "told"),
    [
        ({"leak_bytes_per_s": 40_000}, "memory"),
        ({"files_every_s": 60}, "files"),
        ({"threads_every_s": 90}, "threads"),
    ],
)
def test_a_slow_leak_is_named(leak: dict[str, int], told: str) -> None:
    (line,) = growth(samples(**leak))
    assert line.startswith(told)


def test_what_grows_at_the_start_only_is_no_leak() -> None:
    warm = [Held(-600 + each.at_s, each.memory_bytes // 3, each.files - 9, each.threads - 2) for each in samples()]
    assert growth([*warm[-250:], *samples()]) == []


def test_too_few_samples_tell_nothing() -> None:
    with pytest.raises(ValueError, match="too few to tell"):
        growth(samples()[:5])


def test_a_process_is_measured_as_it_is() -> None:
    before, ended = held(os.getpid()), threading.Event()
    thread = threading.Thread(target=ended.wait)
    thread.start()
    with open(os.devnull), open(os.devnull):
        block = bytearray(os.urandom(1 << 16)) * 1024
        after = held(os.getpid())
    ended.set()
    thread.join()
    assert after.memory_bytes - before.memory_bytes > len(block) // 2
    assert (after.files - before.files, after.threads - before.threads) == (2, 1)


def test_a_watch_takes_samples_until_it_is_closed() -> None:
    taken = threading.Event()
    watch = Watch(os.getpid(), every_s=0.01)
    with closing(watch):
        while len(watch.samples) < 3:
            taken.wait(0.01)
    count = len(watch.samples)
    taken.wait(0.05)
    assert len(watch.samples) == count

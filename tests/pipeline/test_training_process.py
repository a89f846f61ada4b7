"""A training's process: its result, its words, its end with the scheduler, its memory."""

import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import training_process
from pipeline.training_process import NICE, Ended, TrainingProcess, memory_is_told
from pipeline.training_result import outcome_of, told


def started(code: str) -> TrainingProcess:
    return TrainingProcess("machines", [sys.executable, "-c", code])


def until(what: Callable[[], bool]) -> None:
    deadline_s, pause = time.monotonic() + 30, threading.Event()
    while not what():
        assert time.monotonic() < deadline_s, "it did not come about in time"
        pause.wait(0.02)


def end_of(code: str) -> Ended:
    training = started(code)
    until(lambda: training.ended() is not None)
    ended = training.ended()
    assert ended is not None
    return ended


def test_its_last_line_is_its_result_be_it_long(capfd: pytest.CaptureFixture[str]) -> None:
    ended = end_of(
        "import sys, json; print('a log', file=sys.stderr); print('x'); "
        "print(json.dumps({'version': 'v2', 'more': 'y' * 300_000}))"
    )
    assert ended.status == 0
    assert ended.result is not None
    assert (ended.result["version"], len(ended.result["more"])) == ("v2", 300_000)
    assert outcome_of(ended) == "promoted"
    assert capfd.readouterr().err == "[machines] a log\n"


def test_a_line_is_passed_on_in_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []

    class Stderr(io.StringIO):
        def write(self, text: str) -> int:
            written.append(text)
            return len(text)

    monkeypatch.setattr(sys, "stderr", Stderr())
    end_of("import sys; print('a log', file=sys.stderr); print('{}', file=sys.stderr)")
    assert [text for text in written if text] == ["[machines] a log\n", "{}\n"]


@pytest.mark.parametrize(
    ("code", "status", "why"),
    [
        ("import sys; print('offkey: no rows; wait', file=sys.stderr); sys.exit(1)", 1, "no rows; wait"),
        ("import sys; print('offkey: no such thing', file=sys.stderr); sys.exit(2)", 2, "no such thing"),
        ("raise KeyError('a bug')", 1, "ended with status 1, and said last: KeyError: 'a bug'"),
        ("import os; os.kill(os.getpid(), 9)", 137, "ended by signal 9"),
        ("print('no json')", 0, "ended with status 0"),
        ("pass", 0, "ended with status 0"),
    ],
)
def test_a_training_that_comes_to_nothing_has_failed_and_says_why(code: str, status: int, why: str) -> None:
    ended = end_of(code)
    assert (ended.status, ended.result, ended.why) == (status, None, why)
    assert outcome_of(ended) == "failed"
    assert told(ended) == (why if status else "it has not said what it came to")


def test_who_lost_a_promotion_is_told_apart() -> None:
    ended = end_of('import sys; print(\'{"error": "PromotionLost"}\'); sys.exit(1)')
    assert outcome_of(ended) == "lost"


def test_what_it_takes_is_seen_and_it_can_be_killed() -> None:
    training = started("kept = bytearray(200 << 20); print('there', flush=True); input()")
    until(lambda: (training.memory_bytes() or 0) > 200 << 20)
    assert training.ended() is None
    training.kill()
    assert training.ended() is not None
    assert training.memory_bytes() is None


def test_a_machine_without_proc_does_not_tell_what_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert memory_is_told()
    monkeypatch.setattr(training_process, "_PROC", tmp_path)
    assert not memory_is_told()
    training = started("input()")
    try:
        assert training.memory_bytes() is None
    finally:
        training.kill()


def test_what_is_reserved_and_not_touched_is_not_counted() -> None:
    """As torch does it; limits of the kernel would count it."""
    training = started("import mmap; kept = mmap.mmap(-1, 8 << 30); print('there', flush=True); input()")
    try:
        until(lambda: bool(training._told))
        assert (training.memory_bytes() or 0) < 200 << 20
    finally:
        training.kill()


def test_it_ends_with_its_scheduler_and_gives_way_to_all() -> None:
    """The scheduler is killed, and says nothing more."""
    child = "from pipeline.training_process import tie; tie(); import os, time; print(os.nice(0), flush=True); "
    child += "time.sleep(60)"
    scheduler = (
        "import subprocess, sys, time; "
        f"child = subprocess.Popen([sys.executable, '-c', {child!r}], stdin=subprocess.PIPE, "
        "stdout=subprocess.PIPE, start_new_session=True); "
        "print(child.pid, child.stdout.readline().decode(), flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", scheduler], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid, nice = map(int, parent.stdout.readline().split())
    assert nice == NICE
    os.kill(pid, 0)
    parent.send_signal(signal.SIGKILL)
    parent.wait(10)
    parent.stdout.close()

    def is_gone() -> bool:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().split()[2] == "Z"

    until(is_gone)

"""Several processes kept running: real ones of a few lines each, and what the supervisor does about their end."""

import logging
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from pipeline.config import Settings
from pipeline.errors import ConfigError, ProcessError
from pipeline.supervised import Place, settings_of
from pipeline.supervisor import Backoff, Supervisor
from tests.streams import SERIES

_CHILD = """
import os, signal, sys, time
number, restarts = map(int, sys.argv[1].split("/"))
def ready(): print("ready", flush=True)
def say(text): print(text, file=sys.stderr, flush=True)
def stop_all(): os.kill(os.getppid(), signal.SIGTERM)
def die(): os.kill(os.getpid(), signal.SIGKILL)
def wait_for(path):
    while not os.path.exists(path): time.sleep(0.01)
"""
_QUICK = Backoff(0.01, 0.03, 60.0)


def child(code: str) -> Callable[[Place], Sequence[str]]:
    return lambda place: [sys.executable, "-c", _CHILD + code, str(place)]


@pytest.fixture(autouse=True)
def _logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "pipeline.supervisor")


def test_what_dies_is_started_again_at_intervals_that_double(caplog: pytest.LogCaptureFixture) -> None:
    code = """
if restarts == 0: ready(); die()
if restarts == 1: say("offkey: the broker is away"); sys.exit(1)
if restarts == 2: ready(); raise ValueError("a bug")
if restarts == 3: sys.exit(0)
ready(); stop_all(); signal.pause()
"""
    Supervisor(child(code), 1, 30, backoff=_QUICK).run()
    said = [message for message in caplog.messages if "starting it again" in message]
    assert said == [
        "process 0: was ended by SIGKILL; starting it again in 0.0 s",
        "process 0: the broker is away; starting it again in 0.0 s",
        "process 0: ended with status 1, and said last: ValueError: a bug; starting it again in 0.0 s",
        "process 0: ended with status 0; starting it again in 0.0 s",
    ]


def test_a_stop_waits_for_none_that_is_to_be_started_again(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    died = tmp_path / "died"

    class Long(Backoff):
        def after(self, before_s: float, ready_for_s: float) -> float:
            died.touch()
            return 3600

    code = f"""
ready()
if number == 0: die()
wait_for({str(died)!r}); stop_all(); signal.pause()
"""
    Supervisor(child(code), 2, 30, backoff=Long()).run()
    assert "process 0: was ended by SIGKILL; starting it again in 3600.0 s" in caplog.messages


def test_backoff_doubles_to_a_limit_and_health_sets_it_back() -> None:
    backoff, waits, wait_s = Backoff(1, 5, 60), [], 0.0
    for ready_for_s in (0, 0, 59, 0, 60, 0):
        wait_s = backoff.after(wait_s, ready_for_s)
        waits.append(wait_s)
    assert waits == [1, 2, 4, 5, 1, 2]


def test_the_others_go_on_while_one_is_started_again(tmp_path: Path) -> None:
    code = f"""
if number == 1: ready(); die() if restarts < 2 else (wait_for("{tmp_path}/0"), stop_all(), signal.pause())
open({str(tmp_path)!r} + f"/{{restarts}}", "w"); ready(); signal.pause()
"""
    Supervisor(child(code), 2, 30, backoff=_QUICK).run()
    assert [path.name for path in tmp_path.iterdir()] == ["0"]


@pytest.mark.parametrize("status", [1, 2, 3])
def test_one_that_cannot_start_ends_all_with_its_reason_and_status(status: int, tmp_path: Path) -> None:
    left = tmp_path / "left"
    code = f"""
def leave(*_): open({str(left)!r}, "w"); sys.exit(0)
if number == 0: signal.signal(signal.SIGTERM, leave); open({str(left)!r} + "-began", "w"); ready(); signal.pause()
wait_for({str(left)!r} + "-began")
say("offkey: kafka.group_id: wrong"); say("offkey: topics: wrong"); sys.exit({status})
"""
    with pytest.raises(ProcessError) as raised:
        Supervisor(child(code), 2, 30, backoff=_QUICK).run()
    assert str(raised.value) == "process 1: kafka.group_id: wrong\nprocess 1: topics: wrong"
    assert raised.value.exit_code == status
    assert left.exists()


def test_a_reason_that_all_have_is_told_once(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    code = 'say("offkey: no model"); sys.exit(2)'
    with pytest.raises(ProcessError, match=r"^process \d: no model$"):
        Supervisor(child(code), 5, 30, backoff=_QUICK).run()
    assert "no model" not in capfd.readouterr().err + caplog.text


def test_one_that_is_killed_before_it_was_ever_ready_ends_all() -> None:
    with pytest.raises(ProcessError, match="process 0: was ended by SIGKILL") as raised:
        Supervisor(child("die()"), 1, 30, backoff=_QUICK).run()
    assert raised.value.exit_code == 137


@pytest.mark.parametrize("restarts", [0, 1])
def test_the_users_mistake_ends_all_whenever_it_is_made(restarts: int) -> None:
    """Where a right was taken away, or another process has the instance id, a restart mends nothing."""
    code = f"""
ready()
if restarts < {restarts}: die()
say("offkey: no right"); sys.exit(2)
"""
    with pytest.raises(ProcessError, match="process 0: no right") as raised:
        Supervisor(child(code), 1, 30, backoff=_QUICK).run()
    assert raised.value.exit_code == 2


def test_what_they_say_has_their_number_in_front(capfd: pytest.CaptureFixture[str]) -> None:
    code = """
say(f"I am {number}"); say("x" * 200_000); sys.stderr.write("no end"); sys.stderr.flush()
ready()
if number == 1: stop_all()
signal.pause()
"""
    Supervisor(child(code), 2, 30).run()
    said = capfd.readouterr().err.splitlines()
    expected = [f"[{number}] {text}" for number in (0, 1) for text in ("I am 0", "x" * 200_000, "no end")]
    expected = [line.replace("I am 0", f"I am {line[1]}") for line in expected]
    # A process that is stopped before it has said all has said a part of it.
    assert {line for line in said if line.startswith("[1]")} == set(expected[3:])
    assert all(any(line in whole for whole in expected) for line in said)


def test_one_that_ignores_a_stop_is_killed_after_its_time() -> None:
    code = """
signal.signal(signal.SIGTERM, signal.SIG_IGN); ready(); stop_all()
while True: signal.pause()
"""
    with pytest.raises(ProcessError, match="process 0: did not end in its time and was killed; nothing is lost"):
        Supervisor(child(code), 1, 0.1, margin_s=0.1).run()


def test_a_second_signal_is_handed_on_too() -> None:
    code = """
seen = []
def note(*_):
    seen.append(1)
    if len(seen) == 2: say("offkey: ends at once"); sys.exit(143)
    stop_all()
signal.signal(signal.SIGTERM, note); ready(); stop_all()
while True: signal.pause()
"""
    with pytest.raises(ProcessError, match="process 0: ends at once") as raised:
        Supervisor(child(code), 1, 3600).run()
    assert raised.value.exit_code == 143


def test_threads_of_libraries_are_shared_and_the_users_own_number_goes_before(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code = 'say(os.environ["OMP_NUM_THREADS"]); ready(); stop_all(); signal.pause()'
    for own, found in ((None, "7"), ("3", "3")):
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        if own:
            monkeypatch.setenv("OMP_NUM_THREADS", own)
        Supervisor(child(code), 1, 30, threads=7).run()
        assert capfd.readouterr().err == f"[0] {found}\n"


_TWICE = """
import os, sys, threading
from pipeline.supervisor import Backoff, Supervisor

def child(place): return [sys.executable, "-c", sys.argv[1], str(place)]
for _ in range(2):
    Supervisor(child, 2, 30, backoff=Backoff(0.01, 0.03, 60)).run()
    for thread in threading.enumerate():
        if thread is not threading.main_thread():  # asyncio's has told of an end, and ends itself a moment later.
            thread.join(5)
    print(len(os.listdir("/proc/self/fd")), threading.active_count())
"""


def test_nothing_is_left_open_after_it() -> None:
    """In a process of its own: in this one threads of other tests come and go."""
    # One of them stops all, for the other could die of its own while all are ended, which is an error.
    code = """
ready()
if number == 0: die() if restarts < 3 else stop_all()
signal.pause()
"""
    run = subprocess.run([sys.executable, "-c", _TWICE, _CHILD + code], capture_output=True, text=True, timeout=60)
    first, second = (line.split() for line in run.stdout.splitlines())
    assert first == second, run.stderr
    assert second[1] == "1", "threads"


def settings(**sections: object) -> Settings:
    return Settings.model_validate({"streams": {"machines": SERIES.model_dump(exclude_unset=True)}, **sections})


def test_each_has_an_instance_id_and_a_port_of_its_own() -> None:
    made = [settings_of(settings(kafka={"instance_id": "web"}, metrics={"port": 9000}), n) for n in (0, 1)]
    assert [each.kafka.instance_id for each in made] == ["web-0", "web-1"]
    assert [each.metrics.port for each in made] == [9000, 9001]
    free = settings_of(settings(metrics={"port": 0}), 3)
    assert (free.kafka.instance_id, free.metrics.port) == (None, 0)


def test_numbers_that_there_is_no_room_for_are_named() -> None:
    with pytest.raises(ConfigError, match=r"metrics\.port: process 2 would listen on 65536"):
        settings_of(settings(metrics={"port": 65_534}), 2)
    with pytest.raises(ConfigError, match=r"kafka\.instance_id: with the number of a process, -10, it is longer"):
        settings_of(settings(kafka={"instance_id": "x" * 247}), 10)


@pytest.mark.parametrize("text", ["1", "x/y", "1/2/3"])
def test_a_place_that_a_person_wrote_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=f"--supervised {text}: that is for"):
        Place.parse(text)


def test_lines_of_json_are_passed_on_as_they_are_and_a_signal_for_the_logs_too(
    capfd: pytest.CaptureFixture[str],
) -> None:
    code = """
def turn(*_): say('{"message": "turned"}'); stop_all(); sys.exit(0)
signal.signal(signal.SIGUSR1, turn); ready()
os.kill(os.getppid(), signal.SIGUSR1)
while True: signal.pause()
"""
    try:
        Supervisor(child(code), 1, 30, backoff=_QUICK, numbered=False).run()
        assert logging.getLogger("pipeline").level == logging.DEBUG
    finally:
        logging.getLogger("pipeline").setLevel(logging.NOTSET)
    assert '{"message": "turned"}' in capfd.readouterr().err.splitlines()


def test_one_that_is_started_again_logs_as_the_others_do(capfd: pytest.CaptureFixture[str]) -> None:
    code = """
def turn(*_): say(f"turned {restarts}"); stop_all() if restarts else die()
signal.signal(signal.SIGUSR1, turn); ready()
if restarts == 0: os.kill(os.getppid(), signal.SIGUSR1)
while True: signal.pause()
"""
    try:
        Supervisor(child(code), 1, 30, backoff=_QUICK, numbered=False).run()
    finally:
        logging.getLogger("pipeline").setLevel(logging.NOTSET)
    assert [line for line in capfd.readouterr().err.splitlines() if "turned" in line] == ["turned 0", "turned 1"]

"""A stop, its budget, and the end of a process that overstays it."""

import os
import queue
import signal
from collections.abc import Callable, Iterator

import pytest

from pipeline.stopping import Stop, stop_on_signals

_SOON_S = 10.0


class Watched:
    """A stop whose process would have ended with the statuses in `ended`."""

    def __init__(self, budget_s: float) -> None:
        self.stop = Stop(budget_s)
        self.ended: queue.Queue[int] = queue.Queue()
        self.restore: Callable[[], None] = stop_on_signals(
            self.stop, lambda: "no checkpoint of metrics/0", self.ended.put
        )


@pytest.fixture
def watched() -> Iterator[Callable[[float], Watched]]:
    made: list[Watched] = []

    def watch(budget_s: float) -> Watched:
        made.append(Watched(budget_s))
        return made[-1]

    yield watch
    for each in made:
        each.restore()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_process_that_overstays_ends(
    watched: Callable[[float], Watched], number: signal.Signals, capfd: pytest.CaptureFixture[str]
) -> None:
    each = watched(0.3)
    each.stop.begun = True
    os.kill(os.getpid(), number)
    assert each.stop.wait(_SOON_S)
    assert each.ended.get(timeout=_SOON_S) == 1
    said = capfd.readouterr().err
    assert said == "offkey: did not stop within 0.3 s and ends now; no checkpoint of metrics/0\n"


def test_a_second_signal_ends_it_at_once(
    watched: Callable[[float], Watched], capfd: pytest.CaptureFixture[str]
) -> None:
    each = watched(3600)
    each.stop.begun = True
    os.kill(os.getpid(), signal.SIGTERM)
    assert each.stop.wait(_SOON_S)
    assert each.ended.empty()
    os.kill(os.getpid(), signal.SIGINT)
    assert each.ended.get(timeout=_SOON_S) == 128 + signal.SIGINT
    assert capfd.readouterr().err == "offkey: ends at once at a second signal; no checkpoint of metrics/0\n"


def test_before_anything_is_begun_there_is_nothing_to_finish(watched: Callable[[float], Watched]) -> None:
    each = watched(3600)
    os.kill(os.getpid(), signal.SIGTERM)
    assert each.ended.get(timeout=_SOON_S) == 0


def test_a_stop_in_time_ends_nothing_and_gives_the_signals_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    each = Watched(0.2)
    each.stop.begun = True
    os.kill(os.getpid(), signal.SIGTERM)
    assert each.stop.wait(_SOON_S)
    each.restore()
    assert signal.getsignal(signal.SIGTERM) is before
    with pytest.raises(queue.Empty):
        each.ended.get(timeout=0.5)


def test_each_step_leaves_the_later_ones_their_share() -> None:
    now_s = [100.0]
    stop = Stop(10, clock=lambda: now_s[0])
    assert stop.left_s() == float("inf")
    stop.set()
    assert (stop.left_s(0.6), stop.left_s(0.8), stop.left_s()) == pytest.approx((6, 8, 10))
    now_s[0] += 7
    stop.set()  # Again: it changes nothing.
    assert (stop.left_s(0.6), stop.left_s(0.8), stop.left_s()) == pytest.approx((0, 1, 3))

"""Ctrl-C is raised at the next step, wherever it comes; a second one at once."""

import signal

import pytest

from pipeline.interrupting import interrupted_between_steps


class Finalised:
    """What a finaliser raises is lost."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)


def test_it_is_raised_at_the_next_step_even_if_it_came_in_a_finaliser() -> None:
    reached = []

    def work() -> None:
        with interrupted_between_steps() as step:
            step()
            Finalised()
            reached.append("what was under way is brought to its end")
            step()
            reached.append("and nothing after it")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert reached == ["what was under way is brought to its end"]


def test_a_second_one_is_raised_where_it_comes() -> None:
    def work() -> None:
        with interrupted_between_steps():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            raise AssertionError("it was not raised")

    with pytest.raises(KeyboardInterrupt):
        work()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_either_signal_stops_and_goes_back_to_whom_it_belonged(number: signal.Signals) -> None:
    reached = []

    def work() -> None:
        with interrupted_between_steps() as step:
            signal.raise_signal(number)
            step()

    before = signal.signal(number, lambda *_: reached.append("whom it belonged to"))
    try:
        with pytest.raises(KeyboardInterrupt):
            work()
        assert reached == []
        signal.raise_signal(number)
        assert reached == ["whom it belonged to"]
    finally:
        signal.signal(number, before)

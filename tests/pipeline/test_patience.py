import pytest

from pipeline.errors import TransientError
from pipeline.patience import Patience
from pipeline.stopping import Stop


class Waits(Stop):
    """A stop that notes how long it is waited for, and tells the time by that."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.waits.append(timeout)
        return False

    def now_s(self) -> float:
        return sum(self.waits)


def test_waits_double_to_a_limit_until_the_deadline_and_a_success_begins_anew() -> None:
    stop, error = Waits(), TransientError("away")
    patience = Patience(15.0, stop.now_s)
    for _ in range(2):
        begun = len(stop.waits)
        for _ in range(7):
            patience.wait(error, stop)
        assert stop.waits[begun:] == [0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
        with pytest.raises(TransientError, match="away"):
            patience.wait(error, stop)
        patience.renew()

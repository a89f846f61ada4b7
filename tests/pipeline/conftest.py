"""What tests of commands share."""

from collections.abc import Callable

import pytest

from pipeline import cli
from tests.commands import signals_given_back


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run a command in this process; return (exit status, stdout, stderr)."""

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["offkey", "--log-level", "error", *arguments])
        # Commands that run on have the signals until their process ends, and here it does not.
        with signals_given_back(), pytest.raises(SystemExit) as ended:
            cli.main()
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    return call

"""`offkey generate` in this process, with a training of a few steps."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import models.generating as generating
from pipeline.cli import main

Run = Callable[..., tuple[int, str, str]]


def runner(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], config: Path, epochs: int) -> Run:
    """Return what runs the command on a stream with options: (status, standard output, standard error)."""
    quick = {"max_epochs": epochs, "epoch_windows": 1_024, "least_epoch_windows": 1_024}
    monkeypatch.setattr(generating, "_LEARNING", {**generating._LEARNING, **quick})

    def run(stream: str, *options: str) -> tuple[int, str, str]:
        asked = ["offkey", "--log-level", "error", "generate", str(config), stream, *options]
        monkeypatch.setattr(sys, "argv", asked)
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        code = ended.value.code
        assert isinstance(code, int)
        return code, said.out, said.err

    return run

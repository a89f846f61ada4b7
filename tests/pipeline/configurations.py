"""Configurations as people write them, and what is said of a mistake in one."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from pipeline.config import load_settings
from pipeline.errors import ConfigError

GOOD = "streams:\n  machines:\n    topic: metrics\n"


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "offkey.yaml"
    path.write_text(text)
    return path


def each_of(mistakes: Sequence[tuple[str, str]]) -> pytest.MarkDecorator:
    """Have a test run once for each (configuration as `text`, beginning of what is `said` of it)."""
    return pytest.mark.parametrize(("text", "said"), mistakes, ids=[said[:40] for _, said in mistakes])


def check_one_clear_line(tmp_path: Path, text: str, said: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_settings(path)
    line = str(caught.value)
    assert line.startswith(f"{path}{said}"), line
    assert line.isprintable(), line
    assert len(line) < len(str(path)) + 250, line


def check_secret_is_refused(path: Path, where: str) -> None:
    """See that the value `planted` of a setting is refused as a secret, its line told and not the value itself."""
    with pytest.raises(ConfigError) as caught:
        load_settings(path)
    (number,) = [n for n, line in enumerate(path.read_text().splitlines(), 1) if "planted" in line]
    key, line = where.rpartition(".")[2], str(caught.value)
    assert line == (
        f"{path}:{number}: {where} is a secret; name a file that holds it as {key}_file, or set the "
        f"environment variable OFFKEY_{where.replace('.', '__').upper()}"
    ), line

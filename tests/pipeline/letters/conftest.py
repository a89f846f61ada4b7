"""Where the command is tried: Apache Kafka, where it has to be that one, or any broker."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.pipeline.letters.on_brokers import Setting, setting


@pytest.fixture
def on_any(any_broker: str, unique: Callable[[str], str], tmp_path: Path) -> Setting:
    return setting(any_broker, unique, tmp_path)


@pytest.fixture
def on_apache(apache_broker: str, unique: Callable[[str], str], tmp_path: Path) -> Setting:
    return setting(apache_broker, unique, tmp_path)

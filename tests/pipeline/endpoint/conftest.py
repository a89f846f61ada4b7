"""Certificates, a password, and a port that is opened with them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.connectors.door import Door
from pipeline.endpoint import serve
from pipeline.health import Health
from pipeline.metrics_settings import MetricsSettings
from tests.certificates import Authority
from tests.endpoints import PASSWORD


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def certificate(authority: Authority) -> Path:
    return authority.sign("metrics", ["127.0.0.1"])


@pytest.fixture
def password(tmp_path: Path) -> Path:
    path = tmp_path / "password"
    path.write_text(f"{PASSWORD}\n")
    return path


@pytest.fixture
def opened() -> Callable[..., int]:
    """Serve what a process that starts says, by these keys of `metrics`; return the port."""

    def begin(**metrics: Any) -> int:
        given = {key: str(value) if isinstance(value, Path) else value for key, value in metrics.items()}
        return serve("127.0.0.1", 0, Health(60.0), door=Door(MetricsSettings.model_validate(given)))

    return begin


@pytest.fixture(autouse=True)
def nothing_is_printed(capsys: pytest.CaptureFixture[str]) -> Iterator[None]:
    """What clients do wrong leaves no traceback, and no secret."""
    yield
    said = "".join(capsys.readouterr())
    assert "Traceback" not in said
    assert "planted" not in said

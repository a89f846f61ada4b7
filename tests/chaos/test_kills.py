"""Whoever is killed, and whenever: snapshots, registry and alerts are those of a run without kills."""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.brokers import ApacheBroker
from tests.chaos.deployment import COMMANDS
from tests.chaos.kills import plan_of, report, run, summary


@pytest.mark.timeout(900)
def test_a_deployment_that_is_killed_loses_nothing(
    chaos_broker: ApacheBroker, kill_seed: int, tmp_path: Path, tell: Callable[[str], None]
) -> None:
    begun_s = time.monotonic()
    plan, deployment, found = run(kill_seed, chaos_broker, tmp_path)
    tell(summary(plan, deployment, found, time.monotonic() - begun_s))
    told = report(plan, deployment)
    # Shown where the test fails: whom a kill meets at what depends on the machine.
    print(told, file=sys.stderr)
    assert not found, "\n".join([told, *found])


def test_each_seed_kills_all_and_some_between_two_writes() -> None:
    plans = [plan_of(seed) for seed in range(1, 11)]
    for plan in plans:
        assert {kill.role for chain in plan.chains for kill in chain} == {*COMMANDS, "trainer"}
    at_write = {kill.role for plan in plans for chain in plan.chains for kill in chain if kill.write}
    assert at_write == {*COMMANDS, "trainer"}
    assert {(plan.storage, plan.delivery) for plan in plans} == {
        (storage, delivery) for storage in ("folder", "store") for delivery in ("at_least_once", "exactly_once")
    }


def test_a_seed_always_stands_for_the_same_kills() -> None:
    assert str(plan_of(7)) == str(plan_of(7))
    assert len({str(plan_of(seed)) for seed in range(1, 11)}) == 10

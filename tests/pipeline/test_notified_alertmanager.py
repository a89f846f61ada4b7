"""A notifier and an Alertmanager: what is open there is what is open, whoever is started again."""

from collections.abc import Iterator

import pytest

from pipeline.protocols import TopicPartition
from tests.notifying import ALERTS, DOWN, FIRST, UP, World, incidents
from tests.pipeline.stages.test_alerts import alert
from tests.receiving import Hook


@pytest.fixture
def world() -> Iterator[World]:
    with Hook() as hook:
        yield World(hook)


def test_after_a_restart_an_alertmanager_is_told_of_what_is_open(world: World) -> None:
    world.publish(*incidents("a", "b", "c"))
    notifier = world.notifier(manager=True)
    notifier.step()
    assert world.firing() == [("a", True), ("b", True), ("c", True)]
    world.publish(alert(incident="b", state="resolved", offset=9))
    notifier.step()
    assert world.firing() == [("b", False)]
    world.publish(alert(incident="c", state="resolved", offset=10), alert(incident="d", offset=11))
    again = world.notifier(manager=True)
    again.step()
    # First what is new, then all that is open.
    assert [request.json[0]["labels"]["incident"] for request in world.hook.requests[-2:]] == ["c", "a"]
    assert world.firing() == [("a", True), ("d", True)]
    assert list(again.missing()) == []


def test_an_alertmanager_is_told_again_every_minute(world: World) -> None:
    world.publish(*incidents("a"))
    notifier = world.notifier(manager=True)
    for _ in range(10):
        notifier.step()
    told = len(world.hook.requests)
    for _ in range(10):
        world.now_s += 30
        notifier.step()
    assert len(world.hook.requests) == told + 5
    assert world.firing() == [("a", True)]


def test_a_new_alertmanager_is_told_only_of_what_is_open_at_the_end(world: World) -> None:
    world.poll_records = 2
    world.publish(*incidents("a", "b", "c"))
    world.publish(*(alert(incident=each, state="resolved", offset=9) for each in "ac"))
    notifier = world.notifier(manager=True, start="latest")
    for _ in range(8):
        notifier.step()
    assert world.hook.requests == []
    assert sorted(notifier.missing())[0] == "alerts/0: what is open is still being read"
    world.now_s += 3
    notifier.step()
    assert world.firing() == [("b", True)]
    assert world.broker.committed == {FIRST: 5, TopicPartition(ALERTS, 1): 0}
    assert list(notifier.missing()) == []


def test_an_alertmanager_that_was_down_hears_all_when_it_is_back(world: World) -> None:
    world.publish(*incidents("a"))
    notifier = world.notifier(manager=True, retry_for_s=1.0)
    notifier.step()
    world.hook.usual = DOWN
    world.publish(alert(incident="a", state="resolved", offset=9), *incidents("b"))
    for _ in range(10):
        world.now_s += 100
        notifier.step()
    world.hook.usual = UP
    world.now_s += 100
    notifier.step()
    assert world.letters() == []
    assert world.hook.requests[-2].json[0]["labels"]["incident"] == "a"
    assert world.firing() == [("b", True)]

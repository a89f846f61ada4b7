"""One receiver's loop, on a broker in memory and a real server: nothing lost, nothing held up for good."""

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from prometheus_client import REGISTRY

from pipeline.connectors.memory import MemoryPublisher, MemorySource
from pipeline.errors import AssignmentLost, DeliveryError
from pipeline.protocols import Message, TopicPartition
from tests.notifying import ALERTS, DOWN, FIRST, UP, World, incidents
from tests.pipeline.stages.test_alerts import alert
from tests.receiving import Hook, Reply


@pytest.fixture
def world() -> Iterator[World]:
    with Hook() as hook:
        yield World(hook)


def metric(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, {"receiver": "hook", **labels}) or 0.0


def test_alerts_are_told_in_order_and_committed_when_they_are_taken(world: World) -> None:
    world.publish(*incidents("a", "b", "c"))
    before = metric("offkey_notify_alerts_total", outcome="delivered")
    notifier = world.notifier()
    notifier.step()
    assert world.told() == ["a", "b", "c"]
    assert world.broker.committed[FIRST] == 3
    assert metric("offkey_notify_alerts_total", outcome="delivered") - before == 3
    world.notifier().step()
    assert world.told() == ["a", "b", "c"]


def test_a_new_receiver_begins_with_what_comes_from_then_on_and_misses_nothing_of_it(world: World) -> None:
    world.publish(*incidents("old"))
    world.notifier(start="latest").step()
    world.publish(*incidents("while it was down"))
    world.notifier(start="latest").step()
    assert world.told() == ["while it was down"]


def test_of_a_partition_that_was_added_the_first_alert_is_told(world: World) -> None:
    world.notifier(start="latest").step()
    world.broker.topics[ALERTS].append([])
    world.publish(*incidents("new"), partition=2)
    world.notifier(start="latest").step()
    assert world.told() == ["new"]


def test_one_that_is_down_is_tried_again_later_and_later(world: World) -> None:
    world.publish(*incidents("a", "b"))
    world.hook.usual = DOWN
    notifier = world.notifier()
    waits = []
    for _ in range(9):
        notifier.step()
        tries, before_s = len(world.hook.requests), world.now_s
        while len(world.hook.requests) == tries:
            world.now_s += 0.25
            notifier.step()
        waits.append(world.now_s - before_s)
    assert waits[:3] == [0.5, 1.0, 2.0]
    assert max(waits) <= 60.5
    assert "hook" not in notifier.trouble
    assert "answers 503" in notifier.trouble


def test_it_goes_on_where_it_was_when_the_receiver_is_back(world: World) -> None:
    world.publish(*incidents("a", "b", "c"))
    world.hook.replies = [UP, DOWN, DOWN]
    notifier = world.notifier()
    notifier.step()
    assert world.broker.committed[FIRST] == 1
    assert notifier.waiting == 2
    for _ in range(10):
        world.now_s += 1
        notifier.step()
    assert world.told() == ["a", "b", "b", "b", "c"]
    assert world.broker.committed[FIRST] == 3
    assert (notifier.trouble, world.letters()) == ("", [])


def test_while_it_is_down_no_more_than_one_poll_is_held(world: World) -> None:
    world.poll_records = 10
    world.hook.usual = DOWN
    world.publish(*incidents(*(f"{number}" for number in range(100))))
    notifier = world.notifier(retry_for_s=1e9)
    for _ in range(20):
        world.now_s += 100
        notifier.step()
    assert notifier.waiting == 10
    world.hook.usual = UP
    for _ in range(20):
        world.now_s += 100
        notifier.step()
    assert list(dict.fromkeys(world.told())) == [f"{number}" for number in range(100)]
    assert world.broker.committed[FIRST] == 100


def test_it_is_left_alone_for_as_long_as_it_asks(world: World) -> None:
    world.publish(*incidents("a"))
    world.hook.replies = [Reply(429, {"Retry-After": "30"})]
    notifier = world.notifier()
    notifier.step()
    world.now_s += 29
    notifier.step()
    assert len(world.hook.requests) == 1
    world.now_s += 2
    notifier.step()
    assert len(world.hook.requests) == 2
    assert notifier.waiting == 0


def test_what_is_refused_for_good_is_a_dead_letter_and_holds_up_nothing(world: World) -> None:
    world.publish(*incidents("a", "b", "c"))
    world.hook.replies = [UP, Reply(400, body=b"no such \x1b[31mchannel")]
    world.notifier().step()
    assert world.told() == ["a", "b", "c"]
    ((receiver, reason, text),) = world.letters()
    assert (receiver, reason) == ("hook", "refused")
    assert text.startswith("the receiver refuses the alert for good: 127.0.0.1:")
    assert text.endswith("answers 400: no such \\x1b[31mchannel")
    assert world.broker.committed[FIRST] == 3


@pytest.mark.parametrize("status", [408, 429, 500, 502, 301, 999])
def test_what_another_try_may_change_is_no_dead_letter(status: int, world: World) -> None:
    world.publish(*incidents("a"))
    world.hook.replies = [Reply(status)]
    notifier = world.notifier()
    notifier.step()
    world.now_s += 10
    notifier.step()
    assert (world.told(), world.letters()) == (["a", "a"], [])


def test_an_alert_that_is_never_taken_is_given_up_and_the_next_has_its_turn(world: World) -> None:
    world.publish(*incidents("poison", "b"))
    world.hook.replies = [DOWN] * 8
    notifier = world.notifier(retry_for_s=60.0)
    for _ in range(30):
        world.now_s += 10
        notifier.step()
    assert [receiver_reason[:2] for receiver_reason in world.letters()] == [("hook", "given_up")]
    assert "answers 503" in world.letters()[0][2]
    assert world.told()[-1] == "b"
    assert world.broker.committed[FIRST] == 2


def test_a_redirect_to_another_host_is_told_and_nothing_is_lost(world: World) -> None:
    world.publish(*incidents("a"))
    with Hook() as stranger:
        world.hook.replies = [Reply(307, {"Location": f"{stranger.url}/secret-path"})]
        notifier = world.notifier()
        notifier.step()
        assert f"a redirect to 127.0.0.1:{stranger.port}, which is not followed; set the `url`" in notifier.trouble
        assert "secret-path" not in notifier.trouble
        world.now_s += 10
        notifier.step()
        assert (len(stranger.requests), world.told(), world.letters()) == (0, ["a", "a"], [])


def test_what_is_no_alert_is_a_dead_letter(world: World) -> None:
    odd = (msgspec.json.encode(each) for each in (alert(opened_ms=-1), alert(event_ms=10**18)))
    for value in (b"no alert", None, b'{"incident": "x"}', *odd):
        world.broker.append(ALERTS, value)
    world.publish(*incidents("a"))
    world.notifier().step()
    assert world.told() == ["a"]
    assert [reason for _, reason, _ in world.letters()] == ["unreadable"] * 5


@pytest.mark.parametrize("where", ["send", "flush"])
def test_letters_that_are_not_confirmed_are_sent_again_before_anything_is_committed(
    where: str, world: World
) -> None:
    class Failing(MemoryPublisher):
        fails = 1

        def _fail(self, here: str) -> None:
            if self.fails and here == where:
                self.fails -= 1
                self._sent.clear()
                raise DeliveryError("not confirmed")

        def send(self, message: Message) -> None:
            self._fail("send")
            super().send(message)

        def flush(self, timeout_s: float) -> None:
            self._fail("flush")
            super().flush(timeout_s)

    world.publisher = Failing(world.broker)
    world.publish(*incidents("a", "b"))
    world.hook.usual = Reply(400)
    notifier = world.notifier()
    with pytest.raises(DeliveryError):
        notifier.step()
    assert FIRST not in world.broker.committed
    notifier.step()
    assert len(world.letters()) == 2
    assert world.broker.committed[FIRST] == 2


def test_a_partition_that_is_lost_is_told_by_whom_it_went_to(world: World) -> None:
    world.publish(*incidents("a"))
    world.publish(*incidents("b"), partition=1)
    world.hook.usual = DOWN
    notifier = world.notifier()
    notifier.step()
    assert notifier.waiting == 2
    other = MemorySource(world.broker, [ALERTS])
    world.hook.usual = UP
    world.now_s += 10
    notifier.step()
    assert world.told()[-1] == "a"
    assert world.broker.committed == {FIRST: 1, TopicPartition(ALERTS, 1): 0}
    other.close()
    notifier.step()
    assert world.told()[-1] == "b"


def test_what_was_held_back_goes_on_when_another_partition_has_begun_anew(world: World) -> None:
    world.publish(*incidents("b"), partition=1)
    world.hook.usual = DOWN
    notifier = world.notifier()
    for _ in range(2):
        notifier.step()
    MemorySource(world.broker, [ALERTS]).close()
    world.hook.usual = UP
    world.publish(*incidents("a"))
    world.now_s += 10
    for _ in range(3):
        notifier.step()
    assert set(world.told()[-2:]) == {"a", "b"}


def test_a_commit_that_is_refused_makes_it_begin_at_the_committed_offset(world: World) -> None:
    world.publish(*incidents("a"))
    notifier = world.notifier()
    members = world.broker.members[:]
    world.broker.members.clear()
    with pytest.raises(AssignmentLost):
        notifier.step()
    world.broker.members.extend(members)
    notifier.step()
    assert world.told() == ["a", "a"]
    assert world.broker.committed[FIRST] == 1


def test_alerts_that_expired_are_counted_and_the_first_there_is_follows(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.publish(*incidents("a", "b", "c", "d"))
    world.broker.committed[FIRST], world.broker.begin[FIRST] = 1, 3
    before = metric("offkey_notify_offsets_lost_total")
    world.notifier(start="latest").step()
    assert world.told() == ["d"]
    assert metric("offkey_notify_offsets_lost_total") - before == 2
    assert "2 alerts were not told" in caplog.text


def test_a_turn_sends_for_so_long_and_stays_in_the_group(world: World) -> None:
    world.publish(*incidents("a", "b", "c"))
    notifier = world.notifier(turn_s=1.0)
    receiver, send = notifier.receiver, notifier.receiver.send

    def slow(told: Any) -> Any:
        world.now_s += 0.6
        return send(told)

    receiver.send = slow  # type: ignore[method-assign]
    notifier.step()
    assert (world.told(), world.broker.committed[FIRST]) == (["a", "b"], 2)
    notifier.step()
    assert (world.told(), world.broker.committed[FIRST]) == (["a", "b", "c"], 3)

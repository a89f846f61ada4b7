"""The probes: what they say of a worker that starts, works, waits, restores, is stuck or stops."""

import http.client
import json
from collections.abc import Callable
from typing import Any, cast

import pytest

from pipeline.connectors.door import Door
from pipeline.endpoint import serve
from pipeline.errors import ConfigError, TransientError
from pipeline.health import Health
from pipeline.metrics_settings import MetricsSettings
from pipeline.stopping import Stop
from pipeline.worker import Worker, WorkerOptions
from tests.streams import Bench, drain, series_payloads

Ask = Callable[..., tuple[int, Any]]
OPEN = Door(MetricsSettings())
"""Lets everybody in."""


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def health(clock: Clock) -> Health:
    return Health(60.0, clock)


@pytest.fixture
def port(health: Health) -> int:
    return serve("127.0.0.1", 0, health, OPEN)


@pytest.fixture
def ask(port: int) -> Ask:
    def asked(path: str, method: str = "GET") -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request(method, path)
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        return answer.status, json.loads(text) if text and path != "/metrics" else text

    return asked


def run_steps(worker: Worker, steps: int, within: Callable[[], None] = lambda: None) -> None:
    """Run the loop for so many steps, the last of which sets the stop."""
    stop, step, left = Stop(), worker.step, iter(range(steps - 1))

    def counted() -> int:
        if next(left, None) is None:
            stop.set()
        try:
            return step()
        finally:
            within()

    worker.step = counted  # type: ignore[method-assign]
    worker.run(stop)


def test_who_starts_is_alive_and_not_ready(ask: Ask, clock: Clock) -> None:
    assert ask("/healthz") == (200, {"alive": True, "last_turn_s": 0.0, "limit_s": 60.0, "why": []})
    assert ask("/readyz") == (503, {"ready": False, "why": ["starting: models and cluster are waited for"]})
    clock.now_s += 61
    assert ask("/healthz")[0] == 503


def test_who_works_is_ready_and_who_is_stuck_is_neither(ask: Ask, health: Health, clock: Clock) -> None:
    bench = Bench()
    bench.fill(series_payloads(10))
    health.worker = bench.worker()
    health.worker.clock = clock
    status, facts = ask("/readyz")
    assert (status, facts["why"]) == (503, ["no member of the group yet, or its coordinator does not answer"])
    drain(health.worker)
    assert ask("/readyz") == (
        200,
        {
            "ready": True,
            "why": [],
            "models": {"machines": "v1", "payments": "v1"},
            "partitions_assigned": 3,
            "partitions_restored": 3,
        },
    )
    health.worker.turned_s = clock.now_s
    clock.now_s += 61
    status, facts = ask("/healthz")
    assert (status, facts["alive"]) == (503, False)
    assert facts["why"] == ["the loop has not turned for 61 s, and may take 60 s"]
    assert ask("/readyz") == (503, {**ask("/readyz")[1], "ready": False, "why": facts["why"]})


def test_who_waits_for_the_broker_is_alive_and_says_why_it_is_not_ready(ask: Ask, health: Health) -> None:
    bench = Bench()
    bench.fill(series_payloads(10))
    worker = health.worker = bench.worker()
    drain(worker)

    class Away:
        def __getattr__(self, name: str) -> Any:
            raise TransientError("no answer; is the broker running?")

    worker.source = cast(Any, Away())
    answers: list[tuple[int, Any]] = []
    run_steps(worker, 3, lambda: answers.extend([ask("/healthz"), ask("/readyz")]))
    assert {status for status, _ in answers[::2]} == {200}
    assert answers[3][0] == 503
    assert "trying again: no answer; is the broker running?" in answers[3][1]["why"]
    assert "stopping" in ask("/readyz")[1]["why"]


def test_ready_is_after_the_replay(ask: Ask, health: Health) -> None:
    bench = Bench(partitions=1, options=WorkerOptions("alerts", "dead", poll_timeout_s=0, checkpoint_every_s=1e9))
    bench.fill(series_payloads(25))
    drain(bench.worker())
    bench.broker.members.clear()
    worker = health.worker = bench.worker(max_poll_records=60)
    worker.step()
    assert ask("/readyz")[1]["why"] == ["metrics/0: replays 40 records to restore its state"]
    worker.step()
    assert ask("/readyz")[0] == 200


def test_a_partition_without_its_state_is_named(ask: Ask, health: Health, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(partitions=1)
    worker = health.worker = bench.worker()

    def away(*_: object) -> None:
        raise TransientError("storage is away")

    monkeypatch.setattr(bench.checkpoints, "newest", away)
    with pytest.raises(TransientError):
        worker.step()
    assert "metrics/0: its state is not restored yet" in ask("/readyz")[1]["why"]


def test_a_member_without_partitions_is_ready(ask: Ask, health: Health) -> None:
    bench = Bench(partitions=1)
    first, spare = bench.worker(), bench.worker()
    health.worker = spare
    for _ in range(2):
        first.step()
        spare.step()
    status, facts = ask("/readyz")
    assert (status, facts["partitions_assigned"]) == (200, 0)


def test_metrics_stand_beside_them_and_other_paths_are_not_found(ask: Ask, port: int, health: Health) -> None:
    status, text = ask("/metrics")
    assert status == 200
    assert b"# TYPE offkey_lag_records gauge" in text
    assert ask("/healthz", "HEAD") == (200, b"")
    for path in ("/", "/metricsx", "/healthz/", "/favicon.ico"):
        assert ask(path) == (404, {"paths": ["/metrics", "/healthz", "/readyz"]})
    assert ask("/healthz", "POST")[0] == 405
    with pytest.raises(ConfigError, match=rf"metrics: cannot listen on 127\.0\.0\.1:{port} .* set `metrics\.host`"):
        serve("127.0.0.1", port, health, OPEN)
    with pytest.raises(ConfigError, match=r"cannot listen on nowhere\.invalid:0"):
        serve("nowhere.invalid", 0, health, OPEN)


def test_they_are_served_on_the_other_family_too(health: Health) -> None:
    try:
        port = serve("::1", 0, health, OPEN)
    except ConfigError:
        pytest.skip("this machine has no loopback of IPv6; run where it has")
    connection = http.client.HTTPConnection("::1", port, timeout=5)
    connection.request("GET", "/healthz")
    assert connection.getresponse().status == 200
    connection.close()

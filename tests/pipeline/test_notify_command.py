"""`offkey notify` as its users run it: real brokers, a real Alertmanager asked by amtool, servers on loopback."""

import base64
import hashlib
import hmac
import json
import signal
import socket
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient
from kafka.admin import ACLOperation, ResourceType

from pipeline.connectors.connection import Connection
from pipeline.connectors.embedded import free_port
from pipeline.connectors.kafka import KafkaCluster, KafkaPublisher
from pipeline.stages.alerts import Alert, FeatureView, message
from tests.brokers import forbid
from tests.commands import Running, committed, configured, events, offkey, only_line, wait_for
from tests.pipeline.receivers.test_wording import HOSTILE
from tests.pipeline.stages.test_alerts import alert
from tests.receiving import AlertmanagerProcess, Hook, Reply


class Deployed:
    """Topics on a broker, and a configuration that names receivers."""

    def __init__(self, folder: Path, broker: str, unique: Callable[[str], str], **receivers: Any) -> None:
        self.broker, self.connection = broker, Connection(broker)
        self.alerts, self.letters, self.group = unique("alerts"), unique("letters"), unique("group")
        self.port = free_port()
        with closing(KafkaCluster(self.connection)) as cluster:
            cluster.create_topics({self.alerts: 1, self.letters: 1})
        self.config = configured(
            folder,
            broker,
            kafka={
                "bootstrap_servers": broker,
                "group_id": self.group,
                "session_timeout": 6,
                "max_poll_interval": 6,
            },
            topics={"alerts": self.alerts, "dead_letters": self.letters},
            notify={"port": self.port, "receivers": receivers},
        )

    def publish(self, *said: Alert) -> None:
        with closing(KafkaPublisher(self.connection)) as publisher:
            for each in said:
                publisher.send(message(each, self.alerts))
            publisher.flush(30)

    def done(self, receiver: str) -> int:
        return committed(self.broker, f"{self.group}-notify-{receiver}").get(self.alerts, 0)

    def ask(self, path: str) -> tuple[int, Any]:
        """Return the status and what is answered; 0 where nobody listens."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                text, status = answer.read().decode(), answer.status
        except urllib.error.HTTPError as error:
            text, status = error.read().decode(), error.code
        except OSError:
            return 0, {}
        return status, text if path == "/metrics" else json.loads(text)

    @contextmanager
    def notifying(self, log_level: str = "warning", ready: bool = True) -> Iterator[Running]:
        with Running(self.config, log_level, "notify") as running:
            if ready:
                wait_for(lambda: self.ask("/readyz")[0] == 200, running)
            yield running


def numbered(first: int, last: int, **changes: Any) -> list[Alert]:
    return [alert(incident=f"{number:032x}", offset=number, **changes) for number in range(first, last)]


@pytest.mark.timeout(400)
def test_the_same_incidents_are_open_whoever_is_started_again(
    any_broker: str, unique: Callable[[str], str], tmp_path: Path
) -> None:
    def open_there() -> set[tuple[str, str]]:
        return {(each["labels"]["series"], each["labels"]["severity"]) for each in manager.firing()}

    with AlertmanagerProcess(tmp_path) as manager:
        deployed = Deployed(
            tmp_path, any_broker, unique, pager={"type": "alertmanager", "url": manager.url, "resend": 1}
        )
        deployed.publish(alert(incident="a", series="before"))
        with deployed.notifying() as running:
            wait_for(lambda: open_there() == {("before", "major")}, running)
            deployed.publish(
                alert(incident="b", series="web-2", severity="minor", offset=2),
                alert(incident="b", series="web-2", severity="critical", offset=3, state="worsened"),
                alert(incident="c", series="web-3", offset=4),
            )
            expected = {("before", "major"), ("web-2", "minor"), ("web-2", "critical"), ("web-3", "major")}
            wait_for(lambda: open_there() == expected, running)
            deployed.publish(alert(incident="c", series="web-3", offset=5, state="resolved"))
            expected.remove(("web-3", "major"))
            wait_for(lambda: open_there() == expected, running)
            manager.stop()
            manager.start()
            assert open_there() <= expected
            wait_for(lambda: open_there() == expected, running)
            running.process.send_signal(signal.SIGKILL)
            running.process.wait(10)
        manager.stop()
        manager.start()
        assert open_there() == set()
        deployed.publish(alert(incident="a", series="before", offset=6, state="accepted"))
        with deployed.notifying() as running:
            wait_for(lambda: open_there() == {("web-2", "minor"), ("web-2", "critical")}, running)
            said = running.end()
            assert running.process.returncode == 0, said


def test_hostile_names_are_open_in_an_alertmanager_and_harmless_there(
    embedded_broker: str, unique: Callable[[str], str], tmp_path: Path
) -> None:
    with AlertmanagerProcess(tmp_path) as manager:
        deployed = Deployed(
            tmp_path, embedded_broker, unique, pager={"type": "alertmanager", "url": manager.url, "resend": 1}
        )
        deployed.publish(
            *(
                alert(
                    incident=f"{number}",
                    offset=number,
                    series=name,
                    fields={name: name},
                    features={name: FeatureView(1, 0, 1)},
                )
                for number, name in enumerate(HOSTILE)
            )
        )
        with deployed.notifying() as running:
            wait_for(lambda: len(manager.firing()) == len(HOSTILE), running)
        found = {each["labels"]["incident"]: each for each in manager.firing()}
        for number, name in enumerate(HOSTILE):
            each = found[f"{number}"]
            for text in (*each["labels"].values(), *each["annotations"].values()):
                assert all(line.isprintable() for line in text.split("\n"))
            if name.isprintable():
                assert each["annotations"]["series"] == name
    assert events(deployed.connection, deployed.letters) == []


@pytest.mark.timeout(400)
def test_one_that_hangs_and_one_that_refuses_hold_up_no_other(
    any_broker: str, unique: Callable[[str], str], tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("not so secret\n")
    with (
        Hook() as good,
        Hook(usual=Reply(hangs=True)) as hanging,
        Hook(usual=Reply(403, body=b"go away")) as refusing,
        Hook(usual=Reply(500)) as broken,
    ):
        common = {"type": "webhook", "start": "earliest", "timeout": 1}
        deployed = Deployed(
            tmp_path,
            any_broker,
            unique,
            good={**common, "url": f"{good.url}/in", "secret_file": str(secret)},
            hanging={**common, "url": hanging.url},
            refusing={**common, "url": refusing.url},
            broken={**common, "url": broken.url},
        )
        deployed.publish(*numbered(0, 50))
        with deployed.notifying(ready=False) as running:
            wait_for(lambda: deployed.done("good") == 50 and deployed.done("refusing") == 50, running)
            deployed.publish(*numbered(50, 100))
            wait_for(lambda: deployed.done("good") == 100 and deployed.done("refusing") == 100, running)
            wait_for(lambda: len(hanging.requests) > 1, running)
            assert (deployed.done("hanging"), deployed.done("broken")) == (0, 0)
            status, facts = deployed.ask("/readyz")
            assert status == 503
            assert any("receiver broken: 127.0.0.1" in why and "answers 500" in why for why in facts["why"])
            assert deployed.ask("/healthz")[0] == 200
            metrics = deployed.ask("/metrics")[1]
            assert 'offkey_notify_alerts_total{outcome="delivered",receiver="good"} 100.0' in metrics
            assert 'offkey_notify_alerts_total{outcome="refused",receiver="refusing"} 100.0' in metrics
            broken.usual = hanging.usual = Reply()
            wait_for(lambda: deployed.done("broken") == 100, running)
            said = running.end()
            assert running.process.returncode == 0, said
        assert "not so secret" not in said
        assert [request.json["data"]["incident"] for request in good.requests] == [
            each.incident for each in numbered(0, 100)
        ]
        for request in good.requests:
            kind, _, signed = request.headers["webhook-signature"].partition(",")
            content = (
                f"{request.headers['webhook-id']}.{request.headers['webhook-timestamp']}.".encode() + request.body
            )
            expected = hmac.new(b"not so secret", content, hashlib.sha256).digest()
            assert (kind, base64.b64decode(signed)) == ("v1", expected)
    listed = offkey("dead-letters", "list", str(deployed.config), "--json", "--examples", "1")
    assert listed.returncode == 0, listed.stderr
    lines = [json.loads(line) for line in listed.stdout.splitlines()]
    (kind_of_letter,) = [line for line in lines if line.get("reason")][:1]
    assert (kind_of_letter["topic"], kind_of_letter["reason"], kind_of_letter["letters"]) == (
        deployed.alerts,
        "refused",
        100,
    )


def test_each_type_is_told_in_its_own_way_and_no_secret_is_said(
    embedded_broker: str, unique: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted = "planted-4711"
    with Hook([Reply(500)]) as chat, Hook([Reply(500)]) as duty, Hook([Reply(500)]) as other:
        (tmp_path / "url").write_text(f"{chat.url}/services/{planted}\n")
        monkeypatch.setenv("OFFKEY_NOTIFY__RECEIVERS__DUTY__ROUTING_KEY", f"{planted}-key")
        monkeypatch.setenv("OFFKEY_NOTIFY__RECEIVERS__OTHER__AUTHORIZATION", f"Bearer {planted}")
        common = {"start": "earliest"}
        deployed = Deployed(
            tmp_path,
            embedded_broker,
            unique,
            chat={**common, "type": "slack", "url_file": str(tmp_path / "url")},
            duty={**common, "type": "pagerduty", "url": duty.url},
            other={**common, "type": "webhook", "url": f"{other.url}/{planted}"},
        )
        deployed.publish(alert())
        with deployed.notifying("info", ready=False) as running:
            names = ("chat", "duty", "other")
            wait_for(lambda: all(deployed.done(name) == 1 for name in names), running)
            metrics = deployed.ask("/metrics")[1]
            ready = deployed.ask("/readyz")[1]
            said = running.end()
            assert running.process.returncode == 0, said
        assert [len(each.requests) for each in (chat, duty, other)] == [2, 2, 2]
        assert chat.requests[1].path == f"/services/{planted}"
        assert chat.requests[1].json["text"].startswith("machines web-1: opened, major")
        assert duty.requests[1].json["routing_key"] == f"{planted}-key"
        assert duty.requests[1].json["event_action"] == "trigger"
        assert other.requests[1].headers["Authorization"] == f"Bearer {planted}"
        assert other.requests[1].json["data"]["incident"] == alert().incident
    assert "receiver chat: 127.0.0.1" in said
    assert planted not in said + metrics + json.dumps(ready)


@pytest.mark.timeout(400)
def test_killed_at_any_moment_every_alert_is_told(
    apache_broker: str, unique: Callable[[str], str], tmp_path: Path
) -> None:
    with Hook() as hook:
        deployed = Deployed(
            tmp_path, apache_broker, unique, hook={"type": "webhook", "url": hook.url, "start": "earliest"}
        )
        for life in range(3):
            deployed.publish(*numbered(1000 * life, 1000 * (life + 1)))
            with deployed.notifying(ready=False) as running:
                told = len(hook.requests)
                wait_for(lambda told=told: len(hook.requests) > told + 100, running)  # type: ignore[misc]
                running.process.send_signal(signal.SIGKILL)
                running.process.wait(10)
        with deployed.notifying(ready=False) as running:
            wait_for(lambda: deployed.done("hook") == 3000, running)
            said = running.end()
            assert running.process.returncode == 0, said
        told_of = [request.json["data"]["incident"] for request in hook.requests]
        assert list(dict.fromkeys(told_of)) == [each.incident for each in numbered(0, 3000)]


def test_a_stop_waits_for_no_receiver_that_hangs(
    embedded_broker: str, unique: Callable[[str], str], tmp_path: Path
) -> None:
    with Hook(usual=Reply(hangs=True)) as hook:
        deployed = Deployed(
            tmp_path,
            embedded_broker,
            unique,
            hook={"type": "webhook", "url": hook.url, "start": "earliest", "timeout": 60},
        )
        settings = json.loads(deployed.config.read_text())
        deployed.config.write_text(json.dumps({**settings, "worker": {"stop_timeout": 3}}))
        deployed.publish(*numbered(0, 1))
        with deployed.notifying(ready=False) as running:
            wait_for(lambda: len(hook.requests) == 1, running)
            said = running.end()
        assert running.process.returncode == 0, said
        assert "receiver hook: still waits for an answer; 1 alerts are not told yet; nothing is lost" in said
    assert deployed.done("hook") == 0


def test_a_group_that_cannot_go_on_ends_the_process(
    apache_broker: str, unique: Callable[[str], str], tmp_path: Path
) -> None:
    """One of two may write no dead letter any more: it ends both, with its reason."""
    with Hook() as good, Hook(usual=Reply(400)) as refusing:
        deployed = Deployed(
            tmp_path,
            apache_broker,
            unique,
            good={"type": "webhook", "url": good.url},
            refusing={"type": "webhook", "url": refusing.url},
        )
        with deployed.notifying() as running:
            with closing(KafkaAdminClient(bootstrap_servers=apache_broker)) as admin:
                forbid(admin, ACLOperation.WRITE, ResourceType.TOPIC, deployed.letters)
            deployed.publish(*numbered(0, 1))
            said = running.process.communicate(timeout=100)[1]
            assert running.process.returncode == 2, said
            assert f"no right to write to topic {deployed.letters}" in said.splitlines()[-1]


def test_what_is_missing_is_one_line(tmp_path: Path) -> None:
    done = offkey("notify", str(configured(tmp_path)))
    assert done.returncode == 2
    assert "notify.receivers is empty; name who is to be told" in only_line(done.stderr)
    hook = {"type": "webhook", "url": "http://127.0.0.1:1"}
    path = configured(tmp_path, notify={"receivers": {"hook": hook}, "port": 0})
    done = offkey("notify", str(path), "hok")
    assert (done.returncode, only_line(done.stderr)) == (2, "there is no receiver 'hok'; did you mean 'hook'?")
    done = offkey("notify", str(path))
    assert (done.returncode, only_line(done.stderr)[:27]) == (1, "Kafka at 127.0.0.1:1: no an")
    path = configured(tmp_path, notify={"receivers": {"a": {"type": "slack", "url_file": "/none"}}, "port": 0})
    done = offkey("notify", str(path))
    assert done.returncode == 2
    assert only_line(done.stderr).startswith("notify.receivers.a.url_file: /none cannot be read")
    secret = tmp_path / "url"
    secret.write_text("hooks.slack.example/planted")
    path = configured(tmp_path, notify={"receivers": {"a": {"type": "slack", "url_file": str(secret)}}, "port": 0})
    done = offkey("notify", str(path))
    assert done.returncode == 2
    assert only_line(done.stderr).startswith(f"notify.receivers.a.url_file: {secret}: that is no address")
    assert "planted" not in done.stderr
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        path = configured(tmp_path, notify={"receivers": {"hook": hook}, "port": taken.getsockname()[1]})
        assert only_line(offkey("notify", str(path)).stderr).endswith("set `metrics.host` and `notify.port`")


def test_a_topic_that_is_not_there_is_one_line(
    embedded_broker: str, unique: Callable[[str], str], tmp_path: Path
) -> None:
    deployed = Deployed(tmp_path, embedded_broker, unique, hook={"type": "webhook", "url": "http://127.0.0.1:1"})
    settings = json.loads(deployed.config.read_text())
    for name in ("alerts", "dead_letters"):
        changed = {**settings, "topics": {**settings["topics"], name: unique("none")}}
        deployed.config.write_text(json.dumps(changed))
        done = offkey("notify", str(deployed.config))
        assert done.returncode == 2
        assert f"topic {unique('none')} is not there" in only_line(done.stderr)

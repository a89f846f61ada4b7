"""offkey on a Kafka that lets in only whom it knows: from records to alerts, and no secret in what is said."""

import hashlib
import json
import signal
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from pipeline.connectors.connection import Connection
from pipeline.connectors.embedded import free_port
from pipeline.connectors.kafka import KafkaCluster
from tests.commands import Running, committed, configured, events, only_line, produce, promote, wait_for
from tests.endpoints import Answer, ask, login
from tests.secured import PASSWORD, PLAIN_PASSWORD, SecuredBroker, token
from tests.streams import SERIES, series_payloads

METRICS_PASSWORD = "planted-metrics-2342"
SECRETS = (PASSWORD, repr(PASSWORD)[1:-1], json.dumps(PASSWORD)[1:-1], "planted", PLAIN_PASSWORD)
LOGIN = login("prometheus", METRICS_PASSWORD)
UNSAID = (LOGIN.removeprefix("Basic "), hashlib.sha256(f"prometheus:{METRICS_PASSWORD}".encode()).hexdigest())


class Secured:
    """A configured stream with a model, its topics on the broker, and a user of its own that is let in."""

    def __init__(self, folder: Path, broker: SecuredBroker, unique: Callable[[str], str]) -> None:
        self.folder, self.broker, self.user = folder, broker, unique("worker")
        self.topic, self.alerts, self.dead, self.group = map(unique, ("metrics", "alerts", "dead", "group"))
        self.open = Connection(broker.open)
        with closing(KafkaCluster(self.open)) as cluster:
            cluster.create_topics({self.topic: 1, self.alerts: 1, self.dead: 1})
        broker.let_in(self.user)
        (folder / "password").write_text(f"{PASSWORD}\n")
        (folder / "metrics").write_text(f"{METRICS_PASSWORD}\n")
        self.certificate = broker.authority.sign(unique("metrics"), ["127.0.0.1"])
        self.config = self.with_security("RENEWED", username=self.user, password_file=str(folder / "password"))
        promote(self.config)

    def with_security(self, listener: str, delivery: str = "at_least_once", **security: Any) -> Path:
        given = {"tls": True, "ca_file": str(self.broker.authority.certificate), "mechanism": "SCRAM-SHA-512"}
        return configured(
            self.folder,
            kafka={
                "bootstrap_servers": self.broker.addresses[listener],
                "group_id": self.group,
                "session_timeout": 10,
                "delivery": delivery,
                "security": {**given, **security},
            },
            topics={"alerts": self.alerts, "dead_letters": self.dead},
            streams={"machines": SERIES.model_dump(mode="json", exclude_unset=True) | {"topic": self.topic}},
            metrics={
                "port": free_port(),
                "certificate_file": str(self.certificate),
                "username": "prometheus",
                "password_file": str(self.folder / "metrics"),
            },
            worker={"checkpoint_every": 0.5, "retry_deadline": 60},
        )

    def told(self, path: str) -> Answer:
        port = json.loads(self.config.read_text())["metrics"]["port"]
        try:
            return ask(port, path, LOGIN, self.broker.authority.certificate)
        except ConnectionError:
            return Answer(0, "")

    def ready(self) -> bool:
        return self.told("/readyz").status == 200

    def reached(self, offset: int) -> bool:
        return committed(self.broker.open, self.group).get(self.topic) == offset


@pytest.fixture
def secured(secured_broker: SecuredBroker, unique: Callable[[str], str], tmp_path: Path) -> Secured:
    return Secured(tmp_path, secured_broker, unique)


def require_unsaid(*texts: str) -> None:
    for text in texts:
        assert not [secret for secret in (*SECRETS, *UNSAID) if secret in text]


@pytest.mark.timeout(200)
def test_a_worker_that_is_shut_out_says_so_and_goes_on_when_let_in(secured: Secured) -> None:
    payloads = series_payloads()
    produce(secured.open, secured.topic, payloads[:400])
    with Running(secured.config, "warning") as running:
        wait_for(lambda: secured.reached(400) and secured.ready(), running)
        secured.broker.shut_out(secured.user)
        lines: list[str] = []
        told = f"user {secured.user}, or its password, by SCRAM-SHA-512 is refused; are the keys of kafka.security"
        assert running.process.stderr is not None
        while not any(told in line for line in lines):
            lines.append(running.process.stderr.readline())
            assert lines[-1], lines
        wait_for(lambda: not secured.ready(), running)
        produce(secured.open, secured.topic, payloads[400:])
        secured.broker.let_in(secured.user)
        wait_for(lambda: secured.reached(800), running)
        said = "".join(lines) + running.end()
        assert running.process.returncode == 0, said
    assert "Traceback" not in said
    assert events(secured.open, secured.alerts)
    require_unsaid(said)


@pytest.mark.timeout(200)
@pytest.mark.parametrize("mechanism", ["PLAIN", "OAUTHBEARER"])
def test_no_secret_is_said_at_level_debug(
    mechanism: str, secured: Secured, run: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden = token("worker")
    (secured.folder / "token").write_text(hidden)
    if mechanism == "OAUTHBEARER":
        config = secured.with_security("SECURE", mechanism=mechanism, token_file=str(secured.folder / "token"))
    else:
        config = secured.with_security("SECURE", "exactly_once", mechanism=mechanism, username="worker")
        monkeypatch.setenv("OFFKEY_KAFKA__SECURITY__PASSWORD", PLAIN_PASSWORD)
    produce(secured.open, secured.topic, series_payloads(20))
    with Running(config, "debug") as running:
        # What it says is more than a pipe holds.
        lines: list[str] = []
        assert running.process.stderr is not None
        reading = threading.Thread(target=lines.extend, args=(running.process.stderr,))
        reading.start()
        wait_for(lambda: secured.reached(80), running)
        metrics, probe = secured.told("/metrics"), secured.told("/readyz")
        running.process.send_signal(signal.SIGTERM)
        running.process.wait(30)
        reading.join()
        said = "".join(lines)
        assert running.process.returncode == 0, said
    assert "kafka.net" in said, "the client says nothing at this level"
    _, printed, errors = run("check", str(config), "--json")
    rows = {row["what"]: row for row in json.loads(printed)}
    assert rows["broker"]["verdict"] == "ok", errors
    assert f"TLS, {mechanism}" in rows["broker"]["found"]
    assert "offkey_records_total" in metrics.text
    texts = (said, metrics.text, str(metrics.headers), probe.text, printed, errors)
    require_unsaid(*texts)
    assert hidden not in "".join(texts)


def test_a_wrong_password_is_one_line_of_every_command(
    secured: Secured, run: Callable[..., tuple[int, str, str]]
) -> None:
    (secured.folder / "password").write_text(f"{PASSWORD}x\n")
    for command in ("worker", "record", "schedule", "train", "dead-letters list"):
        status, printed, errors = run(*command.split(), str(secured.config))
        assert (status, printed) == (1, ""), command
        line = only_line(errors)
        assert f"Kafka at {secured.broker.addresses['RENEWED']}: user {secured.user}, or its password," in line
        require_unsaid(errors)
    status, printed, errors = run("check", str(secured.config), "--json")
    (row,) = [row for row in json.loads(printed) if row["what"] == "broker"]
    assert (status, row["verdict"], row["remedy"]) == (1, "wrong", "are the keys of kafka.security right?")
    require_unsaid(printed, errors)

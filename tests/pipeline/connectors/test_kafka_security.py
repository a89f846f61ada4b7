"""Kafka by TLS and SASL: each way in works, and each way that is wrong is one line, at once."""

import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from kafka.admin import ACLOperation, ResourceType

from pipeline.connectors.connection import Connection
from pipeline.connectors.kafka import KafkaCluster, KafkaPublisher, history
from pipeline.errors import ConfigError, Refused, TransientError
from pipeline.kafka_settings import KafkaSettings
from pipeline.protocols import Message
from tests.certificates import Authority
from tests.secured import PASSWORD, PLAIN_PASSWORD, USER, SecuredBroker, rule, token

NEVER_S = 1000
"""A test that waited for it would be ended before."""


@pytest.fixture
def connect(secured_broker: SecuredBroker, tmp_path: Path) -> Callable[..., Connection]:
    """Make a connection to a listener from the settings of `kafka.security`, secrets in files."""

    def made(listener: str, timeout_s: float = NEVER_S, **security: Any) -> Connection:
        for key, content in security.items():
            if key in ("password_file", "token_file", "key_password_file") and not Path(content).exists():
                security[key] = str(tmp_path / key)
                (tmp_path / key).write_text(f"{content}\n")
        if security.get("tls"):
            security = {"ca_file": str(secured_broker.authority.certificate), **security}
        servers = secured_broker.addresses.get(listener, secured_broker.open)
        settings = {"bootstrap_servers": servers, "connect_timeout": timeout_s, "security": security}
        return Connection.of(KafkaSettings.model_validate(settings))

    return made


WAYS: dict[str, dict[str, Any]] = {
    "PLAIN": {"username": "worker", "password_file": PLAIN_PASSWORD},
    "SCRAM-SHA-256": {"username": USER, "password_file": PASSWORD},
    "SCRAM-SHA-512": {"username": USER, "password_file": PASSWORD},
    "OAUTHBEARER": {"token_file": token()},
}


@pytest.mark.parametrize("mechanism", WAYS)
def test_each_mechanism_lets_in(
    mechanism: str, connect: Callable[..., Connection], unique: Callable[[str], str]
) -> None:
    connection, topic = connect("SECURE", tls=True, mechanism=mechanism, **WAYS[mechanism]), unique("in")
    with closing(KafkaCluster(connection)) as cluster:
        cluster.create_topics({topic: 1})
    with closing(KafkaPublisher(connection)) as publisher:
        publisher.send(Message(topic, b"key", b"value"))
        publisher.flush(30)
    (read,) = [each for arrived in history(connection, topic, 10) for each in arrived.records]
    assert read.value == b"value"


def test_a_certificate_of_our_own_lets_in(
    secured_broker: SecuredBroker, connect: Callable[..., Connection]
) -> None:
    own = secured_broker.authority.sign("worker", ["worker"], password="of the key")
    connection = connect("MUTUAL", tls=True, certificate_file=str(own), key_password_file="of the key")
    with closing(KafkaCluster(connection)) as cluster:
        assert not cluster.has("none")


SCRAM = {"tls": True, "mechanism": "SCRAM-SHA-256", **WAYS["SCRAM-SHA-256"]}


@pytest.mark.parametrize(
    ("listener", "security", "said"),
    [
        (
            "SECURE",
            SCRAM | {"password_file": "wrong"},
            f"user {USER.replace('=', '=3D').replace(',', '=2C')}, or its",
        ),
        ("SECURE", SCRAM | {"username": "nobody"}, "user nobody, or its password, by SCRAM-SHA-256 is refused"),
        ("SECURE", SCRAM | WAYS["PLAIN"] | {"mechanism": "PLAIN", "password_file": "wrong"}, "user worker, or its"),
        (
            "SECURE",
            {"tls": True, "mechanism": "OAUTHBEARER", "token_file": token(lasts_s=-3600)},
            "the token by OAU",
        ),
        ("SECURE", {"tls": True, "mechanism": "OAUTHBEARER", "token_file": "none at all"}, "the token by OAUTHBE"),
        ("SECURE", SCRAM | {"ca_file": "wrong"}, "its certificate is not trusted (unable to get local issuer"),
        ("SECURE", SCRAM | {"ca_file": None}, "its certificate is not trusted (unable to get local issuer"),
        ("EXPIRED", {"tls": True}, "its certificate has expired; have it renewed"),
        (
            "OTHER",
            {"tls": True},
            "its certificate is for another host (Hostname mismatch, certificate is not valid",
        ),
        ("MUTUAL", {"tls": True}, "our certificate is refused ("),
        ("SECURE", {}, "it answers as one that wants TLS; set kafka.security.tls, or name its port without"),
        ("open", SCRAM | {"tls": False}, "it asks for no user; take kafka.security.mechanism out"),
        ("MUTUAL", SCRAM | {"certificate_file": "own"}, "it asks for no user; take kafka.security.mechanism out"),
    ],
)
def test_what_is_refused_is_a_line_at_once(
    listener: str,
    security: dict[str, Any],
    said: str,
    secured_broker: SecuredBroker,
    connect: Callable[..., Connection],
) -> None:
    files = {"wrong": secured_broker.wrong_ca, "own": secured_broker.authority.sign("own", ["worker"])}
    for key in ("ca_file", "certificate_file"):
        if security.get(key):
            security = security | {key: str(files[security[key]])}
    with pytest.raises(Refused) as raised:
        KafkaCluster(connect(listener, **security))
    text = str(raised.value)
    where = secured_broker.addresses.get(listener, secured_broker.open)
    assert text.startswith(f"Kafka at {where}: {said}"), text
    assert "; " in text
    assert "\n" not in text
    assert "wrong" not in text


@pytest.mark.parametrize(("listener", "security"), [("open", {"tls": True}), ("SECURE", {"tls": True})])
def test_a_broker_that_only_hangs_up_is_waited_for(
    listener: str, security: dict[str, Any], connect: Callable[..., Connection]
) -> None:
    with pytest.raises(TransientError, match=r"it hangs up at once; .*another kafka.security: TLS or none"):
        KafkaCluster(connect(listener, timeout_s=1, **security))


def test_one_address_that_refuses_leaves_the_others(
    secured_broker: SecuredBroker, connect: Callable[..., Connection]
) -> None:
    addresses = secured_broker.addresses
    given = connect("SECURE", **SCRAM)
    several = Connection(f"{addresses['EXPIRED']},{given.bootstrap_servers}", security=given.security)
    for _ in range(3):
        KafkaCluster(several).close()


def test_a_token_is_read_at_each_login(connect: Callable[..., Connection], tmp_path: Path) -> None:
    connection = connect("SECURE", tls=True, mechanism="OAUTHBEARER", token_file=token(lasts_s=-3600))
    file = tmp_path / "token_file"
    with pytest.raises(Refused, match="the token by OAUTHBEARER is refused; are the keys"):
        KafkaCluster(connection)
    file.write_text(token())
    KafkaCluster(connection).close()
    file.unlink()
    with pytest.raises(Refused, match=rf"kafka.security.token_file: {file} cannot be read \(No such file"):
        KafkaCluster(connection)


def test_a_token_is_read_when_the_broker_wants_another_one_in_between(
    connect: Callable[..., Connection], tmp_path: Path
) -> None:
    connection = connect("RENEWED", tls=True, mechanism="OAUTHBEARER", token_file=token())
    deadline_s, pause = time.monotonic() + 30, threading.Event()
    with closing(KafkaCluster(connection)) as cluster:

        def answers(wanted: str) -> bool:
            """Ask until what is said begins so, or time is over."""
            said = None
            while said is None or (not said.startswith(wanted) and time.monotonic() < deadline_s):
                pause.wait(0.1)
                try:
                    said = str(cluster.has("none"))
                except TransientError as error:
                    said = str(error)
            return said.startswith(wanted)

        assert answers("False")
        (tmp_path / "token_file").write_text(token(lasts_s=-3600))
        assert answers("topic none: the user, its password or its token is refused; are the keys of kafka.security")
        (tmp_path / "token_file").write_text(token())
        assert answers("False")


def test_a_producer_that_was_let_in_before_is_refused_for_a_while_only(
    secured_broker: SecuredBroker, connect: Callable[..., Connection]
) -> None:
    connection = connect("SECURE", **SCRAM | {"username": "leaver"})
    secured_broker.let_in("leaver")
    with closing(KafkaPublisher(connection)) as publisher:
        publisher.discard()
        secured_broker.shut_out("leaver")
        with pytest.raises(
            TransientError, match="user leaver, or its password, by SCRAM-SHA-256 is refused; are the"
        ):
            publisher.producer()
        secured_broker.let_in("leaver")
        publisher.producer()


def test_who_may_write_to_no_topic_is_told_so(
    secured_broker: SecuredBroker, connect: Callable[..., Connection], unique: Callable[[str], str]
) -> None:
    """The broker refuses it as a producer, and names no topic."""
    topic = unique("in")
    with closing(KafkaCluster(connect("open"))) as cluster:
        cluster.create_topics({topic: 1})
    secured_broker.let_in("reader", with_all_rights=False)
    secured_broker.grant([rule("reader", ResourceType.TOPIC, topic, ACLOperation.READ)])
    with closing(KafkaPublisher(connect("SECURE", **SCRAM | {"username": "reader"}))) as publisher:
        publisher.send(Message(topic, b"key", b"value", origin="in/0@3"))
        with pytest.raises(
            ConfigError, match=f"^in/0@3: no right to write to any topic, {topic} neither; grant it"
        ):
            publisher.flush(30)


@pytest.mark.parametrize(
    ("security", "said"),
    [
        ({"ca_file": "none"}, "ca_file: {none} cannot be read (No such file or directory)"),
        ({"ca_file": "text"}, "ca_file: {text} holds no certificate; name a file in PEM"),
        ({"certificate_file": "none"}, "certificate_file: {none} cannot be read (No such file or directory)"),
        ({"certificate_file": "own", "key_file": "none"}, "key_file: {none} cannot be read (No such file"),
        ({"certificate_file": "text"}, "certificate_file: {text}: no certificate with its key can be read from"),
        ({"certificate_file": "own", "key_file": "other"}, "key_file: {other} is not the key of {own}"),
        (
            {"certificate_file": "locked"},
            "certificate_file: {locked} is encrypted; name a file with its password as",
        ),
        ({"certificate_file": "locked", "key_password_file": "text"}, "certificate_file: {locked}: no certificate"),
        ({"certificate_file": "locked", "key_password_file": "none"}, "key_password_file: {none} cannot be read"),
        ({"mechanism": "PLAIN", "username": "a", "password_file": "none"}, "password_file: {none} cannot be read"),
        (
            {"mechanism": "PLAIN", "username": "a", "password_file": "empty"},
            "password_file: {empty} holds no line of",
        ),
        ({"mechanism": "OAUTHBEARER", "token_file": "none"}, "token_file: {none} cannot be read"),
    ],
)
def test_a_file_that_is_not_what_it_should_be_is_a_line(
    security: dict[str, str], said: str, tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    files = {
        "own": authority.sign("own", ["worker"]),
        "other": authority.sign("another", ["worker"]),
        "locked": authority.sign("locked", ["worker"], password="of the key"),
        "none": tmp_path / "none",
        "text": tmp_path / "text",
        "empty": tmp_path / "empty",
    }
    files["text"].write_text("just text\n")
    files["empty"].write_text("")
    named = {key: str(files.get(name, name)) for key, name in security.items()}
    settings = KafkaSettings.model_validate({"security": {"tls": True, **named}})
    with pytest.raises(ConfigError) as raised:
        Connection.of(settings)
    assert str(raised.value).startswith(f"kafka.security.{said.format(**files)}")
    assert "; " in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_connection_shows_no_secret(connect: Callable[..., Connection]) -> None:
    connection = connect("SECURE", **SCRAM)
    assert connection.options()["sasl_plain_password"] == PASSWORD
    assert "planted" not in f"{connection!r} {connection} {connection.options()}"

"""When certificates expire: read as another library reads it, told by the metric, and said in time."""

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pipeline import metrics
from pipeline.connectors.door import Door
from pipeline.connectors.expiry import WARNED_S, Expiry, expires
from pipeline.endpoint import serve
from pipeline.errors import ConfigError
from pipeline.health import Health
from pipeline.metrics_settings import MetricsSettings
from tests.certificates import Authority
from tests.commands import configured, offkey
from tests.endpoints import ask
from tests.receiving import until

UNTIL = datetime(2031, 5, 6, 7, 8, 9, tzinfo=UTC)
DAY_S = 86_400.0
_PEM = "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def certificate(authority: Authority) -> Path:
    return authority.sign("own", ["127.0.0.1"], until=UNTIL)


@pytest.fixture(autouse=True)
def _none_told() -> None:
    metrics.CERTIFICATE_EXPIRES.clear()


def told() -> dict[str, float]:
    """Return what the metric tells, by section."""
    (family,) = metrics.CERTIFICATE_EXPIRES.collect()
    return {each.labels["section"]: each.value for each in family.samples}


@pytest.mark.parametrize(
    "date",
    [
        datetime(1951, 1, 2, 3, 4, 5, tzinfo=UTC),
        datetime(1999, 12, 31, 23, 59, 59, tzinfo=UTC),
        datetime(2000, 2, 29, 12, 0, 0, tzinfo=UTC),
        UNTIL,
        datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC),
        datetime(2050, 1, 1, 0, 0, 0, tzinfo=UTC),
        datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC),
    ],
)
def test_the_date_is_the_one_that_was_written(authority: Authority, date: datetime) -> None:
    """Up to 2049 in two digits, later in four."""
    assert expires(authority.sign("dated", ["a"], until=date).read_bytes()) == date.timestamp()


def test_of_several_the_first_to_expire_counts(authority: Authority, certificate: Path) -> None:
    sooner = authority.sign("sooner", ["a"], until=UNTIL - timedelta(days=3))
    for order in ([certificate, sooner], [sooner, certificate]):
        chain = b"".join(each.read_bytes() for each in order)
        assert expires(chain) == (UNTIL - timedelta(days=3)).timestamp()


@pytest.mark.parametrize("label", [b"X509 CERTIFICATE", b"TRUSTED CERTIFICATE"])
def test_other_names_of_a_certificate_are_known(certificate: Path, label: bytes) -> None:
    """OpenSSL takes them, too."""
    named = certificate.read_bytes().replace(b" CERTIFICATE-", b" " + label + b"-")
    assert expires(named) == UNTIL.timestamp()


def test_what_is_none_is_said_and_stops_nothing(
    certificate: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    key, _, body = certificate.read_text().partition("-----BEGIN CERTIFICATE-----\n")
    wrong = [key, *(_PEM.format(each) for each in (body[:40], "not base 64", ""))]
    expiry, path = Expiry(), tmp_path / "wrong.pem"
    for number, content in enumerate(wrong, 1):
        # What was known of the one before is not true of this one.
        expiry.note("metrics", str(certificate))
        path.write_text(content)
        expiry.note("metrics", str(path))
        assert len(caplog.records) == number
        assert f"metrics.certificate_file: when {path} expires is not known: " in caplog.text
    expiry.look(1e12)
    assert len(caplog.records) == len(wrong)
    assert told() == {}


def test_it_is_said_from_two_weeks_before_on(certificate: Path, caplog: pytest.LogCaptureFixture) -> None:
    expiry = Expiry()
    expiry.note("kafka.security", str(certificate))
    assert told() == {"kafka.security": UNTIL.timestamp()}
    expiry.look(UNTIL.timestamp() - WARNED_S)
    assert caplog.records == []
    expiry.look(UNTIL.timestamp() - WARNED_S + 1)
    expiry.look(UNTIL.timestamp() - 1.5 * DAY_S)
    expiry.look(UNTIL.timestamp())
    begin, end = f"kafka.security.certificate_file: {certificate} ", " 2031-05-06 07:08 UTC"
    rest = "; renew it there and start this process again, which reads it once"
    assert [record.getMessage() for record in caplog.records] == [
        f"{begin}expires at{end}, in 14.0 days{rest}",
        f"{begin}expires at{end}, in 1.5 days{rest}",
        f"{begin}has expired at{end}{rest}",
    ]
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


def test_it_is_said_at_the_start_and_again_later(certificate: Path, caplog: pytest.LogCaptureFixture) -> None:
    expiry, days = Expiry(), iter(range(1_000))
    expiry.note("metrics", str(certificate))
    ended = expiry.begin(lambda: UNTIL.timestamp() + next(days) * DAY_S, every_s=3_600.0)
    assert len(caplog.records) == 1
    ended.set()
    ended = expiry.begin(lambda: UNTIL.timestamp() + next(days) * DAY_S, every_s=0.01)
    until(lambda: len(caplog.records) >= 4)
    ended.set()
    assert "metrics.certificate_file: " in caplog.messages[-1]


def test_the_port_tells_of_one_that_was_renewed(authority: Authority, certificate: Path, tmp_path: Path) -> None:
    served, later = tmp_path / "served.pem", UNTIL + timedelta(days=90)
    served.write_bytes(certificate.read_bytes())
    port = serve("127.0.0.1", 0, Health(60.0), Door(MetricsSettings(certificate_file=str(served)), Expiry()))
    line = 'offkey_certificate_expires_timestamp_seconds{section="metrics"} '
    assert f"{line}1.935817689e+09" in ask(port, "/metrics", ca=authority.certificate).text
    served.write_text("half of it")
    assert ask(port, "/metrics", ca=authority.certificate).status == 200
    assert told() == {"metrics": UNTIL.timestamp()}
    served.write_bytes(authority.sign("renewed", ["127.0.0.1"], until=later).read_bytes())
    assert ask(port, "/metrics", ca=authority.certificate).status == 200
    assert told() == {"metrics": later.timestamp()}


def test_one_that_cannot_be_read_is_a_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^kafka.security.certificate_file: .*/no.pem cannot be read \(No such"):
        Expiry().note("kafka.security", str(tmp_path / "no.pem"))


def starting(authority: Authority, folder: Path) -> tuple[Path, Path, Path]:
    """Return (a configuration with both, that of the port, which expires soon, and that for Kafka, which has)."""
    soon, past = authority.sign("soon", ["a"]), authority.sign("past", ["a"], expired=True)
    config = configured(
        folder,
        kafka={
            # Nobody is there, so each command ends by itself.
            "bootstrap_servers": "127.0.0.1:1",
            "connect_timeout": 0.5,
            "security": {"tls": True, "certificate_file": str(past)},
        },
        metrics={"port": 0, "certificate_file": str(soon)},
        scheduler={"port": 0},
        notify={"port": 0, "receivers": {"pager": {"type": "alertmanager", "url": "http://127.0.0.1:1"}}},
    )
    return config, soon, past


@pytest.mark.parametrize("command", ["worker", "record", "schedule", "notify"])
def test_each_command_tells_of_both(
    command: str, run: Callable[..., tuple[int, str, str]], authority: Authority, tmp_path: Path
) -> None:
    config, _, _ = starting(authority, tmp_path)
    status, _, _ = run(command, str(config))
    assert status != 0
    assert set(told()) == {"metrics", "kafka.security"}


def test_a_command_says_it_when_it_starts(authority: Authority, tmp_path: Path) -> None:
    config, soon, past = starting(authority, tmp_path)
    said = offkey("--log-level", "warning", "record", str(config)).stderr
    assert f"metrics.certificate_file: {soon} expires at " in said
    assert f"kafka.security.certificate_file: {past} has expired at " in said

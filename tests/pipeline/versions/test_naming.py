"""Which version is meant by what was typed."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from pipeline.errors import ConfigError
from pipeline.versions.naming import name_of, resolve, trained_ms

KNOWN = ["20260101T000000-aaaa", "20260101T000001-bbbb", "20260202T000000-cccc", "v1", "v10"]


@pytest.mark.parametrize(
    ("wanted", "meant"),
    [
        ("20260202T000000-cccc", "20260202T000000-cccc"),
        ("202602", "20260202T000000-cccc"),
        ("20260101T000001", "20260101T000001-bbbb"),
        ("v1", "v1"),
        ("champion", "v10"),
    ],
)
def test_a_name_its_beginning_or_the_champion(wanted: str, meant: str) -> None:
    assert resolve("machines", wanted, KNOWN, "v10") == meant


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ("2026", "may be 20260101T000000-aaaa, 20260101T000001-bbbb, 20260202T000000-cccc; write more of the name"),
        ("20260202T000000-cccd", "did you mean '20260202T000000-cccc'"),
        ("", "there is no version ''; there are: 20260101T000000-aaaa, "),
        ("zzz", "there is no version 'zzz'; there are: "),
    ],
)
def test_what_nobody_or_several_are_called_is_told(wanted: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve("machines", wanted, KNOWN, "v10")
    assert said in str(caught.value)


def test_a_stream_without_champion_or_versions_names_the_command() -> None:
    with pytest.raises(ConfigError, match="stream machines has no champion"):
        resolve("machines", "champion", KNOWN, None)
    with pytest.raises(ConfigError, match="has no versions; train one with: offkey train CONFIG machines"):
        resolve("machines", "v1", [], None)


def test_many_are_told_in_one_line() -> None:
    with pytest.raises(ConfigError, match=r"may be v1000, .*v1004 and 995 more; write"):
        resolve("machines", "v1", [f"v{number}" for number in range(1000, 2000)], None)


def test_a_name_tells_when_it_was_trained_wherever_that_was() -> None:
    at = datetime(2026, 3, 1, 12, 30, 5, tzinfo=timezone(timedelta(hours=2)))
    assert name_of(at, "abcd") == "20260301T103005-abcd"
    assert trained_ms("20260301T103005-abcd") == int(datetime(2026, 3, 1, 10, 30, 5, tzinfo=UTC).timestamp() * 1000)
    assert trained_ms("v1") is None

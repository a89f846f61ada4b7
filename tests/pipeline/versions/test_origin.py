"""Where a version comes from: what is written is read, and no byte of it changes unseen."""

import msgspec
import pytest

from pipeline.versions.origin import GateResult, GateRow, Origin, OriginError, from_file, to_file

ORIGIN = Origin(
    "offkey train",
    1_700_000_000_000,
    "metrics",
    {0: (5, 900), 12: (0, 7)},
    records=902,
    rejected=3,
    late=1,
    series=4,
    seconds=1.5,
    parent="20260101T000000-abcdef01",
    gate=GateResult(
        False,
        "champion",
        ("fewer outages found",),
        (GateRow("false incidents", 3.0, 2.5, "at most 4"), GateRow("found", None, 0.5, "0.8", False)),
        900,
        60,
    ),
)


@pytest.mark.parametrize("origin", [ORIGIN, Origin("offkey train", 0, "metrics")])
def test_it_comes_back(origin: Origin) -> None:
    assert from_file(to_file(origin)) == origin


def test_any_changed_byte_is_refused() -> None:
    content = to_file(ORIGIN)
    for place in range(len(content)):
        for changed in (content[place] ^ 1, ord(" ")):
            if changed != content[place]:
                with pytest.raises(OriginError, match=r"^origin\.json is damaged"):
                    from_file(content[:place] + bytes([changed]) + content[place + 1 :])


@pytest.mark.parametrize("cut", [0, 1, 50, -1])
def test_one_that_is_cut_off_or_longer_is_refused(cut: int) -> None:
    with pytest.raises(OriginError, match=r"^origin\.json is damaged"):
        from_file(to_file(ORIGIN)[:cut])
    with pytest.raises(OriginError, match=r"^origin\.json is damaged"):
        from_file(to_file(ORIGIN) + b"\n")


def sealed(**changes: object) -> bytes:
    """Return an origin as another version of offkey would write it."""
    import hashlib

    said = msgspec.json.encode({**msgspec.to_builtins(ORIGIN), **changes})
    return b'{"sha256":"' + hashlib.sha256(said).hexdigest().encode() + b'","origin":' + said + b"}"


def test_fields_of_a_later_version_are_passed_over() -> None:
    assert from_file(sealed(colour="green")) == ORIGIN


def test_a_later_format_is_refused_and_named() -> None:
    with pytest.raises(OriginError, match=r"format offkey\.origin 2, not 1"):
        from_file(sealed(format_version=2))

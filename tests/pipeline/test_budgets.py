"""Times and budgets, as people write them."""

import pytest

from pipeline.budgets import Budget, parse_budget, parse_duration


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("1 per day", Budget(1, per_s=86400)),
        ("3 per week", Budget(3, per_s=604800)),
        ("0.5 per 6 hours", Budget(0.5, per_s=21600)),
        ("1 in 1_000 records", Budget(1, per_records=1000)),
        ("2 per 10000 points", Budget(2, per_records=10000)),
    ],
)
def test_budgets(text: str, budget: Budget) -> None:
    assert parse_budget(text) == budget


@pytest.mark.parametrize(
    "text",
    [
        "0 per day",
        "one per day",
        "1 per",
        "1 per fortnight",
        "-1 per day",
        "1 per 0 records",
        "1 per 0 days",
        "nan per day",
        "inf per day",
        "\u0661 per day",
        "9" * 400 + " per day",
        "1 per " + "9" * 400 + " records",
        "1 per " + "9" * 400 + " days",
    ],
    ids=lambda text: text[:20],
)
def test_no_budgets(text: str) -> None:
    with pytest.raises(ValueError, match="is no budget"):
        parse_budget(text)


def test_a_budget_in_points() -> None:
    assert parse_budget("2 per day").points_per_incident(60_000) == 720
    assert parse_budget("1 per 1000 records").points_per_incident(60_000) == 1000


@pytest.mark.parametrize(("text", "seconds"), [(5, 5), ("1.5h", 5400), ("2 days", 172800), ("100ms", 0.1)])
def test_durations(text: str | float, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-1",
        "nan",
        "inf",
        "1e3",
        "1..5",
        "1 fortnight",
        "s",
        True,
        None,
        float("nan"),
        float("inf"),
        -1,
        "9" * 400,
    ],
    ids=lambda text: str(text)[:20],
)
def test_no_durations(text: str | float) -> None:
    with pytest.raises(ValueError, match="is no duration; write for example"):
        parse_duration(text)

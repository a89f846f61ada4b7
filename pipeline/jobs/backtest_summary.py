"""What `offkey backtest` prints: a few lines for each stream, and the worst incidents; or two side by side."""

import json
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from pipeline.demo.plot import moment
from pipeline.feedback import VERDICTS
from pipeline.jobs.backtest_result import Incident, Result, compared
from pipeline.stages.incidents import SEVERITIES

_SHOWN_SCORE = 100.0
_LISTED = 12
_BEGINS = {
    "start": "where the workers began, so this is what they came to",
    "checkpoint": "at a checkpoint of the workers, so this is what they came to",
    "cold": "without state: series warm up, and what began before {until} is marked",
}


def print_result(result: Result, as_json: bool) -> None:
    if as_json:
        print(json.dumps(result.for_programs()), flush=True)
        return
    for line in lines_of(result):
        print(f"{result.stream}: {line}")
    if result.incidents:
        Console().print(_worst(result.incidents))


def lines_of(result: Result) -> list[str]:
    """Return what there is to say, in a line each."""
    tally = result.tally
    assert tally.first_ms is not None, "there are rows"
    assert tally.last_ms is not None, "there are rows"
    series = f" of {len(tally.series):,} series" if tally.series else ""
    lines = [
        f"{tally.rows:,} rows{series}, {moment(tally.first_ms)} to {moment(tally.last_ms)} UTC, judged "
        f"{result.judged_by}; {tally.points_scored:,} points scored, {tally.late:,} rows late",
        *_beginnings(result),
        *(str(gap).partition(": ")[2] for gap in result.gaps),
    ]
    if result.replaced:
        lines.append(
            f"what these versions judged could not be had, and the champion stood in: {', '.join(result.replaced)}"
        )
    often = "" if result.per_week is None else f", {result.per_week:,.1f} a week"
    by_severity = ", ".join(
        f"{count:,} {name}"
        for name in reversed(SEVERITIES)
        if (count := sum(each.severity == name for each in result.incidents))
    )
    lines.append(
        f"{len(result.incidents):,} incidents{often}{': ' if by_severity else ''}{by_severity}; "
        f"{sum(each.course.ended_ms is None for each in result.incidents):,} open at the end, "
        f"{sum(each.in_warming for each in result.incidents):,} while series warmed up"
    )
    heard = [
        f"{count:,} {verdict.replace('_', ' ')}{'s' * (verdict == 'false_alarm' and count != 1)}"
        for verdict in VERDICTS
        if (count := result.count(verdict))
    ]
    lines.append(f"by feedback: {', '.join(heard) or 'nothing was said of any of them'}")
    rate = f" ({tally.rows / result.seconds:,.0f} rows/s)" if result.seconds else ""
    lines.append(f"took {result.seconds:.1f} s{rate}")
    return lines


def print_compared(a: tuple[str, Result], b: tuple[str, Result], as_json: bool) -> None:
    """Print two backtests of one stream, each with its name, side by side."""
    both = compared(a[1].incidents, b[1].incidents)
    if as_json:
        told = {letter: {"name": name, **result.for_programs()} for letter, (name, result) in (("a", a), ("b", b))}
        print(json.dumps({**told, "compared": both.for_programs()}), flush=True)
        return
    table = Table("", escape(f"A: {a[0]}"), escape(f"B: {b[0]}"), title=escape(a[1].stream))
    for row in rows_of(a[1], b[1]):
        table.add_row(*row)
    Console().print(table)
    print(f"{a[1].stream}: {both.told}")
    if both.delay_ms is not None:
        print(f"{a[1].stream}: what both have, B opens {delay_told(both.delay_ms)} (the median)")


def rows_of(a: Result, b: Result) -> list[tuple[str, str, str]]:
    """Return the figures of two backtests, each with what it is."""
    sides = (a, b)

    def row(what: str, *cells: str) -> tuple[str, str, str]:
        return what, cells[0], cells[1]

    return [
        row("rows", *(f"{each.tally.rows:,}" for each in sides)),
        row("incidents", *(f"{len(each.incidents):,}" for each in sides)),
        row("a week", *("" if each.per_week is None else f"{each.per_week:,.2f}" for each in sides)),
        *(
            row(name, *(f"{sum(one.severity == name for one in each.incidents):,}" for each in sides))
            for name in reversed(SEVERITIES)
        ),
        *(
            row(f"{verdict.replace('_', ' ')}, by feedback", *(f"{each.count(verdict):,}" for each in sides))
            for verdict in VERDICTS
        ),
        row("while warming", *(f"{sum(one.in_warming for one in each.incidents):,}" for each in sides)),
    ]


def delay_told(delay_ms: float) -> str:
    """Return how much later one opens than another, in words."""
    if not delay_ms:
        return "at the same time"
    minutes = abs(delay_ms) / 60_000
    long = (
        f"{60 * minutes:.0f} s"
        if minutes < 2
        else f"{minutes:.0f} min"
        if minutes < 180
        else f"{minutes / 60:.1f} h"
    )
    return f"{long} {'later' if delay_ms > 0 else 'earlier'}"


def _beginnings(result: Result) -> list[str]:
    """Return how the partitions begin, one line for those that begin alike."""
    alike: dict[tuple[str, str], list[str]] = {}
    for each in result.begun:
        until = "" if each.warming_until_ms is None else moment(each.warming_until_ms)
        place = f"{each.partition} at offset {each.offset}"
        alike.setdefault((each.way, until), []).append(place)
    return [
        f"begins {_BEGINS[way].format(until=until)}: {', '.join(places[:4])}"
        + (f" and {len(places) - 4} more" if len(places) > 4 else "")
        for (way, until), places in alike.items()
    ]


def _worst(incidents: Sequence[Incident]) -> Table:
    """Return the incidents of highest score, by their openings."""
    worst = sorted(incidents, key=lambda each: (each.course.peak is not None, each.course.peak or 0), reverse=True)
    listed = sorted(worst[:_LISTED], key=lambda each: each.course.opened_ms)
    table = Table("opened (UTC)", "series", "severity", "score", "ended (UTC)", "feedback", "incident")
    for each in listed:
        course = each.course
        series = course.series or (course.subject if course.subject != "deviation" else "")
        score = course.subject if course.peak is None else f"{min(course.peak, _SHOWN_SCORE):.1f}"
        ended = "open" if course.ended_ms is None else moment(course.ended_ms)
        said = (each.verdict or "").replace("_", " ") + (" (warming)" if each.in_warming else "")
        table.add_row(
            *map(Text, (moment(course.opened_ms), series, each.severity, score, ended, said, course.incident))
        )
    if len(incidents) > len(listed):
        table.caption = f"{len(listed)} of {len(incidents):,}, those of highest score"
    return table

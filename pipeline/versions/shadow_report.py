"""What was seen of a version in shadow, for people. Nothing that others wrote reaches a terminal raw."""

from collections.abc import Iterator

from rich.table import Table
from rich.text import Text

from pipeline.letters.report import printable
from pipeline.shadows import Appointment, Counts, Tally
from pipeline.versions.log import Promotion
from pipeline.versions.report import moment


def agreement_lines(
    stream: str, appointed: Appointment | None, champion: Promotion | None, seen: Tally | None
) -> Iterator[str]:
    """Yield which version is in shadow, and how far it and the champions beside it agreed."""
    if appointed is None or not appointed.version:
        yield f"{stream}: no version is in shadow; name one: offkey models shadow CONFIG {stream} VERSION"
        return
    by = f", by {printable(appointed.by)}" if appointed.by else ""
    note = f": {printable(appointed.note)}" if appointed.note else ""
    yield f"{stream}: {appointed.version} is in shadow since {moment(appointed.appointed_ms)} UTC{by}{note}"
    if champion is not None and champion.version == appointed.version:
        yield f"{stream}: it is the champion now, so it is beside nothing"
    if seen is None:
        yield f"{stream}: nothing was seen yet; running workers tell twice a minute"
        return
    yield f"{stream}: {seen.records:,} records, {moment(seen.since_ms)} to {moment(seen.until_ms)} UTC"
    for name, counts in (("champion", seen.champion), ("in shadow", seen.shadow)):
        yield f"  {name:10} {counts.points:>12,} points scored, {_told(counts)}"


def alone_table(seen: Tally) -> Table:
    """Return the newest incidents that one of the two had by itself."""
    title = f"The newest {len(seen.examples)} that one of them had alone"
    table = Table(box=None, header_style="bold", pad_edge=False, title=Text(title), title_justify="left")
    for head in ("found by", "series", "from (UTC)", "to (UTC)"):
        table.add_column(head, overflow="fold")
    table.add_column("score", justify="right")
    table.add_column("record", overflow="fold")
    for each in seen.examples:
        side = "in shadow" if each.side == "shadow" else "champion"
        place = f"{each.topic}/{each.partition}@{each.offset}"
        times = (moment(each.begun_ms), moment(each.ended_ms))
        row = (side, printable(each.series), *times, f"{each.score:.1f}", printable(place))
        table.add_row(*(Text(cell) for cell in row))
    return table


def _told(counts: Counts) -> str:
    whole = f"{counts.incidents:,} incident{'' if counts.incidents == 1 else 's'}"
    return f"{whole}: {counts.shared:,} of both, {counts.alone:,} alone"

"""Versions for people, as tables and lines, and for programs. Nothing that others wrote reaches a terminal raw."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from rich.table import Table
from rich.text import Text

from models.spec import shortened
from pipeline.letters.report import printable
from pipeline.versions.facts import Facts, Learned
from pipeline.versions.log import Promotion, PromotionLog
from pipeline.versions.origin import GateResult
from pipeline.versions.usage import Serving, partitions_of

_WIDTH = 12
_MOST_PARTITIONS = 12


def versions_table(stream: str, versions: Sequence[Facts]) -> Table:
    """Return a row for each version of a stream."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    # Whole however narrow it is: it is typed after other commands.
    longest = max((len(printable(facts.version)) for facts in versions), default=0)
    table.add_column(Text(stream), no_wrap=True, min_width=longest)
    table.add_column("rows", justify="right")
    for head in ("until (UTC)", "model", "gate", "serves"):
        table.add_column(head, overflow="fold")
    for facts in versions:
        learned = facts.learned
        row = (
            printable(facts.version),
            "?" if learned is None or learned.rows is None else f"{learned.rows:,}",
            "?" if learned is None else moment(learned.last_ms)[:10],
            "damaged" if learned is None else printable(learned.architecture),
            _verdict(facts.origin.gate if facts.origin else None),
            "; ".join(_standing(facts)),
        )
        # As text: names may hold brackets, which rich would take for its own.
        table.add_row(*(Text(cell) for cell in row))
    return table


def version_lines(stream: str, facts: Facts) -> Iterator[str]:
    """Yield what is known of one version; the gate's table comes after."""
    standing = "; ".join(_standing(facts)) or ("has served" if facts.promotions else "has never served")
    yield f"{stream} {printable(facts.version)}: {standing}"
    for what, told in _told(facts):
        yield f"  {what:{_WIDTH}}  {told}"


def gate_table(gate: GateResult, champion: str | None) -> Table:
    """Return the measures by which a challenger was judged, beside the champion's."""
    against = f"; champion {printable(champion)}" if champion else ""
    title = f"{gate.held_out_rows:,} rows held out, {gate.anomalies:,} anomalies put into them{against}"
    table = Table("", title=Text(title), title_justify="left")
    table.add_column("Measure", overflow="fold")
    table.add_column("Champion", justify="right")
    table.add_column("Challenger", justify="right")
    table.add_column("Limit", overflow="fold")
    for row in gate.rows:
        figures = ("" if figure is None else f"{figure:,.4g}" for figure in (row.champion, row.challenger))
        mark = "[green]ok[/]" if row.ok else "[red]no[/]"
        table.add_row(mark, *(Text(printable(cell)) for cell in (row.measure, *figures, row.limit)))
    return table


def serving_lines(stream: str, champion: str, serving: Sequence[Serving]) -> Iterator[str]:
    """Yield what a change of champion comes to for the workers that run."""
    yield f"{stream}: running workers adopt it between two batches; they look every `worker.watch_every`"
    for version in sorted({each.model_version or "" for each in serving} - {champion}):
        told = _places(partitions_of(version or None, serving))
        yield f"{stream}: {printable(version) if version else 'no known version'} is in use by {told}"


def log_json(
    stream: str, log: PromotionLog, versions: Sequence[Facts], unfinished: Sequence[str]
) -> dict[str, Any]:
    """Return a stream's versions and log."""
    champion = log.champion
    return {
        "stream": stream,
        "champion": champion.version if champion else None,
        "versions": [version_json(facts) for facts in versions],
        "unfinished": list(unfinished),
        "promotions": [promotion_json(entry) for entry in log.entries],
        "faults": list(log.faults),
    }


def version_json(facts: Facts) -> dict[str, Any]:
    """Return what is known of one version."""
    return {
        "version": facts.version,
        "size_bytes": facts.size_bytes,
        "trained": iso(facts.trained_ms),
        "champion": facts.is_champion,
        "rollback_target": facts.is_before,
        "removed": facts.is_removed,
        "shadow": facts.is_shadow,
        "learned": None if facts.learned is None else asdict(facts.learned),
        "origin": None if facts.origin is None else asdict(facts.origin),
        "promotions": [promotion_json(entry) for entry in facts.promotions],
        "serving": [
            {
                "topic": each.partition.topic,
                "partition": each.partition.partition,
                "next_offset": each.next_offset,
                "as_of": iso(each.written_ms),
            }
            for each in facts.serving
        ],
        "faults": list(facts.faults),
    }


def promotion_json(entry: Promotion) -> dict[str, Any]:
    """Return an entry of the log."""
    fields = {name: value for name, value in asdict(entry).items() if name not in ("token", "promoted_ms")}
    return {**fields, "promoted": iso(entry.promoted_ms)}


def iso(time_ms: int | None) -> str | None:
    return None if time_ms is None else _at(time_ms).isoformat(timespec="milliseconds")


def moment(time_ms: int | None) -> str:
    """Return a time for people, in UTC."""
    return "?" if time_ms is None else f"{_at(time_ms):%Y-%m-%d %H:%M:%S}"


def _at(time_ms: int) -> datetime:
    return datetime.fromtimestamp(time_ms / 1000, UTC)


def _told(facts: Facts) -> Iterator[tuple[str, str]]:
    learned, origin = facts.learned, facts.origin
    made = f"{moment(facts.trained_ms)} UTC"
    if origin:
        made += f", by {printable(origin.command)} in {origin.seconds:.0f} s"
        made += f", when {printable(origin.parent)} served" if origin.parent else ", as the first of its stream"
    yield "trained", made
    if learned:
        rows = "?" if learned.rows is None else f"{learned.rows:,}"
        count = f"{rows} rows of {learned.series:,} series" if learned.kind == "series" else f"{rows} rows"
        yield "learned from", f"{count}, {_span(learned)}"
    if origin:
        yield "records", f"{origin.records:,}: {origin.rejected:,} rejected, {origin.late:,} late"
        ranges = [f"{number}@{first}-{end - 1}" for number, (first, end) in sorted(origin.offsets.items())]
        yield "topic", f"{printable(origin.topic)}: {shortened(ranges)}"
    if learned:
        yield "features", f"{len(learned.features):,}: {printable(shortened(learned.features))}"
        views = f"{learned.views} view{'' if learned.views == 1 else 's'}"
        rows = f", of up to {learned.window} rows" if learned.kind == "series" else ""
        yield "model", f"{printable(learned.architecture)}, {views}{rows}; {_size(facts.size_bytes)}"
        yield "made with", printable(", ".join(f"{name} {version}" for name, version in learned.libraries.items()))
    for entry in facts.promotions:
        who = f", {printable(entry.by)}" if entry.by else ""
        note = f": {printable(entry.note)}" if entry.note else ""
        yield f"promotion {entry.number}", f"{moment(entry.promoted_ms)} UTC, {printable(entry.reason)}{who}{note}"
    if facts.serving:
        yield "in use by", _places(partitions_of(facts.version, facts.serving))
    if origin and origin.gate:
        yield "gate", "; ".join([_verdict(origin.gate), *map(printable, origin.gate.reasons)])


def _standing(facts: Facts) -> Iterator[str]:
    if facts.is_champion:
        yield "champion"
    elif facts.is_before:
        yield "before the champion"
    if facts.is_shadow:
        yield "in shadow"
    if facts.is_removed:
        yield "being removed"
    for topic, numbers, _ in partitions_of(facts.version, facts.serving):
        yield f"in use by {len(numbers)} of {printable(topic)}"


def _places(found: Sequence[tuple[str, Sequence[int], int]]) -> str:
    return "; ".join(
        f"partition{'' if len(numbers) == 1 else 's'} {shortened([str(n) for n in numbers], _MOST_PARTITIONS)} of "
        f"topic {printable(topic)}, as of {moment(written_ms)} UTC"
        for topic, numbers, written_ms in found
    )


def _span(learned: Learned) -> str:
    if learned.first_ms is None or learned.last_ms is None:
        return "of a time that it does not tell"
    return f"{moment(learned.first_ms)} to {moment(learned.last_ms)} UTC"


def _verdict(gate: GateResult | None) -> str:
    return "" if gate is None else "accepted" if gate.accepted else "refused"


def _size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 1e6 else f"{count / 1e3:,.1f} kB"

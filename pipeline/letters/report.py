"""Counted letters for people and for programs. Nothing of a letter reaches a terminal raw."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from pipeline.letters.lines import iso, place_of
from pipeline.letters.replay import Plan, Sent
from pipeline.letters.tally import Kind, Tally
from pipeline.stages.dead_letters import Letter
from pipeline.stages.decode import REASONS

_LONGEST_SHOWN = 120

Streams = Mapping[str, str]
"""Name of the stream that reads a topic, by topic."""


def kinds_table(kinds: Iterable[Kind], streams: Streams) -> Table:
    """Return how many letters of each kind there are."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("stream", overflow="fold")
    # Where it is narrow, times are folded and not reasons.
    table.add_column("reason", overflow="fold", min_width=max(map(len, REASONS)))
    for head in ("letters", "replayed", "again"):
        table.add_column(head, justify="right")
    for head in ("first (UTC)", "last (UTC)"):
        table.add_column(head, overflow="fold")
    for kind in kinds:
        row = (
            name_of(kind, streams),
            printable(kind.reason),
            f"{kind.letters:,}",
            f"{kind.replayed:,}",
            f"{kind.again:,}" + (f" ({_often(kind)})" if kind.most_replays > 1 else ""),
            _moment(kind.first_ms),
            _moment(kind.last_ms),
        )
        # As text: names may hold brackets, which rich would take for its own.
        table.add_row(*(Text(cell) for cell in row))
    return table


def example_lines(letter: Letter) -> Iterator[str]:
    """Yield the lines that show one letter."""
    origin = f"{letter.origin}@{letter.origin_offset}"
    yield f"  {place_of(letter)} from {printable(origin)}: {printable(letter.text)}"
    yield f"      key {shown(letter.record.key)}  value {shown(letter.record.value)}"


def kinds_json(topic: str, counted: Tally, kinds: Sequence[Kind], streams: Streams) -> Iterator[str]:
    """Yield a line for the topic, and one for each kind."""
    fields: dict[str, Any] = {"topic": topic, "letters": sum(kind.letters for kind in kinds)}
    yield json.dumps({**fields, "repeats": counted.repeats, "foreign": counted.foreign})
    for kind in kinds:
        fields = {
            "stream": streams.get(kind.topic),
            "topic": kind.topic,
            "reason": kind.reason,
            "letters": kind.letters,
            "replayed": kind.replayed,
            "again": kind.again,
            "most_replays": kind.most_replays,
            "first": iso(kind.first_ms),
            "last": iso(kind.last_ms),
        }
        yield json.dumps(fields)


def plan_lines(planned: Plan, streams: Streams) -> Iterator[str]:
    """Yield how many letters would go where."""
    for kind in planned.kinds:
        if number := planned.numbers.get(kind.code, 0):
            line = (
                f"{name_of(kind, streams)}, {printable(kind.reason)}: {number:,} to topic {printable(kind.topic)}"
            )
            if kind.again:
                line += f"; {kind.again:,} letters of this kind are of records sent back before, {_often(kind)}"
            yield line


def sent_json(planned: Plan, sent: Sent, streams: Streams) -> Iterator[str]:
    """Yield a line for each kind that was sent."""
    for kind in planned.kinds:
        if number := sent.by_kind[kind.topic, kind.reason]:
            fields = {"stream": streams.get(kind.topic), "topic": kind.topic, "reason": kind.reason}
            yield json.dumps({**fields, "sent": number})


def left_alone(planned: Plan, topic: str, streams: Streams) -> Iterator[str]:
    """Yield what is not sent back, beside letters that a filter leaves out."""
    if planned.replayed_already:
        yield f"sent back before, and not again: {amount(planned.replayed_already)} of the file"
    unread = sum(kind.waiting for kind in planned.counted.kinds.values() if kind.topic not in streams)
    if unread and planned.repairs is None:
        yield f"left alone: {amount(unread)} of topics that no stream here reads"
    yield from not_counted(topic, planned.counted)


def sent_line(sent: Sent) -> str:
    """Return what a replay has done."""
    line = f"sent back {amount(sum(sent.by_kind.values()))}"
    if sent.moved:
        line += f"; {amount(sent.moved)} of them where the key leads, for the partition is no longer there"
    return line


def not_counted(topic: str, counted: Tally) -> Iterator[str]:
    """Yield what to say of records of the topic that are no letters of their own."""
    if counted.repeats:
        yield f"left alone: {amount(counted.repeats)} written once more after a fault of a worker"
    if counted.foreign:
        yield f"left alone: {amount(counted.foreign, 'record')} of {topic} with other headers than offkey's"


def amount(number: int, what: str = "letter") -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def shown(content: bytes | None) -> str:
    """Return bytes for people: printable, and not too long; null is told from empty."""
    if content is None:
        return "null"
    # The first bytes are enough, for a character has four at most.
    text = printable(content[: 4 * _LONGEST_SHOWN + 4].decode("utf-8", "backslashreplace"))
    if len(text) > _LONGEST_SHOWN:
        return f"{text[:_LONGEST_SHOWN]}... ({len(content):,} bytes)"
    return text or "(empty)"


def printable(text: str) -> str:
    """Escape what would not show, or would do something to a terminal."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def name_of(kind: Kind, streams: Streams) -> str:
    """Return the stream that letters belong to."""
    return streams.get(kind.topic) or f"(none reads {printable(kind.topic)})"


def _often(kind: Kind) -> str:
    return "once" if kind.most_replays == 1 else f"up to {kind.most_replays} times"


def _moment(time_ms: int) -> str:
    return (iso(time_ms) or "").partition(".")[0].replace("T", " ")

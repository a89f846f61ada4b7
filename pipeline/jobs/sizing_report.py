"""What a worker will take, as lines for people and as a document for programs."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from pipeline.jobs.sizing import OfStream, Sized
from pipeline.protocols import MOST_STORED

_WIDTH = 22


def report(sized: Sized) -> str:
    """Return the lines of a plan."""
    asked = sized.asked
    lines = [
        f"{asked.series:,} series, a point every {asked.interval_s:g} s: {_rate(asked.per_s)} "
        + ("a second" if len(asked.streams) == 1 else "a second in each stream")
        + "; one worker process",
        "",
    ]
    for stream in sized.streams:
        lines += _lines(_of_stream(stream))
    lines += _lines(_of_process(sized))
    return "\n".join(lines)


def as_document(sized: Sized) -> dict[str, Any]:
    """Return it as what `--json` prints; bytes are whole numbers."""

    def rounded(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                key: round(each) if key.endswith("_bytes") and each is not None else rounded(each)
                for key, each in value.items()
            }
        if isinstance(value, list | tuple):
            return [rounded(each) for each in value]
        return float(f"{value:.4g}") if isinstance(value, float) else value

    document: dict[str, Any] = rounded(dataclasses.asdict(sized))
    return document


def _of_stream(stream: OfStream) -> Iterator[tuple[str, str]]:
    yield f"stream {stream.stream}", stream.model
    yield "false incidents a day", f"{_count(stream.incidents_a_day)} expected on normal data, by the budget"
    told = "each incident is opened and resolved" if stream.series else "one for each incident"
    yield "alerts a day", f"{_count(stream.alerts_a_day)}: {told}"
    if stream.series:
        yield "memory of its series", f"{_size(stream.memory_bytes)}, {stream.bytes_per_series:,.0f} bytes each"
        in_storage = _size(MOST_STORED * stream.checkpoint_bytes)
        yield "checkpoint of all", f"{_size(stream.checkpoint_bytes)}; storage holds {in_storage} at most"
    for remark in stream.remarks:
        yield "note", remark


def _of_process(sized: Sized) -> Iterator[tuple[str, str]]:
    yield "the worker", ""
    yield "memory", f"{_size(sized.memory_bytes)}, of which {_size(sized.base_bytes)} without series and records"
    yield (
        "memory at most",
        f"{_size(sized.most_memory_bytes)}, when many series begin at once, with a checkpoint and the largest poll",
    )
    if sized.gpu_bytes is None:
        yield "GPU memory", "none: no GPU is used"
    else:
        yield "GPU memory", f"{_size(sized.gpu_bytes)}, beside what CUDA itself takes"
    if sized.turn.keeps_up:
        own, client = _share(sized.cpu_share - sized.client_share), _share(sized.client_share)
        yield "processor", f"{_share(sized.cpu_share)} of one core: offkey {own}, the Kafka client {client}"
    else:
        yield "processor", "more than one core; share it between processes: offkey worker CONFIG --processes N"
    yield "one core takes", f"{_rate(sized.most_points_per_s)} a second at most"
    for remark in sized.remarks:
        yield "note", remark


def _lines(rows: Iterator[tuple[str, str]]) -> list[str]:
    (head, of_head), *others = rows
    first = f"{head}: {of_head}" if of_head else f"{head}:"
    return [first, *(f"  {what:<{_WIDTH}}{said}" for what, said in others), ""]


def _rate(per_s: float) -> str:
    # No more digits than what is measured has.
    return f"{float(f'{per_s:.3g}'):,.12g} points"


def _count(number: float) -> str:
    return f"{number:,.0f}" if number >= 10 else f"{number:.2g}"


def _share(share: float) -> str:
    return f"{100 * share:.0f}%" if share >= 0.1 else f"{100 * share:.1f}%"


def _size(bytes_: float) -> str:
    for unit, of_unit in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if bytes_ >= of_unit:
            return f"{bytes_ / of_unit:.3g} {unit}"
    return f"{bytes_:.0f} bytes"

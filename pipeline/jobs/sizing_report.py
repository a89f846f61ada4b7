"""What a worker will take, as lines for people."""

from collections.abc import Iterator

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


def _of_stream(stream: OfStream) -> Iterator[tuple[str, str]]:
    yield f"stream {stream.stream}", stream.model
    yield "false incidents a day", f"{_count(stream.incidents_a_day)} expected on normal data, by the budget"
    twice = "each opened and resolved" if stream.series else "each told once"
    yield "alerts a day", f"{_count(stream.alerts_a_day)}, {twice}"
    if stream.series:
        yield "memory of its series", f"{_size(stream.memory_bytes)}, {stream.bytes_per_series:,.0f} bytes each"
        in_storage = _size(MOST_STORED * stream.checkpoint_bytes)
        yield "checkpoint of all", f"{_size(stream.checkpoint_bytes)}; storage holds {in_storage} at most"
    for remark in stream.remarks:
        yield "look", remark


def _of_process(sized: Sized) -> Iterator[tuple[str, str]]:
    yield "the worker", ""
    yield "memory", f"{_size(sized.memory_bytes)}, of which {_size(sized.base_bytes)} without series and records"
    yield (
        "memory at most",
        f"{_size(sized.most_memory_bytes)}, when many series begin at once, with a checkpoint and the largest poll",
    )
    gpu = "-" if sized.gpu_bytes is None else f"{_size(sized.gpu_bytes)}, beside what CUDA itself takes"
    yield "GPU memory", gpu
    share = f"{_share(sized.cpu_share)} of one core, of which {_share(sized.client_share)} is the Kafka client's"
    if not sized.turn.keeps_up:
        share = (
            f"more than one core has: it takes {_rate(sized.most_points_per_s)} a second at most; see --processes"
        )
    yield "processor", share
    for remark in sized.remarks:
        yield "look", remark
    yield "one core takes", f"{_rate(sized.most_points_per_s)} a second at most"


def _lines(rows: Iterator[tuple[str, str]]) -> list[str]:
    (head, of_head), *others = rows
    first = f"{head}: {of_head}" if of_head else f"{head}:"
    return [first, *(f"  {what:<{_WIDTH}}{said}" for what, said in others), ""]


def _rate(per_s: float) -> str:
    return f"{per_s:,.0f} points" if per_s >= 10 else f"{per_s:.3g} points"


def _count(number: float) -> str:
    return f"{number:,.0f}" if number >= 10 else f"{number:.2g}"


def _share(share: float) -> str:
    return f"{100 * share:.0f}%" if share >= 0.1 else f"{100 * share:.1f}%"


def _size(bytes_: float) -> str:
    for unit, of_unit in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if bytes_ >= of_unit:
            return f"{bytes_ / of_unit:.3g} {unit}"
    return f"{bytes_:.0f} bytes"

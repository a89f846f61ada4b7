"""Every metric as a page for people, `deploy/metrics.md`; `python -m tests.schemas` writes it.

Which process has which is said here; `tests/deploy/test_prometheus.py` compares it with what each of them tells.
"""

from collections.abc import Iterator

from prometheus_client import Counter, Gauge, Histogram

from pipeline import metrics

_INTRODUCTION = """\
# Every metric

Written from [`pipeline/metrics.py`](../pipeline/metrics.py) by `python -m tests.schemas`. Each process serves its
own on `/metrics`: the worker on `metrics.port` (9108), the recorder on `recorder.port` (9109), the scheduler on
`scheduler.port` (9110), notify on `notify.port` (9111). [Rules](prometheus/offkey.rules.yml) and
[dashboards](grafana) are made of these. [Back to the front page](../README.md).

After a restart a worker reads the records from the checkpoint to the committed offset again. Records, rejected
ones, alerts, muted ones and evicted series are counted once all the same; what the stages do with points (scored,
warming, held, late, excused, moved series, durations) as often as it is done. Counters tell 0 from the start of a
process on. A histogram is three: `_bucket`, `_sum` and `_count`.
"""
WORKER, RECORDER, SCHEDULER, NOTIFY = "worker", "recorder", "scheduler", "notify"
_BEGINS = {
    "offkey_snapshot_": (RECORDER,),
    "offkey_retrain_": (SCHEDULER,),
    "offkey_scheduler_": (SCHEDULER,),
    "offkey_drift_": (SCHEDULER,),
    "offkey_notify_": (NOTIFY,),
    "offkey_certificate_": (WORKER, RECORDER, SCHEDULER, NOTIFY),
}
_SHARED = (
    "offkey_records_total",
    "offkey_partitions_assigned",
    "offkey_partitions_added_total",
    "offkey_lag_records",
    "offkey_offsets_lost_total",
    "offkey_stage_duration_seconds",
)
"""Those of the worker that the recorder has, too."""
_ALSO = {1: "", 2: " The recorder has it too.", 4: " The three others have it too."}
"""By how many processes tell of it."""
_UNITS = {
    "_timestamp_seconds": "seconds since 1970",
    "_seconds": "seconds",
    "_bytes": "bytes",
    "_bytes_total": "bytes",
    "_ratio": "share, 0 to 1",
    "_probability": "0 to 1",
    "_info": "1",
}


def page() -> str:
    """Return the whole page."""
    return "\n".join([_INTRODUCTION, *_tables()])


def all_metrics() -> dict[str, Counter | Gauge | Histogram]:
    """Return each by its exported name, in the order in which they are written down."""
    found = {}
    for each in vars(metrics).values():
        if isinstance(each, Counter | Gauge | Histogram):
            (family,) = each.describe()
            found[family.name + ("_total" if isinstance(each, Counter) else "")] = each
    return found


def processes_of(name: str) -> tuple[str, ...]:
    """Return who tells of a metric."""
    for begin, processes in _BEGINS.items():
        if name.startswith(begin):
            return processes
    return (WORKER, RECORDER) if name in _SHARED else (WORKER,)


def labels_of(metric: Counter | Gauge | Histogram) -> tuple[str, ...]:
    labels: tuple[str, ...] = metric._labelnames
    return labels


def _tables() -> Iterator[str]:
    for process in (WORKER, RECORDER, SCHEDULER, NOTIFY):
        rows = ["| metric | kind | labels | unit | what it is |", "|---|---|---|---|---|"]
        for name, metric in all_metrics().items():
            who = processes_of(name)
            if who[0] == process:
                (family,) = metric.describe()
                said = f"{family.documentation}{_ALSO[len(who)]}"
                labels = ", ".join(f"`{label}`" for label in labels_of(metric))
                rows.append(f"| `{name}` | {family.type} | {labels} | {_unit(name)} | {said} |")
        yield f"## {process.capitalize()}\n\n" + "\n".join(rows) + "\n"


def _unit(name: str) -> str:
    return next((unit for end, unit in _UNITS.items() if name.endswith(end)), "number")

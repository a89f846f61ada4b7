"""Every metric of offkey, with its unit: this list is the documentation.

Durations are seconds, sizes are records. Counters end in `_total`. Labels: `stream` is the stream's name in the
configuration, `receiver` a receiver's; `reason` of a dead letter is a key of `pipeline.stages.decode.REASONS`. In
Python a metric has its exported name in capitals, without prefix and suffix. A record of many rows is one record,
and as many points. Counters tell 0 from the start on (`pipeline.zeros`).

After a restart the records from the checkpoint to the committed offset are replayed. What leaves the worker and
what it has read (records, rejected ones, alerts, muted ones, evicted series) is counted once, replays left out.
What the stages do with points (scored, warming, held, late, excused, moved series, records of a batch, durations)
is counted as often as it is done, replays included; `offkey_records_replayed_total` says how many records those
were.

Defined at import, since the client's registry is global; `pipeline.endpoint` serves them.
"""

from collections.abc import Iterable
from itertools import product

from prometheus_client import Counter, Gauge, Histogram, make_wsgi_app
from prometheus_client.context_managers import Timer

_DURATION_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_SIZE_BUCKETS = (1, 4, 16, 64, 256, 1024, 2048, 4096, 8192, 16384)

RECORDS = Counter("offkey_records", "Records read from the stream's topic, replays left out.", ["stream"])
POINTS_SCORED = Counter("offkey_points_scored", "Points that got a score.", ["stream"])
POINTS_REACHED = Counter(
    "offkey_points_reached",
    "Points whose score reached so much: of normal points one in 10 reaches 10, one in 1,000 reaches 30.",
    ["stream", "score"],
)
RECORDS_LATE = Counter(
    "offkey_records_late", "Records or rows not later than the last of their series: left out.", ["stream"]
)
POINTS_WARMING = Counter(
    "offkey_points_warming", "Points that filled a series' first window and got no score.", ["stream"]
)
POINTS_HELD = Counter("offkey_points_held", "Points that took a missing feature from the point before.", ["stream"])
RECORDS_REJECTED = Counter(
    "offkey_records_rejected",
    "Records, or single rows of records of many, sent to the dead-letter topic, by reason.",
    ["stream", "reason"],
)
RECORDS_REPLAYED = Counter(
    "offkey_records_replayed", "Records read again after a restart, to rebuild state.", ["stream"]
)
ALERTS = Counter("offkey_alerts", "Alerts confirmed by the broker, by state.", ["stream", "state"])
ALERTS_MUTED = Counter(
    "offkey_alerts_muted",
    "Alerts that were not told, by state and reason: storm or maintenance. Their incidents are open all the same.",
    ["stream", "state", "reason"],
)
INCIDENTS_ALLOWED = Counter(
    "offkey_incidents_allowed",
    "False incidents that the budget allows for the points scored: about so many are opened and reopened where "
    "nothing happens.",
    ["stream"],
)
INCIDENTS_OPEN = Gauge("offkey_incidents_open", "Incidents open now.", ["stream"])
SERIES = Gauge("offkey_series", "Series held in memory.", ["stream"])
PARTITIONS_ASSIGNED = Gauge("offkey_partitions_assigned", "Partitions that this worker reads.", ["stream"])
LAG_RECORDS = Gauge(
    "offkey_lag_records", "Records between this worker's position and the end of its partitions.", ["stream"]
)
BATCH_RECORDS = Histogram("offkey_batch_records", "Records of one poll.", ["stream"], buckets=_SIZE_BUCKETS)
STAGE_DURATION_SECONDS = Histogram(
    "offkey_stage_duration_seconds",
    "Time of one stage for one poll: poll, decode, series, silence, scoring (windows included), incidents, publish "
    "(all is sent), commit (all is confirmed and the offsets are committed), checkpoint (copying, not writing), "
    "shadow (all stages of a version that alerts nobody). Of the recorder: poll, decode, file (made and written), "
    "commit, tidy.",
    ["stage"],
    buckets=_DURATION_BUCKETS,
)
GPU_MEMORY_BYTES = Gauge(
    "offkey_gpu_memory_bytes", "Memory of the GPU that this worker has taken from others; 0 where it uses none."
)
MODEL = Gauge(
    "offkey_model_info",
    "1 for each model version that partitions of this worker are judged by; two while a swap is under way.",
    ["stream", "version", "architecture"],
)
MODEL_ADOPTIONS = Counter(
    "offkey_model_adoptions",
    "Times that a partition went on with another model version, replays included.",
    ["stream"],
)
MODEL_ADOPTIONS_FAILED = Counter(
    "offkey_model_adoptions_failed",
    "Times that storage did not take what a partition adopts, model or feedback: it goes on with what it has.",
    ["stream"],
)
MODEL_LOADS_FAILED = Counter(
    "offkey_model_loads_failed",
    "Times that a champion was found damaged, of another kind, or scoring otherwise here: the old one stays.",
    ["stream"],
)
MODEL_PROMOTED = Gauge("offkey_model_promoted_timestamp_seconds", "When the model in use was promoted.", ["stream"])
SHADOW = Gauge("offkey_shadow_info", "1 for the version that scores in shadow.", ["stream", "version"])
SHADOW_POINTS = Counter("offkey_shadow_points", "Points that the version in shadow gave a score.", ["stream"])
SHADOW_INCIDENTS = Counter(
    "offkey_shadow_incidents",
    "Incidents of the champion and of the version in shadow (side), found by both or by one alone.",
    ["stream", "side", "found"],
)
SHADOW_FAILED = Counter(
    "offkey_shadow_failed",
    "Times that a version could not be had in shadow, or failed there; the champion goes on.",
    ["stream"],
)
STATE_RESTORED = Counter(
    "offkey_state_restored",
    "Partitions whose state was restored, by how: checkpoint, or cold where there was none.",
    ["stream", "how"],
)
STATE_RESET = Counter(
    "offkey_state_reset", "Times that a partition's state was thrown away after a failure.", ["stream"]
)
OFFSETS_LOST = Counter(
    "offkey_offsets_lost",
    "Records known to go unread: expired behind the committed offset, or left out by `start` after such a gap.",
    ["stream"],
)
PARTITIONS_ADDED = Counter(
    "offkey_partitions_added",
    "Partitions added to the topic after the group began on it: read from their earliest offset.",
    ["stream"],
)
CHECKPOINTS_FAILED = Counter(
    "offkey_checkpoints_failed",
    "Checkpoints that storage did not take: a restart replays more, nothing is lost.",
    ["stream"],
)
CHECKPOINTS_REFUSED = Counter(
    "offkey_checkpoints_refused",
    "Parts of checkpoints found damaged, missing or of an unknown format: the state before them is restored.",
    ["stream"],
)
SERIES_MOVED = Counter(
    "offkey_series_moved", "Series seen in a second partition; key the topic by series.", ["stream"]
)
PROCESS_RESTARTS = Counter(
    "offkey_process_restarts",
    "Times that this process of `offkey worker --processes` was started again; each port shows its own.",
)
CERTIFICATE_EXPIRES = Gauge(
    "offkey_certificate_expires_timestamp_seconds",
    "When a certificate expires that this process shows, by the section that names it: metrics (on this port) or "
    "kafka.security (to the brokers).",
    ["section"],
)
SERIES_EVICTED = Counter(
    "offkey_series_evicted",
    "Series that were forgotten, by why: max_series (too many, this one least recently seen) or series_ttl (not "
    "seen for so long). Where it keeps rising by max_series, series come back and warm up again and again.",
    ["stream", "reason"],
)
FEEDBACK = Gauge(
    "offkey_feedback", "Incidents of which something was said, as far as this worker has read it.", ["stream"]
)
FEEDBACK_UNREADABLE = Counter(
    "offkey_feedback_unreadable", "Messages in the topic of feedback that cannot be read, and are left out."
)
FEEDBACK_ADOPTIONS = Counter(
    "offkey_feedback_adoptions", "Times that a partition took up what was said, replays included.", ["stream"]
)
POINTS_EXCUSED = Counter(
    "offkey_points_excused",
    "Points that reach their series' threshold, and not the one that feedback has raised.",
    ["stream"],
)
SNAPSHOT_ROWS = Counter("offkey_snapshot_rows", "Rows in closed files of the recorder.", ["stream"])
SNAPSHOT_ROWS_OPEN = Gauge("offkey_snapshot_rows_open", "Rows that the recorder holds in memory.", ["stream"])
SNAPSHOT_REJECTED = Counter(
    "offkey_snapshot_rejected",
    "Records, or single rows of records of many, that the recorder leaves out, by reason: those that the worker "
    "sends to the dead-letter topic.",
    ["stream", "reason"],
)
SNAPSHOT_BYTES = Counter("offkey_snapshot_bytes", "Bytes of closed files of the recorder.", ["stream"])
SNAPSHOT_FILES = Counter("offkey_snapshot_files", "Ranges of offsets that the recorder has closed.", ["stream"])
SNAPSHOT_FILES_HELD = Gauge(
    "offkey_snapshot_files_held", "Files that storage held when it was last tidied.", ["stream"]
)
SNAPSHOT_HELD_BYTES = Gauge("offkey_snapshot_held_bytes", "Bytes of these files.", ["stream"])
SNAPSHOT_WRITES_FAILED = Counter(
    "offkey_snapshot_writes_failed",
    "Times that storage did not take what the recorder had to write, remove or merge: it tries again.",
    ["stream"],
)
SNAPSHOT_FILES_REFUSED = Counter(
    "offkey_snapshot_files_refused", "Files found damaged, cut off or of another schema.", ["stream"]
)
SNAPSHOT_FILES_REMOVED = Counter(
    "offkey_snapshot_files_removed",
    "Files removed, by reason: age, size, merged (another one holds their rows), damaged (their records are read "
    "again).",
    ["stream", "reason"],
)
SNAPSHOT_FILES_MERGED = Counter(
    "offkey_snapshot_files_merged", "Small files whose rows were merged into larger ones.", ["stream"]
)
RETRAIN_RUNS = Counter(
    "offkey_retrain_runs",
    "Trainings of the scheduler that have ended, by cause (first, schedule, drift, request) and outcome: promoted, "
    "refused (by the gate), no_drift, failed, lost (somebody else promoted meanwhile), time_limit, memory_limit, "
    "stopped (the scheduler stopped, or leads no more), missed (too late to begin).",
    ["stream", "cause", "outcome"],
)
RETRAIN_REFUSED = Counter(
    "offkey_retrain_refused",
    "Challengers that the gate refused, by reason: not_sound, not_calibrated, blind, worse, not_better. One may "
    "have several; not_better alone is no fault, the champion is as good.",
    ["stream", "reason"],
)
RETRAIN_DURATION_SECONDS = Histogram(
    "offkey_retrain_duration_seconds",
    "Time of a training of the scheduler, with its reading and its gate, whatever its outcome.",
    ["stream"],
    buckets=(5, 15, 60, 300, 900, 1800, 3600, 7200, 14_400, 28_800),
)
RETRAIN_LAST_SUCCESS = Gauge(
    "offkey_retrain_last_success_timestamp_seconds",
    "When a training or a look for drift last came to a result: promoted, refused or no_drift.",
    ["stream"],
)
RETRAIN_RUNNING = Gauge("offkey_retrain_running", "1 while the stream is being trained.", ["stream"])
RETRAIN_NEXT = Gauge(
    "offkey_retrain_next_timestamp_seconds", "When the stream is due next by `every` or `cron`.", ["stream"]
)
RETRAIN_REQUESTS = Counter(
    "offkey_retrain_requests",
    "Messages of the control topic, by outcome: taken, unreadable, unknown (there is no such stream).",
    ["outcome"],
)
RETRAIN_REQUESTS_OPEN = Gauge("offkey_retrain_requests_open", "Requests whose training has not ended.")
SCHEDULER_LEADER = Gauge("offkey_scheduler_leader", "1 while this scheduler owns the control topic and trains.")
SCHEDULER_STORAGE_FAILED = Counter(
    "offkey_scheduler_storage_failed", "Times that storage did not tell the scheduler of a stream.", ["stream"]
)
NOTIFY_ALERTS = Counter(
    "offkey_notify_alerts",
    "Alerts that a receiver is through with, by outcome: delivered, refused (for good), given_up (tried for "
    "retry_for), unreadable (no alert that this version knows). All but the first are dead letters.",
    ["receiver", "outcome"],
)
NOTIFY_REQUESTS = Counter(
    "offkey_notify_requests",
    "Requests to a receiver, by what was answered: 2xx, 3xx, 4xx, 5xx or no_answer.",
    ["receiver", "answer"],
)
NOTIFY_REQUEST_DURATION_SECONDS = Histogram(
    "offkey_notify_request_duration_seconds",
    "Time of one request to a receiver, until its answer is read.",
    ["receiver"],
    buckets=_DURATION_BUCKETS,
)
NOTIFY_WAITING = Gauge(
    "offkey_notify_waiting", "Alerts in memory that a receiver has still to be told of.", ["receiver"]
)
NOTIFY_LAG_RECORDS = Gauge(
    "offkey_notify_lag_records", "Records of the alerts topic that are not read for a receiver yet.", ["receiver"]
)
NOTIFY_INCIDENTS_OPEN = Gauge(
    "offkey_notify_incidents_open", "Open incidents that an Alertmanager is told of again and again.", ["receiver"]
)
NOTIFY_LAST_SUCCESS = Gauge(
    "offkey_notify_last_success_timestamp_seconds", "When a receiver last took what it was sent.", ["receiver"]
)
NOTIFY_OFFSETS_LOST = Counter(
    "offkey_notify_offsets_lost", "Alerts that expired before a receiver was told of them.", ["receiver"]
)
DRIFT_PROBABILITY = Gauge(
    "offkey_drift_probability",
    "Chance of such a shift of scores without drift, at the last look; 1 before the first one that compares.",
    ["stream"],
)
DRIFT_SHIFTED_RATIO = Gauge(
    "offkey_drift_shifted_ratio", "Share of the series whose scores had shifted at the last look.", ["stream"]
)


def measure(stage: str) -> Timer:
    """Observe how long a block takes as one stage."""
    return STAGE_DURATION_SECONDS.labels(stage).time()


def show(*counted: Counter | Histogram, **labels: Iterable[str]) -> None:
    """Have metrics tell 0 of every combination of these labels' values that has not been counted yet."""
    for each in counted:
        for values in product(*labels.values()):
            each.labels(**dict(zip(labels, values, strict=True)))


EXPOSITION = make_wsgi_app()
"""WSGI application that answers with all of them, in the format that is asked for."""

"""Every metric of offkey, with its unit: this list is the documentation.

Durations are seconds, sizes are records. Counters end in `_total`. Labels: `stream` is the stream's name in
the configuration; `reason` of a dead letter is a key of `pipeline.stages.decode.REASONS`.

Defined at import, since the client's registry is global; nothing is served before `serve`.
"""

from prometheus_client import Counter, Gauge, Histogram, start_http_server

from pipeline.errors import ConfigError

_DURATION_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_SIZE_BUCKETS = (1, 4, 16, 64, 256, 1024, 2048, 4096, 8192, 16384)

RECORDS = Counter(
    "offkey_records", "Records read from the stream's topic, replays after a restart left out.", ["stream"]
)
SCORED = Counter("offkey_points_scored", "Points that got a score.", ["stream"])
LATE = Counter("offkey_records_late", "Records not later than the last of their series: left out.", ["stream"])
WARMING = Counter(
    "offkey_points_warming", "Points that filled a series' first window and got no score.", ["stream"]
)
HELD = Counter("offkey_points_held", "Points that took a missing feature from the point before.", ["stream"])
REJECTED = Counter(
    "offkey_records_rejected", "Records sent to the dead-letter topic, by reason.", ["stream", "reason"]
)
REPLAYED = Counter("offkey_records_replayed", "Records read again after a restart, to rebuild state.", ["stream"])
ALERTS = Counter("offkey_alerts", "Alerts confirmed by the broker, by state.", ["stream", "state"])
OPEN_INCIDENTS = Gauge("offkey_incidents_open", "Incidents open now.", ["stream"])
SERIES = Gauge("offkey_series", "Series held in memory.", ["stream"])
PARTITIONS = Gauge("offkey_partitions_assigned", "Partitions that this worker reads.", ["stream"])
LAG = Gauge(
    "offkey_lag_records", "Records between this worker's position and the end of its partitions.", ["stream"]
)
BATCH_RECORDS = Histogram("offkey_batch_records", "Records of one poll.", ["stream"], buckets=_SIZE_BUCKETS)
STAGE_SECONDS = Histogram(
    "offkey_stage_duration_seconds",
    "Time of one stage for one poll: poll, decode, series, scoring (windows included), incidents, publish, commit, "
    "checkpoint.",
    ["stage"],
    buckets=_DURATION_BUCKETS,
)
MODEL = Gauge("offkey_model_info", "1 for the model version in use.", ["stream", "version", "architecture"])
MODEL_PROMOTED = Gauge("offkey_model_promoted_timestamp_seconds", "When the model in use was promoted.", ["stream"])
RESTORED = Counter(
    "offkey_state_restored",
    "Partitions whose state was restored, by how: checkpoint, or cold where there was none.",
    ["stream", "how"],
)
RESTARTS = Counter(
    "offkey_state_reset", "Times that state was thrown away after a failure, to be restored.", ["stream"]
)
OFFSET_GAPS = Counter("offkey_offsets_lost", "Records that expired before they were read.", ["stream"])
WRONG_PARTITION = Counter(
    "offkey_series_moved", "Series seen in a second partition; key the topic by series.", ["stream"]
)


def serve(host: str, port: int) -> int:
    """Serve `/metrics`; return the port, which is a free one where 0 was asked for.

    Raises:
        ConfigError: the address cannot be bound.
    """
    try:
        server, _ = start_http_server(port, addr=host)
    except OSError as error:
        raise ConfigError(
            f"metrics: cannot listen on {host}:{port} ({error.strerror}); set `metrics.host` and `metrics.port`"
        ) from error
    return int(server.server_port)

"""A worker's page: where the time goes, what waits, what it holds; and the recorder."""

from deploy.grafana.panels import STREAMS, Page, Panel

_ONE = 'job="offkey-worker",instance=~"$instance"'
_OF = f'{_ONE},stream=~"$stream"'
_SCORING = f'{_ONE},stage="scoring"'
_RECORDER = 'job="offkey-recorder",stream=~"$stream"'

WORKER = Page(
    uid="offkey-worker",
    title="offkey: worker",
    description="Where workers' and recorders' time goes, what waits, and what they hold.",
    variables={
        "stream": STREAMS,
        "instance": 'label_values(offkey_partitions_assigned{job="offkey-worker"}, instance)',
    },
    rows={
        "Load": [
            Panel(
                "Records waiting",
                "Records between a worker's position and the end of its partitions.",
                "short",
                {"{{instance}}: {{stream}}": f"offkey_lag_records{{{_OF}}}"},
            ),
            Panel(
                "Records read",
                "Records a second, replays left out.",
                "cps",
                {
                    "{{instance}}": f"sum by (instance) (rate(offkey_records_total{{{_OF}}}[$__rate_interval]))",
                },
            ),
            Panel(
                "Records of a poll",
                "Half of the polls, and 99 of 100, hold so many records at most.",
                "short",
                {
                    "half": "histogram_quantile(0.5, sum by (le) (rate(offkey_batch_records_bucket"
                    f"{{{_OF}}}[$__rate_interval])))",
                    "99%": "histogram_quantile(0.99, sum by (le) (rate(offkey_batch_records_bucket"
                    f"{{{_OF}}}[$__rate_interval])))",
                },
            ),
        ],
        "Stages": [
            Panel(
                "Where the time goes",
                "Seconds of each second that the loop spends in a stage. Much `poll` is idle; the others are work.",
                "percentunit",
                {
                    "{{stage}}": "sum by (stage) (rate(offkey_stage_duration_seconds_sum"
                    f"{{{_ONE}}}[$__rate_interval])) / on () group_left () count(up{{{_ONE}}})",
                },
                kind="stack",
                width=12,
            ),
            Panel(
                "Longest time of a stage",
                "99 of 100 polls take no longer in a stage.",
                "s",
                {"{{stage}}": 'job_stage:offkey_stage_duration_seconds:p99_5m{job="offkey-worker"}'},
                logarithmic=True,
                width=12,
            ),
        ],
        "What it holds": [
            Panel(
                "Partitions",
                "Partitions that a worker reads. A group with more workers than partitions has some with none.",
                "short",
                {"{{instance}}: {{stream}}": f"offkey_partitions_assigned{{{_OF}}}"},
                width=6,
            ),
            Panel(
                "Series",
                "Series held in memory; `max_series` bounds them.",
                "short",
                {"{{instance}}: {{stream}}": f"offkey_series{{{_OF}}}"},
                width=6,
            ),
            Panel(
                "Memory",
                "Memory of the process; compare with `offkey plan`.",
                "bytes",
                {"{{instance}}": f"process_resident_memory_bytes{{{_ONE}}}"},
                width=6,
            ),
            Panel(
                "Processor",
                "Cores that the process uses.",
                "short",
                {"{{instance}}": f"rate(process_cpu_seconds_total{{{_ONE}}}[$__rate_interval])"},
                width=6,
            ),
        ],
        "GPU and points": [
            Panel(
                "GPU memory",
                "Memory of the GPU that the worker has taken from others; 0 where it uses none.",
                "bytes",
                {"{{instance}}": f"offkey_gpu_memory_bytes{{{_ONE}}}"},
                width=6,
            ),
            Panel(
                "Scoring",
                "Seconds that scoring takes of a poll, mean; on a GPU with the transfers.",
                "s",
                {
                    "{{instance}}": f"sum by (instance) (rate(offkey_stage_duration_seconds_sum{{{_SCORING}}}"
                    f"[$__rate_interval])) / sum by (instance) (rate(offkey_stage_duration_seconds_count"
                    f"{{{_SCORING}}}[$__rate_interval]))",
                },
                width=6,
            ),
            Panel(
                "Points without a score",
                "Points a second that fill a series' first window (warming), are late, or took a value from the "
                "one before (held; these have a score that raises nothing).",
                "cps",
                {
                    "warming": f"sum(rate(offkey_points_warming_total{{{_OF}}}[$__rate_interval]))",
                    "late": f"sum(rate(offkey_records_late_total{{{_OF}}}[$__rate_interval]))",
                    "held": f"sum(rate(offkey_points_held_total{{{_OF}}}[$__rate_interval]))",
                },
                width=6,
            ),
            Panel(
                "Series that left or moved",
                "Series of a day that made room (max_series), were not seen for long (series_ttl), or stand in two "
                "partitions.",
                "short",
                {
                    "{{reason}}": f"sum by (reason) (increase(offkey_series_evicted_total{{{_OF}}}[1d]))",
                    "in two partitions": f"sum(increase(offkey_series_moved_total{{{_OF}}}[1d]))",
                },
                width=6,
            ),
        ],
        "Restarts and checkpoints": [
            Panel(
                "Checkpoints that failed",
                "Of a day: not taken by storage, or found damaged at a restart.",
                "short",
                {
                    "not taken": f"sum(increase(offkey_checkpoints_failed_total{{{_OF}}}[1d]))",
                    "damaged": f"sum(increase(offkey_checkpoints_refused_total{{{_OF}}}[1d]))",
                },
            ),
            Panel(
                "Partitions restored",
                "Of a day, by how: from a checkpoint, or cold where there was none, so that series warm up again.",
                "short",
                {
                    "{{how}}": f"sum by (how) (increase(offkey_state_restored_total{{{_OF}}}[1d]))",
                    "thrown away": f"sum(increase(offkey_state_reset_total{{{_OF}}}[1d]))",
                },
            ),
            Panel(
                "Records read again",
                "Records a second that were replayed to rebuild state.",
                "cps",
                {
                    "{{instance}}": "sum by (instance) (rate(offkey_records_replayed_total"
                    f"{{{_OF}}}[$__rate_interval]))",
                },
            ),
        ],
        "Recorder": [
            Panel(
                "Records waiting for the recorder",
                "Records between the recorder's position and the end of its partitions.",
                "short",
                {"{{stream}}": f"sum by (stream) (offkey_lag_records{{{_RECORDER}}})"},
                width=6,
            ),
            Panel(
                "Rows in no file yet",
                "Rows that the recorder holds in memory; they are read again after a restart.",
                "short",
                {"{{stream}}": f"sum by (stream) (offkey_snapshot_rows_open{{{_RECORDER}}})"},
                width=6,
            ),
            Panel(
                "Snapshots",
                "Bytes that storage held of a stream when it was last tidied.",
                "bytes",
                {"{{stream}}": f"max by (stream) (offkey_snapshot_held_bytes{{{_RECORDER}}})"},
                width=6,
            ),
            Panel(
                "Writes that failed",
                "Of a day: what storage did not take, and files found damaged.",
                "short",
                {
                    "not taken": f"sum(increase(offkey_snapshot_writes_failed_total{{{_RECORDER}}}[1d]))",
                    "damaged": f"sum(increase(offkey_snapshot_files_refused_total{{{_RECORDER}}}[1d]))",
                },
                width=6,
            ),
        ],
    },
)

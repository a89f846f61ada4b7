"""The page of models: versions, gate, drift, swaps, shadows and feedback."""

from deploy.grafana.panels import STREAMS, Page, Panel

_WORKER = 'job="offkey-worker",stream=~"$stream"'
_SCHEDULER = 'job="offkey-scheduler",stream=~"$stream"'

MODELS = Page(
    uid="offkey-models",
    title="offkey: models",
    description="Which versions serve, what the gate says of new ones, drift, swaps, shadows and feedback.",
    variables={"stream": STREAMS},
    rows={
        "In use": [
            Panel(
                "Versions",
                "Versions that partitions are judged by, and by how many workers; two while a swap is under way.",
                "none",
                {"": f"count by (stream, version, architecture) (offkey_model_info{{{_WORKER}}} == 1)"},
                kind="table",
                width=12,
            ),
            Panel(
                "Age of the champion",
                "Time since the model in use was promoted.",
                "s",
                {"{{stream}}": f"time() - max by (stream) (offkey_model_promoted_timestamp_seconds{{{_WORKER}}})"},
                width=12,
            ),
        ],
        "The gate": [
            Panel(
                "Trainings by outcome",
                "Of a day. Promoted, refused and no_drift are verdicts; the others are not.",
                "short",
                {"{{outcome}}": f"sum by (outcome) (increase(offkey_retrain_runs_total{{{_SCHEDULER}}}[1d]))"},
                kind="stack",
            ),
            Panel(
                "Why challengers were refused",
                "Of a week. not_better is no fault: the champion is as good.",
                "short",
                {"{{reason}}": f"sum by (reason) (increase(offkey_retrain_refused_total{{{_SCHEDULER}}}[7d]))"},
                kind="stack",
            ),
            Panel(
                "How long trainings take",
                "Nine of ten trainings of a day, with reading and gate; `retrain.max_time` ends them.",
                "s",
                {
                    "{{stream}}": "histogram_quantile(0.9, sum by (stream, le) (increase("
                    f"offkey_retrain_duration_seconds_bucket{{{_SCHEDULER}}}[1d])))",
                },
            ),
        ],
        "The scheduler": [
            Panel(
                "Leaders",
                "Of the schedulers of a group one leads.",
                "short",
                {"leaders": 'sum(offkey_scheduler_leader{job="offkey-scheduler"})'},
                kind="number",
                width=6,
            ),
            Panel(
                "Training now",
                "Streams that are being trained, and requests that wait.",
                "short",
                {
                    "trained": f"sum(offkey_retrain_running{{{_SCHEDULER}}})",
                    "requests": 'sum(offkey_retrain_requests_open{job="offkey-scheduler"})',
                },
                kind="number",
                width=6,
            ),
            Panel(
                "Next training",
                "Time until the stream is due by `every` or `cron`.",
                "s",
                {"{{stream}}": f"min by (stream) (offkey_retrain_next_timestamp_seconds{{{_SCHEDULER}}}) - time()"},
                kind="number",
                width=6,
            ),
            Panel(
                "Last verdict",
                "Time since a training or a look for drift last came to a result.",
                "s",
                {
                    "{{stream}}": "time() - max by (stream) (offkey_retrain_last_success_timestamp_seconds"
                    f"{{{_SCHEDULER}}})",
                },
                kind="number",
                width=6,
            ),
        ],
        "Drift": [
            Panel(
                "Chance of the shift",
                "How likely such a shift of scores is without drift, at the last look; 1 before the first. Drift "
                "is told far below 0.001, so that a stream without it is trained for it in one of twenty years.",
                "none",
                {"{{stream}}": f"max by (stream) (offkey_drift_probability{{{_SCHEDULER}}})"},
                logarithmic=True,
                width=12,
            ),
            Panel(
                "Series whose scores have shifted",
                "Share of the series at the last look.",
                "percentunit",
                {"{{stream}}": f"max by (stream) (offkey_drift_shifted_ratio{{{_SCHEDULER}}})"},
                width=12,
            ),
        ],
        "Swaps": [
            Panel(
                "Adoptions",
                "Of a day: partitions that went on with another version, replays included.",
                "short",
                {"{{stream}}": f"sum by (stream) (increase(offkey_model_adoptions_total{{{_WORKER}}}[1d]))"},
            ),
            Panel(
                "Champions that were not taken",
                "Of a day: damaged or unfit versions, and adoptions that storage did not take.",
                "short",
                {
                    "not fit": f"sum(increase(offkey_model_loads_failed_total{{{_WORKER}}}[1d]))",
                    "not stored": f"sum(increase(offkey_model_adoptions_failed_total{{{_WORKER}}}[1d]))",
                },
                red_from=1,
            ),
            Panel(
                "In shadow",
                "Of a day: incidents of the champion and of the version in shadow, found by both or by one alone.",
                "short",
                {
                    "{{side}}: {{found}}": "sum by (side, found) (increase(offkey_shadow_incidents_total"
                    f"{{{_WORKER}}}[1d]))",
                },
            ),
        ],
        "Feedback": [
            Panel(
                "Incidents of which something was said",
                "As far as workers have heard it.",
                "short",
                {"{{stream}}": f"max by (stream) (offkey_feedback{{{_WORKER}}})"},
            ),
            Panel(
                "Feedback taken up",
                "Of a day: times that a partition took up what was said, replays included.",
                "short",
                {"{{stream}}": f"sum by (stream) (increase(offkey_feedback_adoptions_total{{{_WORKER}}}[1d]))"},
            ),
            Panel(
                "Points excused",
                "Points a second that reach their series' threshold, and not the one that feedback has raised.",
                "cps",
                {
                    "{{stream}}": "sum by (stream) (rate(offkey_points_excused_total"
                    f"{{{_WORKER}}}[$__rate_interval]))"
                },
            ),
        ],
    },
)

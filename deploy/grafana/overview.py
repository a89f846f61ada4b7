"""The overview: incidents, scores and budgets of all streams, and who is told."""

from deploy.grafana.panels import STREAMS, Page, Panel

_WORKER = 'job="offkey-worker",stream=~"$stream"'
_NOTIFY = 'job="offkey-notify"'

OVERVIEW = Page(
    uid="offkey-overview",
    title="offkey: overview",
    description="Incidents, scores and budgets of all streams, and who is told of them.",
    variables={"stream": STREAMS},
    rows={
        "Now": [
            Panel(
                "Open incidents",
                "Incidents that have begun and not ended, muted ones too.",
                "short",
                {"open": f"sum(offkey_incidents_open{{{_WORKER}}})"},
                kind="number",
                width=6,
            ),
            Panel(
                "Processes that answer",
                "Workers, recorders, schedulers and notifiers that answered Prometheus at its last scrape.",
                "short",
                {"up": 'sum(up{job=~"offkey-.+"})'},
                kind="number",
                width=6,
            ),
            Panel(
                "Records waiting",
                "Records in the topics that no worker has judged yet.",
                "short",
                {"waiting": f"sum(offkey_lag_records{{{_WORKER}}})"},
                kind="number",
                width=6,
            ),
            Panel(
                "Alerts that nobody was told of",
                "Refused, given up or unreadable within the last day: they are dead letters.",
                "short",
                {
                    "lost": f'sum(increase(offkey_notify_alerts_total{{{_NOTIFY},outcome!="delivered"}}[1d]))',
                },
                kind="number",
                width=6,
                red_from=1,
            ),
        ],
        "Incidents": [
            Panel(
                "Incidents of a day, and the budget",
                "Incidents that began or began again within a day, beside the false ones that `alerts.budget` "
                "allows for the points scored. Where nothing happens the two are about equal.",
                "short",
                {
                    "{{stream}}": 'stream:offkey_incidents:increase1d{stream=~"$stream"}',
                    "{{stream}}: budget": 'stream:offkey_incidents_allowed:increase1d{stream=~"$stream"}',
                },
            ),
            Panel(
                "Open incidents by stream",
                "A level that stays is accepted after `alerts.accept_after`, so this falls again by itself.",
                "short",
                {"{{stream}}": f"sum by (stream) (offkey_incidents_open{{{_WORKER}}})"},
            ),
            Panel(
                "Alerts by state",
                "Alerts that the broker has confirmed. `storm` is one alert for many series at once.",
                "cpm",
                {"{{state}}": f"60 * sum by (state) (rate(offkey_alerts_total{{{_WORKER}}}[$__rate_interval]))"},
                kind="stack",
            ),
        ],
        "Scores": [
            Panel(
                "Points that reach a score",
                "Of normal points one in 10 reaches 10, one in 100 reaches 20, one in 1,000 reaches 30. A line "
                "that lies far above its share for days says that the model no longer fits.",
                "percentunit",
                {
                    "{{score}} and more": "sum by (score) (rate(offkey_points_reached_total"
                    f"{{{_WORKER}}}[$__rate_interval])) / on () group_left () "
                    f"sum(rate(offkey_points_scored_total{{{_WORKER}}}[$__rate_interval]))",
                },
                logarithmic=True,
            ),
            Panel(
                "Points scored",
                "Points a second that got a score.",
                "cps",
                {"{{stream}}": 'stream:offkey_points_scored:rate5m{stream=~"$stream"}'},
            ),
            Panel(
                "Alerts that were muted",
                "Incidents that began in a storm or in a window of `alerts.maintenance`, and were not told.",
                "cpm",
                {
                    "{{reason}}": "60 * sum by (reason) (rate(offkey_alerts_muted_total"
                    f"{{{_WORKER}}}[$__rate_interval]))"
                },
            ),
        ],
        "Records": [
            Panel(
                "Records read",
                "Records a second that workers have read, replays left out.",
                "cps",
                {"{{stream}}": 'job_stream:offkey_records:rate5m{job="offkey-worker",stream=~"$stream"}'},
            ),
            Panel(
                "Records that became dead letters",
                "Share of the records that cannot be scored, of the last quarter of an hour.",
                "percentunit",
                {"{{stream}}": 'stream:offkey_records_rejected:ratio15m{stream=~"$stream"}'},
            ),
            Panel(
                "Records that came late",
                "Share of the records that are not later than the last of their series, and left out.",
                "percentunit",
                {"{{stream}}": 'stream:offkey_records_late:ratio15m{stream=~"$stream"}'},
            ),
        ],
        "Who is told": [
            Panel(
                "Alerts delivered",
                "Alerts that a receiver is through with, by outcome.",
                "cpm",
                {
                    "{{receiver}}: {{outcome}}": "60 * sum by (receiver, outcome) "
                    f"(rate(offkey_notify_alerts_total{{{_NOTIFY}}}[$__rate_interval]))",
                },
            ),
            Panel(
                "Alerts waiting",
                "Alerts that a receiver has still to be told of, read or not.",
                "short",
                {
                    "{{receiver}}": "sum by (receiver) "
                    f"(offkey_notify_waiting{{{_NOTIFY}}} + offkey_notify_lag_records{{{_NOTIFY}}})",
                },
            ),
            Panel(
                "Requests to receivers",
                "By what was answered; `no_answer` is a time-out or nobody there.",
                "cpm",
                {
                    "{{receiver}}: {{answer}}": "60 * sum by (receiver, answer) "
                    f"(rate(offkey_notify_requests_total{{{_NOTIFY}}}[$__rate_interval]))",
                },
            ),
        ],
    },
)

"""Settings that do not go together: one line at the one of them to mend."""

from pathlib import Path

from tests.pipeline.configurations import GOOD, check_one_clear_line, each_of

MISTAKES = [
    (
        GOOD + "    format: arrow\n    time: ts\n    time_unit: iso8601\n",
        ":6: streams.machines.time_unit: `format: arrow` takes timestamps or numbers as time, not text",
    ),
    (GOOD + "    kind: features\n    missing: hold\n", ":5: streams.machines.missing: `hold` needs `kind: series`"),
    (GOOD + "    kind: features\n    series: [host]\n", ":5: streams.machines.series: it needs `kind: series`"),
    (GOOD + "  b:\n    topic: metrics\n", ":5: streams.b.topic: stream machines reads topic metrics too; keep one"),
    (GOOD + "topics: {alerts: metrics}\n", ":3: streams.machines.topic: topic metrics is one that offkey writes"),
    (GOOD + "topics: {alerts: a, dead_letters: a}\n", ":4: topics: alerts and dead letters both go to one topic"),
    (GOOD + "topics: {feedback: metrics}\n", ":3: streams.machines.topic: topic metrics is one that offkey writes"),
    (GOOD + "topics: {alerts: a, feedback: a}\n", ":4: topics.feedback: another topic of offkey has that name"),
    (
        GOOD + "    window: 8\n",
        ":4: streams.machines.window: it belongs to a single architecture of a series; leave",
    ),
    (
        GOOD + "    kind: features\n    model: {architecture: vanilla}\n    window: 8\n",
        ":6: streams.machines.window: it belongs to a single architecture of a series; leave it out",
    ),
    (
        GOOD + "    retrain: {every: 1d, cron: '0 2 * * *'}\n",
        ":4: streams.machines.retrain.cron: `every` says when already; keep one of them",
    ),
    (GOOD + "topics: {control: offkey.alerts}\n", ":4: topics.control: another topic of offkey has that name"),
    (GOOD + "topics: {control: metrics}\n", ":3: streams.machines.topic: topic metrics is one that offkey writes"),
]


@each_of(MISTAKES)
def test_a_mistake_is_one_clear_line(text: str, said: str, tmp_path: Path) -> None:
    check_one_clear_line(tmp_path, text, said)

"""Sizes, times and schedules: each unit is read, and what is none, too small or too large is one line."""

from pathlib import Path

import pytest

from pipeline.config import load_settings
from pipeline.setting_types import parse_size
from tests.pipeline.configurations import GOOD, check_one_clear_line, each_of, write

MISTAKES = [
    (
        GOOD + "    record: {keep_bytes: 5 parsecs}\n",
        ":4: streams.machines.record.keep_bytes: '5 parsecs' is no size; write for example 64 MiB or 100 GB",
    ),
    (GOOD + "    record: {keep_bytes: 0}\n", ":4: streams.machines.record.keep_bytes: 0 is too small"),
    (GOOD + "recorder: {open_bytes: true}\n", ":4: recorder.open_bytes: True is no size"),
    (GOOD + "    retrain: {every: 0s}\n", ":4: streams.machines.retrain.every: '0s' is too short or too long"),
    (GOOD + "    retrain: {drift_block: 1h}\n", ":4: streams.machines.retrain.drift_block: '1h' is too short"),
    (
        GOOD + "    retrain: {cron: '0 2 * * 0'}\n",
        ":4: streams.machines.retrain.cron: '0 2 * * 0' has a number for the day of the week",
    ),
    (GOOD + "    record: {keep: 0}\n", ":4: streams.machines.record.keep: 0 is too short or too long; write one"),
    (
        GOOD + "    max_ahead: 5 parsecs\n",
        ":4: streams.machines.max_ahead: '5 parsecs' is no duration; write for ex",
    ),
    (
        GOOD + "kafka: {connect_timeout: 0}\n",
        ":4: kafka.connect_timeout: 0 is too short or too long; write one from 1ms to 24 days",
    ),
    (GOOD + "kafka: {connect_timeout: -1}\n", ":4: kafka.connect_timeout: -1 is no duration"),
    (GOOD + "kafka: {connect_timeout: .nan}\n", ":4: kafka.connect_timeout: nan is no duration"),
    (GOOD + "kafka: {connect_timeout: .inf}\n", ":4: kafka.connect_timeout: inf is no duration"),
    (GOOD + "kafka: {connect_timeout: 0.01ms}\n", ":4: kafka.connect_timeout: '0.01ms' is too short or too long"),
    (GOOD + "kafka: {connect_timeout: 25 days}\n", ":4: kafka.connect_timeout: '25 days' is too short or too long"),
    (
        GOOD + "kafka: {session_timeout: 100ms}\n",
        ":4: kafka.session_timeout: '100ms' is too short or too long; write one from 1s to 24",
    ),
    (
        GOOD + "kafka: {fetch_max_wait: 10s}\n",
        ":4: kafka.fetch_max_wait: '10s' is too short or too long; write one from 1ms to 5s",
    ),
    (GOOD + "worker: {checkpoint_every: 0s}\n", ":4: worker.checkpoint_every: '0s' is too short or too long"),
]


@each_of(MISTAKES)
def test_a_mistake_is_one_clear_line(text: str, said: str, tmp_path: Path) -> None:
    check_one_clear_line(tmp_path, text, said)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (4096, 4096),
        ("4096", 4096),
        ("100 GB", 100 * 1000**3),
        ("1.5 GiB", 3 * 2**29),
        ("64MiB", 2**26),
        ("2k", 2000),
        ("7 B", 7),
    ],
)
def test_sizes(text: str | int, size: int) -> None:
    assert parse_size(text) == size


def test_what_is_kept_of_a_stream_unless_you_say(tmp_path: Path) -> None:
    kept = load_settings(write(tmp_path, GOOD)).streams["machines"].record
    assert (kept.keep, kept.keep_bytes) == (90 * 86_400, None)
    never = load_settings(write(tmp_path, GOOD + "    record: {keep: never, keep_bytes: 2 TB}\n"))
    assert never.streams["machines"].record.keep is None
    assert never.streams["machines"].record.keep_bytes == 2 * 10**12

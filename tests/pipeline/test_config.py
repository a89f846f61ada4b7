"""Every mistake in a configuration is one line that names file, line, key and remedy."""

import json
from importlib.resources import files
from pathlib import Path

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import load_settings
from pipeline.errors import ConfigError
from pipeline.setting_types import parse_size, split_path
from tests.schemas import generated, text_of

GOOD = "streams:\n  machines:\n    topic: metrics\n"


VIEW = "streams.machines.model.views.1."


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "offkey.yaml"
    path.write_text(text)
    return path


MISTAKES = [
    # Keys and values.
    (
        GOOD + "    kind: seris\n",
        ":4: streams.machines.kind is 'seris'; it takes 'series', 'features' or 'images'; did you mean",
    ),
    (GOOD + "    kind: zzz\n", ":4: streams.machines.kind is 'zzz'; it takes 'series', 'features' or 'images'"),
    (GOOD + "    fetures: [a]\n", ":4: streams.machines.fetures is no setting; did you mean 'features'?"),
    (
        GOOD + "kafka:\n  bootstrap_server: x\n",
        ":5: kafka.bootstrap_server is no setting; did you mean 'bootstrap_",
    ),
    ("kafak: {}\n" + GOOD, ":1: kafak is no setting; did you mean 'kafka'?"),
    (GOOD + "zzz: 1\n", ":4: zzz is no setting; there are: device, kafka"),
    (GOOD + "_env_file: x\n", ":4: _env_file is no setting; there are: device, kafka"),
    (GOOD + "Kafka: {}\n", ":4: Kafka is no setting; did you mean 'kafka'?"),
    (GOOD + "    topic: b\n", ":4: streams.machines.topic is there already, in line 3; keep one"),
    (GOOD + "kafka:\n", ":4: kafka is empty; it takes keys of its own below it: write that"),
    (GOOD + "kafka: [a]\n", ":4: kafka is ['a']; it takes keys of its own below it"),
    ("streams:\n  a:\n", ":2: streams.a is empty; it takes keys of its own below it"),
    ("streams:\n  a: metrics\n", ":2: streams.a is 'metrics'; it takes keys of its own below it"),
    ("streams: [a]\n", ":1: streams is ['a']; it takes keys of its own below it"),
    ("streams:\n  a: {}\n", ":2: streams.a.topic is missing; add it"),
    ("kafka: {}\n", ":1: streams is missing; add it"),
    ("streams: {}\n", ":1: streams is empty; write at least one below it"),
    (
        GOOD + "    features: cpu\n",
        ":4: streams.machines.features is 'cpu'; it takes a list, such as [cpu, memory]",
    ),
    (GOOD + "    features: [1]\n", ":4: streams.machines.features.0 is 1; it takes text: put quotes around it"),
    (GOOD + "    window: 1\n", ":4: streams.machines.window is 1; it takes 2 or more"),
    (GOOD + "    window: 8.5\n", ":4: streams.machines.window is 8.5; it takes a whole number"),
    (GOOD + "    window: .nan\n", ":4: streams.machines.window is nan; it takes a whole number"),
    (GOOD + "    window: [8]\n", ":4: streams.machines.window is [8]; it takes a whole number"),
    (GOOD + "    window: wide\n", ":4: streams.machines.window is 'wide'; it takes a whole number"),
    (GOOD + "    hold_points: true\n", ":4: streams.machines.hold_points: True is no number; write one"),
    (GOOD + "kafka: {max_poll_records: 1" + "0" * 30 + "}\n", ":4: kafka.max_poll_records is 10000"),
    (GOOD + "metrics: {port: 70000}\n", ":4: metrics.port is 70000; it takes 65535 or less"),
    (GOOD + "metrics: {host: ''}\n", ":4: metrics.host: '' is no name"),
    # Sizes, times and budgets.
    (
        GOOD + "    record: {keep_bytes: 5 parsecs}\n",
        ":4: streams.machines.record.keep_bytes: '5 parsecs' is no size; write for example 64 MiB or 100 GB",
    ),
    (GOOD + "    record: {keep_bytes: 0}\n", ":4: streams.machines.record.keep_bytes: 0 is too small"),
    (GOOD + "recorder: {open_bytes: true}\n", ":4: recorder.open_bytes: True is no size"),
    (GOOD + "    retrain: {evry: 1h}\n", ":4: streams.machines.retrain.evry is no setting; did you mean 'every'?"),
    (GOOD + "    retrain: {every: 0s}\n", ":4: streams.machines.retrain.every: '0s' is too short or too long"),
    (GOOD + "    retrain: {drift_block: 1h}\n", ":4: streams.machines.retrain.drift_block: '1h' is too short"),
    (GOOD + "    retrain: {on_drift: 1}\n", ":4: streams.machines.retrain.on_drift: 1 is neither true nor false"),
    (
        GOOD + "    retrain: {every: 1d, cron: '0 2 * * *'}\n",
        ":4: streams.machines.retrain.cron: `every` says when already; keep one of them",
    ),
    (
        GOOD + "    retrain: {cron: '0 2 * * 0'}\n",
        ":4: streams.machines.retrain.cron: '0 2 * * 0' has a number for the day of the week",
    ),
    (GOOD + "topics: {control: offkey.alerts}\n", ":4: topics.control: another topic of offkey has that name"),
    (GOOD + "topics: {control: metrics}\n", ":3: streams.machines.topic: topic metrics is one that offkey writes"),
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
    (GOOD + "    alerts: {budget: 3 a day}\n", ":4: streams.machines.alerts.budget: '3 a day' is no budget; write"),
    (GOOD + "    alerts: {budget: 3}\n", ":4: streams.machines.alerts.budget is 3; it takes text: put quotes"),
    (GOOD + "    model: {network: 3}\n", ":4: streams.machines.model.network is 3; it takes text: put quotes"),
    (GOOD + "    model: {network: [linear]}\n", ":4: streams.machines.model.network is ['linear']; it takes text"),
    # Names.
    ("streams:\n  a:\n    topic: 'a b'\n", ":3: streams.a.topic: 'a b' is no name for Kafka; write up to 249"),
    ("streams:\n  a:\n    topic: ..\n", ":3: streams.a.topic: '..' is no name for Kafka"),
    ("streams:\n  a:\n    topic: ''\n", ":3: streams.a.topic: '' is no name for Kafka"),
    ("streams:\n  a:\n    topic: 3\n", ":3: streams.a.topic is 3; it takes text: put quotes around it"),
    ("streams:\n  a:\n    topic: " + "x" * 250 + "\n", ":3: streams.a.topic: 'xxxx"),
    (GOOD + "topics: {alerts: 'ümläut'}\n", ":4: topics.alerts: 'ümläut' is no name for Kafka"),
    (GOOD + "kafka: {bootstrap_servers: ''}\n", ":4: kafka.bootstrap_servers: '' is no address; write host:port"),
    (GOOD + "kafka: {bootstrap_servers: 'a:1,'}\n", ":4: kafka.bootstrap_servers: '' is no address"),
    (GOOD + "kafka: {bootstrap_servers: 'a:x'}\n", ":4: kafka.bootstrap_servers: 'a:x' is no address"),
    (GOOD + "kafka: {bootstrap_servers: 'a:99999'}\n", ":4: kafka.bootstrap_servers: 'a:99999' is no address"),
    (GOOD + "kafka: {bootstrap_servers: 'SSL://a:1'}\n", ":4: kafka.bootstrap_servers: 'SSL://a:1' is no address"),
    (GOOD + "kafka: {group_id: ''}\n", ":4: kafka.group_id: '' is no name"),
    (GOOD + "kafka: {instance_id: 'a b'}\n", ":4: kafka.instance_id: 'a b' is no name for Kafka"),
    (GOOD + "storage: ftp://x\n", ":4: storage: 'ftp://x' is neither file:///folder nor s3://bucket/prefix; write"),
    ("streams:\n  'a b':\n    topic: t\n", ":2: streams.a b: a stream's name has letters, digits"),
    ('streams:\n  "a\\nb": {}\n', ":2: 'streams.a\\nb.topic' is missing; add it"),
    ('streams:\n  "a\\nb": {topic: a, topic: b}\n', ":2: 'streams.a\\nb.topic' is there already, in line 2"),
    (GOOD + "x" * 500 + ": 1\n", ":4: 'xxxx"),
    # Fields.
    (GOOD + "    features: [a, a]\n", ":4: streams.machines.features: 'a' is listed twice; keep one"),
    (GOOD + "    series: [a, a]\n", ":4: streams.machines.series: 'a' is listed twice; keep one"),
    (GOOD + "    features: []\n", ":4: streams.machines.features: the list is empty; name some fields"),
    (GOOD + "    series: []\n", ":4: streams.machines.series: the list is empty; name some fields"),
    (
        GOOD + "    features: [a..b]\n",
        ":4: streams.machines.features.0: 'a..b' is no field: a name between dots is",
    ),
    (GOOD + '    time: "a\\0b"\n', ":4: streams.machines.time: 'a\\x00b' is no name"),
    (
        GOOD + "    time: ts\n    features: [ts]\n",
        ":5: streams.machines.features: 'ts' is in `time` too; take it out of one of them",
    ),
    (
        GOOD + "    series: [host]\n    time: host\n",
        ":4: streams.machines.series: 'host' is in `time` too; take it out of one of them",
    ),
    (
        GOOD + "    features: [cpu.load, b, cpu]\n",
        ":4: streams.machines.features: 'cpu.load' lies inside 'cpu' in `features`",
    ),
    # What does not go together.
    (
        GOOD + "    format: arrow\n    time: ts\n    time_unit: iso8601\n",
        ":6: streams.machines.time_unit: `format: arrow` takes timestamps or numbers as time, not text",
    ),
    (
        GOOD + "    format: arow\n",
        ":4: streams.machines.format is 'arow'; it takes 'json', 'arrow', 'png' or 'jpeg'; did you mean",
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
        GOOD + "    kind: features\n    alerts:\n      delay: 2\n",
        ":6: streams.machines.alerts.delay: it needs `kind: series`: after a record of features comes no other",
    ),
    (
        GOOD + "    kind: features\n    alerts:\n      accept_after: 2d\n",
        ":6: streams.machines.alerts.accept_after: it needs `kind: series`: records of features have no level",
    ),
    (
        GOOD + "    alerts: {accept_after: soon}\n",
        ":4: streams.machines.alerts.accept_after: 'soon' is no duration; write for example 30s, 5 min, 2h or 1 day"
        ", or never",
    ),
    (
        GOOD + "    alerts: {accept_after: 0}\n",
        ":4: streams.machines.alerts.accept_after: 0 is too short or too long; write one from 1s to 36500 days, or "
        "never",
    ),
    (
        GOOD + "    kind: features\n    alerts:\n      silence: 5\n",
        ":6: streams.machines.alerts.silence: it needs `kind: series`: records of features have no interval",
    ),
    (
        GOOD + "    kind: features\n    alerts:\n      repeat_after: 1h\n",
        ":6: streams.machines.alerts.repeat_after: it needs `kind: series`: records of features raise",
    ),
    (
        GOOD + "    alerts: {repeat_after: often}\n",
        ":4: streams.machines.alerts.repeat_after: 'often' is no duration; write for example 30s, 5 min, 2h or 1 "
        "day, or never",
    ),
    (GOOD + "    alerts: {silence: 1}\n", ":4: streams.machines.alerts.silence is 1; it takes 2 or more"),
    # Budgets of streams, storms, maintenance.
    (
        GOOD + "    alerts:\n      stream_budget: 1 per 1000 records\n",
        ":5: streams.machines.alerts.stream_budget: a budget of all series needs times, not records",
    ),
    (
        GOOD + "    alerts:\n      stream_budget: 1 per day\n      budget: 1 per 1000 points\n",
        ":6: streams.machines.alerts.budget: a budget of all series needs times, not records",
    ),
    (
        GOOD + "    kind: features\n    alerts:\n      stream_budget: 1 per day\n",
        ":6: streams.machines.alerts.stream_budget: it needs `kind: series`: records of features have one budget",
    ),
    (GOOD + "    alerts: {storm: 1}\n", ":4: streams.machines.alerts.storm is 1; it takes 2 or more"),
    (
        GOOD + "    alerts: {storm_within: 1 min}\n",
        ":4: streams.machines.alerts.storm_within: it needs `storm`, a number of series; set that too",
    ),
    (
        GOOD + "    alerts: {storm: 5, storm_within: 2 days}\n",
        ":4: streams.machines.alerts.storm_within: '2 days' is too short or too long; write one from 1ms to 1 day",
    ),
    (
        GOOD
        + "    alerts:\n      maintenance:\n      - {from: 2026-03-01T22:00Z, to: 2026-03-02T22:00Z, form: a}\n",
        ":6: streams.machines.alerts.maintenance.0.form is no setting; did you mean 'from'?",
    ),
    (
        GOOD + "    alerts:\n      maintenance:\n      - {to: 2026-03-02T22:00:00Z}\n",
        ":6: streams.machines.alerts.maintenance.0.from is missing; add it",
    ),
    (
        GOOD + "    alerts:\n      maintenance:\n      - {from: 2026-03-01T22:00:00, to: 2026-03-02T22:00:00Z}\n",
        ":6: streams.machines.alerts.maintenance.0.from: '2026-03-01 22:00:00' is no moment; write one with its",
    ),
    (
        GOOD + "    alerts:\n      maintenance:\n      - {from: tonight, to: 2026-03-02T22:00:00Z}\n",
        ":6: streams.machines.alerts.maintenance.0.from: 'tonight' is no moment; write one with its zone",
    ),
    (
        GOOD + "    alerts:\n      maintenance:\n      - {from: 2026-03-02T22:00:00Z, to: 2026-03-02T22:00:00Z}\n",
        ":6: streams.machines.alerts.maintenance.0.to: it is not later than `from`; write the end of the window",
    ),
    (GOOD + "    alerts: {hysteresis: -1}\n", ":4: streams.machines.alerts.hysteresis is -1; it takes 0.0 or more"),
    (GOOD + "    alerts: {merge_points: true}\n", ":4: streams.machines.alerts.merge_points: True is no number"),
    (GOOD + "    alerts: {accept_after: null}\n", ":4: streams.machines.alerts.accept_after: None is no duration"),
    (
        GOOD + "    kind: features\n    model: {views: [{window: 8}]}\n",
        ":5: streams.machines.model.views: it needs `kind: series`: records of features are judged by one view",
    ),
    (
        GOOD + "    model: {architecture: vanilla, views: [{window: 8}]}\n",
        ":4: streams.machines.model.views: they need `architecture: default`; name a `network` for them instead",
    ),
    # Delays and views.
    (GOOD + "    alerts: {delay: -1}\n", ":4: streams.machines.alerts.delay is -1; it takes 0 or more"),
    (GOOD + "    alerts: {delay: 4097}\n", ":4: streams.machines.alerts.delay is 4097; it takes 4096 or less"),
    (GOOD + "    alerts: {delay: 1.5}\n", ":4: streams.machines.alerts.delay is 1.5; it takes a whole number"),
    (GOOD + "    alerts: {delay: yes}\n", ":4: streams.machines.alerts.delay: True is no number; write one"),
    (
        GOOD + "    model:\n      window: 8\n",
        ":5: streams.machines.model.window: it stands beside `model`, or in one of its `views`; move it there",
    ),
    (GOOD + "    model: {views: []}\n", ":4: streams.machines.model.views is empty; write at least one below it"),
    (GOOD + "    model: {views: 3}\n", ":4: streams.machines.model.views is 3; it takes a list"),
    (
        GOOD + "    model:\n      views:\n" + "        - window: 4\n" * 17,
        ":5: streams.machines.model.views lists 17; it takes 16 or fewer",
    ),
    *(
        (GOOD + f"    model:\n      views:\n        - window: 4\n        - {{{view}}}\n", f":7: {VIEW}{said}")
        for view, said in [
            ("judged: 2", "window is missing; add it"),
            ("window: 1", "window is 1; it takes 2 or more"),
            ("window: 4097", "window is 4097; it takes 4096 or less"),
            ("window: yes", "window: True is no number; write one"),
            ("window: 4, windw: 4", "windw is no setting; did you mean 'window'?"),
            ("window: 4, architecture: 3", "architecture is 3; it takes text: put quotes around it"),
            (
                "window: 4, inputs: value",
                "inputs is 'value'; it takes 'values', 'values and differences' or 'centred'; did",
            ),
            ("window: 4, judged: 0", "judged is 0; it takes 1 or more"),
            ("window: 4, judged: two", "judged is 'two'; it takes a whole number"),
            ("window: 4, measure: all", "measure is 'all'; it takes 'features' or 'whole'"),
            ("window: 4, power: 0", "power is 0; it takes more than 0"),
            ("window: 4, power: 101", "power is 101; it takes 100.0 or less"),
            ("window: 4, softness: -1", "softness is -1; it takes 0.0 or more"),
            ("window: 4, softness: yes", "softness: True is no number; write one"),
            ("window: 4, fade: quick", "fade is 'quick'; it takes a number"),
            ("window: 4, fade: [1]", "fade is [1]; it takes a number"),
            ("window: 4, fade: .inf", "fade is inf; it takes 100.0 or less"),
            ("window: 4, offset: 101", "offset is 101; it takes 100.0 or less"),
            ("window: 4, offset: -101", "offset is -101; it takes -100.0 or more"),
        ]
    ),
    # YAML that holds no configuration.
    ("a: [", ":1: not YAML: expected the node content, but found '<stream end>'"),
    (GOOD + "device: \x01cpu\n", ":4: not YAML: the character 0x1 may not stand here; take it out"),
    ("\x00", ":1: not YAML: the character 0x0 may not stand here"),
    (GOOD + "[a, b]: 1\n", ":4: a list or mapping is no key; write a name before the colon"),
    (GOOD + "? {a: 1}\n: 1\n", ":4: a list or mapping is no key; write a name before the colon"),
    (GOOD + "1: x\n", ":4: the key '1' is no text for YAML; put quotes around it"),
    (GOOD + "~: x\n", ":4: the key '~' is no text for YAML; put quotes around it"),
    ("streams:\n  on:\n    topic: t\n", ":2: the key 'on' in streams is no text for YAML; put quotes around it"),
    (GOOD + "    ? \n    : 1\n", ":4: the key before the colon is empty in streams.machines; write a name there"),
    ("streams: &a\n  m: *a\n", ":1: streams.m holds itself by an alias; write its values out"),
    (GOOD + "    features: &f [*f]\n", ":4: streams.machines.features.0 holds itself by an alias"),
    ("a: " + "[" * 5000, ":1: lists or keys are nested too deep"),
    (GOOD + "    time: 2024-13-45\n", ":4: '2024-13-45' is no timestamp; mend it, or put quotes around it"),
    (GOOD + "    window: " + "9" * 5000, ":4: '99999"),
    (GOOD + "    window: !!int x\n", ":4: 'x' is no int; mend it, or put quotes around it"),
    (
        GOOD + "    window: !!python/object:os.system x\n",
        ":4: not YAML: could not determine a constructor for the tag",
    ),
    (GOOD + "---\n" + GOOD, ":4: not YAML: but found another document"),
    ("streams:\n\tm: 1\n", ":2: not YAML: found character '\\t' that cannot start any token"),
    ("", ": holds no settings; write some with: offkey init --force"),
    ("# nothing\n", ": holds no settings"),
    ("- 1\n", ": holds no settings"),
]


@pytest.mark.parametrize(("text", "said"), MISTAKES, ids=[said[:40] for _, said in MISTAKES])
def test_a_mistake_is_one_clear_line(text: str, said: str, tmp_path: Path) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_settings(path)
    assert str(caught.value).startswith(f"{path}{said}")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < len(str(path)) + 250


def test_several_mistakes_are_several_lines(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(write(tmp_path, GOOD + "    kind: x\n    fetures: []\ndevice: tpu\n"))
    assert len(str(caught.value).splitlines()) == 3


def test_aliases_may_not_unfold_without_end(tmp_path: Path) -> None:
    text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    for n in range(1, 20):
        text += f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n"
    with pytest.raises(ConfigError, match=r"more than 100,000 values, aliases unfolded; write fewer"):
        load_settings(write(tmp_path, text + GOOD))


def test_aliases_and_merges_are_taken(tmp_path: Path) -> None:
    text = (
        GOOD.replace("machines:", "machines: &first")
        + "    hold_points: 9\n  other:\n    <<: *first\n    topic: o\n"
    )
    settings = load_settings(write(tmp_path, text))
    assert (settings.streams["other"].topic, settings.streams["other"].hold_points) == ("o", 9)


@pytest.mark.parametrize("mark", [b"\xef\xbb\xbf", b""])
def test_a_byte_order_mark_is_no_mistake(mark: bytes, tmp_path: Path) -> None:
    path = tmp_path / "offkey.yaml"
    path.write_bytes(mark + GOOD.replace("\n", "\r\n").encode())
    assert load_settings(path).streams["machines"].topic == "metrics"


def test_a_file_that_cannot_be_read_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: is not there; write one with: offkey init"):
        load_settings(tmp_path / "none.yaml")
    with pytest.raises(
        ConfigError, match=r"cannot be read \(Is a directory\); name a file that this user may read"
    ):
        load_settings(tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"a: 1\n\xff\xfe")
    with pytest.raises(ConfigError, match=r"binary\.yaml:2: not UTF-8 text .*; save it as UTF-8"):
        load_settings(tmp_path / "binary.yaml")


@hypothesis.settings(max_examples=300, deadline=None)
@given(st.data())
def test_whatever_a_file_holds_is_settings_or_a_line_for_each_mistake(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    template = files("pipeline").joinpath("template.yaml").read_text()
    first = data.draw(st.integers(0, len(template)))
    last = data.draw(st.integers(first, min(first + 12, len(template))))
    odd = st.text(st.sampled_from("\x00\t\n :-?[]{}&*!|>'\"%@#~<,.019eaf_\ud7ff\ufeff"), max_size=12)
    path = tmp_path_factory.mktemp("any") / "offkey.yaml"
    path.write_text(template[:first] + data.draw(odd) + template[last:], "utf-8")
    try:
        load_settings(path)
    except ConfigError as error:
        for line in str(error).splitlines():
            assert line.startswith(f"{path}:")
            assert line.isprintable()


def test_a_setting_knows_where_it_was_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFFKEY_STREAMS__MACHINES__HOLD_POINTS", "64")
    path = write(tmp_path, GOOD + "    model:\n      hidden: 3\n")
    settings = load_settings(path)
    assert settings.place_of("streams", "machines", "model") == f"{path}:4"
    assert settings.place_of("streams", "machines", "model", "seed") == f"{path}:4"
    assert settings.place_of("streams", "machines", "hold_points") == (
        "environment variable OFFKEY_STREAMS__MACHINES__HOLD_POINTS"
    )


@pytest.mark.parametrize(
    ("alerts", "seconds"),
    [("{}", 86_400), ("{accept_after: 6h}", 21_600), ("{accept_after: 90}", 90), ("{accept_after: never}", None)],
)
def test_a_level_is_accepted_after_a_day_or_as_is_said(tmp_path: Path, alerts: str, seconds: float | None) -> None:
    settings = load_settings(write(tmp_path, GOOD + f"    alerts: {alerts}\n"))
    assert settings.streams["machines"].alerts.accept_after == seconds


@pytest.mark.parametrize("alerts", ["{}", "{accept_after: never}", "{budget: 1 per day}"])
def test_records_of_features_accept_no_level(tmp_path: Path, alerts: str) -> None:
    load_settings(write(tmp_path, GOOD + f"    kind: features\n    alerts: {alerts}\n"))


def test_paths() -> None:
    assert split_path("cpu.load") == ("cpu", "load")
    assert split_path(r"cpu\.load.x") == ("cpu.load", "x")


def test_options_of_the_model_pass_through(tmp_path: Path) -> None:
    settings = load_settings(write(tmp_path, GOOD + "    model: {architecture: vanilla, seed: 3, hidden: 9}\n"))
    assert settings.streams["machines"].model.options == {"seed": 3, "hidden": 9}


def test_views_are_taken_key_by_key(tmp_path: Path) -> None:
    view = {
        "architecture": "vanilla",
        "window": 8,
        "inputs": "centred",
        "judged": 2,
        "measure": "whole",
        "power": 2.0,
        "softness": 0.0,
        "fade": 0.5,
        "offset": -0.5,
    }
    model = {"network": "sparse", "views": [view, {"window": 4}]}
    settings = load_settings(write(tmp_path, GOOD + f"    model: {json.dumps(model)}\n"))
    taken = settings.streams["machines"].model
    assert [each.model_dump(exclude_none=True) for each in taken.views or ()] == [view, {"window": 4}]
    assert taken.options == {"network": "sparse"}


@pytest.mark.parametrize("name", ["alert.schema.json", "config.schema.json"])
def test_the_shipped_schema_is_the_generated_one(name: str) -> None:
    shipped = files("pipeline").joinpath(name).read_text()
    assert shipped == text_of(generated()[name]), "run: make schemas"


def test_every_setting_is_described() -> None:
    schema = json.loads(files("pipeline").joinpath("config.schema.json").read_text())
    sections = [schema, *schema["$defs"].values()]
    silent = [
        name
        for section in sections
        for name, field in section["properties"].items()
        if not field.get("description")
    ]
    assert silent == []


def test_a_maintenance_window_is_read_with_its_zone(tmp_path: Path) -> None:
    window = "{series: 'db-*', from: 2026-03-01T22:00:00.5+01:00, to: '2026-03-01T22:00:00Z', note: disks}"
    settings = load_settings(write(tmp_path, f"{GOOD}    alerts:\n      maintenance:\n      - {window}\n"))
    (kept,) = settings.streams["machines"].alerts.maintenance
    assert (kept.series, kept.from_ms, kept.to_ms) == ("db-*", 1_772_398_800_500, 1_772_402_400_000)


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


def test_streams_are_chosen_once_each_in_the_order_asked_for(tmp_path: Path) -> None:
    settings = load_settings(write(tmp_path, GOOD + "  disks: {topic: disks}\n"))
    assert settings.chosen(None) == settings.chosen([]) == ["machines", "disks"]
    assert settings.chosen(["disks", "machines", "disks"]) == ["disks", "machines"]
    with pytest.raises(ConfigError, match="there is no stream 'machine'; did you mean 'machines'"):
        settings.chosen(["disks", "machine"])

"""Every mistake in a configuration is one line that names file, line, key and remedy."""

import json
from importlib.resources import files
from pathlib import Path

import pytest

from pipeline.config import Budget, load_settings, parse_budget, parse_duration, split_path
from pipeline.errors import ConfigError
from tests.schemas import generated, text_of

GOOD = "streams:\n  machines:\n    topic: metrics\n"


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "offkey.yaml"
    path.write_text(text)
    return path


MISTAKES = [
    (GOOD + "    kind: seris\n", "offkey.yaml:4: streams.machines.kind: Input should be 'series' or 'features'"),
    (
        GOOD + "    fetures: [a]\n",
        "offkey.yaml:4: streams.machines.fetures is no setting; did you mean 'features'?",
    ),
    (GOOD + "kafka:\n  bootstrap_server: x\n", "offkey.yaml:5: kafka.bootstrap_server is no setting; did you mean"),
    ("kafak: {}\n" + GOOD, "offkey.yaml:1: kafak is no setting; did you mean 'kafka'?"),
    (GOOD + "zzz: 1\n", "offkey.yaml:4: zzz is no setting; there are: device, kafka"),
    (GOOD + "    topic: b\n", "offkey.yaml:4: streams.machines.topic is there already, in line 3; keep one"),
    (
        GOOD + "    alerts: {budget: 3 a day}\n",
        "offkey.yaml:4: streams.machines.alerts.budget: '3 a day' is no budget",
    ),
    (GOOD + "    max_ahead: 5 parsecs\n", "'5 parsecs' is no duration; write for example 30s"),
    (GOOD + "    features: [a, a]\n", "feature 'a' is listed twice"),
    (GOOD + "    features: [ts]\n    time: ts\n", "'ts' is a feature and also the time or a series field"),
    (GOOD + "    features: []\n", "`features` is empty"),
    (GOOD + "    features: [a..b]\n", "'a..b' is no field: a name between dots is empty"),
    (GOOD + "    kind: features\n    missing: hold\n", "`missing: hold` needs `kind: series`"),
    (GOOD + "    kind: features\n    series: [host]\n", "`series` needs `kind: series`"),
    (GOOD + "    window: 1\n", "streams.machines.window: Input should be greater than or equal to 2"),
    (GOOD + "  others:\n    topic: metrics\n", "streams machines and others both read topic metrics"),
    (GOOD + "topics: {alerts: metrics}\n", "stream machines reads metrics, which offkey writes itself"),
    (GOOD + "storage: ftp://x\n", "`storage: ftp://x` is neither file:///folder nor s3://bucket/prefix"),
    ("streams:\n  'a b':\n    topic: t\n", "stream 'a b': a name has letters"),
    ("streams:\n  a: {}\n", "offkey.yaml:2: streams.a.topic is missing; add it"),
    ("kafka: {}\n", "streams is missing; add it"),
    ("streams: {}\n", "streams: Dictionary should have at least 1 item"),
    ("a: [", "offkey.yaml:1: not YAML"),
    ("", "holds no settings; write some with: offkey init --force"),
    ("- 1\n", "holds no settings"),
]


@pytest.mark.parametrize(("text", "said"), MISTAKES, ids=[said[:40] for _, said in MISTAKES])
def test_a_mistake_is_one_clear_line(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(write(tmp_path, text))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_several_mistakes_are_several_lines(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(write(tmp_path, GOOD + "    kind: x\n    fetures: []\ndevice: tpu\n"))
    assert len(str(caught.value).splitlines()) == 3


def test_a_file_that_is_not_there_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="write one with: offkey init"):
        load_settings(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_settings(tmp_path / "binary.yaml")


def test_the_environment_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFFKEY_KAFKA__BOOTSTRAP_SERVERS", "kafka:9092")
    monkeypatch.setenv("OFFKEY_STREAMS__MACHINES__WINDOW", "64")
    settings = load_settings(write(tmp_path, "kafka: {bootstrap_servers: 'x:1', group_id: g}\n" + GOOD))
    assert (settings.kafka.bootstrap_servers, settings.kafka.group_id) == ("kafka:9092", "g")
    assert settings.streams["machines"].window == 64
    assert settings.streams["machines"].topic == "metrics"


def test_a_mistake_in_the_environment_is_said_to_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFFKEY_METRICS__PORT", "many")
    with pytest.raises(ConfigError, match=r"environment variable OFFKEY_METRICS__PORT: metrics\.port"):
        load_settings(write(tmp_path, GOOD))


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("1 per day", Budget(1, per_s=86400)),
        ("3 per week", Budget(3, per_s=604800)),
        ("0.5 per 6 hours", Budget(0.5, per_s=21600)),
        ("1 in 1_000 records", Budget(1, per_records=1000)),
        ("2 per 10000 points", Budget(2, per_records=10000)),
    ],
)
def test_budgets(text: str, budget: Budget) -> None:
    assert parse_budget(text) == budget


@pytest.mark.parametrize(
    "text", ["0 per day", "one per day", "1 per", "1 per fortnight", "-1 per day", "1 per 0 records"]
)
def test_no_budgets(text: str) -> None:
    with pytest.raises(ValueError, match="is no budget"):
        parse_budget(text)


def test_a_budget_in_points() -> None:
    assert parse_budget("2 per day").points_per_incident(60_000) == 720
    assert parse_budget("1 per 1000 records").points_per_incident(60_000) == 1000


@pytest.mark.parametrize(("text", "seconds"), [(5, 5), ("1.5h", 5400), ("2 days", 172800), ("100ms", 0.1)])
def test_durations(text: str | float, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


def test_paths() -> None:
    assert split_path("cpu.load") == ("cpu", "load")
    assert split_path(r"cpu\.load.x") == ("cpu.load", "x")


def test_options_of_the_model_pass_through(tmp_path: Path) -> None:
    settings = load_settings(write(tmp_path, GOOD + "    model: {architecture: vanilla, seed: 3, hidden: 9}\n"))
    assert settings.streams["machines"].model.options == {"seed": 3, "hidden": 9}


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

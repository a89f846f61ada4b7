"""The configuration file: YAML, overridden by the environment, checked as a whole.

Every value can come from the environment as `OFFKEY_` and the path of its key with `__` between the parts:
`OFFKEY_KAFKA__BOOTSTRAP_SERVERS`. An unknown key is refused with the nearest one that there is, and each
error names the file, the line and the key. `config.schema.json` beside this module is generated from it.
"""

import difflib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from pipeline.errors import ConfigError

_UNITS_S = {"ms": 0.001, "s": 1, "second": 1, "m": 60, "min": 60, "minute": 60, "h": 3600, "hour": 3600}
_UNITS_S |= {"d": 86400, "day": 86400, "w": 604800, "week": 604800}
_NUMBER = r"(\d+(?:\.\d+)?)"


@dataclass(frozen=True)
class Budget:
    """False incidents that may be raised: so many in a time, or in a number of records."""

    incidents: float
    per_s: float | None = None
    per_records: float | None = None

    def points_per_incident(self, interval_ms: Any) -> Any:
        """Return how many points, `interval_ms` apart, stand for one incident; arrays are fine."""
        if self.per_records is not None:
            return self.per_records / self.incidents + 0 * interval_ms
        assert self.per_s is not None
        return self.per_s * 1000 / interval_ms / self.incidents


def parse_duration(text: str | float) -> float:
    """Return seconds: `90`, `90s`, `5 min`, `2h`, `1 day`.

    Raises:
        ValueError: it is none of these.
    """
    match = re.fullmatch(rf"{_NUMBER}\s*([a-z]*)", str(text).strip())
    unit = match[2] if match else ""
    seconds = _UNITS_S.get(unit or "s") or _UNITS_S.get(unit.removesuffix("s"))
    if match is None or seconds is None:
        raise ValueError(f"{text!r} is no duration; write for example 30s, 5 min, 2h or 1 day")
    return float(match[1]) * seconds


def parse_budget(text: str) -> Budget:
    """Return a budget: `1 per day`, `3 per week`, `1 per 6 hours`, `1 per 1000 records`.

    Raises:
        ValueError: it is none of these.
    """
    match = re.fullmatch(rf"{_NUMBER}\s*(?:per|in|/)\s*(.+)", str(text).strip())
    if match is None or float(match[1]) <= 0:
        raise ValueError(f"{text!r} is no budget; write for example '1 per week' or '1 per 1000 records'")
    incidents, rest = float(match[1]), match[2]
    records = re.fullmatch(rf"{_NUMBER}\s*(?:records|points)", rest.replace("_", ""))
    if records is not None and float(records[1]) > 0:
        return Budget(incidents, per_records=float(records[1]))
    try:
        per_s = parse_duration(rest if rest[0].isdigit() else f"1 {rest}")
    except ValueError:
        per_s = 0.0
    if per_s <= 0:
        raise ValueError(f"{text!r} is no budget; write for example '1 per week' or '1 per 1000 records'")
    return Budget(incidents, per_s=per_s)


def split_path(path: str) -> tuple[str, ...]:
    """Return the names along a dotted path; a literal dot is written with a backslash before it."""
    parts = [part.replace("\\.", ".").replace("\\\\", "\\") for part in re.split(r"(?<!\\)\.", path)]
    if not all(parts):
        raise ValueError(f"{path!r} is no field: a name between dots is empty")
    return tuple(parts)


def _checked_path(path: str) -> str:
    split_path(path)
    return path


def _checked_budget(text: str) -> str:
    parse_budget(text)
    return text


Seconds = Annotated[float, BeforeValidator(parse_duration), Field(json_schema_extra={"type": ["number", "string"]})]
FieldPath = Annotated[str, AfterValidator(_checked_path)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class KafkaSettings(Section):
    bootstrap_servers: str = "localhost:9092"
    """Addresses to find the cluster by, with commas between them."""
    group_id: str = "offkey"
    """Consumer group of the workers: those of one group share the partitions."""
    instance_id: str | None = None
    """A name that this process has again after a restart; it then keeps its partitions without a rebalance."""
    client_id: str = "offkey"
    """Name in the broker's logs and quotas."""
    delivery: Literal["at_least_once"] = "at_least_once"
    """Each alert is published; after a crash some are published twice, with equal ids."""
    connect_timeout: Seconds = 10
    """How long to wait for the cluster at the start."""
    session_timeout: Seconds = 10
    """How long a silent worker keeps its partitions."""
    max_poll_interval: Seconds = 300
    """How long one batch may take before the group gives the partitions to others."""
    max_poll_records: Annotated[int, Field(ge=1)] = 16_000
    """Most records of a batch."""
    fetch_min_bytes: Annotated[int, Field(ge=1)] = 1
    """Bytes that the broker gathers before it answers; 20000 saves CPU at thousands of records a second."""
    fetch_max_wait: Seconds = 0.1
    """How long the broker gathers at most."""
    delivery_timeout: Seconds = 30
    """How long an alert may take to be confirmed."""


class TopicSettings(Section):
    alerts: str = "offkey.alerts"
    """Where alerts are published."""
    dead_letters: str = "offkey.dead-letters"
    """Where records go that cannot be scored, bytes untouched, with the reason in headers."""


class MetricsSettings(Section):
    host: str = "127.0.0.1"
    """Address that `/metrics` listens on; 0.0.0.0 opens it to the network."""
    port: Annotated[int, Field(ge=0, le=65535)] = 9108
    """0 takes a free port and logs it."""


class WorkerSettings(Section):
    checkpoint_every: Seconds = 10
    """How often state is written to storage: at most so much is replayed after a crash."""
    retry_deadline: Seconds = 60
    """How long broker or storage may be away before the worker ends."""
    max_rejects_in_a_row: Annotated[int, Field(ge=1)] = 10_000
    """So many rejects without a good record stop the worker: the configuration is probably wrong."""


class ModelSettings(BaseModel):
    """An architecture; every other key is an option of it or of the training, such as `seed` or `max_seconds`."""

    model_config = ConfigDict(extra="allow", frozen=True, use_attribute_docstrings=True)
    architecture: str = "recurrent"
    """vanilla or recurrent."""

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.__pydantic_extra__ or {})


class AlertSettings(Section):
    budget: Annotated[str, AfterValidator(_checked_budget)] = "1 per week"
    """False incidents that one series may raise (for features: the stream): `1 per day`, `1 per 1000 records`."""
    quiet_points: Annotated[int, Field(ge=1)] = 5
    """Points below the threshold after which an incident is resolved."""


class StreamSettings(Section):
    topic: str
    """Topic to read."""
    kind: Literal["series", "features"] = "series"
    """series: points of time series, judged in windows. features: records judged by themselves."""
    format: Literal["json"] = "json"
    """What a record's value holds."""
    series: list[FieldPath] | None = None
    """Fields that name a record's series; by default the record's key does."""
    time: FieldPath | None = None
    """Field of the event time; by default the record's Kafka timestamp."""
    time_unit: Literal["ms", "s", "us", "ns", "iso8601"] = "ms"
    """Unit of that field since 1970, or iso8601 for text; a text without a zone is UTC."""
    max_ahead: Seconds = 3600
    """An event time further ahead of the Kafka timestamp makes a record a dead letter."""
    features: list[FieldPath] | None = None
    """Fields to judge, `cpu.load` for nested ones; by default every number found in a sample at training."""
    window: Annotated[int, Field(ge=2, le=4096)] = 32
    """Points that a point is judged with, itself included."""
    missing: Literal["reject", "hold"] = "reject"
    """A null or absent feature rejects the record, or takes the series' last value for some points."""
    hold_points: Annotated[int, Field(ge=1)] = 5
    """For how many points in a row, with `missing: hold`; a held point never raises an alert."""
    max_record_bytes: Annotated[int, Field(ge=1)] = 1_048_576
    """A larger value is rejected."""
    model: ModelSettings = ModelSettings()
    """The autoencoder."""
    alerts: AlertSettings = AlertSettings()
    """When to alert."""
    start: Literal["earliest", "latest", "fail"] = "earliest"
    """Where to begin at the first start, and when committed offsets have expired."""

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.kind == "features" and self.missing == "hold":
            raise ValueError("`missing: hold` needs `kind: series`: a record of features has no last value")
        if self.kind == "features" and self.series is not None:
            raise ValueError("`series` needs `kind: series`: records of features belong to no series")
        names = self.features or []
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            raise ValueError(f"feature {doubled[0]!r} is listed twice in `features`")
        taken = {*(self.series or []), *([self.time] if self.time else [])} & set(names)
        if taken:
            raise ValueError(f"{sorted(taken)[0]!r} is a feature and also the time or a series field; take one out")
        if self.features == []:
            raise ValueError("`features` is empty; name some, or leave it out to take every number")
        return self


class Settings(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix="OFFKEY_",
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
    )
    kafka: KafkaSettings = KafkaSettings()
    """The cluster."""
    storage: str = "file:///var/lib/offkey"
    """Where models and checkpoints are kept: file:///folder or s3://bucket/prefix."""
    topics: TopicSettings = TopicSettings()
    """Topics that offkey writes."""
    streams: Annotated[dict[str, StreamSettings], Field(min_length=1)]
    """What to watch, by a name of your choice."""
    metrics: MetricsSettings = MetricsSettings()
    """The Prometheus endpoint of a worker."""
    worker: WorkerSettings = WorkerSettings()
    """How the worker goes about it."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train and score; auto takes a GPU where there is one."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return EnvSettingsSource(settings_cls), init_settings

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if not re.match(r"(file:///|s3://.)", self.storage):
            raise ValueError(f"`storage: {self.storage}` is neither file:///folder nor s3://bucket/prefix")
        owner: dict[str, str] = {}
        for name, stream in self.streams.items():
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
                raise ValueError(f"stream {name!r}: a name has letters, digits, dots, dashes and underscores only")
            if stream.topic in owner:
                raise ValueError(f"streams {owner[stream.topic]} and {name} both read topic {stream.topic}")
            if stream.topic in (self.topics.alerts, self.topics.dead_letters):
                raise ValueError(f"stream {name} reads {stream.topic}, which offkey writes itself")
            owner[stream.topic] = name
        return self


def load_settings(path: Path) -> Settings:
    """Read and check a configuration file.

    Raises:
        ConfigError: one line for each mistake.
    """
    try:
        text = path.read_text()
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read ({error.strerror}); write one with: offkey init {path}"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text ({error})") from error
    try:
        node = yaml.compose(text, yaml.SafeLoader)
        lines = dict(_lines(node, ())) if node is not None else {}
        values = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{path}:{line}: not YAML: {error.problem}") from error
    except _DoubledKey as error:
        raise ConfigError(f"{path}:{error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: holds no settings; write some with: offkey init --force {path}")
    try:
        return Settings(**values)
    except ValidationError as error:
        mistakes = [_explained(path, lines, mistake) for mistake in error.errors(include_url=False)]
        raise ConfigError("\n".join(mistakes)) from error


class _DoubledKey(Exception):
    pass


def _lines(node: yaml.Node, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], int]]:
    """Yield each key's path and line."""
    yield path, node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        first: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if key.value in first:
                where = ".".join((*path, key.value))
                raise _DoubledKey(f"{line}: {where} is there already, in line {first[key.value]}; keep one")
            first[key.value] = line
            yield from _lines(value, (*path, key.value))
            yield (*path, key.value), line
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from _lines(item, (*path, str(index)))


def _explained(path: Path, lines: dict[tuple[str, ...], int], mistake: Any) -> str:
    where = tuple(str(part) for part in mistake["loc"])
    line = next((lines[where[:n]] for n in range(len(where), -1, -1) if where[:n] in lines), None)
    place = f"{path}:{line}" if line else str(path)
    key = ".".join(where)
    variable = "_".join(["OFFKEY", "__".join(where)]).upper()
    if where not in lines and variable in (name.upper() for name in os.environ):
        place = f"environment variable {variable}"
    if mistake["type"] == "extra_forbidden":
        known = _known_keys(where[:-1])
        near = difflib.get_close_matches(where[-1], known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known)}"
        return f"{place}: {key} is no setting; {hint}"
    if mistake["type"] == "missing":
        return f"{place}: {key} is missing; add it"
    text = str(mistake["msg"]).removeprefix("Value error, ")
    return f"{place}: {key}: {text}" if key else f"{place}: {text}"


def _known_keys(where: tuple[str, ...]) -> list[str]:
    model: Any = Settings
    for part in where:
        annotation = StreamSettings if model is dict else model.model_fields[part].annotation
        model = dict if part == "streams" and model is Settings else annotation
    return sorted(model.model_fields)
